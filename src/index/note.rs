//! The note: bytes that an application keeps with an index, such as the name of the model that made its vectors.
//!
//! A section of the model that vellum never reads: it commits, is checked and is backed up with the rest, keeps its
//! place when the index is trained, cleared or renamed, and goes with it.

use super::reader::IndexReader;
use super::writer::IndexWriter;
use crate::storage::sections::Section;
use crate::{Error, Result};

/// Bytes of a note at most.
const NOTE_MAX: usize = 1 << 20;

impl IndexWriter<'_> {
    /// Keeps bytes of the application's own with the index, in place of those kept before: at most 1 MiB.
    ///
    /// # Errors
    /// [`Error::Parameter`] for more.
    pub fn set_note(&mut self, note: &[u8]) -> Result<()> {
        if note.len() > NOTE_MAX {
            let what = format!("{} bytes, at most {NOTE_MAX} are kept", note.len());
            return Err(Error::Parameter { name: "note", what });
        }
        self.change(|writer| {
            let seq = writer.header.seq;
            writer.tables.write_section(Section::Note, note, seq)
        })
    }
}

impl IndexReader<'_> {
    /// What [`IndexWriter::set_note`] kept with the index.
    pub fn note(&self) -> Result<Option<Vec<u8>>> {
        self.view.note()
    }
}
