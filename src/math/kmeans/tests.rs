//! k-means compared with a textbook's, and each parameter with the effect that it must have. It breaks if a sum depends
//! on which thread came first, if an empty cluster is left behind, if a parameter is accepted and ignored: none of
//! that shows in a search, which is only a little worse. So centroids are compared with others, bit for bit where
//! nothing may change and by their objective where something must.

use super::*;
use crate::progress::Tick;
use std::ops::ControlFlow;

/// `n` rows around `centres` points that lie far apart.
fn blobs(n: usize, dim: usize, centres: usize, seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed);
    let centres: Vec<f32> = (0..centres * dim).map(|_| random.below(1000) as f32).collect();
    let mut rows = Vec::new();
    for row in 0..n {
        let centre = &centres[row % (centres.len() / dim) * dim..][..dim];
        rows.extend(centre.iter().map(|c| c + random.unit() as f32));
    }
    rows
}

fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed);
    (0..count).map(|_| random.unit() as f32 - 0.5).collect()
}

fn train(rows: &[f32], dim: usize, k: usize, params: &ClusteringParams) -> Clustering {
    cluster(Rows::new(rows, dim).unwrap(), k, Similarity::L2, params, None, &mut Observer::none()).unwrap()
}

fn train_from(rows: &[f32], dim: usize, k: usize, params: &ClusteringParams, initial: &[f32]) -> Clustering {
    let (rows, initial) = (Rows::new(rows, dim).unwrap(), Rows::new(initial, dim).unwrap());
    cluster(rows, k, Similarity::L2, params, Some(initial), &mut Observer::none()).unwrap()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Lloyd as in the textbook, from the given centroids.
fn textbook(rows: &[f32], dim: usize, centroids: &mut [f32]) {
    let mut sums = vec![0.0f64; centroids.len()];
    let mut sizes = vec![0.0f64; centroids.len() / dim];
    for row in rows.chunks(dim) {
        let distance = |c: &[f32]| row.iter().zip(c).map(|(x, c)| f64::from(x - c).powi(2)).sum::<f64>();
        let distances = centroids.chunks(dim).map(distance);
        let nearest = distances.enumerate().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap().0;
        sizes[nearest] += 1.0;
        row.iter().zip(&mut sums[nearest * dim..]).for_each(|(&x, sum)| *sum += f64::from(x));
    }
    for (at, centroid) in centroids.iter_mut().enumerate().filter(|(at, _)| sizes[at / dim] > 0.0) {
        *centroid = (sums[at] / sizes[at / dim]) as f32;
    }
}

#[test]
fn iterations_are_those_of_the_textbook() {
    for (n, dim, k) in [(500, 1, 3), (700, 2, 16), (900, 7, 33), (2000, 40, 100)] {
        let rows = noise(n * dim, 1);
        let mut expected = rows[..k * dim].to_vec();
        let params = ClusteringParams { niter: 4, ..ClusteringParams::default() };
        let got = train_from(&rows, dim, k, &params, &expected);
        assert!(got.iterations.iter().all(|iteration| iteration.splits == 0));
        (0..4).for_each(|_| textbook(&rows, dim, &mut expected));
        let far = got.centroids.iter().zip(&expected).filter(|(a, b)| (*a - *b).abs() > 1e-4).count();
        assert_eq!(far, 0, "{n} {dim} {k}");
        let objectives: Vec<f64> = got.iterations.iter().map(|iteration| iteration.objective).collect();
        assert!(objectives.windows(2).all(|pair| pair[1] <= pair[0] * (1.0 + 1e-6)), "{objectives:?}");
        assert_eq!(got.objective, objectives[3]);
    }
}

/// Breaks if a sum depends on which thread came first, or if blocks of rows change a score.
#[test]
fn the_result_is_the_same_on_any_number_of_threads() {
    let (dim, k) = (19, 70);
    let rows = noise(9001 * dim, 2);
    for init in [Init::Random, Init::KMeansPlusPlus, Init::AfkMc2] {
        for similarity in [Similarity::L2, Similarity::Dot] {
            let spherical = Some(similarity == Similarity::Dot);
            let params = ClusteringParams { init, spherical, niter: 5, nredo: 2, ..Default::default() };
            let run = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let rows = Rows::new(&rows, dim).unwrap();
                pool.install(|| cluster(rows, k, similarity, &params, None, &mut Observer::none())).unwrap()
            };
            let one = run(1);
            for threads in [2, 3, 8] {
                let more = run(threads);
                assert_eq!(bits(&more.centroids), bits(&one.centroids), "{init:?} {threads}");
                assert_eq!(more.objective.to_bits(), one.objective.to_bits());
            }
        }
    }
}

#[test]
fn an_exact_assigner_makes_update_index_irrelevant() {
    let rows = noise(3000 * 5, 3);
    let params = ClusteringParams::default();
    let updated = ClusteringParams { update_index: true, ..params.clone() };
    assert_eq!(bits(&train(&rows, 5, 40, &params).centroids), bits(&train(&rows, 5, 40, &updated).centroids));
}

#[test]
fn seeds_matter_and_repeat() {
    let rows = noise(3000 * 5, 4);
    let with = |seed| train(&rows, 5, 40, &ClusteringParams { seed, ..Default::default() });
    assert_eq!(bits(&with(1).centroids), bits(&with(1).centroids));
    assert_ne!(bits(&with(1).centroids), bits(&with(2).centroids));
}

#[test]
fn too_few_rows_are_refused_and_exactly_enough_are_copied() {
    let rows = noise(10 * 3, 5);
    let params = ClusteringParams::default();
    let few = cluster(Rows::new(&rows, 3).unwrap(), 11, Similarity::L2, &params, None, &mut Observer::none());
    assert!(matches!(few, Err(Error::TooFewRows { rows: 10, needed: 11 })));
    let copied = train(&rows, 3, 10, &params);
    assert_eq!((copied.centroids, copied.iterations.len(), copied.few_points), (rows, 0, true));
}

#[test]
fn a_sample_is_used_where_rows_abound() {
    let rows = noise(1000 * 2, 6);
    let params = ClusteringParams { max_points_per_centroid: 20, ..Default::default() };
    let sampled = train(&rows, 2, 10, &params);
    assert_eq!((sampled.sampled_rows, sampled.few_points), (200, true));
    let all = train(&rows, 2, 10, &ClusteringParams::default());
    assert_eq!((all.sampled_rows, all.few_points), (1000, false));
    // A sample of one row per centroid is copied.
    let params = ClusteringParams { max_points_per_centroid: 1, ..Default::default() };
    assert_eq!(train(&rows, 2, 10, &params).iterations.len(), 0);
}

#[test]
fn empty_clusters_get_half_of_another() {
    let rows = blobs(1000, 4, 2, 7);
    // The last three centroids are too far away to win a row.
    let mut initial = rows[..2 * 4].to_vec();
    initial.extend([1e6; 3 * 4]);
    let params = ClusteringParams { niter: 3, ..Default::default() };
    let got = train_from(&rows, 4, 5, &params, &initial);
    assert_eq!(got.iterations[0].splits, 3);
    assert_eq!(got.iterations[2].splits, 0);
    assert!(got.centroids.iter().all(|&value| (-1.0..1002.0).contains(&value)));
    // All rows equal: there is nothing to tell clusters apart by, and nothing breaks.
    let same = train(&[7.0; 100 * 3], 3, 6, &ClusteringParams::default());
    assert!(same.centroids.iter().all(|value| (value - 7.0).abs() < 0.1));
}

#[test]
fn a_settled_run_stops_early() {
    let rows = blobs(2000, 3, 4, 8);
    let params = ClusteringParams { niter: 50, init: Init::KMeansPlusPlus, ..Default::default() };
    let got = train(&rows, 3, 4, &params);
    assert!(got.iterations.len() < 50);
    let last = got.iterations.len() - 1;
    assert_eq!(got.iterations[last].objective, got.iterations[last - 1].objective);
    let loose = ClusteringParams { early_stop_threshold: 1.0, ..params };
    assert_eq!(train(&rows, 3, 4, &loose).iterations.len(), 2);
}

#[test]
fn centroids_are_normalised_or_rounded_on_request() {
    let rows = noise(500 * 6, 9);
    let spherical = train(&rows, 6, 20, &ClusteringParams { spherical: Some(true), ..Default::default() });
    for centroid in spherical.centroids.chunks(6) {
        assert!((centroid.iter().map(|v| v * v).sum::<f32>() - 1.0).abs() < 1e-5);
    }
    let rows: Vec<f32> = rows.iter().map(|v| v * 1000.0).collect();
    let whole = train(&rows, 6, 20, &ClusteringParams { int_centroids: true, ..Default::default() });
    assert!(whole.centroids.iter().all(|value| value.fract() == 0.0));
}

#[test]
fn frozen_centroids_stay_and_the_others_move() {
    let rows = noise(1000 * 2, 10);
    let initial = [0.1, 0.2, 0.3, -0.4];
    let params = ClusteringParams { frozen_centroids: true, ..Default::default() };
    let got = train_from(&rows, 2, 8, &params, &initial);
    assert_eq!(got.centroids[..4], initial);
    assert!(got.iterations.last().unwrap().objective < got.iterations[0].objective);
    assert_eq!(train_from(&rows, 2, 2, &params, &initial).centroids, initial);
    let moved = train_from(&rows, 2, 8, &ClusteringParams::default(), &initial);
    assert_ne!(moved.centroids[..4], initial);
}

#[test]
fn the_best_of_several_runs_is_kept() {
    let rows = noise(2000 * 2, 11);
    let run = |nredo, similarity| {
        let params = ClusteringParams { nredo, niter: 3, ..Default::default() };
        let rows = Rows::new(&rows, 2).unwrap();
        cluster(rows, 30, similarity, &params, None, &mut Observer::none()).unwrap().objective
    };
    assert!(run(6, Similarity::L2) < run(1, Similarity::L2));
    assert!(run(6, Similarity::Dot) > run(1, Similarity::Dot));
}

#[test]
fn careful_seeding_finds_every_blob() {
    let rows = blobs(3000, 8, 30, 12);
    let spread = |init| train(&rows, 8, 30, &ClusteringParams { init, ..Default::default() }).objective;
    // A blob without a centroid costs far more than all blobs with one: within one, a component's
    // variance is 1/12.
    let ideal = 3000.0 * 8.0 / 12.0;
    assert!(spread(Init::KMeansPlusPlus) < 1.1 * ideal);
    assert!(spread(Init::AfkMc2) < 100.0 * ideal);
    assert!(spread(Init::Random) > 100.0 * ideal);
}

#[test]
fn bad_input_is_refused() {
    let refused = |rows: &[f32], params: ClusteringParams, initial: &[f32]| {
        let (rows, initial) = (Rows::new(rows, 2).unwrap(), Rows::new(initial, 2).unwrap());
        cluster(rows, 2, Similarity::L2, &params, Some(initial), &mut Observer::none()).unwrap_err()
    };
    let nan = [0.0, 1.0, 2.0, 3.0, 4.0, f32::NAN];
    let params = ClusteringParams::default();
    assert!(matches!(refused(&nan, params.clone(), &[]), Error::NotFinite { row: 2, component: 1, .. }));
    assert!(matches!(refused(&[0.0; 8], params.clone(), &nan[2..]), Error::NotFinite { .. }));
    assert!(matches!(
        refused(&[0.0; 8], params.clone(), &[0.0; 6]),
        Error::Parameter { name: "initial", .. }
    ));
    for (name, params) in [
        ("nredo", ClusteringParams { nredo: 0, ..params.clone() }),
        ("max_points_per_centroid", ClusteringParams { max_points_per_centroid: 0, ..params.clone() }),
        ("early_stop_threshold", ClusteringParams { early_stop_threshold: f64::NAN, ..params.clone() }),
    ] {
        assert!(matches!(refused(&[0.0; 8], params, &[]), Error::Parameter { name: n, .. } if n == name));
    }
    // Unchecked, NaN gives nonsense but no panic.
    train(&nan, 2, 2, &ClusteringParams { check_finite: false, ..params });
}

#[test]
fn progress_rises_to_the_end_and_can_cancel() {
    let rows = noise(4000 * 4, 13);
    let params = ClusteringParams { nredo: 2, niter: 3, init: Init::KMeansPlusPlus, ..Default::default() };
    let run = |stop_after: usize| {
        let mut ticks: Vec<Tick> = Vec::new();
        let mut callback = |tick| {
            ticks.push(tick);
            if ticks.len() > stop_after { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let rows = Rows::new(&rows, 4).unwrap();
        let result = cluster(rows, 20, Similarity::L2, &params, None, &mut Observer::new(&mut callback));
        (result, ticks)
    };
    let (result, ticks) = run(usize::MAX);
    assert!(result.is_ok() && ticks.windows(2).all(|pair| pair[0].done <= pair[1].done));
    assert!(ticks.iter().all(|tick| tick.stage == "train" && tick.total == 2 * 3 * 4000));
    assert_eq!(ticks.last().map(|tick| tick.done), Some(2 * 3 * 4000));
    for stop_after in 0..ticks.len() {
        assert!(matches!(run(stop_after).0, Err(Error::Cancelled)));
    }
}

#[test]
fn imbalance_is_one_for_equal_sizes() {
    assert_eq!(imbalance(&[5, 5, 5, 5]), 1.0);
    assert_eq!(imbalance(&[20, 0, 0, 0]), 4.0);
}
