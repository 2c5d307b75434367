//! Beside FAISS: with its points (`tests/fixtures/faiss`) the code bytes are its code bytes, and the distances its
//! distances.

use super::*;
use crate::fixtures::{Given, bytes, floats};
use std::collections::BTreeMap;

const DIM: usize = 32;
const FOUND: usize = 10;

fn entries(given: &Given, product: &Product) -> Vec<u8> {
    let mut entries = Vec::new();
    product.encode(given.assigned(), &mut entries);
    entries
}

/// The score of each row that a query meets in its lists.
fn scores(given: &Given, product: &Product, query: usize, ht: u32) -> BTreeMap<u32, f32> {
    let entries = entries(given, product);
    let mut scanner = product.filtered_scanner(Rows::of(&given.queries, DIM), ht);
    given.scores(&mut *scanner, (product.layout(), &entries), product.similarity, query)
}

fn product(kind: &str, stages: Stages, similarity: Similarity) -> Product {
    let mut tables = bytes(&format!("{kind}.both.codebooks"));
    if stages.refinement.is_some() {
        tables.extend(bytes(&format!("{kind}.both.refine_codebooks")));
    }
    Product::from_tables(stages, DIM, similarity, &tables).unwrap()
}

fn stages(m: usize, bits: usize, residual: bool) -> Stages {
    ProductQuantizer { m, bits, residual, polysemous: false }.into()
}

fn kinds() -> [(&'static str, Stages); 9] {
    [
        ("PQ8x8", stages(8, 8, false)),
        ("PQ8x8r", stages(8, 8, true)),
        ("PQ8x4", stages(8, 4, false)),
        ("PQ8x4r", stages(8, 4, true)),
        ("PQ4x6", stages(4, 6, false)),
        ("PQ4x6r", stages(4, 6, true)),
        ("PQ4x10r", stages(4, 10, true)),
        ("PQ8x8poly", stages(8, 8, true)),
        ("PQR8x4_4x8", refined()),
    ]
}

fn refined() -> Stages {
    RefinedProduct { m: 8, bits: 4, refine_m: 4, refine_bits: 8, residual: true }.into()
}

#[test]
fn code_bytes_are_faiss_s() {
    let given = Given::whole();
    for (kind, stages) in kinds() {
        let product = product(kind, stages, Similarity::L2);
        let mut parts = vec![bytes(&format!("{kind}.both.codes"))];
        if stages.refinement.is_some() {
            parts.push(bytes(&format!("{kind}.both.refine_codes")));
        }
        let entries = entries(&given, &product);
        for (i, entry) in entries.chunks_exact(product.entry_bytes()).enumerate() {
            let of_row = |part: &Vec<u8>| part[i * part.len() / 1000..(i + 1) * part.len() / 1000].to_vec();
            let wanted: Vec<u8> = parts.iter().flat_map(of_row).collect();
            assert_eq!(entry[..product.code_bytes()], wanted, "{kind}, row {i}");
        }
    }
}

#[test]
fn decoded_rows_are_faiss_s() {
    let given = Given::whole();
    for kind in ["PQ8x8", "PQ8x4", "PQ4x6", "PQR8x4_4x8"] {
        let stages = kinds().into_iter().find(|(name, _)| *name == kind).unwrap().1;
        let product = product(kind, stages, Similarity::L2);
        let (entries, decoded) = (entries(&given, &product), floats(&format!("{kind}.both.decoded")));
        for (i, wanted) in decoded.chunks_exact(DIM).enumerate() {
            let centroid = given.centroid(given.lists[i]);
            let mut row = vec![0.0; DIM];
            product.decode(
                Some(centroid),
                &entries[i * product.entry_bytes()..][..product.entry_bytes()],
                &mut row,
            );
            for (x, y) in row.iter().zip(wanted) {
                assert!((x - y).abs() < 1e-6, "{kind}, row {i}: {x} {y}");
            }
        }
    }
}

/// Compares what FAISS found for one query, ids and distances, with `scores`; `best` if they are the best of all.
fn compare(what: &str, scores: &BTreeMap<u32, f32>, ids: &[f32], distances: &[f32], best: bool) {
    let there = ids.iter().filter(|id| **id >= 0.0).count();
    let size = distances[..there].iter().fold(0.0f32, |most, d| most.max(d.abs()));
    let near = |a: f32, b: f32| (a - b).abs() <= 1e-5 * size;
    for (id, distance) in ids.iter().zip(distances).take(there) {
        let ours = scores.get(&(*id as u32)).copied().unwrap_or(f32::MAX);
        assert!(near(ours, *distance), "{what}, row {id}: {ours}, wanted {distance}");
    }
    let mut sorted: Vec<f32> = scores.values().copied().collect();
    sorted.sort_by(f32::total_cmp);
    for (ours, distance) in sorted.iter().zip(&distances[..there]) {
        assert!(near(*ours, *distance) || (!best && ours < distance), "{what}: {ours}, wanted {distance}");
    }
    assert!(there == FOUND || scores.len() == there, "{what}: {} found, {there} wanted", scores.len());
}

#[test]
fn distances_are_faiss_s() {
    let given = Given::whole();
    for (kind, stages) in kinds() {
        for similarity in [Similarity::L2, Similarity::Dot] {
            let (of_both, of_l2) = (2 * 2 * 20 * FOUND, 2 * 20 * FOUND);
            let only_l2 = kind.contains("poly") || kind.contains("PQR");
            if only_l2 && similarity == Similarity::Dot {
                continue;
            }
            let found = floats(&format!("{kind}.{}.found", if only_l2 { "l2" } else { "both" }));
            assert_eq!(found.len(), if only_l2 { of_l2 } else { of_both });
            let found = &found[if similarity == Similarity::Dot { of_l2 } else { 0 }..][..of_l2];
            let product = product(kind, stages, similarity);
            for query in 0..20 {
                let (ids, distances) = found.split_at(20 * FOUND);
                let ids = &ids[query * FOUND..(query + 1) * FOUND];
                let sign = if similarity == Similarity::L2 { 1.0 } else { -1.0 };
                let distances: Vec<f32> =
                    distances[query * FOUND..(query + 1) * FOUND].iter().map(|d| sign * d).collect();
                let scores = scores(&given, &product, query, 0);
                // FAISS scores no more than 40 by both codes, so that better ones may be among the others.
                compare(&format!("{kind} {query}"), &scores, ids, &distances, stages.refinement.is_none());
            }
        }
    }
}

#[test]
fn a_polysemous_filter_passes_what_faiss_s_does() {
    let given = Given::whole();
    let product = product("PQ8x8poly", stages(8, 8, true), Similarity::L2);
    let found = floats("PQ8x8poly_ht24.l2.found");
    let (ids, distances) = found.split_at(20 * FOUND);
    let mut filtered = 0;
    for query in 0..20 {
        let all = scores(&given, &product, query, 0).len();
        let scores = scores(&given, &product, query, 24);
        filtered += all - scores.len();
        let range = query * FOUND..(query + 1) * FOUND;
        compare(&format!("ht 24, {query}"), &scores, &ids[range.clone()], &distances[range], true);
    }
    assert!(filtered > 0);
}
