//! Sizes: what an index holds and where its bytes are.

use super::calibrate::Calibration;
use super::reader::IndexReader;
use crate::guard::guarded;
use crate::storage::twins::TWIN;
use crate::storage::{BytesTable, Tables};
use crate::{AutoReport, IndexSpec, Result};
use redb::{ReadableTable, TableStats};

/// What an index holds and where its bytes are.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct IndexStats {
    /// What it was created as.
    pub spec: IndexSpec,
    /// What an automatic index has chosen, why, and when that changes.
    pub auto: Option<AutoReport>,
    /// What searches for a recall go by ([`Calibration::is_stale`] says whether `rows` are too many or too few for it).
    pub calibration: Option<Calibration>,
    /// Vectors.
    pub rows: u64,
    /// Entries of all lists: one a vector, or two where vectors stand in two lists, or one a distinct vector of a list
    /// where equal ones share it.
    pub entries: u64,
    /// Vectors that share the entry of an equal one, and have none of their own.
    pub twins: u64,
    /// Bytes of one code.
    pub code_bytes: usize,
    /// Bytes of one kept row, in both forms if there are two; 0 if none are kept.
    pub row_bytes: usize,
    /// Lists in use, and whether training has made them.
    pub lists: usize,
    /// False until trained.
    pub trained: bool,
    /// Entries of the shortest and the longest list.
    pub shortest_list: usize,
    /// Entries of the longest list.
    pub longest_list: usize,
    /// nlist·Σn²/(Σn)²; 1 when all lists are equally long.
    pub imbalance: f64,
    /// Mean ‖x − c‖² of the entries of trained lists.
    pub mean_residual: f64,
    /// Row numbers that were freed and not used again yet.
    pub free_rows: u64,
    /// Changes made to the index since it was created.
    pub changes: u64,
    /// Bytes by table.
    pub parts: Vec<PartStats>,
}

/// The bytes of one table.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartStats {
    /// The table's name within the index.
    pub name: &'static str,
    /// Values in it.
    pub values: u64,
    /// Bytes of keys and values.
    pub stored_bytes: u64,
    /// Bytes of the pages they stand in.
    pub file_bytes: u64,
}

impl IndexStats {
    /// What the vectors, ids, map and slots would take without any overhead: per entry, the code and a slot; per row,
    /// an id in the column, an id and a row number in the map, and the kept row; per twin, a slot and what links it.
    pub fn logical_bytes(&self) -> u64 {
        let twins = self.twins * (8 + TWIN) as u64;
        self.entries * (self.code_bytes + 8) as u64 + self.rows * (self.row_bytes + 8 + 12) as u64 + twins
    }

    /// Bytes of all pages of the index.
    pub fn file_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.file_bytes).sum()
    }
}

impl IndexReader<'_> {
    /// What the index holds and where its bytes are. Walks all pages of the index.
    pub fn stats(&self) -> Result<IndexStats> {
        let header = self.view.header();
        let sizes = self.list_sizes()?;
        let entries: u64 = sizes.iter().map(|n| *n as u64).sum();
        let mut residual = 0.0;
        for list in 0..self.nlist() as u32 {
            residual += self.view.list(list)?.residual;
        }
        Ok(IndexStats {
            spec: self.spec().clone(),
            auto: self.auto(),
            calibration: self.calibration().cloned(),
            rows: self.len(),
            entries,
            twins: header.twins.into(),
            code_bytes: self.model.codec.layout().code_bytes(),
            row_bytes: self.model.kept.iter().map(|kept| kept.form.width()).sum(),
            lists: self.nlist(),
            trained: self.is_trained(),
            shortest_list: sizes.iter().copied().min().unwrap_or(0),
            longest_list: sizes.iter().copied().max().unwrap_or(0),
            imbalance: imbalance(&sizes),
            mean_residual: if entries == 0 { 0.0 } else { residual / entries as f64 },
            free_rows: u64::from(header.next_row).saturating_sub(header.ntotal),
            changes: header.seq,
            parts: self.view.parts()?,
        })
    }
}

/// nlist·Σn²/(Σn)², and 1 where there is nothing.
pub(crate) fn imbalance(sizes: &[usize]) -> f64 {
    let total: f64 = sizes.iter().map(|n| *n as f64).sum();
    let squares: f64 = sizes.iter().map(|n| *n as f64 * *n as f64).sum();
    if total == 0.0 { 1.0 } else { sizes.len() as f64 * squares / (total * total) }
}

/// The bytes of every table of the index; walks all their pages.
pub(crate) fn parts<B, M, F, K>(tables: &Tables<B, M, F, K>) -> Result<Vec<PartStats>>
where
    B: BytesTable,
    M: ReadableTable<u64, u32>,
    F: ReadableTable<u64, ()>,
    K: ReadableTable<&'static [u8], u64>,
{
    let bytes: [(&'static str, &B); 10] = [
        ("meta", &tables.meta),
        ("model", &tables.model),
        ("lists", &tables.lists),
        ("blocks", &tables.blocks),
        ("tails", &tables.tails),
        ("slots", &tables.slots),
        ("ids", &tables.ids),
        ("rows", &tables.rows),
        ("exact", &tables.exact),
        ("keys", &tables.keys),
    ];
    guarded(|| {
        let mut parts = Vec::new();
        for (name, table) in bytes {
            parts.push(part(name, table.len()?, table.stats()?));
        }
        if let Some(twins) = &tables.twins {
            parts.push(part("twins", twins.len()?, twins.stats()?));
        }
        parts.push(part("map", tables.map.len()?, tables.map.stats()?));
        parts.push(part("free", tables.free.len()?, tables.free.stats()?));
        parts.push(part("keymap", tables.keymap.len()?, tables.keymap.stats()?));
        Ok(parts)
    })
}

fn part(name: &'static str, values: u64, stats: TableStats) -> PartStats {
    PartStats {
        name,
        values,
        stored_bytes: stats.stored_bytes(),
        file_bytes: stats.stored_bytes() + stats.metadata_bytes() + stats.fragmented_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::imbalance;

    #[test]
    fn imbalance_is_one_when_lists_are_equal() {
        assert_eq!(imbalance(&[5, 5, 5, 5]), 1.0);
        assert_eq!(imbalance(&[20, 0, 0, 0]), 4.0);
        assert_eq!(imbalance(&[0, 0]), 1.0);
    }
}
