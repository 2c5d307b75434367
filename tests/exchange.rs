//! Worry: a model or a code that travels between indexes changes on the way, means something else where it arrives, or, sent
//! by an enemy, breaks what it comes into.
//!
//! Noticed by comparing answers of sender and receiver bit for bit, by `verify`, and by damaging every byte.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed helper is a failed test")]

mod support;

use support::*;
use vellum::*;

const DIM: usize = 8;
const SPECS: [&str; 10] = [
    "IVF6,Flat",
    "IVF6(IVF2),SQfp16",
    "IVF6_SOAR,Flat",
    "IVF6,SQ8",
    "IVF6,PQ4x4",
    "IVF6,PQ4x4fsr",
    "IVF6,RQ2x4_Nqint8",
    "IVF6,RaBitQ3",
    "IVF6,Nibble2",
    "PCA4,IVF6_SOAR,SQ8",
];

/// That keep rows.
const KEPT: [&str; 10] = [
    "IVF6,SQ8,RFlat",
    "IVF6_SOAR,SQ8,RFlat",
    "IVF6_SOAR,SQfp16,RFlat",
    "IVF6_SOAR,Flat,RF16",
    "IVF6,PQ4x4,RF16",
    "IVF6,PQ4x4fsr,RSQ8",
    "IVF6,Nibble2,RSQ8+Flat",
    "IVF6,RQ2x4_Nqint8,RFlat",
    "PCA4,IVF6_SOAR,SQ8,RBF16",
    "IVF6_SOAR,SH,RFlat",
];

fn observer() -> Observer<'static> {
    Observer::none()
}

/// An index "i" of 300 rows, trained on them.
fn filled(text: &str, metric: Metric, data: &[f32]) -> Store {
    let store = memory();
    create(&store, "i", &spec(text, DIM, metric).with_block_order(0));
    change(&store, "i", |writer| {
        train(writer, rows(data, DIM));
        writer.add(rows(data, DIM)).unwrap();
    });
    store
}

/// An empty index "j" of the same model.
fn twin(store: &Store, text: &str, metric: Metric) {
    create(store, "j", &spec(text, DIM, metric));
    let model = reader(store, "i").export_model().unwrap();
    change(store, "j", |writer| writer.import_model(&model, &mut observer()).unwrap());
}

fn answers(index: &IndexReader<'_>, queries: &[f32]) -> Vec<Vec<(u64, u32)>> {
    all_bits(&index.search_batch(rows(queries, DIM), 12, &nprobe(3)).unwrap())
}

#[test]
fn codes_go_into_another_index_as_they_are() {
    let queries = reals(5, DIM, 2);
    for (text, metric) in with_every_encoding(&SPECS, "IVF6", 0) {
        let data = suited(&text, 300, DIM, 1);
        let store = filled(&text, metric, &data);
        twin(&store, &text, metric);
        let index = reader(&store, "i");
        let spills = text.contains("SOAR");
        // Half of them alone, the other half list by list.
        let alone = index.encode(rows(&data[..150 * DIM], DIM)).unwrap();
        change(&store, "j", |writer| {
            writer.add_codes(&(0..150).collect::<Vec<u64>>(), &alone).unwrap();
            for list in index.lists() {
                let (ids, codes) = (list.ids().unwrap(), list.codes().unwrap());
                let code_bytes = index.code_bytes();
                let here = |id: u64| id >= 150 && index.slot(id).unwrap().list == list.number();
                let picked = ids.iter().zip(codes.chunks(code_bytes)).filter(|(id, _)| here(**id));
                let (ids, codes): (Vec<u64>, Vec<&[u8]>) = picked.unzip();
                writer.add_codes_in(&ids, &vec![list.number(); ids.len()], &codes.concat()).unwrap();
            }
        });
        assert_sound(&store, "j");
        let twin = reader(&store, "j");
        assert_eq!(twin.ids().unwrap(), index.ids().unwrap(), "{text} {metric}");
        for id in [0, 77, 150, 299] {
            assert_eq!(twin.code(id).unwrap().bytes, index.code(id).unwrap().bytes, "{text} {metric} {id}");
        }
        // The second code of an estimate is one of the decoded vector.
        if !spills || text == "IVF6_SOAR,Flat" {
            assert_eq!(answers(&twin, &queries), answers(&index, &queries), "{text} {metric}");
        }
        if decodes(&text) {
            let decoded = index.decode(&alone).unwrap();
            assert_eq!(decoded[..DIM], index.reconstruct_at(index.slot(0).unwrap()).unwrap());
        }
    }
}

/// Codes with the rows that were encoded, where rows are kept: what `add` of the rows makes.
#[test]
fn codes_go_with_their_rows_where_rows_are_kept() {
    let (data, queries) = (reals(300, DIM, 31), reals(5, DIM, 32));
    let all = KEPT.into_iter().flat_map(|text| METRICS.map(|metric| (text, metric)));
    // Spectral hashes are of L2 alone.
    for (text, metric) in all.filter(|(text, metric)| *metric == Metric::L2 || !text.contains("SH")) {
        let store = filled(text, metric, &data);
        twin(&store, text, metric);
        let index = reader(&store, "i");
        let ids: Vec<u64> = (0..300).collect();
        let alone = index.encode(rows(&data, DIM)).unwrap();
        let each = index.list_number_bytes() + index.code_bytes();
        change(&store, "j", |writer| {
            // Half of them alone, the other half in their lists.
            writer
                .add_codes_with_rows(&ids[..150], &alone[..150 * each], rows(&data[..150 * DIM], DIM))
                .unwrap();
            let rest = rows(&data[150 * DIM..], DIM);
            let lists = index.assign(rest).unwrap();
            let codes = index.encode_in(rest, &lists).unwrap();
            writer.add_codes_in_with_rows(&ids[150..], &lists, &codes, rest).unwrap();
        });
        assert_sound(&store, "j");
        let twin = reader(&store, "j");
        let what = format!("{text} {metric}");
        assert_eq!(twin.ids().unwrap(), ids, "{what}");
        assert_eq!(twin.reconstruct_batch(&ids).unwrap(), index.reconstruct_batch(&ids).unwrap(), "{what}");
        assert_eq!(answers(&twin, &queries), answers(&index, &queries), "{what}");
        assert_eq!(twin.list_sizes().unwrap(), index.list_sizes().unwrap(), "{what}");
        for id in [0, 77, 150, 299] {
            let (code, same) = (twin.code(id).unwrap(), index.code(id).unwrap());
            assert_eq!((code.slot.list, code.bytes), (same.slot.list, same.bytes), "{what} {id}");
        }
    }
}

#[test]
fn codes_and_rows_that_do_not_belong_together_are_refused() {
    let data = reals(300, DIM, 33);
    for text in ["IVF6,SQ8,RFlat", "IVF6_SOAR,PQ4x4,RFlat", "IVF6,SQfp16,RFlat", "IVF6,Nibble2,RSQ8+Flat"] {
        let store = filled(text, Metric::L2, &data);
        let (before, index) = (state(&reader(&store, "i")), reader(&store, "i"));
        let (row, other) = (rows(&data[..DIM], DIM), rows(&data[DIM..2 * DIM], DIM));
        let code = index.encode(row).unwrap();
        change(&store, "i", |writer| {
            let mut add = |ids: &[u64], code: &[u8], row| writer.add_codes_with_rows(ids, code, row);
            let refused = add(&[900], &code, other);
            let told = |what: &str| what.contains("code 0 is of another vector");
            assert!(
                matches!(&refused, Err(Error::Parameter { name: "codes", what }) if told(what)),
                "{text} {refused:?}"
            );
            let short = add(&[900], &code, rows(&data[..7], 7));
            assert!(matches!(short, Err(Error::Dimension { expected: DIM, got: 7 })), "{short:?}");
            let nan = [f32::NAN; DIM];
            assert!(matches!(add(&[900], &code, rows(&nan, DIM)), Err(Error::NotFinite { .. })));
            let two = rows(&data[..2 * DIM], DIM);
            assert!(matches!(
                add(&[900], &code, two),
                Err(Error::Length { what: "rows", expected: 1, got: 2 })
            ));
            assert!(matches!(add(&[900, 901], &code, two), Err(Error::Length { .. })));
            assert!(matches!(add(&[900], &code[1..], row), Err(Error::Length { .. })));
            assert!(matches!(add(&[7], &code, row), Err(Error::DuplicateId { id: 7 })));
            assert!(matches!(writer.add_codes(&[900], &code), Err(Error::Incompatible { .. })));
        });
        assert_eq!(state(&reader(&store, "i")), before, "{text}");
        // And what was refused under one id goes under it with its own row.
        change(&store, "i", |writer| writer.add_codes_with_rows(&[900], &code, row).unwrap());
        assert_sound(&store, "i");
    }
    let bare = filled("IVF6,SQ8", Metric::L2, &data);
    let code = reader(&bare, "i").encode(rows(&data[..DIM], DIM)).unwrap();
    change(&bare, "i", |writer| {
        let refused = writer.add_codes_with_rows(&[900], &code, rows(&data[..DIM], DIM));
        assert!(matches!(refused, Err(Error::Incompatible { .. })), "rows that nobody keeps");
    });
}

/// FAISS's `replace_invlists`: an index emptied and filled with another's lists in one transaction.
#[test]
fn lists_are_replaced_in_one_transaction_or_not_at_all() {
    let (data, queries) = (reals(300, DIM, 34), reals(5, DIM, 35));
    let exact = ["IVF6_SOAR,PQ4x4,RFlat", "IVF6,SQ8,RF16", "IVF6,Nibble2,RSQ8+Flat", "IVF6,FlatDedup"];
    let of_one_list = SPECS.into_iter().filter(|text| !text.contains("SOAR") || *text == "IVF6_SOAR,Flat");
    for text in of_one_list.chain(exact) {
        let store = filled(text, Metric::L2, &data);
        twin(&store, text, Metric::L2);
        change(&store, "i", |writer| {
            writer.remove_ids(&IdSelector::callback(|id| id % 7 == 3)).unwrap();
            writer.update_vectors(&[5], rows(&data[50 * DIM..51 * DIM], DIM)).unwrap();
        });
        change(&store, "j", |writer| writer.add(rows(&data[..40 * DIM], DIM)).unwrap());
        let source = reader(&store, "i");
        let old = (state(&reader(&store, "j")), answers(&reader(&store, "j"), &queries));
        let replace = |writer: &mut IndexWriter<'_>, lists: u32| -> Result<()> {
            writer.clear()?;
            for list in source.lists().filter(|list| list.number() < lists) {
                let (ids, codes) = (list.ids()?, list.codes()?);
                let first = |id: u64| source.slot(id).unwrap().list == list.number();
                let picked = ids.iter().zip(codes.chunks(source.code_bytes())).filter(|(id, _)| first(**id));
                let (ids, codes): (Vec<u64>, Vec<&[u8]>) = picked.unzip();
                let (numbers, codes) = (vec![list.number(); ids.len()], codes.concat());
                match source.spec().kept_rows() {
                    None => writer.add_codes_in(&ids, &numbers, &codes)?,
                    Some(_) => {
                        let kept = source.reconstruct_batch(&ids)?;
                        writer.add_codes_in_with_rows(&ids, &numbers, &codes, rows(&kept, DIM))?;
                    }
                }
            }
            Ok(())
        };
        // Given up half-way, after all of it, and after something that was refused: the old lists.
        for (lists, refused) in [(3, false), (6, false), (6, true)] {
            let txn = store.begin_write().unwrap();
            let mut writer = txn.index("j").unwrap();
            replace(&mut writer, lists).unwrap();
            assert_ne!(answers(&writer.reader(), &queries), old.1, "{text}");
            if refused {
                let id = source.ids().unwrap()[0];
                let twice = writer.add_with_ids(&[id], rows(&data[..DIM], DIM));
                assert!(matches!(twice, Err(Error::DuplicateId { .. })), "{text}");
            }
            drop(writer);
            txn.abort().unwrap();
            let after = reader(&store, "j");
            assert_eq!((state(&after), answers(&after, &queries)), old, "{text}");
        }
        let snapshot = reader(&store, "j");
        change(&store, "j", |writer| replace(writer, 6).unwrap());
        assert_sound(&store, "j");
        let new = reader(&store, "j");
        assert_eq!(new.ids().unwrap(), source.ids().unwrap(), "{text}");
        assert_eq!(new.list_sizes().unwrap(), source.list_sizes().unwrap(), "{text}");
        assert_eq!(answers(&new, &queries), answers(&source, &queries), "{text}");
        assert_eq!(answers(&snapshot, &queries), old.1, "{text}: an open reader");
    }
}

#[test]
fn codes_that_do_not_belong_are_refused_and_change_nothing() {
    let data = reals(300, DIM, 3);
    let store = filled("IVF6,SQ8", Metric::L2, &data);
    let before = state(&reader(&store, "i"));
    let index = reader(&store, "i");
    let code = index.encode(rows(&data[..DIM], DIM)).unwrap();
    change(&store, "i", |writer| {
        let unknown = [&[6u8][..], &code[1..]].concat();
        assert!(matches!(writer.add_codes(&[900], &unknown), Err(Error::Parameter { name: "list", .. })));
        assert!(matches!(writer.add_codes(&[900], &code[1..]), Err(Error::Length { .. })));
        assert!(matches!(writer.add_codes(&[900, 901], &code), Err(Error::Length { .. })));
        assert!(matches!(writer.add_codes(&[0], &code), Err(Error::DuplicateId { id: 0 })));
        assert!(matches!(writer.add_codes(&[u64::MAX], &code), Err(Error::InvalidId { .. })));
        assert!(matches!(writer.add_codes_in(&[900], &[7], &code[1..]), Err(Error::Parameter { .. })));
        assert!(matches!(writer.add_codes_in(&[900], &[1], &code), Err(Error::Length { .. })));
    });
    assert_eq!(state(&reader(&store, "i")), before);
    let kept = filled("IVF6,SQfp16,RFlat", Metric::L2, &data);
    let code = reader(&kept, "i").encode(rows(&data[..DIM], DIM)).unwrap();
    change(&kept, "i", |writer| {
        assert!(matches!(writer.add_codes(&[900], &code), Err(Error::Incompatible { .. })));
    });
    let untrained = memory();
    create(&untrained, "i", &spec("IVF6,SQ8", DIM, Metric::L2));
    change(&untrained, "i", |writer| {
        assert!(matches!(writer.add_codes(&[900], &code), Err(Error::Untrained { .. })));
    });
}

/// Any bytes: refused, or a vector like others.
#[test]
fn hostile_codes_break_nothing() {
    let mut random = Random::new(5);
    for (text, metric) in with_every_encoding(&SPECS, "IVF6", 0) {
        let data = suited(&text, 300, DIM, 4);
        let store = filled(&text, metric, &data);
        let code_bytes = reader(&store, "i").code_bytes();
        let (mut taken, mut refused) = (0, 0);
        change(&store, "i", |writer| {
            for i in 0..60u64 {
                let mut code: Vec<u8> = match i % 3 {
                    0 => (0..code_bytes).map(|_| random.next() as u8).collect(),
                    1 => vec![[0, 0xff, 0x7f, 0x80][i as usize / 3 % 4]; code_bytes],
                    _ => writer.reader().code(i).unwrap().bytes,
                };
                if i % 3 == 2 {
                    code[random.below(code_bytes)] = 0xff;
                }
                match writer.add_codes_in(&[1000 + i], &[i as u32 % 6], &code) {
                    Ok(()) => taken += 1,
                    Err(_) => refused += 1,
                }
                assert!(!writer.is_poisoned());
            }
        });
        assert_sound(&store, "i");
        let index = reader(&store, "i");
        assert_eq!((index.len(), taken + refused), (300 + taken, 60), "{text} {metric}");
        for id in index.ids().unwrap().into_iter().filter(|_| decodes(&text)) {
            assert!(index.reconstruct(id).unwrap().iter().all(|v| v.is_finite()));
        }
        let found = index.search(&data[..DIM], 400, &everywhere()).unwrap();
        assert!(found.iter().all(|n| n.distance.is_finite()), "{text} {metric}");
    }
}

#[test]
fn a_model_is_the_same_in_every_index_that_takes_it() {
    let queries = reals(5, DIM, 8);
    for (text, metric) in with_every_encoding(&SPECS, "IVF6", 0) {
        let (data, more) = (suited(&text, 300, DIM, 6), suited(&text, 200, DIM, 7));
        let store = filled(&text, metric, &data);
        let model = reader(&store, "i").export_model().unwrap();
        let print = reader(&store, "i").fingerprint().unwrap();
        // Taken before rows come, and after.
        for (name, late) in [("early", false), ("late", true)] {
            create(&store, name, &spec(&text, DIM, metric));
            assert_eq!(reader(&store, name).fingerprint(), None);
            change(&store, name, |writer| {
                if late {
                    writer.add(rows(&data, DIM)).unwrap();
                }
                assert_eq!(writer.import_model(&model, &mut observer()).unwrap(), print);
                if !late {
                    writer.add(rows(&data, DIM)).unwrap();
                }
            });
            assert_sound(&store, name);
            let index = reader(&store, name);
            assert_eq!(index.fingerprint(), Some(print));
            assert_eq!(index.export_model().unwrap(), model);
            assert_eq!(answers(&index, &queries), answers(&reader(&store, "i"), &queries), "{text} {metric}");
            assert_eq!(index.training().unwrap(), reader(&store, "i").training().unwrap());
        }
        // They merge; a model that is there already changes nothing; another one is noticed.
        change(&store, "early", |writer| {
            let before = writer.reader().stats().unwrap().changes;
            writer.import_model(&model, &mut observer()).unwrap();
            assert_eq!(writer.reader().stats().unwrap().changes, before);
            writer.merge_from(&reader(&store, "late"), 1000, &mut observer()).unwrap();
        });
        assert_eq!(reader(&store, "early").len(), 600);
        if !decodes(&text) {
            continue;
        }
        change(&store, "late", |writer| drop(train(writer, rows(&more, DIM))));
        assert_ne!(reader(&store, "late").fingerprint(), Some(print));
        assert!(reader(&store, "late").check_compatible_for_merge(&reader(&store, "i")).is_err());
    }
}

#[test]
fn a_damaged_or_foreign_model_is_refused_and_changes_nothing() {
    let data = reals(120, DIM, 9);
    for text in ["PCA4,IVF3,SQ8", "IVF3,Flat", "IVF3,PQ2x4fsr"] {
        let store = filled(text, Metric::L2, &data);
        let model = reader(&store, "i").export_model().unwrap();
        change(&store, "i", |writer| {
            drop(writer.train(rows(&data, DIM), &with(|c| c.seed = 9), &mut observer()).unwrap())
        });
        let before = state(&reader(&store, "i"));
        change(&store, "i", |writer| {
            for at in 0..model.len() {
                let mut rotten = model.clone();
                rotten[at] ^= 1 << (at % 8);
                assert!(writer.import_model(&rotten, &mut observer()).is_err(), "{text}: byte {at}");
                // Signed again, so that only what it means is wrong: the fingerprint tells.
                let crc = crc32fast::hash(&rotten[16..]);
                rotten[12..16].copy_from_slice(&crc.to_le_bytes());
                let params = at >= model.len() - 300;
                if at >= 16 && !params {
                    assert!(writer.import_model(&rotten, &mut observer()).is_err(), "{text}: byte {at}");
                }
            }
            for len in 0..model.len() {
                assert!(writer.import_model(&model[..len], &mut observer()).is_err());
            }
            assert!(writer.import_model(&[&model[..], &[0]].concat(), &mut observer()).is_err());
        });
        assert_eq!(state(&reader(&store, "i")), before);
        for (other, metric) in
            [("IVF4,Flat", Metric::L2), (text, Metric::Cosine), ("IVF3,SQbf16", Metric::L2)]
        {
            create(&store, other, &spec(other, DIM, metric));
            change(&store, other, |writer| {
                let refused = writer.import_model(&model, &mut observer());
                assert!(matches!(refused, Err(Error::Incompatible { .. })), "{other}: {refused:?}");
            });
        }
        // Kept rows are no part of a model.
        create(&store, "kept", &spec(&format!("{text},RFlat"), DIM, Metric::L2));
        change(&store, "kept", |writer| writer.import_model(&model, &mut observer()).unwrap());
    }
    let store = memory();
    create(&store, "flat", &spec("Flat", DIM, Metric::L2));
    assert!(matches!(reader(&store, "flat").export_model(), Err(Error::Untrained { .. })));
}

#[test]
fn lists_and_codes_are_trained_alone() {
    let (data, more) = (reals(300, DIM, 10), reals(300, DIM, 11));
    let (data, more) = (rows(&data, DIM), rows(&more, DIM));
    for text in ["IVF6,PQ4x4,RFlat", "PCA4,IVF6,SQ8,RFlat", "IVF6_SOAR,PQ4x4fsr,RFlat"] {
        let store = filled(text, Metric::L2, data.as_slice());
        let centroids = |store: &Store| reader(store, "i").centroids().unwrap().as_slice().to_vec();
        let (first, print) = (centroids(&store), reader(&store, "i").fingerprint());
        let sizes = reader(&store, "i").list_sizes().unwrap();
        let params = TrainParams::default();
        let moved = change(&store, "i", |writer| writer.train_codec(more, &params, &mut observer()).unwrap());
        assert_sound(&store, "i");
        assert_eq!((moved, centroids(&store)), (300, first.clone()), "{text}");
        assert_eq!(reader(&store, "i").list_sizes().unwrap(), sizes);
        assert_ne!(reader(&store, "i").fingerprint(), print);
        // On the rows of the first training it is the first training again.
        change(&store, "i", |writer| writer.train_codec(data, &params, &mut observer()).unwrap());
        assert_eq!(reader(&store, "i").fingerprint(), print, "{text}");
        let report =
            change(&store, "i", |writer| writer.train_lists(more, &params, &mut observer()).unwrap());
        assert_sound(&store, "i");
        assert_eq!((report.rows, report.redistributed), (300, 300));
        assert_ne!(centroids(&store), first);
        // And back.
        change(&store, "i", |writer| writer.train_lists(data, &params, &mut observer()).unwrap());
        assert_eq!(reader(&store, "i").fingerprint(), print, "{text}");
    }
    let store = memory();
    create(&store, "i", &spec("IVF6,PQ4x4", DIM, Metric::L2));
    change(&store, "i", |writer| {
        let params = TrainParams::default();
        assert!(matches!(writer.train_lists(data, &params, &mut observer()), Err(Error::Untrained { .. })));
        assert!(matches!(writer.train_codec(data, &params, &mut observer()), Err(Error::Untrained { .. })));
    });
}

#[test]
fn centroids_may_be_the_callers() {
    let data = reals(300, DIM, 12);
    let data = rows(&data, DIM);
    let three = ClusteringParams { niter: 3, ..ClusteringParams::default() };
    let mine = kmeans(data, 6, Metric::L2, &three, None, &mut observer()).unwrap();
    let centroids = rows(&mine.centroids, DIM);
    for text in ["IVF6,Flat", "IVF6(IVF2),SQ8", "IVF6_SOAR,PQ4x4,RFlat"] {
        let store = memory();
        create(&store, "i", &spec(text, DIM, Metric::L2));
        change(&store, "i", |writer| {
            writer.add(data).unwrap();
            let params = TrainParams::default();
            assert_eq!(writer.train_with_centroids(centroids, data, &params, &mut observer()).unwrap(), 300);
            let few = writer.train_with_centroids(centroids.slice(0..5), data, &params, &mut observer());
            assert!(matches!(few, Err(Error::Length { expected: 6, got: 5, .. })));
            let none = writer.train_with_centroids(centroids, data.slice(0..0), &params, &mut observer());
            assert_eq!(none.is_ok(), text == "IVF6,Flat", "{text}");
        });
        assert_sound(&store, "i");
        let index = reader(&store, "i");
        assert_eq!(index.centroids().unwrap().as_slice(), mine.centroids, "{text}");
        assert!(index.is_trained() && index.len() == 300);
    }
}

#[test]
fn shards_answer_like_the_whole() {
    let (data, queries) = (integers(400, DIM, 3, 13), integers(6, DIM, 3, 14));
    let data = &data[..];
    let more = [
        "IVF6,SQfp16,RFlat",
        "IVF6_SOAR,Nibble2,RSQ8+Flat",
        "IVF6,PQ4x4,RF16",
        "OPQ4,IVF6,PQ4x4fsr,RFlat",
        "Flat",
    ];
    for (text, metric) in with_every_encoding(&[&SPECS[..], &more].concat(), "IVF6", 0) {
        let stores = [memory(), memory(), memory()];
        let data = rows(data, DIM);
        create(&stores[0], "all", &spec(&text, DIM, metric));
        change(&stores[0], "all", |writer| {
            if text != "Flat" {
                train(writer, data);
            }
            writer.add(data).unwrap();
            writer.remove_ids(&IdSelector::callback(|id| id % 9 == 4)).unwrap();
        });
        let whole = reader(&stores[0], "all");
        for (i, store) in stores.iter().enumerate() {
            create(store, "part", &spec(&text, DIM, metric).with_block_order(i as u8));
            change(store, "part", |writer| {
                if text != "Flat" {
                    writer.import_model(&whole.export_model().unwrap(), &mut observer()).unwrap();
                }
                let subset = Subset::IdModulo { modulus: 3, remainder: i as u64 };
                whole.copy_subset_to(writer, &subset, &mut observer()).unwrap();
            });
        }
        let parts: Vec<IndexReader<'_>> = stores.iter().map(|store| reader(store, "part")).collect();
        let shards = IndexReader::of_shards(&parts).unwrap();
        assert_eq!(shards.len(), whole.len());
        assert_eq!(shards.ids().unwrap(), whole.ids().unwrap());
        // Equal vectors of different shards share no entry.
        if !text.contains("Dedup") {
            assert_eq!(shards.list_sizes().unwrap(), whole.list_sizes().unwrap(), "{text} {metric}");
        }
        let queries = rows(&queries, DIM);
        let some = IdSelector::callback(|id| id % 4 != 1);
        for params in [
            nprobe(2),
            nprobe(3).selector(some),
            everywhere().parallel_mode(ParallelMode::Lists),
            nprobe(5).max_lists(2),
        ] {
            let what = format!("{text} {metric} {params:?}");
            let expected = whole.search_batch(queries, 15, &params).unwrap();
            assert_eq!(
                all_bits(&shards.search_batch(queries, 15, &params).unwrap()),
                all_bits(&expected),
                "{what}"
            );
            let radius = expected[0][10].distance;
            let (a, b) = (
                shards.range_search_batch(queries, radius, &params),
                whole.range_search_batch(queries, radius, &params),
            );
            assert_eq!(all_bits(&a.unwrap()), all_bits(&b.unwrap()), "{what}");
            if whole.spec().kept_rows().is_some() {
                let params = params.clone().rerank(Rerank::Bound(2.0));
                let (a, b) =
                    (shards.search_batch(queries, 5, &params), whole.search_batch(queries, 5, &params));
                assert_eq!(all_bits(&a.unwrap()), all_bits(&b.unwrap()), "{what}");
            }
        }
        for id in [0, 1, 2, 302] {
            match decodes(&text) {
                true => assert_eq!(
                    shards.reconstruct(id).unwrap(),
                    whole.reconstruct(id).unwrap(),
                    "{text} {metric}"
                ),
                false => assert!(matches!(shards.reconstruct(id), Err(Error::CannotDecode { .. }))),
            }
            assert_eq!(shards.code(id).unwrap().bytes, whole.code(id).unwrap().bytes);
            assert_eq!(shards.id_at(shards.slot(id).unwrap()).unwrap(), id);
        }
        assert!(matches!(shards.reconstruct(4), Err(Error::UnknownId { id: 4 })));
    }
    assert!(IndexReader::of_shards(&[]).is_err());
    let a = filled("IVF6,Flat", Metric::L2, data);
    let b = filled("IVF6,Flat", Metric::L2, &data[DIM..]);
    let mixed = IndexReader::of_shards(&[reader(&a, "i"), reader(&b, "i")]);
    assert!(matches!(mixed, Err(Error::Incompatible { .. })));
}
