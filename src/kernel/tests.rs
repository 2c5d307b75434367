//! Each table against the portable one, and each against itself: the same bits in any company.
//!
//! How a kernel breaks: a tail that is read too far or not at all (dimensions that are no multiple of a
//! register), a tile whose remainder is summed in another order (batch and single query disagree), a
//! load that assumes alignment. So dimensions, counts and offsets run over all small values.

use super::*;
use crate::math::random::Random;
use std::ops::Range;

const SIMILARITIES: [Similarity; 2] = [Similarity::L2, Similarity::Dot];
const ELEMENTS: [Element; 4] = [Element::F32, Element::F16, Element::BF16, Element::U8];

fn dims() -> impl Iterator<Item = usize> {
    (1..=70).chain([96, 100, 128, 384, 768, 1000])
}

fn floats(random: &mut Random, count: usize) -> Vec<f32> {
    (0..count).map(|_| (random.unit() * 2.0 - 1.0) as f32).collect()
}

/// Whole numbers below 256, of either sign: every sum of their products is exact in f32.
fn integers(random: &mut Random, count: usize) -> Vec<f32> {
    (0..count).map(|_| random.below(511) as f32 - 255.0).collect()
}

/// The score in f64 and the sum of its terms' magnitudes, which scales the error allowed.
fn oracle(similarity: Similarity, query: &[f32], row: &[f32]) -> (f64, f64) {
    let pairs = query.iter().zip(row).map(|(&q, &x)| (f64::from(q), f64::from(x)));
    match similarity {
        Similarity::L2 => {
            let sum = pairs.map(|(q, x)| (q - x) * (q - x)).sum();
            (sum, sum)
        }
        Similarity::Dot => pairs.fold((0.0, 0.0), |(sum, size), (q, x)| (sum - q * x, size + (q * x).abs())),
    }
}

/// Codes that start `offset` bytes into their allocation, and what they decode to.
struct Codes {
    bytes: Vec<u8>,
    offset: usize,
    decoded: Vec<f32>,
}

impl Codes {
    fn new(element: Element, rows: &[f32], offset: usize) -> Self {
        let mut bytes = vec![0xff; offset + rows.len() * element.size()];
        let mut decoded = vec![0.0; rows.len()];
        portable::KERNELS.encode(element, rows, &mut bytes[offset..]);
        portable::KERNELS.decode(element, &bytes[offset..], &mut decoded);
        Codes { bytes, offset, decoded }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[self.offset..]
    }
}

fn bits(scores: &[f32]) -> Vec<u32> {
    scores.iter().map(|score| score.to_bits()).collect()
}

#[test]
fn scans_equal_the_oracle_and_do_not_depend_on_company() {
    let mut random = Random::new(1);
    for dim in dims() {
        let queries = floats(&mut random, 9 * dim);
        let queries: Vec<&[f32]> = queries.chunks(dim).collect();
        for (element, offset) in
            ELEMENTS.into_iter().zip([dim % 4, (dim + 1) % 4, (dim + 2) % 4, (dim + 3) % 4])
        {
            let counts = if dim < 24 { 0..=40 } else { dim % 40..=dim % 40 };
            let rows = match element {
                Element::U8 => (0..40 * dim).map(|_| random.below(256) as f32).collect(),
                _ => floats(&mut random, 40 * dim),
            };
            let codes = Codes::new(element, &rows, offset);
            for (similarity, kernels) in
                SIMILARITIES.into_iter().flat_map(|s| Kernels::all().into_iter().map(move |k| (s, k)))
            {
                // Each pair alone: what all tiles must equal.
                let mut alone = vec![0.0; 9 * 40];
                for (q, query) in queries.iter().enumerate() {
                    for (i, code) in codes.bytes().chunks(dim * element.size()).enumerate() {
                        let score = &mut alone[q * 40 + i..][..1];
                        kernels.scan(similarity, element, &[query], code, score);
                        let (exact, size) = oracle(similarity, query, &codes.decoded[i * dim..][..dim]);
                        let error = (f64::from(score[0]) - exact).abs();
                        assert!(error <= 1e-5 * size + 1e-30, "{} {dim} {element:?} {error}", kernels.name);
                        assert_ne!(score[0].to_bits(), (-0.0f32).to_bits());
                    }
                }
                for n in counts.clone() {
                    let rows: Vec<&[u8]> = codes.bytes().chunks(dim * element.size()).take(n).collect();
                    let mut apart = vec![f32::NAN; n];
                    kernels.scan_apart(similarity, element, queries[8], &rows, &mut apart);
                    assert_eq!(
                        bits(&apart),
                        bits(&alone[8 * 40..][..n]),
                        "{} {dim} {element:?}",
                        kernels.name
                    );
                    let q_count = 1 + (n + dim) % 9;
                    let mut scores = vec![f32::NAN; q_count * n];
                    let bytes = &codes.bytes()[..n * dim * element.size()];
                    kernels.scan(similarity, element, &queries[..q_count], bytes, &mut scores);
                    for (q, scores) in scores.chunks(n.max(1)).enumerate() {
                        let expected = &alone[q * 40..][..n];
                        assert_eq!(bits(scores), bits(expected), "{} {dim} {element:?}", kernels.name);
                    }
                }
            }
        }
    }
}

#[test]
fn every_count_of_queries_and_rows_is_scanned() {
    let mut random = Random::new(2);
    let (dim, most) = (19, 40);
    let queries = integers(&mut random, 9 * dim);
    let queries: Vec<&[f32]> = queries.chunks(dim).collect();
    let codes = Codes::new(Element::F32, &integers(&mut random, most * dim), 1);
    for kernels in Kernels::all() {
        for (n, q_count) in (0..=most).flat_map(|n| (0..=9).map(move |q| (n, q))) {
            let mut scores = vec![f32::NAN; q_count * n];
            let bytes = &codes.bytes()[..n * dim * 4];
            kernels.scan(Similarity::L2, Element::F32, &queries[..q_count], bytes, &mut scores);
            for (at, &score) in scores.iter().enumerate() {
                let (exact, _) =
                    oracle(Similarity::L2, queries[at / n], &codes.decoded[at % n * dim..][..dim]);
                assert_eq!(f64::from(score), exact);
            }
        }
    }
}

#[test]
fn a_long_scan_crosses_its_cache_blocks_rightly() {
    let mut random = Random::new(3);
    let (dim, n) = (100, 1003);
    let queries = integers(&mut random, 6 * dim);
    let queries: Vec<&[f32]> = queries.chunks(dim).collect();
    let codes = Codes::new(Element::F32, &integers(&mut random, n * dim), 0);
    for kernels in Kernels::all() {
        let mut scores = vec![f32::NAN; queries.len() * n];
        kernels.scan(Similarity::L2, Element::F32, &queries, codes.bytes(), &mut scores);
        for (at, &score) in scores.iter().enumerate() {
            let (exact, _) = oracle(Similarity::L2, queries[at / n], &codes.decoded[at % n * dim..][..dim]);
            assert_eq!(f64::from(score), exact);
        }
    }
}

/// Rows and packed columns for the matrix kernels.
struct Matrices {
    dim: usize,
    rows: Vec<f32>,
    row_norms: Vec<f32>,
    columns: Vec<f32>,
    panels: Vec<f32>,
    column_norms: Vec<f32>,
    zeros: Vec<f32>,
}

impl Matrices {
    fn new(kernels: &Kernels, dim: usize, rows: Vec<f32>, columns: Vec<f32>) -> Self {
        let n = columns.len() / dim;
        let padded = n.next_multiple_of(PANEL);
        let mut panels = vec![0.0; padded * dim];
        for (at, &value) in columns.iter().enumerate() {
            let (c, d) = (at / dim, at % dim);
            panels[(c / PANEL * dim + d) * PANEL + c % PANEL] = value;
        }
        let mut row_norms = vec![0.0; rows.len() / dim];
        kernels.squared_norms(&rows, dim, &mut row_norms);
        let mut column_norms = vec![f32::INFINITY; padded];
        kernels.squared_norms(&columns, dim, &mut column_norms[..n]);
        let zeros = (0..padded).map(|c| if c < n { 0.0 } else { f32::INFINITY }).collect();
        Matrices { dim, rows, row_norms, columns, panels, column_norms, zeros }
    }

    fn product<'a>(&'a self, similarity: Similarity, rows: Range<usize>, no_norms: &'a [f32]) -> Product<'a> {
        let l2 = similarity == Similarity::L2;
        Product {
            dim: self.dim,
            rows: &self.rows[rows.start * self.dim..rows.end * self.dim],
            norms: if l2 { &self.row_norms[rows] } else { &no_norms[rows] },
            panels: &self.panels,
            bias: if l2 { &self.column_norms } else { &self.zeros },
            factor: if l2 { -2.0 } else { -1.0 },
            floor: if l2 { 0.0 } else { f32::NEG_INFINITY },
        }
    }
}

#[test]
fn products_equal_the_oracle_and_do_not_depend_on_company() {
    let mut random = Random::new(4);
    let no_norms = vec![0.0; 200];
    for dim in dims() {
        let (m, n) = (1 + dim * 7 % 41, 1 + dim * 5 % 170);
        let (rows, columns) = (floats(&mut random, m * dim), floats(&mut random, n * dim));
        for (similarity, kernels) in
            SIMILARITIES.into_iter().flat_map(|s| Kernels::all().into_iter().map(move |k| (s, k)))
        {
            let matrices = Matrices::new(kernels, dim, rows.clone(), columns.clone());
            let mut scores = vec![f32::NAN; m * n];
            kernels.scores(&matrices.product(similarity, 0..m, &no_norms), &mut scores, n);
            for (at, &score) in scores.iter().enumerate() {
                let (row, column) = (&rows[at / n * dim..][..dim], &matrices.columns[at % n * dim..][..dim]);
                let exact = oracle(similarity, row, column).0;
                // An expanded distance has the error of its terms.
                let size =
                    2.0 * (oracle(Similarity::Dot, row, row).1 + oracle(Similarity::Dot, column, column).1);
                assert!((f64::from(score) - exact).abs() <= 1e-5 * size, "{} {dim}", kernels.name);
                assert_ne!(score.to_bits(), (-0.0f32).to_bits());
            }
            let mut start = 0;
            for height in (1..=13).cycle() {
                let range = start..m.min(start + height);
                let product = matrices.product(similarity, range.clone(), &no_norms);
                let mut some = vec![f32::NAN; range.len() * n];
                kernels.scores(&product, &mut some, n);
                assert_eq!(bits(&some), bits(&scores[start * n..range.end * n]), "{} {dim}", kernels.name);
                let (mut nearest, mut least) = (vec![9; range.len()], vec![f32::NAN; range.len()]);
                kernels.nearest(&product, &mut nearest, &mut least);
                for (r, row) in range.clone().zip(scores[start * n..].chunks(n)) {
                    let first = row.iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1)).unwrap();
                    assert_eq!(nearest[r - start] as usize, first.0, "{} {dim}", kernels.name);
                    assert_eq!(least[r - start].to_bits(), first.1.to_bits());
                }
                start = range.end;
                if start == m {
                    break;
                }
            }
        }
    }
}

#[test]
fn ties_go_to_the_lowest_column_and_nan_to_column_0() {
    for kernels in Kernels::all() {
        for (first, second) in (0..70).flat_map(|a| (a..70).map(move |b| (a, b))) {
            // All columns are far but two equal ones, which all rows equal.
            let mut columns = vec![9.0; 70 * 2];
            columns[first * 2..][..2].fill(1.0);
            columns[second * 2..][..2].fill(1.0);
            let matrices = Matrices::new(kernels, 2, vec![1.0; 2 * 17], columns);
            let (mut nearest, mut scores) = ([9; 17], [9.0; 17]);
            kernels.nearest(&matrices.product(Similarity::L2, 0..17, &[]), &mut nearest, &mut scores);
            assert_eq!((nearest, scores), ([first as u32; 17], [0.0; 17]), "{}", kernels.name);
        }
        let matrices = Matrices::new(kernels, 1, vec![f32::NAN, 3.0], vec![5.0, 3.0]);
        let (mut nearest, mut scores) = ([9; 2], [9.0; 2]);
        kernels.nearest(&matrices.product(Similarity::L2, 0..2, &[]), &mut nearest, &mut scores);
        assert_eq!((nearest, scores), ([0, 1], [f32::INFINITY, 0.0]), "{}", kernels.name);
    }
}

#[test]
fn equal_vectors_are_at_distance_0() {
    let mut random = Random::new(5);
    for (dim, kernels) in dims().flat_map(|dim| Kernels::all().into_iter().map(move |k| (dim, k))) {
        let rows = floats(&mut random, 21 * dim);
        let matrices = Matrices::new(kernels, dim, rows.clone(), rows);
        let (mut nearest, mut scores) = ([0; 21], [9.0; 21]);
        kernels.nearest(&matrices.product(Similarity::L2, 0..21, &[]), &mut nearest, &mut scores);
        assert_eq!(scores, [0.0; 21], "{} {dim}", kernels.name);
    }
}

#[test]
fn selection_finds_every_index() {
    let mut random = Random::new(6);
    for n in (0..300).chain([1000, 4096]) {
        let mut scores: Vec<f32> = (0..n).map(|_| random.below(20) as f32).collect();
        (0..n / 9).for_each(|_| scores[random.below(n)] = [f32::NAN, f32::INFINITY, -0.0][random.below(3)]);
        for threshold in [-1.0, 0.0, 3.0, 20.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
            let near = |&i: &u32| scores[i as usize] <= threshold;
            let expected: Vec<u32> = (0..n as u32).filter(near).collect();
            for kernels in Kernels::all() {
                let mut out = vec![1, 2, 3];
                kernels.select_at_most(&scores, threshold, &mut out);
                assert_eq!(out, expected, "{}", kernels.name);
            }
        }
    }
}

#[test]
fn conversions_are_those_of_the_portable_table_bit_for_bit() {
    let mut random = Random::new(7);
    // Every pattern of 16 bits as a code; as components, random bits and the neighbours of all codes.
    let codes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    for kernels in Kernels::all() {
        for element in ELEMENTS {
            for cut in [0, 2, 4, 30, 62] {
                let codes = &codes[cut * 2..];
                let mut xs = vec![0.0f32; codes.len() / element.size()];
                let mut expected = xs.clone();
                kernels.decode(element, codes, &mut xs);
                portable::KERNELS.decode(element, codes, &mut expected);
                let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
                assert!(xs.iter().zip(&expected).all(same), "{} {element:?}", kernels.name);
                let near = expected.iter().flat_map(|&x| [x, x.next_up(), x.next_down()]);
                let halfway = expected.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0);
                let wild = (0..999).map(|_| f32::from_bits(random.next_u64() as u32));
                let xs: Vec<f32> = near.chain(halfway).chain(wild).collect();
                let mut bytes = vec![0; xs.len() * element.size()];
                let mut expected = bytes.clone();
                kernels.encode(element, &xs, &mut bytes);
                portable::KERNELS.encode(element, &xs, &mut expected);
                assert!(bytes == expected, "{} {element:?}", kernels.name);
            }
        }
    }
}

/// Whole numbers keep themselves, and what no byte can hold becomes the nearest that one can.
#[test]
fn bytes_are_rounded_and_saturate() {
    let odd = [-0.0, 0.4, 0.5, 1.5, 2.5, 254.5, 255.0, 255.4, 256.0, 1e9, -3.0, f32::NAN, f32::INFINITY];
    let expected = [0, 0, 0, 2, 2, 254, 255, 255, 255, 255, 0, 0, 255];
    for kernels in Kernels::all() {
        let mut bytes = vec![9; odd.len()];
        kernels.encode(Element::U8, &odd, &mut bytes);
        assert_eq!(bytes, expected, "{}", kernels.name);
        let all: Vec<u8> = (0..=255).collect();
        let (mut xs, mut back) = (vec![0.0; 256], vec![0; 256]);
        kernels.decode(Element::U8, &all, &mut xs);
        kernels.encode(Element::U8, &xs, &mut back);
        assert!(back == all && xs.iter().enumerate().all(|(i, x)| *x == i as f32), "{}", kernels.name);
    }
}

/// Steps are scored as the rows that they decode to, with the same bits in all tables.
#[test]
fn steps_are_scored_as_what_they_decode_to() {
    let mut random = Random::new(9);
    for dim in dims() {
        let query = floats(&mut random, dim);
        let codes: Vec<u8> = (0..dim).map(|_| random.below(256) as u8).collect();
        let (low, step) = (random.unit() as f32 - 0.5, random.unit() as f32 / 64.0);
        let row: Vec<f32> = codes.iter().map(|u| low + step * f32::from(*u)).collect();
        for similarity in SIMILARITIES {
            let expected = portable::KERNELS.steps_score(similarity, &query, low, step, &codes);
            let (exact, size) = oracle(similarity, &query, &row);
            assert!((f64::from(expected) - exact).abs() <= 1e-5 * size, "{dim}");
            for kernels in Kernels::all() {
                let score = kernels.steps_score(similarity, &query, low, step, &codes);
                assert_eq!(score.to_bits(), expected.to_bits(), "{} {dim}", kernels.name);
                let mut decoded = vec![f32::NAN; dim];
                kernels.steps_decode(low, step, &codes, &mut decoded);
                assert_eq!(bits(&decoded), bits(&row), "{} {dim}", kernels.name);
            }
        }
    }
}

#[test]
fn the_best_table_is_chosen_unless_a_name_lowers_it() {
    let best = Kernels::all()[0].name;
    assert_eq!(Kernels::choose(None).name, best);
    assert_eq!(Kernels::choose(Some("mmx")).name, best);
    for kernels in Kernels::all() {
        assert_eq!(Kernels::choose(Some(kernels.name)).name, kernels.name);
        kernels.prefetch(&[0; 1000]);
    }
}

// ---- nibbles ----

/// Random groups of `n` entries, at an odd address; NaN and infinite biases among them.
fn groups(random: &mut Random, subspaces: usize, n: usize) -> Vec<u8> {
    let mut bytes = vec![0xff];
    for _ in 0..n {
        bytes.extend((0..16 * subspaces).map(|_| random.next_u64() as u8));
        let scale = |random: &mut Random| (random.unit() * 2.0) as f32;
        bytes.extend((0..GROUP).flat_map(|_| ((scale(random).to_bits() >> 16) as u16).to_le_bytes()));
        let bias = |random: &mut Random| match random.below(20) {
            0 => f32::INFINITY,
            1 => f32::NAN,
            _ => (random.unit() * 1000.0 - 500.0) as f32,
        };
        bytes.extend((0..GROUP).flat_map(|_| bias(random).to_le_bytes()));
    }
    bytes
}

/// Every table finds the same entries with the same bits, for 1 to 4 queries a pass, where tables hold the
/// extremes (−128 in every place overflows a 16-bit sum first) and where `live` leaves entries out.
#[test]
fn nibble_scans_are_bit_equal_in_all_tables() {
    let mut random = Random::new(5);
    for subspaces in [4, 8, 12, 48, 64, 96, 260, 520] {
        let n = 1 + random.below(5);
        let bytes = groups(&mut random, subspaces, n);
        let extreme = subspaces % 8 == 4;
        let tables: Vec<Vec<i8>> = (0..4)
            .map(|q| {
                let mut entry = || if extreme { [-128, 127][q % 2] } else { random.next_u64() as i8 };
                (0..POINTS * subspaces).map(|_| entry()).collect()
            })
            .collect();
        let live: Vec<u32> = (0..n).map(|_| random.next_u64() as u32 | random.next_u64() as u32).collect();
        let query = |q: usize| NibbleQuery {
            table: &tables[q],
            factor: [-0.25, 0.01, -2.0, 1.0][q],
            coarse: 10.0,
            worst: [f32::INFINITY, 50.0, -300.0, f32::NEG_INFINITY][q],
            live: &live,
        };
        let queries: Vec<NibbleQuery<'_>> = (0..4).map(query).collect();
        let mut expected = vec![Found::default(); 4];
        portable::KERNELS.nibble_scan(subspaces, &bytes[1..], &bytes, &queries, &mut expected);
        assert!(expected[0].iter().count() > 0 && expected[0].iter().all(|(_, score)| !score.is_nan()));
        for kernels in Kernels::all() {
            for count in 1..=4 {
                let mut found = vec![Found::default(); count];
                kernels.nibble_scan(subspaces, &bytes[1..], &bytes, &queries[..count], &mut found);
                for (found, expected) in found.iter().zip(&expected) {
                    assert_eq!(found.entries, expected.entries, "{} {subspaces}", kernels.name);
                    assert_eq!(bits(&found.scores), bits(&expected.scores), "{} {subspaces}", kernels.name);
                }
            }
        }
    }
}

/// The same for bounds, of groups with errors and extra bytes: every table finds the same entries with the same bits, and
/// they are those of the formula.
#[test]
fn nibble_bounds_are_bit_equal_in_all_tables() {
    let mut random = Random::new(8);
    for (subspaces, extra) in [(4, 0), (8, 9), (64, 56), (260, 3)] {
        let (n, mut bytes) = (1 + random.below(4), vec![0xff]);
        for _ in 0..n {
            bytes.extend_from_slice(&groups(&mut random, subspaces, 1)[1..]);
            let error = |random: &mut Random| ((random.unit() as f32).to_bits() >> 16) as u16;
            bytes.extend((0..GROUP).flat_map(|_| error(&mut random).to_le_bytes()));
            bytes.extend((0..GROUP * extra).map(|_| random.next_u64() as u8));
        }
        let table: Vec<i8> = (0..POINTS * subspaces).map(|_| random.next_u64() as i8).collect();
        let live: Vec<u32> = (0..n).map(|_| random.next_u64() as u32 | random.next_u64() as u32).collect();
        let query = |q: usize| BoundQuery {
            query: NibbleQuery {
                table: &table,
                factor: [-0.25, 0.01, -2.0, 1.0][q],
                coarse: 10.0,
                worst: [f32::INFINITY, 50.0, -300.0, f32::NEG_INFINITY][q],
                live: &live,
            },
            slack: [0.0, 3.5, 100.0, 1.0][q],
            reach: [0.0, 40.0, 3.0, 1e9][q],
        };
        let queries = [0, 1, 2, 3].map(query);
        let mut expected = vec![Found::default(); 4];
        portable::KERNELS.nibble_bounds(subspaces, extra, &bytes[1..], &[], &queries, &mut expected);
        assert!(expected[0].len() > 0);
        for (query, expected) in queries.iter().zip(&expected) {
            for (entry, bound) in expected.iter() {
                let stride = bounded_bytes(subspaces) + GROUP * extra;
                let (group, e) = (&bytes[1..][entry as usize / GROUP * stride..], entry as usize % GROUP);
                let nibble = |j: usize| group[16 * j + e % 16] >> (4 * (e / 16)) & 15;
                let sum: i32 =
                    (0..subspaces).map(|j| i32::from(table[16 * j + usize::from(nibble(j))])).sum();
                let half = |at: usize| {
                    f32::from_bits(u32::from(u16::from_le_bytes([group[at], group[at + 1]])) << 16)
                };
                let at = 16 * subspaces;
                let bias = f32::from_le_bytes(group[at + 64 + 4 * e..][..4].try_into().unwrap());
                let scaled = half(at + 2 * e) * query.query.factor * (sum as f32 + query.slack);
                let error = half(at + 64 + 128 + 2 * e) * query.reach;
                assert_eq!(bound, (bias + 10.0) + scaled - error);
                assert!(bound <= query.query.worst);
            }
        }
        for kernels in Kernels::all() {
            for count in 1..=4 {
                let mut found = vec![Found::default(); count];
                let ahead = &bytes[1..];
                kernels.nibble_bounds(subspaces, extra, &bytes[1..], ahead, &queries[..count], &mut found);
                for (found, expected) in found.iter().zip(&expected) {
                    assert_eq!(found.entries, expected.entries, "{} {subspaces}", kernels.name);
                    assert_eq!(bits(&found.scores), bits(&expected.scores), "{} {subspaces}", kernels.name);
                }
            }
        }
    }
}

/// The portable scan is the formula, entry by entry.
#[test]
fn the_portable_nibble_scan_is_the_formula() {
    let mut random = Random::new(6);
    let (subspaces, n) = (8, 3);
    let bytes = groups(&mut random, subspaces, n);
    let table: Vec<i8> = (0..POINTS * subspaces).map(|_| random.next_u64() as i8).collect();
    let live = vec![u32::MAX; n];
    let query = NibbleQuery { table: &table, factor: 0.5, coarse: 3.0, worst: 1e9, live: &live };
    let mut found = [Found::default()];
    portable::KERNELS.nibble_scan(subspaces, &bytes[1..], &bytes, &[query], &mut found);
    let mut expected = Vec::new();
    for entry in 0..n * GROUP {
        let (group, e) = (&bytes[1..][entry / GROUP * group_bytes(subspaces)..], entry % GROUP);
        let nibble = |j: usize| group[16 * j + e % 16] >> (4 * (e / 16)) & 15;
        let sum: i32 = (0..subspaces).map(|j| i32::from(table[16 * j + usize::from(nibble(j))])).sum();
        let factors = &group[16 * subspaces..];
        let scale = f32::from_bits(u32::from(u16::from_le_bytes([factors[2 * e], factors[2 * e + 1]])) << 16);
        let bias = f32::from_le_bytes(factors[64 + 4 * e..][..4].try_into().unwrap());
        let score = (bias + 3.0) + scale * 0.5 * sum as f32;
        if score <= 1e9 {
            expected.push((entry as u32, score));
        }
    }
    assert_eq!(found[0].iter().collect::<Vec<_>>(), expected);
}

#[test]
fn code_points_are_the_nearest_and_equal_in_all_tables() {
    let mut random = Random::new(7);
    for components in [2, 4] {
        let mut book = Book { components, points: [[0.0; POINTS]; 4], half_norms: [0.0; POINTS] };
        for k in 0..POINTS {
            // Two equal points: the tie goes to the lower one.
            for p in 0..components {
                book.points[p][k] =
                    if k == 9 { book.points[p][3] } else { (random.unit() * 4.0 - 2.0) as f32 };
            }
            book.half_norms[k] =
                (0..components).map(|p| book.points[p][k] * book.points[p][k]).sum::<f32>() / 2.0;
        }
        let m = 3 * CHOOSE;
        let planes = floats(&mut random, components * m);
        let mut expected = vec![0; m];
        portable::KERNELS.nibble_choose(&book, &planes, &mut expected);
        for (j, &code) in expected.iter().enumerate() {
            let distance = |k: usize| -> f32 {
                (0..components).map(|p| (planes[p * m + j] - book.points[p][k]).powi(2)).sum()
            };
            let least = (0..POINTS).map(distance).fold(f32::INFINITY, f32::min);
            assert!(code != 9 && distance(code.into()) <= least + 1e-5);
        }
        for kernels in Kernels::all() {
            let mut codes = vec![0; m];
            kernels.nibble_choose(&book, &planes, &mut codes);
            assert_eq!(codes, expected, "{}", kernels.name);
        }
    }
}

/// Each entry is within half a step of the product it stands for, the largest is 127 steps, and all tables agree.
#[test]
fn nibble_tables_are_the_products_in_steps() {
    let mut random = Random::new(11);
    let mut book = Book { components: 2, points: [[0.0; POINTS]; 4], half_norms: [0.0; POINTS] };
    book.points[..2].iter_mut().flatten().for_each(|p| *p = (random.unit() * 4.0 - 2.0) as f32);
    for scale in [0.0, 1e-44, 1e-30, 1.0, 1e18] {
        let query: Vec<f32> = floats(&mut random, 40).iter().map(|v| v * scale).collect();
        let run = |kernels: &Kernels| {
            let (mut products, mut table) = (vec![0.0; 320], vec![0; 320]);
            let step = kernels.nibble_table(&book, &query, &mut products, &mut table);
            (step, table)
        };
        let (step, table) = run(&portable::KERNELS);
        let most = table.iter().map(|v| i32::from(v.unsigned_abs())).max();
        assert_eq!(most, Some(if scale < 1e-40 { 0 } else { 127 }));
        for (at, &value) in table.iter().enumerate().filter(|_| step > 0.0) {
            let (j, k) = (at / 16, at % 16);
            let product = query[2 * j] * book.points[0][k] + query[2 * j + 1] * book.points[1][k];
            assert!((product / step - f32::from(value)).abs() < 0.51, "{at}");
        }
        for kernels in Kernels::all() {
            assert_eq!(run(kernels), (step, table.clone()), "{}", kernels.name);
        }
    }
}

/// Twice the transform is n times the values, it is the matrix of signs, and all tables agree to the bit.
#[test]
fn hadamard_is_its_matrix_and_its_own_inverse() {
    let mut random = Random::new(8);
    for n in [1usize, 2, 4, 8, 16, 64, 128, 1024] {
        let values = integers(&mut random, n);
        let mut expected = values.clone();
        portable::KERNELS.hadamard(&mut expected);
        for (i, &out) in expected.iter().enumerate().take(40) {
            let sign = |j: usize| if (i & j).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 };
            assert_eq!(out, values.iter().enumerate().map(|(j, v)| sign(j) * v).sum::<f32>(), "{i} of {n}");
        }
        for kernels in Kernels::all() {
            let mut out = values.clone();
            kernels.hadamard(&mut out);
            assert_eq!(bits(&out), bits(&expected), "{}", kernels.name);
            kernels.hadamard(&mut out);
            assert!(out.iter().zip(&values).all(|(out, value)| *out == value * n as f32));
        }
    }
}

// ---- what a scan found ----

/// Scores as a scan leaves them: `n` of them, many equal if there are `few`, with infinities and NaN if `strange`.
fn scores_found(random: &mut Random, n: usize, few: bool, strange: bool) -> Vec<f32> {
    let strangers = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
    (0..n)
        .map(|_| match random.below(8) {
            of if strange && of < 3 => strangers[of],
            _ if few => random.below(5) as f32,
            _ => (random.unit() * 2.0 - 1.0) as f32,
        })
        .collect()
}

/// Breaks if a tail is not counted, or if the half that is kept is the wrong one: the k best would not be among what
/// is within the bound.
#[test]
fn a_bound_leaves_enough_and_all_tables_agree_on_it() {
    let mut random = Random::new(12);
    for n in (1..=70).chain([500, 1000]) {
        let (least, most) = (1 + random.below(n), n / 8 + 8);
        for (few, strange) in [(false, false), (true, false), (false, true)] {
            let scores = scores_found(&mut random, n, few, strange);
            let bound = portable::KERNELS.bound(&scores, least, least + most);
            let within = scores.iter().filter(|score| **score <= bound).count();
            let numbers = scores.iter().filter(|score| !score.is_nan()).count();
            assert!(within >= least.min(numbers), "{within} of {n}, {least} wanted");
            // Such scores lie far enough apart that the bound looked for is found.
            assert!(few || strange || within <= least + most, "{within} of {n}, {least} wanted");
            for kernels in Kernels::all() {
                assert_eq!(kernels.bound(&scores, least, least + most), bound, "{} {n}", kernels.name);
            }
        }
    }
}

/// Breaks if what is compressed overtakes what is still to be read, or if a tail is lost or invented.
#[test]
fn what_scores_at_most_a_bound_is_kept_in_its_order() {
    let mut random = Random::new(13);
    for n in (0..=70).chain([500, 1000]) {
        let scores = scores_found(&mut random, n, true, true);
        let entries: Vec<u32> = (0..n).map(|_| random.next_u64() as u32).collect();
        for bound in [f32::NEG_INFINITY, -1.0, 0.0, 2.0, 4.0, f32::INFINITY, f32::NAN] {
            let pairs = || entries.iter().zip(&scores);
            let kept: Vec<(u32, u32)> = pairs()
                .filter(|(_, score)| **score <= bound)
                .map(|(e, score)| (*e, score.to_bits()))
                .collect();
            for kernels in Kernels::all() {
                let mut found = Found { entries: entries.clone(), scores: scores.clone() };
                kernels.keep_at_most(&mut found, bound);
                let found: Vec<(u32, u32)> = found.iter().map(|(e, score)| (e, score.to_bits())).collect();
                assert_eq!(found, kept, "{} {n} {bound}", kernels.name);
            }
        }
    }
}

// ---- bytes, and picked columns ----

/// Breaks if a pair of products saturates, a tile forgets its rest, or a table rounds a score once where
/// another rounds twice. Codes and components take their extremes often.
#[test]
fn byte_scores_equal_the_oracle_in_every_bit() {
    let mut random = Random::new(8);
    for (dim, panels, queries) in (1..=11)
        .flat_map(|panels| (0..=9).map(move |q| (4 * (1 + (panels * 7 + q) % 13), panels, q)))
        .chain([(128, 5, 5), (384, 2, 6), (4096, 1, 4)])
    {
        let columns = panels * BYTE_PANEL;
        let extreme = |random: &mut Random, most: i32, least: i32| match random.below(4) {
            0 => least,
            1 => most,
            _ => least + random.below((most - least + 1) as usize) as i32,
        };
        let codes: Vec<u8> = (0..columns * dim).map(|_| extreme(&mut random, 127, 0) as u8).collect();
        let query: Vec<i8> = (0..queries * dim).map(|_| extreme(&mut random, 127, -128) as i8).collect();
        let (bias, factors) = (floats(&mut random, columns), floats(&mut random, queries));
        let product = ByteProduct { dim, queries: &query, factors: &factors, panels: &codes, bias: &bias };
        let exact = |at: usize| {
            let (q, c) = (at / columns, at % columns);
            let code = |d: usize| codes[c / 16 * 16 * dim + d / 4 * 64 + c % 16 * 4 + d % 4];
            let dot: i64 = (0..dim).map(|d| i64::from(query[q * dim + d]) * i64::from(code(d))).sum();
            bias[c] + factors[q] * dot as f32
        };
        let expected: Vec<f32> = (0..queries * columns).map(exact).collect();
        for kernels in Kernels::all() {
            let mut scores = vec![f32::NAN; queries * columns];
            kernels.byte_scores(&product, &mut scores);
            assert_eq!(bits(&scores), bits(&expected), "{} {dim} {panels} {queries}", kernels.name);
        }
    }
}

#[test]
fn picked_scores_have_the_bits_of_all_scores() {
    let mut random = Random::new(9);
    for (dim, kernels) in dims().flat_map(|dim| Kernels::all().into_iter().map(move |k| (dim, k))) {
        let (n, m) = (1 + dim * 5 % 90, dim * 3 % 70);
        let (row, columns) = (floats(&mut random, dim), floats(&mut random, n * dim));
        let matrices = Matrices::new(kernels, dim, row.clone(), columns.clone());
        let picks: Vec<u32> = (0..m).map(|_| random.below(n) as u32).collect();
        for similarity in SIMILARITIES {
            let product = matrices.product(similarity, 0..1, &[0.0]);
            let mut all = vec![f32::NAN; n];
            kernels.scores(&product, &mut all, n);
            let picked = Picked {
                row: &row,
                norm: product.norms[0],
                columns: &columns,
                bias: product.bias,
                factor: product.factor,
                floor: product.floor,
            };
            let mut scores = vec![f32::NAN; m];
            kernels.picked_scores(&picked, &picks, &mut scores);
            let expected: Vec<f32> = picks.iter().map(|&pick| all[pick as usize]).collect();
            assert_eq!(bits(&scores), bits(&expected), "{} {dim} {m}", kernels.name);
        }
    }
}
