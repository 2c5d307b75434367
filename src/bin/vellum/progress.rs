//! Progress on standard error, and Ctrl-C.
//!
//! The first Ctrl-C only sets a flag, which every [`Meter`] looks at; the work then ends as cancelled
//! work does. The second ends the process: a store survives that like any crash.

use crate::console::Console;
use crate::failure::Failure;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::Write as _;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use vellum::{Observer, Tick};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on, Ctrl-C (and a request to terminate) cancels.
pub(crate) fn catch_interrupts() -> Result<(), Failure> {
    ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    })
    .map_err(|e| Failure::message(format!("Ctrl-C cannot be caught: {e}")))
}

pub(crate) fn is_interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// A failure if the user has asked to stop.
pub(crate) fn check_interrupt() -> Result<(), Failure> {
    if is_interrupted() { Err(vellum::Error::Cancelled.into()) } else { Ok(()) }
}

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Hidden,
    Bar,
    Lines,
}

/// How often a line is written within one stage.
const LINE_EVERY: Duration = Duration::from_secs(2);

/// Shows one stage after the other.
#[derive(Debug)]
pub(crate) struct Meter {
    style: Style,
    stage: &'static str,
    bar: ProgressBar,
    last_line: Instant,
}

impl Meter {
    pub(crate) fn new(console: &Console) -> Self {
        Meter { style: console.style, stage: "", bar: ProgressBar::hidden(), last_line: Instant::now() }
    }

    /// Shows a step; an error if the user has asked to stop.
    pub(crate) fn step(&mut self, stage: &'static str, done: u64, total: u64) -> Result<(), Failure> {
        self.show(Tick { stage, done, total });
        check_interrupt()
    }

    fn show(&mut self, tick: Tick) {
        let new = tick.stage != self.stage;
        self.stage = tick.stage;
        match self.style {
            Style::Hidden => {}
            Style::Bar => self.show_bar(tick, new),
            Style::Lines => self.show_line(tick, new),
        }
    }

    fn show_bar(&mut self, tick: Tick, new: bool) {
        if new {
            self.bar.finish_and_clear();
            self.bar = ProgressBar::with_draw_target(Some(tick.total), ProgressDrawTarget::stderr());
            // The template is a constant that a test checks; a wrong one would only look plain.
            if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
                self.bar.set_style(style);
            }
            self.bar.set_prefix(tick.stage);
        }
        self.bar.set_length(tick.total);
        self.bar.set_position(tick.done);
    }

    fn show_line(&mut self, tick: Tick, new: bool) {
        if new || self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            // Progress that cannot be shown is no reason to stop.
            let _ = writeln!(std::io::stderr(), "{} {}/{}", tick.stage, tick.done, tick.total);
        }
    }
}

const TEMPLATE: &str = "{prefix:>8} {wide_bar} {human_pos}/{human_len}  {per_sec}, {eta} left";

impl Drop for Meter {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

impl Console {
    /// Runs `work` with an observer that shows its progress and lets Ctrl-C cancel it.
    pub(crate) fn watch<T, E>(&self, work: impl FnOnce(&mut Observer<'_>) -> Result<T, E>) -> Result<T, E> {
        let mut meter = Meter::new(self);
        let mut callback = |tick: Tick| {
            meter.show(tick);
            if is_interrupted() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        work(&mut Observer::new(&mut callback))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_one() {
        ProgressStyle::with_template(TEMPLATE).unwrap();
    }
}
