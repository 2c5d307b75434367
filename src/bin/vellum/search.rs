//! `search`: the nearest vectors of queries, printed or written to files.

use crate::args::{Common, Search};
use crate::console::{self, Console, count, hex, rounded, shown_key};
use crate::failure::Failure;
use crate::input::{batch_rows, open_rows};
use crate::progress::Meter;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use vellum::files::NpyWriter;
use vellum::{IndexReader, Metric, Neighbor, Rerank, Rows, SearchParams};

pub(crate) fn search(args: &Search, common: &Common, console: &Console) -> Result<(), Failure> {
    let store = common.builder()?.open(&args.target.store)?;
    let reader = store.begin_read()?.index(&args.target.index)?;
    let params = params(args.nprobe, args.rerank, args.max_codes);
    let params = args.target_recall.into_iter().fold(params, SearchParams::target_recall);
    let mut queries = open_rows(&args.queries, reader.dim())?;
    let mut output = Output::new(args, console)?;
    let mut meter = Meter::new(console);
    let mut spent = Duration::ZERO;
    loop {
        meter.step("search", queries.position(), queries.rows())?;
        let Some(batch) = queries.next_batch(batch_rows(queries.dim()))? else {
            break;
        };
        let start = Instant::now();
        let found = reader.search_batch(Rows::new(&batch, queries.dim())?, args.k, &params)?;
        spent += start.elapsed();
        output.take(found)?;
    }
    drop(meter);
    let results = output.finish()?;
    let (queries, seconds) = (queries.rows(), spent.as_secs_f64());
    let qps = queries as f64 / seconds;
    let results = named(&reader, results)?;
    if !results.is_empty() {
        console.say(listing(&results, reader.metric()))?;
    }
    console.say(format_args!(
        "{} queries in {}, {} a second",
        count(queries),
        console::seconds(seconds),
        count(qps as u64)
    ))?;
    console.json(|| {
        json!({
            "queries": queries,
            "k": args.k,
            "seconds": rounded(seconds, 6),
            "qps": rounded(qps, 1),
            "results": results.iter().map(|found| neighbors(found)).collect::<Value>(),
        })
    })
}

pub(crate) fn params(
    nprobe: Option<usize>,
    rerank: Option<Rerank>,
    max_codes: Option<usize>,
) -> SearchParams {
    let mut params = SearchParams::new();
    if let Some(nprobe) = nprobe {
        params = params.nprobe(nprobe);
    }
    if let Some(rerank) = rerank {
        params = params.rerank(rerank);
    }
    if let Some(max_codes) = max_codes {
        params = params.max_codes(max_codes);
    }
    params
}

/// Where answers go: to files, and the first of them to the screen.
struct Output {
    ids: Option<NpyWriter<i64>>,
    distances: Option<NpyWriter<f32>>,
    k: usize,
    /// How many queries' answers are printed.
    show: usize,
    shown: Vec<Vec<Neighbor>>,
}

impl Output {
    fn new(args: &Search, console: &Console) -> Result<Self, Failure> {
        if args.out_ids.is_some() && args.out_ids == args.out_distances {
            return Err(Failure::Usage("--out-ids and --out-distances name the same file".into()));
        }
        let to_files = args.out_ids.is_some() || args.out_distances.is_some();
        let show = match console.is_json() {
            true if to_files => 0,
            true => usize::MAX,
            false => args.show,
        };
        Ok(Output {
            ids: args.out_ids.as_ref().map(|path| NpyWriter::table(path, args.k)).transpose()?,
            distances: args.out_distances.as_ref().map(|path| NpyWriter::table(path, args.k)).transpose()?,
            k: args.k,
            show,
            shown: Vec::new(),
        })
    }

    fn take(&mut self, found: Vec<Vec<Neighbor>>) -> Result<(), Failure> {
        if let Some(file) = &mut self.ids {
            for found in &found {
                file.append(&padded(found, self.k, -1, |neighbor| signed(neighbor.id))?)?;
            }
        }
        if let Some(file) = &mut self.distances {
            for found in &found {
                file.append(&padded(found, self.k, f32::NAN, |neighbor| Ok(neighbor.distance))?)?;
            }
        }
        self.shown.extend(found.into_iter().take(self.show - self.shown.len()));
        Ok(())
    }

    /// Completes the files; the answers to print.
    fn finish(self) -> Result<Vec<Vec<Neighbor>>, Failure> {
        self.ids.map(NpyWriter::finish).transpose()?;
        self.distances.map(NpyWriter::finish).transpose()?;
        Ok(self.shown)
    }
}

/// `k` values, the last of them `pad` where fewer were found.
fn padded<T: Copy>(
    found: &[Neighbor],
    k: usize,
    pad: T,
    value: impl Fn(&Neighbor) -> Result<T, Failure>,
) -> Result<Vec<T>, Failure> {
    let mut row = found.iter().map(value).collect::<Result<Vec<T>, Failure>>()?;
    row.resize(k, pad);
    Ok(row)
}

fn signed(id: u64) -> Result<i64, Failure> {
    i64::try_from(id).map_err(|_| {
        Failure::message(format!("id {id} does not fit the int64 of an id file; print with --json instead"))
    })
}

/// A neighbour and, in an index of keys, its key.
type Named = (Neighbor, Option<Vec<u8>>);

fn named(reader: &IndexReader<'_>, results: Vec<Vec<Neighbor>>) -> Result<Vec<Vec<Named>>, Failure> {
    let keyed = reader.spec().keys();
    let name = |neighbor: Neighbor| -> Result<Named, Failure> {
        Ok((neighbor, if keyed { reader.key(neighbor.id)? } else { None }))
    };
    results.into_iter().map(|found| found.into_iter().map(name).collect()).collect()
}

fn listing(results: &[Vec<Named>], metric: Metric) -> String {
    let mut rows = Vec::new();
    for (query, found) in results.iter().enumerate() {
        for (rank, (neighbor, key)) in found.iter().enumerate() {
            rows.push([
                if rank == 0 { query.to_string() } else { String::new() },
                (rank + 1).to_string(),
                key.as_deref().map_or_else(|| neighbor.id.to_string(), shown_key),
                neighbor.distance.to_string(),
            ]);
        }
        if found.is_empty() {
            rows.push([query.to_string(), String::new(), "none found".into(), String::new()]);
        }
    }
    let distance = if metric.is_similarity() { "similarity" } else { "distance" };
    let keyed = results.iter().flatten().any(|(_, key)| key.is_some());
    console::table(["query", "rank", if keyed { "key" } else { "id" }, distance], &rows) + "\n"
}

fn neighbors(found: &[Named]) -> Value {
    let value = |(neighbor, key): &Named| {
        let mut value = json!({"id": neighbor.id, "distance": neighbor.distance});
        match key.as_deref().map(|key| (std::str::from_utf8(key), key)) {
            None => {}
            Some((Ok(text), _)) => value["key"] = text.into(),
            Some((Err(_), bytes)) => value["key_hex"] = hex(bytes).into(),
        }
        value
    };
    found.iter().map(value).collect()
}
