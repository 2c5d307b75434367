//! Each distance against its formula in f64, for every table; the pairs that have none; the promises of `kernel/mod.rs`.

use super::*;
use crate::math::random::Random;

const ALL: [Distance; 15] = [
    Distance::L1,
    Distance::Linf,
    Distance::Power(1.0),
    Distance::Power(2.0),
    Distance::Power(3.0),
    Distance::Power(4.0),
    Distance::Power(0.5),
    Distance::Power(2.7),
    Distance::Power(9.0),
    Distance::Canberra,
    Distance::BrayCurtis,
    Distance::JensenShannon,
    Distance::Jaccard,
    Distance::NanEuclidean,
    Distance::Gower,
];

fn takes_missing(distance: Distance) -> bool {
    matches!(distance, Distance::NanEuclidean | Distance::Gower)
}

/// The formulas again, in f64, and what rounding is relative to.
fn exact(distance: Distance, q: &[f32], x: &[f32]) -> f64 {
    let pairs: Vec<(f64, f64)> = q.iter().zip(x).map(|(q, x)| (f64::from(*q), f64::from(*x))).collect();
    let sum = |term: &dyn Fn(f64, f64) -> f64| pairs.iter().map(|(q, x)| term(*q, *x)).sum::<f64>();
    let gap = |q: f64, x: f64| (q - x).abs();
    let xlog = |x: f64, m: f64| if x == 0.0 { 0.0 } else { x * (x / m).ln() };
    let both: Vec<(f64, f64)> = pairs.iter().copied().filter(|(q, x)| !q.is_nan() && !x.is_nan()).collect();
    match distance {
        Distance::L1 => sum(&gap),
        Distance::Linf => pairs.iter().map(|(q, x)| gap(*q, *x)).fold(0.0, f64::max),
        Distance::Power(p) => sum(&|q, x| gap(q, x).powf(p.into())),
        Distance::Canberra => {
            sum(&|q, x| if q == 0.0 && x == 0.0 { 0.0 } else { gap(q, x) / (q.abs() + x.abs()) })
        }
        Distance::BrayCurtis => sum(&gap) / sum(&|q, x| (q + x).abs()),
        Distance::JensenShannon => 0.5 * sum(&|q, x| xlog(q, 0.5 * (q + x)) + xlog(x, 0.5 * (q + x))),
        Distance::Jaccard => -sum(&|q, x| q.min(x)) / sum(&|q, x| q.max(x)),
        Distance::NanEuclidean => {
            let sum: f64 = both.iter().map(|(q, x)| gap(*q, *x).powi(2)).sum();
            pairs.len() as f64 / both.len() as f64 * sum
        }
        Distance::Gower => {
            let part = |(q, x): &(f64, f64)| match (*q >= 0.0, *x >= 0.0) {
                (true, true) => gap(*q, *x),
                (false, false) => f64::from(u8::from(q != x)),
                _ => f64::NAN,
            };
            both.iter().map(part).sum::<f64>() / both.len() as f64
        }
    }
}

/// Components that the distance is made for, some of them 0, equal to others, or missing.
fn rows(distance: Distance, n: usize, dim: usize, seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed);
    let component = |i: usize| {
        let value = random.unit() as f32;
        match (distance, random.below(8)) {
            (_, 0) if takes_missing(distance) => f32::NAN,
            (Distance::Gower, _) if i % dim % 3 == 2 => -1.0 - (value * 3.0).floor(),
            (_, 1) => 0.0,
            (_, 2) => 0.5,
            (Distance::Gower, _) => value,
            (Distance::JensenShannon | Distance::Jaccard, kind) => value * [1.0, 1e-6, 40.0][kind % 3],
            (_, kind) => (2.0 * value - 1.0) * [1.0, 1e-3, 7.0][kind % 3],
        }
    };
    (0..n * dim).map(component).collect()
}

fn scores(kernels: &Kernels, distance: Distance, queries: &[&[f32]], rows: &[f32]) -> Vec<f32> {
    let mut scores = vec![7.0; queries.len() * rows.len() / queries[0].len()];
    kernels.distances_rows(distance, queries, rows, &mut scores);
    scores
}

#[test]
fn scores_are_those_of_the_formulas() {
    for distance in ALL {
        for dim in [1, 2, 3, 15, 16, 17, 31, 32, 33, 64, 100, 300] {
            let (queries, rows) = (rows(distance, 3, dim, 1), rows(distance, 17, dim, 2));
            let queries: Vec<&[f32]> = queries.chunks(dim).collect();
            let found = scores(Kernels::all()[0], distance, &queries, &rows);
            let pairs = queries.iter().flat_map(|q| rows.chunks(dim).map(move |x| (q, x)));
            for ((q, x), found) in pairs.zip(found) {
                let exact = exact(distance, q, x);
                let off = (f64::from(found) - exact).abs();
                let same = off <= 1e-5 * exact.abs() || (found.is_nan() && !exact.is_finite());
                assert!(same, "{distance:?}, {dim}: {found}, expected {exact} of {q:?} and {x:?}");
            }
        }
    }
}

#[test]
fn tables_agree_bit_for_bit_and_company_changes_nothing() {
    let bits = |scores: &[f32]| {
        scores.iter().map(|score| score.to_bits() & !(u32::from(score.is_nan()) << 31)).collect::<Vec<u32>>()
    };
    for distance in ALL {
        for dim in [1, 7, 32, 50, 129] {
            let (queries, rows) = (rows(distance, 5, dim, 3), rows(distance, 11, dim, 4));
            let queries: Vec<&[f32]> = queries.chunks(dim).collect();
            let expected = scores(&super::super::portable::KERNELS, distance, &queries, &rows);
            assert!(expected.iter().all(|score| score.to_bits() != (-0.0f32).to_bits()), "{distance:?}");
            for kernels in Kernels::all() {
                let batch = scores(kernels, distance, &queries, &rows);
                assert_eq!(bits(&batch), bits(&expected), "{distance:?}, {dim}, {}", kernels.name);
                let alone: Vec<f32> = queries
                    .iter()
                    .flat_map(|q| rows.chunks(dim).flat_map(|x| scores(kernels, distance, &[q], x)))
                    .collect();
                assert_eq!(bits(&alone), bits(&expected), "{distance:?}, {dim}, {}", kernels.name);
            }
        }
    }
}

#[test]
fn pairs_without_a_distance_score_nan() {
    let nan = f32::NAN;
    let cases: [(Distance, &[f32], &[f32]); 8] = [
        (Distance::BrayCurtis, &[0.0, 0.0], &[0.0, 0.0]),
        (Distance::BrayCurtis, &[1.0, -2.0], &[-1.0, 2.0]),
        (Distance::BrayCurtis, &[1e30, 1e-20], &[-1e30, 1e-20]),
        (Distance::Jaccard, &[0.0, 0.0], &[0.0, 0.0]),
        (Distance::NanEuclidean, &[1.0, nan], &[nan, 2.0]),
        (Distance::NanEuclidean, &[nan, nan], &[1.0, 2.0]),
        (Distance::Gower, &[0.5, 0.5], &[0.5, -1.0]),
        (Distance::Gower, &[nan, 0.5], &[0.5, nan]),
    ];
    for (distance, q, x) in cases {
        for kernels in Kernels::all() {
            for (a, b) in [(q, x), (x, q)] {
                let score = scores(kernels, distance, &[a], b)[0];
                assert!(score.is_nan(), "{distance:?} of {a:?} and {b:?}: {score} ({})", kernels.name);
            }
        }
    }
}

#[test]
fn zeros_have_the_limits_of_the_formulas() {
    let of = |distance, q: &[f32], x: &[f32]| scores(Kernels::get(), distance, &[q], x)[0];
    assert_eq!(of(Distance::Canberra, &[0.0, 1.0, 0.0], &[0.0, 3.0, 2.0]), 1.5);
    let ln2 = std::f32::consts::LN_2;
    assert_eq!(of(Distance::JensenShannon, &[0.0, 1.0, 0.0], &[0.0, 1.0, 1.0]), 0.5 * ln2);
    assert_eq!(of(Distance::JensenShannon, &[1e-45, 1e38], &[1e38, 0.0]), 1e38 * ln2);
    assert_eq!(of(Distance::Power(0.5), &[0.0, 1.0], &[0.0, 1.0]), 0.0);
    assert_eq!(of(Distance::Gower, &[-0.0, -3.0], &[0.25, -3.0]), 0.125);
}

/// No power of what `Metric` lets in is infinite, and the smallest are not lost.
#[test]
fn powers_hold_from_end_to_end() {
    let of = |p: f32, d: f32| f64::from(scores(Kernels::get(), Distance::Power(p), &[&[d]], &[0.0])[0]);
    for (p, d) in
        [(0.01, 1e-45), (0.01, 3e38), (1.5, 1e25), (1.5, 1e-25), (37.0, 10.9), (1000.0, 1.09), (5.0, 3e-9)]
    {
        let exact = f64::from(d).powf(p.into());
        let off = (of(p, d) - exact).abs() / exact;
        assert!(off < 2e-7 || exact < 1e-37, "{d} to the {p}: {} and not {exact}", of(p, d));
    }
    assert_eq!(of(1e30, 0.5), 0.0);
    assert_eq!(of(1e30, 1.0), 1.0);
}
