//! Files made by hand, read back: how it breaks is a row shifted by a few bytes, a header believed, or
//! memory taken for rows that are not there.

use super::*;
use crate::files::NpyWriter;
use std::io::Cursor;
use std::ops::ControlFlow;

/// A `.npy` file of version 1 with this type, shape and data.
fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let dict = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((dict.len() as u16).to_le_bytes());
    bytes.extend(dict.as_bytes());
    bytes.extend(data);
    bytes
}

fn vecs<const N: usize>(rows: &[&[[u8; N]]]) -> Vec<u8> {
    let row = |row: &&[[u8; N]]| [&(row.len() as i32).to_le_bytes()[..], row.as_flattened()].concat();
    rows.iter().flat_map(row).collect()
}

fn vectors(bytes: Vec<u8>, format: Format) -> Result<VectorReader<Cursor<Vec<u8>>>, FileError> {
    VectorReader::from_source(Cursor::new(bytes), format, "test")
}

fn numbers(bytes: Vec<u8>, format: Format) -> Result<NumberReader<Cursor<Vec<u8>>>, FileError> {
    NumberReader::from_source(Cursor::new(bytes), format, "test")
}

/// All rows, by batches of `rows_max`.
fn all<R: Read + Seek>(reader: &mut VectorReader<R>, rows_max: usize) -> Vec<f32> {
    std::iter::from_fn(|| reader.next_batch(rows_max).unwrap()).flatten().collect()
}

#[test]
fn each_element_becomes_f32() {
    let halves = [1.5f32, -2.0, 0.25, 65504.0].map(|v| f16::from_f32(v).to_le_bytes());
    let cases: [(&str, Vec<u8>, [f32; 4]); 5] = [
        ("<f4", [1.5f32, -2.0, 1e-9, 3e38].map(f32::to_le_bytes).concat(), [1.5, -2.0, 1e-9, 3e38]),
        ("<f2", halves.concat(), [1.5, -2.0, 0.25, 65504.0]),
        ("|u1", vec![0, 1, 128, 255], [0.0, 1.0, 128.0, 255.0]),
        ("|i1", vec![0, 1, 128, 255], [0.0, 1.0, -128.0, -1.0]),
        ("<i4", [1i32, -2, 3, -16777216].map(i32::to_le_bytes).concat(), [1.0, -2.0, 3.0, -16777216.0]),
    ];
    for (descr, data, expected) in cases {
        let mut reader = vectors(npy(descr, "(2, 2)", &data), Format::Npy).unwrap();
        assert_eq!((reader.rows(), reader.dim()), (2, 2));
        assert_eq!(all(&mut reader, 1), expected, "{descr}");
    }
}

#[test]
fn rows_with_their_dimension_before_each() {
    let floats =
        vecs(&[&[1f32.to_le_bytes(), 2f32.to_le_bytes()], &[3f32.to_le_bytes(), 4f32.to_le_bytes()]]);
    assert_eq!(all(&mut vectors(floats, Format::Fvecs).unwrap(), 9), [1.0, 2.0, 3.0, 4.0]);
    let bytes = vecs(&[&[[7], [8], [9]], &[[10], [11], [255]]]);
    assert_eq!(all(&mut vectors(bytes, Format::Bvecs).unwrap(), 1), [7.0, 8.0, 9.0, 10.0, 11.0, 255.0]);
    let whole = vecs(&[&[5i32.to_le_bytes()], &[(-6i32).to_le_bytes()]]);
    assert_eq!(all(&mut vectors(whole.clone(), Format::Ivecs).unwrap(), 2), [5.0, -6.0]);
    assert_eq!(numbers(whole, Format::Ivecs).unwrap().next_batch::<i32>(2).unwrap(), Some(vec![5, -6]));
}

#[test]
fn a_row_of_another_dimension_is_an_error_and_the_reader_stays() {
    let mut bytes = vecs(&[&[[1], [2]], &[[3], [4]], &[[5], [6]]]);
    bytes[6] = 3;
    let mut reader = vectors(bytes, Format::Bvecs).unwrap();
    assert!(matches!(reader.next_batch(3), Err(FileError::Malformed { offset: 6, .. })));
    assert_eq!(reader.position(), 0);
    assert_eq!(reader.next_batch(1).unwrap(), Some(vec![1.0, 2.0]));
    assert!(reader.next_batch(1).is_err());
    reader.seek(2).unwrap();
    assert_eq!(reader.next_batch(1).unwrap(), Some(vec![5.0, 6.0]));
}

#[test]
fn batches_of_every_size_give_the_same_rows() {
    // Rows of 1,200 bytes: several pieces of 256 KiB, and none that ends with a row's last byte.
    let (rows, dim) = (1000u32, 300);
    let data: Vec<u8> = (0..rows * dim).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let bytes = npy("<f4", &format!("({rows}, {dim})"), &data);
    let expected: Vec<f32> = (0..rows * dim).map(|i| i as f32).collect();
    let mut reader = vectors(bytes, Format::Npy).unwrap();
    for rows_max in [1, 7, 218, 219, 999, 1000, 1001, usize::MAX] {
        reader.rewind();
        assert!(all(&mut reader, rows_max) == expected, "batches of {rows_max}");
    }
    reader.seek(999).unwrap();
    assert_eq!(reader.next_batch(10).unwrap().unwrap(), expected[999 * 300..]);
    assert!(reader.next_batch(10).unwrap().is_none());
    assert!(matches!(reader.seek(1001), Err(FileError::Row { row: 1001, rows: 1000, .. })));
}

#[test]
fn numbers_of_each_width_and_shape() {
    let ids = [0u64, 1, u64::MAX].map(u64::to_le_bytes).concat();
    let mut reader = numbers(npy("<u8", "(3,)", &ids), Format::Npy).unwrap();
    assert_eq!((reader.rows(), reader.columns()), (3, 1));
    assert_eq!(reader.next_batch(2).unwrap(), Some(vec![0u64, 1]));
    assert!(matches!(reader.next_batch::<i64>(2), Err(FileError::Value { row: 2, .. })));
    assert_eq!(reader.next_batch(2).unwrap(), Some(vec![u64::MAX]));
    assert_eq!(reader.next_batch::<u64>(2).unwrap(), None);

    let truth = [4i32, -1, 5, 6].map(i32::to_le_bytes).concat();
    let mut reader = numbers(npy("<i4", "(2, 2)", &truth), Format::Npy).unwrap();
    assert_eq!(reader.next_batch(9).unwrap(), Some(vec![4i64, -1, 5, 6]));
    reader.rewind();
    match reader.next_batch::<u64>(9) {
        Err(FileError::Value { row: 0, what, .. }) => assert!(what.contains("-1"), "{what}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn numbers_are_no_vectors_and_vectors_no_numbers() {
    let long = npy("<i8", "(1, 1)", &[0; 8]);
    assert!(matches!(vectors(long, Format::Npy), Err(FileError::Element { element: Element::I64, .. })));
    let flat = npy("<f4", "(1,)", &[0; 4]);
    assert!(matches!(vectors(flat, Format::Npy), Err(FileError::Element { .. })));
    let real = npy("<f4", "(1, 1)", &[0; 4]);
    assert!(matches!(numbers(real, Format::Npy), Err(FileError::Element { element: Element::F32, .. })));
    let mut inexact = vectors(npy("<i4", "(2, 1)", &[0, 0, 0, 0, 1, 0, 0, 1]), Format::Npy).unwrap();
    assert!(matches!(inexact.next_batch(2), Err(FileError::Value { row: 1, .. })));
}

#[test]
fn a_file_cut_anywhere_is_refused_when_it_is_opened() {
    let whole = npy("<f4", "(3, 2)", &[0; 24]);
    for length in 0..whole.len() {
        assert!(vectors(whole[..length].to_vec(), Format::Npy).is_err(), "{length}");
    }
    let longer = [whole, vec![0]].concat();
    assert!(matches!(vectors(longer, Format::Npy), Err(FileError::Length { .. })));
    let whole = vecs(&[&[[1], [2]], &[[3], [4]]]);
    // Six bytes are one whole row.
    for length in (0..whole.len()).filter(|&length| length != 6) {
        assert!(vectors(whole[..length].to_vec(), Format::Bvecs).is_err(), "{length}");
    }
}

#[test]
fn headers_that_promise_too_much_cost_no_memory() {
    for shape in ["(1000000000000, 128)", "(18446744073709551615, 1048576)", "(3, 18446744073709551615)"] {
        assert!(vectors(npy("<f4", shape, &[0; 64]), Format::Npy).is_err(), "{shape}");
    }
    let mut header = b"\x93NUMPY\x02\x00".to_vec();
    header.extend(u32::MAX.to_le_bytes());
    assert!(vectors(header, Format::Npy).is_err());
    assert!(vectors(i32::MAX.to_le_bytes().to_vec(), Format::Fvecs).is_err());
}

#[test]
fn an_empty_table_has_no_batch() {
    let mut reader = vectors(npy("<f4", "(0, 5)", &[]), Format::Npy).unwrap();
    assert_eq!((reader.rows(), reader.dim()), (0, 5));
    assert!(reader.next_batch(1).unwrap().is_none());
    assert!(reader.sample(10, 1, &mut Observer::none()).unwrap().is_empty());
}

#[test]
fn a_sample_is_distinct_rows_in_order_and_the_same_for_a_seed() {
    let data: Vec<u8> = (0..5000u32).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let mut reader = vectors(npy("<f4", "(5000, 1)", &data), Format::Npy).unwrap();
    reader.seek(17).unwrap();
    let mut draw = |n, seed| reader.sample(n, seed, &mut Observer::none()).unwrap();
    let sample = draw(3000, 1);
    assert_eq!(sample.len(), 3000);
    assert!(sample.is_sorted_by(|a, b| a < b));
    assert_eq!(sample, draw(3000, 1));
    assert_ne!(sample, draw(3000, 2));
    // Spread over the file: the mean of 3,000 of 0..5000 is 2499.5 with a deviation of 16.7.
    let mean = sample.iter().map(|&v| f64::from(v)).sum::<f64>() / 3000.0;
    assert!((mean - 2499.5).abs() < 6.0 * 16.7, "{mean}");
    assert_eq!(draw(9999, 1).len(), 5000);
    assert!(draw(0, 1).is_empty());
    assert_eq!(reader.position(), 17);
}

#[test]
fn sampling_can_be_cancelled() {
    let mut reader = vectors(npy("|u1", "(5000, 1)", &[0; 5000]), Format::Npy).unwrap();
    let mut stop = |_| ControlFlow::Break(());
    let cancelled = reader.sample(4000, 1, &mut Observer::new(&mut stop));
    assert!(matches!(cancelled, Err(FileError::Cancelled)));
}

#[test]
fn formats_are_told_by_extension_or_by_the_first_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let array = npy("|u1", "(1, 2)", &[3, 4]);
    for name in ["a.npy", "a.NPY", "a.bin", "a"] {
        assert_eq!(all(&mut VectorReader::open(file(name, &array)).unwrap(), 1), [3.0, 4.0], "{name}");
    }
    assert!(VectorReader::open(file("a.bvecs", &vecs(&[&[[1]]]))).is_ok());
    assert!(matches!(VectorReader::open(file("b.bin", b"abc")), Err(FileError::UnknownFormat { .. })));
    assert!(matches!(VectorReader::open(file("b.npy", b"abc")), Err(FileError::Malformed { .. })));
    assert!(matches!(VectorReader::open(file("b.fvecs", b"")), Err(FileError::Malformed { .. })));
    assert!(matches!(VectorReader::open(folder.path().join("none.npy")), Err(FileError::NotFound { .. })));
    assert!(VectorReader::open(folder.path()).is_err());
}

#[test]
fn what_is_written_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("table.npy");
    let table: Vec<f32> = (0..70_000).map(|i| i as f32 / 3.0).collect();
    let mut writer = NpyWriter::table(&path, 7).unwrap();
    table.chunks(7 * 999).for_each(|rows| writer.append(rows).unwrap());
    assert_eq!(writer.finish().unwrap(), 10_000);
    let mut reader = VectorReader::open(&path).unwrap();
    assert_eq!((reader.rows(), reader.dim(), reader.element()), (10_000, 7, Element::F32));
    assert!(all(&mut reader, 123) == table);

    let path = folder.path().join("flat.npy");
    let mut writer = NpyWriter::flat(&path).unwrap();
    writer.append(&[-1i64, i64::MAX]).unwrap();
    writer.finish().unwrap();
    assert_eq!(NumberReader::open(&path).unwrap().next_batch(9).unwrap(), Some(vec![-1, i64::MAX]));
    NpyWriter::<u64>::flat(&path).unwrap().finish().unwrap();
    assert_eq!(NumberReader::open(&path).unwrap().rows(), 0);
}

#[test]
fn the_samples_in_the_repository_are_read() {
    let open = |name| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    let mut base = VectorReader::open(open("sift-10k.base.npy")).unwrap();
    assert_eq!((base.rows(), base.dim(), base.element()), (10_000, 128, Element::U8));
    assert!(all(&mut base, 1000).iter().all(|v| v.fract() == 0.0 && (0.0..256.0).contains(v)));
    let mut text = VectorReader::open(open("text-2k.base.npy")).unwrap();
    for row in all(&mut text, 1000).chunks(384) {
        let norm = row.iter().map(|v| v * v).sum::<f32>().sqrt();
        assert!((norm - 1.0).abs() < 1e-3, "{norm}");
    }
    let mut truth = NumberReader::open(open("sift-10k.truth.npy")).unwrap();
    assert_eq!((truth.rows(), truth.columns(), truth.element()), (200, 100, Element::I32));
    assert!(truth.next_batch::<u64>(200).unwrap().unwrap().iter().all(|&row| row < 10_000));
}
