//! A retriever: give it vectors and what they are called, ask it with whatever your model takes.
//!
//!     cargo run --release --features files --example retriever

mod sample;

use std::error::Error;
use vellum::{Metric, Retriever, Rows, Store};

fn main() -> Result<(), Box<dyn Error>> {
    let (passages, questions) = (sample::passages()?, sample::questions()?);
    let names: Vec<String> =
        (0..passages.data.len() / passages.dim).map(|i| format!("passage {i}")).collect();
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("passages.vellum");

    // Made once: 40 lists of which 8 are searched, codes of half a byte for 2 components, the best 50 scored again.
    let retriever = Retriever::builder()
        .distance_measure(Metric::Cosine)
        .num_leaves(40)
        .num_leaves_to_search(8)
        .num_reordering_candidates(50)
        .name("passages")
        .create(&path)?;
    retriever.index(Rows::new(&passages.data, passages.dim)?, names)?;
    drop(retriever);

    // Opened again, perhaps by another process. The query model makes an embedding of a question; this one looks it up.
    let retriever = Retriever::open(&Store::open(&path)?, "passages")?;
    let dim = questions.dim;
    let retriever = retriever.with_query_model(move |numbers: &[usize]| {
        Ok(numbers.iter().flat_map(|n| &questions.data[n * dim..(n + 1) * dim]).copied().collect())
    });
    for (question, answers) in [3, 14, 15].iter().zip(retriever.retrieve(&[3, 14, 15], Some(3))?) {
        println!("question {question}");
        for answer in answers {
            println!("    {:.3}  {}", answer.score, answer.identifier);
        }
    }

    // All but what the asker has read already.
    let unread = retriever.query_with_exclusions(&[3], [["passage 0", "passage 1"]], Some(1))?;
    println!("unread: {}", unread[0][0].identifier);

    // Changes are transactions of their own.
    retriever.upsert(["passage 0"], Rows::new(&passages.data[dim..2 * dim], dim)?)?;
    retriever.delete(["passage 1"])?;
    println!("{} passages", retriever.len()?);
    Ok(())
}
