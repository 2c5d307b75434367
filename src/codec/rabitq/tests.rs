//! How this code breaks: a factor that is off by two or by a sign (estimates biased, or inexact at the vector itself), a bit
//! that stands for another component, a bound that is above distances too often, an answer that depends on what was
//! scanned before. Scores are compared with the formula in f64, from the packed code.

use super::*;
use crate::math::random::Random;

const SIMILARITIES: [Similarity; 2] = [Similarity::L2, Similarity::Dot];

/// Near enough to a Gaussian: the sum of twelve uniform numbers.
fn gaussian(random: &mut Random) -> f32 {
    ((0..12).map(|_| random.unit()).sum::<f64>() - 6.0) as f32
}

fn vector(random: &mut Random, dim: usize, scale: f32) -> Vec<f32> {
    (0..dim).map(|_| gaussian(random) * scale).collect()
}

/// `n` rows around `centre`.
fn around(random: &mut Random, centre: &[f32], n: usize, scale: f32) -> Vec<f32> {
    (0..n).flat_map(|_| centre.iter().map(|c| c + gaussian(random) * scale).collect::<Vec<_>>()).collect()
}

pub(super) fn exact(similarity: Similarity, q: &[f32], x: &[f32]) -> f64 {
    let pairs = q.iter().zip(x).map(|(q, x)| (f64::from(*q), f64::from(*x)));
    match similarity {
        Similarity::L2 => pairs.map(|(q, x)| (q - x) * (q - x)).sum(),
        Similarity::Dot => -pairs.map(|(q, x)| q * x).sum::<f64>(),
    }
}

fn spec(bits: u8) -> Spec {
    Spec::new(bits).unwrap()
}

pub(super) fn code(bits: u8, dim: usize, similarity: Similarity) -> RaBitQ {
    RaBitQ::new(spec(bits), dim, similarity)
}

pub(super) fn encode(codec: &RaBitQ, centroid: Option<&[f32]>, rows: &[f32]) -> Vec<u8> {
    let (dim, n) = (codec.dim, rows.len() / codec.dim);
    let centroids = centroid.map(|centroid| Rows::of(centroid, dim));
    let mut packed = Vec::new();
    codec.encode(Assigned { rows: Rows::of(rows, dim), lists: &vec![0; n], centroids }, &mut packed);
    assert_eq!(packed.len(), n * codec.layout().code_bytes());
    packed
}

/// What a search is told of packed codes by each query, with a threshold for each.
pub(super) fn search(
    codec: &RaBitQ,
    centroid: Option<&[f32]>,
    packed: &[u8],
    queries: &[f32],
    worst: &[f32],
) -> Vec<Found> {
    let n = packed.len() / codec.layout().code_bytes();
    let mut region = Vec::new();
    codec.layout().pack(packed, &mut region);
    let queries = Rows::of(queries, codec.dim);
    let mut scanner = codec.scanner(queries);
    let coarse = |query: &[f32]| centroid.map_or(0.0, |c| exact(codec.similarity, query, c) as f32);
    let visits: Vec<Visit> =
        queries.iter().zip(0..).map(|(q, query)| Visit { query, coarse: coarse(q) }).collect();
    scanner.enter(Probe { list: 0, centroid, visits: &visits });
    let live = vec![u32::MAX; n.div_ceil(32)];
    let mut found = vec![Found::default(); queries.len()];
    let block = Codes { bytes: &region, n, ahead: &region };
    scanner.scan(block, 0, worst, &vec![&live[..]; queries.len()], &mut found);
    found
}

/// The scores of all rows for one query.
fn scores(codec: &RaBitQ, centroid: Option<&[f32]>, rows: &[f32], query: &[f32]) -> Vec<f32> {
    let packed = encode(codec, centroid, rows);
    let found = search(codec, centroid, &packed, query, &[f32::MAX]).remove(0);
    assert_eq!(found.entries, (0..(rows.len() / codec.dim) as u32).collect::<Vec<_>>());
    found.scores
}

/// The estimates by signs and by levels of a packed code, and the bound without what rounding the query takes, in f64
/// from nothing but the formulas.
fn formula(codec: &RaBitQ, centroid: &[f32], query: &[f32], packed: &[u8]) -> (f64, f64, f64) {
    let parts = codec.parts(packed);
    let coarse = exact(codec.similarity, query, centroid);
    let sign = |j: usize| if parts.signs[j / 8] >> (j % 8) & 1 == 1 { 0.5 } else { -0.5 };
    let dot = |value: &dyn Fn(usize) -> f64| -> f64 {
        query.iter().enumerate().map(|(j, q)| f64::from(*q) * value(j)).sum()
    };
    let estimate = |scale: f32, bias: f32, product: f64| {
        coarse + f64::from(bias) - codec.twice() * f64::from(scale) * product
    };
    let signs = estimate(parts.scale, parts.bias, dot(&sign));
    if codec.extra_bits() == 0 {
        return (signs, signs, signs);
    }
    let levels = dot(&|j| f64::from(codec.value(&parts, j)));
    let away = exact(Similarity::L2, query, centroid).sqrt();
    (signs, estimate(parts.level_scale, parts.level_bias, levels), signs - f64::from(parts.error) * away)
}

/// Scores are what the formula says: the larger of estimate and bound, where the bound may be lower by what rounding the
/// table can have taken. The estimate by levels is met to 2e-5 of its terms. A table of bytes adds a deviation of about
/// .0085·‖r‖‖q‖/√d to signs, twice that for distances.
#[test]
fn scores_are_the_formulas() {
    let mut random = Random::new(1);
    for bits in 1..=9 {
        for similarity in SIMILARITIES {
            for dim in [1, 2, 5, 16, 17, 64, 100, 131] {
                let codec = code(bits, dim, similarity);
                let centroid = vector(&mut random, dim, 2.0);
                let (rows, query) = (around(&mut random, &centroid, 40, 1.0), vector(&mut random, dim, 2.0));
                let packed = encode(&codec, Some(&centroid), &rows);
                let told = scores(&codec, Some(&centroid), &rows, &query);
                for ((packed, row), told) in
                    packed.chunks(codec.layout().code_bytes()).zip(rows.chunks(dim)).zip(told)
                {
                    let told = f64::from(told);
                    let (signs, levels, bound) = formula(&codec, &centroid, &query, packed);
                    let norm = |v: &[f32]| exact(Similarity::L2, v, &vec![0.0; dim]).sqrt();
                    let size = (norm(&query) + norm(row)).powi(2) + 4.0 * norm(&centroid).powi(2);
                    let residual = exact(Similarity::L2, row, &centroid).sqrt();
                    let coarse = 0.07 * codec.twice() * residual * norm(&query) / (dim as f64).sqrt();
                    if bits == 1 {
                        assert!((told - signs).abs() < coarse + 1e-5 * size, "{dim} {told} {signs}");
                        continue;
                    }
                    let met = (told - levels).abs() < 2e-5 * size;
                    let lifted = told > levels && told < bound + coarse + 1e-5 * size;
                    assert!(met || lifted, "{bits} {similarity:?} {dim}: {told} {levels} {bound}");
                }
            }
        }
    }
}

/// The property that biases are made for: a query at the vector itself is told the exact score, up to the rounding of
/// its table; exactly so by levels.
#[test]
fn an_estimate_is_exact_at_its_vector() {
    let mut random = Random::new(2);
    for bits in [1, 2, 4, 9] {
        for similarity in SIMILARITIES {
            for dim in [1, 2, 3, 17, 64, 100, 384] {
                let codec = code(bits, dim, similarity);
                let (centroid, x) = (vector(&mut random, dim, 3.0), vector(&mut random, dim, 4.0));
                let told = f64::from(scores(&codec, Some(&centroid), &x, &x)[0]);
                let size = exact(Similarity::L2, &x, &vec![0.0; dim]) + 9.0 * dim as f64;
                let tolerance = if bits == 1 { 0.05 } else { 1e-4 };
                let off = (told - exact(similarity, &x, &x)).abs();
                assert!(off < tolerance * size, "{bits} {dim} {told} {off}");
            }
        }
    }
}

/// The errors of an estimate in units of ‖r‖·‖q − c‖/√d, twice that for distances, of rows around a centroid.
fn errors(codec: &RaBitQ, seed: u64, n: usize) -> Vec<f64> {
    let mut random = Random::new(seed);
    let (dim, similarity) = (codec.dim, codec.similarity);
    let centroid = vector(&mut random, dim, 2.0);
    let rows = around(&mut random, &centroid, n, 1.0);
    let query = around(&mut random, &centroid, 1, 1.0);
    let away = exact(Similarity::L2, &query, &centroid).sqrt();
    let told = scores(codec, Some(&centroid), &rows, &query);
    let unit =
        |x: &[f32]| codec.twice() * exact(Similarity::L2, x, &centroid).sqrt() * away / (dim as f64).sqrt();
    told.iter()
        .zip(rows.chunks(dim))
        .map(|(told, x)| (f64::from(*told) - exact(similarity, &query, x)) / unit(x))
        .collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn spread(values: &[f64]) -> f64 {
    (values.iter().map(|v| v * v).sum::<f64>() / values.len() as f64).sqrt()
}

/// Estimates are unbiased, and their spread is √(MSE/(1 − MSE)) of the best equal steps for a Gaussian: .755 for signs,
/// then about half with each bit. With two bits and more a bound that is above one distance in forty lifts the mean a
/// little.
#[test]
fn estimates_are_unbiased_and_each_bit_halves_their_error() {
    let promised = [0.755, 0.367, 0.197, 0.108, 0.0593, 0.0323, 0.0175, 0.0094, 0.0051];
    for similarity in SIMILARITIES {
        for bits in 1..=9u8 {
            let codec = code(bits, 128, similarity);
            let errors: Vec<f64> = (0..4).flat_map(|seed| errors(&codec, 3 + seed, 1000)).collect();
            let (mean, promised) = (mean(&errors), promised[usize::from(bits) - 1]);
            // Without the few that their bound lifted: those are off by more than twice as much as their bits promise.
            let kept: Vec<f64> = match bits {
                1 => errors,
                _ => errors.into_iter().filter(|e| *e < 4.0 * promised).collect(),
            };
            assert!(mean.abs() < 0.05, "{bits} {similarity:?}: mean {mean}");
            assert!(kept.len() > 3800, "{bits}: {} of 4000", kept.len());
            let off = spread(&kept) / promised;
            // Many bits do better: a vector's own greatest component is nearer than a Gaussian's tail.
            let least = if bits > 4 { 0.5 } else { 0.85 };
            assert!((least..1.15).contains(&off), "{bits} {similarity:?}: {off} of what was promised");
        }
    }
}

/// 1.9 deviations of a normal distribution: 94 in 100 are within, and 97 in 100 are above the bound.
#[test]
fn bounds_hold_as_often_as_promised() {
    let mut random = Random::new(4);
    for similarity in SIMILARITIES {
        for dim in [32, 128, 300] {
            let codec = code(2, dim, similarity);
            let (mut within, mut above, n) = (0, 0, 4000);
            for _ in 0..4 {
                let centroid = vector(&mut random, dim, 2.0);
                let rows = around(&mut random, &centroid, n / 4, 1.0);
                let query = around(&mut random, &centroid, 1, 1.0);
                let packed = encode(&codec, Some(&centroid), &rows);
                for (packed, x) in packed.chunks(codec.layout().code_bytes()).zip(rows.chunks(dim)) {
                    let (signs, _, bound) = formula(&codec, &centroid, &query, packed);
                    let truth = exact(similarity, &query, x);
                    within += usize::from((signs - truth).abs() <= signs - bound);
                    above += usize::from(truth >= bound);
                }
            }
            assert!(within > n * 92 / 100 && above > n * 96 / 100, "{dim}: {within} {above} of {n}");
            // Nor is it so wide as to be of no use.
            assert!(within < n * 98 / 100, "{dim}: {within}");
        }
    }
}

/// Who is found and how it scores does not depend on the threshold, the other queries or the block: with any threshold the
/// answer is the part of the whole answer that is within.
#[test]
fn thresholds_and_company_change_no_score() {
    let mut random = Random::new(5);
    for bits in [1, 2, 4, 9] {
        for similarity in SIMILARITIES {
            let dim = 40;
            let codec = code(bits, dim, similarity);
            let centroid = vector(&mut random, dim, 1.0);
            let rows = around(&mut random, &centroid, 150, 1.0);
            let queries = around(&mut random, &centroid, 7, 0.7);
            let packed = encode(&codec, Some(&centroid), &rows);
            let all = search(&codec, Some(&centroid), &packed, &queries, &[f32::MAX; 7]);
            let mut sorted: Vec<Vec<f32>> = all.iter().map(|found| found.scores.clone()).collect();
            sorted.iter_mut().for_each(|scores| scores.sort_by(f32::total_cmp));
            let thresholds: Vec<f32> = (0..7).map(|q| sorted[q][q * 20]).collect();
            let some = search(&codec, Some(&centroid), &packed, &queries, &thresholds);
            for q in 0..7 {
                let alone =
                    search(&codec, Some(&centroid), &packed, &queries[q * dim..][..dim], &thresholds[q..=q]);
                let expected: Vec<(u32, u32)> = all[q]
                    .iter()
                    .filter(|(_, score)| *score <= thresholds[q])
                    .map(|(e, s)| (e, s.to_bits()))
                    .collect();
                assert_eq!(expected.len(), q * 20 + 1);
                for found in [&some[q], &alone[0]] {
                    let got: Vec<_> = found.iter().map(|(e, s)| (e, s.to_bits())).collect();
                    assert_eq!(got, expected, "{bits} {similarity:?} {q}");
                }
            }
            // And rows of another block, cut elsewhere.
            let cut = codec.layout().code_bytes() * 45;
            let rest = search(&codec, Some(&centroid), &packed[cut..], &queries, &[f32::MAX; 7]);
            for (rest, all) in rest.iter().zip(&all) {
                assert_eq!(rest.scores, all.scores[45..]);
            }
        }
    }
}

#[test]
fn entries_that_are_not_live_are_not_found() {
    let mut random = Random::new(6);
    for bits in [1, 3] {
        let (dim, n) = (20, 70);
        let codec = code(bits, dim, Similarity::L2);
        let (rows, query) = (vector(&mut random, n * dim, 1.0), vector(&mut random, dim, 1.0));
        let (packed, mut region) = (encode(&codec, None, &rows), Vec::new());
        codec.layout().pack(&packed, &mut region);
        let mut scanner = codec.scanner(Rows::of(&query, dim));
        scanner.enter(Probe { list: 0, centroid: None, visits: &[Visit { query: 0, coarse: 0.0 }] });
        let mut found = [Found::default()];
        let live = [1 << 31, 1, 1 << 5];
        let block = Codes { bytes: &region, n, ahead: &[] };
        scanner.scan(block, 0, &[f32::INFINITY], &[&live], &mut found);
        assert_eq!(found[0].entries, [31, 32, 69]);
    }
}

/// Decoding loses what rounding to equal steps loses of a Gaussian, less with each bit, and `residual` says how long the
/// decoded residual is.
#[test]
fn decoded_vectors_are_as_near_as_the_bits_allow() {
    let dim = 256;
    for bits in 1..=9u8 {
        let mut random = Random::new(7);
        let codec = code(bits, dim, Similarity::L2);
        let (mut error, mut all) = (0.0, 0.0);
        for _ in 0..100 {
            let centroid = vector(&mut random, dim, 5.0);
            let x = around(&mut random, &centroid, 1, 1.0);
            let packed = encode(&codec, Some(&centroid), &x);
            let mut back = vec![0.0; dim];
            codec.decode(Some(&centroid), &packed, &mut back);
            error += exact(Similarity::L2, &x, &back);
            all += exact(Similarity::L2, &x, &centroid);
            let says = codec.residual(&centroid, &packed);
            assert!((says / exact(Similarity::L2, &back, &centroid) - 1.0).abs() < 1e-4);
        }
        let lost = 1.0 - f64::from(FIT[usize::from(bits) - 1]);
        let least = if bits > 4 { 0.3 } else { 0.8 };
        assert!((least..1.06).contains(&(error / all / lost)), "{bits}: {} of {lost}", error / all);
    }
}

/// Rounding queries costs accuracy, the less the more bits; with 8 next to none.
#[test]
fn queries_of_more_bits_are_told_better() {
    for centred in [false, true] {
        let spread_of = |bits: u8| {
            let one = spec(1);
            let spec = match (bits, centred) {
                (0, _) => Some(one),
                (bits, false) => one.with_query_bits(bits),
                (bits, true) => one.with_centred_query_bits(bits),
            };
            let codec = RaBitQ::new(spec.unwrap(), 128, Similarity::L2);
            spread(&(0..4).flat_map(|seed| errors(&codec, 8 + seed, 1000)).collect::<Vec<_>>())
        };
        let spreads: Vec<f64> = [1, 2, 4, 8, 0].map(spread_of).to_vec();
        assert!(spreads[0] > spreads[1] && spreads[1] > spreads[2] && spreads[2] > spreads[3], "{spreads:?}");
        assert!((spreads[3] / spreads[4] - 1.0).abs() < 0.02, "{spreads:?}");
        assert!(spreads[2] / spreads[4] < 1.2, "{spreads:?}");
    }
}

#[test]
fn rounded_queries_are_on_their_grid() {
    let mut random = Random::new(9);
    let query = vector(&mut random, 50, 3.0);
    for bits in 1..=8u8 {
        let levels = |centred: bool| {
            let spec = match centred {
                true => spec(1).with_centred_query_bits(bits),
                false => spec(1).with_query_bits(bits),
            };
            let mut rounded = query.clone();
            let lost = RaBitQ::new(spec.unwrap(), 50, Similarity::L2).round_query(&mut rounded);
            assert!((lost / exact(Similarity::L2, &query, &rounded) - 1.0).abs() < 1e-9);
            let mut values = rounded.clone();
            values.sort_by(f32::total_cmp);
            values.dedup();
            assert!(values.len() <= 1 << bits);
            (rounded, values)
        };
        let (_, values) = levels(false);
        let extremes = query.iter().copied().fold((f32::MAX, f32::MIN), |(a, b), v| (a.min(v), b.max(v)));
        assert_eq!(values[0], extremes.0);
        assert!((values[values.len() - 1] - extremes.1).abs() < 1e-4);
        let (rounded, _) = levels(true);
        let zero = vec![0.0; 50];
        let lengths = exact(Similarity::L2, &rounded, &zero) / exact(Similarity::L2, &query, &zero);
        assert!((lengths - 1.0).abs() < 1e-5);
    }
    for constant in [0.0, 3.0, 1e-44] {
        let mut query = vec![constant; 8];
        for spec in [spec(1).with_query_bits(3), spec(1).with_centred_query_bits(3)] {
            RaBitQ::new(spec.unwrap(), 8, Similarity::L2).round_query(&mut query);
            assert!(query.iter().all(|v| (v - constant).abs() <= constant * 1e-6), "{query:?}");
        }
    }
}

/// FAISS's estimate of a code of its own form, from its formulas.
fn faiss_estimate(codec: &RaBitQ, centroid: &[f32], query: &[f32], bytes: &[u8]) -> f64 {
    let (dim, root) = (codec.dim, (codec.dim as f64).sqrt());
    let (signs, rest) = bytes.split_at(dim.div_ceil(8));
    let [lengths, multiplier, _, add, rescale] = codec.faiss_factors(rest);
    let away: Vec<f64> = query.iter().zip(centroid).map(|(q, c)| f64::from(*q) - f64::from(*c)).collect();
    let sign = |j: usize| u32::from(signs[j / 8] >> (j % 8) & 1);
    if codec.extra_bits() == 0 {
        let dot: f64 = (0..dim).map(|j| away[j] * (2.0 * f64::from(sign(j)) - 1.0) / root).sum();
        let distance = lengths + exact(Similarity::L2, query, centroid) - 2.0 * multiplier * dot;
        return match codec.similarity {
            Similarity::L2 => distance,
            Similarity::Dot => 0.5 * (distance - exact(Similarity::L2, query, &vec![0.0; dim])),
        };
    }
    let bits = codec.extra_bits();
    let extra = |j: usize| {
        (0..bits)
            .map(|b| u32::from(rest[12 + (j * bits + b) / 8] >> ((j * bits + b) % 8) & 1) << b)
            .sum::<u32>()
    };
    let level = |j: usize| f64::from((sign(j) << bits) + extra(j)) - (f64::from(1u32 << bits) - 0.5);
    let dot: f64 = (0..dim).map(|j| away[j] * level(j)).sum();
    match codec.similarity {
        Similarity::L2 => exact(Similarity::L2, query, centroid) + add + rescale * dot,
        Similarity::Dot => exact(Similarity::Dot, query, centroid) - (add + rescale * dot),
    }
}

/// Codes in FAISS's form say the same estimates there as here, and come back with the same bits; their lengths are those
/// of the residuals but for the rounding of a scale.
#[test]
fn codes_go_to_faiss_and_back() {
    let mut random = Random::new(10);
    for bits in 1..=9 {
        for similarity in SIMILARITIES {
            for dim in [1, 7, 8, 33, 128] {
                let codec = code(bits, dim, similarity);
                let centroid = vector(&mut random, dim, 1.0);
                let (x, query) =
                    (around(&mut random, &centroid, 1, 1.0), around(&mut random, &centroid, 1, 1.0));
                let packed = encode(&codec, Some(&centroid), &x);
                let (mut there, mut back) = (Vec::new(), vec![7]);
                codec.to_faiss(Some(&centroid), &packed, &mut there);
                assert_eq!(there.len(), codec.faiss_bytes());
                let size = exact(Similarity::L2, &x, &vec![0.0; dim]) + dim as f64;
                let (signs, levels, _) = formula(&codec, &centroid, &query, &packed);
                let ours = if bits == 1 { signs } else { levels };
                let theirs = faiss_estimate(&codec, &centroid, &query, &there);
                assert!((ours - theirs).abs() < 1e-5 * size, "{bits} {similarity:?} {dim}: {ours} {theirs}");
                if similarity == Similarity::L2 {
                    let length = exact(Similarity::L2, &x, &centroid);
                    let [lengths, ..] = codec.faiss_factors(&there[dim.div_ceil(8)..]);
                    assert!((lengths / length - 1.0).abs() < 0.01, "{lengths} {length}");
                }
                codec.take_faiss(Some(&centroid), &there, &mut back).unwrap();
                assert_eq!(back.len(), 1 + packed.len());
                let (before, after) = (codec.parts(&packed), codec.parts(&back[1..]));
                assert_eq!((before.signs, before.planes), (after.signs, after.planes));
                assert_eq!((before.scale, before.error), (after.scale, after.error));
                for (before, after) in [(before.bias, after.bias), (before.level_bias, after.level_bias)] {
                    assert!(f64::from(before - after).abs() < 1e-5 * size, "{before} {after}");
                }
            }
        }
    }
}

/// A code that FAISS made has factors of its own: ours then tells its estimates but for rounding the scale, which is as if
/// the vector were off by 2 in 1000 of the estimate's error.
#[test]
fn codes_of_faiss_say_what_they_say_there() {
    let mut random = Random::new(11);
    for similarity in SIMILARITIES {
        let dim = 64;
        let codec = code(1, dim, similarity);
        let centroid = vector(&mut random, dim, 1.0);
        for _ in 0..50 {
            let x = around(&mut random, &centroid, 1, 1.0);
            let query = around(&mut random, &centroid, 1, 1.0);
            let r: Vec<f64> = x.iter().zip(&centroid).map(|(x, c)| f64::from(*x) - f64::from(*c)).collect();
            let squared: f64 = r.iter().map(|r| r * r).sum();
            let sum: f64 = r.iter().map(|r| r.abs()).sum();
            let mut bytes = vec![0; 8];
            set_bits(&mut bytes, r.iter().map(|r| *r > 0.0));
            let lengths = match similarity {
                Similarity::L2 => squared,
                Similarity::Dot => squared - exact(Similarity::L2, &x, &vec![0.0; dim]),
            };
            bytes.extend_from_slice(&(lengths as f32).to_le_bytes());
            bytes.extend_from_slice(&((squared * 8.0 / sum) as f32).to_le_bytes());
            let mut packed = Vec::new();
            codec.take_faiss(Some(&centroid), &bytes, &mut packed).unwrap();
            let theirs = faiss_estimate(&codec, &centroid, &query, &bytes);
            let (ours, ..) = formula(&codec, &centroid, &query, &packed);
            assert!((ours - theirs).abs() < 0.01 * squared, "{similarity:?}: {ours} {theirs}");
            // And it is the code that we would have made.
            let made = encode(&codec, Some(&centroid), &x);
            assert_eq!(made[..10], packed[..10]);
        }
    }
}

#[test]
fn hostile_tables_and_codes_are_refused() {
    assert!(RaBitQ::from_tables(spec(4), 8, Similarity::L2, &[]).is_ok());
    assert!(RaBitQ::from_tables(spec(4), 8, Similarity::L2, &[0]).is_err());
    let codec = code(4, 8, Similarity::L2);
    let mut out = Vec::new();
    for bytes in [vec![], vec![0; codec.faiss_bytes() - 1], vec![0xff; codec.faiss_bytes()]] {
        assert!(codec.take_faiss(None, &bytes, &mut out).is_err() && out.is_empty());
    }
    assert!(codec.take_faiss(None, &vec![0; codec.faiss_bytes()], &mut out).is_ok());
    assert_eq!(out.len(), codec.layout().code_bytes());
    // Any bits may come from a damaged file: they score, and decode to something.
    let mut random = Random::new(12);
    for bits in [1, 3] {
        let codec = code(bits, 8, Similarity::Dot);
        let packed: Vec<u8> =
            (0..99 * codec.layout().code_bytes()).map(|_| random.next_u64() as u8).collect();
        search(&codec, Some(&[0.5; 8]), &packed, &[1.0; 8], &[f32::MAX]);
        codec.decode(None, &packed[..codec.layout().code_bytes()], &mut [0.0; 8]);
    }
}

/// Every score that `queries` are told of `row` is a number, and the decoded vector is finite.
fn has_a_place(codec: &RaBitQ, centroid: Option<&[f32]>, row: &[f32], queries: &[&[f32]]) {
    for query in queries {
        let told = scores(codec, centroid, row, query)[0];
        assert!(told.is_finite() && told.to_bits() != 1 << 31, "{row:?} from {centroid:?}: {told}");
    }
    let mut back = vec![f32::NAN; row.len()];
    codec.decode(centroid, &encode(codec, centroid, row), &mut back);
    assert!(back.iter().all(|v| v.is_finite()), "{row:?} from {centroid:?}: {back:?}");
}

/// Rows with no direction, no length, or lengths at the ends of what the door lets in; all in one component too, where
/// scales are largest.
#[test]
fn rows_without_a_direction_still_have_a_place() {
    for bits in [1, 2, 4, 9] {
        for similarity in SIMILARITIES {
            for dim in [1, 5, 128] {
                let codec = code(bits, dim, similarity);
                for length in [0.0, 1e-45, 1e-30, 1e-19, 1.0, 1e17, NORM_MAX] {
                    let even = vec![length / (dim as f32).sqrt(); dim];
                    let mut single = vec![0.0; dim];
                    single[dim / 2] = length;
                    for row in [even, single] {
                        let opposite: Vec<f32> = row.iter().map(|v| -v).collect();
                        for centroid in [None, Some(&row), Some(&opposite), Some(&vec![0.0; dim])] {
                            let queries = [&vec![1.0; dim][..], &row, &opposite, &vec![0.0; dim]];
                            has_a_place(&codec, centroid.map(|c| &c[..]), &row, &queries);
                        }
                    }
                }
                // At the centroid the estimate is the coarse score.
                let (row, query) = (vec![2.0; dim], vec![1.0; dim]);
                let told = f64::from(scores(&codec, Some(&row), &row, &query)[0]);
                assert!((told - exact(similarity, &query, &row)).abs() < 1e-3 * dim as f64);
            }
        }
    }
}

/// The longest rows there are, in lists whose centroids and under queries that are as long, in any directions.
#[test]
fn the_longest_rows_have_scores() {
    let mut random = Random::new(13);
    let mut longest = |dim: usize| {
        let mut row = vector(&mut random, dim, 1.0);
        let norm = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        row.iter_mut().for_each(|v| *v = (f64::from(*v) / norm * f64::from(NORM_MAX)) as f32);
        row
    };
    for dim in (1..=8).cycle().take(80).chain([128; 5]) {
        let (row, centroid, query) = (longest(dim), longest(dim), longest(dim));
        let opposite = |of: &[f32]| of.iter().map(|v| -v).collect::<Vec<f32>>();
        let (row_away, centroid_away) = (opposite(&row), opposite(&centroid));
        let queries: [&[f32]; 5] = [&query, &row, &centroid, &row_away, &centroid_away];
        for bits in [1, 2, 5] {
            for similarity in SIMILARITIES {
                let codec = code(bits, dim, similarity);
                has_a_place(&codec, Some(&centroid), &row, &queries);
                has_a_place(&codec, None, &row, &queries);
            }
        }
    }
}

/// All tables tell the same: sums are whole numbers and roundings the same everywhere; a reach is not summed in one order.
#[test]
fn all_kernels_tell_the_same() {
    let mut random = Random::new(14);
    for bits in [1, 2, 4, 8, 9] {
        for similarity in SIMILARITIES {
            let dim = 100;
            let centroid = vector(&mut random, dim, 1.0);
            let (rows, query) =
                (around(&mut random, &centroid, 50, 1.0), around(&mut random, &centroid, 1, 1.0));
            let told = |kernels: &'static Kernels| {
                let codec = RaBitQ { kernels, ..code(bits, dim, similarity) };
                (encode(&codec, Some(&centroid), &rows), scores(&codec, Some(&centroid), &rows, &query))
            };
            let (codes, expected) = told(Kernels::get());
            for kernels in Kernels::all() {
                let (same, told) = told(kernels);
                assert_eq!(same, codes);
                for (told, expected) in told.iter().zip(&expected) {
                    assert!(
                        (told - expected).abs() <= 1e-5 * (expected.abs() + dim as f32),
                        "{}",
                        kernels.name
                    );
                }
            }
        }
    }
}

/// Of 2,000 rows those nearest by estimate hold more of the nearest with each bit; 4 bits all but a few.
#[test]
fn more_bits_find_more() {
    let mut random = Random::new(15);
    let (dim, n, k) = (64, 2000, 10);
    let centroid = vector(&mut random, dim, 1.0);
    let rows = around(&mut random, &centroid, n, 1.0);
    let queries = around(&mut random, &centroid, 20, 1.0);
    let nearest = |scores: Vec<f64>| {
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|a, b| scores[*a].total_cmp(&scores[*b]));
        order.truncate(k);
        order
    };
    let recall = |bits: u8| {
        let codec = code(bits, dim, Similarity::L2);
        let packed = encode(&codec, Some(&centroid), &rows);
        let found = search(&codec, Some(&centroid), &packed, &queries, &[f32::MAX; 20]);
        let hits: usize = queries
            .chunks(dim)
            .zip(&found)
            .map(|(query, found)| {
                let truth = nearest(rows.chunks(dim).map(|x| exact(Similarity::L2, query, x)).collect());
                let told = nearest(found.scores.iter().map(|s| f64::from(*s)).collect());
                truth.iter().filter(|row| told.contains(row)).count()
            })
            .sum();
        hits as f64 / (20 * k) as f64
    };
    let recalls = [1, 2, 3, 4, 6, 8].map(recall);
    assert!(recalls[..5].windows(2).all(|pair| pair[0] < pair[1]), "{recalls:?}");
    assert!(recalls[3] > 0.8 && recalls[5] > 0.9, "{recalls:?}");
}
