//! Rows and vectors in one transaction of the application's own database: both are there after a crash, or neither.
//!
//!     cargo run --release --features files --example shared_transaction

mod sample;

use redb::{Database, ReadableDatabase, ReadableTableMetadata, TableDefinition};
use std::error::Error;
use std::sync::Arc;
use vellum::{IndexSpec, IndexWriter, Metric, Rows, SearchParams, Store};

/// The application's table: what each passage says.
const PASSAGES: TableDefinition<'_, u64, &str> = TableDefinition::new("passages");

fn main() -> Result<(), Box<dyn Error>> {
    let (passages, questions) = (sample::passages()?, sample::questions()?);
    let rows = Rows::new(&passages.data, passages.dim)?;
    let folder = tempfile::tempdir()?;
    let db = Arc::new(Database::create(folder.path().join("application.redb"))?);

    // The application's table and the index, made together.
    let txn = db.begin_write()?;
    txn.open_table(PASSAGES)?;
    drop(IndexWriter::create(&txn, "vectors", &IndexSpec::flat(passages.dim, Metric::Cosine))?);
    txn.commit()?;

    add(&db, rows.slice(0..1500))?;
    // A transaction that is given up takes both back.
    let txn = db.begin_write()?;
    IndexWriter::open(&txn, "vectors")?.add(rows.slice(1500..2000))?;
    txn.open_table(PASSAGES)?.insert(1500, "never committed")?;
    txn.abort()?;

    // A store over the same database shares models and memory between readers.
    let store = Store::builder().attach(db.clone())?;
    let vectors = store.begin_read()?.index("vectors")?;
    let texts = db.begin_read()?.open_table(PASSAGES)?;
    println!("{} vectors, {} texts", vectors.len(), texts.len()?);
    for found in vectors.search(&questions.data[..questions.dim], 3, &SearchParams::new())? {
        let text = texts.get(found.id)?.ok_or("a vector without a text")?;
        println!("    {:.3}  {}", found.distance, text.value());
    }
    Ok(())
}

/// Texts and their vectors, under one id.
fn add(db: &Database, rows: Rows<'_>) -> Result<(), Box<dyn Error>> {
    let txn = db.begin_write()?;
    let ids = IndexWriter::open(&txn, "vectors")?.add(rows)?;
    let mut texts = txn.open_table(PASSAGES)?;
    for id in ids {
        texts.insert(id, format!("the text of passage {id}").as_str())?;
    }
    drop(texts);
    txn.commit()?;
    Ok(())
}
