//! Worry: a member of FAISS's `IndexIVF` means something else here, or a known trap of FAISS's is one of ours.
//!
//! The 34 cases that every test suite of an inverted file must hold, by number; `docs/parity.md` says which member each is about. Where
//! vellum differs on purpose the test says how. Other files ask more of each: this one is the list to tick off.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed helper is a failed test")]

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use support::*;
use vellum::*;

const DIM: usize = 8;
const N: usize = 300;

fn observer() -> Observer<'static> {
    Observer::none()
}

fn data() -> Vec<f32> {
    reals(N, DIM, 1)
}

fn filled(text: &str, metric: Metric) -> Store {
    let (store, data) = (memory(), data());
    create(&store, "i", &spec(text, DIM, metric).with_block_order(0));
    change(&store, "i", |writer| {
        if writer.spec().nlist().is_some() {
            train(writer, rows(&data, DIM));
        }
        writer.add(rows(&data, DIM)).unwrap();
    });
    store
}

fn open(text: &str, metric: Metric) -> IndexReader<'static> {
    reader(&filled(text, metric), "i")
}

/// Four equal vectors and one further off, ids given in falling order.
fn ties(metric: Metric) -> IndexReader<'static> {
    let store = memory();
    create(&store, "i", &spec("Flat", 2, metric));
    let data = [1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.5, 0.0];
    change(&store, "i", |writer| writer.add_with_ids(&[40, 30, 20, 10, 5], rows(&data, 2)).unwrap());
    reader(&store, "i")
}

#[test]
fn case_01_add_order() {
    let (store, data) = (filled("IVF5,Flat", Metric::L2), data());
    let index = reader(&store, "i");
    assert_eq!(index.ids().unwrap(), (0..N as u64).collect::<Vec<_>>());
    assert_eq!((index.len(), index.list_sizes().unwrap().iter().sum::<usize>()), (N as u64, N));
    for id in [0, 7, 299] {
        assert_eq!(index.reconstruct(id).unwrap(), data[id as usize * DIM..][..DIM]);
    }
    // FAISS counts a NaN vector and stores none; here the batch is refused, all of it.
    let mut bad = data[..3 * DIM].to_vec();
    bad[DIM + 2] = f32::NAN;
    change(&store, "i", |writer| {
        let refused = writer.add(rows(&bad, DIM));
        assert!(matches!(refused, Err(Error::NotFinite { row: 1, component: 2, .. })), "{refused:?}");
    });
    assert_eq!(reader(&store, "i").len(), N as u64);
}

/// FAISS fills up with −1 and ±FLT_MAX; here an answer is as long as what was found.
#[test]
fn case_02_fewer_than_k() {
    for metric in METRICS {
        let index = open("IVF5,Flat", metric);
        let size = index.list(index.probe(rows(&[0.3; DIM], DIM), 1).unwrap().lists(0)[0]).unwrap().0.len();
        let found = index.search(&[0.3; DIM], 10_000, &nprobe(1)).unwrap();
        assert_eq!(found.len(), size);
        assert!(found.iter().all(|n| n.distance.is_finite()));
        assert_sorted(&found, metric, "case 2");
    }
}

/// Ties go to the lower id under every metric (FAISS's inner products: to the higher one), at the k-th place, too.
#[test]
fn case_03_ties() {
    for metric in METRICS {
        let index = ties(metric);
        let ids = |k| ids_of(&index.search(&[1.0, 0.0], k, &SearchParams::new()).unwrap());
        let all = if metric == Metric::Cosine { vec![5, 10, 20, 30, 40] } else { vec![10, 20, 30, 40, 5] };
        for k in 1..=5 {
            assert_eq!(ids(k), all[..k], "{metric} {k}");
        }
    }
}

/// An id is one vector's: FAISS finds both.
#[test]
fn case_04_duplicate_ids() {
    let store = filled("IVF5,Flat", Metric::L2);
    change(&store, "i", |writer| {
        let twice = writer.add_with_ids(&[900, 900], rows(&[0.0; 2 * DIM], DIM));
        assert!(matches!(twice, Err(Error::DuplicateId { id: 900 })));
        assert!(matches!(
            writer.add_with_ids(&[7], rows(&[0.0; DIM], DIM)),
            Err(Error::DuplicateId { id: 7 })
        ));
    });
    assert_eq!(reader(&store, "i").len(), N as u64);
}

#[test]
fn case_05_nprobe_beyond_nlist() {
    let (data, query) = (data(), reals(1, DIM, 2));
    for metric in METRICS {
        let index = open("IVF5,Flat", metric);
        let mut oracle = Oracle::new(metric, Stored::F32);
        oracle.put_all(0..N as u64, rows(&data, DIM));
        let all = index.search(&query, 20, &nprobe(5)).unwrap();
        assert_eq!(bits(&all), bits(&index.search(&query, 20, &nprobe(1000)).unwrap()));
        assert_close(&all, &oracle.all(&query), metric, "brute force");
    }
}

/// A wrong type of parameters does not compile. Before training a search is exhaustive instead of an error.
#[test]
fn case_06_what_is_refused() {
    let index = open("IVF5,Flat", Metric::L2);
    let query = [0.1; DIM];
    let name = |found: Result<Vec<Neighbor>>| match found {
        Err(Error::Parameter { name, .. }) => name,
        other => panic!("{other:?}"),
    };
    assert_eq!(name(index.search(&query, 3, &nprobe(0))), "nprobe");
    assert_eq!(name(index.search(&query, 0, &nprobe(1))), "k");
    assert_eq!(name(index.range_search(&query, f32::NAN, &nprobe(1))), "radius");
    let wrong = index.search(&query[1..], 3, &nprobe(1));
    assert!(matches!(wrong, Err(Error::Dimension { expected: 8, got: 7 })));
    let store = memory();
    create(&store, "i", &spec("IVF5,PQ4x4", DIM, Metric::L2));
    change(&store, "i", |writer| writer.add(rows(&data(), DIM)).unwrap());
    assert_eq!(reader(&store, "i").search(&data()[..DIM], 1, &nprobe(1)).unwrap()[0].id, 0);
}

/// In FAISS a params object with a selector sets nprobe back to 1; here fields that are not set come from the index.
#[test]
fn case_07_params_override_single_fields() {
    let store = filled("IVF5,Flat", Metric::L2);
    change(&store, "i", |writer| writer.set_search_defaults(&nprobe(3)).unwrap());
    let index = reader(&store, "i");
    let only = SearchParams::new().selector(IdSelector::All);
    assert_eq!(
        bits(&index.search(&[0.2; DIM], 50, &only).unwrap()),
        bits(&index.search(&[0.2; DIM], 50, &nprobe(3)).unwrap())
    );
}

/// With a selector: what a search of everything finds, less what the selector leaves out. For codes of every kind, those
/// that FAISS has no selectors for, too.
#[test]
fn case_08_selectors() {
    let query = reals(1, DIM, 3);
    let some: Vec<u64> = (0..N as u64).filter(|id| id % 7 < 3).collect();
    let selectors = [
        IdSelector::range(50..180),
        IdSelector::Array(vec![3, 290, 5, 5, 9999]),
        IdSelector::batch(some.iter().copied()),
        IdSelector::bitmap(some.iter().copied().collect()),
        IdSelector::callback(|id| id % 2 == 0),
        !IdSelector::range(10..250),
        IdSelector::range(0..100).and(IdSelector::batch(some.iter().copied())),
        IdSelector::range(0..20).or(IdSelector::range(200..210)),
        IdSelector::range(0..100).xor(IdSelector::range(50..150)),
    ];
    let texts = [
        "IVF5,Flat",
        "IVF5,PQ4x4",
        "IVF5,SQ8",
        "IVF5,PQ4x4fs",
        "IVF5,RQ2x4_Nqint8",
        "IVF5,RaBitQ",
        "IVF5,SH1.2g",
    ];
    for text in texts {
        let index = open(text, Metric::L2);
        let all = index.search(&query, N, &nprobe(3)).unwrap();
        for selector in &selectors {
            let kept: Vec<Neighbor> = all.iter().copied().filter(|n| selector.contains(n.id)).collect();
            let params = nprobe(3).selector(selector.clone()).filter_mode(FilterMode::Probed);
            let found = index.search(&query, N, &params).unwrap();
            assert_eq!(bits(&found), bits(&kept), "{text} {selector:?}");
        }
    }
}

/// FAISS bisects a list that removal has put out of order.
#[test]
fn case_09_a_range_of_ids_after_removals() {
    let store = filled("IVF5,Flat", Metric::L2);
    change(&store, "i", |writer| {
        writer.remove_ids(&IdSelector::callback(|id| id % 5 == 0)).unwrap();
    });
    let index = reader(&store, "i");
    assert!(!index.check_ids_sorted().unwrap(), "holes are filled from the end");
    let found = index.search(&[0.0; DIM], N, &everywhere().selector(IdSelector::range(100..200))).unwrap();
    let ids: BTreeSet<u64> = ids_of(&found).into_iter().collect();
    assert_eq!(ids, (100..200).filter(|id| id % 5 != 0).collect());
}

#[test]
fn case_10_ranges_are_strict() {
    for metric in METRICS {
        let index = ties(metric);
        let found = |radius| ids_of(&index.range_search(&[1.0, 0.0], radius, &SearchParams::new()).unwrap());
        match metric {
            Metric::L2 => {
                assert!(found(0.0).is_empty());
                assert_eq!((found(0.25), found(0.26).len()), (vec![10, 20, 30, 40], 5));
            }
            _ => {
                assert!(found(1.0).is_empty());
                assert_eq!(found(1.0f32.next_down()).len(), if metric == Metric::Cosine { 5 } else { 4 });
            }
        }
        let store = memory();
        create(&store, "empty", &spec("IVF5,Flat", DIM, metric));
        assert!(reader(&store, "empty").range_search(&[1.0; DIM], 9.0, &nprobe(1)).unwrap().is_empty());
    }
}

#[test]
fn case_11_max_codes() {
    let index = open("IVF5,Flat", Metric::L2);
    let query = [0.1; DIM];
    let first = index.list(index.probe(rows(&query, DIM), 5).unwrap().lists(0)[0]).unwrap().0;
    let count = |params: SearchParams| index.search(&query, N, &params).unwrap().len();
    for most in [1, 10, first.len() - 1, first.len(), first.len() + 1] {
        assert_eq!(count(everywhere().max_codes(most)), most);
        // Counted after the selector.
        let even = IdSelector::callback(|id| id % 2 == 0);
        assert_eq!(count(everywhere().max_codes(most).selector(even)), most);
    }
    let found = index.search(&query, N, &everywhere().max_codes(10)).unwrap();
    assert_eq!(
        ids_of(&found).into_iter().collect::<BTreeSet<_>>(),
        first[..10].iter().copied().collect(),
        "the first of the nearest list"
    );
    let full = |k: usize| {
        let params = everywhere().max_codes(1).ensure_topk_full(true);
        index.search(&query, k, &params).unwrap().len()
    };
    assert_eq!((full(5), full(first.len() + 5), full(N)), (5, first.len() + 5, N));
    let whole = everywhere().max_codes(1).ensure_topk_full(true);
    let one = index.search(&query, 1, &whole).unwrap();
    assert_eq!(bits(&one), bits(&index.search(&query, 1, &nprobe(1)).unwrap()), "whole lists");
    assert_eq!(count(everywhere().max_lists(1)), first.len());
}

#[test]
fn case_12_parallel_modes() {
    let queries = reals(5, DIM, 4);
    for threads in [1, 2] {
        let store = in_memory(Store::builder().thread_pool(pool(threads)));
        create(&store, "i", &spec("IVF5,SQ8", DIM, Metric::L2).with_block_order(0));
        change(&store, "i", |writer| {
            train(writer, rows(&data(), DIM));
            writer.add(rows(&data(), DIM)).unwrap();
        });
        let index = reader(&store, "i");
        let found = |mode| {
            let params = nprobe(4).parallel_mode(mode);
            let found = index.search_batch(rows(&queries, DIM), 9, &params).unwrap();
            let near = index.range_search_batch(rows(&queries, DIM), found[0][8].distance, &params).unwrap();
            (all_bits(&found), all_bits(&near))
        };
        let expected = found(ParallelMode::Queries);
        assert_eq!(found(ParallelMode::Lists), expected);
        assert_eq!(found(ParallelMode::Pairs), expected);
    }
}

/// Slots instead of labels; a selector goes with them, which FAISS refuses.
#[test]
fn case_13_slots() {
    for text in ["IVF5,Flat", "IVF5,PQ4x4fs", "IVF5,RQ2x4_Nqint8"] {
        let index = open(text, Metric::L2);
        let params = everywhere().selector(IdSelector::range(0..100));
        for Placed { neighbor, slot } in &index.search_slots(rows(&[0.1; DIM], DIM), 40, &params).unwrap()[0]
        {
            assert!(neighbor.id < 100);
            assert_eq!((index.id_at(*slot).unwrap(), index.slot(neighbor.id).unwrap()), (neighbor.id, *slot));
        }
    }
}

#[test]
fn case_14_list_numbers() {
    for (nlist, bytes) in [(1, 0), (2, 1), (256, 1), (257, 2), (65_536, 2), (65_537, 3)] {
        let store = memory();
        create(&store, "i", &spec(&format!("IVF{nlist}(Flat),Flat"), 2, Metric::L2));
        // Small whole numbers: their distances are exact.
        let centroid = |list: usize| [(list % 256) as f32, (list / 256) as f32];
        let centroids: Vec<f32> = (0..nlist).flat_map(centroid).collect();
        change(&store, "i", |writer| {
            let none = Rows::new(&[], 2).unwrap();
            let params = TrainParams::default();
            writer.train_with_centroids(rows(&centroids, 2), none, &params, &mut observer()).unwrap();
        });
        let index = reader(&store, "i");
        assert_eq!(index.list_number_bytes(), bytes, "{nlist}");
        let last = centroid(nlist - 1);
        let code = index.encode(rows(&last, 2)).unwrap();
        assert_eq!(code[..bytes], ((nlist - 1) as u32).to_le_bytes()[..bytes]);
        assert_eq!(index.decode(&code).unwrap(), last);
        // The number after the last, where its bytes can say it.
        if nlist < 1 << (8 * bytes) {
            let beyond = [&(nlist as u32).to_le_bytes()[..bytes], &code[bytes..]].concat();
            assert!(matches!(index.decode(&beyond), Err(Error::Parameter { name: "list", .. })));
        }
    }
}

#[test]
fn case_15_stand_alone_codes() {
    let data = data();
    for text in ["IVF5,Flat", "IVF5,SQ8", "IVF5,PQ4x4", "IVF5,PQ4x4fs", "IVF5,RaBitQ2"] {
        let store = filled(text, Metric::L2);
        let index = reader(&store, "i");
        let codes = index.encode(rows(&data[..20 * DIM], DIM)).unwrap();
        change(&store, "i", |writer| {
            writer.add_codes(&(1000..1020).collect::<Vec<u64>>(), &codes).unwrap();
            let bad = [&[5u8][..], &codes[1..index.code_bytes() + 1]].concat();
            assert!(matches!(writer.add_codes(&[1], &bad), Err(Error::Parameter { name: "list", .. })));
        });
        assert_sound(&store, "i");
        let (after, decoded) = (reader(&store, "i"), index.decode(&codes).unwrap());
        for i in 0..20 {
            assert_eq!(after.code(1000 + i).unwrap().bytes, index.code(i).unwrap().bytes, "{text}");
            assert_eq!(after.reconstruct(1000 + i).unwrap(), decoded[i as usize * DIM..][..DIM]);
        }
    }
}

/// There is one map and no mode: every verb works, for every code.
#[test]
fn case_16_the_map_has_no_modes() {
    for text in ["IVF5,Flat", "IVF5,PQ4x4fs", "IVF5,RQ2x4_Nqint8", "IVF5,RaBitQ"] {
        let (store, data) = (filled(text, Metric::L2), data());
        change(&store, "i", |writer| {
            assert_eq!(writer.remove_ids(&IdSelector::Array(vec![3, 3, 9999])).unwrap(), 1);
            assert_eq!(writer.remove_ids(&IdSelector::range(10..20)).unwrap(), 10);
            writer.update_vectors(&[5], rows(&data[..DIM], DIM)).unwrap();
            writer.add_with_ids(&[5000], rows(&data[..DIM], DIM)).unwrap();
        });
        assert_sound(&store, "i");
        let index = reader(&store, "i");
        assert_eq!(index.reconstruct(5).unwrap(), index.reconstruct(0).unwrap(), "{text}");
        assert_eq!(index.reconstruct(5000).unwrap(), index.reconstruct(0).unwrap(), "{text}");
        let text = index.reconstruct(3).unwrap_err().to_string();
        assert!(text.contains('3'), "{text}");
    }
}

/// FAISS throws after it has removed.
#[test]
fn case_17_an_update_is_atomic() {
    let (store, data) = (filled("IVF5,Flat", Metric::L2), data());
    let before = state(&reader(&store, "i"));
    change(&store, "i", |writer| {
        let refused = writer.update_vectors(&[1, 2, 777], rows(&data[..3 * DIM], DIM));
        assert!(matches!(refused, Err(Error::UnknownId { id: 777 })));
        let refused = writer.update_vectors(&[1, 1], rows(&data[..2 * DIM], DIM));
        assert!(matches!(refused, Err(Error::DuplicateId { id: 1 })));
    });
    assert_eq!(state(&reader(&store, "i")), before);
}

/// FAISS's hash table gets garbage for keys.
#[test]
fn case_18_add_without_ids_is_mapped() {
    let (store, data) = (filled("IVF5,Flat", Metric::L2), data());
    let ids = change(&store, "i", |writer| writer.add(rows(&data[..2 * DIM], DIM)).unwrap());
    assert_eq!(ids, N as u64..N as u64 + 2);
    assert_eq!(reader(&store, "i").reconstruct(N as u64 + 1).unwrap(), data[DIM..2 * DIM]);
}

#[test]
fn case_19_ids_are_not_used_again() {
    let (store, data) = (filled("IVF5,Flat", Metric::L2), data());
    change(&store, "i", |writer| {
        writer.remove_ids(&IdSelector::range(200..300)).unwrap();
        assert_eq!(writer.add(rows(&data[..DIM], DIM)).unwrap(), 300..301);
        writer.clear().unwrap();
        assert_eq!(writer.add(rows(&data[..DIM], DIM)).unwrap().start, 301);
    });
}

/// A hole is `None`; FAISS leaves the memory as it was.
#[test]
fn case_20_holes() {
    let store = filled("IVF5,Flat", Metric::L2);
    change(&store, "i", |writer| writer.remove_ids(&IdSelector::Array(vec![4])).unwrap());
    let found = reader(&store, "i").reconstruct_n(3..6).unwrap();
    assert_eq!(found.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true]);
    assert!(matches!(reader(&store, "i").reconstruct_batch(&[3, 4]), Err(Error::UnknownId { id: 4 })));
}

/// FAISS compares neither metrics nor tables.
#[test]
fn case_21_what_does_not_merge() {
    let ours = open("IVF5,PQ4x4", Metric::L2);
    let refused = |theirs: &IndexReader<'_>| match ours.check_compatible_for_merge(theirs) {
        Err(Error::Incompatible { what }) => what,
        other => panic!("{other:?}"),
    };
    assert!(refused(&open("IVF5,PQ4x4", Metric::InnerProduct)).contains("metric"));
    assert!(refused(&open("IVF4,PQ4x4", Metric::L2)).contains("IVF4"));
    assert!(refused(&open("IVF5,SQ8", Metric::L2)).contains("SQ8"));
    let other = |train: &dyn Fn(&mut IndexWriter<'_>)| {
        let store = filled("IVF5,PQ4x4", Metric::L2);
        change(&store, "i", |writer| train(writer));
        reader(&store, "i")
    };
    let (more, params) = (reals(N, DIM, 9), TrainParams::default());
    let lists =
        other(&|writer| drop(writer.train_lists(rows(&more, DIM), &params, &mut observer()).unwrap()));
    assert!(refused(&lists).contains("centroids"));
    let codes = other(&|writer| {
        writer.train_codec(rows(&more, DIM), &params, &mut observer()).unwrap();
    });
    assert!(refused(&codes).contains("codes"));
    assert!(ours.check_compatible_for_merge(&open("IVF5,PQ4x4", Metric::L2)).is_ok());
}

#[test]
fn case_22_subsets_are_partitions() {
    let index = open("IVF5,SQ8", Metric::L2);
    let half = N as u64 / 2;
    let families: [Vec<Subset>; 5] = [
        vec![Subset::Ids(0..70), Subset::Ids(70..N as u64)],
        (0..3).map(|remainder| Subset::IdModulo { modulus: 3, remainder }).collect(),
        vec![Subset::Elements(0..half), Subset::Elements(half..N as u64)],
        (0..4).map(|part| Subset::ListPart { parts: 4, part }).collect(),
        vec![Subset::Lists(0..2), Subset::Lists(2..5)],
    ];
    for family in families {
        let store = memory();
        create(&store, "i", &spec("IVF5,SQ8", DIM, Metric::L2));
        change(&store, "i", |writer| {
            writer.import_model(&index.export_model().unwrap(), &mut observer()).unwrap();
            for subset in &family {
                index.copy_subset_to(writer, subset, &mut observer()).unwrap();
            }
        });
        // An id that was copied twice would have been refused.
        assert_eq!(reader(&store, "i").ids().unwrap(), index.ids().unwrap(), "{family:?}");
    }
}

#[test]
fn case_23_clear_keeps_the_training() {
    let (store, data) = (filled("IVF5,PQ4x4", Metric::L2), data());
    let print = reader(&store, "i").fingerprint();
    change(&store, "i", |writer| writer.clear().unwrap());
    let index = reader(&store, "i");
    assert_eq!((index.len(), index.is_trained(), index.fingerprint()), (0, true, print));
    change(&store, "i", |writer| writer.add(rows(&data, DIM)).unwrap());
    assert_eq!(
        reader(&store, "i").list_sizes().unwrap(),
        open("IVF5,PQ4x4", Metric::L2).list_sizes().unwrap()
    );
}

#[test]
fn case_24_training() {
    let data = data();
    let all = rows(&data, DIM);
    let store = memory();
    create(&store, "i", &spec("IVF5,Flat", DIM, Metric::L2));
    change(&store, "i", |writer| {
        let few = writer.train(all.slice(0..4), &TrainParams::default(), &mut observer());
        assert!(matches!(few, Err(Error::TooFewRows { rows: 4, needed: 5 })));
        let mut bad = data.clone();
        bad[9] = f32::INFINITY;
        let bad = writer.train(rows(&bad, DIM), &TrainParams::default(), &mut observer());
        assert!(matches!(bad, Err(Error::NotFinite { row: 1, component: 1, .. })));
        // As many as lists: the rows themselves.
        let report = train(writer, all.slice(0..5));
        assert!(report.few_rows);
        let centroids: BTreeSet<Vec<u32>> = writer
            .reader()
            .centroids()
            .unwrap()
            .iter()
            .map(|c| c.iter().map(|v| v.to_bits()).collect())
            .collect();
        let given = all.slice(0..5).iter().map(|c| c.iter().map(|v| v.to_bits()).collect()).collect();
        assert_eq!(centroids, given);
        // Training again trains the lists again, which FAISS does not.
        train(writer, all);
    });
    let print = |metric, seed| {
        let store = memory();
        create(&store, "i", &spec("IVF5,PQ4x4", DIM, metric));
        change(&store, "i", |writer| {
            drop(writer.train(all, &with(|c| c.seed = seed), &mut observer()).unwrap())
        });
        let index = reader(&store, "i");
        let norms: Vec<f32> =
            index.centroids().unwrap().iter().map(|c| c.iter().map(|v| v * v).sum()).collect();
        (index.fingerprint(), norms)
    };
    assert_eq!(print(Metric::L2, 5).0, print(Metric::L2, 5).0);
    assert_ne!(print(Metric::L2, 5).0, print(Metric::L2, 6).0);
    assert!(print(Metric::InnerProduct, 5).1.iter().all(|norm| (norm - 1.0).abs() < 1e-5), "spherical");
    // Equal rows: clusters that would be empty are split.
    change(&store, "i", |writer| drop(train(writer, rows(&[0.5; 50 * DIM], DIM))));
    assert!(reader(&store, "i").centroids().unwrap().iter().all(|c| c.iter().all(|v| (v - 0.5).abs() < 0.1)));
}

/// Mode 0: k-means makes the lists. 1: the quantizer trained itself, here: the caller gives its centroids. 2: k-means makes the lists
/// that a quantizer of another kind, the tree, then finds.
#[test]
fn case_25_quantizers_that_train_alone() {
    let data = data();
    let all = rows(&data, DIM);
    let by_kmeans = open("IVF6,Flat", Metric::L2);
    let by_tree = open("IVF6(IVF3),Flat", Metric::L2);
    let store = memory();
    create(&store, "i", &spec("IVF6,Flat", DIM, Metric::L2));
    let params = TrainParams::default();
    change(&store, "i", |writer| {
        writer.train_with_centroids(by_kmeans.centroids().unwrap(), all, &params, &mut observer()).unwrap();
        writer.add(all).unwrap();
    });
    let given = reader(&store, "i");
    assert_eq!(given.fingerprint(), by_kmeans.fingerprint());
    for index in [&given, &by_tree] {
        assert_eq!(index.centroids().unwrap().as_slice(), by_kmeans.centroids().unwrap().as_slice());
        let found = index.search(&[0.2; DIM], 20, &everywhere()).unwrap();
        assert_eq!(bits(&found), bits(&by_kmeans.search(&[0.2; DIM], 20, &everywhere()).unwrap()));
    }
}

/// What is missing is absent, instead of 0xFF.
#[test]
fn case_26_codes_with_answers() {
    for text in ["IVF5,SQ8", "IVF5,PQ4x4fs"] {
        let index = open(text, Metric::L2);
        let found = index.search_and_return_codes(rows(&[0.1; DIM], DIM), 10_000, &nprobe(2)).unwrap();
        assert!(found[0].len() < N);
        for (neighbor, code) in &found[0] {
            assert_eq!(
                code.bytes,
                index
                    .encode_in(rows(&data()[neighbor.id as usize * DIM..][..DIM], DIM), &[code.slot.list])
                    .unwrap()
            );
            let number = &code.slot.list.to_le_bytes()[..index.list_number_bytes()];
            assert_eq!(
                index.decode(&[number, &code.bytes].concat()).unwrap(),
                index.reconstruct(neighbor.id).unwrap()
            );
        }
    }
}

#[test]
fn case_27_preassigned_lists() {
    let index = open("IVF5,SQ8", Metric::L2);
    let query = [0.1; DIM];
    let search = |lists: &[i64]| {
        let lists = Preassigned::of_arrays(lists, None, lists.len()).unwrap();
        index.search_preassigned(rows(&query, DIM), &lists, N, &SearchParams::new())
    };
    let two = search(&[3, -1, 1]).unwrap();
    assert_eq!(two[0].len(), index.list(3).unwrap().0.len() + index.list(1).unwrap().0.len());
    // A list named twice is scanned once: FAISS finds everything in it twice.
    assert_eq!(all_bits(&search(&[3, 1, 3]).unwrap()), all_bits(&two));
    assert!(matches!(search(&[5]), Err(Error::Parameter { name: "list", .. })));
    assert!(search(&[-1]).unwrap()[0].is_empty());
}

#[test]
fn case_28_imbalance_and_order() {
    let store = memory();
    create(&store, "i", &spec("IVF2,Flat", 1, Metric::L2));
    change(&store, "i", |writer| {
        let none = Rows::new(&[], 1).unwrap();
        writer
            .train_with_centroids(rows(&[0.0, 10.0], 1), none, &TrainParams::default(), &mut observer())
            .unwrap();
    });
    assert_eq!(reader(&store, "i").imbalance().unwrap(), 1.0, "0/0 in FAISS");
    change(&store, "i", |writer| {
        writer.add_with_ids(&[3, 5, 4, 9], rows(&[0.0, 1.0, 9.0, 2.0], 1)).unwrap();
    });
    let index = reader(&store, "i");
    assert_eq!(index.imbalance().unwrap(), 2.0 * (9.0 + 1.0) / 16.0);
    assert!(index.check_ids_sorted().unwrap());
    change(&store, "i", |writer| {
        writer.remove_ids(&IdSelector::Array(vec![3])).unwrap();
    });
    assert!(!reader(&store, "i").check_ids_sorted().unwrap());
}

/// Packing is one to one; distances by tables of bytes are off by half a step of each sub-space at most, and a little for
/// rounding sums.
#[test]
fn case_29_fast_scan() {
    let mut random = Random::new(3);
    for (m, bbs) in [(1, 32), (5, 32), (8, 96)] {
        let packer = CodePacker::new(m, bbs).unwrap();
        let any: Vec<u8> = (0..3 * packer.block_bytes()).map(|_| random.next() as u8).collect();
        let codes = packer.unpack(&any, 3 * bbs).unwrap();
        assert_eq!(packer.pack(&codes).unwrap(), any);
    }
    let (index, m) = (open("IVF1,PQ4x4fs", Metric::L2), 4.0);
    let query = reals(1, DIM, 5);
    let found = index.search(&query, N, &everywhere()).unwrap();
    let exact: Vec<f32> = found
        .iter()
        .map(|n| index.reconstruct(n.id).unwrap().iter().zip(&query).map(|(x, q)| (x - q) * (x - q)).sum())
        .collect();
    let span = exact.iter().fold(0.0f32, |most, d| most.max(*d)) * 2.0;
    for (neighbor, exact) in found.iter().zip(&exact) {
        assert!((neighbor.distance - exact).abs() <= m * span / 255.0, "{} {exact}", neighbor.distance);
    }
    assert_eq!(found.len(), N);
}

/// Before the commit the file says what was before, whenever the process dies. (A real process is killed at every fsync in
/// tests/kill.rs, and every write fails once in tests/operations.rs; here the file is copied under an open transaction.)
#[test]
fn case_30_a_crash_leaves_before_or_after() {
    let folder = tempfile::tempdir().unwrap();
    let (path, copy) = (folder.path().join("a"), folder.path().join("b"));
    let store = Store::create(&path).unwrap();
    create(&store, "i", &spec("IVF5,Flat", DIM, Metric::L2));
    change(&store, "i", |writer| writer.add(rows(&data(), DIM)).unwrap());
    let before = state(&reader(&store, "i"));
    let txn = store.begin_write().unwrap();
    train(&mut txn.index("i").unwrap(), rows(&data(), DIM));
    std::fs::copy(&path, &copy).unwrap();
    let crashed = Store::open(&copy).unwrap();
    assert_eq!(state(&reader(&crashed, "i")), before);
    assert_sound(&crashed, "i");
    drop(crashed);
    txn.commit().unwrap();
    std::fs::copy(&path, &copy).unwrap();
    let after = state(&reader(&store, "i"));
    assert_eq!(state(&reader(&Store::open(&copy).unwrap(), "i")), after);
    assert!(after != before);
}

/// A changed byte of a block is noticed or changes nothing. (Every table and every byte: tests/damage.rs, tests/verify.rs.)
#[test]
fn case_31_a_flipped_byte_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    let store = Store::create(&path).unwrap();
    create(&store, "i", &spec("IVF5,Flat", DIM, Metric::L2));
    change(&store, "i", |writer| {
        train(writer, rows(&data(), DIM));
        writer.add(rows(&data(), DIM)).unwrap();
    });
    let right = bits(&reader(&store, "i").search(&[0.1; DIM], N, &everywhere()).unwrap());
    drop(store);
    let bytes = std::fs::read(&path).unwrap();
    let mut noticed = 0;
    for at in (0..bytes.len()).step_by(bytes.len() / 60) {
        let mut rotten = bytes.clone();
        rotten[at] ^= 0x10;
        std::fs::write(&path, &rotten).unwrap();
        let found = Store::open(&path)
            .and_then(|store| store.begin_read()?.index("i")?.search(&[0.1; DIM], N, &everywhere()));
        match found {
            Ok(found) => assert_eq!(bits(&found), right, "byte {at}"),
            Err(_) => noticed += 1,
        }
    }
    assert!(noticed > 0);
}

#[test]
fn case_32_a_reader_keeps_its_state() {
    let (store, data) = (filled("IVF5,PQ4x4", Metric::L2), data());
    let index = reader(&store, "i");
    let before = state(&index);
    let found = bits(&index.search(&data[..DIM], 50, &everywhere()).unwrap());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..4 {
                change(&store, "i", |writer| {
                    writer.add(rows(&data, DIM)).unwrap();
                    writer.remove_ids(&IdSelector::callback(move |id| id % 4 == round)).unwrap();
                });
            }
        });
        for _ in 0..20 {
            assert_eq!(bits(&index.search(&data[..DIM], 50, &everywhere()).unwrap()), found);
        }
    });
    assert_eq!(state(&index), before);
    assert_ne!(state(&reader(&store, "i")), before);
}

#[test]
fn case_33_settings_survive() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    let store = Store::create(&path).unwrap();
    create(&store, "i", &spec("IVF5,Flat", DIM, Metric::L2));
    let defaults = nprobe(3).max_codes(77).max_lists(2).parallel_mode(ParallelMode::Lists);
    change(&store, "i", |writer| {
        writer.train(rows(&data(), DIM), &with(|c| c.niter = 3), &mut observer()).unwrap();
        writer.set_search_defaults(&defaults).unwrap();
    });
    drop(store);
    let index = reader(&Store::open(&path).unwrap(), "i");
    let stored = format!("{:?}", index.search_defaults());
    for part in ["nprobe: Some(3)", "max_codes: Some(77)", "max_lists: Some(2)", "Some(Lists)"] {
        assert!(stored.contains(part), "{part} in {stored}");
    }
    assert_eq!(index.training().unwrap().unwrap().clustering.niter, 3);
}

/// There are none: what depends on list and code stands behind the code. A store that was opened anew answers the same.
#[test]
fn case_34_no_tables_to_precompute() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    let store = Store::create(&path).unwrap();
    create(&store, "i", &spec("IVF5,PQ4x4", DIM, Metric::L2));
    change(&store, "i", |writer| {
        train(writer, rows(&data(), DIM));
        writer.add(rows(&data(), DIM)).unwrap();
    });
    let stats = Arc::new(SearchStats::default());
    let params = nprobe(3).stats(&stats);
    let found = bits(&reader(&store, "i").search(&[0.1; DIM], 30, &params).unwrap());
    assert_eq!((stats.queries(), stats.lists()), (1, 3), "FAISS's IndexIVFStats, for this call alone");
    drop(store);
    let again = reader(&Store::open(&path).unwrap(), "i");
    assert_eq!(bits(&again.search(&[0.1; DIM], 30, &params).unwrap()), found);
}
