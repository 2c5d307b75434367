//! Filtered search: only vectors whose ids a selector holds.
//!
//!     cargo run --release --features files --example filtered_search

mod sample;

use std::error::Error;
use vellum::{IdSelector, IndexSpec, Metric, Observer, Rows, SearchParams, Store, TrainParams};

fn main() -> Result<(), Box<dyn Error>> {
    let (passages, questions) = (sample::passages()?, sample::questions()?);
    let rows = Rows::new(&passages.data, passages.dim)?;
    let question = &questions.data[..questions.dim];
    let folder = tempfile::tempdir()?;
    let store = Store::create(folder.path().join("docs.vellum"))?;

    let txn = store.begin_write()?;
    txn.create_index("docs", &IndexSpec::ivf(passages.dim, Metric::Cosine, 40))?;
    let mut docs = txn.index("docs")?;
    docs.train(rows, &TrainParams::default(), &mut Observer::none())?;
    docs.add(rows)?;
    drop(docs);
    txn.commit()?;

    // What the application knows of its rows: here, in which language each is written.
    let german = |id: u64| id % 20 == 7;
    let of_user = IdSelector::range(500..1500);
    let docs = store.begin_read()?.index("docs")?;
    for (what, selector) in [
        ("all", IdSelector::All),
        ("of one user", of_user.clone()),
        // A bitmap is the form for large sets that are kept between searches.
        ("German, 5 %", IdSelector::bitmap((0..2000).filter(|id| german(*id)).collect())),
        ("of one user, not German", of_user.and(!IdSelector::callback(german))),
        ("but these", !IdSelector::batch([601, 602, 603])),
    ] {
        // All lists: the thinner the filter, the more lists it takes to find k that pass.
        let params = SearchParams::new().nprobe(40).selector(selector);
        let found = docs.search(question, 3, &params)?;
        let found: Vec<String> = found.iter().map(|n| format!("{} ({:.3})", n.id, n.distance)).collect();
        println!("{what:24} {}", found.join("  "));
    }
    Ok(())
}
