//! A first look at quantised centroids must not change an answer. It breaks if a bound is too tight (a list
//! is lost that a full scan returns), if rounding or overflow is forgotten, or if an exact score gets other
//! bits alone than among all. So every answer is compared, in every bit, with the full scan.

use super::*;
use crate::math::random::Random;
use proptest::prelude::*;

const SIMILARITIES: [Similarity; 2] = [Similarity::L2, Similarity::Dot];

fn nearest(coarse: &FlatCoarse, queries: Rows<'_>, nprobe: usize) -> (Vec<u32>, Vec<u32>) {
    let mut probes = Probes::default();
    coarse.nearest(queries, nprobe, &mut probes);
    assert_eq!(probes.lists.len(), probes.nprobe * queries.len());
    (probes.lists, bits(&probes.scores))
}

/// All lists by (score, list), from the matrix of scores.
fn oracle(coarse: &FlatCoarse, queries: Rows<'_>, nprobe: usize) -> (Vec<u32>, Vec<u32>) {
    let nlist = coarse.panels.len();
    let (mut lists, mut scores) = (Vec::new(), Vec::new());
    for q in 0..queries.len() {
        let mut all = vec![0.0; nlist];
        coarse.panels.scores(coarse.similarity, queries.slice(q..q + 1), &mut all);
        let mut order: Vec<u32> = (0..nlist as u32).collect();
        let key = |list: u32| (all[list as usize].is_nan(), all[list as usize]);
        order.sort_by(|&a, &b| {
            let (a, b) = (key(a), key(b));
            a.0.cmp(&b.0).then(if a.0 { std::cmp::Ordering::Equal } else { a.1.total_cmp(&b.1) })
        });
        order.truncate(nprobe);
        scores.extend(order.iter().map(|&list| all[list as usize]));
        lists.extend(order);
    }
    (lists, bits(&scores))
}

/// NaN has many patterns; which one is nobody's business.
fn bits(scores: &[f32]) -> Vec<u32> {
    scores.iter().map(|score| if score.is_nan() { f32::NAN.to_bits() } else { score.to_bits() }).collect()
}

fn floats(random: &mut Random, count: usize) -> Vec<f32> {
    (0..count).map(|_| (random.unit() * 2.0 - 1.0) as f32).collect()
}

/// What a vector's components are like.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Plain,
    /// Few values: many equal centroids and many ties.
    Whole,
    /// Most components are the same in all centroids.
    Constant,
    /// All centroids are equal.
    Equal,
    /// Each vector has its own magnitude.
    Uneven,
    /// Around a centre that is far away: distances are rounding errors.
    Far,
}

fn vectors(kind: Kind, random: &mut Random, count: usize, dim: usize, scale: f32) -> Vec<f32> {
    let mut data = floats(random, count * dim);
    for (row, chunk) in data.chunks_exact_mut(dim).enumerate() {
        let own = 10f32.powi((row % 9) as i32 - 4);
        for (d, x) in chunk.iter_mut().enumerate() {
            *x = match kind {
                Kind::Plain => *x,
                Kind::Whole => (*x * 2.0).round(),
                Kind::Constant => {
                    if d % 4 == 0 {
                        *x
                    } else {
                        0.7
                    }
                }
                Kind::Equal => 0.3 + d as f32,
                Kind::Uneven => *x * own,
                Kind::Far => *x + 1000.0,
            } * scale;
        }
    }
    data
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::Plain),
        Just(Kind::Whole),
        Just(Kind::Constant),
        Just(Kind::Equal),
        Just(Kind::Uneven),
        Just(Kind::Far),
    ]
}

/// Powers of ten at which squares underflow, are ordinary, and overflow.
fn scales() -> impl Strategy<Value = f32> {
    prop_oneof![4 => Just(0), 1 => -45i32..38, 1 => 15i32..20].prop_map(|power| 10f32.powi(power))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_nearest_lists_are_those_of_a_full_scan(
        seed in 0u64..1000,
        (kind, query_kind) in (kinds(), kinds()),
        (scale, query_scale, alike) in (scales(), scales(), any::<bool>()),
        nlist in 256usize..600,
        dim in 1usize..40,
        nprobe in 1usize..40,
        count in 1usize..20,
    ) {
        let mut random = Random::new(seed);
        let centroids = vectors(kind, &mut random, nlist, dim, scale);
        let query_scale = if alike { scale } else { query_scale };
        let mut queries = vectors(if alike { kind } else { query_kind }, &mut random, count, dim, query_scale);
        // One query is a centroid.
        queries[..dim].copy_from_slice(&centroids[..dim]);
        let queries = Rows::new(&queries, dim).unwrap();
        for (similarity, kernels) in
            SIMILARITIES.into_iter().flat_map(|s| Kernels::all().into_iter().map(move |k| (s, k)))
        {
            let coarse = FlatCoarse::with_kernels(kernels, QUANTISED_MIN, centroids.clone(), dim, similarity);
            prop_assert_eq!(nearest(&coarse, queries, nprobe), oracle(&coarse, queries, nprobe));
        }
    }
}

#[test]
fn real_vectors_are_looked_at_and_few_are_scored() {
    // Nothing would be gained if the bound let everything through, and no test above would notice.
    let (nlist, dim, nprobe) = (1024, 64, 16);
    let mut random = Random::new(3);
    let centroids = floats(&mut random, nlist * dim);
    let queries: Vec<f32> =
        centroids[..20 * dim].iter().map(|x| x + 0.5 * (random.unit() as f32 - 0.5)).collect();
    let queries = Rows::new(&queries, dim).unwrap();
    for similarity in SIMILARITIES {
        let coarse =
            FlatCoarse::with_kernels(Kernels::get(), QUANTISED_MIN, centroids.clone(), dim, similarity);
        let quantised = coarse.quantised.as_ref().unwrap();
        for query in queries.iter() {
            let mut codes = vec![0; quantised.code_len()];
            let view = quantised.view(query, &mut codes).unwrap();
            let mut scores = vec![0.0; quantised.columns()];
            quantised.scores(coarse.kernels, &codes, &[View::factor(Some(&view))], &mut scores);
            let (_, exact) = oracle(&coarse, Rows::of(query, dim), nprobe);
            let limit = quantised.limit(&view, f32::from_bits(exact[nprobe - 1]));
            let within = scores.iter().filter(|&&score| score <= limit).count();
            assert!((nprobe..4 * nprobe).contains(&within), "{within}");
        }
        assert_eq!(nearest(&coarse, queries, nprobe), oracle(&coarse, queries, nprobe));
    }
}

#[test]
fn numbers_too_large_for_bounds_are_scanned() {
    let mut random = Random::new(4);
    let (nlist, dim) = (300, 8);
    let mut centroids = floats(&mut random, nlist * dim);
    for value in [f32::NAN, f32::INFINITY, 1e30, f32::MAX] {
        let queries = [[0.5; 8], [value; 8], [-0.25; 8]].concat();
        let queries = Rows::new(&queries, dim).unwrap();
        for similarity in SIMILARITIES {
            let coarse = FlatCoarse::new(centroids.clone(), dim, similarity);
            assert_eq!(nearest(&coarse, queries, 5), oracle(&coarse, queries, 5), "{value}");
        }
    }
    for (value, similarity) in
        [1e30, f32::INFINITY, f32::NAN].into_iter().zip(SIMILARITIES.into_iter().cycle())
    {
        centroids[77] = value;
        let coarse = FlatCoarse::new(centroids.clone(), dim, similarity);
        assert!(coarse.quantised.is_none());
    }
}

/// Where products underflow, rounding is no share of them.
#[test]
fn products_that_underflow_lose_no_list() {
    let mut random = Random::new(5);
    let (nlist, dim) = (400, 32);
    for power in -46..-36 {
        // Inner products near the smallest floats: small queries, ordinary centroids.
        let queries: Vec<f32> = floats(&mut random, 4 * dim).iter().map(|x| x * 10f32.powi(power)).collect();
        let coarse = FlatCoarse::with_kernels(
            Kernels::get(),
            QUANTISED_MIN,
            floats(&mut random, nlist * dim),
            dim,
            Similarity::Dot,
        );
        let queries = Rows::new(&queries, dim).unwrap();
        assert_eq!(nearest(&coarse, queries, 9), oracle(&coarse, queries, 9), "1e{power}");
    }
}

#[test]
fn no_probes_and_no_queries_are_no_work() {
    let coarse = FlatCoarse::new(vec![1.0; 300 * 2], 2, Similarity::L2);
    assert_eq!(nearest(&coarse, Rows::of(&[1.0, 2.0], 2), 0).0, [0u32; 0]);
    assert_eq!(nearest(&coarse, Rows::of(&[], 2), 3).0, [0u32; 0]);
    assert_eq!(nearest(&coarse, Rows::of(&[1.0, 2.0], 2), 3).0, [0, 1, 2]);
}
