//! The first calibration, of a training: its rows are the index, in memory, and some of them the queries.
//!
//! ```text
//! rows of the training, in the order in which they came → lists and codes of the new model, at most 64 a list and 16,384 at least
//! 1,024 of them, or every eighth → queries, which neither find themselves nor what stood around them
//! ```
//! Mostly lists are trained before vectors come, so there is nothing else to measure over; and where they are stored already,
//! rows in memory are measured over in a fraction of the time. What is measured is good for an index of more vectors, too,
//! as `calibrate` says of growth. The queries were among the rows that lists were fitted to: one of some dozens or hundreds a list, of
//! which its own part in a centroid can be neglected.

use super::measure::{Field, Held};
use super::truth::Stock;
use super::{Calibration, CalibrationSource, spread};
use crate::index::add::encode;
use crate::index::exchange::fingerprint_of;
use crate::index::model::Model;
use crate::index::stats::PartStats;
use crate::index::view::{View, ViewIds};
use crate::storage::block::{Geometry, Run};
use crate::storage::column::Column;
use crate::storage::format::{Header, ListEntry};
use crate::storage::ids::{Slot, Slots};
use crate::storage::sections::Section;
use crate::storage::twins::Twin;
use crate::storage::{EachKept, Stage};
use crate::{Observer, Result, Rows};
use zerocopy::little_endian::U32;

/// Queries by default.
pub(crate) const CALIBRATION_QUERIES: usize = 1024;
/// Fewer than are measured over stored rows: it should take a small part of the training.
const KS: [usize; 3] = [1, 10, 100];
/// Rows a list, at most, but so many in all.
const ROWS_A_LIST: usize = 64;
const ROWS_MIN: usize = 16_384;
/// Bytes of codes: a quarter of what the rows take, within these bounds.
const CODE_BYTES_MIN: usize = 8 << 20;
const CODE_BYTES_MAX: usize = 64 << 20;
/// Rows that are encoded together.
const ENCODED: usize = 8192;

/// Prepared rows of a training; `places` says where each of them stood, if not one after the other.
#[derive(Clone, Copy)]
pub(crate) struct Origin<'a> {
    pub(crate) rows: Rows<'a>,
    pub(crate) places: Option<&'a [usize]>,
}

/// Calibrates a model that was just trained, before anything is stored by it. `None` if there are too few rows, or no
/// way to know the truth.
pub(crate) fn calibrate_on(
    model: &Model,
    header: &Header,
    origin: Origin<'_>,
    (queries, seed): (usize, u64),
    observer: &mut Observer<'_>,
) -> Result<Option<Calibration>> {
    let picks = picks(model, origin, seed);
    let ks: Vec<usize> = KS.into_iter().filter(|k| 2 * k <= picks.len()).collect();
    let Some(&most) = ks.last() else { return Ok(None) };
    let sample = Sample::new(model, header, origin.rows, &picks)?;
    let (asked, around) = spread(picks.len(), queries, seed);
    let row = |row: usize| origin.rows.row(picks[row]);
    let mut held = Held {
        queries: asked.iter().flat_map(|at| row(*at).iter().copied()).collect(),
        left_out: asked.iter().map(|at| at.saturating_sub(around) as u32..(at + around + 1) as u32).collect(),
        truth: Vec::new(),
    };
    let numbers: Vec<u32> = (0..picks.len() as u32).collect();
    let fetch = |number: u32, vectors: &mut Vec<f32>| {
        vectors.extend(row(number as usize));
        Ok(())
    };
    let ids = ViewIds(&sample);
    let stock = Stock { spec: &model.spec, rows: &numbers, fetch: &fetch, ids: &ids };
    stock.seek(&mut held, most, observer)?;
    let field = Field { view: &sample, model, held: &held };
    let calibration = field.calibration(CalibrationSource::Training, &ks, observer)?;
    Ok(Some(Calibration { model: fingerprint_of(model), ..calibration }))
}

/// Which rows, in the order in which they stood.
fn picks(model: &Model, Origin { rows, places }: Origin<'_>, seed: u64) -> Vec<usize> {
    let bytes = (rows.as_slice().len() / 4 * size_of::<f32>()).clamp(CODE_BYTES_MIN, CODE_BYTES_MAX);
    let held = bytes / (model.codec.layout().code_bytes() * model.places()).max(1);
    let most = (ROWS_A_LIST * model.nlist()).max(ROWS_MIN).min(held).min(rows.len());
    let mut order: Vec<usize> = (0..rows.len()).collect();
    if let Some(places) = places {
        order.sort_unstable_by_key(|row| places[*row]);
    }
    let mut picks = crate::math::random::Random::new(seed).sample(rows.len(), most);
    picks.sort_unstable();
    picks.into_iter().map(|pick| order[pick]).collect()
}

/// Rows in lists, in memory: a view of an index that is nowhere stored. Ids are row numbers, and nothing is there but lists.
struct Sample {
    header: Header,
    geometry: Geometry,
    lists: Vec<List>,
}

#[derive(Default)]
struct List {
    /// Packed, until all are there.
    codes: Vec<u8>,
    rows: Vec<U32>,
}

impl Sample {
    fn new(model: &Model, header: &Header, rows: Rows<'_>, picks: &[usize]) -> Result<Self> {
        let (n, nlist) = (picks.len(), model.nlist());
        let header = Header {
            ntotal: n as u64,
            next_row: n as u32,
            next_id: n as u64,
            nlist: nlist as u32,
            first_list: 0,
            twins: 0,
            ..header.clone()
        };
        let mut lists: Vec<List> = (0..nlist).map(|_| List::default()).collect();
        let code_bytes = model.codec.layout().code_bytes();
        for (part, picks) in picks.chunks(ENCODED).enumerate() {
            let some: Vec<f32> = picks.iter().flat_map(|row| rows.row(*row).iter().copied()).collect();
            let some = Rows::of(&some, model.spec.dim);
            let projected = model.admit(some)?;
            let projected = Rows::of(&projected, model.inner_dim());
            let of = model.assign(some, projected)?;
            let codes = encode(model, projected, &of);
            for (i, (list, code)) in of.iter().zip(codes.chunks_exact(code_bytes)).enumerate() {
                let list = &mut lists[*list as usize];
                list.codes.extend_from_slice(code);
                list.rows.push(((part * ENCODED + i % picks.len()) as u32).into());
            }
        }
        for list in &mut lists {
            let packed = std::mem::take(&mut list.codes);
            // Each run by itself: its entries may end within a group.
            for run in packed.chunks(model.geometry.run_entries() * code_bytes) {
                model.geometry.layout.pack(run, &mut list.codes);
            }
        }
        Ok(Sample { header, geometry: model.geometry, lists })
    }
}

impl View for Sample {
    fn header(&self) -> &Header {
        &self.header
    }
    fn list(&self, list: u32) -> Result<ListEntry> {
        Ok(ListEntry { n: self.lists[list as usize].rows.len() as u32, ..ListEntry::default() })
    }
    fn visit(&self, list: u32, each: &mut dyn FnMut(Run<'_>) -> Result<()>) -> Result<()> {
        let List { codes, rows } = &self.lists[list as usize];
        let (layout, entries) = (self.geometry.layout, self.geometry.run_entries());
        let codes = codes.chunks(layout.region_bytes(entries).max(1));
        rows.chunks(entries).zip(codes).try_for_each(|(rows, codes)| each(Run { codes, rows }))
    }
    fn peek(&self, _list: u32) -> Option<&[u8]> {
        None
    }
    fn warm_up(&self) -> Result<()> {
        Ok(())
    }
    fn approach_ids(&self, _rows: &[u32]) {}
    fn id(&self, row: u32) -> Result<u64> {
        Ok(row.into())
    }
    fn approach_rows(&self, _stage: Stage, _rows: &[u32]) {}
    fn kept_rows(&self, _stage: Stage, _rows: &[u32], _each: &mut EachKept<'_>) -> Result<()> {
        Ok(())
    }
    fn row_of(&self, id: u64) -> Result<Option<u32>> {
        Ok(u32::try_from(id).ok().filter(|row| *row < self.header.next_row))
    }
    fn for_each_id(&self, each: &mut dyn FnMut(u32, u64)) -> Result<()> {
        (0..self.header.next_row).for_each(|row| each(row, row.into()));
        Ok(())
    }
    fn slot_of(&self, _row: u32, _column: &Column, _places: usize) -> Result<Slot> {
        Err(nowhere())
    }
    fn slots_of(&self, _row: u32, _column: &Column, _places: usize) -> Result<Slots> {
        Err(nowhere())
    }
    fn twin(&self, _row: u32) -> Result<Option<Twin>> {
        Ok(None)
    }
    fn code_at(&self, _slot: Slot, _geometry: &Geometry) -> Result<Option<(Vec<u8>, u32)>> {
        Err(nowhere())
    }
    fn id_of_key(&self, _key: &[u8]) -> Result<Option<u64>> {
        Ok(None)
    }
    fn key_of(&self, _id: u64) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }
    fn all_ids(&self) -> Result<Vec<u64>> {
        Ok((0..self.header.ntotal).collect())
    }
    fn parts(&self) -> Result<Vec<PartStats>> {
        Ok(Vec::new())
    }
    fn training(&self) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }
    fn note(&self) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }
    fn section(&self, _section: Section) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }
}

/// Searches do not ask.
fn nowhere() -> crate::Error {
    crate::Error::Unsupported { what: "slots of a sample in memory" }
}
