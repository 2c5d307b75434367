//! Hostile models: bytes taken in by `import_model`, signed so that they get past checksum and fingerprint, then used for
//! everything that a model is used for.
//!
//! ```text
//! | specification u8 | u8: bit 0 signed again, bit 1 trained again | the exported model |
//! ```

use super::seal::{crc32, put};
use super::stores::{self, DIM, SPECS};
use std::ops::ControlFlow;
use std::sync::OnceLock;
use vellum::{Error, IdSelector, IndexWriter, Observer, SearchParams, Store};

pub(crate) fn check(input: &[u8]) -> bool {
    let [number, flags, model @ ..] = input else { return false };
    let number = *number as usize % SPECS.len();
    let mut model = model.to_vec();
    if flags & 1 == 1 {
        sign(&mut model);
    }
    let txn = store(number).begin_write().expect("a transaction");
    let mut writer = txn.index("a").expect("it is there");
    match writer.import_model(&model, &mut Observer::none()) {
        Err(_) => return false,
        Ok(fingerprint) => assert_eq!(writer.reader().fingerprint(), Some(fingerprint)),
    }
    sound(use_it(&mut writer, flags & 2 != 0));
    true
}

/// A model that was believed may score as it likes, but what it stored is no damage.
fn sound(used: vellum::Result<()>) {
    if let Err(Error::Corrupt { table, key, what }) = used {
        panic!("a model that was believed is damage: {table}, {key}: {what}");
    }
}

fn use_it(writer: &mut IndexWriter<'_>, again: bool) -> vellum::Result<()> {
    let (data, queries) = (stores::data(3, 11), stores::data(2, 13));
    let everything = SearchParams::new().nprobe(99);
    let reader = writer.reader();
    assert_eq!(reader.list_sizes()?.len(), reader.nlist());
    // Transforms of a hostile model may make vectors too long: then the query is refused.
    let _ = reader.search_batch(stores::rows(&queries), 7, &everything);
    let _ = reader.search(&queries[..DIM], 3, &SearchParams::new().nprobe(1));
    let _ = reader.range_search(&queries[..DIM], 40.0, &everything);
    for id in reader.ids()? {
        match reader.reconstruct(id) {
            Err(e @ Error::Corrupt { .. }) => return Err(e),
            _ => {
                reader.code(id)?;
            }
        }
    }
    if let Ok(codes) = reader.encode(stores::rows(&data)) {
        let _ = reader.decode(&codes);
    }
    if let Ok(query) = reader.prepare_query(&queries[..DIM]) {
        for (list, _) in query.probe(9)? {
            let mut scanner = query.list_scanner();
            scanner.enter(list)?;
            scanner.scan(1e9, |_| ControlFlow::Continue(()))?;
            // A code of which nobody has heard.
            let _ = scanner.distance_of_code(&vec![0xA7; reader.code_bytes()]);
        }
    }
    reader.export_model()?;
    reader.stats()?;
    drop(reader);
    let train = |writer: &mut IndexWriter<'_>| match again {
        true => writer.train_stored(&stores::params(), &mut Observer::none()).map(|_| ()),
        false => Ok(()),
    };
    let changes = [
        writer.add(stores::rows(&data)).map(|_| ()),
        writer.update_vectors(&[1], stores::rows(&data[..DIM])),
        writer.remove_ids(&IdSelector::range(2..4)).map(|_| ()),
        writer.renumber(&mut Observer::none()).map(|_| ()),
        train(writer),
    ];
    for change in changes {
        match change {
            Err(e @ Error::Corrupt { .. }) => return Err(e),
            // Poisoned by nobody: each was refused before it wrote.
            _ => assert!(!writer.is_poisoned()),
        }
    }
    Ok(())
}

/// Index "a" of each specification; transactions on it are never committed.
fn store(number: usize) -> &'static Store {
    static STORES: [OnceLock<Store>; SPECS.len()] = [const { OnceLock::new() }; SPECS.len()];
    STORES[number].get_or_init(|| {
        let store = stores::memory();
        stores::fill(&store, number).unwrap_or_else(|e| panic!("{}: {e}", SPECS[number].0));
        store
    })
}

/// Checksum and fingerprint, as `src/index/exchange.rs` draws them.
fn sign(model: &mut [u8]) {
    const HEAD: usize = 44;
    let Some(parts) = model.get(HEAD..) else { return };
    let mut hash: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    let mut add = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u128::from(*byte)).wrapping_mul(0x0100_0000_0000_0000_0000_013b);
        }
    };
    add(&model[32..HEAD]);
    let mut rest = parts;
    for _ in 0..4 {
        let Some((len, after)) = rest.split_first_chunk::<8>() else { return };
        let Some((part, after)) = after.split_at_checked(u64::from_le_bytes(*len) as usize) else { return };
        add(len);
        add(part);
        rest = after;
    }
    put(model, 16, &hash.to_le_bytes());
    let crc = crc32(&model[16..]);
    put(model, 12, &crc.to_le_bytes());
}

/// A seed: the model that each store has, and a signature that is made again.
pub(crate) fn seed(number: usize) -> Option<Vec<u8>> {
    let reader = store(number).begin_read().ok()?.index("a").ok()?;
    Some([&[number as u8, 1][..], &reader.export_model().ok()?].concat())
}
