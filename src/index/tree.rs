//! The tree as it is stored: a section of its own beside the centroids, made with them.
//!
//! ```text
//! 0   u32            crc32 of the section of centroids and of all that follows here
//! 4   u32            super-clusters
//! 8   nlist × u32    the super-cluster of each list
//!     supers × dim   f32, their centroids
//! ```
//! So a list is in exactly one super-cluster whatever the bytes are. The checksum binds the tree to its centroids: a
//! tree of an earlier training, or a chunk of one, is noticed.

use super::model::Model;
use crate::coarse::Tree;
use crate::progress::Observer;
use crate::storage::sections::Section;
use crate::storage::{BytesTable, Tables};
use crate::{Error, IndexSpec, Result, Rows};

const HEAD: usize = 8;

impl Model {
    /// The tree of centroids, if the specification wants one; the same from the same centroids. Ticked as `"tree"`.
    pub(crate) fn grow_tree(
        spec: &IndexSpec,
        centroids: &[f32],
        observer: &mut Observer<'_>,
    ) -> Result<Option<Tree>> {
        let grow = |supers| {
            let rows = Rows::of(centroids, spec.inner_dim());
            Tree::grow(rows, supers, spec.metric.similarity(), &mut observer.of_stage("tree"))
        };
        spec.supers().map(grow).transpose()
    }
}

/// The bytes of a tree of so many dimensions over these `centroids`, given as they are stored.
pub(crate) fn encode(tree: &Tree, dim: usize, centroids: &[u8]) -> Vec<u8> {
    let supers = (tree.centroids.len() / dim) as u32;
    let mut bytes = vec![0; 4];
    bytes.extend(supers.to_le_bytes());
    bytes.extend(tree.owners.iter().flat_map(|owner| owner.to_le_bytes()));
    bytes.extend(tree.centroids.iter().flat_map(|component| component.to_le_bytes()));
    let sum = checksum(centroids, &bytes);
    bytes[..4].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// The stored tree over these `centroids`, if the specification says that there is one.
pub(crate) fn read<B: BytesTable, M, F, K>(
    tables: &Tables<B, M, F, K>,
    spec: &IndexSpec,
    centroids: &[u8],
) -> Result<Option<Tree>> {
    let Some(supers) = spec.supers() else { return Ok(None) };
    let bad = |what: &str| Error::corrupt(&tables.names.model, (Section::Tree as u64) << 32, what);
    let bytes = tables.read_section(Section::Tree)?.ok_or_else(|| bad("the tree is missing"))?;
    decode(&bytes, supers, spec.inner_dim(), centroids).map(Some).map_err(bad)
}

fn decode(bytes: &[u8], supers: usize, dim: usize, centroids: &[u8]) -> Result<Tree, &'static str> {
    let nlist = centroids.len() / (4 * dim);
    if bytes.len() != HEAD + 4 * nlist + 4 * supers * dim {
        return Err("the tree is not as long as it should be");
    }
    let (words, _) = bytes.as_chunks::<4>();
    let (head, words) = words.split_at(HEAD / 4);
    if u32::from_le_bytes(head[0]) != checksum(centroids, bytes) {
        return Err("the tree is not the one of these centroids");
    }
    if u32::from_le_bytes(head[1]) as usize != supers {
        return Err("the tree has another number of super-clusters than the specification");
    }
    let (owners, components) = words.split_at(nlist);
    let tree = Tree {
        owners: owners.iter().map(|word| u32::from_le_bytes(*word)).collect(),
        centroids: components.iter().map(|word| f32::from_le_bytes(*word)).collect(),
    };
    if tree.owners.iter().any(|owner| *owner as usize >= supers) {
        return Err("a list is in a super-cluster that there is not");
    }
    if tree.centroids.iter().any(|component| !component.is_finite()) {
        return Err("a centroid of a super-cluster is not finite");
    }
    Ok(tree)
}

/// Of the centroids and of the tree but for its first four bytes.
fn checksum(centroids: &[u8], tree: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(centroids);
    sum.update(&tree[4..]);
    sum.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{load_header, open_write};
    use crate::{Coarse, Metric, SearchParams, Store, TrainParams};
    use redb::Database;
    use redb::backends::InMemoryBackend;
    use std::sync::Arc;

    /// Trained before there were trees: the bare spelling, very many lists, no section. It stays as it is, through
    /// another training, too.
    #[test]
    fn an_index_that_is_older_than_trees_has_none() {
        let (nlist, dim) = (1 << 16, 1);
        let db = Arc::new(Database::builder().create_with_backend(InMemoryBackend::new()).unwrap());
        let store = || Store::builder().attach(db.clone()).unwrap();
        let data: Vec<f32> = (0..nlist).map(|i| i as f32).collect();
        let rows = Rows::new(&data, dim).unwrap();
        let train = |store: &Store| {
            let txn = store.begin_write().unwrap();
            let mut writer = txn.index("i").unwrap();
            writer.train(rows, &TrainParams::default(), &mut Observer::none()).unwrap();
            drop(writer);
            txn.commit().unwrap();
        };
        let txn = store().begin_write().unwrap();
        let spec = IndexSpec::ivf(dim, Metric::L2, nlist).with_coarse(Coarse::Flat);
        txn.create_index("i", &spec).unwrap();
        txn.index("i").unwrap().add(rows.slice(0..500)).unwrap();
        txn.commit().unwrap();
        train(&store());
        let txn = db.begin_write().unwrap();
        let mut tables = open_write(&txn, "i").unwrap();
        let mut header = load_header(&tables.meta, "i/meta").unwrap();
        header.spec = "IVF65536,Flat".into();
        tables.meta.insert(0, header.encode().as_slice()).unwrap();
        drop(tables);
        txn.commit().unwrap();
        for _ in 0..2 {
            let store = store();
            let read = store.begin_read().unwrap();
            assert!(read.verify("i", &mut Observer::none()).unwrap().is_ok());
            let reader = read.index("i").unwrap();
            assert_eq!(reader.spec().coarse(), Coarse::Auto);
            let found = reader.search(&[77.2], 2, &SearchParams::new().nprobe(2)).unwrap();
            assert_eq!((found[0].id, found[1].id), (77, 78));
            train(&store);
        }
    }

    fn bytes() -> (Vec<u8>, Vec<u8>) {
        let centroids: Vec<u8> = (0..5 * 2).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let tree = Tree { owners: vec![1, 0, 1, 2, 2], centroids: vec![0.5; 3 * 2] };
        let bytes = encode(&tree, 2, &centroids);
        assert_eq!(decode(&bytes, 3, 2, &centroids), Ok(tree));
        (bytes, centroids)
    }

    /// Signs the bytes again, so that only their meaning is wrong.
    fn signed(mut bytes: Vec<u8>, centroids: &[u8]) -> Vec<u8> {
        let sum = checksum(centroids, &bytes);
        bytes[..4].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    #[test]
    fn every_changed_byte_and_length_is_noticed() {
        let (bytes, mut centroids) = bytes();
        for at in 0..bytes.len() {
            let mut rotten = bytes.clone();
            rotten[at] ^= 1;
            assert!(decode(&rotten, 3, 2, &centroids).is_err(), "byte {at}");
            assert!(decode(&bytes[..at], 3, 2, &centroids).is_err(), "{at} bytes");
        }
        assert!(decode(&[&bytes[..], &[0; 4]].concat(), 3, 2, &centroids).is_err());
        centroids[3] ^= 1;
        assert!(decode(&bytes, 3, 2, &centroids).is_err());
    }

    #[test]
    fn what_is_well_formed_and_wrong_is_noticed() {
        let (bytes, centroids) = bytes();
        let with = |at: usize, word: [u8; 4]| {
            let mut bytes = bytes.clone();
            bytes[at..at + 4].copy_from_slice(&word);
            decode(&signed(bytes, &centroids), 3, 2, &centroids)
        };
        assert!(with(4, 4u32.to_le_bytes()).is_err_and(|what| what.contains("number of super-clusters")));
        assert!(with(8, 3u32.to_le_bytes()).is_err_and(|what| what.contains("there is not")));
        assert!(with(8, u32::MAX.to_le_bytes()).is_err());
        for value in [f32::NAN, f32::INFINITY] {
            assert!(with(8 + 5 * 4, value.to_le_bytes()).is_err_and(|what| what.contains("not finite")));
        }
    }
}
