//! Semantic search over text embeddings that stay: made by the first run, opened by the next.
//!
//!     cargo run --release --features files --example semantic_search [FILE]

mod sample;

use std::error::Error;
use std::time::Instant;
use vellum::{IndexSpec, Metric, Observer, Rows, SearchParams, Store, TrainParams};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let path = std::env::args().nth(1).map_or_else(|| folder.path().join("docs.vellum"), Into::into);
    if !path.exists() {
        build(&Store::create(&path)?)?;
    }

    let began = Instant::now();
    let store = Store::open(&path)?;
    let docs = store.begin_read()?.index("docs")?;
    println!("opened {} vectors in {:?}", docs.len(), began.elapsed());

    let questions = sample::questions()?;
    let questions = Rows::new(&questions.data, questions.dim)?;
    for (number, question) in questions.iter().enumerate().take(3) {
        println!("question {number}");
        for found in docs.search(question, 3, &SearchParams::new().nprobe(8))? {
            let url = docs.key(found.id)?.unwrap_or_default();
            println!("    {:.3}  {}", found.distance, String::from_utf8_lossy(&url));
        }
    }
    Ok(())
}

/// 2 bits a component, and the vectors beside them for the last word; called by their addresses.
fn build(store: &Store) -> Result<(), Box<dyn Error>> {
    let passages = sample::passages()?;
    let rows = Rows::new(&passages.data, passages.dim)?;
    let urls: Vec<String> = (0..rows.len()).map(|i| format!("https://docs.example/{i}")).collect();
    let spec = "IVF40,Nibble2,RF16".parse::<IndexSpec>()?;
    let spec = spec.with_dim(passages.dim).with_metric(Metric::Cosine).with_keys(true);

    let txn = store.begin_write()?;
    txn.create_index("docs", &spec)?;
    let mut docs = txn.index("docs")?;
    docs.train(rows, &TrainParams::default(), &mut Observer::none())?;
    docs.add_with_keys(&urls, rows)?;
    // Bytes of your own beside them: another model's vectors would mean nothing here.
    docs.set_note(b"all-MiniLM-L6-v2")?;
    drop(docs);
    txn.commit()?;
    Ok(())
}
