//! Worry: vectors and queries take different ways, kept rows are taken for transformed ones, or a reopened index
//! transforms otherwise than the one that was trained.
//!
//! Noticed by rotations, after which brute force must find the same; by queries that are stored rows, at distance 0 from
//! themselves; and by reopening, training again, repairing and verifying.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed helper is a failed test")]

mod support;

use support::*;
use vellum::*;

const DIM: usize = 16;
const SPECS: [&str; 12] = [
    "RR,IVF8,Flat",
    "RR24,IVF8,SQfp16",
    "HR,IVF8_SOAR,Nibble2,RFlat",
    "PCA8,IVF8,Flat,RFlat",
    "PCAR16,IVF8(IVF3),SQbf16",
    "PCAW8,IVF8,Flat",
    "PCAWR8,IVF8,Nibble1,RF16",
    "OPQ4_8,IVF8,Flat",
    "ITQ8,IVF8,Flat,RFlat",
    "L2norm,IVF8,Flat",
    "Center,Pad20,Remap10,IVF8,Flat",
    "L2norm,PCA12,RR,IVF8,Nibble,RSQ8",
];

/// Correlated, off the origin.
fn data(n: usize, seed: u64) -> Vec<f32> {
    let plain = reals(n, DIM, seed);
    let mix = |row: &[f32]| {
        let mut sum = 0.0;
        row.iter()
            .enumerate()
            .map(|(i, x)| {
                sum += x;
                0.3 * sum + x / (1 + i) as f32 + 0.5
            })
            .collect::<Vec<_>>()
    };
    plain.chunks_exact(DIM).flat_map(mix).collect()
}

fn filled(text: &str, metric: Metric, data: &[f32]) -> Store {
    let store = memory();
    create(&store, "i", &spec(text, DIM, metric));
    change(&store, "i", |writer| {
        // Half of them before there is a transform.
        let rows = rows(data, DIM);
        writer.add(rows.slice(0..rows.len() / 2)).unwrap();
        train(writer, rows);
        writer.add(rows.slice(rows.len() / 2..rows.len())).unwrap();
    });
    store
}

#[test]
fn rotations_change_no_distance() {
    let data = data(300, 1);
    for (text, metric) in [
        "RR,IVF8,Flat",
        "RR40,IVF8,Flat",
        "HR,IVF8,Flat",
        "PCA16,IVF8,Flat",
        "OPQ4,IVF8,Flat,RFlat",
        "Pad20,IVF8,Flat",
    ]
    .into_iter()
    .flat_map(|text| METRICS.map(|metric| (text, metric)))
    // A mean that is taken away is another matter for products.
    .filter(|(text, metric)| *metric == Metric::L2 || !text.starts_with("PCA"))
    {
        let store = filled(text, metric, &data);
        let index = reader(&store, "i");
        let mut oracle = Oracle::new(metric, Stored::F32);
        oracle.put_all(0..300, rows(&data, DIM));
        for query in data[..20 * DIM].chunks_exact(DIM) {
            let found = index.search(query, 10, &everywhere()).unwrap();
            let exact = oracle.all(query);
            assert_eq!(found.len(), 10);
            for (found, exact) in found.iter().zip(&exact) {
                let off = (f64::from(found.distance) - exact.distance).abs();
                assert!(off <= 1e-4 * exact.scale.max(1.0), "{text} {metric}: {found:?}, {exact:?}");
            }
        }
        for id in [0, 150, 299] {
            let (back, row) = (index.reconstruct(id).unwrap(), &oracle.vectors[&id]);
            let off = back.iter().zip(row).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(off < 1e-4, "{text} {metric}: {off}");
        }
    }
}

#[test]
fn indexes_behind_transforms_are_sound_and_come_back() {
    let data = data(240, 2);
    for (text, metric) in SPECS.into_iter().flat_map(|text| METRICS.map(|metric| (text, metric))) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let store = filled(text, metric, &data);
        assert_sound(&store, "i");
        let path = file.path().with_extension("copy");
        store.backup(&path, &mut Observer::none()).unwrap();
        let again = Store::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let queries = rows(&data[..10 * DIM], DIM);
        let [a, b] = [&store, &again].map(|store| reader(store, "i"));
        assert_eq!(a.spec(), b.spec());
        assert_eq!(state(&a), state(&b), "{text} {metric}");
        for n in [1, 8] {
            let [found, found_again] = [&a, &b].map(|r| r.search_batch(queries, 5, &nprobe(n)).unwrap());
            assert_eq!(all_bits(&found), all_bits(&found_again));
            for (query, of_batch) in queries.iter().zip(&found) {
                assert_eq!(bits(&a.search(query, 5, &nprobe(n)).unwrap()), bits(of_batch), "{text} {metric}");
            }
        }
        assert!(again.begin_read().unwrap().index("i").unwrap().spec().to_string().starts_with(&text[..2]));
    }
}

#[test]
fn a_row_that_is_asked_for_is_found_at_no_distance() {
    let data = data(200, 3);
    for text in ["RR,IVF8,Flat", "HR,IVF8,Flat", "PCA8,IVF8,Flat", "OPQ4_8,IVF8,Flat", "PCAW8,IVF8,Flat"] {
        let store = filled(text, Metric::L2, &data);
        let index = reader(&store, "i");
        for (id, row) in data.chunks_exact(DIM).enumerate() {
            let found = index.search(row, 1, &nprobe(1)).unwrap();
            assert_eq!((found[0].id, found[0].distance), (id as u64, 0.0), "{text}");
        }
    }
}

#[test]
fn training_again_makes_other_transforms() {
    let (data, other) = (data(240, 4), reals(400, DIM, 5));
    for text in SPECS {
        let store = filled(text, Metric::L2, &data);
        let before = reader(&store, "i");
        let queries = rows(&data[..10 * DIM], DIM);
        let answers = before.search_batch(queries, 5, &nprobe(3)).unwrap();
        change(&store, "i", |writer| {
            train(writer, rows(&other, DIM));
            writer.add(rows(&other, DIM)).unwrap();
        });
        assert_sound(&store, "i");
        let after = reader(&store, "i");
        assert_eq!(after.len(), 640);
        assert_eq!(
            all_bits(&before.search_batch(queries, 5, &nprobe(3)).unwrap()),
            all_bits(&answers),
            "{text}"
        );
        let found = after.search(&other[..DIM], 1, &everywhere()).unwrap();
        assert!(
            found[0].id == 240 || text.contains("Nibble") || text.contains("L2norm") || text.contains("ITQ")
        );
    }
}

#[test]
fn updates_and_removals_find_their_rows() {
    let data = data(240, 6);
    for text in SPECS {
        let store = filled(text, Metric::L2, &data);
        change(&store, "i", |writer| {
            writer.update_vectors(&[3, 200], rows(&data[130 * DIM..132 * DIM], DIM)).unwrap();
            assert_eq!(writer.remove_ids(&IdSelector::range(50..60)).unwrap(), 10);
        });
        assert_sound(&store, "i");
        let index = reader(&store, "i");
        assert_eq!(index.reconstruct(3).unwrap(), index.reconstruct(130).unwrap());
        assert_eq!(index.reconstruct(200).unwrap(), index.reconstruct(131).unwrap());
    }
}

#[test]
fn transforms_that_do_not_fit_are_refused() {
    for (text, what) in [
        ("PCA17,IVF4,Flat", "PCA17"),
        ("OPQ5,IVF4,Flat", "OPQ5"),
        ("RR,Flat", "takes lists"),
        ("PCA8,PCA9,IVF4,Flat", "PCA9"),
        ("Pad70000,IVF4,Flat", "Pad70000"),
    ] {
        let refused = text
            .parse::<IndexSpec>()
            .and_then(|spec| memory().begin_write()?.create_index("i", &spec.with_dim(DIM)));
        let Err(Error::Spec { what: reason, .. }) = refused else { panic!("{text}: {refused:?}") };
        assert!(reason.contains(what), "{text}: {reason}");
    }
    assert!(matches!("Foo,IVF4,Flat".parse::<IndexSpec>(), Err(Error::Spec { .. })));
}

/// Rows that only become too long on their way are refused at the door.
#[test]
fn rows_that_a_transform_makes_too_long_are_refused() {
    let store = filled("PCAW8,IVF8,Flat", Metric::L2, &data(240, 7));
    let index = reader(&store, "i");
    let huge = [1e18; DIM];
    assert!(matches!(index.search(&huge, 1, &nprobe(1)), Ok(_) | Err(Error::TooLong { row: 0, .. })));
    change(&store, "i", |writer| {
        let refused = writer.add(rows(&huge, DIM));
        assert!(matches!(refused, Ok(_) | Err(Error::TooLong { row: 0, .. })), "{refused:?}");
    });
    assert_sound(&store, "i");
}

/// Codes of two rotations are of two spaces, though lists and centroids be the same.
#[test]
fn indexes_of_different_transforms_are_not_merged() {
    let data = reals(20, DIM, 8);
    let store = memory();
    for (name, seed) in [("a", 1), ("b", 2), ("c", 1)] {
        create(&store, name, &spec("RR,IVF1,Flat", DIM, Metric::L2));
        change(&store, name, |writer| {
            let mut params = TrainParams { initial: Some(vec![0.0; DIM]), ..TrainParams::default() };
            params.clustering.frozen_centroids = true;
            params.clustering.seed = seed;
            writer.train(rows(&data, DIM), &params, &mut Observer::none()).unwrap();
            let id = seed * 100 + name.len() as u64 + u64::from(name == "c") * 50;
            writer.add_with_ids(&[id], rows(&data[..DIM], DIM)).unwrap();
        });
    }
    let (b, c) = (reader(&store, "b"), reader(&store, "c"));
    change(&store, "a", |writer| {
        let refused = writer.merge_from(&b, 0, &mut Observer::none());
        assert!(matches!(refused, Err(Error::Incompatible { .. })), "{refused:?}");
        assert_eq!(writer.merge_from(&c, 0, &mut Observer::none()).unwrap(), 1);
    });
    assert_sound(&store, "a");
}
