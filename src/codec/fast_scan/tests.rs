//! Scores are those of the decoded vectors up to the steps of the tables, whatever the lists, the company and the
//! processor; recall is that of the points; FAISS's tables, codes, blocks and answers come out the same.

use super::*;
use crate::codec::code_packer::CodePacker;
use crate::codec::{Codes, Probe, Visit};
use crate::fixtures::{self, Given};
use crate::kernel::Found;
use crate::math::kmeans::{ClusteringParams, cluster};
use crate::math::random::Random;

const SIMILARITIES: [Similarity; 2] = [Similarity::L2, Similarity::Dot];

fn kinds() -> impl Iterator<Item = (bool, Similarity)> {
    [false, true].into_iter().flat_map(|residual| SIMILARITIES.map(|similarity| (residual, similarity)))
}

fn floats(random: &mut Random, n: usize, scale: f64, shift: f64) -> Vec<f32> {
    (0..n).map(|_| ((random.unit() * 2.0 - 1.0) * scale + shift) as f32).collect()
}

fn exact(similarity: Similarity, q: &[f32], x: &[f32]) -> f64 {
    let pairs = q.iter().zip(x).map(|(q, x)| (f64::from(*q), f64::from(*x)));
    match similarity {
        Similarity::L2 => pairs.map(|(q, x)| (q - x) * (q - x)).sum(),
        Similarity::Dot => -pairs.map(|(q, x)| q * x).sum::<f64>(),
    }
}

/// Rows, their lists, centroids, and the code that was trained of them.
struct Case {
    dim: usize,
    rows: Vec<f32>,
    lists: Vec<u32>,
    centroids: Vec<f32>,
    codec: ProductFastScan,
    codes: Vec<u8>,
}

impl Case {
    /// Each row in the list of its nearest centroid.
    fn new(
        params: FastScan,
        similarity: Similarity,
        rows: Vec<f32>,
        centroids: Vec<f32>,
        dim: usize,
    ) -> Self {
        let nearest = |row: &[f32]| {
            let far = |c: &usize| exact(Similarity::L2, row, &centroids[c * dim..(c + 1) * dim]);
            (0..centroids.len() / dim).min_by(|a, b| far(a).total_cmp(&far(b))).unwrap() as u32
        };
        let lists: Vec<u32> = rows.chunks(dim).map(nearest).collect();
        let centroid_rows = Rows::of(&centroids, dim);
        let sample = Assigned { rows: Rows::of(&rows, dim), lists: &lists, centroids: Some(centroid_rows) };
        let training = Training { sample, similarity, seed: 7, iterations: None, rows: None };
        let codec = ProductFastScan::train(params, &training, &mut Observer::none()).unwrap();
        let mut codes = Vec::new();
        codec.encode(sample, &mut codes);
        assert_eq!(codes.len(), lists.len() * codec.layout().code_bytes());
        Case { dim, rows, lists, centroids, codec, codes }
    }

    fn random(params: FastScan, similarity: Similarity, dim: usize, n: usize, shift: f64) -> Self {
        let mut random = Random::new(dim as u64);
        let (rows, centroids) =
            (floats(&mut random, n * dim, 1.0, shift), floats(&mut random, 3 * dim, 0.5, shift));
        Self::new(params, similarity, rows, centroids, dim)
    }

    fn centroid(&self, list: usize) -> &[f32] {
        &self.centroids[list * self.dim..(list + 1) * self.dim]
    }

    /// The entries of a list and their block.
    fn block(&self, list: usize) -> (Vec<usize>, Vec<u8>) {
        let entries: Vec<usize> = (0..self.lists.len()).filter(|i| self.lists[*i] as usize == list).collect();
        let (bytes, mut region) = (self.codec.layout().code_bytes(), Vec::new());
        let packed: Vec<u8> =
            entries.iter().flat_map(|i| &self.codes[i * bytes..(i + 1) * bytes]).copied().collect();
        self.codec.layout().pack(&packed, &mut region);
        (entries, region)
    }

    fn decoded(&self, i: usize) -> Vec<f32> {
        let (bytes, mut row) = (self.codec.layout().code_bytes(), vec![0.0; self.dim]);
        let code = &self.codes[i * bytes..(i + 1) * bytes];
        self.codec.decode(Some(self.centroid(self.lists[i] as usize)), code, &mut row);
        row
    }

    /// The scores of all rows for each query, all queries in one pass over the lists if `together`.
    fn scores(&self, queries: &[f32], together: bool) -> Vec<Vec<f32>> {
        if !together {
            return queries.chunks(self.dim).flat_map(|query| self.scores(query, true)).collect();
        }
        let n = queries.len() / self.dim;
        let mut scores = vec![vec![f32::NAN; self.lists.len()]; n];
        let mut scanner = self.codec.scanner(Rows::of(queries, self.dim));
        for list in 0..self.centroids.len() / self.dim {
            let (entries, region) = self.block(list);
            let centroid = self.centroid(list);
            let coarse = |q: usize| {
                exact(self.codec.similarity, &queries[q * self.dim..(q + 1) * self.dim], centroid) as f32
            };
            let visits: Vec<Visit> = (0..n).map(|q| Visit { query: q as u32, coarse: coarse(q) }).collect();
            scanner.enter(Probe { list: 0, centroid: Some(centroid), visits: &visits });
            let live = live(entries.len());
            let mut found = vec![Found::default(); n];
            let block = Codes { bytes: &region, n: entries.len(), ahead: &region };
            scanner.scan(block, 0, &vec![f32::INFINITY; n], &vec![&live[..]; n], &mut found);
            for (found, scores) in found.iter().zip(&mut scores) {
                assert_eq!(found.len(), entries.len());
                found.iter().for_each(|(e, score)| scores[entries[e as usize]] = score);
            }
        }
        scores
    }
}

/// All of `n` entries.
fn live(n: usize) -> Vec<u32> {
    (0..n.div_ceil(32)).map(|g| if n - g * 32 >= 32 { u32::MAX } else { (1 << (n % 32)) - 1 }).collect()
}

/// Half a step for each sub-space, and roundings of the terms.
fn bound(codec: &ProductFastScan, query: &[f32], size: f64) -> f64 {
    let (mut values, mut centred) = (vec![0.0; codec.subspaces() * POINTS], Vec::new());
    codec.values(query, &mut centred, &mut values);
    let span = |values: &[f32]| {
        let most = values.iter().copied().fold(f32::MIN, f32::max);
        f64::from(most) - f64::from(values.iter().copied().fold(f32::MAX, f32::min))
    };
    let widest = values.chunks(POINTS).map(span).fold(0.0, f64::max);
    0.5001 * codec.book.m() as f64 * widest / 255.0 + 1e-6 * size
}

#[test]
fn scores_are_those_of_decoded_vectors_up_to_the_steps() {
    for (residual, similarity) in kinds() {
        for (dim, subspaces, n, shift) in
            [(1, 1, 50, 0.0), (6, 3, 100, 0.0), (16, 8, 333, 5.0), (36, 18, 200, -40.0), (64, 16, 65, 0.0)]
        {
            let params = FastScan { subspaces, residual, anisotropic: None };
            let case = Case::random(params, similarity, dim, n, shift);
            let queries = floats(&mut Random::new(3), 5 * dim, 1.5, shift);
            for (query, scores) in queries.chunks(dim).zip(case.scores(&queries, true)) {
                for (i, score) in scores.iter().enumerate() {
                    let row = case.decoded(i);
                    let size = exact(Similarity::L2, query, &row) + shift * shift * dim as f64 * 4.0;
                    let (wrong, bound) = (
                        (f64::from(*score) - exact(similarity, query, &row)).abs(),
                        bound(&case.codec, query, size),
                    );
                    assert!(wrong <= bound, "{params} {similarity:?} {dim}: {wrong} beyond {bound}");
                    assert!(score.to_bits() != (-0.0f32).to_bits());
                }
            }
        }
    }
}

/// Where data are far from the origin, the table's steps are no wider than for the same data about it.
#[test]
fn shifted_data_have_tables_as_fine() {
    let params = FastScan { subspaces: 8, residual: true, anisotropic: None };
    let near = Case::random(params, Similarity::L2, 16, 200, 0.0);
    let far = Case::random(params, Similarity::L2, 16, 200, 1000.0);
    let query = |shift: f64| floats(&mut Random::new(9), 16, 1.0, shift);
    let (a, b) = (bound(&near.codec, &query(0.0), 0.0), bound(&far.codec, &query(1000.0), 0.0));
    assert!(b < 1.1 * a, "{b} and {a}");
}

#[test]
fn a_score_does_not_depend_on_company() {
    for (residual, similarity) in kinds() {
        let case =
            Case::random(FastScan { subspaces: 5, residual, anisotropic: None }, similarity, 10, 150, 1.0);
        let queries = floats(&mut Random::new(4), 7 * 10, 1.0, 0.0);
        assert_eq!(case.scores(&queries, true), case.scores(&queries, false));
    }
}

/// Thresholds, entries left out, and passes that begin at a later visit.
#[test]
fn what_is_found_is_live_and_near_enough() {
    for (residual, similarity) in kinds() {
        let case =
            Case::random(FastScan { subspaces: 4, residual, anisotropic: None }, similarity, 8, 100, 0.0);
        let queries = floats(&mut Random::new(5), 6 * 8, 1.0, 0.0);
        let all = case.scores(&queries, true);
        let (entries, region) = case.block(0);
        let centroid = case.centroid(0);
        let visits: Vec<Visit> = (0..6)
            .map(|q| {
                let coarse = exact(similarity, &queries[q * 8..(q + 1) * 8], centroid) as f32;
                Visit { query: q as u32, coarse }
            })
            .collect();
        let mut scanner = case.codec.scanner(Rows::of(&queries, 8));
        scanner.enter(Probe { list: 0, centroid: Some(centroid), visits: &visits });
        let live: Vec<u32> = live(entries.len()).iter().map(|word| word & 0x5a5a_5a5a).collect();
        let worst: Vec<f32> = (1..6).map(|q| all[q][entries[1]]).collect();
        let mut found = vec![Found::default(); 5];
        let block = Codes { bytes: &region, n: entries.len(), ahead: &[] };
        scanner.scan(block, 1, &worst, &[&live[..]; 5], &mut found);
        for (v, found) in found.iter().enumerate() {
            let expected: Vec<(u32, f32)> = (0..entries.len())
                .filter(|e| live[e / 32] >> (e % 32) & 1 == 1)
                .map(|e| (e as u32, all[v + 1][entries[e]]))
                .filter(|(_, score)| *score <= worst[v])
                .collect();
            assert!(!expected.is_empty() && expected.len() < entries.len());
            assert_eq!(found.iter().collect::<Vec<_>>(), expected);
        }
    }
}

/// Without centroids residuals are the rows, and coarse scores those against the origin.
#[test]
fn rows_without_lists_are_scored_from_the_origin() {
    for (residual, similarity) in kinds() {
        let (dim, mut random) = (8, Random::new(6));
        let rows = floats(&mut random, 40 * dim, 1.0, 0.5);
        let sample = Assigned { rows: Rows::of(&rows, dim), lists: &[0; 40], centroids: None };
        let params = FastScan { subspaces: 8, residual, anisotropic: None };
        let training = Training { sample, similarity, seed: 1, iterations: None, rows: None };
        let codec = ProductFastScan::train(params, &training, &mut Observer::none()).unwrap();
        let (mut codes, mut region) = (Vec::new(), Vec::new());
        codec.encode(sample, &mut codes);
        codec.layout().pack(&codes, &mut region);
        let query = floats(&mut random, dim, 1.0, 0.5);
        let mut scanner = codec.scanner(Rows::of(&query, dim));
        scanner.enter(Probe { list: 0, centroid: None, visits: &[Visit { query: 0, coarse: 99.0 }] });
        let mut found = [Found::default()];
        let block = Codes { bytes: &region, n: 40, ahead: &[] };
        scanner.scan(block, 0, &[f32::MAX], &[&live(40)], &mut found);
        for (e, score) in found[0].iter() {
            let mut row = vec![0.0; dim];
            let bytes = codec.layout().code_bytes();
            codec.decode(None, &codes[e as usize * bytes..][..bytes], &mut row);
            let wrong = (f64::from(score) - exact(similarity, &query, &row)).abs();
            assert!(wrong <= bound(&codec, &query, 10.0), "{params} {similarity:?} {wrong}");
        }
        assert_eq!(found[0].len(), 40);
    }
}

#[test]
fn tables_come_back_and_hostile_ones_are_refused() {
    for (residual, similarity) in kinds() {
        let params = FastScan { subspaces: 3, residual, anisotropic: None };
        let case = Case::random(params, similarity, 6, 80, 2.0);
        let tables = case.codec.tables();
        let load = |tables: &[u8]| ProductFastScan::from_tables(params, 6, similarity, tables);
        let back = load(&tables).unwrap();
        assert_eq!(back.tables(), tables);
        let back = Case { codec: back, ..Case::random(params, similarity, 6, 80, 2.0) };
        assert_eq!(back.scores(&case.rows[..12], true), case.scores(&case.rows[..12], true));
        assert!(load(&[]).is_err() && load(&tables[1..]).is_err() && load(&tables[..24]).is_err());
        assert!(load(&[&tables[..], &[0]].concat()).is_err());
        for dim in [0, 3, 5, 12, usize::MAX, usize::MAX / 64 + 1] {
            assert!(ProductFastScan::from_tables(params, dim, similarity, &tables).is_err(), "{dim}");
        }
        let none = FastScan { subspaces: 0, residual, anisotropic: None };
        assert!(ProductFastScan::from_tables(none, 6, similarity, &tables).is_err());
        for value in [f32::NAN, f32::INFINITY, -3e19] {
            for at in (0..tables.len()).step_by(4) {
                let mut bad = tables.clone();
                bad[at..at + 4].copy_from_slice(&value.to_le_bytes());
                assert!(load(&bad).is_err(), "{value} at {at}");
            }
        }
    }
}

#[test]
fn training_is_the_same_on_any_number_of_threads() {
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let params = FastScan { subspaces: 4, residual: true, anisotropic: None };
        pool.install(|| Case::random(params, Similarity::L2, 8, 500, 0.0).codec.tables())
    };
    assert_eq!(on(1), on(3));
}

/// One row, identical rows, constant components: what was trained on decodes to itself, and scores are near.
#[test]
fn few_and_equal_rows_have_codes() {
    for (residual, similarity) in kinds() {
        for (n, dim) in [(1, 1), (1, 4), (2, 4), (40, 4)] {
            let rows: Vec<f32> = [0.5, -1.0, 3.0, 0.25][..dim].repeat(n);
            let params = FastScan { subspaces: dim as u16, residual, anisotropic: None };
            let case = Case::new(params, similarity, rows.clone(), vec![0.125; 2 * dim], dim);
            for (i, row) in rows.chunks(dim).enumerate() {
                assert!(exact(Similarity::L2, &case.decoded(i), row) < 1e-4, "{params} {n} {dim}");
            }
            for score in &case.scores(&rows[..dim], true)[0] {
                assert!((f64::from(*score) - exact(similarity, &rows[..dim], &rows[..dim])).abs() < 0.1);
            }
        }
    }
}

/// The longest rows and queries that the door lets in, in lists as long and opposite: numbers all the same.
#[test]
fn the_longest_rows_have_scores() {
    let mut random = Random::new(8);
    for (residual, similarity) in kinds() {
        for dim in [1, 2, 6, 64] {
            let mut longest = |n: usize| -> Vec<f32> {
                let mut rows = floats(&mut random, n * dim, 1.0, 0.0);
                for row in rows.chunks_mut(dim) {
                    let norm = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
                    let scale = f64::from(NORM_MAX) * 0.999_999 / norm;
                    row.iter_mut().for_each(|v| *v = (f64::from(*v) * scale) as f32);
                }
                rows
            };
            let (rows, mut queries) = (longest(60), longest(4));
            let centroids: Vec<f32> = rows[..3 * dim].iter().map(|v| -v).collect();
            queries.extend_from_slice(&rows[..dim]);
            queries.extend_from_slice(&centroids[..dim]);
            let params = FastScan { subspaces: dim.min(3) as u16, residual, anisotropic: None };
            let params = if dim == 64 { FastScan { subspaces: 64, ..params } } else { params };
            let case = Case::new(params, similarity, rows, centroids, dim);
            let back = ProductFastScan::from_tables(params, dim, similarity, &case.codec.tables());
            assert!(back.is_ok(), "{params} {dim}");
            for scores in case.scores(&queries, true) {
                assert!(scores.iter().all(|score| score.is_finite()), "{params} {similarity:?} {dim}");
            }
        }
    }
}

#[test]
fn more_sub_spaces_err_less() {
    let (rows, _) = sample("sift-10k", 1, 1500);
    let centroids = lists(&rows, 128);
    for residual in [false, true] {
        let errors = [4, 16, 64].map(|subspaces| -> f64 {
            let params = FastScan { subspaces, residual, anisotropic: None };
            let case = Case::new(params, Similarity::L2, rows.clone(), centroids.clone(), 128);
            let far = |(i, row): (usize, &[f32])| exact(Similarity::L2, row, &case.decoded(i));
            rows.chunks(128).enumerate().map(far).sum()
        });
        assert!(errors.is_sorted_by(|a, b| b < a), "{errors:?}");
    }
}

/// The first `rows` of a sample in `tests/data` and its queries: f16 or bytes, after a header of 128 bytes.
fn sample(name: &str, bytes: usize, rows: usize) -> (Vec<f32>, Vec<f32>) {
    let dim = if bytes == 1 { 128 } else { 384 };
    let read = |what: &str| -> Vec<f32> {
        let path = format!("{}/tests/data/{name}.{what}.npy", env!("CARGO_MANIFEST_DIR"));
        let data = std::fs::read(path).unwrap().split_off(128);
        match bytes {
            1 => data.iter().map(|v| f32::from(*v)).collect(),
            _ => data.as_chunks::<2>().0.iter().map(|v| half::f16::from_le_bytes(*v).to_f32()).collect(),
        }
    };
    let mut base = read("base");
    base.truncate(rows * dim);
    (base, read("query"))
}

fn lists(rows: &[f32], dim: usize) -> Vec<f32> {
    let params = ClusteringParams::default();
    let found = cluster(Rows::of(rows, dim), 16, Similarity::L2, &params, None, &mut Observer::none());
    found.unwrap().centroids
}

fn best(scores: impl Iterator<Item = f64>, k: usize) -> Vec<usize> {
    let mut order: Vec<(f64, usize)> = scores.zip(0..).collect();
    order.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    order.iter().take(k).map(|(_, i)| *i).collect()
}

/// Rounding tables to bytes costs no more than a hundredth of recall@10 against the same codes scored exactly.
#[test]
fn bytes_cost_little_recall() {
    for (name, bytes, dim, similarity) in
        [("sift-10k", 1, 128, Similarity::L2), ("text-2k", 2, 384, Similarity::Dot)]
    {
        let (rows, queries) = sample(name, bytes, 2000);
        let queries = &queries[..60 * dim];
        let truth: Vec<Vec<usize>> = queries
            .chunks(dim)
            .map(|query| best(rows.chunks(dim).map(|row| exact(similarity, query, row)), 10))
            .collect();
        let centroids = lists(&rows, dim);
        for (subspaces, residual) in [(32, false), (32, true), (64, true)] {
            let params = FastScan { subspaces, residual, anisotropic: None };
            let case = Case::new(params, similarity, rows.clone(), centroids.clone(), dim);
            let decoded: Vec<Vec<f32>> = (0..case.lists.len()).map(|i| case.decoded(i)).collect();
            let (mut fast, mut slow) = (0, 0);
            for ((query, truth), scores) in queries.chunks(dim).zip(&truth).zip(case.scores(queries, true)) {
                let told = best(scores.iter().map(|score| f64::from(*score)), 10);
                let exactly = best(decoded.iter().map(|row| exact(similarity, query, row)), 10);
                fast += told.iter().filter(|i| truth.contains(i)).count();
                slow += exactly.iter().filter(|i| truth.contains(i)).count();
            }
            let (fast, slow) = (fast as f64 / 600.0, slow as f64 / 600.0);
            assert!(fast >= slow - 0.01, "{name} {params}: {fast}, exactly {slow}");
        }
    }
}

impl Given {
    /// Our codes by FAISS's points, which are FAISS's codes and decode to what they decode to there.
    fn encoded(&self, kind: &str, params: FastScan, similarity: Similarity) -> Case {
        let (dim, assigned) = (self.dim, self.assigned());
        let mut tables = fixtures::bytes(&format!("{kind}.both.codebooks"));
        if has_bias(params, similarity) {
            tables.extend(assigned.origin().iter().flat_map(|v| v.to_le_bytes()));
        }
        let codec = ProductFastScan::from_tables(params, dim, similarity, &tables).unwrap();
        let mut codes = Vec::new();
        codec.encode(assigned, &mut codes);
        let (theirs, bytes) = (fixtures::bytes(&format!("{kind}.both.codes")), codec.book.code_bytes());
        let ours = codes.chunks(codec.layout().code_bytes()).map(|code| &code[..bytes]);
        // Two points may be equally near but for rounding.
        let different = ours.zip(theirs.chunks(bytes)).filter(|(ours, theirs)| ours != theirs).count();
        assert!(different <= 2, "{kind}: {different} codes differ");
        let Given { rows, lists, centroids, .. } = self;
        Case { dim, rows: rows.clone(), lists: lists.clone(), centroids: centroids.clone(), codec, codes }
    }

    /// FAISS's blocks of its codes of list 0.
    fn check_blocks(&self, kind: &str, m: usize) {
        let packer = CodePacker::new(m, 32).unwrap();
        let (blocks, codes) =
            (fixtures::bytes(&format!("{kind}.both.blocks")), fixtures::bytes(&format!("{kind}.both.codes")));
        let codes = codes.chunks(packer.code_bytes()).zip(&self.lists).filter(|(_, list)| **list == 0);
        let logical: Vec<u8> = codes.flat_map(|(code, _)| code).copied().collect();
        let n = logical.len() / packer.code_bytes();
        assert_eq!(packer.unpack(&blocks, n).unwrap(), logical, "{kind}");
        assert_eq!(packer.pack(&logical).unwrap(), blocks, "{kind}");
    }

    /// The ten that FAISS found and their distances: ours are the same up to the steps of both tables.
    fn check_found(&self, kind: &str, metric: &str, case: &Case, found: &[f32]) {
        let similarity = case.codec.similarity;
        let sign = if metric == "l2" { 1.0 } else { -1.0 };
        let mut agreed = 0;
        for (q, scores) in case.scores(&self.queries, true).iter().enumerate() {
            let probes = self.probes(q, similarity);
            let probed = |i: usize| probes.contains(&self.lists[i]);
            let score = |i: usize| if probed(i) { f64::from(scores[i]) } else { f64::INFINITY };
            let ours = best((0..scores.len()).map(score), 10);
            let ids: Vec<usize> = found[q * 10..][..10].iter().map(|id| *id as usize).collect();
            agreed += ours.iter().filter(|i| ids.contains(i)).count();
            let distances = &found[200 + q * 10..][..10];
            let largest = distances.iter().fold(0.0f32, |most, d| most.max(d.abs()));
            for (id, distance) in ids.iter().zip(distances) {
                let wrong = (sign * scores[*id] - distance).abs();
                assert!(wrong <= 2e-2 * largest, "{kind} {metric} {q}: {wrong} of {largest}");
            }
        }
        assert!(agreed >= 190, "{kind} {metric}: {agreed} of 200");
    }
}

/// With FAISS's points we make its codes, its decoded rows and its blocks, and find what it finds.
#[test]
fn faiss_agrees() {
    let given = Given::whole();
    for residual in [false, true] {
        let params = FastScan { subspaces: 16, residual, anisotropic: None };
        let kind = params.to_string();
        let found = fixtures::floats(&format!("{kind}.both.found"));
        for (similarity, metric, found) in
            [(Similarity::L2, "l2", &found[..400]), (Similarity::Dot, "ip", &found[400..])]
        {
            let case = given.encoded(&kind, params, similarity);
            for (i, row) in fixtures::floats(&format!("{kind}.both.decoded")).chunks(32).enumerate() {
                assert!(exact(Similarity::L2, &case.decoded(i), row) < 1e-9, "{kind}");
            }
            given.check_found(&kind, metric, &case, found);
        }
        given.check_blocks(&kind, 16);
    }
}

/// An odd number of sub-spaces, which FAISS fills up as well.
#[test]
fn faiss_agrees_on_odd_numbers_of_sub_spaces() {
    let given = Given::odd();
    let params = FastScan { subspaces: 9, residual: false, anisotropic: None };
    let case = given.encoded("odd_PQ9x4fs", params, Similarity::L2);
    given.check_found("odd_PQ9x4fs", "l2", &case, &fixtures::floats("odd_PQ9x4fs.l2.found"));
    given.check_blocks("odd_PQ9x4fs", 9);
}
