//! Each transform against its formula in plain loops, the way back, bytes, and what must not matter: company, threads.

use super::gaussian::Gaussian;
use super::*;
use crate::kernel::Similarity;
use crate::math::kmeans::{ClusteringParams, cluster};
use crate::math::linalg::Panels;

fn kind(text: &str) -> TransformKind {
    text.parse().unwrap()
}

fn train(text: &str, rows: &[f32], dim: usize) -> Trained {
    Trained::train(kind(text), Rows::of(rows, dim), 7, &mut Observer::none()).unwrap()
}

fn apply(transform: &Trained, rows: &[f32]) -> Vec<f32> {
    let mut out = vec![9.0; 3];
    transform.apply(Rows::of(rows, transform.dim_in()), &mut out);
    out
}

fn reverse(transform: &Trained, rows: &[f32]) -> Vec<f32> {
    let mut out = vec![9.0; 3];
    transform.reverse(Rows::of(rows, transform.dim_out()), &mut out);
    out
}

fn gaussian(n: usize, dim: usize, seed: u64) -> Vec<f32> {
    let mut gaussian = Gaussian::new(seed);
    (0..n * dim).map(|_| gaussian.draw() as f32).collect()
}

/// Components that depend on each other, vary unequally, and have a mean: a random matrix of fast falling weights.
fn correlated(n: usize, dim: usize, seed: u64) -> Vec<f32> {
    let mix = gaussian(dim, dim, 99);
    let mut gaussian = Gaussian::new(seed);
    let mut rows = Vec::with_capacity(n * dim);
    for _ in 0..n {
        let hidden: Vec<f32> = (0..dim).map(|j| gaussian.draw() as f32 / (1.0 + j as f32 / 2.0)).collect();
        for mix in mix.chunks_exact(dim) {
            rows.push(3.0 + mix.iter().zip(&hidden).map(|(m, h)| m * h).sum::<f32>());
        }
    }
    rows
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0.0, |most, (a, b)| most.max((a - b).abs()))
}

fn squared(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a - b) * f64::from(a - b)).sum()
}

fn matrix(transform: &Trained) -> &Matrix {
    match &transform.map {
        Map::Linear(linear) => &linear.forward,
        _ => panic!("no matrix"),
    }
}

/// The covariance of rows, in plain loops.
fn covariance(rows: &[f32], dim: usize) -> Vec<f64> {
    let n = (rows.len() / dim) as f64;
    let mean = super::mean(Rows::of(rows, dim));
    let mut out = vec![0.0; dim * dim];
    for row in rows.chunks_exact(dim) {
        for i in 0..dim {
            for j in 0..dim {
                out[i * dim + j] += (f64::from(row[i]) - mean[i]) * (f64::from(row[j]) - mean[j]) / n;
            }
        }
    }
    out
}

/// All kinds that take 24 components.
const ALL: [&str; 23] = [
    "RR",
    "RR9",
    "RR40",
    "HR",
    "PCA24",
    "PCA5",
    "PCAR5",
    "PCAW5",
    "PCAWR5",
    "PCAW24",
    "PCAR24^0.5",
    "PCA6^-0.25",
    "OPQ4",
    "OPQ4_8",
    "OPQ4_40",
    "ITQ",
    "ITQ8",
    "L2norm",
    "Center",
    "Pad30",
    "Trunc9",
    "Remap50",
    "Remap7",
];
const DIM: usize = 24;

#[test]
fn bytes_give_the_same_transform_and_wrong_bytes_give_none() {
    let rows = correlated(700, DIM, 1);
    for text in ALL {
        let trained = train(text, &rows, DIM);
        assert_eq!(kind(text).dim_out(DIM), Ok(trained.dim_out()));
        let bytes = trained.to_bytes();
        assert_eq!(stored_bytes(kind(text), DIM), Ok(bytes.len()));
        let again = Trained::from_bytes(kind(text), DIM, &bytes).unwrap();
        let images = apply(&trained, &rows);
        assert_eq!(bits(&apply(&again, &rows)), bits(&images), "{text}");
        assert_eq!(bits(&reverse(&again, &images)), bits(&reverse(&trained, &images)), "{text}");
        let refused = |bytes: &[u8]| Trained::from_bytes(kind(text), DIM, bytes).is_err();
        assert!(refused(&[&bytes[..], &[0]].concat()) && refused(&[&bytes[..], &[0; 4]].concat()));
        assert!(
            bytes.is_empty() || refused(&bytes[1..]) && refused(&bytes[..bytes.len() - 4]) && refused(&[])
        );
        for at in (0..bytes.len()).step_by(4).filter(|_| text != "HR") {
            let mut bytes = bytes.clone();
            bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
            assert!(refused(&bytes), "{text} {at}");
        }
    }
    for text in ["RR", "OPQ4", "ITQ8", "PCA5"] {
        let mut bytes = train(text, &rows, DIM).to_bytes();
        let last = bytes.len() - 4;
        bytes[last..].copy_from_slice(&1.5f32.to_le_bytes());
        assert!(Trained::from_bytes(kind(text), DIM, &bytes).is_err(), "{text}");
    }
    assert!(Trained::from_bytes(kind("RR8192"), usize::MAX, &[]).is_err());
}

/// Breaks if a row's image depends on its block, its tile or the thread: a stored row would not be found by itself.
#[test]
fn company_and_threads_do_not_matter() {
    let rows = correlated(1000, DIM, 2);
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    for text in ALL {
        let trained = pool(1).install(|| train(text, &rows, DIM));
        assert_eq!(pool(3).install(|| train(text, &rows, DIM)).to_bytes(), trained.to_bytes(), "{text}");
        let many = rows.repeat(30);
        let images = pool(1).install(|| apply(&trained, &many));
        assert_eq!(bits(&pool(3).install(|| apply(&trained, &many))), bits(&images), "{text}");
        let back = apply_alone(&images, trained.dim_out(), |row| reverse(&trained, row));
        assert_eq!(bits(&reverse(&trained, &images)[..back.len()]), bits(&back), "{text} back");
        let alone = apply_alone(&many, DIM, |row| apply(&trained, row));
        assert_eq!(bits(&images[..alone.len()]), bits(&alone), "{text}");
        assert!(images.iter().all(|value| value.to_bits() != (-0.0f32).to_bits()), "{text}");
    }
}

/// The first rows one at a time.
fn apply_alone(rows: &[f32], dim: usize, apply: impl Fn(&[f32]) -> Vec<f32>) -> Vec<f32> {
    rows.chunks_exact(dim).take(300).flat_map(apply).collect()
}

#[test]
fn the_way_back_leads_back_where_nothing_is_lost() {
    let rows = correlated(700, DIM, 3);
    for text in ALL.into_iter().filter(|text| kind(text).keeps_distances(DIM)).chain(["PCAW24", "PCAR24^0.5"])
    {
        let trained = train(text, &rows, DIM);
        let images = apply(&trained, &rows);
        let off = distance(&reverse(&trained, &images), &rows);
        // Scaling makes errors of the longest directions errors of the shortest.
        let allowed = if kind(text).keeps_distances(DIM) { 1e-4 } else { 1e-3 };
        assert!(off < allowed, "{text}: {off}");
        let d = trained.dim_out();
        for (i, j) in [(0, 1), (5, 99), (600, 601)].into_iter().filter(|_| kind(text).keeps_distances(DIM)) {
            let before = squared(&rows[i * DIM..][..DIM], &rows[j * DIM..][..DIM]);
            let after = squared(&images[i * d..][..d], &images[j * d..][..d]);
            assert!((before - after).abs() < 1e-5 * before, "{text}: {before} {after}");
        }
    }
}

/// What was lost is lost once: an image that came back has the image that it had.
#[test]
fn there_and_back_again_is_there() {
    let rows = correlated(700, DIM, 3);
    for text in ["RR9", "PCA5", "PCAR5", "PCAW5", "PCAWR5", "PCA6^-0.25", "OPQ4_8", "L2norm", "Remap7"] {
        let trained = train(text, &rows, DIM);
        let images = apply(&trained, &rows);
        let off = distance(&apply(&trained, &reverse(&trained, &images)), &images);
        assert!(off < 1e-4, "{text}: {off}");
    }
}

#[test]
fn matrices_are_orthonormal() {
    let rows = correlated(700, DIM, 4);
    for text in ["RR", "RR9", "RR40", "PCA24", "PCA5", "PCAR5", "OPQ4", "OPQ4_8", "OPQ4_40", "ITQ", "ITQ8"] {
        let trained = train(text, &rows, DIM);
        let transposed = matrix(&trained).transposed();
        let (rows, dim) = match trained.dim_out() > DIM {
            true => (transposed.values(), trained.dim_out()),
            false => (matrix(&trained).values(), DIM),
        };
        for (i, a) in rows.chunks_exact(dim).enumerate() {
            for (j, b) in rows.chunks_exact(dim).enumerate() {
                let product: f64 = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                assert!((product - f64::from(u8::from(i == j))).abs() < 1e-5, "{text} {i} {j}: {product}");
            }
        }
    }
}

/// Two components, for which there is a formula: variances 9 and 1 along directions turned by 30 degrees.
#[test]
fn main_directions_are_those_that_were_put_in() {
    let (sin, cos) = std::f32::consts::FRAC_PI_6.sin_cos();
    let rows: Vec<f32> = (0..2000)
        .flat_map(|i| {
            // Both are of variance 1 and without correlation, exactly.
            let angle = std::f64::consts::TAU * f64::from(i) / 2000.0;
            let root = std::f64::consts::SQRT_2;
            let (a, b) = ((3.0 * root * angle.cos()) as f32, (root * angle.sin()) as f32);
            [5.0 + cos * a - sin * b, -2.0 + sin * a + cos * b]
        })
        .collect();
    let pca = train("PCA2", &rows, 2);
    let off = distance(matrix(&pca).values(), &[cos, sin, -sin, cos]);
    assert!(off < 1e-5, "{off}");
    assert!(distance(&apply(&pca, &[5.0, -2.0]), &[0.0, 0.0]) < 1e-5);
    let whitened = train("PCAW2", &rows, 2);
    assert!(distance(matrix(&whitened).values(), &[cos / 3.0, sin / 3.0, -sin, cos]) < 1e-5);
    let scaled = train("PCA2^0.5", &rows, 2);
    assert!(distance(matrix(&scaled).values(), &[cos * 3.0, sin * 3.0, -sin, cos]) < 1e-5);
}

#[test]
fn images_of_pca_vary_as_they_should() {
    let rows = correlated(3000, DIM, 5);
    let varies = |text: &str| covariance(&apply(&train(text, &rows, DIM), &rows), 8);
    let plain = varies("PCA8");
    for i in 0..8 {
        for j in 0..8 {
            let size = if i == j { 0.0 } else { plain[i * 8 + j].abs() };
            assert!(size < 1e-4 * plain[0], "{i} {j}: {size}");
            let one = f64::from(u8::from(i == j));
            assert!((varies("PCAW8")[i * 8 + j] - one).abs() < 1e-3, "{i} {j}");
            assert!((varies("PCAWR8")[i * 8 + j] - one).abs() < 1e-3, "{i} {j}");
        }
        assert!(i == 0 || plain[i * 9] <= plain[(i - 1) * 9]);
    }
    // Whatever the directions, together they vary by the sum of the largest values, and a rotation changes nothing of that.
    let trace = |of: &[f64]| (0..8).map(|i| of[i * 9]).sum::<f64>();
    assert!((trace(&varies("PCAR8")) - trace(&plain)).abs() < 1e-4 * trace(&plain));
    let left_out: f64 = (0..3000)
        .map(|i| i * DIM)
        .map(|at| {
            let pca = train_once(&rows);
            squared(&reverse(pca, &apply(pca, &rows[at..at + DIM])), &rows[at..at + DIM])
        })
        .sum::<f64>()
        / 3000.0;
    let all: f64 = (0..DIM).map(|i| covariance_once(&rows)[i * (DIM + 1)]).sum();
    assert!((all - trace(&plain) - left_out).abs() < 1e-3 * all, "{all} {} {left_out}", trace(&plain));
}

fn train_once(rows: &[f32]) -> &'static Trained {
    static PCA: OnceLock<Trained> = OnceLock::new();
    PCA.get_or_init(|| train("PCA8", rows, DIM))
}

fn covariance_once(rows: &[f32]) -> &'static [f64] {
    static COVARIANCE: OnceLock<Vec<f64>> = OnceLock::new();
    COVARIANCE.get_or_init(|| covariance(rows, DIM))
}

/// A component that is constant, and two that are the same, have no variance of their own: whitening must not blow up what
/// rounding leaves of it.
#[test]
fn directions_without_variance_are_left_out_by_whitening() {
    let mut rows = correlated(2000, 8, 6);
    for row in rows.chunks_exact_mut(8) {
        row[3] = 7.5;
        row[6] = row[1];
    }
    for text in ["PCAW8", "PCAWR8"] {
        let whitened = train(text, &rows, 8);
        let images = apply(&whitened, &rows);
        let trace: f64 = (0..8).map(|i| covariance(&images, 8)[i * 9]).sum();
        assert!((trace - 6.0).abs() < 1e-2, "{text}: {trace}");
        assert!(distance(&reverse(&whitened, &images), &rows) < 1e-3);
    }
}

/// The mean squared error of a product quantiser of 8 bits.
fn error_of_pq(rows: &[f32], dim: usize, subspaces: usize) -> f64 {
    let (width, mut error) = (dim / subspaces, 0.0);
    for m in 0..subspaces {
        let part: Vec<f32> =
            rows.chunks_exact(dim).flat_map(|row| row[m * width..][..width].to_vec()).collect();
        let (part, params) = (Rows::of(&part, width), ClusteringParams { niter: 15, ..Default::default() });
        let none = &mut Observer::none();
        let found = cluster(part, 256, Similarity::L2, &params, None, none).unwrap();
        let (mut columns, mut scores) = (vec![0; part.len()], vec![0.0; part.len()]);
        let panels = Panels::new(Rows::of(&found.centroids, width));
        panels.nearest_par(Similarity::L2, part, &mut columns, &mut scores);
        error += scores.iter().map(|&score| f64::from(score)).sum::<f64>();
    }
    error / (rows.len() / dim) as f64
}

/// 6,000 rows of 24 correlated components in 6 sub-spaces. OPQ was trained on them, so this is what it minimises.
#[test]
fn opq_makes_the_error_of_a_product_quantiser_small() {
    let rows = correlated(6000, DIM, 8);
    let before = error_of_pq(&rows, DIM, 6);
    let after = error_of_pq(&apply(&train("OPQ6", &rows, DIM), &rows), DIM, 6);
    let random = error_of_pq(&apply(&train("RR", &rows, DIM), &rows), DIM, 6);
    assert!(after < 0.8 * before && after < 0.8 * random, "{after} of {before}, {random}");
}

/// How far the components are from their signs, where all are scaled as one.
fn error_of_signs(rows: &[f32]) -> f64 {
    let n = rows.len() as f64;
    let absolute = rows.iter().map(|&v| f64::from(v.abs())).sum::<f64>() / n;
    let square = rows.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>() / n;
    1.0 - absolute * absolute / square
}

#[test]
fn itq_brings_vectors_nearer_to_their_signs() {
    let rows = correlated(3000, DIM, 9);
    let centred = apply(&train("Center", &rows, DIM), &rows);
    let unit = apply(&train("L2norm", &centred, DIM), &centred);
    let before = error_of_signs(&unit);
    let random = error_of_signs(&apply(&train("RR", &unit, DIM), &unit));
    let itq = error_of_signs(&apply(&train("ITQ", &rows, DIM), &rows));
    assert!(itq < before && itq < 0.95 * random, "{itq} of {before}, {random}");
    // In 8 main directions.
    let main = apply(&train("PCA8", &unit, DIM), &unit);
    let itq = error_of_signs(&apply(&train("ITQ8", &rows, DIM), &rows));
    assert!(itq < error_of_signs(&main), "{itq} of {}", error_of_signs(&main));
}

#[test]
fn simple_transforms_do_what_they_say() {
    let rows = [3.0, 4.0, 0.0, 0.0, -6.0, 8.0];
    assert!(distance(&apply(&train("L2norm", &rows, 2), &rows), &[0.6, 0.8, 0.0, 0.0, -0.6, 0.8]) < 1e-7);
    assert_eq!(apply(&train("Center", &rows, 2), &rows), [4.0, 0.0, 1.0, -4.0, -5.0, 4.0]);
    assert_eq!(apply(&train("Pad3", &rows, 2), &rows[..4]), [3.0, 4.0, 0.0, 0.0, 0.0, 0.0]);
    assert_eq!(apply(&train("Pad1", &rows, 2), &rows), rows);
    assert_eq!(apply(&train("Trunc2", &rows, 3), &rows), [3.0, 4.0, 0.0, -6.0]);
    assert_eq!(reverse(&train("Trunc2", &rows, 3), &[3.0, 4.0]), [3.0, 4.0, 0.0]);
    assert!(kind("Trunc4").dim_out(3).is_err() && kind("Trunc0").dim_out(3).is_err());
    assert_eq!(apply(&train("Remap5", &rows, 2), &[1.0, 2.0]), [1.0, 0.0, 2.0, 0.0, 0.0]);
    assert_eq!(apply(&train("Remap2", &rows, 6), &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), [1.0, 4.0]);
    assert_eq!(reverse(&train("Remap2", &rows, 6), &[1.0, 4.0]), [1.0, 0.0, 0.0, 4.0, 0.0, 0.0]);
    assert_eq!(reverse(&train("L2norm", &rows, 2), &rows), rows);
}

/// One row, rows that are all the same, one component, and components as large and as small as they may be.
#[test]
fn tiny_and_extreme_inputs_give_finite_images() {
    for text in
        ["RR", "RR3", "HR", "PCA1", "PCAR1", "PCAW1", "OPQ1", "OPQ1_3", "ITQ", "ITQ1", "L2norm", "Center"]
    {
        for rows in [vec![2.0], vec![0.0; 3], vec![1.0, -1.0, 5.0]] {
            let trained = train(text, &rows, 1);
            let back = reverse(&trained, &apply(&trained, &rows));
            assert!(back.iter().all(|value| value.is_finite()), "{text} {rows:?}: {back:?}");
        }
    }
    let largest = crate::NORM_MAX / (DIM as f32).sqrt();
    for size in [largest, 1e-20, 1e-38] {
        let mut rows = gaussian(300, DIM, 11);
        rows.iter_mut().for_each(|value| *value = value.clamp(-1.0, 1.0) * size);
        for text in ALL {
            let trained = train(text, &rows, DIM);
            let images = apply(&trained, &rows);
            let back = reverse(&trained, &images);
            assert!(images.iter().chain(&back).all(|value| value.is_finite()), "{text} {size}");
            if kind(text).keeps_distances(DIM) && size > 1e-30 {
                assert!(
                    distance(&back, &rows) < 1e-4 * size,
                    "{text} {size}: {}",
                    distance(&back, &rows) / size
                );
            }
        }
    }
}

#[test]
fn fewer_rows_than_components_or_points_are_enough() {
    for n in [1, 3, 10] {
        let rows = correlated(n, DIM, 12);
        for text in ALL {
            let trained = train(text, &rows, DIM);
            assert!(apply(&trained, &rows).iter().all(|value| value.is_finite()), "{text} of {n}");
            if kind(text).keeps_distances(DIM) {
                let off = distance(&reverse(&trained, &apply(&trained, &rows)), &rows);
                assert!(off < 1e-4, "{text} of {n}: {off}");
            }
        }
    }
}

#[test]
fn what_cannot_be_trained_is_refused() {
    let train = |text: &str, rows: &[f32]| {
        Trained::train(kind(text), Rows::of(rows, 2), 1, &mut Observer::none()).map(|_| ())
    };
    for text in ["PCA1", "OPQ1", "ITQ", "Center"] {
        assert!(matches!(train(text, &[]), Err(Error::TooFewRows { rows: 0, needed: 1 })), "{text}");
        assert!(matches!(train(text, &[1.0, f32::NAN]), Err(Error::NotFinite { .. })), "{text}");
    }
    assert!(matches!(train("PCA3", &[1.0, 2.0]), Err(Error::Spec { .. })));
    assert!(train("RR", &[]).is_ok() && train("HR", &[]).is_ok() && train("Pad7", &[]).is_ok());
    // Cancelled at the first tick and at a later one.
    let rows = correlated(400, 4, 1);
    for text in ["PCA2", "OPQ2", "ITQ", "ITQ2"] {
        for last in [0, 1] {
            let mut ticks = 0;
            let mut stop = |_| {
                ticks += 1;
                if ticks > last {
                    std::ops::ControlFlow::Break(())
                } else {
                    std::ops::ControlFlow::Continue(())
                }
            };
            let observer = &mut Observer::new(&mut stop);
            let trained = Trained::train(kind(text), Rows::of(&rows, 4), 1, observer);
            assert!(matches!(trained, Err(Error::Cancelled)), "{text} {last}");
        }
    }
}

#[test]
fn a_seed_gives_one_transform_and_another_seed_another() {
    let rows = correlated(400, DIM, 13);
    for text in ["RR", "HR", "PCAR5", "OPQ4", "ITQ"] {
        let with = |seed| {
            let trained = Trained::train(kind(text), Rows::of(&rows, DIM), seed, &mut Observer::none());
            trained.unwrap().to_bytes()
        };
        assert!(with(1) == with(1) && with(1) != with(2), "{text}");
    }
}

#[test]
fn a_chain_is_its_links_one_after_the_other() {
    let rows = correlated(600, DIM, 14);
    let kinds = ["L2norm", "PCA12", "Pad16", "OPQ4_8", "HR"].map(kind);
    let chain = Chain::train(&kinds, Rows::of(&rows, DIM), 3, &mut Observer::none()).unwrap();
    assert_eq!((chain.dim_in(), chain.dim_out(), chain.links().len()), (DIM, 8, 5));
    let (mut images, mut back) = (Vec::new(), Vec::new());
    chain.apply(Rows::of(&rows, DIM), &mut images);
    chain.reverse(Rows::of(&images, 8), &mut back);
    let by_hand = chain.links().iter().fold(rows.clone(), |rows, link| apply(link, &rows));
    assert_eq!(bits(&images), bits(&by_hand));
    let by_hand = chain.links().iter().rev().fold(images.clone(), |rows, link| reverse(link, &rows));
    assert_eq!((bits(&back), back.len()), (bits(&by_hand), rows.len()));
    let bytes = chain.to_bytes();
    let again = Chain::from_bytes(&kinds, DIM, &bytes).unwrap();
    assert_eq!(again.to_bytes(), bytes);
    let mut others = Vec::new();
    again.apply(Rows::of(&rows, DIM), &mut others);
    assert_eq!(bits(&others), bits(&images));
    for len in [0, 1, bytes.len() / 2, bytes.len() - 1] {
        assert!(Chain::from_bytes(&kinds, DIM, &bytes[..len]).is_err());
    }
    assert!(Chain::from_bytes(&kinds, DIM, &[&bytes[..], &[0]].concat()).is_err());
    assert!(Chain::from_bytes(&kinds, DIM + 1, &bytes).is_err());
    assert!(Chain::from_bytes(&["PCA30"].map(kind), DIM, &bytes).is_err());
}

#[test]
fn progress_of_a_chain_never_falls() {
    let rows = correlated(400, DIM, 16);
    let mut ticks: Vec<(u64, u64)> = Vec::new();
    let mut watch = |tick: crate::Tick| {
        ticks.push((tick.done, tick.total));
        std::ops::ControlFlow::Continue(())
    };
    let kinds = ["PCA12", "RR", "ITQ8", "OPQ4"].map(kind);
    Chain::train(&kinds, Rows::of(&rows, DIM), 3, &mut Observer::new(&mut watch)).unwrap();
    assert!(
        ticks.len() > 100 && ticks.is_sorted() && ticks.iter().all(|tick| tick.0 <= 400 && tick.1 == 400)
    );
}

#[test]
fn a_chain_of_nothing_changes_nothing() {
    let rows = correlated(3, DIM, 15);
    let chain = Chain::train(&[], Rows::of(&rows, DIM), 3, &mut Observer::none()).unwrap();
    let mut out = vec![1.0];
    chain.apply(Rows::of(&rows, DIM), &mut out);
    assert_eq!((&out, chain.dim_out()), (&rows, DIM));
    chain.reverse(Rows::of(&rows, DIM), &mut out);
    assert_eq!(out, rows);
    assert!(chain.to_bytes().is_empty() && Chain::from_bytes(&[], DIM, &[]).is_ok());
}

#[test]
fn samples_are_as_large_as_the_hungriest_link_wants() {
    let rows =
        |kinds: &[&str]| Chain::training_rows(&kinds.iter().map(|text| kind(text)).collect::<Vec<_>>(), DIM);
    assert_eq!(rows(&[]), Some(0));
    assert_eq!(rows(&["RR", "HR"]), Some(0));
    assert_eq!(rows(&["RR", "ITQ"]), Some(32_768));
    assert_eq!(rows(&["PCA8", "OPQ4"]), Some(65_536));
    assert_eq!(rows(&["Pad4000", "ITQ8"]), Some(40_000));
    assert_eq!(rows(&["PCA8", "Center"]), None);
}

/// FAISS's matrices give FAISS's images, and main directions found from the same rows are FAISS's but for their signs.
#[test]
fn images_are_those_of_faiss() {
    use crate::fixtures::floats;
    let (dim, base) = (32, floats("shared.both.base"));
    let near = |a: &[f32], b: &[f32], what: &str| {
        assert_eq!(a.len(), b.len(), "{what}");
        let largest = b.iter().fold(0.0f32, |most, v| most.max(v.abs()));
        let off = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(off <= 1e-4 * largest, "{what}: {off} of {largest}");
    };
    for (name, text, dim_out) in [("ITQ16", "ITQ16", 16), ("OPQ8_24", "OPQ8_24", 24)] {
        let mean = if name == "ITQ16" { floats("ITQ16.both.mean") } else { Vec::new() };
        let values = [mean, floats(&format!("{name}.both.matrix"))].concat();
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let transform = Trained::from_bytes(kind(text), dim, &bytes).unwrap();
        let images = floats(&format!("{name}.both.rows"));
        near(&apply(&transform, &base[..images.len() / dim_out * dim]), &images, name);
    }
    let images = floats("L2norm.both.rows");
    near(&apply(&train("L2norm", &base, dim), &base[..images.len()]), &images, "L2norm");
    // FAISS does not divide the covariance by the number of rows: what it whitens is so much shorter.
    for (name, longer) in [("PCA16", 1.0), ("PCAW16", 1000f32.sqrt())] {
        let images = floats(&format!("{name}.both.rows"));
        let ours = apply(&train(name, &base, dim), &base[..images.len() * 2]);
        let sizes = |values: &[f32]| values.iter().map(|v| v.abs()).collect::<Vec<f32>>();
        let theirs: Vec<f32> = sizes(&images).iter().map(|size| longer * size).collect();
        let off = sizes(&ours).iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let largest = theirs.iter().fold(0.0f32, |most, v| most.max(*v));
        assert!(off <= 2e-3 * largest, "{name}: {off} of {largest}");
    }
}
