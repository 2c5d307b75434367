//! Worry: a code that is handed out is not the one that is stored, or comes back as another vector.
//!
//! Noticed by encoding and decoding outside the index and comparing with what stands in its lists.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed helper is a failed test")]

mod support;

use support::*;
use vellum::*;

const DIM: usize = 12;
const SPECS: [&str; 5] =
    ["IVF7,Flat", "IVF7,SQbf16", "IVF7,Nibble2", "IVF7_SOAR,Nibble1,RFlat", "IVF300,SQfp16,RF16"];

fn filled(text: &str, metric: Metric, data: &[f32]) -> Store {
    let store = memory();
    create(&store, "i", &spec(text, DIM, metric));
    change(&store, "i", |writer| {
        train(writer, rows(data, DIM));
        writer.add(rows(data, DIM)).unwrap();
        writer.remove_ids(&IdSelector::range(40..50)).unwrap();
    });
    store
}

#[test]
fn codes_are_those_that_stand_in_the_lists() {
    for (text, metric) in with_every_encoding(&SPECS, "IVF7", 1) {
        let data = suited(&text, 400, DIM, 1);
        let store = filled(&text, metric, &data);
        let index = reader(&store, "i");
        let mut seen = 0;
        let mut stands = std::collections::BTreeMap::<u64, Vec<(u32, Vec<u8>)>>::new();
        for list in 0..index.nlist() as u32 {
            let (ids, codes) = index.list(list).unwrap();
            assert_eq!(codes.len(), ids.len() * index.code_bytes());
            for (offset, (id, code)) in ids.iter().zip(codes.chunks_exact(index.code_bytes())).enumerate() {
                assert_eq!(index.id_at(Slot { list, offset: offset as u32 }).unwrap(), *id);
                stands.entry(*id).or_default().push((list, code.to_vec()));
                seen += 1;
            }
        }
        assert_eq!(seen, index.list_sizes().unwrap().iter().sum::<usize>());
        assert_eq!(stands.keys().copied().collect::<Vec<_>>(), index.ids().unwrap());
        for (id, places) in stands {
            let Code { slot, bytes } = index.code(id).unwrap();
            assert_eq!(index.slot(id).unwrap(), slot);
            assert!(places.contains(&(slot.list, bytes.clone())), "{text} {id}");
            let row = rows(&data, DIM).slice(id as usize..id as usize + 1);
            assert_eq!(index.assign(row).unwrap(), [slot.list]);
            assert_eq!(index.encode_in(row, &[slot.list]).unwrap(), bytes);
            let alone = index.encode(row).unwrap();
            let number = index.list_number_bytes();
            assert_eq!(alone[..number], slot.list.to_le_bytes()[..number]);
            assert_eq!(alone[number..], bytes);
            match decodes(&text) {
                true => assert_eq!(index.decode(&alone).unwrap(), index.reconstruct_at(slot).unwrap()),
                false => {
                    assert!(matches!(index.decode(&alone), Err(Error::CannotDecode { .. })), "{text}");
                    assert!(matches!(index.reconstruct_at(slot), Err(Error::CannotDecode { .. })), "{text}");
                }
            }
        }
    }
}

#[test]
fn list_numbers_take_as_few_bytes_as_they_can() {
    for (nlist, bytes) in [(1, 0), (2, 1), (256, 1), (257, 2)] {
        let data = reals(nlist, 2, 7);
        let store = memory();
        create(&store, "i", &IndexSpec::ivf(2, Metric::L2, nlist));
        change(&store, "i", |writer| train(writer, rows(&data, 2)));
        assert_eq!(reader(&store, "i").list_number_bytes(), bytes, "{nlist}");
    }
}

#[test]
fn searches_bring_vectors_and_codes_along() {
    for (text, metric) in with_every_encoding(&SPECS, "IVF7", 1) {
        let data = suited(&text, 400, DIM, 2);
        let store = filled(&text, metric, &data);
        let index = reader(&store, "i");
        let queries = rows(&data[..20 * DIM], DIM);
        let params = nprobe(3).selector(IdSelector::range(10..300));
        let found = index.search_batch(queries, 5, &params).unwrap();
        let codes = index.search_and_return_codes(queries, 5, &params).unwrap();
        for (found, codes) in found.iter().zip(&codes) {
            assert_eq!(found.len(), codes.len());
            for (neighbor, (coded, code)) in found.iter().zip(codes) {
                assert_eq!(neighbor, coded, "{text} {metric}");
                assert_eq!(*code, index.code(neighbor.id).unwrap(), "{text} {metric}");
            }
        }
        let vectors = index.search_and_reconstruct(queries, 5, &params);
        if !decodes(&text) {
            assert!(matches!(vectors, Err(Error::CannotDecode { .. })), "{text}");
            continue;
        }
        for (found, vectors) in found.iter().zip(&vectors.unwrap()) {
            assert_eq!(found.len(), vectors.len());
            for (neighbor, vector) in found.iter().zip(vectors) {
                assert_eq!(neighbor, &vector.neighbor, "{text} {metric}");
                assert_eq!(vector.vector, index.reconstruct(neighbor.id).unwrap(), "{text} {metric}");
            }
        }
    }
}

#[test]
fn holes_are_none_and_unknown_ids_and_slots_are_errors() {
    let data = reals(100, DIM, 3);
    let store = filled("IVF7,Flat", Metric::L2, &data);
    let index = reader(&store, "i");
    let some = index.reconstruct_n(35..105).unwrap();
    for (id, vector) in (35..105).zip(some) {
        assert_eq!(vector.is_some(), (35..40).contains(&id) || (50..100).contains(&id), "{id}");
    }
    assert!(matches!(index.code(45), Err(Error::UnknownId { id: 45 })));
    assert!(matches!(index.slot(100), Err(Error::UnknownId { id: 100 })));
    assert!(matches!(index.compute_residual(&data[..DIM], 45), Err(Error::UnknownId { id: 45 })));
    let residual = index.compute_residual(&data[..DIM], 1).unwrap();
    assert!(residual.iter().zip(&data[..DIM]).zip(&data[DIM..]).all(|((r, x), y)| *r == x - y));
    for slot in [Slot { list: 7, offset: 0 }, Slot { list: 0, offset: 1000 }] {
        assert!(matches!(index.id_at(slot), Err(Error::Parameter { .. })));
        assert!(matches!(index.reconstruct_at(slot), Err(Error::Parameter { .. })));
    }
    assert!(matches!(index.list(7), Err(Error::Parameter { name: "list", .. })));
    assert!(matches!(index.decode(&[0; 13]), Err(Error::Length { .. })));
    assert!(matches!(index.decode(&[7; 1 + 4 * DIM]), Err(Error::Parameter { name: "list", .. })));
    assert!(matches!(index.encode_in(rows(&data, DIM), &[0]), Err(Error::Length { .. })));
    create(&store, "new", &spec("IVF7,Flat", DIM, Metric::L2));
    assert!(matches!(reader(&store, "new").encode(rows(&data, DIM)), Err(Error::Untrained { .. })));
}

#[test]
fn rows_go_to_the_lists_that_they_are_given() {
    let more = [("IVF7_SOAR,Nibble2,RF16".to_string(), Metric::L2)];
    for (text, metric) in every_encoding("IVF7", 1).chain(more) {
        let data = suited(&text, 200, DIM, 4);
        let store = filled(&text, metric, &data);
        let lists: Vec<u32> = (0..30).map(|i| i % 7).collect();
        let ids: Vec<u64> = (1000..1030).collect();
        change(&store, "i", |writer| {
            writer.add_preassigned(&ids, rows(&data[..30 * DIM], DIM), &lists).unwrap();
            let wrong = writer.add_preassigned(&[5000], rows(&data[..DIM], DIM), &[7]);
            assert!(matches!(wrong, Err(Error::Parameter { name: "list", .. })));
            let wrong = writer.add_preassigned(&[5000], rows(&data[..DIM], DIM), &[]);
            assert!(matches!(wrong, Err(Error::Length { what: "lists", .. })));
        });
        let index = reader(&store, "i");
        let stands: Vec<u32> = ids.iter().map(|id| index.slot(*id).unwrap().list).collect();
        assert_eq!(stands, lists);
        assert_eq!(index.len(), 220);
        assert_sound(&store, "i");
    }
}

/// RaBitQ's: the nibbles as without, and behind those of each block its entries' other bytes.
#[test]
fn other_bytes_stand_behind_the_nibbles_of_their_block() {
    let mut random = Random::new(2);
    for (m, bbs, aux) in [(1, 32, 8), (16, 64, 20), (5, 96, 1)] {
        let (plain, packer) =
            (CodePacker::new(m, bbs).unwrap(), CodePacker::new(m, bbs).unwrap().with_aux(aux).unwrap());
        for n in [1, 31, 64, 100] {
            let codes: Vec<u8> = (0..n * packer.code_bytes()).map(|_| random.next() as u8).collect();
            let each = || codes.chunks(packer.code_bytes()).map(|code| code.split_at(m.div_ceil(2)));
            let nibbles = plain.pack(&each().flat_map(|(nibbles, _)| nibbles.to_vec()).collect::<Vec<_>>());
            let others: Vec<&[u8]> = each().map(|(_, others)| others).collect();
            let mut expected = Vec::new();
            for (nibbles, others) in nibbles.unwrap().chunks(plain.block_bytes()).zip(others.chunks(bbs)) {
                expected.extend_from_slice(nibbles);
                expected.extend(others.concat());
                expected.resize(expected.len().next_multiple_of(packer.block_bytes()), 0);
            }
            let blocks = packer.pack(&codes).unwrap();
            assert_eq!(blocks, expected, "{m} {bbs} {aux} {n}");
            assert_eq!(packer.unpack(&blocks, n).unwrap(), codes);
        }
    }
    assert!(CodePacker::new(2, 32).unwrap().with_aux(usize::MAX).is_err());
}
