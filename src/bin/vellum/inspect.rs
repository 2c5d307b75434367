//! `info` and `verify`: what a store holds, and whether it is sound.

use crate::args::{Common, Depth, OneOrAll, Verify};
use crate::console::{self, Console, count, rounded};
use crate::failure::Failure;
use serde_json::{Value, json};
use vellum::{
    AutoReport, Calibration, CalibrationSource, Encoding, Error, IndexStats, ReadTxn, Store, VerifyDepth,
    VerifyReport,
};

pub(crate) fn info(args: &OneOrAll, common: &Common, console: &Console) -> Result<(), Failure> {
    let store = common.builder()?.open(&args.store)?;
    let txn = store.begin_read()?;
    let mut indexes = Vec::new();
    for name in names(args, &txn)? {
        match txn.index(&name).and_then(|index| index.stats()) {
            // An index that cannot be read is listed with the others, but is an error if it is the one asked for.
            Err(error) if args.index.is_some() => return Err(error.into()),
            stats => indexes.push((name, stats)),
        }
    }
    let file = store.stats().file_bytes;
    match &indexes[..] {
        [(name, Ok(stats))] if args.index.is_some() => console.say(details(name, stats))?,
        _ => {
            let path = args.store.display();
            let number = console::counted(indexes.len() as u64, "index", "indexes");
            console.say(format_args!("{path}: {}, {number}", console::bytes(file)))?;
            if !indexes.is_empty() {
                console.say(overview(&indexes))?;
            }
        }
    }
    console.json(|| {
        let indexes: Value = indexes.iter().map(|(name, stats)| describe(name, stats)).collect();
        json!({"file_bytes": file, "indexes": indexes})
    })
}

pub(crate) fn verify(args: &Verify, common: &Common, console: &Console) -> Result<(), Failure> {
    let Verify { one: args, depth } = args;
    let pages = match depth {
        // What redb says of a store that is damaged is the answer, also where it then cannot be opened.
        Depth::Pages => pages(args, console)?,
        Depth::Model | Depth::Values => 0,
    };
    let (depth, shallow) = match depth {
        Depth::Model => (VerifyDepth::Model, true),
        Depth::Values | Depth::Pages => (VerifyDepth::Values, false),
    };
    let store = common.builder()?.open(&args.store)?;
    let txn = store.begin_read()?;
    let mut reports = Vec::new();
    for name in names(args, &txn)? {
        let report = console.watch(|observer| txn.verify_to(depth, &name, observer))?;
        for problem in &report.problems {
            console.say(format_args!("{name}: {problem}"))?;
        }
        let hidden = report.problem_count - report.problems.len() as u64;
        if hidden > 0 {
            console.say(format_args!("{name}: and {} problems more", count(hidden)))?;
        }
        let seen = match shallow {
            true => "header and model".to_string(),
            false => format!("{} vectors in {} blocks", count(report.rows), count(report.blocks)),
        };
        console.say(format_args!(
            "{name}: {seen}, {}",
            if report.is_ok() {
                "sound".into()
            } else {
                console::counted(report.problem_count, "problem", "problems")
            }
        ))?;
        reports.push((name, report));
    }
    let problems = pages + reports.iter().map(|(_, report)| report.problem_count).sum::<u64>();
    console.json(|| {
        let indexes: Value = reports.iter().map(|(name, report)| findings(name, report)).collect();
        json!({"problems": problems, "page_problems": pages, "indexes": indexes})
    })?;
    match reports.into_iter().find(|(_, report)| !report.is_ok()) {
        Some((index, _)) => Err(Failure::Problems { count: problems, index }),
        None if pages > 0 => Err(Failure::Pages(pages)),
        None => Ok(()),
    }
}

/// What redb says of its pages.
fn pages(args: &OneOrAll, console: &Console) -> Result<u64, Failure> {
    let report = Store::verify_pages(&args.store)?;
    for problem in &report.problems {
        console.say(format_args!("{problem}"))?;
    }
    if report.is_ok() {
        console.say("pages: sound")?;
    }
    Ok(report.problem_count)
}

/// The index asked for, or all.
fn names(args: &OneOrAll, txn: &ReadTxn) -> Result<Vec<String>, Failure> {
    match &args.index {
        Some(name) => Ok(vec![name.clone()]),
        None => Ok(txn.indexes()?),
    }
}

fn overview(indexes: &[(String, Result<IndexStats, Error>)]) -> String {
    let row = |(name, stats): &(String, Result<IndexStats, Error>)| match stats {
        Ok(stats) => [
            name.clone(),
            count(stats.rows),
            stats.spec.dim().to_string(),
            stats.spec.metric().to_string(),
            stats.spec.to_string(),
            console::bytes(stats.file_bytes()),
            if stats.trained { "ready" } else { "untrained" }.into(),
        ],
        Err(Error::Unfinished { rows, .. }) => unreadable(name, count(*rows), "unfinished"),
        Err(_) => unreadable(name, "-".into(), "damaged"),
    };
    let rows: Vec<_> = indexes.iter().map(row).collect();
    console::table(["index", "vectors", "dim", "metric", "spec", "size", "state"], &rows)
}

fn unreadable(name: &str, rows: String, state: &str) -> [String; 7] {
    let dash = || "-".to_string();
    [name.into(), rows, dash(), dash(), dash(), dash(), state.into()]
}

fn details(name: &str, stats: &IndexStats) -> String {
    let lists = match stats.trained {
        true => format!(
            "{}, {} to {} entries, imbalance {:.2}",
            count(stats.lists as u64),
            count(stats.shortest_list as u64),
            count(stats.longest_list as u64),
            stats.imbalance
        ),
        false => "not trained".into(),
    };
    let facts = [
        ("index", name.to_string()),
        ("spec", stats.spec.to_string()),
        ("metric", stats.spec.metric().to_string()),
        ("vectors", format!("{} of {} components", count(stats.rows), stats.spec.dim())),
        ("ids", if stats.spec.keys() { "keys" } else { "numbers" }.into()),
        ("lists", lists),
        ("mean residual", format!("{:.4}", stats.mean_residual)),
        ("changes", count(stats.changes)),
    ];
    let distinct = stats.spec.encoding() == Encoding::FlatDedup;
    let distinct = distinct.then(|| ("distinct", format!("{} of them", count(stats.rows - stats.twins))));
    let auto = stats.auto.as_ref().map(|auto| ("automatic", auto.to_string()));
    let calibrated = stats.calibration.as_ref().map(|known| ("calibrated", calibrated(known, stats.rows)));
    let mut text: String = facts
        .iter()
        .chain(&distinct)
        .chain(&auto)
        .chain(&calibrated)
        .map(|(fact, value)| format!("  {fact:<13} {value}\n"))
        .collect();
    let part = |name: &str, values: String, stored: u64, file: u64| {
        [name.to_string(), values, count(stored), count(file)]
    };
    let mut rows: Vec<_> = stats
        .parts
        .iter()
        .filter(|p| p.values > 0)
        .map(|p| part(p.name, count(p.values), p.stored_bytes, p.file_bytes))
        .collect();
    let stored = stats.parts.iter().map(|part| part.stored_bytes).sum();
    rows.push(part("all", String::new(), stored, stats.file_bytes()));
    text.push('\n');
    text.push_str(&console::table(["table", "values", "bytes", "bytes in file"], &rows));
    text
}

fn describe(name: &str, stats: &Result<IndexStats, Error>) -> Value {
    let stats = match stats {
        Ok(stats) => stats,
        Err(error) => return json!({"index": name, "error": error.to_string()}),
    };
    let part = |part: &vellum::PartStats| {
        json!({
            "table": part.name,
            "values": part.values,
            "stored_bytes": part.stored_bytes,
            "file_bytes": part.file_bytes,
        })
    };
    json!({
        "index": name,
        "spec": stats.spec.to_string(),
        "auto": stats.auto.as_ref().map(chosen),
        "calibration": stats.calibration.as_ref().map(|known| measured(known, stats.rows)),
        "metric": stats.spec.metric().to_string(),
        "dim": stats.spec.dim(),
        "rows": stats.rows,
        "entries": stats.entries,
        "twins": stats.twins,
        "keys": stats.spec.keys(),
        "trained": stats.trained,
        "lists": stats.lists,
        "shortest_list": stats.shortest_list,
        "longest_list": stats.longest_list,
        "imbalance": rounded(stats.imbalance, 6),
        "mean_residual": rounded(stats.mean_residual, 6),
        "free_rows": stats.free_rows,
        "changes": stats.changes,
        "logical_bytes": stats.logical_bytes(),
        "file_bytes": stats.file_bytes(),
        "parts": stats.parts.iter().map(part).collect::<Value>(),
    })
}

fn calibrated(known: &Calibration, rows: u64) -> String {
    let what = match known.source() {
        CalibrationSource::Training => "rows of the training",
        CalibrationSource::Queries => "vectors, with queries that were given",
        _ => "vectors",
    };
    let stale = if known.is_stale(rows) { "; there are others now: calibrate again" } else { "" };
    format!("over {} {what}, {} queries{stale}", count(known.rows()), count(known.queries()))
}

fn measured(known: &Calibration, rows: u64) -> Value {
    let source = match known.source() {
        CalibrationSource::Training => "training",
        CalibrationSource::Queries => "queries",
        _ => "stored",
    };
    json!({
        "source": source,
        "rows": known.rows(),
        "queries": known.queries(),
        "ks": known.ks(),
        "stale": known.is_stale(rows),
    })
}

fn chosen(auto: &AutoReport) -> Value {
    json!({
        "what": auto.to_string(),
        "expected": auto.expected,
        "lists": auto.lists,
        "next_rows": auto.next_rows,
        "next_lists": auto.next_lists,
        "by_itself": auto.by_itself,
        "due": auto.is_due(),
    })
}

fn findings(name: &str, report: &VerifyReport) -> Value {
    let problem =
        |problem: &vellum::Problem| json!({"table": problem.table, "key": problem.key, "what": problem.what});
    json!({
        "index": name,
        "rows": report.rows,
        "blocks": report.blocks,
        "problem_count": report.problem_count,
        "problems": report.problems.iter().map(problem).collect::<Value>(),
    })
}
