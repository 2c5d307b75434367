//! `create`, `train`, `add`, and `build`, which is all three.

use crate::args::{Add, Build, Common, Create, Target, Train, Training};
use crate::console::{self, Console, count, rounded};
use crate::failure::Failure;
use crate::input::{BatchNames, Input, check_dim, read_rows};
use crate::progress::Meter;
use serde_json::{Value, json};
use std::fs;
use std::ops::Range;
use std::time::Instant;
use vellum::files::{Element, VectorReader};
use vellum::{Builder, Encoding, Error, IndexSpec, KeptRows, Metric, Rows, Store, TrainParams, WriteTxn};

pub(crate) fn create(args: &Create, common: &Common, console: &Console) -> Result<(), Failure> {
    let Target { store: path, index } = &args.target;
    let spec = args.kind.spec(args.dim).with_keys(args.keyed);
    making(&args.target, common.builder()?, |store| {
        let txn = store.begin_write()?;
        txn.create_index(index, &spec)?;
        Ok(txn.commit()?)
    })?;
    console.say(format_args!(
        "created index `{index}` ({spec}, {}, {} components) in {}",
        spec.metric(),
        spec.dim(),
        path.display()
    ))?;
    console.json(|| json!({"index": index, "spec": spec.to_string(), "metric": spec.metric().to_string(), "dim": spec.dim()}))
}

pub(crate) fn build(args: &Build, common: &Common, console: &Console) -> Result<(), Failure> {
    let Target { index, .. } = &args.target;
    let mut input = Input::open(&args.data, &args.names)?;
    let keyed = args.names.keys.is_some();
    let spec = fitted(args.kind.spec(input.vectors.dim()).with_keys(keyed), input.vectors.element());
    // What it chooses suits the rows there are.
    let spec = spec.with_expected_rows(input.vectors.rows());
    let mut stages = Stages::default();
    let training = within(args.memory, &args.training, &spec)?;
    let store = making(&args.target, builder(args.memory, common)?, |store| {
        refuse_existing(store, index)?;
        let sample = sample(&mut input.vectors, &spec, &training, &mut stages, store, console)?;
        let mut start = Instant::now();
        let txn = store.begin_write()?;
        txn.create_index(index, &spec)?;
        train_on(&txn, index, sample.as_deref(), spec.dim(), &training, console)?;
        let stage = if sample.is_some() { "train" } else { "create" };
        if keyed {
            // Bulk loads know no keys: creating, training and adding are one transaction.
            stages.done(stage, start, store)?;
            start = Instant::now();
            input.seek(0)?;
            add_batches(&txn, index, &mut input, console)?;
            txn.commit()?;
            return stages.done("add", start, store);
        }
        txn.commit()?;
        stages.done(stage, start, store)
    })?;
    if !keyed {
        let start = Instant::now();
        load(&store, index, &mut input, console)?;
        stages.done("add", start, &store)?;
    }
    if !args.no_compact {
        let start = Instant::now();
        // The vectors are in: a Ctrl-C only skips it.
        match console.watch(|observer| store.compact_with(observer)) {
            Ok(_) | Err(Error::Cancelled) => {}
            Err(error) => return Err(error.into()),
        }
        stages.done("compact", start, &store)?;
    }
    let rows = store.begin_read()?.index(index)?.len();
    console.say(stages.table())?;
    console.say(format_args!("\n{} vectors of {} components in `{index}`", count(rows), spec.dim()))?;
    console.json(|| json!({"index": index, "rows": rows, "dim": spec.dim(), "stages": stages.json()}))
}

/// How much of the memory for building goes where. A quarter is the training sample, which training holds twice; a
/// sixteenth are the vectors of a bulk load's transaction, which takes about three times as much in all.
const SAMPLE_SHARE: usize = 4;
const CACHE_SHARE: usize = 4;
const LOAD_SHARE: usize = 16;
/// Rows that training looks at for each list.
const ROWS_A_LIST: usize = 256;

fn builder(memory: Option<usize>, common: &Common) -> Result<Builder, Failure> {
    let builder = common.builder()?;
    let Some(memory) = memory else { return Ok(builder) };
    let builder = builder.load_bytes(memory / LOAD_SHARE);
    Ok(if common.cache_bytes.is_some() { builder } else { builder.cache_bytes(memory / CACHE_SHARE) })
}

/// The training that fits the memory: a sample of no more rows than do.
fn within(memory: Option<usize>, training: &Training, spec: &IndexSpec) -> Result<Training, Failure> {
    let automatic = || spec.training_rows().filter(|_| spec.is_auto()).map(|rows| rows.div_ceil(ROWS_A_LIST));
    let nlist = spec.nlist().or_else(automatic);
    let (Some(memory), Some(nlist)) = (memory, nlist) else { return Ok(training.clone()) };
    let row_bytes = 4 * spec.dim();
    let most = memory / SAMPLE_SHARE / row_bytes;
    if most < nlist {
        let least = nlist.saturating_mul(row_bytes).saturating_mul(SAMPLE_SHARE);
        return Err(Failure::Usage(format!(
            "--memory: {nlist} lists are trained on as many vectors or more, which takes {} bytes",
            console::count(least as u64)
        )));
    }
    let wanted = training.train_size.or(spec.training_rows()).unwrap_or(nlist);
    Ok(Training { train_size: Some(wanted.min(most)), ..training.clone() })
}

/// Where the specification leaves open which rows to keep, those of a file of bytes are kept as such: exactly, and in a
/// fifth of what the default takes. Not under cosine, which scales them.
fn fitted(spec: IndexSpec, element: Element) -> IndexSpec {
    let open = spec.encoding() == Encoding::Nibble && spec.kept_rows().is_none();
    match open && element == Element::U8 && spec.metric() != Metric::Cosine {
        true => spec.with_kept_rows(KeptRows::U8),
        false => spec,
    }
}

pub(crate) fn train(args: &Train, common: &Common, console: &Console) -> Result<(), Failure> {
    let Target { store: path, index } = &args.target;
    let store = common.builder()?.open(path)?;
    let mut stages = Stages::default();
    let (spec, rows) = {
        let reader = store.begin_read()?.index(index)?;
        (reader.spec().clone(), reader.len())
    };
    let sample = match &args.data {
        None => None,
        Some(data) => {
            let mut vectors = VectorReader::open(data)?;
            check_dim(data, vectors.dim(), spec.dim())?;
            sample(&mut vectors, &spec, &args.training, &mut stages, &store, console)?
        }
    };
    let start = Instant::now();
    let txn = store.begin_write()?;
    match &args.data {
        Some(_) => train_on(&txn, index, sample.as_deref(), spec.dim(), &args.training, console)?,
        None => {
            let params =
                TrainParams { sample_rows: args.training.train_size, ..params(&args.training, &spec)? };
            let mut writer = txn.index(index)?;
            console.watch(|observer| writer.train_stored(&params, observer))?;
        }
    }
    txn.commit()?;
    stages.done("train", start, &store)?;
    let nlist = store.begin_read()?.index(index)?.nlist();
    console.say(stages.table())?;
    console.say(format_args!("\n{} lists, {} vectors in `{index}`", count(nlist as u64), count(rows)))?;
    console.json(|| json!({"index": index, "nlist": nlist, "rows": rows, "stages": stages.json()}))
}

pub(crate) fn add(args: &Add, common: &Common, console: &Console) -> Result<(), Failure> {
    let Target { store: path, index } = &args.target;
    let store = common.builder()?.open(path)?;
    let Some(data) = &args.data else {
        let rows = store.discard_load(index)?;
        console.say(format_args!("discarded {} rows of an unfinished load", count(rows)))?;
        return console.json(|| json!({"index": index, "discarded": rows}));
    };
    let mut input = Input::open(data, &args.names)?;
    let mut stages = Stages::default();
    let start = Instant::now();
    let unfinished = match store.begin_read()?.index(index) {
        Ok(reader) => {
            check_dim(data, input.vectors.dim(), reader.dim())?;
            if args.bulk && !reader.is_empty() {
                let rows = count(reader.len());
                return Err(Failure::Usage(format!(
                    "--bulk needs an empty index, and `{index}` has {rows} vectors: leave it out"
                )));
            }
            None
        }
        Err(error @ Error::Unfinished { .. }) => Some(error),
        Err(error) => return Err(error.into()),
    };
    match (unfinished, args.resume) {
        (Some(error), false) => return Err(error.into()),
        (None, true) => {
            return Err(Failure::Usage(format!(
                "index `{index}` has no unfinished load: leave out --resume"
            )));
        }
        _ => {}
    }
    let ids = match args.bulk || args.resume {
        true => load(&store, index, &mut input, console)?,
        false => add_at_once(&store, index, &mut input, console)?,
    };
    stages.done("add", start, &store)?;
    let rows = store.begin_read()?.index(index)?.len();
    console.say(stages.table())?;
    let span = ids.clone().map_or(String::new(), |ids| format!(", ids {} to {}", ids.start, ids.end - 1));
    console.say(format_args!(
        "\nadded {} rows{span}; `{index}` has {} vectors",
        count(input.vectors.rows()),
        count(rows)
    ))?;
    console.json(|| {
        json!({
            "index": index,
            "added": input.vectors.rows(),
            "first_id": ids.map(|ids| ids.start),
            "rows": rows,
            "stages": stages.json(),
        })
    })
}

/// Opens or creates the store and lets `make` put the first thing into it. If that fails, a file that was
/// not there before is not there afterwards.
fn making(
    target: &Target,
    builder: Builder,
    make: impl FnOnce(&Store) -> Result<(), Failure>,
) -> Result<Store, Failure> {
    let existed = target.store.exists();
    let store = builder.open_or_create(&target.store)?;
    match make(&store) {
        Ok(()) => Ok(store),
        Err(failure) => {
            drop(store);
            if !existed {
                // The failure to report is the first one.
                let _ = fs::remove_file(&target.store);
            }
            Err(failure)
        }
    }
}

/// An index that is there, finished or not, is not built again.
fn refuse_existing(store: &Store, index: &str) -> Result<(), Failure> {
    match store.begin_read()?.index(index) {
        Err(Error::UnknownIndex { .. }) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => Err(Error::IndexExists { name: index.into() }.into()),
    }
}

/// The rows to train on, if the index is one that is trained.
fn sample(
    vectors: &mut VectorReader,
    spec: &IndexSpec,
    training: &Training,
    stages: &mut Stages,
    store: &Store,
    console: &Console,
) -> Result<Option<Vec<f32>>, Failure> {
    let Some(most) = spec.training_rows() else {
        return Ok(None);
    };
    let start = Instant::now();
    let rows = training.train_size.unwrap_or(most);
    let sample = console.watch(|observer| vectors.sample(rows, training.seed, observer))?;
    stages.done("sample", start, store)?;
    Ok(Some(sample))
}

fn train_on(
    txn: &WriteTxn,
    index: &str,
    sample: Option<&[f32]>,
    dim: usize,
    training: &Training,
    console: &Console,
) -> Result<(), Failure> {
    let mut writer = txn.index(index)?;
    let params = params(training, writer.spec())?;
    if let Some(sample) = sample {
        let rows = Rows::new(sample, dim)?;
        console.watch(|observer| writer.train(rows, &params, observer))?;
    }
    Ok(())
}

fn params(training: &Training, spec: &IndexSpec) -> Result<TrainParams, Failure> {
    let mut params = TrainParams::default();
    let clustering = &mut params.clustering;
    clustering.seed = training.seed;
    clustering.niter = training.niter.unwrap_or(clustering.niter);
    if let (Some(rows), Some(nlist)) = (training.train_size, spec.nlist()) {
        // Whoever asks for more rows than usual wants them used.
        clustering.max_points_per_centroid = clustering.max_points_per_centroid.max(rows.div_ceil(nlist));
    }
    clustering.frozen_centroids = training.frozen;
    params.initial =
        training.initial_centroids.as_deref().map(|path| read_rows(path, spec.dim())).transpose()?;
    Ok(params)
}

/// Adds all rows in one transaction; the ids given if they were assigned.
fn add_at_once(
    store: &Store,
    index: &str,
    input: &mut Input,
    console: &Console,
) -> Result<Option<Range<u64>>, Failure> {
    let txn = store.begin_write()?;
    let given = add_batches(&txn, index, input, console)?;
    txn.commit()?;
    Ok(given)
}

/// The same within a transaction.
fn add_batches(
    txn: &WriteTxn,
    index: &str,
    input: &mut Input,
    console: &Console,
) -> Result<Option<Range<u64>>, Failure> {
    let mut meter = Meter::new(console);
    let total = input.vectors.rows();
    let mut given = None;
    let mut writer = txn.index(index)?;
    while let Some(batch) = input.next()? {
        meter.step("add", batch.first, total)?;
        let rows = Rows::new(&batch.vectors, input.vectors.dim())?;
        match &batch.names {
            BatchNames::Assigned => writer.add(rows).map(|ids| extend(&mut given, ids)),
            BatchNames::Ids(ids) => writer.add_with_ids(ids, rows),
            BatchNames::Keys(keys) => writer.add_with_keys(keys, rows).map(drop),
        }
        .map_err(|error| error.counted_from(batch.first as usize))?;
    }
    meter.step("commit", total, total)?;
    Ok(given)
}

/// Begins or goes on with a bulk load of all rows; the ids given if they were assigned.
fn load(
    store: &Store,
    index: &str,
    input: &mut Input,
    console: &Console,
) -> Result<Option<Range<u64>>, Failure> {
    load_rows(store, index, input, console).map_err(|failure| {
        match (store.begin_read().and_then(|txn| txn.index(index)), failure) {
            (Err(Error::Unfinished { rows, .. }), cause) => {
                Failure::HalfLoaded { cause: Box::new(cause), rows, data: input.vectors.path().into() }
            }
            (_, Failure::Cancelled(_)) => {
                Failure::Cancelled(format!("nothing was loaded into index `{index}`"))
            }
            (_, failure) => failure,
        }
    })
}

fn load_rows(
    store: &Store,
    index: &str,
    input: &mut Input,
    console: &Console,
) -> Result<Option<Range<u64>>, Failure> {
    let mut meter = Meter::new(console);
    let total = input.vectors.rows();
    let mut given = None;
    let mut load = store.bulk_load(index)?;
    input.seek(load.rows_done())?;
    while let Some(batch) = input.next()? {
        meter.step("add", batch.first, total)?;
        let rows = Rows::new(&batch.vectors, input.vectors.dim())?;
        match &batch.names {
            BatchNames::Ids(ids) => load.add_with_ids(ids, rows)?,
            BatchNames::Assigned => extend(&mut given, load.add(rows)?),
            BatchNames::Keys(_) => return Err(Failure::Usage("a bulk load knows no keys".into())),
        }
    }
    meter.step("commit", total, total)?;
    load.finish()?;
    Ok(given)
}

fn extend(given: &mut Option<Range<u64>>, ids: Range<u64>) {
    match given {
        Some(given) => given.end = ids.end,
        None if ids.is_empty() => {}
        None => *given = Some(ids),
    }
}

/// How long each stage took, and how large the file was after it.
#[derive(Debug, Default)]
struct Stages(Vec<(&'static str, f64, u64)>);

impl Stages {
    fn done(&mut self, stage: &'static str, start: Instant, store: &Store) -> Result<(), Failure> {
        self.0.push((stage, start.elapsed().as_secs_f64(), store.stats().file_bytes));
        Ok(())
    }

    fn table(&self) -> String {
        let row = |(stage, seconds, bytes): &(&str, f64, u64)| {
            [stage.to_string(), format!("{seconds:.3}"), count(*bytes)]
        };
        console::table(["stage", "seconds", "file bytes"], &self.0.iter().map(row).collect::<Vec<_>>())
    }

    fn json(&self) -> Value {
        let stage = |(stage, seconds, bytes): &(&str, f64, u64)| json!({"stage": stage, "seconds": rounded(*seconds, 6), "file_bytes": bytes});
        self.0.iter().map(stage).collect()
    }
}
