//! Worry: a parameter of training is accepted and ignored, or does something else than it says. The answers are then a
//! little worse, which nobody notices.
//!
//! Noticed by changing one parameter at a time and naming the effect that it must have on centroids, objective and
//! report, and by comparing centroids with what a few lines of arithmetic say they should be.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed helper is a failed test")]

mod support;

use std::collections::BTreeSet;
use support::*;
use vellum::*;

/// Centroids and report of a training on `data`, nothing stored.
fn trained(text: &str, metric: Metric, data: Rows<'_>, params: &TrainParams) -> (Vec<f32>, TrainReport) {
    let store = memory();
    create(&store, "i", &spec(text, data.dim(), metric));
    let report = change(&store, "i", |writer| writer.train(data, params, &mut Observer::none()).unwrap());
    let reader = reader(&store, "i");
    (reader.centroids().unwrap().as_slice().to_vec(), report)
}

/// `k` tight clusters far from each other.
fn clusters(n: usize, dim: usize, k: usize, seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed);
    let centers: Vec<f32> = (0..k * dim).map(|_| 200.0 * random.unit() - 100.0).collect();
    (0..n).flat_map(|i| centers[i % k * dim..][..dim].to_vec()).map(|v| v + random.unit()).collect()
}

// ---------------------------------------------------------------- how many rows

#[test]
fn as_many_rows_as_lists_are_the_centroids() {
    let (dim, k) = (5, 20);
    let data = reals(k, dim, 85);
    let (centroids, report) = trained("IVF20,Flat", Metric::L2, rows(&data, dim), &TrainParams::default());
    assert_eq!(centroids, data);
    assert_eq!((report.rows, report.iterations.len(), report.few_rows), (k, 0, true));
    let (centroids, _) =
        trained("IVF20,Flat", Metric::L2, rows(&data, dim), &with(|c| c.int_centroids = true));
    assert_eq!(centroids, data.iter().map(|v| v.round_ties_even()).collect::<Vec<_>>());
    // For similarities a centroid is a direction.
    let (centroids, _) = trained("IVF20,Flat", Metric::Cosine, rows(&data, dim), &TrainParams::default());
    for (centroid, row) in centroids.chunks(dim).zip(data.chunks(dim)) {
        let norm = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        centroid
            .iter()
            .zip(row)
            .for_each(|(c, v)| assert!((f64::from(*c) - f64::from(*v) / norm).abs() < 1e-6));
    }
}

#[test]
fn one_list_is_the_mean() {
    let (dim, n) = (4, 100);
    let data = integers(n, dim, 50, 86);
    let (centroids, _) = trained("IVF1,Flat", Metric::L2, rows(&data, dim), &TrainParams::default());
    for (d, value) in centroids.iter().enumerate() {
        let mean = data.iter().skip(d).step_by(dim).map(|v| f64::from(*v)).sum::<f64>() / n as f64;
        assert!((f64::from(*value) - mean).abs() < 1e-5);
    }
}

/// `min_points_per_centroid` only warns, `max_points_per_centroid` and `sample_rows` take a part of the
/// rows.
#[test]
fn few_rows_and_many() {
    let (dim, k) = (3, 10);
    let data = reals(1000, dim, 87);
    let part = |n: usize| rows(&data, dim).slice(0..n);
    let few = |n, params: &TrainParams| trained("IVF10,Flat", Metric::L2, part(n), params).1.few_rows;
    assert!(
        few(389, &TrainParams::default()) && !few(390, &TrainParams::default()),
        "39 rows a list by default"
    );
    assert!(few(99, &with(|c| c.min_points_per_centroid = 10)));
    assert!(!few(100, &with(|c| c.min_points_per_centroid = 10)));

    let (all, report) = trained("IVF10,Flat", Metric::L2, part(1000), &TrainParams::default());
    assert_eq!(report.rows, 1000);
    let (some, report) =
        trained("IVF10,Flat", Metric::L2, part(1000), &with(|c| c.max_points_per_centroid = 20));
    assert_eq!((report.rows, report.few_rows), (20 * k, true));
    assert_ne!(some, all);
    let sampled = |rows, seed| TrainParams { sample_rows: Some(rows), ..with(|c| c.seed = seed) };
    let (some, report) = trained("IVF10,Flat", Metric::L2, part(1000), &sampled(300, 1));
    assert_eq!(report.rows, 300);
    assert_ne!(
        some,
        trained("IVF10,Flat", Metric::L2, part(1000), &sampled(300, 2)).0,
        "the seed draws the sample"
    );
    assert_eq!(
        trained("IVF10,Flat", Metric::L2, part(1000), &sampled(5000, 1234)).0,
        all,
        "more than there are is all"
    );
    // A sample is of rows: with no iteration each centroid is one.
    let params = TrainParams { sample_rows: Some(50), ..with(|c| c.niter = 0) };
    let (seeds, _) = trained("IVF10,Flat", Metric::L2, part(1000), &params);
    assert!(seeds.chunks(dim).all(|c| data.chunks(dim).any(|row| row == c)));
}

// ---------------------------------------------------------------- each parameter

#[test]
fn iterations_lower_the_objective() {
    let (dim, n, k) = (4, 2000, 25);
    let data = clusters(n, dim, 40, 88);
    let all = rows(&data, dim);
    // None: the initial centroids, k different rows.
    let (initial, report) = trained("IVF25,Flat", Metric::L2, all, &with(|c| c.niter = 0));
    assert!(report.iterations.is_empty() && report.objective == 0.0);
    let chosen: BTreeSet<usize> =
        initial.chunks(dim).map(|c| all.iter().position(|row| row == c).expect("a row")).collect();
    assert_eq!(chosen.len(), k);
    // One: the means of what was nearest to those.
    let (one, report) = trained("IVF25,Flat", Metric::L2, all, &with(|c| c.niter = 1));
    assert_eq!(report.iterations.len(), 1);
    assert!((report.objective - objective(all, &initial)).abs() <= 1e-4 * report.objective);
    assert_ne!(one, initial);
    // Many: never worse, until nothing changes any more.
    let (many, report) = trained("IVF25,Flat", Metric::L2, all, &with(|c| c.niter = 200));
    let steps: Vec<f64> = report.iterations.iter().map(|i| i.objective).collect();
    assert!(steps.windows(2).all(|pair| pair[1] <= pair[0] * (1.0 + 1e-6)), "{steps:?}");
    assert!(steps.len() > 2 && steps.len() < 200, "it settled, after {} iterations", steps.len());
    assert_eq!(steps[steps.len() - 1], steps[steps.len() - 2]);
    assert_eq!(report.objective, steps[steps.len() - 1]);
    assert!(objective(all, &many) < objective(all, &one) && objective(all, &one) < objective(all, &initial));
    assert!(report.iterations.iter().all(|i| i.imbalance >= 1.0));
    // Stopped early: as soon as an iteration gains less than the fraction asked for.
    let (_, early) =
        trained("IVF25,Flat", Metric::L2, all, &with(|c| (c.niter, c.early_stop_threshold) = (200, 0.01)));
    let stop = 1 + steps.windows(2).position(|pair| (pair[0] - pair[1]).abs() <= 0.01 * pair[0]).unwrap();
    assert_eq!(early.iterations.len(), stop + 1);
    assert!(stop + 1 < steps.len());
}

#[test]
fn the_best_of_several_runs_wins() {
    let (dim, n) = (3, 1500);
    let data = clusters(n, dim, 30, 89);
    let all = rows(&data, dim);
    let train =
        |nredo, seed| trained("IVF30,Flat", Metric::L2, all, &with(|c| (c.nredo, c.seed) = (nredo, seed)));
    let mut improved = 0;
    for seed in 0..5 {
        let (once, thrice) = (train(1, seed), train(3, seed));
        assert!(thrice.1.objective <= once.1.objective, "seed {seed}");
        improved += usize::from(thrice.1.objective < once.1.objective);
        // The report is of the run that won: the centroids are one step beyond its last objective.
        assert!(objective(all, &thrice.0) <= thrice.1.objective * (1.0 + 1e-6));
    }
    assert!(improved >= 2, "random seeds miss some of 30 tight clusters, other seeds others: {improved}");
}

#[test]
fn spherical_and_integer_centroids() {
    let dim = 6;
    let data: Vec<f32> = reals(400, dim, 90).iter().map(|v| 20.0 * v + 5.0).collect();
    let all = rows(&data, dim);
    let unit = |centroids: &[f32]| {
        let norm = |c: &[f32]| c.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
        centroids.chunks(dim).all(|c| (norm(c) - 1.0).abs() < 1e-5)
    };
    let whole = |centroids: &[f32]| centroids.iter().all(|v| v.fract() == 0.0);
    let (plain, _) = trained("IVF8,Flat", Metric::L2, all, &TrainParams::default());
    assert!(!unit(&plain) && !whole(&plain));
    let (spherical, _) = trained("IVF8,Flat", Metric::L2, all, &with(|c| c.spherical = Some(true)));
    assert!(unit(&spherical));
    let (whole_ones, _) = trained("IVF8,Flat", Metric::L2, all, &with(|c| c.int_centroids = true));
    assert!(whole(&whole_ones));
    for metric in [Metric::InnerProduct, Metric::Cosine] {
        let (directions, report) = trained("IVF8,Flat", metric, all, &TrainParams::default());
        assert!(unit(&directions), "{metric} is spherical where nobody says otherwise");
        assert!(report.objective > 0.0, "the sum of similarities");
    }
}

/// `Some(false)`: under inner product what Lloyd's steps make without scaling, written down anew in f64; under cosine an error.
#[test]
fn spherical_is_honoured_or_refused() {
    let (dim, k) = (6, 8);
    let data: Vec<f32> = reals(300, dim, 95).iter().map(|v| 3.0 * v).collect();
    let all = rows(&data, dim);
    let said = |spherical| with(|c| (c.spherical, c.frozen_centroids, c.niter) = (spherical, false, 4));
    let initial = data[..k * dim].to_vec();
    let params = TrainParams { initial: Some(initial.clone()), ..said(Some(false)) };
    let (found, _) = trained("IVF8,Flat", Metric::InnerProduct, all, &params);
    let mut expected: Vec<f64> = initial.iter().map(|v| f64::from(*v)).collect();
    for _ in 0..4 {
        let (mut sums, mut counts) = (vec![0.0; k * dim], vec![0.0; k]);
        for row in all.iter() {
            let product = |c: &[f64]| c.iter().zip(row).map(|(c, x)| c * f64::from(*x)).sum::<f64>();
            let products: Vec<f64> = expected.chunks(dim).map(product).collect();
            let best = (0..k).fold(0, |best, c| if products[c] > products[best] { c } else { best });
            counts[best] += 1.0;
            row.iter().zip(&mut sums[best * dim..]).for_each(|(x, sum)| *sum += f64::from(*x));
        }
        assert!(counts.iter().all(|count| *count > 0.0), "no cluster is split: {counts:?}");
        expected = sums.iter().enumerate().map(|(i, sum)| sum / counts[i / dim]).collect();
    }
    for (found, expected) in found.iter().zip(&expected) {
        assert!((f64::from(*found) - expected).abs() < 1e-4, "{found} {expected}");
    }
    let norm = |c: &[f32]| c.iter().map(|v| v * v).sum::<f32>();
    assert!(found.chunks(dim).any(|c| (norm(c) - 1.0).abs() > 0.1));
    // Left to the metric, or said to be: the same, and not that.
    let default = trained("IVF8,Flat", Metric::InnerProduct, all, &said(None)).0;
    assert_eq!(default, trained("IVF8,Flat", Metric::InnerProduct, all, &said(Some(true))).0);
    assert_ne!(default, trained("IVF8,Flat", Metric::InnerProduct, all, &said(Some(false))).0);
    let l2 = trained("IVF8,Flat", Metric::L2, all, &said(None)).0;
    assert_eq!(l2, trained("IVF8,Flat", Metric::L2, all, &said(Some(false))).0);
    // Cosine compares directions.
    let store = memory();
    create(&store, "i", &spec("IVF8,Flat", dim, Metric::Cosine));
    change(&store, "i", |writer| {
        let refused = writer.train(all, &said(Some(false)), &mut Observer::none());
        assert!(matches!(refused, Err(Error::Parameter { name: "spherical", .. })), "{refused:?}");
        assert!(!writer.reader().is_trained());
        writer.train(all, &said(Some(true)), &mut Observer::none()).unwrap();
    });
    let refused = kmeans(all, k, Metric::Cosine, &said(Some(false)).clustering, None, &mut Observer::none());
    assert!(matches!(refused, Err(Error::Parameter { name: "spherical", .. })));
    // Anisotropic centroids are of any length: nothing is overruled.
    let avq = |spherical| trained("IVF8_AVQ2,Flat", Metric::Cosine, all, &said(spherical)).0;
    assert_eq!(avq(None), avq(Some(false)));
    assert_ne!(avq(None), avq(Some(true)));
}

/// What was in force is stored.
#[test]
fn what_was_said_of_spherical_is_in_force_later() {
    let dim = 4;
    let data: Vec<f32> = reals(600, dim, 96).iter().map(|v| 5.0 * v).collect();
    let all = rows(&data, dim);
    for (said, in_force) in [(None, true), (Some(true), true), (Some(false), false)] {
        let store = memory();
        create(&store, "i", &spec("IVF4,Flat", dim, Metric::InnerProduct));
        change(&store, "i", |writer| {
            writer.train(all, &with(|c| c.spherical = said), &mut Observer::none()).unwrap();
        });
        let training = reader(&store, "i").training().unwrap().unwrap();
        assert_eq!(training.clustering.spherical, Some(in_force));
    }
}

#[test]
fn how_the_first_centroids_are_chosen() {
    let (dim, n, k) = (4, 1200, 24);
    let data = clusters(n, dim, k, 91);
    let all = rows(&data, dim);
    let initial = |init, chain, seed| {
        let params = with(|c| (c.init, c.niter, c.afkmc2_chain_length, c.seed) = (init, 0, chain, seed));
        trained("IVF24,Flat", Metric::L2, all, &params).0
    };
    // Rows of cluster c are those at c, c + k, …: how many clusters did the seeds hit?
    let hit = |centroids: &[f32]| {
        let cluster = |c: &[f32]| all.iter().position(|row| row == c).expect("a row of the data") % k;
        centroids.chunks(dim).map(cluster).collect::<BTreeSet<usize>>().len()
    };
    for seed in 0..5 {
        let random = hit(&initial(Init::Random, 50, seed));
        assert!((10..22).contains(&random), "24 draws of 24 clusters hit about 15: {random}");
        assert_eq!(hit(&initial(Init::KMeansPlusPlus, 50, seed)), k, "far clusters are all hit");
        assert!(hit(&initial(Init::AfkMc2, 50, seed)) >= k - 1, "and nearly all by the chain");
        assert_ne!(initial(Init::AfkMc2, 50, seed), initial(Init::AfkMc2, 2, seed), "its length matters");
    }
    // From there to the end: tight clusters are found exactly.
    let (_, report) = trained("IVF24,Flat", Metric::L2, all, &with(|c| c.init = Init::KMeansPlusPlus));
    assert!(report.objective / (n as f64) < 1.0, "every row within its own cluster: {}", report.objective);
    assert!((report.iterations.last().unwrap().imbalance - 1.0).abs() < 1e-9, "50 rows in each");
}

/// More lists than different vectors: each empty cluster gets half of another one, and all centroids stay
/// finite.
#[test]
fn empty_clusters_are_split() {
    let dim = 3;
    let data: Vec<f32> = (0..200).flat_map(|i| [(i % 4) as f32, 1.0, 2.0]).collect();
    let (centroids, report) = trained("IVF16,Flat", Metric::L2, rows(&data, dim), &TrainParams::default());
    assert!(report.iterations[0].splits >= 12, "{:?}", report.iterations[0]);
    assert!(centroids.iter().all(|v| v.is_finite()));
    let store = memory();
    create(&store, "i", &spec("IVF16,Flat", dim, Metric::L2));
    change(&store, "i", |writer| {
        train(writer, rows(&data, dim));
        writer.add(rows(&data, dim)).unwrap();
    });
    assert_eq!(reader(&store, "i").list_sizes().unwrap().iter().sum::<usize>(), 200);
    assert_sound(&store, "i");
}

/// Found here: half of a cluster at the end of the range of f32 was pushed to infinity, and the index that was
/// trained and committed could not be opened again ("a centroid is not finite").
#[test]
fn centroids_stay_finite_at_the_end_of_f32() {
    let dim = 4;
    for metric in METRICS {
        // Beyond 3.7e18 (NORM_MAX / √3) L2 and inner product refuse such rows by now.
        let largest = if metric == Metric::Cosine { f32::MAX } else { 3.7e18 };
        for big in [largest, largest / 2.0, 1e15] {
            let row = |i: usize| [big, -big, if i.is_multiple_of(3) { big } else { 1.0 }, 1.0];
            let data: Vec<f32> = (0..200).flat_map(row).collect();
            let store = memory();
            create(&store, "i", &spec("IVF16,Flat", dim, metric));
            change(&store, "i", |writer| {
                writer.add(rows(&data, dim)).unwrap();
                assert!(train(writer, rows(&data, dim)).iterations[0].splits >= 14);
            });
            assert_sound(&store, "i");
            let reader = reader(&store, "i");
            assert!(reader.centroids().unwrap().as_slice().iter().all(|v| v.is_finite()));
            assert_eq!(reader.search(&data[..dim], 1, &everywhere()).unwrap()[0].id, 0);
        }
    }
}

/// The same seed gives the same bits, another seed others; threads and what has no say here change nothing.
#[test]
fn seeds_decide_and_threads_do_not() {
    let sample = Sample::load("sift-10k");
    let some = sample.base().slice(0..4000);
    for (metric, init) in
        [(Metric::L2, Init::Random), (Metric::L2, Init::AfkMc2), (Metric::Cosine, Init::KMeansPlusPlus)]
    {
        let params = with(|c| (c.init, c.niter, c.seed) = (init, 4, 42));
        let mut first: Option<Vec<u32>> = None;
        for threads in [1, 2, 4, 2] {
            let store = in_memory(Store::builder().thread_pool(pool(threads)));
            create(&store, "i", &spec("IVF64,Flat", sample.dim, metric));
            change(&store, "i", |writer| writer.train(some, &params, &mut Observer::none()).unwrap());
            let centroids: Vec<u32> =
                reader(&store, "i").centroids().unwrap().as_slice().iter().map(|v| v.to_bits()).collect();
            assert!(*first.get_or_insert(centroids.clone()) == centroids, "{threads} threads");
        }
    }
    let train = |params: &TrainParams| trained("IVF16,Flat", Metric::L2, some.slice(0..1000), params).0;
    let first = train(&with(|c| c.seed = 1));
    assert_eq!(train(&with(|c| c.seed = 1)), first);
    assert_ne!(train(&with(|c| c.seed = 2)), first);
    // Rows are assigned exactly, so there is no assigner to rebuild.
    assert_eq!(train(&with(|c| (c.seed, c.update_index) = (1, true))), first);
}

#[test]
fn train_stored_draws_from_what_is_stored() {
    let dim = 4;
    let data = clusters(600, dim, 12, 92);
    let store = memory();
    create(&store, "i", &spec("IVF12,SQfp16,RFlat", dim, Metric::L2));
    change(&store, "i", |writer| writer.add(rows(&data, dim)).unwrap());
    let train = |params: &TrainParams| {
        change(&store, "i", |writer| writer.train_stored(params, &mut Observer::none()).unwrap());
        reader(&store, "i").centroids().unwrap().as_slice().to_vec()
    };
    let plus_plus = with(|c| c.init = Init::KMeansPlusPlus);
    let centroids = train(&plus_plus);
    assert!(objective(rows(&data, dim), &centroids) < 600.0, "trained on the kept rows");
    assert_eq!(train(&plus_plus), centroids, "what is stored did not change, so the training does not");
    let seeds = train(&TrainParams { sample_rows: Some(40), ..with(|c| c.niter = 0) });
    assert!(seeds.chunks(dim).all(|c| data.chunks(dim).any(|row| row == c)));
    // Found here: train_stored forgot how many rows it was asked to draw.
    assert_eq!(reader(&store, "i").training().unwrap().unwrap().sample_rows, Some(40));
}

// ---------------------------------------------------------------- where it begins

/// Given centroids are where k-means begins: with no iteration they are the first centroids, with some they have
/// moved to the means, and from the result of a training nothing moves any more.
#[test]
fn initial_centroids_are_where_it_begins() {
    let (dim, k) = (3, 8);
    let data = clusters(800, dim, k, 96);
    let given = reals(5, dim, 97);
    let begin = |initial: &[f32], params: TrainParams| {
        let params = TrainParams { initial: Some(initial.to_vec()), ..params };
        trained("IVF8,Flat", Metric::L2, rows(&data, dim), &params)
    };
    for init in [Init::Random, Init::KMeansPlusPlus, Init::AfkMc2] {
        let start = begin(&given, with(|c| (c.niter, c.init) = (0, init))).0;
        assert_eq!(start[..5 * dim], given);
        assert!(
            start[5 * dim..].chunks(dim).all(|c| data.chunks(dim).any(|row| row == c)),
            "the rest are rows"
        );
        let moved = begin(&given, with(|c| c.init = init)).0;
        assert!(objective(rows(&data, dim), &moved) < objective(rows(&data, dim), &start));
        assert!(moved.chunks(dim).zip(start.chunks(dim)).take(5).any(|(a, b)| a != b));
    }
    let (settled, _) = begin(&given, with(|c| c.niter = 100));
    let (again, report) = begin(&settled, with(|c| c.niter = 100));
    assert_eq!(
        (again, report.iterations.len()),
        (settled, 2),
        "the second iteration sees that nothing moved"
    );
    // As many rows as lists are copied, but not over what was given.
    let few = |initial| {
        let params = TrainParams { initial, ..with(|c| c.niter = 0) };
        trained("IVF8,Flat", Metric::L2, rows(&data, dim).slice(0..k), &params).0
    };
    assert_eq!(few(None), data[..k * dim]);
    assert_eq!(few(Some(given.clone()))[..5 * dim], given);
    // What is stored can be trained on from the same beginning.
    let store = memory();
    create(&store, "i", &spec("IVF8,Flat", dim, Metric::L2));
    change(&store, "i", |writer| {
        writer.add(rows(&data, dim)).unwrap();
        let params = TrainParams { initial: Some(given.clone()), ..with(|c| c.frozen_centroids = true) };
        writer.train_stored(&params, &mut Observer::none()).unwrap();
    });
    assert_eq!(reader(&store, "i").centroids().unwrap().as_slice()[..5 * dim], given);
    assert_sound(&store, "i");
}

/// FAISS's rule: the centroids given stay as they are, the others move. Rows, lists and searches know no difference.
#[test]
fn frozen_centroids_stay() {
    let (dim, k) = (4, 9);
    let data = clusters(900, dim, k, 98);
    for metric in METRICS {
        let given = reals(4, dim, 99);
        let unit = |row: &[f32]| {
            let norm = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
            row.iter().map(|v| (f64::from(*v) / norm) as f32).collect::<Vec<_>>()
        };
        // For similarities a centroid is a direction, a given one too.
        let expected: Vec<f32> = match metric {
            Metric::L2 => given.clone(),
            _ => given.chunks(dim).flat_map(unit).collect(),
        };
        for nredo in [1, 3] {
            let params = TrainParams {
                initial: Some(given.clone()),
                ..with(|c| (c.frozen_centroids, c.nredo) = (true, nredo))
            };
            let (centroids, report) = trained("IVF9,Flat", metric, rows(&data, dim), &params);
            let off = centroids.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(off <= if metric == Metric::L2 { 0.0 } else { 1e-7 }, "{metric}: {off}");
            let [first, last] =
                [report.iterations[0], *report.iterations.last().unwrap()].map(|i| i.objective);
            assert!(
                if metric.is_similarity() { last > first } else { last < first },
                "{metric}: the others moved"
            );
        }
        // All of them given and frozen: nothing is left to train, and the lists are theirs.
        let all = reals(k, dim, 100);
        let store = memory();
        create(&store, "i", &spec("IVF9,Flat", dim, metric));
        let oracle = change(&store, "i", |writer| {
            let oracle = live_in(writer, rows(&data, dim));
            let params = TrainParams { initial: Some(all.clone()), ..with(|c| c.frozen_centroids = true) };
            writer.train(rows(&data, dim), &params, &mut Observer::none()).unwrap();
            oracle
        });
        if metric == Metric::L2 {
            assert_eq!(reader(&store, "i").centroids().unwrap().as_slice(), all);
        }
        assert_close(
            &reader(&store, "i").search(&data[..dim], 40, &everywhere()).unwrap(),
            &oracle.all(&data[..dim]),
            metric,
            "frozen",
        );
        assert_sound(&store, "i");
    }
}

#[test]
fn initial_centroids_that_are_none() {
    let (dim, store) = (3, memory());
    let data = reals(100, dim, 101);
    create(&store, "i", &spec("IVF4,Flat", dim, Metric::Cosine));
    change(&store, "i", |writer| writer.add(rows(&data, dim)).unwrap());
    let before = state(&reader(&store, "i"));
    change(&store, "i", |writer| {
        let mut train = |initial: Option<Vec<f32>>, frozen_centroids| {
            let params = TrainParams { initial, ..with(|c| c.frozen_centroids = frozen_centroids) };
            writer.train(rows(&data, dim), &params, &mut Observer::none()).unwrap_err()
        };
        let zero = train(Some(vec![1.0, 1.0, 1.0, 0.0, 0.0, 0.0]), true);
        assert!(matches!(zero, Error::ZeroVector { row: 1 }));
        assert!(matches!(train(Some(vec![1.0; 4]), false), Error::Shape { len: 4, dim: 3 }));
        let nan = train(Some(vec![1.0, 1.0, 1.0, 1.0, f32::NAN, 1.0]), false);
        assert!(matches!(nan, Error::NotFinite { row: 1, component: 1, .. }));
        assert!(matches!(train(Some(vec![1.0; 15]), false), Error::Parameter { name: "initial", .. }));
        for none in [None, Some(Vec::new())] {
            assert!(matches!(train(none, true), Error::Parameter { name: "frozen_centroids", .. }));
        }
    });
    assert_eq!(state(&reader(&store, "i")), before);
}

/// Not checking rows lets k-means meet NaN and infinity: by itself it gives meaningless numbers without a panic, and
/// what is not finite never gets into an index.
#[test]
fn rows_that_are_not_checked() {
    let (dim, n) = (3, 200);
    for value in [f32::NAN, f32::INFINITY, f32::MAX] {
        for metric in METRICS {
            for init in [Init::Random, Init::KMeansPlusPlus, Init::AfkMc2] {
                let mut data = reals(n, dim, 102);
                (0..n).step_by(7).for_each(|row| data[row * dim + 1] = value);
                let lax = with(|c| (c.init, c.check_finite) = (init, false));
                let found = kmeans(rows(&data, dim), 5, metric, &lax.clustering, None, &mut Observer::none())
                    .unwrap();
                assert_eq!(found.centroids.len(), 5 * dim);
                let strict = with(|c| c.init = init);
                let checked =
                    kmeans(rows(&data, dim), 5, metric, &strict.clustering, None, &mut Observer::none());
                assert_eq!(checked.is_ok(), value.is_finite(), "{value} {metric}");
                let store = memory();
                create(&store, "i", &spec("IVF5,Flat", dim, metric));
                let trained =
                    change(&store, "i", |writer| writer.train(rows(&data, dim), &lax, &mut Observer::none()));
                match trained {
                    Ok(_) => assert!(
                        reader(&store, "i").centroids().unwrap().as_slice().iter().all(|v| v.is_finite())
                    ),
                    Err(Error::Parameter { name: "check_finite", .. }) => {
                        assert!(!reader(&store, "i").is_trained())
                    }
                    Err(e) => panic!("{e}"),
                }
            }
        }
    }
}

/// What trains an index is there to be used alone, and does the same.
#[test]
fn kmeans_by_itself_is_what_trains() {
    let (dim, n) = (5, 700);
    let data = reals(n, dim, 103);
    for metric in METRICS {
        let params = with(|c| (c.spherical, c.init) = (None, Init::AfkMc2));
        let given = reals(2, dim, 104);
        let alone = |params: &ClusteringParams, given| {
            kmeans(rows(&data, dim), 7, metric, params, given, &mut Observer::none()).unwrap()
        };
        let found = alone(&params.clustering, Some(rows(&given, dim)));
        let with_given = TrainParams { initial: Some(given.clone()), ..params.clone() };
        let (centroids, report) = trained("IVF7,Flat", metric, rows(&data, dim), &with_given);
        assert_eq!(found.centroids, centroids);
        assert_eq!((found.objective, found.sampled_rows, found.few_points), (report.objective, n, false));
        let unit = |c: &[f32]| (c.iter().map(|v| v * v).sum::<f32>() - 1.0).abs() < 1e-5;
        assert_eq!(found.centroids.chunks(dim).all(unit), metric.is_similarity());
    }
}

// ---------------------------------------------------------------- who assigns

/// Exact assignment in f64, ties to the lower centroid; counts what it is asked.
#[derive(Default)]
struct Assigner {
    centroids: Vec<f32>,
    rebuilt: usize,
    updates: usize,
    rows: usize,
    answer: Option<u32>,
}

impl ClusteringIndex for Assigner {
    fn update(&mut self, centroids: Rows<'_>, rebuild: bool) -> Result<()> {
        self.centroids = centroids.as_slice().to_vec();
        self.updates += 1;
        self.rebuilt += usize::from(rebuild);
        Ok(())
    }

    fn assign(&mut self, rows: Rows<'_>, nearest: &mut [u32]) -> Result<()> {
        self.rows += rows.len();
        for (row, nearest) in rows.iter().zip(nearest) {
            let far = |c: &[f32]| -> f64 { c.iter().zip(row).map(|(c, r)| f64::from(c - r).powi(2)).sum() };
            let all = self.centroids.chunks(rows.dim()).map(far).zip(0..);
            let best = all.min_by(|a: &(f64, u32), b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            *nearest = self.answer.unwrap_or(best.unwrap().1);
        }
        Ok(())
    }
}

/// One that assigns as k-means does must find its centroids; tight clusters leave no tie to rounding.
#[test]
fn an_assigner_of_the_callers_decides_who_belongs_where() {
    let (dim, k) = (6, 12);
    let data = clusters(400, dim, k, 90);
    for (params, metric) in [
        (with(|c| c.nredo = 2), Metric::L2),
        (with(|c| c.update_index = true), Metric::L2),
        (with(|c| c.max_points_per_centroid = 20), Metric::L2),
        (with(|c| c.niter = 3), Metric::L1),
    ] {
        let params = params.clustering;
        let (mut assigner, mut none) = (Assigner::default(), Observer::none());
        // One of each cluster.
        let first = Some(rows(&data[..k * dim], dim));
        let data = rows(&data, dim);
        let expected = kmeans(data, k, metric, &params, first, &mut none).unwrap();
        let found = kmeans_with(data, k, metric, &params, first, &mut assigner, &mut none).unwrap();
        assert_eq!(found.centroids, expected.centroids);
        assert_eq!(found.sampled_rows, expected.sampled_rows);
        let close = (found.objective - expected.objective).abs() < 1e-2 * expected.objective.abs();
        assert!(close, "{} {}", found.objective, expected.objective);
        assert_eq!(assigner.rows, assigner.updates * found.sampled_rows);
        let rebuilt = if params.update_index { assigner.updates } else { params.nredo };
        assert_eq!(assigner.rebuilt, rebuilt);
    }
    let store = memory();
    create(&store, "i", &spec("PCA4,IVF12,SQ8", dim, Metric::L2));
    create(&store, "j", &spec("PCA4,IVF12,SQ8", dim, Metric::L2));
    let params = TrainParams { initial: Some(data[..k * dim].to_vec()), ..TrainParams::default() };
    change(&store, "i", |writer| writer.train(rows(&data, dim), &params, &mut Observer::none()).unwrap());
    let report = change(&store, "j", |writer| {
        let mut own = Assigner::default();
        writer.train_with_assigner(rows(&data, dim), &params, &mut own, &mut Observer::none()).unwrap()
    });
    assert!(!report.iterations.is_empty());
    let centroids = |name| reader(&store, name).centroids().unwrap().as_slice().to_vec();
    assert_eq!(centroids("i"), centroids("j"));
}

#[test]
fn an_assigner_that_names_no_centroid_is_refused() {
    let data = reals(50, 3, 91);
    let mut own = Assigner { answer: Some(5), ..Assigner::default() };
    let params = ClusteringParams::default();
    let refused = kmeans_with(rows(&data, 3), 5, Metric::L2, &params, None, &mut own, &mut Observer::none());
    assert!(matches!(refused, Err(Error::Parameter { name: "clustering_index", .. })));
}

/// Vectors of another index, by id or as codes: what training by those vectors gives.
#[test]
fn encoded_vectors_train_as_what_they_decode_to() {
    let dim = 8;
    let data = reals(900, dim, 92);
    let store = memory();
    for name in ["source", "a", "b", "c"] {
        create(&store, name, &spec("IVF4,SQ8", dim, Metric::L2));
    }
    change(&store, "source", |writer| {
        train(writer, rows(&data, dim));
        writer.add(rows(&data, dim)).unwrap();
    });
    let source = reader(&store, "source");
    let (ids, mut observer) = (source.ids().unwrap(), Observer::none());
    let none = &mut observer;
    let codes = source.encode(rows(&data, dim)).unwrap();
    let decoded = source.reconstruct_batch(&ids).unwrap();
    assert_eq!(source.decode(&codes).unwrap(), decoded);
    let all = TrainParams::default();
    change(&store, "a", |writer| writer.train_from(&source, &all, none).unwrap());
    change(&store, "b", |writer| writer.train_encoded(&source, &codes, &all, none).unwrap());
    change(&store, "c", |writer| writer.train(rows(&decoded, dim), &all, none).unwrap());
    let fingerprint = |name| reader(&store, name).fingerprint();
    assert_eq!(fingerprint("a"), fingerprint("b"));
    // All rows, whatever their order among themselves: k-means draws by place, so centroids are compared by their objective.
    let far = |name| objective(rows(&decoded, dim), reader(&store, name).centroids().unwrap().as_slice());
    assert!((far("a") / far("c") - 1.0).abs() < 0.1, "{} {}", far("a"), far("c"));
    let few = with(|c| c.seed = 5);
    let few = TrainParams { sample_rows: Some(50), ..few };
    for name in ["a", "b"] {
        let report = change(&store, name, |writer| match name {
            "a" => writer.train_from(&source, &few, none).unwrap(),
            _ => writer.train_encoded(&source, &codes, &few, none).unwrap(),
        });
        assert_eq!(report.rows, 50);
    }
    assert_eq!(fingerprint("a"), fingerprint("b"));
    let cut =
        change(&store, "a", |writer| writer.train_encoded(&source, &codes[1..], &all, none).map(|_| ()));
    assert!(matches!(cut, Err(Error::Length { .. })));
}
