//! Worry: a sliding window loses a slice, removes vectors of another one, or forgets its slices between transactions.
//!
//! Noticed by a model: a list of (ids, rows), from which the oldest go; and by what readers see of an index that was restricted to some lists.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed helper is a failed test")]

mod support;

use support::*;
use vellum::*;

const DIM: usize = 6;

#[test]
fn the_oldest_slice_goes_and_others_stay() {
    let data = reals(400, DIM, 1);
    let slice = |n: usize| &data[n * 20 * DIM..(n + 1) * 20 * DIM];
    let store = memory();
    create(&store, "i", &spec("IVF4,SQfp16,RFlat", DIM, Metric::L2));
    change(&store, "i", |writer| {
        train(writer, rows(&data, DIM));
        // In no slice.
        writer.add_with_ids(&[1000, 1001], rows(&data[..2 * DIM], DIM)).unwrap();
    });
    let mut model: Vec<(std::ops::Range<u64>, usize)> = Vec::new();
    for n in 0..12 {
        // A transaction that is undone leaves no trace.
        let txn = store.begin_write().unwrap();
        txn.index("i").unwrap().sliding_window().unwrap().step(rows(slice(n), DIM), 1).unwrap();
        txn.abort().unwrap();
        let ids = change(&store, "i", |writer| {
            let mut window = writer.sliding_window().unwrap();
            assert!(window.slices().iter().eq(model.iter().map(|(ids, _)| ids)));
            window.step(rows(slice(n), DIM), 5).unwrap()
        });
        model.push((ids, n));
        if model.len() > 5 {
            model.remove(0);
        }
        let reader = reader(&store, "i");
        assert!(reader.window_slices().unwrap().iter().eq(model.iter().map(|(ids, _)| ids)));
        assert_eq!(reader.len(), 2 + 20 * model.len() as u64);
        for (ids, n) in &model {
            let ids: Vec<u64> = ids.clone().collect();
            assert_eq!(reader.reconstruct_batch(&ids).unwrap(), slice(*n));
        }
        assert!(reader.contains(1000).unwrap());
        assert_sound(&store, "i");
    }
    // What left a slice by itself is not counted with it.
    let oldest = model[0].0.clone();
    change(&store, "i", |writer| {
        writer.remove_ids(&IdSelector::range(oldest.start..oldest.start + 3)).unwrap();
        let mut window = writer.sliding_window().unwrap();
        assert_eq!(window.drop_oldest().unwrap(), Some(17));
        assert!(matches!(window.step(rows(slice(0), DIM), 0), Err(Error::Parameter { .. })));
        while window.drop_oldest().unwrap().is_some() {}
        assert!(window.slices().is_empty());
    });
    assert_eq!(reader(&store, "i").ids().unwrap(), [1000, 1001]);
}

#[test]
fn a_slice_may_be_an_index_or_have_keys() {
    let data = reals(120, DIM, 2);
    let store = memory();
    for (name, part) in [("days", 0..0), ("monday", 0..50), ("tuesday", 50..120)] {
        create(&store, name, &spec("IVF4,SQ8", DIM, Metric::L2));
        change(&store, name, |writer| {
            train(writer, rows(&data, DIM));
            writer.add(rows(&data, DIM).slice(part.clone())).unwrap();
        });
    }
    for name in ["monday", "tuesday"] {
        let day = reader(&store, name);
        change(&store, "days", |writer| {
            writer.sliding_window().unwrap().push_index(&day, &mut Observer::none()).unwrap()
        });
    }
    assert_eq!(reader(&store, "days").window_slices().unwrap(), [0..50, 50..120]);
    change(&store, "days", |writer| {
        assert_eq!(writer.sliding_window().unwrap().drop_oldest().unwrap(), Some(50))
    });
    assert_sound(&store, "days");
    let (days, tuesday) = (reader(&store, "days"), reader(&store, "tuesday"));
    let mut codes: Vec<Vec<u8>> = (50..120).map(|id| days.code(id).unwrap().bytes).collect();
    let mut expected: Vec<Vec<u8>> = (0..70).map(|id| tuesday.code(id).unwrap().bytes).collect();
    codes.sort();
    expected.sort();
    assert_eq!(codes, expected);
    create(&store, "named", &spec("Flat", DIM, Metric::L2).with_keys(true));
    change(&store, "named", |writer| {
        let mut window = writer.sliding_window().unwrap();
        window.push_with_keys(&["a", "b"], rows(&data[..2 * DIM], DIM)).unwrap();
        window.push_with_keys(&["c"], rows(&data[..DIM], DIM)).unwrap();
        window.drop_oldest().unwrap();
    });
    let named = reader(&store, "named");
    assert_eq!(
        (named.len(), named.id_of_key(b"c").unwrap(), named.id_of_key(b"a").unwrap()),
        (1, Some(2), None)
    );
}

// ---------------------------------------------------------------- some lists alone

/// A restricted reader answers as a search in the lists that are left, told to `search_preassigned`.
#[test]
fn some_lists_alone_are_as_if_the_others_were_empty() {
    let (data, queries) = (reals(500, DIM, 3), reals(20, DIM, 4));
    let queries = rows(&queries, DIM);
    for text in ["IVF8,Flat", "IVF8_SOAR,Nibble2,RF16", "IVF8,PQ3x4fs", "IVF8,FlatDedup"] {
        let store = memory();
        create(&store, "i", &spec(text, DIM, Metric::L2));
        change(&store, "i", |writer| {
            train(writer, rows(&data, DIM));
            writer.add(rows(&data, DIM)).unwrap();
        });
        let whole = reader(&store, "i");
        let sizes = whole.list_sizes().unwrap();
        let most = sizes.iter().sum::<usize>() / 8;
        type Shown<'a> = &'a dyn Fn(u32, usize) -> bool;
        let views: [(&str, Shown<'_>); 3] = [
            ("slice", &|list, _| (2..5).contains(&list)),
            ("stop words", &|_, entries| entries <= most),
            ("none", &|_, _| false),
        ];
        for (name, shown) in views {
            let view = whole.only_lists(shown).unwrap();
            let kept = |list: u32| shown(list, sizes[list as usize]);
            let expected: Vec<usize> =
                (0..).zip(&sizes).map(|(list, n)| if kept(list) { *n } else { 0 }).collect();
            assert_eq!(view.list_sizes().unwrap(), expected, "{text} {name}");
            for n in [2, 8] {
                let probes = whole.probe(queries, n).unwrap();
                let left = (0..queries.len()).map(|q| {
                    let lists = probes.lists(q).iter().zip(probes.distances(q).unwrap());
                    lists.map(|(l, d)| (Some(*l).filter(|l| kept(*l)), *d)).collect::<Vec<_>>()
                });
                let left = Preassigned::with_distances(left);
                let params = SearchParams::new();
                let a = view.search_batch(queries, 9, &nprobe(n)).unwrap();
                let b = whole.search_preassigned(queries, &left, 9, &params).unwrap();
                assert_eq!(all_bits(&a), all_bits(&b), "{text} {name} {n}");
            }
            // By id all are there.
            assert_eq!((view.len(), view.reconstruct(17).unwrap()), (500, whole.reconstruct(17).unwrap()));
        }
        // A vector of two lists would be one of each shard.
        if whole.spec().spill() {
            continue;
        }
        // Lists of one index where it has any, else those of another: FAISS's masked lists.
        let front = whole.only_lists(|list, _| list < 3).unwrap();
        let rest = whole.only_lists(|list, _| front.list_sizes().unwrap()[list as usize] == 0).unwrap();
        let both = IndexReader::of_shards(&[front, rest]).unwrap();
        assert_eq!(both.list_sizes().unwrap(), sizes);
        let [a, b] = [&both, &whole].map(|r| r.search_batch(queries, 9, &nprobe(3)).unwrap());
        assert_eq!(all_bits(&a), all_bits(&b), "{text}");
    }
}
