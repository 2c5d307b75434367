//! Codes against their formulas, scores against decoded rows in f64, the same bits in any company.

use super::*;
use crate::NORM_MAX;
use crate::math::random::Random;

const SIMILARITIES: [Similarity; 2] = [Similarity::L2, Similarity::Dot];
const LISTS: usize = 3;

/// Rows in three lists, and queries.
struct Data {
    dim: usize,
    rows: Vec<f32>,
    lists: Vec<u32>,
    centroids: Vec<f32>,
    queries: Vec<f32>,
}

impl Data {
    fn new(dim: usize, n: usize, scale: f32) -> Self {
        let mut random = Random::new(dim as u64);
        let mut floats =
            |count: usize| -> Vec<f32> { (0..count).map(|_| (random.unit() as f32 - 0.5) * scale).collect() };
        let (rows, centroids, queries) = (floats(n * dim), floats(LISTS * dim), floats(5 * dim));
        Data { dim, rows, lists: (0..n as u32).map(|i| i % LISTS as u32).collect(), centroids, queries }
    }

    fn assigned(&self) -> Assigned<'_> {
        let centroids = Some(Rows::of(&self.centroids, self.dim));
        Assigned { rows: Rows::of(&self.rows, self.dim), lists: &self.lists, centroids }
    }

    fn train(&self, stages: Stages, similarity: Similarity) -> Product {
        let training =
            Training { sample: self.assigned(), similarity, seed: 5, iterations: None, rows: None };
        Product::train(stages, &training, &mut Observer::none()).unwrap()
    }

    fn centroid(&self, list: usize) -> &[f32] {
        &self.centroids[list * self.dim..(list + 1) * self.dim]
    }

    fn query(&self, q: usize) -> &[f32] {
        &self.queries[q * self.dim..(q + 1) * self.dim]
    }

    /// The entries of a list.
    fn entries(&self, product: &Product, list: usize) -> Vec<u8> {
        let mut codes = Vec::new();
        product.encode(self.assigned(), &mut codes);
        let entries = codes.chunks_exact(product.entry_bytes()).zip(&self.lists);
        entries.filter(|(_, of)| **of as usize == list).flat_map(|(entry, _)| entry.to_vec()).collect()
    }

    fn visit(&self, similarity: Similarity, q: usize, list: usize) -> Visit {
        let coarse = exact(similarity, self.query(q), self.centroid(list)) as f32;
        Visit { query: q as u32, coarse }
    }
}

fn exact(similarity: Similarity, q: &[f32], x: &[f32]) -> f64 {
    let pairs = q.iter().zip(x).map(|(q, x)| (f64::from(*q), f64::from(*x)));
    match similarity {
        Similarity::L2 => pairs.map(|(q, x)| (q - x) * (q - x)).sum(),
        Similarity::Dot => -pairs.map(|(q, x)| q * x).sum::<f64>(),
    }
}

/// What the queries find in a list of these entries.
fn scan_entries(
    data: &Data,
    product: &Product,
    (list, entries): (usize, &[u8]),
    ht: u32,
    queries: &[usize],
    worst: f32,
) -> Vec<Found> {
    let n = entries.len() / product.entry_bytes();
    let mut scanner = product.filtered_scanner(Rows::of(&data.queries, data.dim), ht);
    let visits: Vec<Visit> = queries.iter().map(|q| data.visit(product.similarity, *q, list)).collect();
    scanner.enter(Probe { list: 0, centroid: Some(data.centroid(list)), visits: &visits });
    let live = vec![u32::MAX; n.div_ceil(32)];
    let mut found = vec![Found::default(); queries.len()];
    let block = Codes { bytes: entries, n, ahead: &[7; 100] };
    scanner.scan(block, 0, &vec![worst; queries.len()], &vec![&live[..]; queries.len()], &mut found);
    found
}

/// What the queries find in a list.
fn scan(data: &Data, product: &Product, list: usize, ht: u32, queries: &[usize], worst: f32) -> Vec<Found> {
    scan_entries(data, product, (list, &data.entries(product, list)), ht, queries, worst)
}

fn pq(m: usize, bits: usize) -> Stages {
    ProductQuantizer { m, bits, residual: true, polysemous: false }.into()
}

fn raw(stages: Stages) -> Stages {
    Stages { residual: false, ..stages }
}

fn refined(first: (usize, usize), second: (usize, usize)) -> Stages {
    let ((m, bits), (refine_m, refine_bits)) = (first, second);
    RefinedProduct { m, bits, refine_m, refine_bits, residual: true }.into()
}

/// One of each path: bytes, tables, no tables, and two stages of like and unlike bits.
fn all_stages() -> Vec<Stages> {
    let each = [
        pq(1, 8),
        pq(4, 8),
        pq(6, 3),
        pq(12, 4),
        pq(3, 10),
        pq(2, 11),
        pq(4, 13),
        refined((4, 8), (6, 8)),
        refined((3, 4), (12, 8)),
        refined((2, 12), (4, 5)),
    ];
    each.into_iter().flat_map(|stages| [stages, raw(stages)]).collect()
}

/// Scores say what decoded rows are at, alone or with other queries, and to the bit the same.
#[test]
fn a_score_is_that_of_the_decoded_row() {
    let data = Data::new(12, 200, 2.0);
    for (stages, similarity) in all_stages().into_iter().flat_map(|s| SIMILARITIES.map(|w| (s, w))) {
        let product = data.train(stages, similarity);
        for list in 0..LISTS {
            let entries = data.entries(&product, list);
            let together = scan_entries(&data, &product, (list, &entries), 0, &[0, 1, 2, 3, 4], f32::MAX);
            for (q, in_company) in together.iter().enumerate() {
                let alone = &scan_entries(&data, &product, (list, &entries), 0, &[q], f32::MAX)[0];
                assert_eq!(alone.entries, in_company.entries);
                let bits = |found: &Found| found.scores.iter().map(|s| s.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(alone), bits(in_company), "{stages:?}");
                assert_eq!(alone.len(), entries.len() / product.entry_bytes());
                for (entry, score) in entries.chunks_exact(product.entry_bytes()).zip(&alone.scores) {
                    let mut row = vec![0.0; data.dim];
                    product.decode(Some(data.centroid(list)), entry, &mut row);
                    let wanted = exact(similarity, data.query(q), &row);
                    assert!((f64::from(*score) - wanted).abs() < 2e-5, "{stages:?} {score} {wanted}");
                }
            }
        }
    }
}

/// Code bytes are the book's, the bias is the formula's, and nothing else stands there.
#[test]
fn an_entry_is_code_and_bias() {
    let data = Data::new(12, 150, 3.0);
    let product = data.train(pq(4, 6), Similarity::L2);
    let (mut codes, mut entries) = (Vec::new(), Vec::new());
    product.books[0].encode(Rows::of(&data.assigned().residuals(), 12), &mut codes);
    product.encode(data.assigned(), &mut entries);
    assert_eq!(product.layout().code_bytes(), 3 + 4);
    for (i, (entry, code)) in entries.chunks_exact(7).zip(codes.chunks_exact(3)).enumerate() {
        assert_eq!(entry[..3], *code);
        let mut y = vec![0.0; 12];
        product.books[0].decode(code, &mut y);
        let centroid = data.centroid(data.lists[i] as usize);
        let wanted: f64 =
            y.iter().zip(centroid).map(|(y, c)| f64::from(*y) * (f64::from(*y) + 2.0 * f64::from(*c))).sum();
        let bias = f32::from_le_bytes(*entry.last_chunk().unwrap());
        assert!((f64::from(bias) - wanted).abs() < 1e-6 * (1.0 + wanted.abs()));
        assert!((product.residual(centroid, entry) - squared(&y)).abs() < 1e-9);
    }
    assert_eq!(data.train(pq(4, 6), Similarity::Dot).entry_bytes(), 3);
    assert_eq!(data.train(raw(pq(4, 6)), Similarity::L2).entry_bytes(), 3);
    assert_eq!(data.train(raw(refined((4, 6), (4, 8))), Similarity::L2).entry_bytes(), 3 + 4 + 4);
}

/// Only what is alive and within the threshold is found.
#[test]
fn thresholds_and_masks_hold() {
    let data = Data::new(8, 300, 1.0);
    for stages in [pq(4, 8), pq(4, 5)] {
        let product = data.train(stages, Similarity::L2);
        let all = &scan(&data, &product, 0, 0, &[2], f32::MAX)[0];
        let mut sorted = all.scores.clone();
        sorted.sort_by(f32::total_cmp);
        let worst = sorted[sorted.len() / 2];
        let near = &scan(&data, &product, 0, 0, &[2], worst)[0];
        let wanted: Vec<(u32, f32)> = all.iter().filter(|(_, score)| *score <= worst).collect();
        assert_eq!(near.iter().collect::<Vec<_>>(), wanted);
        assert!(!wanted.is_empty() && wanted.len() < all.len());

        let entries = data.entries(&product, 0);
        let live = vec![0x5555_5555; 100usize.div_ceil(32)];
        for ht in [0, 1000] {
            let mut scanner = product.filtered_scanner(Rows::of(&data.queries, 8), ht);
            let visits = [data.visit(Similarity::L2, 1, 0), data.visit(Similarity::L2, 2, 0)];
            scanner.enter(Probe { list: 0, centroid: Some(data.centroid(0)), visits: &visits });
            let mut found = [Found::default()];
            let block = Codes { bytes: &entries, n: 100, ahead: &[] };
            scanner.scan(block, 1, &[worst], &[&live], &mut found);
            let wanted: Vec<_> = wanted.iter().copied().filter(|(entry, _)| entry % 2 == 0).collect();
            assert_eq!(found[0].iter().collect::<Vec<_>>(), wanted, "ht {ht}");
        }
    }
}

/// A filter passes over what differs in `ht` bits or more, and leaves the scores of the others as they are.
#[test]
fn a_filter_goes_by_the_code_of_the_query() {
    let data = Data::new(8, 400, 1.0);
    for stages in [pq(4, 8), pq(8, 3), raw(pq(4, 8)), refined((4, 8), (2, 8))] {
        let product = data.train(stages, Similarity::L2);
        for list in 0..LISTS {
            let entries = data.entries(&product, list);
            let all = &scan(&data, &product, list, 0, &[3], f32::MAX)[0];
            let size = product.books[0].code_bytes();
            let query: Vec<f32> = match product.residual {
                true => data.query(3).iter().zip(data.centroid(list)).map(|(q, c)| q - c).collect(),
                false => data.query(3).to_vec(),
            };
            let mut own = Vec::new();
            product.books[0].encode(Rows::of(&query, 8), &mut own);
            let bits = |entry: u32| -> u32 {
                let entry = &entries[entry as usize * product.entry_bytes()..][..size];
                entry.iter().zip(&own).map(|(a, b)| (a ^ b).count_ones()).sum()
            };
            for ht in [1, 10, 14, 1000] {
                let some = &scan(&data, &product, list, ht, &[1, 3], f32::MAX)[1];
                let wanted: Vec<_> = all.iter().filter(|(entry, _)| bits(*entry) < ht).collect();
                assert_eq!(some.iter().collect::<Vec<_>>(), wanted, "{stages:?} {ht}");
            }
        }
    }
}

/// With more queries than tables are kept for, each table is made when it is needed: the same scores.
#[test]
fn tables_that_are_not_kept_say_the_same() {
    let data = Data::new(12, 100, 1.0);
    for stages in [pq(4, 8), pq(3, 10)] {
        let product = data.train(stages, Similarity::L2);
        let (queries, entries) = (Rows::of(&data.queries, 12), data.entries(&product, 1));
        let mut scores = [true, false].map(|kept| {
            let mut scanner = ProductScanner::new(&product, queries, 0);
            assert!(scanner.kept);
            if !kept {
                scanner.kept = false;
                scanner.tables = vec![0.0; product.table_len()];
            }
            let visits = [0, 4].map(|q| data.visit(Similarity::L2, q, 1));
            scanner.enter(Probe { list: 0, centroid: Some(data.centroid(1)), visits: &visits });
            let mut found = [Found::default(), Found::default()];
            let n = entries.len() / product.entry_bytes();
            let block = Codes { bytes: &entries, n, ahead: &[] };
            scanner.scan(block, 0, &[f32::MAX; 2], &[&[u32::MAX; 9][..]; 2], &mut found);
            found.map(|found| found.scores)
        });
        let [kept, made] = &mut scores;
        assert!(!kept[1].is_empty());
        assert_eq!(kept, made);
    }
}

#[test]
fn tables_come_back_and_hostile_ones_are_refused() {
    let data = Data::new(12, 100, 1.0);
    for stages in all_stages().into_iter().filter(|stages| stages.each().all(|(_, bits)| bits < 12)) {
        let product = data.train(stages, Similarity::L2);
        let tables = product.tables();
        let back = Product::from_tables(stages, 12, Similarity::L2, &tables).unwrap();
        assert_eq!((back.tables() == tables, back.layout()), (true, product.layout()));
        assert_eq!(data.entries(&back, 0), data.entries(&product, 0));
        let refused = |dim, bytes: &[u8]| Product::from_tables(stages, dim, Similarity::L2, bytes).is_err();
        assert!(refused(12, &tables[..tables.len() - 1]) && refused(12, &[]) && refused(24, &tables));
        assert!(refused(12, &[&tables[..], &[0; 4]].concat()) && refused(13, &tables) && refused(0, &tables));
        let mut infinite = tables.clone();
        let last = infinite.len() - 4;
        infinite[last..].copy_from_slice(&f32::INFINITY.to_le_bytes());
        assert!(refused(12, &infinite));
    }
    assert!(Product::from_tables(pq(1, 17), 12, Similarity::L2, &[]).is_err());
    assert!(Product::from_tables(pq(usize::MAX, 8), 12, Similarity::L2, &[]).is_err());
}

#[test]
fn training_and_codes_do_not_depend_on_threads() {
    let data = Data::new(12, 300, 1.0);
    let stages = Stages { polysemous: true, ..refined((4, 5), (3, 4)) };
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let product = data.train(stages, Similarity::L2);
            (product.tables(), data.entries(&product, 1))
        })
    };
    assert_eq!(on(1), on(3));
}

fn error(data: &Data, stages: Stages) -> f64 {
    let product = data.train(stages, Similarity::L2);
    let mut codes = Vec::new();
    product.encode(data.assigned(), &mut codes);
    let entries = codes.chunks_exact(product.entry_bytes()).zip(&data.lists).enumerate();
    let far = |(i, (entry, list)): (usize, (&[u8], &u32))| {
        let mut row = vec![0.0; data.dim];
        product.decode(Some(data.centroid(*list as usize)), entry, &mut row);
        exact(Similarity::L2, &row, &data.rows[i * data.dim..(i + 1) * data.dim])
    };
    entries.map(far).sum()
}

#[test]
fn more_bits_and_a_refinement_err_less() {
    let data = Data::new(8, 1500, 1.0);
    let errors = [pq(2, 4), pq(2, 6), pq(2, 8), refined((2, 8), (2, 6)), refined((2, 8), (2, 8))]
        .map(|stages| error(&data, stages));
    assert!(errors.is_sorted_by(|a, b| b < a), "{errors:?}");
    // The order of the points changes no distance.
    let ordered = error(&data, Stages { polysemous: true, ..pq(2, 6) });
    assert!((ordered - errors[1]).abs() < 1e-9 * ordered);
}

/// One row, one component, identical rows, no lists.
#[test]
fn little_data_is_encoded_exactly() {
    for n in [1, 2, 9] {
        for stages in [pq(1, 4), raw(pq(1, 8)), refined((1, 4), (1, 4))] {
            let stages = Stages { polysemous: true, ..stages };
            assert!(error(&Data::new(1, n, 1.0), stages) < 1e-12, "{n} {stages:?}");
        }
    }
    let (rows, lists) = ([0.5f32; 40], [0u32; 10]);
    let sample = Assigned { rows: Rows::of(&rows, 4), lists: &lists, centroids: None };
    for similarity in SIMILARITIES {
        let training = Training { sample, similarity, seed: 1, iterations: None, rows: None };
        for stages in [pq(2, 4), raw(pq(2, 8)), refined((2, 8), (1, 2))] {
            let product = Product::train(stages, &training, &mut Observer::none()).unwrap();
            let mut entries = Vec::new();
            product.encode(sample, &mut entries);
            let query = [1.0, 2.0, 3.0, 4.0];
            let mut scanner = product.scanner(Rows::of(&query, 4));
            scanner.enter(Probe { list: 0, centroid: None, visits: &[Visit { query: 0, coarse: 99.0 }] });
            let mut found = [Found::default()];
            let block = Codes { bytes: &entries, n: 10, ahead: &[] };
            scanner.scan(block, 0, &[f32::MAX], &[&[u32::MAX]], &mut found);
            assert_eq!(found[0].len(), 10);
            let wanted = exact(similarity, &query, &rows[..4]);
            assert!(found[0].scores.iter().all(|score| (f64::from(*score) - wanted).abs() < 1e-2));
        }
    }
}

/// Vectors as long as the door lets in: nothing is NaN, infinite, or below what it may be.
#[test]
fn huge_vectors_have_finite_scores() {
    let scale = 2.0 * NORM_MAX / (12f32).sqrt();
    let data = Data::new(12, 60, scale);
    for (stages, similarity) in all_stages().into_iter().flat_map(|s| SIMILARITIES.map(|w| (s, w))) {
        let product = data.train(stages, similarity);
        let found = scan(&data, &product, 0, 0, &[0, 1, 2], f32::MAX);
        for found in found {
            assert_eq!(found.len(), 20);
            assert!(found.scores.iter().all(|score| score.is_finite()), "{stages:?}");
        }
    }
}

#[test]
fn what_cannot_be_is_refused_and_training_can_be_stopped() {
    let data = Data::new(12, 200, 1.0);
    let training = Training {
        sample: data.assigned(),
        similarity: Similarity::L2,
        seed: 1,
        iterations: None,
        rows: None,
    };
    for stages in [pq(5, 8), pq(0, 8), pq(4, 0), pq(4, 17), refined((4, 8), (5, 8))] {
        assert!(Product::train(stages, &training, &mut Observer::none()).is_err());
    }
    let mut last = 0;
    let mut report = |tick: Tick| {
        assert!(tick.stage == "encoder" && tick.done >= last && tick.done <= tick.total);
        last = tick.done;
        ControlFlow::Continue(())
    };
    Product::train(refined((4, 3), (4, 3)), &training, &mut Observer::new(&mut report)).unwrap();
    assert_eq!(last, 2000);
    let mut stop = |_: Tick| ControlFlow::Break(());
    let stopped = Product::train(pq(4, 3), &training, &mut Observer::new(&mut stop));
    assert!(matches!(stopped, Err(crate::Error::Cancelled)));
    assert_eq!(refined((4, 3), (4, 5)).training_rows(), 256 << 5);
}
