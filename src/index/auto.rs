//! Indexes that choose by themselves ([`IndexSpec::auto`](crate::IndexSpec::auto)): when they train, and what they say of it.
//!
//! Until then such an index is like any other that waits for its training: f32 in one list, searched exactly, kept rows
//! beside them. Training is [`IndexWriter::train_stored`], in the transaction of the verb that brought the vectors, after
//! they are in: so whoever reads sees either no new vectors and the old lists or both new, and an aborted transaction leaves neither.

use super::reader::IndexReader;
use super::train::TrainParams;
use super::writer::IndexWriter;
use crate::autopilot::AutoReport;
use crate::math::kmeans::ClusteringParams;
use crate::storage::format::State;
use crate::{Error, Observer, Result, Tick};
use std::ops::ControlFlow;

/// Who is told of trainings that nobody called.
pub(crate) type AutoObserver<'t> = Box<dyn FnMut(Tick) -> ControlFlow<()> + Send + 't>;

/// Rows a list that such a training looks at: a pause in an add should be short, and four times as many make lists that
/// are hardly better.
const ROWS_A_LIST: usize = 64;

/// The stage that must not end half-way.
const MOVING: &str = "redistribute";

impl IndexReader<'_> {
    /// What an index of [`IndexSpec::auto`](crate::IndexSpec::auto) has chosen, why, and when that changes; `None` for another.
    pub fn auto(&self) -> Option<AutoReport> {
        let auto = self.model.spec.auto?;
        let lists = self.is_trained().then(|| self.nlist());
        Some(AutoReport::new(self.len(), auto.expected, self.dim(), lists))
    }
}

impl<'t> IndexWriter<'t> {
    /// Whether verbs that add to an index of [`IndexSpec::auto`](crate::IndexSpec::auto) may train it, in this writer: true unless it is
    /// told otherwise. An application that does not want the pause switches it off, asks [`IndexReader::auto`] whether
    /// training is due, and calls [`train_stored`](Self::train_stored) when it suits.
    pub fn auto_train(&mut self, on: bool) {
        self.auto_train = on;
    }

    /// Told of trainings that an add began, as an [`Observer`] is. To break off means "not now": the vectors stay added, the
    /// index as it was, and this writer does not begin again. While vectors move to their lists (`"redistribute"`) it is too late.
    pub fn observe_auto_train(&mut self, callback: impl FnMut(Tick) -> ControlFlow<()> + Send + 't) {
        self.auto_observer = Some(Box::new(callback));
    }

    /// Trains the index if it chooses that by itself and has become large enough.
    pub(crate) fn settle(&mut self) -> Result<()> {
        let Some(report) = self.model.spec.auto.and_then(|_| self.reader().auto()) else { return Ok(()) };
        let may = self.auto_train && report.by_itself && self.header.state == State::Ready;
        if !may || !report.is_due() {
            return Ok(());
        }
        let mut told = self.auto_observer.take();
        let mut tell = |tick: Tick| match told.as_mut().map(|told| told(tick)) {
            Some(flow) if tick.stage != MOVING => flow,
            _ => ControlFlow::Continue(()),
        };
        let clustering =
            ClusteringParams { max_points_per_centroid: ROWS_A_LIST, ..ClusteringParams::default() };
        let params = TrainParams { clustering, ..TrainParams::default() };
        let done = self.train_stored(&params, &mut Observer::new(&mut tell));
        self.auto_observer = told;
        match done {
            Err(Error::Cancelled) => {
                self.auto_train = false;
                Ok(())
            }
            done => done.map(drop),
        }
    }
}
