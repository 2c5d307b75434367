//! Progress and cancellation of long work.
//!
//! Long verbs take an [`Observer`] and tick it between bounded steps. The callback sees how far a stage
//! has come and may ask to stop; the verb then returns [`Error::Cancelled`] and what it had not
//! committed is undone.

use crate::guard::callers;
use crate::{Error, Result};
use std::ops::ControlFlow;

/// One report of progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tick {
    /// What is being done, such as `"train"` or `"add"`.
    pub stage: &'static str,
    /// Units done; never falls within a stage.
    pub done: u64,
    /// Units in all.
    pub total: u64,
}

/// Who is told of progress: nobody, or a callback that may cancel by returning
/// [`ControlFlow::Break`].
#[derive(Default)]
pub struct Observer<'a> {
    callback: Option<Callback<'a>>,
    /// What all ticks are of, whatever they say.
    stage: Option<&'static str>,
}

type Callback<'a> = &'a mut (dyn FnMut(Tick) -> ControlFlow<()> + Send);

impl<'a> Observer<'a> {
    /// Tells nobody and never cancels.
    pub fn none() -> Observer<'static> {
        Observer { callback: None, stage: None }
    }

    /// Calls `callback` at each tick.
    pub fn new(callback: &'a mut (dyn FnMut(Tick) -> ControlFlow<()> + Send)) -> Self {
        Observer { callback: Some(callback), stage: None }
    }

    /// The same observer, for work that does not know which stage it is of.
    pub(crate) fn of_stage(&mut self, stage: &'static str) -> Observer<'_> {
        let stage = Some(stage);
        match &mut self.callback {
            Some(callback) => Observer { callback: Some(&mut **callback), stage },
            None => Observer { callback: None, stage },
        }
    }

    /// Reports; an error if the callback asks to stop.
    pub(crate) fn tick(&mut self, stage: &'static str, done: u64, total: u64) -> Result<()> {
        let tick = Tick { stage: self.stage.unwrap_or(stage), done, total };
        match self.callback.as_mut().map(|callback| callers(|| callback(tick))) {
            Some(ControlFlow::Break(())) => Err(Error::Cancelled),
            _ => Ok(()),
        }
    }
}

impl std::fmt::Debug for Observer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Observer").field("callback", &self.callback.is_some()).finish()
    }
}
