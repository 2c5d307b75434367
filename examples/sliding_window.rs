//! A sliding window: the newest vectors come in and the oldest go out, a commit for each step, for ever. The file
//! stops growing, and readers never wait.
//!
//!     cargo run --release --features files --example sliding_window

mod sample;

use std::error::Error;
use vellum::{IndexSpec, Metric, Observer, Rows, SearchParams, Store, TrainParams};

/// Vectors in the window, and how many a step replaces.
const WINDOW: u64 = 1000;
const STEP: u64 = 100;

fn main() -> Result<(), Box<dyn Error>> {
    let (passages, questions) = (sample::passages()?, sample::questions()?);
    let rows = Rows::new(&passages.data, passages.dim)?;
    let question = &questions.data[..questions.dim];
    let folder = tempfile::tempdir()?;
    let store = Store::create(folder.path().join("window.vellum"))?;

    let txn = store.begin_write()?;
    let spec = "IVF16,Nibble2,RF16".parse::<IndexSpec>()?;
    txn.create_index("window", &spec.with_dim(passages.dim).with_metric(Metric::Cosine))?;
    let mut window = txn.index("window")?;
    window.train(rows.slice(0..WINDOW as usize), &TrainParams::default(), &mut Observer::none())?;
    for first in (0..WINDOW as usize).step_by(STEP as usize) {
        window.sliding_window()?.push(rows.slice(first..first + STEP as usize))?;
    }
    drop(window);
    txn.commit()?;

    for step in 1..=40 {
        let txn = store.begin_write()?;
        let mut window = txn.index("window")?;
        // The passages come round again; ids never do.
        let first = ((WINDOW + (step - 1) * STEP) % 2000) as usize;
        let slice = rows.slice(first..first + STEP as usize);
        let added = window.sliding_window()?.step(slice, (WINDOW / STEP) as usize)?;
        drop(window);
        txn.commit()?;
        if step % 10 == 0 {
            let window = store.begin_read()?.index("window")?;
            let nearest = window.search(question, 1, &SearchParams::new().nprobe(4))?;
            let megabytes = store.stats().file_bytes as f64 / 1e6;
            println!(
                "step {step}: ids {}..{}, nearest {nearest:?}, {megabytes:.1} MB",
                added.end - WINDOW,
                added.end
            );
        }
    }
    Ok(())
}
