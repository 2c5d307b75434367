//! What `docs/guide.md` shows, run: its code is the code between `// [name]` and `// [end]` here, line for line.

#![allow(clippy::unwrap_used, clippy::panic)]

use redb::{Database, ReadableDatabase, TableDefinition};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;
use vellum::{
    CalibrateParams, Error, IdSelector, IndexReader, IndexSpec, IndexWriter, Metric, Observer, Result,
    Retriever, Rows, SearchParams, Store, Subset, TrainParams,
};

const DIM: usize = 8;

/// Vectors that are all different, and a place for them.
struct Given {
    folder: TempDir,
    data: Vec<f32>,
}

impl Given {
    fn new() -> Self {
        let value = |i: usize| ((i * 7919) % 1009) as f32 / 100.0;
        Given { folder: tempfile::tempdir().unwrap(), data: (0..600 * DIM).map(value).collect() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn rows(&self) -> Rows<'_> {
        Rows::new(&self.data, DIM).unwrap()
    }

    /// A store with an index of all vectors.
    fn store(&self) -> Store {
        let store = Store::create(self.path("given.vellum")).unwrap();
        self.fill(&store, "docs", "IVF16,SQ8,RFlat");
        store
    }

    fn fill(&self, store: &Store, name: &str, spec: &str) {
        let spec = spec.parse::<IndexSpec>().unwrap().with_dim(DIM);
        let txn = store.begin_write().unwrap();
        txn.create_index(name, &spec).unwrap();
        let mut index = txn.index(name).unwrap();
        index.train(self.rows(), &TrainParams::default(), &mut Observer::none()).unwrap();
        index.add(self.rows()).unwrap();
        drop(index);
        txn.commit().unwrap();
    }
}

fn reader(store: &Store) -> IndexReader<'static> {
    store.begin_read().unwrap().index("docs").unwrap()
}

#[test]
fn open() -> Result<()> {
    let given = Given::new();
    let path = given.path("my.vellum");
    // [open]
    let store = Store::builder().cache_bytes(512 << 20).open_or_create(path)?;
    for name in store.begin_read()?.indexes()? {
        println!("{name}");
    }
    // [end]
    Ok(())
}

#[test]
fn create() -> Result<()> {
    let given = Given::new();
    let store = Store::create(given.path("my.vellum"))?;
    // [create]
    let exact = IndexSpec::flat(8, Metric::Cosine);
    let large: IndexSpec = "IVF1024,Nibble2,RF16".parse()?;

    let txn = store.begin_write()?;
    txn.create_index("notes", &exact)?;
    txn.create_index("docs", &large.with_dim(8).with_metric(Metric::Cosine))?;
    txn.commit()?;
    // [end]
    assert_eq!(store.begin_read()?.indexes()?, ["docs", "notes"]);
    Ok(())
}

#[test]
fn add() -> Result<()> {
    let given = Given::new();
    let (store, data) = (given.store(), &given.data[..3 * DIM]);
    // [add]
    let txn = store.begin_write()?;
    let mut docs = txn.index("docs")?;
    let ids = docs.add(Rows::new(data, 8)?)?; // ids of vellum's choice, never given twice
    docs.add_with_ids(&[7_000, 7_001, 7_002], Rows::new(data, 8)?)?;
    drop(docs);
    txn.commit()?;
    // [end]
    assert!(ids == (600..603) && reader(&store).contains(7_002)?);
    Ok(())
}

#[test]
fn keys() -> Result<()> {
    let given = Given::new();
    let store = Store::create(given.path("my.vellum"))?;
    let (data, query) = (&given.data[..2 * DIM], &given.data[..DIM]);
    // [keys]
    let txn = store.begin_write()?;
    txn.create_index("pages", &IndexSpec::flat(8, Metric::L2).with_keys(true))?;
    txn.index("pages")?.upsert_with_keys(&["/home", "/about"], Rows::new(data, 8)?)?;
    txn.commit()?;

    let pages = store.begin_read()?.index("pages")?;
    let nearest = pages.search(query, 1, &SearchParams::new())?;
    assert_eq!(pages.key(nearest[0].id)?.as_deref(), Some(b"/home".as_slice()));
    // [end]
    Ok(())
}

#[test]
fn train() -> Result<()> {
    let given = Given::new();
    let (store, sample) = (given.store(), given.rows());
    // [train]
    let txn = store.begin_write()?;
    let mut docs = txn.index("docs")?;
    let report = docs.train(sample, &TrainParams::default(), &mut Observer::none())?;
    println!("{} rows, {} moved to new lists", report.rows, report.redistributed);
    drop(docs);
    txn.commit()?;
    // [end]
    assert_eq!(report.redistributed, 600);
    Ok(())
}

#[test]
fn search() -> Result<()> {
    let given = Given::new();
    let (store, query, queries) = (given.store(), &given.data[..DIM], &given.data[..5 * DIM]);
    // [search]
    let docs = store.begin_read()?.index("docs")?;
    let params = SearchParams::new().nprobe(8);
    for found in docs.search(query, 10, &params)? {
        println!("{} at {}", found.id, found.distance);
    }
    let of_each = docs.search_batch(Rows::new(queries, 8)?, 10, &params)?;
    let near = docs.range_search(query, 2.5, &params)?; // all within a squared distance of 2.5
    // [end]
    assert!(of_each.len() == 5 && near[0].id == 0);
    Ok(())
}

#[test]
fn filter() -> Result<()> {
    let given = Given::new();
    let (store, query) = (given.store(), &given.data[..DIM]);
    // [filter]
    let visible = IdSelector::bitmap((0..600).filter(|id| id % 3 == 0).collect());
    let params = SearchParams::new().nprobe(16).selector(visible.and(!IdSelector::batch([3, 6])));
    let found = store.begin_read()?.index("docs")?.search(query, 10, &params)?;
    // [end]
    assert!(found.len() == 10 && found.iter().all(|n| n.id % 3 == 0 && n.id != 3 && n.id != 6));
    Ok(())
}

#[test]
fn change() -> Result<()> {
    let given = Given::new();
    let (store, data) = (given.store(), &given.data[..2 * DIM]);
    // [change]
    let txn = store.begin_write()?;
    let mut docs = txn.index("docs")?;
    docs.update_vectors(&[5, 6], Rows::new(data, 8)?)?; // an unknown id is an error, and nothing changes
    docs.upsert(&[6, 9_000], Rows::new(data, 8)?)?;
    docs.remove_ids(&IdSelector::range(100..200))?;
    drop(docs);
    txn.commit()?; // or drop `txn`, and nothing has happened
    // [end]
    assert_eq!(reader(&store).len(), 501);
    Ok(())
}

#[test]
fn shared() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let given = Given::new();
    let vector = &given.data[..DIM];
    let db = Arc::new(Database::create(given.path("app.redb"))?);
    let txn = db.begin_write()?;
    drop(IndexWriter::create(&txn, "vectors", &IndexSpec::flat(DIM, Metric::L2))?);
    txn.commit()?;
    // [shared]
    const TITLES: TableDefinition<'_, u64, &str> = TableDefinition::new("titles");

    let txn = db.begin_write()?; // of the application's own redb database
    let ids = IndexWriter::open(&txn, "vectors")?.add(Rows::new(vector, 8)?)?;
    txn.open_table(TITLES)?.insert(ids.start, "both or neither")?;
    txn.commit()?;

    let store = Store::builder().attach(db.clone())?;
    let vectors = store.begin_read()?.index("vectors")?;
    // [end]
    assert!(vectors.len() == 1 && db.begin_read()?.open_table(TITLES)?.get(0)?.is_some());
    Ok(())
}

#[test]
fn bulk() -> Result<()> {
    let given = Given::new();
    let (store, rows) = (given.store(), given.rows());
    let txn = store.begin_write()?;
    txn.index("docs")?.clear()?;
    txn.commit()?;
    let chunks = (0..600).step_by(100).map(|i| rows.slice(i..i + 100));
    // [bulk]
    let mut load = store.bulk_load("docs")?;
    let done = load.rows_done() as usize; // after a crash: what an earlier load has committed
    for rows in chunks.skip(done / 100) {
        load.add(rows)?;
    }
    load.finish()?;
    // [end]
    assert_eq!(reader(&store).len(), 600);
    Ok(())
}

#[test]
fn defaults() -> Result<()> {
    let given = Given::new();
    let (store, query) = (given.store(), &given.data[..DIM]);
    // [defaults]
    let txn = store.begin_write()?;
    txn.index("docs")?.set_search_defaults(&SearchParams::new().nprobe(12).rerank(40))?;
    txn.commit()?;
    let found = store.begin_read()?.index("docs")?.search(query, 3, &SearchParams::new())?;
    // [end]
    assert_eq!(found[0].id, 0);
    Ok(())
}

#[test]
fn look() -> Result<()> {
    let given = Given::new();
    let store = given.store();
    // [look]
    let docs = store.begin_read()?.index("docs")?;
    let vector = docs.reconstruct(17)?; // exact where rows are kept or codes are exact
    let code = docs.code(17)?;
    println!("list {}, {} bytes", code.slot.list, code.bytes.len());
    println!("{} of {} bytes in the file", docs.stats()?.logical_bytes(), store.stats().file_bytes);
    // [end]
    assert_eq!(vector, given.rows().row(17));
    Ok(())
}

#[test]
fn merge() -> Result<()> {
    let given = Given::new();
    let (store, other) = (given.store(), Store::create(given.path("other.vellum"))?);
    let txn = other.begin_write()?;
    txn.create_index("docs", reader(&store).spec())?;
    txn.commit()?;
    // [merge]
    let docs = store.begin_read()?.index("docs")?;
    let txn = other.begin_write()?;
    let mut to = txn.index("docs")?;
    to.import_model(&docs.export_model()?, &mut Observer::none())?; // one training, shared
    to.merge_from(&docs, 10_000, &mut Observer::none())?; // ids move up by 10,000
    docs.copy_subset_to(&mut to, &Subset::Ids(0..50), &mut Observer::none())?;
    drop(to);
    txn.commit()?;
    // [end]
    let merged = reader(&other);
    assert!(merged.len() == 650 && merged.contains(10_599)? && merged.contains(49)?);
    Ok(())
}

#[test]
fn shards() -> Result<()> {
    let given = Given::new();
    let (store, query) = (given.store(), &given.data[..DIM]);
    let txn = store.begin_write()?;
    for (name, ids) in [("a", 0..300), ("b", 300..600)] {
        txn.create_index(name, reader(&store).spec())?;
        let mut to = txn.index(name)?;
        to.import_model(&reader(&store).export_model()?, &mut Observer::none())?;
        reader(&store).copy_subset_to(&mut to, &Subset::Ids(ids), &mut Observer::none())?;
    }
    txn.commit()?;
    // [shards]
    let txn = store.begin_read()?;
    let both = IndexReader::of_shards(&[txn.index("a")?, txn.index("b")?])?;
    let found = both.search(query, 10, &SearchParams::new().nprobe(16))?;
    // [end]
    assert_eq!(found, reader(&store).search(query, 10, &SearchParams::new().nprobe(16))?);
    Ok(())
}

#[test]
fn retriever() -> Result<()> {
    let given = Given::new();
    let (path, query) = (given.path("shop.vellum"), given.data[..DIM].to_vec());
    let candidates = given.rows();
    let names: Vec<String> = (0..600).map(|i| format!("product {i}")).collect();
    // [retriever]
    let retriever = Retriever::builder().k(10).num_leaves(16).num_leaves_to_search(4).create(path)?;
    retriever.index(candidates, names)?;
    for found in retriever.retrieve_one(&query, None)? {
        println!("{:?} {}", found.identifier, found.score);
    }
    // [end]
    Ok(())
}

#[test]
fn care() -> Result<()> {
    let given = Given::new();
    let (store, copy) = (given.store(), given.path("copy.vellum"));
    // [care]
    let report = store.begin_read()?.verify("docs", &mut Observer::none())?;
    if !report.is_ok() {
        let txn = store.begin_write()?;
        println!("{:?}", txn.damaged_index("docs")?.repair(&mut Observer::none())?);
        txn.commit()?;
    }
    store.backup(copy, &mut Observer::none())?; // while others read and write
    store.compact()?; // gives space back to the file system
    // [end]
    assert!(report.is_ok());
    Ok(())
}

#[test]
fn progress() -> Result<()> {
    let given = Given::new();
    let (store, rows) = (given.store(), given.rows());
    let stopped = || true;
    // [progress]
    let mut report = |tick: vellum::Tick| {
        println!("{}: {} of {}", tick.stage, tick.done, tick.total);
        if stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let txn = store.begin_write()?;
    let outcome = txn.index("docs")?.train(rows, &TrainParams::default(), &mut Observer::new(&mut report));
    assert!(matches!(outcome, Err(Error::Cancelled)));
    // [end]
    Ok(())
}

#[test]
fn auto() -> Result<()> {
    let given = Given::new();
    let (store, rows) = (Store::create(given.path("my.vellum"))?, given.rows());
    // [auto]
    let txn = store.begin_write()?;
    txn.create_index("docs", &IndexSpec::auto(8, None, Metric::L2))?;
    txn.index("docs")?.add(rows)?; // the add with which lists begin to pay trains them, too
    txn.commit()?;
    if let Some(report) = store.begin_read()?.index("docs")?.auto() {
        println!("{report:?}"); // what was chosen, why, and when it will change
    }
    // [end]
    assert!(reader(&store).auto().is_some() && reader(&store).len() == 600);
    Ok(())
}

#[test]
fn recall() -> Result<()> {
    let given = Given::new();
    let (store, query) = (given.store(), &given.data[..DIM]);
    // [recall]
    store.calibrate("docs", &CalibrateParams::default(), &mut Observer::none())?;
    let params = SearchParams::new().target_recall(0.95);
    let found = store.begin_read()?.index("docs")?.search(query, 10, &params)?;
    // [end]
    assert_eq!(found[0].id, 0);
    Ok(())
}

#[test]
fn window() -> Result<()> {
    let given = Given::new();
    let (store, today) = (given.store(), given.rows().slice(0..20));
    let txn = store.begin_write()?;
    txn.index("docs")?.clear()?;
    txn.commit()?;
    // [window]
    let txn = store.begin_write()?;
    let mut docs = txn.index("docs")?;
    docs.sliding_window()?.step(today, 7)?; // a slice comes, and those beyond the newest seven go
    drop(docs);
    txn.commit()?;
    // [end]
    assert_eq!(reader(&store).len(), 20);
    Ok(())
}

#[test]
fn salvage() -> Result<()> {
    let given = Given::new();
    let (broken, new) = (given.path("given.vellum"), given.path("new.vellum"));
    drop(given.store());
    // [salvage]
    let report = Store::salvage(&broken, &new, &mut Observer::none())?;
    for index in &report.indexes {
        println!("{index:?}"); // rows that are there again, rows that are lost
    }
    let store = Store::open(new)?;
    // [end]
    assert_eq!(reader(&store).len(), 600);
    Ok(())
}

/// Breaks if the page shows what is not run, leaves out a task, or takes ten lines for one.
#[test]
fn the_guide_shows_what_is_run() {
    let here = include_str!("guide.rs");
    let guide = include_str!("../docs/guide.md");
    let mut shown = 0;
    for part in guide.split("```rust\n").skip(1) {
        let block = part.split("```").next().unwrap().trim_end();
        assert!(block.lines().filter(|line| !line.is_empty()).count() < 10, "ten lines or more:\n{block}");
        let indented: Vec<String> = block
            .lines()
            .map(|line| if line.is_empty() { String::new() } else { format!("    {line}") })
            .collect();
        assert!(here.contains(&format!("]\n{}\n    // [end]", indented.join("\n"))), "not run:\n{block}");
        shown += 1;
    }
    let run = here.lines().filter(|line| line.trim() == "// [end]").count();
    assert_eq!(shown, run, "tasks that are shown, and that are run");
    let (tasks, linked) = (guide.matches("\n## ").count(), guide.matches("\n- [").count());
    assert_eq!(tasks, linked, "the table of contents");
}
