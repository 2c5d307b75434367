//! `remove` and `update`: each is one transaction.

use crate::args::{Common, Names, Remove, Target, Update};
use crate::console::{Console, count, rounded};
use crate::failure::Failure;
use crate::input::{BatchNames, Input, check_dim, read_ids};
use crate::progress::Meter;
use serde_json::json;
use std::time::Instant;
use vellum::{IdSelector, Rows};

pub(crate) fn remove(args: &Remove, common: &Common, console: &Console) -> Result<(), Failure> {
    let Target { store: path, index } = &args.target;
    let selector = match (&args.ids.ids, &args.ids.ids_file) {
        (Some(list), _) => list.selector(),
        (None, Some(file)) => IdSelector::batch(read_ids(file)?),
        (None, None) => return Err(Failure::Usage("say which: --ids or --ids-file".into())),
    };
    let store = common.builder()?.open(path)?;
    let start = Instant::now();
    let txn = store.begin_write()?;
    let (removed, rows) = {
        let mut writer = txn.index(index)?;
        let removed = console.watch(|observer| writer.remove_ids_with(&selector, observer))?;
        (removed, writer.len())
    };
    crate::progress::check_interrupt()?;
    txn.commit()?;
    let seconds = start.elapsed().as_secs_f64();
    console.say(format_args!(
        "removed {} vectors in {}; `{index}` has {}",
        count(removed),
        crate::console::seconds(seconds),
        count(rows)
    ))?;
    console.json(|| json!({"index": index, "removed": removed, "rows": rows, "seconds": rounded(seconds, 6)}))
}

pub(crate) fn update(args: &Update, common: &Common, console: &Console) -> Result<(), Failure> {
    let Target { store: path, index } = &args.target;
    let mut input = Input::open(&args.data, &Names { ids: Some(args.ids_file.clone()), keys: None })?;
    let store = common.builder()?.open(path)?;
    let start = Instant::now();
    let mut meter = Meter::new(console);
    let total = input.vectors.rows();
    let txn = store.begin_write()?;
    let mut writer = txn.index(index)?;
    check_dim(&args.data, input.vectors.dim(), writer.spec().dim())?;
    while let Some(batch) = input.next()? {
        meter.step("update", batch.first, total)?;
        let rows = Rows::new(&batch.vectors, input.vectors.dim())?;
        let BatchNames::Ids(ids) = &batch.names else { continue };
        writer.update_vectors(ids, rows).map_err(|error| error.counted_from(batch.first as usize))?;
    }
    meter.step("commit", total, total)?;
    drop(writer);
    txn.commit()?;
    drop(meter);
    let seconds = start.elapsed().as_secs_f64();
    console.say(format_args!("updated {} vectors in {}", count(total), crate::console::seconds(seconds)))?;
    console.json(|| json!({"index": index, "updated": total, "seconds": rounded(seconds, 6)}))
}
