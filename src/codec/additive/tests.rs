//! Additive codes against what their formulas say, in f64. They break if a candidate is lost in the beam, if a table
//! belongs to another list, if a norm is read from the wrong bits: searches would still find something.

use super::*;
use crate::NORM_MAX;
use crate::codec::{Codes, Probe, Visit};
use crate::kernel::Found;
use crate::math::random::Random;
use crate::progress::Tick;

const SIMILARITIES: [Similarity; 2] = [Similarity::L2, Similarity::Dot];

fn noise(count: usize, scale: f32, seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed);
    (0..count).map(|_| scale * (random.unit() + random.unit() + random.unit() - 1.5) as f32).collect()
}

/// Rows around a few sums of a few points: what additive codes are made for.
fn clustered(n: usize, dim: usize, seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed);
    let points = noise(24 * dim, 10.0, seed ^ 7);
    let mut rows = Vec::new();
    for _ in 0..n {
        let chosen: Vec<usize> = (0..3).map(|set| 8 * set + random.below(8)).collect();
        rows.extend(
            (0..dim).map(|d| {
                chosen.iter().map(|p| points[p * dim + d]).sum::<f32>() + (random.unit() - 0.5) as f32
            }),
        );
    }
    rows
}

fn form(text: &str) -> AdditiveCode {
    text.parse().unwrap()
}

/// Two lists.
struct Data {
    dim: usize,
    rows: Vec<f32>,
    lists: Vec<u32>,
    centroids: Vec<f32>,
}

impl Data {
    fn new(rows: Vec<f32>, dim: usize) -> Self {
        let lists: Vec<u32> = (0..rows.len() / dim).map(|row| row as u32 % 2).collect();
        let mut centroids = vec![0.0; 2 * dim];
        for (row, list) in rows.chunks(dim).zip(&lists) {
            let centroid = &mut centroids[*list as usize * dim..][..dim];
            centroid.iter_mut().zip(row).for_each(|(c, x)| *c += 2.0 * x / lists.len().max(2) as f32);
        }
        Data { dim, rows, lists, centroids }
    }

    fn assigned(&self, with_centroids: bool) -> Assigned<'_> {
        Assigned {
            rows: Rows::of(&self.rows, self.dim),
            lists: &self.lists,
            centroids: with_centroids.then(|| Rows::of(&self.centroids, self.dim)),
        }
    }

    fn train(&self, text: &str, similarity: Similarity, with_centroids: bool) -> Additive {
        let training = Training {
            sample: self.assigned(with_centroids),
            similarity,
            seed: 5,
            iterations: None,
            rows: None,
        };
        Additive::train(form(text), &training, &mut Observer::none()).unwrap()
    }
}

fn encode(code: &Additive, rows: Assigned<'_>) -> Vec<u8> {
    let mut codes = vec![9; 3];
    code.encode(rows, &mut codes);
    assert_eq!(codes.len(), 3 + rows.rows.len() * code.form.code_bytes());
    codes.split_off(3)
}

/// The mean squared error of the decoded rows.
fn error(code: &Additive, data: &Data, with_centroids: bool) -> f64 {
    let assigned = data.assigned(with_centroids);
    let codes = encode(code, assigned);
    let mut back = vec![f32::NAN; data.dim];
    let mut sum = 0.0;
    for (r, packed) in codes.chunks(code.form.code_bytes()).enumerate() {
        code.decode(assigned.centroids.map(|c| c.row(data.lists[r] as usize)), packed, &mut back);
        sum += back.iter().zip(assigned.rows.row(r)).map(|(y, x)| f64::from(y - x).powi(2)).sum::<f64>();
    }
    sum / data.lists.len() as f64
}

fn product(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// The scores of all `codes` for `visits` queries of one list.
fn scores(
    code: &Additive,
    queries: &[f32],
    centroid: Option<&[f32]>,
    codes: &[u8],
    worst: f32,
) -> Vec<Vec<(u32, f32)>> {
    let queries = Rows::of(queries, code.dim);
    let mut scanner = code.scanner(queries);
    let coarse = |query: &[f32]| match (centroid, code.similarity) {
        (None, _) => 0.0,
        (Some(c), Similarity::L2) => query.iter().zip(c).map(|(q, c)| f64::from(q - c).powi(2)).sum(),
        (Some(c), Similarity::Dot) => -product(query, c),
    };
    let visits: Vec<Visit> =
        queries.iter().zip(0..).map(|(q, query)| Visit { query, coarse: coarse(q) as f32 }).collect();
    scanner.enter(Probe { list: 0, centroid, visits: &visits });
    let n = codes.len() / code.form.code_bytes();
    let live = vec![u32::MAX; n.div_ceil(32)];
    let mut found = vec![Found::default(); visits.len()];
    let block = Codes { bytes: codes, n, ahead: &[] };
    scanner.scan(block, 0, &vec![worst; visits.len()], &vec![&live[..]; visits.len()], &mut found);
    found.iter().map(|found| found.iter().collect()).collect()
}

/// What a score must be by its formula, and the size of what it is summed from.
fn expected(code: &Additive, query: &[f32], centroid: Option<&[f32]>, packed: &[u8]) -> (f64, f64) {
    let mut y = vec![0.0; code.dim];
    code.decode(None, packed, &mut y);
    let zeros = vec![0.0; code.dim];
    let c = centroid.filter(|_| code.form.residual()).unwrap_or(&zeros);
    let near: Vec<f32> = query.iter().zip(c).map(|(q, c)| q - c).collect();
    let size = product(query, query) + product(c, c) + product(&y, &y);
    let mut reader = BitReader::new(packed);
    code.bits.iter().cycle().take(code.book_count()).for_each(|bits| {
        reader.read(u32::from(*bits));
    });
    let stored = reader.read(code.form.norm().bits() as u32);
    let norm = match code.form.norm() {
        AdditiveNorm::Decompress | AdditiveNorm::FromTables => product(&y, &y),
        AdditiveNorm::None => 0.0,
        _ => f64::from(code.norm.decode(stored)),
    };
    let factor = if code.form.norm() == AdditiveNorm::None { 1.0 } else { 2.0 };
    let score = match code.similarity {
        Similarity::L2 => product(&near, &near) + norm - factor * product(&near, &y),
        Similarity::Dot => -product(query, c) - product(query, &y),
    };
    (score, size)
}

const FORMS: [&str; 17] = [
    "RQ4x8",
    "RQ6x8_Nfloat",
    "RQ3x8_Nqint8",
    "RQ2x8_Nqint4",
    "RQ3x5_Nqint4",
    "RQ5x4_Ncqint8",
    "RQ3x3_Ncqint4",
    "RQ2x4_Nlsq2x4",
    "RQ3x6_Nrq2x4",
    "RQ3x4_NfromLUT",
    "RQ8x3_Nnone",
    "RQ1x9_3x4_Nfloat",
    "PRQ2x2x8_Nqint8",
    "PRQ3x2x4",
    "LSQ3x4_Nqint8",
    "PLSQ2x2x4_Nfloat",
    "LSQ2x5",
];

#[test]
fn scores_are_what_the_formula_says() {
    let dim = 12;
    let data = Data::new(clustered(300, dim, 1), dim);
    let queries = clustered(3, dim, 1);
    for text in FORMS {
        for similarity in SIMILARITIES {
            for (raw, with) in [("", true), ("_raw", true), ("", false)] {
                let code = data.train(&format!("{text}{raw}"), similarity, with);
                let packed = encode(&code, data.assigned(with));
                let bytes = code.form.code_bytes();
                let centroid = with.then(|| &data.centroids[..dim]);
                let told = scores(&code, &queries, centroid, &packed, f32::MAX);
                for (query, told) in queries.chunks(dim).zip(told) {
                    assert_eq!(told.len(), data.lists.len());
                    for (entry, score) in told {
                        let (want, size) =
                            expected(&code, query, centroid, &packed[entry as usize * bytes..][..bytes]);
                        assert!(
                            (f64::from(score) - want).abs() < 1e-5 * size,
                            "{text}{raw} {similarity:?} {with}: {score} {want}"
                        );
                    }
                }
            }
        }
    }
}

/// A list's table is the difference of two that may be far from 0.
#[test]
fn lists_far_from_the_origin_lose_nothing() {
    let dim = 8;
    let mut rows = clustered(400, dim, 2);
    rows.iter_mut().for_each(|x| *x += 3000.0);
    let data = Data::new(rows, dim);
    let code = data.train("RQ3x6_Nfloat", Similarity::L2, true);
    let packed = encode(&code, data.assigned(true));
    let centroid = &data.centroids[..dim];
    let query = &data.rows[..dim];
    for (entry, score) in &scores(&code, query, Some(centroid), &packed, f32::MAX)[0] {
        let (want, _) = expected(&code, query, Some(centroid), &packed[*entry as usize * 7..][..7]);
        assert!((f64::from(*score) - want).abs() < 0.05, "{score} {want}");
    }
}

#[test]
fn a_score_does_not_depend_on_company_and_thresholds_and_masks_hold() {
    let dim = 10;
    let data = Data::new(clustered(300, dim, 3), dim);
    let queries = clustered(9, dim, 4);
    for text in ["RQ4x8", "RQ4x8_Nqint8", "PRQ2x3x4_Nfloat", "LSQ2x4_Nnone"] {
        for similarity in SIMILARITIES {
            let code = data.train(text, similarity, true);
            let packed = encode(&code, data.assigned(true));
            let bytes = code.form.code_bytes();
            let centroid = Some(&data.centroids[..dim]);
            let all = scores(&code, &queries, centroid, &packed, f32::MAX);
            for (q, all) in queries.chunks(dim).zip(&all) {
                let fresh = Additive::from_tables(code.form, dim, similarity, &code.tables()).unwrap();
                let alone = scores(&fresh, q, centroid, &packed, f32::MAX);
                assert_eq!(&alone[0], all, "{text}");
                for at in [0, 17, 64, 299] {
                    let one = scores(&code, q, centroid, &packed[at * bytes..][..bytes], f32::MAX);
                    assert_eq!(one[0][0].1.to_bits(), all[at].1.to_bits());
                }
                let worst = all[40].1;
                let within: Vec<(u32, f32)> = all.iter().copied().filter(|(_, s)| *s <= worst).collect();
                assert_eq!(scores(&code, q, centroid, &packed, worst)[0], within);
            }
        }
    }
    let code = data.train("RQ4x8_Nqint8", Similarity::L2, true);
    let packed = encode(&code, data.assigned(true));
    let mut scanner = code.scanner(Rows::of(&queries, dim));
    let visits = [Visit { query: 3, coarse: 1.0 }, Visit { query: 1, coarse: 2.0 }];
    scanner.enter(Probe { list: 0, centroid: Some(&data.centroids[..dim]), visits: &visits });
    let (live, mut found) = ([0x8000_0005, 0, 0, 0, 0, 0, 0, 0, 0, 1], vec![Found::default()]);
    let block = Codes { bytes: &packed, n: 300, ahead: &packed };
    scanner.scan(block, 1, &[f32::MAX], &[&live], &mut found);
    assert_eq!(found[0].entries, [0, 2, 31, 288]);
}

/// The beam search of the textbook: residuals, all continuations, sorted.
fn textbook(words: &[f32], dim: usize, bits: &[u8], row: &[f32], beam: usize) -> Vec<u16> {
    let mut candidates: Vec<(f64, Vec<u16>, Vec<f64>)> =
        vec![(0.0, Vec::new(), row.iter().map(|x| f64::from(*x)).collect())];
    let mut start = 0;
    for bits in bits {
        let mut next = Vec::new();
        for (_, code, residual) in &candidates {
            for k in 0..1usize << bits {
                let word = &words[(start + k) * dim..][..dim];
                let left: Vec<f64> = residual.iter().zip(word).map(|(r, w)| r - f64::from(*w)).collect();
                let error: f64 = left.iter().map(|r| r * r).sum();
                next.push((error, [&code[..], &[k as u16]].concat(), left));
            }
        }
        next.sort_by(|a, b| a.0.total_cmp(&b.0));
        next.truncate(beam);
        candidates = next;
        start += 1 << bits;
    }
    candidates.remove(0).1
}

#[test]
fn codes_are_those_of_an_exhaustive_beam() {
    for (dim, bits) in [(1, vec![2u8, 2]), (3, vec![1, 1, 1]), (7, vec![3, 3, 4]), (20, vec![5, 5, 5, 5, 5])]
    {
        let words: usize = bits.iter().map(|bits| 1usize << bits).sum();
        let words = noise(words * dim, 1.0, 6);
        let rows = noise(100 * dim, 3.0, 7);
        let mut books = Books::new(dim, &bits, &words, Cross::Before);
        let scaled: Vec<f32> = rows.iter().map(|x| x * books.unit).collect();
        let got = residual::encode(&books, Rows::of(&scaled, dim));
        for (row, code) in rows.chunks(dim).zip(got.chunks(bits.len())) {
            assert_eq!(code, textbook(&words, dim, &bits, row, beam::BEAM), "{dim} {bits:?}");
        }
        // Where cross products are too many, residuals say the same.
        books.stages.iter_mut().for_each(|stage| stage.cross = None);
        assert_eq!(residual::encode(&books, Rows::of(&scaled, dim)), got);
    }
}

/// Where all codes can be listed, local search finds the best of them nine times in ten, and others are hardly worse.
#[test]
fn local_search_finds_the_best_code_of_small_books() {
    let (dim, bits) = (6, [3u8, 3, 3]);
    let words = noise(24 * dim, 1.0, 8);
    let books = Books::new(dim, &bits, &words, Cross::All);
    let rows = noise(200 * dim, 1.5, 9);
    let scaled: Vec<f32> = rows.iter().map(|x| x * books.unit).collect();
    let codes = local::encode(&books, Rows::of(&scaled, dim));
    let cost = |row: &[f32], code: &[u16]| {
        let mut y = vec![0.0; dim];
        books.sum(code, &mut y);
        row.iter().zip(&y).map(|(x, y)| f64::from(x - y / books.unit).powi(2)).sum::<f64>()
    };
    let (mut missed, mut found, mut best, mut greedy) = (0, 0.0, 0.0, 0.0);
    for (row, code) in rows.chunks(dim).zip(codes.chunks(3)) {
        let known = textbook(&words, dim, &bits, row, 512);
        missed += usize::from(code != known);
        found += cost(row, code);
        best += cost(row, &known);
        greedy += cost(row, &textbook(&words, dim, &bits, row, 1));
    }
    assert!(missed <= 30, "{missed} of 200");
    assert!(found < 1.03 * best && greedy > 1.02 * best, "{found} {best} {greedy}");
}

#[test]
fn more_books_more_bits_and_local_search_mean_smaller_errors() {
    let dim = 16;
    let data = Data::new(clustered(1200, dim, 10), dim);
    let error = |text: &str| error(&data.train(text, Similarity::L2, true), &data, true);
    let [one, two, three, four] = ["RQ1x4", "RQ2x4", "RQ3x4", "RQ4x4"].map(error);
    assert!(one > two && two > three && three > four, "{one} {two} {three} {four}");
    assert!(error("RQ2x6") < two && error("PRQ2x2x4") < two);
    // The rows are sums of three points of eight each, which are found exactly only together.
    let (rq, lsq) = (error("RQ3x3"), error("LSQ3x3"));
    assert!(lsq <= rq, "{lsq} {rq}");
    assert!(error("PLSQ2x2x4") <= error("PRQ2x2x4") * 1.02);
    // Residuals of the centroid are less than the rows where centroids mean something.
    let away = self::error(&data.train("RQ2x4_raw", Similarity::L2, true), &data, true);
    assert!(away.is_finite() && away > three);
}

#[test]
fn tables_come_back_and_hostile_ones_are_refused() {
    let dim = 6;
    let data = Data::new(clustered(200, dim, 11), dim);
    for text in FORMS {
        let code = data.train(text, Similarity::L2, true);
        let tables = code.tables();
        let again = Additive::from_tables(code.form, dim, Similarity::L2, &tables).unwrap();
        assert_eq!(again.tables(), tables);
        assert_eq!(encode(&again, data.assigned(true)), encode(&code, data.assigned(true)), "{text}");
        let refused = |tables: &[u8]| Additive::from_tables(code.form, dim, Similarity::L2, tables).is_err();
        assert!(
            refused(&[]) && refused(&tables[..tables.len() - 1]) && refused(&[&tables[..], &[0]].concat())
        );
        for at in [0, tables.len() / 8 * 4, tables.len() - 4] {
            for bad in [f32::NAN, f32::INFINITY] {
                let mut tables = tables.clone();
                tables[at..at + 4].copy_from_slice(&bad.to_le_bytes());
                assert!(refused(&tables), "{text} {at}");
            }
        }
        let mut large = tables.clone();
        large[..4].copy_from_slice(&1e30f32.to_le_bytes());
        assert!(refused(&large));
    }
    let refused = |text, dim| Additive::from_tables(form(text), dim, Similarity::L2, &[]).is_err();
    assert!(refused("PRQ4x2x8", 6) && refused("RQ16x16", 65_000));
    // Whatever the norm's numbers are, scores are numbers.
    let code = data.train("RQ2x4_Nqint8", Similarity::L2, true);
    let mut tables = code.tables();
    let at = tables.len() - 8;
    tables[at..].copy_from_slice(&[f32::MIN.to_le_bytes(), f32::MAX.to_le_bytes()].concat());
    let code = Additive::from_tables(code.form, dim, Similarity::L2, &tables).unwrap();
    let packed = encode(&code, data.assigned(true));
    let told = scores(&code, &data.rows[..dim], None, &packed, f32::MAX);
    assert!(told[0].len() == 200 && told[0].iter().all(|(_, score)| score.is_finite()));
}

#[test]
fn training_and_codes_are_the_same_on_any_number_of_threads() {
    let dim = 9;
    let data = Data::new(clustered(700, dim, 12), dim);
    for text in ["RQ3x5_Ncqint4", "LSQ3x3_Nlsq2x4", "PRQ3x2x4_Nrq2x4"] {
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let code = data.train(text, Similarity::L2, true);
                let codes = encode(&code, data.assigned(true));
                (code.tables(), codes)
            })
        };
        let (tables, codes) = run(1);
        assert_eq!(run(3), (tables.clone(), codes.clone()), "{text}");
        // A row's code does not depend on the others.
        let code = Additive::from_tables(form(text), dim, Similarity::L2, &tables).unwrap();
        for row in [0, 1, 333, 699] {
            let assigned = data.assigned(true);
            let one = Assigned {
                rows: assigned.rows.slice(row..row + 1),
                lists: &data.lists[row..row + 1],
                ..assigned
            };
            let bytes = code.form.code_bytes();
            assert_eq!(encode(&code, one), codes[row * bytes..][..bytes], "{text} {row}");
        }
    }
}

#[test]
fn few_and_odd_rows_train_something_that_works() {
    let shapes = |scale: f32| {
        [
            (1, vec![scale]),
            (1, vec![scale; 3]),
            (1, noise(40, scale, 1)),
            (4, vec![0.0; 4]),
            (4, vec![scale; 400]),
            (4, noise(12, scale, 2)),
            (4, (0..400).map(|i| if i % 4 == 1 { scale * (i as f32 / 400.0) } else { scale }).collect()),
        ]
    };
    let longest = NORM_MAX / 4.0;
    for (dim, rows) in [0.0, 1e-40, 1e-20, 1.0, 1e15, longest].into_iter().flat_map(shapes) {
        let data = Data::new(rows, dim);
        for text in
            ["RQ2x8", "RQ3x4_Nfloat", "RQ2x3_Nqint8", "LSQ2x3_Ncqint8", "RQ2x2_Nlsq2x4_raw", "RQ2x2_Nnone"]
        {
            for similarity in SIMILARITIES {
                let code = data.train(text, similarity, true);
                let packed = encode(&code, data.assigned(true));
                let queries: Vec<f32> = [longest, -longest, 1.0, 0.0]
                    .iter()
                    .flat_map(|v| vec![*v; dim])
                    .chain(data.rows.clone())
                    .collect();
                for told in scores(&code, &queries, Some(&data.centroids[..dim]), &packed, f32::MAX) {
                    assert_eq!(told.len(), data.lists.len(), "{text} {similarity:?} {:?}", &data.rows[..dim]);
                    assert!(told.iter().all(|(_, s)| s.is_finite() && s.to_bits() != (-0.0f32).to_bits()));
                }
                let mut back = vec![f32::NAN; dim];
                code.decode(Some(&data.centroids[..dim]), &packed[..code.form.code_bytes()], &mut back);
                assert!(back.iter().all(|x| x.is_finite()));
                // Rows much longer than any that was trained on.
                let far = Data::new(vec![longest; dim], dim);
                let packed = encode(&code, far.assigned(false));
                code.decode(None, &packed, &mut back);
                assert!(back.iter().all(|x| x.is_finite()));
            }
        }
    }
    for (dim, rows) in [0.0, 1e-20, 1.0, longest].into_iter().flat_map(shapes) {
        let data = Data::new(rows, dim);
        for (text, similarity) in
            ["RQ3x4fsr", "RQ2x4fsr_Nrq2x4"].into_iter().flat_map(|t| SIMILARITIES.map(|s| (t, s)))
        {
            let training =
                Training { sample: data.assigned(true), similarity, seed: 5, iterations: None, rows: None };
            let code = AdditiveFastScan::train(form(text), &training, &mut Observer::none()).unwrap();
            let (mut packed, mut region) = (Vec::new(), Vec::new());
            code.encode(data.assigned(true), &mut packed);
            code.layout().pack(&packed, &mut region);
            let n = data.lists.len();
            let mut live = vec![u32::MAX; n.div_ceil(32)];
            if !n.is_multiple_of(32) {
                live[n / 32] = (1 << (n % 32)) - 1;
            }
            let queries: Vec<f32> =
                [longest, -longest, 1.0, 0.0].iter().flat_map(|v| vec![*v; dim]).collect();
            let mut scanner = code.scanner(Rows::of(&queries, dim));
            let visits = [0, 1, 2, 3].map(|query| Visit { query, coarse: 1.0 });
            scanner.enter(Probe { list: 0, centroid: Some(&data.centroids[..dim]), visits: &visits });
            let mut found = vec![Found::default(); 4];
            let block = Codes { bytes: &region, n, ahead: &[] };
            scanner.scan(block, 0, &[f32::MAX; 4], &[&live[..]; 4], &mut found);
            for found in found {
                assert!(found.len() == n && found.scores.iter().all(|score| score.is_finite()), "{text}");
            }
        }
    }
    let none = Data::new(Vec::new(), 3);
    let training = Training {
        sample: none.assigned(false),
        similarity: Similarity::L2,
        seed: 1,
        iterations: None,
        rows: None,
    };
    let refused = Additive::train(form("RQ2x4"), &training, &mut Observer::none());
    assert!(matches!(refused, Err(Error::TooFewRows { .. })));
    let data = Data::new(noise(60, 1.0, 3), 3);
    let code = data.train("RQ2x4", Similarity::L2, true);
    assert!(encode(&code, none.assigned(false)).is_empty());
}

/// Few rows are their own words: nothing is lost.
#[test]
fn fewer_rows_than_words_are_stored_exactly() {
    let data = Data::new(clustered(30, 8, 13), 8);
    assert!(error(&data.train("RQ2x6", Similarity::L2, true), &data, true) < 1e-6);
}

#[test]
fn training_ticks_and_can_be_cancelled() {
    let data = Data::new(clustered(600, 8, 14), 8);
    let training = Training {
        sample: data.assigned(true),
        similarity: Similarity::L2,
        seed: 1,
        iterations: None,
        rows: None,
    };
    let mut ticks: Vec<Tick> = Vec::new();
    let mut watch = |tick: Tick| {
        ticks.push(tick);
        ControlFlow::Continue(())
    };
    Additive::train(form("PLSQ2x2x4_Nlsq2x4"), &training, &mut Observer::new(&mut watch)).unwrap();
    assert!(ticks.iter().all(|tick| tick.stage == "encoder" && tick.total == 2 * (2 + 25)));
    assert!(ticks.is_sorted_by_key(|tick| tick.done));
    assert_eq!(ticks.last().map(|tick| tick.done), Some(54));
    for stop in [0, ticks.len() / 2, ticks.len() - 1] {
        let mut left = stop;
        let mut watch = |_: Tick| match left {
            0 => ControlFlow::Break(()),
            _ => {
                left -= 1;
                ControlFlow::Continue(())
            }
        };
        let cancelled = Additive::train(form("PLSQ2x2x4_Nlsq2x4"), &training, &mut Observer::new(&mut watch));
        assert!(matches!(cancelled, Err(Error::Cancelled)), "{stop}");
    }
}

/// Fast scans round tables to bytes and nothing else: scores are those of decoded rows within a few steps.
#[test]
fn fast_scans_score_what_they_decode_to() {
    let dim = 12;
    let mut rows = clustered(300, dim, 15);
    rows.iter_mut().for_each(|x| *x += 30.0);
    let data = Data::new(rows, dim);
    let queries: Vec<f32> = data.rows[..4 * dim].iter().map(|x| x + 1.0).collect();
    for text in [
        "RQ5x4fs",
        "RQ5x4fsr",
        "RQ4x4fsr_Nrq2x4",
        "RQ3x4fs_Nlsq2x4",
        "LSQ3x4fsr",
        "PRQ2x2x4fsr",
        "PLSQ2x2x4fs_Nrq2x4",
    ] {
        for (similarity, with) in SIMILARITIES.into_iter().flat_map(|s| [(s, true), (s, false)]) {
            let training =
                Training { sample: data.assigned(with), similarity, seed: 5, iterations: None, rows: None };
            let code = AdditiveFastScan::train(form(text), &training, &mut Observer::none()).unwrap();
            let code = AdditiveFastScan::from_tables(form(text), dim, similarity, &code.tables()).unwrap();
            let mut packed = Vec::new();
            code.encode(data.assigned(with), &mut packed);
            let bytes = code.layout().code_bytes();
            let mut region = Vec::new();
            code.layout().pack(&packed, &mut region);
            for (at, query) in queries.chunks(dim).enumerate() {
                let mut scanner = code.scanner(Rows::of(&queries, dim));
                let centroid = with.then(|| &data.centroids[..dim]);
                let coarse = match (centroid, similarity) {
                    (None, _) => 0.0,
                    (Some(c), Similarity::L2) => {
                        query.iter().zip(c).map(|(q, c)| f64::from(q - c).powi(2)).sum()
                    }
                    (Some(c), Similarity::Dot) => -product(query, c),
                };
                let visits = [Visit { query: at as u32, coarse: coarse as f32 }];
                scanner.enter(Probe { list: 0, centroid, visits: &visits });
                let live = [&[u32::MAX; 9][..], &[u32::MAX >> 20]].concat();
                let mut found = vec![Found::default()];
                scanner.scan(
                    Codes { bytes: &region, n: 300, ahead: &[] },
                    0,
                    &[f32::MAX],
                    &[&live],
                    &mut found,
                );
                assert_eq!(found[0].entries, (0..300).collect::<Vec<u32>>(), "{text}");
                let mut row = vec![0.0; dim];
                // Entries of the entered list: norms with a centroid in them are of no other.
                for entry in (0..300).step_by(2) {
                    code.decode(centroid, &packed[entry * bytes..][..bytes], &mut row);
                    let want = match similarity {
                        Similarity::L2 => query.iter().zip(&row).map(|(q, x)| f64::from(q - x).powi(2)).sum(),
                        Similarity::Dot => -product(query, &row),
                    };
                    let size = product(query, query) + product(&row, &row);
                    let score = f64::from(found[0].scores[entry]);
                    assert!(
                        (score - want).abs() < 0.01 * size,
                        "{text} {similarity:?} {with}: {score} {want}"
                    );
                }
            }
        }
    }
}

/// What FAISS made of 1,000 rows in 8 lists (`tests/fixtures/faiss`): its books, its codes, its distances.
mod faiss {
    use super::*;

    const DIM: usize = 32;

    use crate::fixtures::{Given, bytes, floats};

    fn error(given: &Given, code: &Additive, codes: &[u8]) -> f64 {
        let mut row = vec![0.0; DIM];
        let packed = codes.chunks(code.form.code_bytes()).zip(&given.lists).zip(given.rows.chunks(DIM));
        packed
            .map(|((packed, list), x)| {
                code.decode(Some(given.centroid(*list)), packed, &mut row);
                row.iter().zip(x).map(|(y, x)| f64::from(y - x).powi(2)).sum::<f64>()
            })
            .sum()
    }

    /// The tables of a kind as ours are stored.
    fn tables(kind: &str, books: &str, code: &AdditiveCode) -> Vec<u8> {
        let words = floats(&format!("{books}.both.codebooks"));
        let part = DIM / code.parts();
        let mut values: Vec<f32> = Vec::new();
        // A part's words are padded with zeros there.
        for (p, words) in words.chunks(words.len() / code.parts()).enumerate() {
            values.extend(words.chunks(DIM).flat_map(|word| &word[p * part..(p + 1) * part]));
        }
        values.extend([0.0; DIM]);
        let file = match code.norm() {
            AdditiveNorm::Qint8 | AdditiveNorm::Qint4 => "norm_range",
            AdditiveNorm::Cqint8 => "norm_points",
            AdditiveNorm::Rq2x4 => "norm_tables",
            _ => "",
        };
        if !file.is_empty() {
            values.extend(floats(&format!("{kind}.both.{file}")));
        }
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    /// FAISS's codes by FAISS's books have FAISS's distances.
    fn check_distances(given: &Given, kind: &str, code: &Additive, codes: &[u8]) {
        // Without norms L2 distances are none, and are not there.
        let found = match (code.form.norm(), code.similarity) {
            (AdditiveNorm::None, Similarity::L2) => return,
            (AdditiveNorm::None, Similarity::Dot) => floats(&format!("{kind}.ip.found")),
            (_, Similarity::L2) => floats(&format!("{kind}.both.found"))[..400].to_vec(),
            (_, Similarity::Dot) => floats(&format!("{kind}.both.found"))[400..].to_vec(),
        };
        let (ids, distances) = found.split_at(200);
        let size = distances.iter().fold(0.0f32, |size, d| size.max(d.abs()));
        let sign = if code.similarity == Similarity::L2 { 1.0 } else { -1.0 };
        let mut scanner = code.scanner(Rows::of(&given.queries, DIM));
        for q in 0..20 {
            let scores = given.scores(&mut *scanner, (code.layout(), codes), code.similarity, q);
            let scores: Vec<(u32, f32)> = scores.into_iter().map(|(id, score)| (id, sign * score)).collect();
            let better = |a: f32, b: f32| if code.similarity == Similarity::L2 { a < b } else { a > b };
            for place in 0..10 {
                let (id, distance) = (ids[10 * q + place] as u32, distances[10 * q + place]);
                let ours = scores.iter().find(|(other, _)| *other == id).unwrap().1;
                assert!((ours - distance).abs() <= 1e-5 * size, "{kind} {q}: {ours}, FAISS {distance}");
                // No more than `place` entries are nearer by more than rounding.
                let slack = if better(0.0, 1.0) { 1e-5 * size } else { -1e-5 * size };
                let nearer = scores.iter().filter(|(_, score)| better(*score, distance - slack)).count();
                assert!(nearer <= place, "{kind} {q}: {nearer} before {place}");
            }
        }
    }

    #[test]
    fn codes_and_distances_are_those_of_faiss() {
        let given = Given::whole();
        let kinds = ["", "_Nfloat", "_Nqint8", "_Nqint4", "_Ncqint8", "_Nrq2x4", "_Nnone"];
        for suffix in kinds {
            let kind = format!("RQ4x6{suffix}");
            let theirs = bytes(&format!("{kind}.both.codes"));
            for similarity in SIMILARITIES {
                let tables = tables(&kind, "RQ4x6", &form(&kind));
                let code = Additive::from_tables(form(&kind), DIM, similarity, &tables).unwrap();
                check_distances(&given, &kind, &code, &theirs);
                let ours = encode(&code, given.assigned());
                let width = code.form.code_bytes();
                let words = |codes: &[u8], row: usize| codes[row * width..][..3].to_vec();
                let other: Vec<usize> =
                    (0..1000).filter(|row| words(&ours, *row) != words(&theirs, *row)).collect();
                // Two candidates may be equally near but for rounding.
                assert!(other.len() <= 2, "{kind}: {} codes differ", other.len());
                let norm = |codes: &[u8], row: usize| {
                    BitReader::new(&codes[row * width + 3..][..width - 3])
                        .read(code.form.norm().bits() as u32)
                };
                for row in (0..1000).filter(|row| !other.contains(row)) {
                    let (a, b) = (norm(&ours, row), norm(&theirs, row));
                    // A length at the border of two steps; the last bits of a float.
                    let near = match code.form.norm() {
                        AdditiveNorm::Float => (f32::from_bits(a) / f32::from_bits(b) - 1.0).abs() < 1e-5,
                        _ => {
                            a == b
                                || (code.norm.decode(a) / code.norm.decode(b) - 1.0).abs() < 0.1
                                    && row % 97 == 0
                        }
                    };
                    assert!(near, "{kind} {row}: {a} {b}");
                }
                let (mine, faiss) = (error(&given, &code, &ours), error(&given, &code, &theirs));
                assert!(mine <= faiss * (1.0 + 1e-6), "{kind}: {mine}, FAISS {faiss}");
            }
        }
        for kind in ["LSQ4x6", "PRQ2x2x6", "PLSQ2x2x6"] {
            let theirs = bytes(&format!("{kind}.both.codes"));
            for similarity in SIMILARITIES {
                let form = form(&format!("{kind}_Nqint8"));
                let code = Additive::from_tables(form, DIM, similarity, &tables(kind, kind, &form)).unwrap();
                check_distances(&given, kind, &code, &theirs);
                let decoded = floats(&format!("{kind}.both.decoded"));
                let mut row = vec![0.0; DIM];
                for (r, want) in decoded.chunks(DIM).enumerate() {
                    code.decode(Some(given.centroid(given.lists[r])), &theirs[4 * r..][..4], &mut row);
                    assert!(row.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-5), "{kind} {r}");
                }
                let ours = encode(&code, given.assigned());
                let (mine, faiss) = (error(&given, &code, &ours), error(&given, &code, &theirs));
                assert!(mine <= faiss, "{kind}: {mine}, FAISS {faiss}");
            }
        }
    }

    /// Fast scans: FAISS's nibbles, norms of whole vectors among them, and its distances, which leave out ‖q‖².
    #[test]
    fn fast_scans_are_those_of_faiss() {
        let given = Given::whole();
        for (kind, metric, similarity) in [
            ("RQ5x4fsr", "l2", Similarity::L2),
            ("RQ5x4fsr", "ip", Similarity::Dot),
            ("LSQ5x4fsr", "l2", Similarity::L2),
            ("LSQ5x4fsr", "ip", Similarity::Dot),
        ] {
            let spelling = if metric == "l2" { format!("{kind}_Nrq2x4") } else { kind.into() };
            let mut values = floats(&format!("{kind}.{metric}.codebooks"));
            values.extend([0.0; DIM]);
            if metric == "l2" {
                values.extend(floats(&format!("{kind}.l2.norm_tables")));
            }
            let tables: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            let code = AdditiveFastScan::from_tables(form(&spelling), DIM, similarity, &tables).unwrap();
            let theirs = bytes(&format!("{kind}.{metric}.codes"));
            let width = code.layout().code_bytes();
            assert_eq!(theirs.len(), 1000 * width);
            if kind.starts_with("RQ") {
                let mut ours = Vec::new();
                code.encode(given.assigned(), &mut ours);
                let other = ours.chunks(width).zip(theirs.chunks(width)).filter(|(a, b)| a != b).count();
                assert!(other <= 4, "{kind} {metric}: {other} codes differ");
            }
            let found = floats(&format!("{kind}.{metric}.found"));
            let (ids, distances) = found.split_at(200);
            let size = distances.iter().fold(0.0f32, |size, d| size.max(d.abs()));
            let sign = if metric == "l2" { 1.0 } else { -1.0 };
            let mut scanner = code.scanner(Rows::of(&given.queries, DIM));
            for q in 0..20 {
                let scores = given.scores(&mut *scanner, (code.layout(), &theirs), similarity, q);
                let query = given.query(q);
                let left_out = if metric == "l2" { product(query, query) as f32 } else { 0.0 };
                for (id, distance) in ids[10 * q..][..10].iter().zip(&distances[10 * q..]) {
                    let ours = sign * (scores[&(*id as u32)] - left_out);
                    assert!(
                        (ours - distance).abs() <= 2e-2 * size,
                        "{kind} {metric}: {ours}, FAISS {distance}"
                    );
                }
            }
        }
    }

    /// Trained on the same rows, our books lose no more than FAISS's.
    #[test]
    fn books_are_as_good_as_those_of_faiss() {
        let given = Given::whole();
        let training = Training {
            sample: given.assigned(),
            similarity: Similarity::L2,
            seed: 1234,
            iterations: None,
            rows: None,
        };
        for (kind, spelling) in [
            ("RQ4x6", "RQ4x6"),
            ("PRQ2x2x6", "PRQ2x2x6_Nqint8"),
            ("LSQ4x6", "LSQ4x6_Nqint8"),
            ("PLSQ2x2x6", "PLSQ2x2x6_Nqint8"),
        ] {
            let form = form(spelling);
            let theirs =
                Additive::from_tables(form, DIM, Similarity::L2, &tables(kind, kind, &form)).unwrap();
            let faiss = error(&given, &theirs, &bytes(&format!("{kind}.both.codes")));
            let ours = Additive::train(form, &training, &mut Observer::none()).unwrap();
            let mine = error(&given, &ours, &encode(&ours, given.assigned()));
            assert!(mine <= faiss * 1.02, "{kind}: {mine}, FAISS {faiss}");
        }
    }
}
