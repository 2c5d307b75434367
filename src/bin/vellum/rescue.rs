//! `restore`, `compare` and `salvage`: from one file to another.

use crate::args::{Common, Salvage, TwoFiles};
use crate::console::{self, Console, count};
use crate::failure::Failure;
use serde_json::{Value, json};
use vellum::{SalvagedIndex, Store};

pub(crate) fn restore(args: &TwoFiles, console: &Console) -> Result<(), Failure> {
    let report = console.watch(|observer| Store::restore(&args.from, &args.to, observer))?;
    console.say(format_args!(
        "{} with {} vectors, verified and compared: {} ({})",
        console::counted(report.indexes as u64, "index", "indexes"),
        count(report.rows),
        args.to.display(),
        console::bytes(report.file_bytes)
    ))?;
    console.json(|| json!({"indexes": report.indexes, "rows": report.rows, "file_bytes": report.file_bytes}))
}

pub(crate) fn compare(args: &TwoFiles, common: &Common, console: &Console) -> Result<(), Failure> {
    let (here, there) = (common.builder()?.open(&args.from)?, common.builder()?.open(&args.to)?);
    let report = console.watch(|observer| here.compare(&there, observer))?;
    for (names, what) in [
        (&report.equal, "equal"),
        (&report.different, "different"),
        (&report.only_here, "in the first alone"),
        (&report.only_there, "in the second alone"),
    ] {
        names.iter().try_for_each(|name| console.say(format_args!("{name}: {what}")))?;
    }
    console.json(|| {
        json!({
            "equal": report.equal,
            "different": report.different,
            "only_here": report.only_here,
            "only_there": report.only_there,
        })
    })?;
    if report.is_equal() { Ok(()) } else { Err(Failure::Different) }
}

pub(crate) fn salvage(args: &Salvage, console: &Console) -> Result<(), Failure> {
    let (from, to) = (&args.files.from, &args.files.to);
    let report = console.watch(|observer| match args.scan {
        true => Store::salvage_by_scan(from, to, observer),
        false => Store::salvage(from, to, observer),
    })?;
    if let Some(why) = &report.refused {
        console.say(format_args!("without redb's help: {why}"))?;
    }
    let rows: Vec<_> = report.indexes.iter().map(row).collect();
    console.say(console::table(["index", "saved", "lost", "model", "unproven", "problems"], &rows))?;
    for SalvagedIndex { name, lost_ids, failure, .. } in &report.indexes {
        if let Some(why) = failure {
            console.say(format_args!("{name}: {why}"))?;
        }
        if let [first, ..] = lost_ids[..] {
            console.say(format_args!("{name}: lost ids {first} and so on; all are listed with --json"))?;
        }
    }
    console.say(format_args!("{} ({})", to.display(), console::bytes(report.file_bytes)))?;
    console.json(|| {
        let indexes: Value = report.indexes.iter().map(describe).collect();
        json!({"refused": report.refused, "indexes": indexes, "file_bytes": report.file_bytes})
    })
}

fn row(index: &SalvagedIndex) -> [String; 6] {
    [
        index.name.clone(),
        count(index.rows),
        count(index.lost_rows()),
        if index.model_found { "found" } else { "lost" }.into(),
        count(index.unproven_values),
        count(index.problems.len() as u64),
    ]
}

fn describe(index: &SalvagedIndex) -> Value {
    json!({
        "index": index.name,
        "name_found": index.name_found,
        "rows": index.rows,
        "lost_rows": index.lost_rows(),
        "lost_ids": index.lost_ids,
        "model_found": index.model_found,
        "unproven_values": index.unproven_values,
        "lost_blocks": index.repair.lost_blocks,
        "made_keys": index.repair.made_keys,
        "problems": index.problems.len(),
        "failure": index.failure,
    })
}
