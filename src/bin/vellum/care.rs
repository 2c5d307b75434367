//! `repair`, `drop`, `rename`, `compact`, `backup` and `export`: looking after a store.

use crate::args::{Backup, Calibrate, Common, Export, Rename, StoreOnly, Target};
use crate::console::shown_key;
use crate::console::{self, Console, count};
use crate::failure::Failure;
use crate::input::{batch_rows, read_rows};
use crate::progress::Meter;
use serde_json::json;
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;
use vellum::files::NpyWriter;
use vellum::{CalibrateParams, IndexReader, Rows};

pub(crate) fn repair(args: &Target, common: &Common, console: &Console) -> Result<(), Failure> {
    let store = common.builder()?.open(&args.store)?;
    let txn = store.begin_write()?;
    let report = console.watch(|observer| txn.damaged_index(&args.index)?.repair(observer))?;
    txn.commit()?;
    let verified = console.watch(|observer| store.begin_read()?.verify(&args.index, observer))?;
    let facts = [
        ("vectors in the index", report.rows),
        ("vectors lost", report.lost_ids.len() as u64),
        ("entries without an id, dropped", report.unnamed_entries),
        ("codes that no vector can be made of, dropped", report.undecodable_rows),
        ("blocks that could not be read", report.lost_blocks),
        ("lists put together anew", report.rebuilt_lists),
        ("second entries made anew", report.spilled_again),
        ("kept vectors decoded from codes", report.decoded_rows),
        ("lost keys replaced by ids", report.made_keys),
        ("trees made anew", report.rebuilt_tree.into()),
        ("parts beside the model that were lost", report.lost_sections),
        ("problems left", verified.problem_count),
    ];
    let rows: Vec<_> = facts.iter().map(|(fact, number)| [fact.to_string(), count(*number)]).collect();
    console.say(console::table(["", &args.index], &rows))?;
    if let [first, ..] = report.lost_ids[..] {
        console.say(format_args!("lost ids: {first} and so on; all are listed with --json"))?;
    }
    console.json(|| {
        json!({
            "index": args.index,
            "rows": report.rows,
            "lost_ids": report.lost_ids,
            "unnamed_entries": report.unnamed_entries,
            "undecodable_rows": report.undecodable_rows,
            "lost_blocks": report.lost_blocks,
            "rebuilt_lists": report.rebuilt_lists,
            "spilled_again": report.spilled_again,
            "decoded_rows": report.decoded_rows,
            "made_keys": report.made_keys,
            "rebuilt_tree": report.rebuilt_tree,
            "lost_sections": report.lost_sections,
            "problems": verified.problem_count,
        })
    })?;
    match verified.problem_count {
        0 => Ok(()),
        count => Err(Failure::Problems { count, index: args.index.clone() }),
    }
}

pub(crate) fn calibrate(args: &Calibrate, common: &Common, console: &Console) -> Result<(), Failure> {
    let store = common.builder()?.open(&args.target.store)?;
    let reader = store.begin_read()?.index(&args.target.index)?;
    let params = CalibrateParams { queries: args.most, ks: args.k.clone(), ..CalibrateParams::default() };
    let measured = match &args.queries {
        None => console.watch(|observer| reader.calibrate(&params, observer))?,
        Some(path) => {
            let queries = read_rows(path, reader.dim())?;
            let queries = Rows::new(&queries, reader.dim())?;
            console.watch(|observer| reader.calibrate_with(queries, &params, observer))?
        }
    };
    let txn = store.begin_write()?;
    txn.index(&args.target.index)?.set_calibration(&measured)?;
    txn.commit()?;
    let mut points = Vec::new();
    for k in measured.ks() {
        for recall in [0.8, 0.9, 0.95, 0.99] {
            points.push((k, recall, measured.settings(k, recall, reader.len()).ok()));
        }
    }
    let shown = |number: Option<usize>| number.map_or("-".into(), |number| count(number as u64));
    let row = |(k, recall, settings): &(usize, f64, Option<(usize, Option<usize>)>)| {
        let nprobe = settings.map(|settings| settings.0);
        [k.to_string(), recall.to_string(), shown(nprobe), shown(settings.and_then(|settings| settings.1))]
    };
    let rows: Vec<_> = points.iter().map(row).collect();
    console.say(console::table(["k", "recall", "nprobe", "rerank"], &rows))?;
    console.say(format_args!("measured with {} queries", count(measured.queries())))?;
    console.json(|| {
        let point = |(k, recall, settings): &(usize, f64, Option<(usize, Option<usize>)>)| {
            let nprobe = settings.map(|settings| settings.0);
            json!({"k": k, "recall": recall, "nprobe": nprobe, "rerank": settings.and_then(|settings| settings.1)})
        };
        let points: Vec<_> = points.iter().map(point).collect();
        json!({"index": args.target.index, "rows": measured.rows(), "queries": measured.queries(), "settings": points})
    })
}

pub(crate) fn drop_index(args: &Target, common: &Common, console: &Console) -> Result<(), Failure> {
    let store = common.builder()?.open(&args.store)?;
    let txn = store.begin_write()?;
    txn.drop_index(&args.index)?;
    txn.commit()?;
    console.say(format_args!("dropped `{}`; `vellum compact` gives its space back", args.index))?;
    console.json(|| json!({"dropped": args.index}))
}

pub(crate) fn rename(args: &Rename, common: &Common, console: &Console) -> Result<(), Failure> {
    let store = common.builder()?.open(&args.target.store)?;
    let txn = store.begin_write()?;
    txn.rename_index(&args.target.index, &args.to)?;
    txn.commit()?;
    console.say(format_args!("`{}` is now `{}`", args.target.index, args.to))?;
    console.json(|| json!({"index": args.to}))
}

pub(crate) fn compact(args: &StoreOnly, common: &Common, console: &Console) -> Result<(), Failure> {
    let store = common.builder()?.open(&args.store)?;
    let report = console.watch(|observer| store.compact_with(observer))?;
    console.say(format_args!(
        "{} before, {} after: {} given back",
        console::bytes(report.before_bytes),
        console::bytes(report.after_bytes),
        console::bytes(report.freed_bytes())
    ))?;
    console.json(|| json!({"before_bytes": report.before_bytes, "after_bytes": report.after_bytes}))
}

pub(crate) fn backup(args: &Backup, common: &Common, console: &Console) -> Result<(), Failure> {
    let store = common.builder()?.open(&args.store)?;
    let report = console.watch(|observer| match args.check {
        true => store.backup_checked(&args.dest, observer),
        false => store.backup(&args.dest, observer),
    })?;
    console.say(format_args!(
        "copied {} with {} vectors to {} ({})",
        console::counted(report.indexes as u64, "index", "indexes"),
        count(report.rows),
        args.dest.display(),
        console::bytes(report.file_bytes)
    ))?;
    console.json(|| json!({"indexes": report.indexes, "rows": report.rows, "file_bytes": report.file_bytes, "checked": args.check}))
}

pub(crate) fn export(args: &Export, common: &Common, console: &Console) -> Result<(), Failure> {
    let files = [Some(&args.out), args.out_ids.as_ref(), args.out_keys.as_ref()];
    let mut files: Vec<_> = files.into_iter().flatten().collect();
    files.sort();
    if files.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(Failure::Usage("--out, --out-ids and --out-keys need a file each".into()));
    }
    let store = common.builder()?.open(&args.target.store)?;
    let reader = store.begin_read()?.index(&args.target.index)?;
    if args.out_keys.is_some() && !reader.spec().keys() {
        return Err(Failure::Usage(format!("index `{}` has ids, no keys: use --out-ids", args.target.index)));
    }
    let ids = reader.ids()?;
    let mut vectors = NpyWriter::table(&args.out, reader.dim())?;
    let mut meter = Meter::new(console);
    let batch = batch_rows(reader.dim());
    for (ids_of_batch, batch_number) in ids.chunks(batch).zip(0u64..) {
        meter.step("export", batch_number * batch as u64, ids.len() as u64)?;
        vectors.append(&reader.reconstruct_batch(ids_of_batch)?)?;
    }
    drop(meter);
    if let Some(path) = &args.out_ids {
        let mut file = NpyWriter::flat(path)?;
        file.append(&ids)?;
        file.finish()?;
    }
    if let Some(path) = &args.out_keys {
        write_keys(path, &reader, &ids)?;
    }
    let rows = vectors.finish()?;
    console.say(format_args!(
        "wrote {} vectors of {} components to {}",
        count(rows),
        reader.dim(),
        args.out.display()
    ))?;
    console.json(|| json!({"rows": rows, "dim": reader.dim()}))
}

/// Keys in the order of `ids`, one a line: what `--keys` reads.
fn write_keys(path: &Path, reader: &IndexReader<'_>, ids: &[u64]) -> Result<(), Failure> {
    let failed = |e: io::Error| Failure::message(format!("{}: {e}", path.display()));
    let mut file = BufWriter::new(File::create(path).map_err(failed)?);
    for id in ids {
        let key = reader.key(*id)?.unwrap_or_default();
        if key.contains(&b'\n') || std::str::from_utf8(&key).is_err() {
            let key = shown_key(&key);
            return Err(Failure::message(format!(
                "the key {key} of id {id} is no line of text: leave out --out-keys"
            )));
        }
        file.write_all(&key).and_then(|()| file.write_all(b"\n")).map_err(failed)?;
    }
    file.flush().map_err(failed)
}
