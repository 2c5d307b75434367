//! Bits against the formula, scores against counted bits. It breaks where a query is hashed with another list's thresholds
//! than its codes, or where a period's halves are the wrong way round.

use super::*;
use crate::codec::Visit;
use crate::fixtures;
use crate::math::random::Random;
use crate::{Error, NORM_MAX};
use std::ops::ControlFlow;

const SPELLINGS: [&str; 10] =
    ["SH", "SHc", "SHm", "SH1.2", "SH1.2c", "SH1.2h", "SH-0.7m", "SH_64", "SH1.2m_24", "SHc_100"];

fn hash(text: &str) -> SpectralHash {
    text.parse().unwrap()
}

/// Rows in three lists, the last of which is empty.
struct Data {
    dim: usize,
    rows: Vec<f32>,
    lists: Vec<u32>,
    centroids: Vec<f32>,
}

impl Data {
    fn new(seed: u64, dim: usize, n: usize) -> Self {
        let mut random = Random::new(seed);
        let mut values = |count| (0..count).map(|_| random.unit() as f32 * 4.0 - 2.0).collect();
        let (rows, centroids) = (values(n * dim), values(3 * dim));
        Data { dim, rows, lists: (0..n as u32).map(|i| i % 2).collect(), centroids }
    }

    fn assigned(&self) -> Assigned<'_> {
        let centroids = Some(Rows::of(&self.centroids, self.dim));
        Assigned { rows: Rows::of(&self.rows, self.dim), lists: &self.lists, centroids }
    }

    fn train(&self, text: &str) -> Spectral {
        train(text, self.assigned()).unwrap()
    }
}

fn train(text: &str, sample: Assigned<'_>) -> Result<Spectral> {
    let training = Training { sample, similarity: Similarity::L2, seed: 1, iterations: None, rows: None };
    Spectral::train(hash(text), &training, &mut Observer::none())
}

fn codes(codec: &Spectral, rows: Assigned<'_>) -> Vec<u8> {
    let mut codes = Vec::new();
    codec.encode(rows, &mut codes);
    assert_eq!(codes.len(), rows.rows.len() * codec.layout().code_bytes());
    codes
}

/// A bit by FAISS's words, in f64: the factory's period where there is none.
fn bit(value: f32, threshold: f32, period: Option<f32>) -> bool {
    let frequency = 2.0 / f64::from(period.unwrap_or(-1e10));
    ((f64::from(value) - f64::from(threshold)) * frequency).floor() as i64 & 1 == 1
}

#[test]
fn bits_are_those_of_the_formula_lowest_first() {
    for (text, dim) in SPELLINGS.into_iter().flat_map(|text| [1, 7, 8, 33, 64].map(|dim| (text, dim))) {
        let data = Data::new(dim as u64, dim, 80);
        let codec = data.train(text);
        let period = hash(text).period.map(|period| period.get());
        let packed = codes(&codec, data.assigned());
        let projected = codec.project(data.assigned().rows);
        let (mut differ, mut all) = (0, 0);
        for (i, code) in packed.chunks_exact(codec.code_bytes()).enumerate() {
            let thresholds = codec.thresholds(data.lists[i]);
            for j in 0..codec.bits {
                let expected = bit(projected[i * codec.bits + j], thresholds[j], period);
                differ += usize::from((code[j / 8] >> (j % 8) & 1 == 1) != expected);
                all += 1;
            }
            assert!((codec.bits..8 * code.len()).all(|j| code[j / 8] >> (j % 8) & 1 == 0), "{text}");
        }
        // A value on an interval's edge may be rounded over it.
        assert!(differ * 1000 <= all, "{text} {dim}: {differ} of {all}");
    }
}

#[test]
fn thresholds_are_those_of_the_lists() {
    let data = Data::new(1, 5, 9);
    let of = |text: &str| data.train(text).thresholds;
    assert!(of("SH").is_empty() && of("SH3").is_empty());
    assert_eq!(of("SHc"), data.centroids);
    assert_eq!(of("SH2h"), data.centroids.iter().map(|c| c - 0.5).collect::<Vec<_>>());
    let medians = of("SHm");
    for (list, j) in [(0, 0), (0, 4), (1, 2)] {
        let rows = data.rows.chunks_exact(5).zip(&data.lists).filter(|(_, l)| **l == list);
        let mut column: Vec<f32> = rows.map(|(row, _)| row[j]).collect();
        column.sort_by(f32::total_cmp);
        // Five rows in the first list, four in the second.
        let expected = if list == 0 { column[2] } else { (column[1] + column[2]) / 2.0 };
        assert_eq!(medians[list as usize * 5 + j], expected);
    }
    assert_eq!(medians[10..], data.centroids[10..], "a list without rows");
    // Without lists there is one, around zero.
    let alone = Assigned { centroids: None, lists: &[0; 9], ..data.assigned() };
    assert_eq!(train("SHc", alone).unwrap().thresholds, [0.0; 5]);
    assert_eq!(train("SHm", alone).unwrap().thresholds.len(), 5);
}

/// Half the rows of a list are above its medians, each component of them.
#[test]
fn medians_make_bits_even() {
    let data = Data::new(2, 16, 400);
    for text in ["SHm", "SHm_16", "SHm_40"] {
        let codec = data.train(text);
        let packed = codes(&codec, data.assigned());
        for j in 0..codec.bits {
            let rows = packed.chunks_exact(codec.code_bytes()).step_by(2);
            assert_eq!(rows.filter(|code| code[j / 8] >> (j % 8) & 1 == 1).count(), 100, "{text} {j}");
        }
    }
}

fn scan(codec: &Spectral, list: u32, codes: &[u8], queries: Rows<'_>) -> Vec<Vec<f32>> {
    let n = codes.len() / codec.code_bytes();
    let visits: Vec<Visit> =
        (0..queries.len() as u32).map(|query| Visit { query, coarse: query as f32 }).collect();
    let mut scanner = codec.scanner(queries);
    scanner.enter(Probe { list, centroid: None, visits: &visits });
    let live = vec![u32::MAX; n.div_ceil(32)];
    let (live, worst) = (vec![&live[..]; visits.len()], vec![f32::MAX; visits.len()]);
    let mut found = vec![Found::default(); visits.len()];
    scanner.scan(Codes { bytes: codes, n, ahead: codes }, 0, &worst, &live, &mut found);
    for found in &found {
        assert_eq!(found.entries, (0..n as u32).collect::<Vec<_>>());
    }
    found.into_iter().map(|found| found.scores).collect()
}

/// A query is hashed as a row of the list would be, and scores count the bits that differ, alone and in company.
#[test]
fn scores_count_the_bits_that_differ() {
    for (text, dim) in SPELLINGS.into_iter().flat_map(|text| [1, 8, 70, 128].map(|dim| (text, dim))) {
        let data = Data::new(dim as u64, dim, 150);
        let codec = data.train(text);
        let queries = Rows::of(&data.rows, dim).slice(0..19);
        for list in [0, 1, 2] {
            let rows = Assigned { lists: &[list; 150], ..data.assigned() };
            let packed = codes(&codec, rows);
            let all = scan(&codec, list, &packed, queries);
            let size = codec.code_bytes();
            for (q, told) in all.iter().enumerate() {
                assert_eq!(&scan(&codec, list, &packed, queries.slice(q..q + 1))[0], told, "{text}");
                assert_eq!(told[q], 0.0, "{text}: a query that is a row");
                for (code, score) in packed.chunks_exact(size).zip(told) {
                    let query = &packed[q * size..][..size];
                    let differ: u32 = code.iter().zip(query).map(|(a, b)| (a ^ b).count_ones()).sum();
                    assert_eq!(*score, differ as f32, "{text}");
                }
            }
        }
    }
}

#[test]
fn only_what_lives_and_is_near_enough_is_found() {
    let data = Data::new(3, 64, 70);
    let codec = data.train("SHc");
    let rows = Assigned { lists: &[1; 70], ..data.assigned() };
    let packed = codes(&codec, rows);
    let all = scan(&codec, 1, &packed, rows.rows);
    let mut scanner = codec.scanner(rows.rows);
    let visits: Vec<Visit> = (0..20).map(|query| Visit { query, coarse: 0.0 }).collect();
    scanner.enter(Probe { list: 1, centroid: None, visits: &visits });
    let live: [u32; 3] = [0xffff_0fff, 0b1011, 1];
    for (first, count) in [(3, 12), (19, 1)] {
        let worst = vec![30.0; count];
        let mut found = vec![Found::default(); count];
        scanner.scan(
            Codes { bytes: &packed, n: 70, ahead: &[] },
            first,
            &worst,
            &vec![&live[..]; count],
            &mut found,
        );
        for (found, told) in found.iter().zip(&all[first..]) {
            let near = |i: &u32| told[*i as usize] <= 30.0 && live[*i as usize / 32] >> (i % 32) & 1 == 1;
            assert_eq!(found.entries, (0..70).filter(near).collect::<Vec<u32>>());
            assert!(found.len() > 0 && found.iter().all(|(i, score)| score == told[i as usize]));
        }
    }
}

/// Near vectors differ in few bits: in the nearest tenth by bits there are many more than a tenth of the near.
#[test]
fn near_vectors_differ_in_few_bits() {
    let (dim, n) = (32, 500);
    let data = Data::new(4, dim, n);
    for text in ["SH_64", "SHc_64", "SHm_128", "SH12_128"] {
        let codec = data.train(text);
        let rows = Assigned { lists: &vec![0; n], ..data.assigned() };
        let packed = codes(&codec, rows);
        let mut hits = 0;
        for (query, told) in rows.rows.iter().zip(scan(&codec, 0, &packed, rows.rows.slice(0..20))) {
            let nearest = |key: &dyn Fn(usize) -> f32| {
                let mut order: Vec<usize> = (0..n).collect();
                order.sort_by(|a, b| key(*a).total_cmp(&key(*b)));
                order.truncate(50);
                order
            };
            let away = |i: usize| rows.rows.row(i).iter().zip(query).map(|(x, q)| (x - q) * (x - q)).sum();
            let (exact, by_bits) = (nearest(&away), nearest(&|i| told[i]));
            hits += exact.iter().filter(|i| by_bits.contains(i)).count();
        }
        // By chance it would be 100 of 1000.
        assert!(hits > 350, "{text}: {hits}");
    }
}

#[test]
fn tables_come_back_and_damaged_ones_are_refused() {
    for text in SPELLINGS {
        let data = Data::new(5, 13, 40);
        let codec = data.train(text);
        let tables = codec.tables();
        let load = |tables: &[u8]| Spectral::from_tables(hash(text), 13, Similarity::L2, tables);
        let again = load(&tables).unwrap();
        assert_eq!(codes(&again, data.assigned()), codes(&codec, data.assigned()));
        assert_eq!(again.tables(), tables);
        if tables.is_empty() {
            assert!(load(&[0; 4]).is_err() && load(&vec![0; 4 * codec.bits]).is_err());
            continue;
        }
        for length in [0, 1, tables.len() - 1, tables.len() - 4, tables.len() + 3, tables.len() + 4] {
            let mut cut = tables.clone();
            cut.resize(length, 0);
            assert!(load(&cut).is_err(), "{text} {length}");
        }
        let mut damaged = tables.clone();
        damaged[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        assert!(load(&damaged).is_err());
        // Of fewer lists than there are: no panic.
        let fewer = load(&tables[..4 * codec.bits]).unwrap();
        codes(&fewer, data.assigned());
        scan(&fewer, 9, &codes(&codec, data.assigned()), data.assigned().rows.slice(0..2));
    }
}

#[test]
fn training_is_the_same_on_any_number_of_threads() {
    let data = Data::new(6, 9, 4000);
    for text in SPELLINGS {
        let [one, three] = [1, 3].map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| data.train(text).tables())
        });
        assert_eq!(one, three, "{text}");
    }
}

#[test]
fn all_rows_have_a_place_and_none_comes_back() {
    for (text, dim) in SPELLINGS.into_iter().chain(["SH1e-18m"]).flat_map(|t| [1, 5, 128].map(|d| (t, d))) {
        for scale in [0.0, 1e-45, 1.0, NORM_MAX / (dim as f32).sqrt()] {
            let rows = [vec![scale; dim], vec![-scale; dim], vec![scale; dim]].concat();
            let centroids = vec![-scale; dim];
            for n in [0, 1, 3] {
                let lists = vec![0; n];
                let centroids = Some(Rows::of(&centroids, dim));
                let rows = Assigned { rows: Rows::of(&rows[..n * dim], dim), lists: &lists, centroids };
                let codec = train(text, rows).unwrap();
                let packed = codes(&codec, rows);
                let told = scan(&codec, 0, &packed, rows.rows);
                let bits = codec.bits as f32;
                assert!(told.iter().flatten().all(|score| (0.0..=bits).contains(score)), "{text} {scale}");
            }
        }
    }
    let codec = Data::new(1, 4, 9).train("SH");
    assert!(!codec.decodes());
    let mut row = [f32::NAN; 4];
    codec.decode(Some(&[1.0, 2.0, 3.0, 4.0]), &[5], &mut row);
    assert_eq!(row, [1.0, 2.0, 3.0, 4.0]);
    codec.decode(None, &[5], &mut row);
    assert_eq!(row, [0.0; 4]);
}

#[test]
fn training_reports_and_can_be_cancelled() {
    let data = Data::new(2, 10, 50);
    let training = Training {
        sample: data.assigned(),
        similarity: Similarity::L2,
        seed: 1,
        iterations: None,
        rows: None,
    };
    let mut ticks = Vec::new();
    let mut keep = |tick: crate::Tick| {
        ticks.push((tick.done, tick.total));
        ControlFlow::Continue(())
    };
    Spectral::train(hash("SHm"), &training, &mut Observer::new(&mut keep)).unwrap();
    assert_eq!(ticks, [(0, 3), (3, 3)]);
    let mut stop = |_| ControlFlow::Break(());
    let stopped = Spectral::train(hash("SHm"), &training, &mut Observer::new(&mut stop));
    assert!(matches!(stopped, Err(Error::Cancelled)));
}

/// Thresholds, codes and distances are FAISS's, but for components on the edge of an interval that are rounded over it.
#[test]
fn codes_are_those_of_faiss() {
    let (mean, matrix) = (fixtures::floats("SH24.both.mean"), fixtures::floats("SH24.both.matrix"));
    let turned = |name: &str| -> Vec<f32> {
        let turn = |row: &[f32]| {
            let less = row.iter().zip(&mean).map(|(x, m)| f64::from(x - m));
            let less: Vec<f64> = less.collect();
            let length = less.iter().map(|v| v * v).sum::<f64>().sqrt();
            let out = |a: &[f32]| a.iter().zip(&less).map(|(a, v)| f64::from(*a) * v / length).sum::<f64>();
            matrix.chunks_exact(32).map(|a| out(a) as f32).collect::<Vec<f32>>()
        };
        fixtures::floats(name).chunks_exact(32).flat_map(turn).collect()
    };
    let (base, centroids) = (turned("shared.both.base"), turned("shared.both.centroids"));
    let (queries, lists) = (turned("shared.both.queries"), fixtures::numbers("shared.both.lists"));
    let rows =
        Assigned { rows: Rows::of(&base, 24), lists: &lists, centroids: Some(Rows::of(&centroids, 24)) };
    for (name, text) in
        [("global", "SH0.3"), ("centroid", "SH0.3c"), ("half", "SH0.3h"), ("median", "SH0.3m")]
    {
        let codec = train(text, rows).unwrap();
        if name != "global" {
            let theirs = fixtures::floats(&format!("SH24_{name}.l2.thresholds"));
            assert_eq!(theirs.len(), codec.thresholds.len());
            assert!(theirs.iter().zip(&codec.thresholds).all(|(a, b)| (a - b).abs() < 1e-5), "{text}");
        }
        let theirs = fixtures::bytes(&format!("SH24_{name}.l2.codes"));
        let ours = codes(&codec, rows);
        let apart: u32 = theirs.iter().zip(&ours).map(|(a, b)| (a ^ b).count_ones()).sum();
        // Medians of odd counts are values of rows, at the edge of an interval by construction.
        let most = if name == "median" { 250 } else { 12 };
        assert!(apart <= most, "{text}: {apart} of 24,000 bits");
        let found = fixtures::floats(&format!("SH24_{name}.l2.found"));
        for (at, (id, distance)) in found[..200].iter().zip(&found[200..]).enumerate() {
            let row = *id as usize;
            let query = Rows::of(&queries[at / 10 * 24..][..24], 24);
            let told = scan(&codec, lists[row], &theirs[3 * row..][..3], query)[0][0];
            assert!((told - distance).abs() <= 1.0, "{text}: {told} {distance}");
        }
    }
}
