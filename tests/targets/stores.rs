//! The small stores that hostile bytes are put into: one of each codec, transform and kind of index, a few dozen rows.

use redb::backends::InMemoryBackend;
use vellum::{
    ClusteringParams, IdSelector, IndexSpec, Init, KeptRows, Metric, Observer, Rows, Store, TrainParams,
};

pub(crate) const DIM: usize = 8;
pub(crate) const ROWS: usize = 40;

/// A specification and its metric. New ones go to the end: seeds name them by number.
pub(crate) const SPECS: [(&str, Metric); 41] = [
    ("IVF3,Flat", Metric::L2),
    ("IVF4(IVF2),Flat", Metric::Cosine),
    ("IVF2,SQ8", Metric::L2),
    ("IVF2,SQ6_raw", Metric::InnerProduct),
    ("IVF2,SQ4_uniform", Metric::L2),
    ("IVF2,SQ8_quantiles0.1,RFlat", Metric::L2),
    ("IVF2,PQ4x4", Metric::L2),
    ("IVF2,PQ2x3np_raw", Metric::InnerProduct),
    ("IVF2,PQ4x2+4x4", Metric::L2),
    ("IVF2,PQ4x4fs", Metric::InnerProduct),
    ("IVF2,PQ4x4fsr,RFlat", Metric::L2),
    ("IVF2,PQ4x4fsr_aq0.3", Metric::Cosine),
    ("IVF2,RQ2x3", Metric::L2),
    ("IVF2,RQ3x2_Nqint8", Metric::InnerProduct),
    ("IVF2,PRQ2x2x2_Nfloat", Metric::L2),
    ("IVF2,LSQ2x3", Metric::L2),
    ("IVF2,SH1.5c", Metric::L2),
    ("IVF2,SH_6", Metric::L2),
    ("IVF2,RaBitQ", Metric::L2),
    ("IVF2,RaBitQ3", Metric::InnerProduct),
    ("IVF2,RaBitQfs2,RFlat", Metric::L2),
    ("IVF2,Nibble1", Metric::L2),
    ("IVF3,Nibble2,RSQ8+Flat", Metric::L2),
    ("IVF3_SOAR,SQfp16,RFlat", Metric::L2),
    ("IVF3,FlatDedup", Metric::L2),
    ("RR4,IVF2,Flat", Metric::L2),
    ("PCAW4,IVF2,Flat,RFlat", Metric::L2),
    ("L2norm,PCAR4,IVF2_SOAR,SQ8", Metric::Cosine),
    ("OPQ2_4,IVF2,PQ2x4", Metric::L2),
    ("ITQ4,IVF2,Flat", Metric::L2),
    ("HR,IVF2,SQbf16", Metric::InnerProduct),
    ("Center,Pad9,Trunc6,IVF2,Flat,RF16", Metric::L2),
    ("Flat", Metric::L1),
    ("IVF3,Flat", Metric::Canberra),
    ("Flat,RF16", Metric::L2),
    ("IVF2,RQ2x4fsr", Metric::L2),
    ("IVF2,PLSQ2x2x2", Metric::L2),
    ("IVF2,LSQ2x4fs", Metric::InnerProduct),
    ("IVF2,PRQ2x2x4fsr_Nrq2x4", Metric::L2),
    ("IVF2,PLSQ2x2x4fs_Nlsq2x4", Metric::L2),
    ("IVF2,SQ8_direct", Metric::L2),
];

pub(crate) fn spec(number: usize) -> IndexSpec {
    let (text, metric) = SPECS[number];
    let spec = text.parse::<IndexSpec>().unwrap_or_else(|e| panic!("{text}: {e}"));
    spec.with_dim(DIM).with_metric(metric).with_block_order(0)
}

/// Whole components from 1 to 8.
pub(crate) fn data(rows: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (1 + (state >> 40) % 8) as f32
    };
    (0..rows * DIM).map(|_| next()).collect()
}

pub(crate) fn rows(data: &[f32]) -> Rows<'_> {
    Rows::new(data, DIM).expect("whole rows")
}

pub(crate) fn params() -> TrainParams {
    let clustering = ClusteringParams { niter: 2, init: Init::Random, ..ClusteringParams::default() };
    TrainParams { clustering, ..TrainParams::default() }
}

pub(crate) fn memory() -> Store {
    let builder = Store::builder().cache_bytes(1 << 20);
    builder.open_backend(|| Ok(InMemoryBackend::new())).expect("an empty store")
}

/// Makes index "a" of this specification, trained, with rows removed, updated and added since, and a note.
pub(crate) fn fill(store: &Store, number: usize) -> vellum::Result<()> {
    let txn = store.begin_write()?;
    let spec = spec(number);
    txn.create_index("a", &spec)?;
    let mut writer = txn.index("a")?;
    writer.add(rows(&data(ROWS, 3)))?;
    if spec.nlist().is_some() {
        writer.train_stored(&params(), &mut Observer::none())?;
    }
    writer.remove_ids(&IdSelector::range(5..9))?;
    // The first two are equal to others.
    writer.add(rows(&data(4, 3)))?;
    writer.update_vectors(&[12], rows(&data(1, 5)))?;
    writer.set_note(b"a note")?;
    drop(writer);
    if spec.kept_rows() == Some(KeptRows::F32) {
        // And one of keys beside it.
        txn.create_index("k", &spec.with_keys(true))?;
        let mut writer = txn.index("k")?;
        let keys: Vec<String> = (0..12).map(|i| format!("key {i}")).collect();
        writer.add_with_keys(&keys, rows(&data(12, 7)))?;
    }
    txn.commit()
}
