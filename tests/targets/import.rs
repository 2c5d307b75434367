//! Hostile bytes through the readers of files: an error or the rows, however they are cut into batches,
//! and never a panic or memory for rows that are not there.
//!
//! ```text
//! | format u8: .npy, .npy, .fvecs, .bvecs, .ivecs | the file |
//! ```

use std::io::Cursor;
use vellum::Observer;
use vellum::files::{FileError, Format, NumberReader, VectorReader};

pub(crate) fn check(input: &[u8]) -> bool {
    let Some((format, bytes)) = input.split_first() else { return false };
    let formats = [Format::Npy, Format::Npy, Format::Fvecs, Format::Bvecs, Format::Ivecs];
    let format = formats[*format as usize % formats.len()];
    let vectors = vectors(format, bytes);
    numbers(format, bytes) || vectors
}

fn vectors(format: Format, bytes: &[u8]) -> bool {
    let Ok(mut reader) = VectorReader::from_source(Cursor::new(bytes), format, "fuzz") else { return false };
    assert!(reader.dim() as u64 * reader.rows() <= bytes.len() as u64, "rows that are not there");
    let one = read(|n| reader.next_batch(n), 1);
    reader.rewind();
    let many = read(|n| reader.next_batch(n), 7);
    match (&one, &many) {
        (Ok(one), Ok(many)) => assert!(same(one, many), "batches of 1 and of 7 differ"),
        (Err(_), Err(_)) => return true,
        _ => panic!("batches of 1 and of 7: {} and {}", one.is_ok(), many.is_ok()),
    }
    let half = reader.rows() / 2;
    reader.seek(half).expect("a row that is there");
    let rest = read(|n| reader.next_batch(n), 3).expect("it was read before");
    let all = one.expect("checked above");
    assert!(same(&rest, &all[half as usize * reader.dim()..]), "what follows a seek differs");
    assert!(reader.seek(reader.rows() + 1).is_err());
    let sample = reader.sample(usize::MAX, 1, &mut Observer::none()).expect("it was read before");
    assert!(same(&sample, &all), "a sample of everything is everything");
    true
}

fn numbers(format: Format, bytes: &[u8]) -> bool {
    let Ok(mut reader) = NumberReader::from_source(Cursor::new(bytes), format, "fuzz") else { return false };
    assert!(reader.columns() as u64 * reader.rows() <= bytes.len() as u64, "rows that are not there");
    let one = read(|n| reader.next_batch::<i64>(n), 1);
    reader.rewind();
    let many = read(|n| reader.next_batch::<i64>(n), 7);
    match (one, many) {
        (Ok(one), Ok(many)) => assert!(one == many, "batches of 1 and of 7 differ"),
        (Err(_), Err(_)) => {}
        (one, many) => panic!("batches of 1 and of 7: {} and {}", one.is_ok(), many.is_ok()),
    }
    true
}

fn read<T>(
    mut next: impl FnMut(usize) -> Result<Option<Vec<T>>, FileError>,
    rows_max: usize,
) -> Result<Vec<T>, FileError> {
    let mut all = Vec::new();
    while let Some(batch) = next(rows_max)? {
        all.extend(batch);
    }
    Ok(all)
}

/// NaN equals itself here.
fn same(a: &[f32], b: &[f32]) -> bool {
    a.iter().map(|v| v.to_bits()).eq(b.iter().map(|v| v.to_bits()))
}
