//! Codes against the formulas, scores against what codes decode to. It breaks where a code is packed into other bits than it
//! is read from, where a range is of another component, or where a score forgets the centroid.

use super::*;
use crate::NORM_MAX;
use crate::encoding::Real;
use crate::fixtures;
use crate::math::random::Random;
use std::ops::ControlFlow;

const SIMILARITIES: [Similarity; 2] = [Similarity::L2, Similarity::Dot];
const SPELLINGS: [&str; 11] = [
    "SQ8",
    "SQ6",
    "SQ4",
    "SQ8_uniform",
    "SQ4_uniform",
    "SQ6_meanstd2",
    "SQ8_quantiles0.05_raw",
    "SQ4_optim",
    "SQ8_raw",
    "SQ8_uniform_optim",
    "SQ6_minmax0.1_raw",
];

fn quantizer(text: &str) -> ScalarQuantizer {
    text.parse().unwrap()
}

/// Rows in two lists, components of different means and spreads.
struct Data {
    dim: usize,
    rows: Vec<f32>,
    lists: Vec<u32>,
    centroids: Vec<f32>,
}

impl Data {
    fn new(seed: u64, dim: usize, n: usize) -> Self {
        let mut random = Random::new(seed);
        let mut value = |j: usize| (random.unit() as f32 - 0.3) * (1.0 + j as f32) + j as f32;
        let rows = (0..n * dim).map(|i| value(i % dim)).collect();
        let centroids = (0..2 * dim).map(|i| value(i % dim)).collect();
        Data { dim, rows, lists: (0..n as u32).map(|i| i % 2).collect(), centroids }
    }

    fn assigned(&self) -> Assigned<'_> {
        let centroids = Some(Rows::of(&self.centroids, self.dim));
        Assigned { rows: Rows::of(&self.rows, self.dim), lists: &self.lists, centroids }
    }

    /// The rows of a list, and its centroid.
    fn list(&self, list: usize) -> (Vec<f32>, &[f32]) {
        let rows = self.rows.chunks_exact(self.dim).skip(list).step_by(2);
        (rows.flatten().copied().collect(), &self.centroids[list * self.dim..][..self.dim])
    }

    fn train(&self, text: &str, similarity: Similarity) -> Scalar {
        train(text, similarity, self.assigned()).unwrap()
    }
}

fn train(text: &str, similarity: Similarity, sample: Assigned<'_>) -> Result<Scalar> {
    Scalar::train(
        quantizer(text),
        &Training { sample, similarity, seed: 1, iterations: None, rows: None },
        &mut Observer::none(),
    )
}

fn codes(codec: &Scalar, rows: Assigned<'_>) -> Vec<u8> {
    let mut codes = Vec::new();
    codec.encode(rows, &mut codes);
    assert_eq!(codes.len(), rows.rows.len() * codec.layout().code_bytes());
    codes
}

fn exact(similarity: Similarity, q: &[f32], x: &[f32]) -> f64 {
    let pairs = q.iter().zip(x).map(|(q, x)| (f64::from(*q), f64::from(*x)));
    match similarity {
        Similarity::L2 => pairs.map(|(q, x)| (q - x) * (q - x)).sum(),
        Similarity::Dot => -pairs.map(|(q, x)| q * x).sum::<f64>(),
    }
}

/// What the visits are told of all entries of a block.
fn scores(codec: &Scalar, centroid: Option<&[f32]>, codes: &[u8], queries: Rows<'_>) -> Vec<Vec<f32>> {
    let n = codes.len() / codec.layout().code_bytes();
    let coarse = |q| centroid.map_or(0.0, |c| exact(codec.similarity, q, c) as f32);
    let visits: Vec<Visit> =
        (0..).zip(queries.iter()).map(|(query, q)| Visit { query, coarse: coarse(q) }).collect();
    let mut scanner = codec.scanner(queries);
    scanner.enter(Probe { list: 0, centroid, visits: &visits });
    let live = vec![u32::MAX; n.div_ceil(32)];
    let mut found = vec![Found::default(); visits.len()];
    let worst = vec![f32::MAX; visits.len()];
    let live = vec![&live[..]; visits.len()];
    scanner.scan(Codes { bytes: codes, n, ahead: codes }, 0, &worst, &live, &mut found);
    for found in &found {
        assert_eq!(found.entries, (0..n as u32).collect::<Vec<_>>());
    }
    found.into_iter().map(|found| found.scores).collect()
}

#[test]
fn codes_are_those_of_the_formula_lowest_bits_first() {
    for (text, dim) in SPELLINGS.into_iter().flat_map(|t| [1, 2, 3, 4, 5, 7, 16, 33].map(|d| (t, d))) {
        let data = Data::new(dim as u64, dim, 60);
        let codec = data.train(text, Similarity::L2);
        let width = match codec.bits {
            StepBits::Six => 6,
            StepBits::Four => 4,
            _ => 8,
        };
        let most = f64::from((1 << width) - 1);
        let packed = codes(&codec, data.assigned());
        let values =
            if codec.residual { data.assigned().residuals() } else { data.assigned().rows.as_slice().into() };
        for (row, code) in values.chunks_exact(dim).zip(packed.chunks_exact(codec.layout().code_bytes())) {
            let bit = |at: usize| u32::from(code[at / 8] >> (at % 8) & 1);
            for (j, value) in row.iter().enumerate() {
                let stored = f64::from((0..width).map(|b| bit(j * width + b) << b).sum::<u32>());
                let range = codec.ranges.of(j).unwrap();
                let part = (f64::from(*value) - f64::from(range.low)) / f64::from(range.span);
                // Roundings may put a value on the edge of a step into its neighbour.
                let expected = part.clamp(0.0, 1.0) * most;
                assert!(
                    stored >= expected - 1.0 - 1e-4 && stored <= expected + 1e-4,
                    "{text} {part} {stored}"
                );
            }
            let used = dim * width;
            assert!((used..code.len() * 8).all(|at| bit(at) == 0), "{text}: bits beyond the last component");
        }
    }
}

/// The bytes that FAISS writes for codes 0x12, 0x34, …: a constant of the format.
#[test]
fn packed_bytes_are_a_promise() {
    let packed = |bits, steps: &[u8]| {
        let mut out = Vec::new();
        pack(bits, steps, &mut out);
        out
    };
    assert_eq!(packed(StepBits::Eight, &[1, 2, 255]), [1, 2, 255]);
    assert_eq!(packed(StepBits::Four, &[1, 2, 15]), [0x21, 0x0f]);
    // 1 | 2 << 6 | 3 << 12 | 63 << 18, then 5.
    assert_eq!(packed(StepBits::Six, &[1, 2, 3, 63, 5]), [0x81, 0x30, 0xfc, 0x05]);
    for (bits, steps) in [(StepBits::Six, [1, 2, 3, 63, 5]), (StepBits::Four, [1, 2, 15, 0, 7])] {
        let bytes = packed(bits, &steps);
        assert_eq!([0, 1, 2, 3, 4].map(|j| unpack(bits, &bytes, j)), steps);
    }
}

/// FAISS's roundings: down, to a step's middle when decoded, and 255 only for the greatest value.
#[test]
fn values_round_down_and_decode_to_the_middle() {
    let range = Range { low: -1.0, span: 2.0 };
    assert_eq!(
        [-9.0, -1.0, -0.999, 0.0, 0.999, 1.0, 9.0].map(|v| range.code(v, 255.0)),
        [0, 0, 0, 127, 254, 255, 255]
    );
    assert_eq!([-1.0, 0.0, 0.999, 1.0].map(|v| range.code(v, 15.0)), [0, 7, 14, 15]);
    assert!((range.decode(127, 255.0) - 0.0).abs() < 1e-6);
    assert!((range.decode(255, 255.0) - (1.0 + 1.0 / 255.0)).abs() < 1e-6);
    assert_eq!(Range { low: 3.0, span: 0.0 }.code(99.0, 255.0), 0);
    assert_eq!(Range { low: 3.0, span: 0.0 }.decode(0, 255.0), 3.0);
}

#[test]
fn scores_are_of_what_codes_decode_to_alone_and_in_company() {
    for (text, similarity) in SPELLINGS
        .into_iter()
        .chain(["SQ8_direct", "SQ8_direct_signed"])
        .flat_map(|text| SIMILARITIES.map(|s| (text, s)))
    {
        for dim in [1, 3, 16, 37, 64, 100] {
            let mut data = Data::new(dim as u64, dim, 90);
            if text.contains("direct") {
                data.rows.iter_mut().for_each(|v| *v = v.clamp(0.0, 127.0).round());
            }
            let codec = data.train(text, similarity);
            let mut random = Random::new(7);
            let queries: Vec<f32> =
                (0..11 * dim).map(|i| random.unit() as f32 * (1 + i % dim) as f32).collect();
            let queries = Rows::of(&queries, dim);
            for (list, with) in [(0, true), (1, true), (0, false)] {
                let (rows, centroid) = data.list(list);
                let centroid = Some(centroid).filter(|_| with);
                let lists = vec![0; rows.len() / dim];
                let centroids = centroid.map(|c| Rows::of(c, dim));
                let packed = codes(&codec, Assigned { rows: Rows::of(&rows, dim), lists: &lists, centroids });
                let all = scores(&codec, centroid, &packed, queries);
                for ((told, query), q) in all.iter().zip(queries.iter()).zip(0..) {
                    assert_eq!(
                        &scores(&codec, centroid, &packed, queries.slice(q..q + 1))[0],
                        told,
                        "{text}"
                    );
                    for (score, code) in told.iter().zip(packed.chunks_exact(codec.layout().code_bytes())) {
                        let mut row = vec![0.0; dim];
                        codec.decode(centroid, code, &mut row);
                        let expected = exact(similarity, query, &row);
                        let lengths = [query, &row].map(|v| exact(Similarity::L2, v, &vec![0.0; dim]));
                        let size = lengths[0] + lengths[1] + codec.extent();
                        let error = (f64::from(*score) - expected).abs();
                        assert!(error <= 3e-6 * size, "{text} {similarity:?} {dim}: {error} of {size}");
                    }
                }
            }
        }
    }
}

impl Scalar {
    /// The square of the longest that terms of a score may be.
    fn extent(&self) -> f64 {
        self.ranges
            .trained
            .iter()
            .cycle()
            .take(self.dim)
            .map(|r| f64::from(r.low.abs() + r.span).powi(2))
            .sum()
    }
}

#[test]
fn only_what_lives_and_is_near_enough_is_found() {
    let data = Data::new(3, 20, 70);
    let codec = data.train("SQ6", Similarity::L2);
    let (rows, centroid) = data.list(0);
    let centroids = Some(Rows::of(centroid, 20));
    let packed = codes(&codec, Assigned { rows: Rows::of(&rows, 20), lists: &[0; 35], centroids });
    let queries = Rows::of(&data.rows[..400], 20);
    let all = scores(&codec, Some(centroid), &packed, queries);
    let mut scanner = codec.scanner(queries);
    let visits: Vec<Visit> = (0..20).rev().map(|query| Visit { query, coarse: 0.0 }).collect();
    scanner.enter(Probe { list: 0, centroid: Some(centroid), visits: &visits });
    let live: [u32; 2] = [0b1010_1110_0111, 0b101];
    let (first, count) = (5, 12);
    let worst: Vec<f32> = visits[first..][..count].iter().map(|v| all[v.query as usize][9]).collect();
    let mut found = vec![Found::default(); count];
    scanner.scan(
        Codes { bytes: &packed, n: 35, ahead: &[] },
        first,
        &worst,
        &vec![&live[..]; count],
        &mut found,
    );
    for ((found, visit), worst) in found.iter().zip(&visits[first..]).zip(&worst) {
        let told = &all[visit.query as usize];
        let near = |i: &u32| told[*i as usize] <= *worst && live[*i as usize / 32] >> (i % 32) & 1 == 1;
        assert_eq!(found.entries, (0..35).filter(near).collect::<Vec<u32>>());
        assert!(found.entries.contains(&9) && found.iter().all(|(i, score)| score == told[i as usize]));
    }
}

#[test]
fn tables_come_back_and_damaged_ones_are_refused() {
    for (text, similarity) in SPELLINGS.into_iter().flat_map(|text| SIMILARITIES.map(|s| (text, s))) {
        let data = Data::new(5, 13, 40);
        let codec = data.train(text, similarity);
        let tables = codec.tables();
        let again = Scalar::from_tables(quantizer(text), 13, similarity, &tables).unwrap();
        assert_eq!(
            (again.tables(), codes(&again, data.assigned())),
            (tables.clone(), codes(&codec, data.assigned()))
        );
        for length in (0..tables.len()).chain([tables.len() + 1, tables.len() + 8]) {
            let mut cut = tables.clone();
            cut.resize(length, 0);
            assert!(Scalar::from_tables(quantizer(text), 13, similarity, &cut).is_err(), "{text} {length}");
        }
        for (at, bad) in [(0, f32::NAN), (0, f32::INFINITY), (4, f32::NAN), (4, -1.0), (4, 1e30), (0, -1e30)]
        {
            let mut damaged = tables.clone();
            damaged[at..at + 4].copy_from_slice(&bad.to_le_bytes());
            assert!(Scalar::from_tables(quantizer(text), 13, similarity, &damaged).is_err(), "{text} {bad}");
        }
    }
    assert!(Scalar::from_tables(quantizer("SQ8_direct"), 13, Similarity::L2, &[]).is_ok());
    assert!(Scalar::from_tables(quantizer("SQ8_direct"), 13, Similarity::L2, &[0; 8]).is_err());
}

#[test]
fn training_is_the_same_on_any_number_of_threads() {
    let data = Data::new(6, 9, 40_000);
    for text in SPELLINGS {
        let [one, three] = [1, 3].map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| data.train(text, Similarity::L2).tables())
        });
        assert_eq!(one, three, "{text}");
    }
}

#[test]
fn ranges_are_those_of_the_formulas() {
    let mut random = Random::new(8);
    let values: Vec<f32> = (0..1001).map(|_| (random.unit() * 3.0 - 1.0) as f32).collect();
    let mut sorted = values.clone();
    sorted.sort_by(f32::total_cmp);
    let find = |range| {
        let Range { low, span } = find_range(range, 255.0, &mut values.clone(), &mut || Ok(())).unwrap();
        (low, low + span)
    };
    let real = |v| Real::new(v).unwrap();
    let near = |(a, b): (f32, f32), (c, d): (f32, f32)| (a - c).abs() < 1e-5 && (b - d).abs() < 1e-5;
    let (least, most) = (sorted[0], sorted[1000]);
    assert!(near(find(ScalarRange::default()), (least, most)));
    let more = (most - least) * 0.25;
    assert!(near(find(ScalarRange::MinMax(real(0.25))), (least - more, most + more)));
    assert!(near(find(ScalarRange::Quantiles(real(0.05))), (sorted[50], sorted[950])));
    assert!(near(find(ScalarRange::Quantiles(real(0.4999))), (sorted[500], sorted[500])));
    assert!(near(find(ScalarRange::Quantiles(real(0.0))), (least, most)));
    let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / 1001.0;
    let sigma = (values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / 1001.0).sqrt();
    let ends = ((mean - 2.0 * sigma) as f32, (mean + 2.0 * sigma) as f32);
    assert!(near(find(ScalarRange::MeanStd(real(2.0))), ends));
}

/// The mean squared error of what codes decode to.
fn error(data: &Data, text: &str) -> f64 {
    let codec = data.train(text, Similarity::L2);
    let packed = codes(&codec, data.assigned());
    let rows = data.rows.chunks_exact(data.dim).zip(&data.lists);
    let errors = rows.zip(packed.chunks_exact(codec.layout().code_bytes())).map(|((x, list), code)| {
        let mut row = vec![0.0; data.dim];
        codec.decode(Some(&data.centroids[*list as usize * data.dim..][..data.dim]), code, &mut row);
        exact(Similarity::L2, x, &row)
    });
    errors.sum::<f64>() / data.lists.len() as f64
}

#[test]
fn more_bits_and_better_ranges_lose_less() {
    let mut data = Data::new(9, 24, 3000);
    // Few values far out, which a range from least to greatest pays for.
    for v in data.rows.iter_mut().step_by(1999) {
        *v *= 5.0;
    }
    let errors = ["SQ8", "SQ6", "SQ4", "SQ4_uniform"].map(|text| error(&data, text));
    assert!(errors.windows(2).all(|pair| pair[0] < 0.5 * pair[1]), "{errors:?}");
    let [least, best, raw] = ["SQ4", "SQ4_optim", "SQ4_optim_raw"].map(|text| error(&data, text));
    assert!(best < 0.9 * least, "{best} {least}");
    assert!(raw > 0.0 && raw != best);
    let uniform = ["SQ4_uniform_optim", "SQ4_uniform"].map(|text| error(&data, text));
    assert!(uniform[0] < uniform[1], "{uniform:?}");
}

#[test]
fn whole_numbers_are_kept_exactly_and_others_refused() {
    for (text, least, most, name) in [("SQ8_direct", 0, 255, "u8"), ("SQ8_direct_signed", -128, 127, "i8")] {
        let rows: Vec<f32> = (least..=most).map(|v| v as f32).collect();
        let rows = Rows::of(&rows, 64);
        let centroids = vec![3.5; 64];
        let rows = Assigned { rows, lists: &[0; 4], centroids: Some(Rows::of(&centroids, 64)) };
        let codec = train(text, Similarity::L2, rows).unwrap();
        codec.check(rows.rows).unwrap();
        let packed = codes(&codec, rows);
        assert!((0..).zip(&packed).all(|(i, byte)| i == i32::from(*byte)), "{text}");
        for (code, row) in packed.chunks_exact(64).zip(rows.rows.iter()) {
            let mut back = vec![0.0; 64];
            codec.decode(Some(&centroids), code, &mut back);
            assert_eq!(back, row);
        }
        assert!(
            scores(&codec, Some(&centroids), &packed, rows.rows).iter().enumerate().all(|(i, s)| s[i] == 0.0)
        );
        for bad in [least as f32 - 1.0, most as f32 + 1.0, 0.5, 1e20, -1e20] {
            let mut row = vec![0.0; 64];
            row[7] = bad;
            match codec.check(Rows::of(&row, 64)) {
                Err(Error::OutOfRange { row: 0, component: 7, value, element }) => {
                    assert_eq!((value, element), (bad, name));
                }
                other => panic!("{bad}: {other:?}"),
            }
        }
    }
    assert!(Data::new(1, 4, 9).train("SQ8", Similarity::L2).check(Rows::of(&[1e18; 4], 4)).is_ok());
}

/// One row, equal rows, and the longest rows in the lists of the longest centroids: everything has a score, and what is
/// decoded is a vector.
#[test]
fn all_rows_have_a_place() {
    for (text, similarity) in SPELLINGS.into_iter().flat_map(|text| SIMILARITIES.map(|s| (text, s))) {
        for dim in [1, 5, 128] {
            let longest = NORM_MAX / (dim as f32).sqrt();
            for scale in [0.0, 1e-45, 1e-30, 1.0, 1e17, longest] {
                let row = vec![scale; dim];
                let rows = [row.clone(), row.clone(), row.iter().map(|v| -v).collect()].concat();
                let centroids = vec![-scale; dim];
                for count in [1, 2, 3] {
                    let rows = Rows::of(&rows[..count * dim], dim);
                    let lists = vec![0; count];
                    let rows = Assigned { rows, lists: &lists, centroids: Some(Rows::of(&centroids, dim)) };
                    let codec = train(text, similarity, rows).unwrap();
                    let packed = codes(&codec, rows);
                    let told = scores(&codec, Some(&centroids), &packed, rows.rows);
                    assert!(
                        told.iter().flatten().all(|s| s.is_finite()),
                        "{text} {similarity:?} {scale} {told:?}"
                    );
                    let mut back = vec![f32::NAN; dim];
                    codec.decode(Some(&centroids), &packed[..codec.layout().code_bytes()], &mut back);
                    assert!(back.iter().all(|v| v.is_finite()), "{text} {scale} {back:?}");
                }
            }
        }
    }
}

#[test]
fn no_rows_train_nothing_and_are_no_codes() {
    let none = Assigned { rows: Rows::of(&[], 3), lists: &[], centroids: None };
    assert!(matches!(train("SQ8", Similarity::L2, none), Err(Error::TooFewRows { rows: 0, needed: 1 })));
    let codec = Data::new(1, 3, 5).train("SQ4", Similarity::Dot);
    assert!(codes(&codec, none).is_empty());
    assert_eq!(scores(&codec, None, &[], Rows::of(&[1.0; 3], 3)), [Vec::<f32>::new()]);
    assert!(train("SQ8_direct_signed", Similarity::L2, none).unwrap().tables().is_empty());
}

#[test]
fn training_reports_and_can_be_cancelled() {
    let data = Data::new(2, 100, 50);
    for text in ["SQ8_optim", "SQ8_uniform_optim"] {
        let mut ticks = Vec::new();
        let mut keep = |tick: crate::Tick| {
            ticks.push(tick);
            ControlFlow::Continue(())
        };
        let training = Training {
            sample: data.assigned(),
            similarity: Similarity::L2,
            seed: 1,
            iterations: None,
            rows: None,
        };
        Scalar::train(quantizer(text), &training, &mut Observer::new(&mut keep)).unwrap();
        assert!(
            ticks.len() > 2 && ticks.windows(2).all(|t| t[0].done <= t[1].done && t[1].done <= t[1].total)
        );
        let mut stop = |_| ControlFlow::Break(());
        let stopped = Scalar::train(quantizer(text), &training, &mut Observer::new(&mut stop));
        assert!(matches!(stopped, Err(Error::Cancelled)));
    }
}

/// FAISS's ranges, all the low ends first, as tables of ours.
fn tables_of(trained: &[f32]) -> Vec<u8> {
    let (lows, spans) = trained.split_at(trained.len() / 2);
    lows.iter().zip(spans).flat_map(|(low, span)| [low.to_le_bytes(), span.to_le_bytes()].concat()).collect()
}

/// Training finds FAISS's ranges, its codes are ours byte for byte, and so is what they decode to and score.
#[test]
fn ranges_codes_and_distances_are_those_of_faiss() {
    let (base, queries) = (fixtures::floats("shared.both.base"), fixtures::floats("shared.both.queries"));
    let (centroids, lists) =
        (fixtures::floats("shared.both.centroids"), fixtures::numbers("shared.both.lists"));
    let (rows, centroids) = (Rows::of(&base, 32), Rows::of(&centroids, 32));
    let rows = Assigned { rows, lists: &lists, centroids: Some(centroids) };
    for (name, text) in [
        ("SQ8", "SQ8_raw"),
        ("SQ6", "SQ6_raw"),
        ("SQ4", "SQ4_raw"),
        ("SQ8u", "SQ8_uniform_raw"),
        ("SQ4u", "SQ4_uniform_raw"),
        ("SQ8r", "SQ8"),
        ("SQ6r", "SQ6"),
        ("SQ4r", "SQ4"),
        ("SQ8ur", "SQ8_uniform"),
        ("SQ4ur", "SQ4_uniform"),
    ] {
        let theirs = fixtures::bytes(&format!("{name}.both.codes"));
        let trained = fixtures::floats(&format!("{name}.both.trained"));
        let found = fixtures::floats(&format!("{name}.both.found"));
        for (similarity, found) in SIMILARITIES.into_iter().zip(found.chunks_exact(400)) {
            let codec = train(text, similarity, rows).unwrap();
            assert_eq!(codec.tables(), tables_of(&trained), "{text}");
            assert_eq!(codes(&codec, rows), theirs, "{text}");
            let (ids, distances) = found.split_at(200);
            let size = codec.layout().code_bytes();
            let largest = distances.iter().fold(0.0f32, |most, d| most.max(d.abs()));
            for (at, (id, distance)) in ids.iter().zip(distances).enumerate() {
                let (row, query) = (*id as usize, &queries[at / 10 * 32..][..32]);
                let code = &theirs[row * size..][..size];
                let told =
                    scores(&codec, Some(centroids.row(lists[row] as usize)), code, Rows::of(query, 32))[0][0];
                let told = if similarity == Similarity::Dot { -told } else { told };
                assert!(
                    (told - distance).abs() <= 1e-5 * largest,
                    "{text} {similarity:?}: {told} {distance}"
                );
            }
        }
        let codec = train(text, Similarity::L2, rows).unwrap();
        if !codec.residual {
            let decoded = fixtures::floats(&format!("{name}.both.decoded"));
            for (expected, code) in
                decoded.chunks_exact(32).zip(theirs.chunks_exact(codec.layout().code_bytes()))
            {
                let mut row = vec![0.0; 32];
                codec.decode(None, code, &mut row);
                assert!(row.iter().zip(expected).all(|(a, b)| (a - b).abs() <= 1e-6), "{text}");
            }
        }
    }
}

/// By FAISS's ranges of other statistics its codes; its ranges too where it does not train on a row of zeros instead of the
/// first.
#[test]
fn other_ranges_give_the_codes_of_faiss() {
    let base = fixtures::floats("shared.both.base");
    let first = Assigned { rows: Rows::of(&base[..3200], 32), lists: &[0; 100], centroids: None };
    let all = Assigned { rows: Rows::of(&base, 32), lists: &[0; 1000], centroids: None };
    let ranges = ["_minmax0.1", "_meanstd2", "_quantiles0.05", "_optim"];
    for (name, bits) in [("SQ8", "SQ8"), ("SQ4", "SQ4"), ("SQ8u", "SQ8_uniform")] {
        let trained = fixtures::floats(&format!("{name}_ranges.both.trained"));
        let theirs = fixtures::bytes(&format!("{name}_ranges.both.codes"));
        let parts = trained.chunks_exact(trained.len() / 4).zip(theirs.chunks_exact(theirs.len() / 4));
        for (range, (trained, theirs)) in ranges.into_iter().zip(parts) {
            let text = format!("{bits}{range}_raw");
            let codec =
                Scalar::from_tables(quantizer(&text), 32, Similarity::L2, &tables_of(trained)).unwrap();
            assert_eq!(codes(&codec, first), theirs, "{text}");
            // Its `optim` is another range, as the head of the file says.
            let ours = train(&text, Similarity::L2, all).unwrap();
            let exact = range == "_minmax0.1" || name == "SQ8u";
            let near = if exact { 1e-6 } else { 0.02 };
            for (a, b) in ours.ranges.trained.iter().zip(&codec.ranges.trained) {
                let apart = (a.low - b.low).abs().max((a.span - b.span).abs());
                assert!(range == "_optim" || apart <= near * b.span, "{text}: {a:?} {b:?}");
            }
        }
    }
}
