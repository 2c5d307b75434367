//! Calibrating: how many lists, and how many rows to score again, give a wanted recall.
//!
//! ```text
//! queries   stored rows, drawn from all over the index           or rows that the caller gives, or rows of a training
//! left out  of truth and answers: the query and the rows stored around it, a 200th of the index on either side
//! truth     brute force over the vectors as they are stored                                         (`truth`)
//! measured  for each k, and 1, 2, 4, 8 times the default rows to score again: recall@k by nprobe     (`measure`)
//! asked     a recall → on each curve the nprobe between two points (logarithmically), of the curves the cheapest
//! ```
//! A stored row has neighbours that came with it (the next frame, the next paragraph), in the lists that training fitted to
//! them all, and finds them more easily than a new query finds its own. So it is not only itself that is left out, but what was
//! stored around it. Neighbouring rows are as little two queries as one: they come one by one, from all over the index.
//!
//! **How sure.** What is measured is a mean over some queries. Where twice its standard error is more than .01, as much more recall is
//! sought as it is more: a search has what it was asked for, less .01, but once in forty calibrations.
//!
//! **Growth.** With g times the vectors, the k nearest lie where the k/g nearest lay, and of g times as many others that look as near by
//! their codes, g times as many have to be scored again. So settings are those that k/g had, with g times the rows: exact
//! where new vectors are like the old ones. It is what makes a measurement on the rows of a training good for the
//! index that comes after it (`sample`). Below the least k settings go on as they did above it.
//!
//! The table is a section of the model: training replaces it.

mod measure;
mod sample;
mod truth;

use super::exchange::Fingerprint;
use super::model::Model;
use super::reader::IndexReader;
use super::search;
use super::view::ViewIds;
use super::writer::{IndexWriter, random};
use crate::math::random::Random;
use crate::storage::sections::Section;
use crate::{Error, Observer, Result, Rows};
use measure::{Field, Held};
use std::sync::Arc;
use truth::Stock;

pub(crate) use sample::{CALIBRATION_QUERIES, Origin, calibrate_on};

/// How to calibrate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CalibrateParams {
    /// Queries, at most, 1 or more; fewer are searched for a k whose mean recall is sure enough before. 8,192 by default.
    pub queries: usize,
    /// The numbers of neighbours to calibrate for; 1, 3, 10, 30 and 100 by default. Between two of them settings are
    /// interpolated, beyond the largest there are none.
    pub ks: Vec<usize>,
    /// Chooses the queries.
    pub seed: u64,
}

impl Default for CalibrateParams {
    fn default() -> Self {
        CalibrateParams { queries: 8192, ks: vec![1, 3, 10, 30, 100], seed: 1234 }
    }
}

/// What calibrating found out about an index: for each k which recall comes at which settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    source: CalibrationSource,
    rows: u64,
    queries: u64,
    /// Of the training it belongs to; none without lists.
    model: Option<Fingerprint>,
    /// What a list and a row to score again cost, in bytes of codes.
    list_cost: f64,
    row_cost: f64,
    curves: Vec<Curve>,
}

/// What a [`Calibration`] was measured with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CalibrationSource {
    /// Stored vectors as queries, among all that were stored.
    Stored,
    /// Queries of the caller's, among all that was stored.
    Queries,
    /// Training rows as queries, among training rows: before or while the index was filled.
    Training,
}

impl CalibrationSource {
    fn name(self) -> &'static str {
        match self {
            CalibrationSource::Stored => "stored",
            CalibrationSource::Queries => "queries",
            CalibrationSource::Training => "training",
        }
    }

    fn of_name(name: &str) -> Option<Self> {
        let all = [CalibrationSource::Stored, CalibrationSource::Queries, CalibrationSource::Training];
        all.into_iter().find(|source| source.name() == name)
    }
}

/// Recall by lists, for one k and one number of rows to score again (0 where nothing is).
#[derive(Clone, Debug, PartialEq)]
struct Curve {
    k: usize,
    rerank: usize,
    /// So many neighbours, each found or not for itself, tell as much of the recall as the queries of this k did.
    trials: f64,
    /// Ascending in both.
    points: Vec<(usize, f64)>,
}

/// Lists, and rows to score again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) nprobe: usize,
    pub(crate) rerank: Option<usize>,
}

/// With so many times the vectors, or so many times fewer, there should be another calibration.
const STALE: f64 = 2.0;
/// Twice the standard error may be so much before more than was asked for is sought.
const TOLERANCE: f64 = 0.01;

impl Calibration {
    /// What it was measured with.
    pub fn source(&self) -> CalibrationSource {
        self.source
    }

    /// Vectors that it was measured over: those the index held, or rows of its training.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Queries that it was measured with, at most: fewer of them for some k.
    pub fn queries(&self) -> u64 {
        self.queries
    }

    /// The numbers of neighbours it was measured for, ascending.
    pub fn ks(&self) -> Vec<usize> {
        let mut ks: Vec<usize> = self.curves.iter().map(|curve| curve.k).collect();
        ks.dedup();
        ks
    }

    /// True if an index of so many vectors has more than twice as many as it was measured over, or fewer than half. Searches still
    /// go by it, as if those that came or went were like the others; measured anew it is surer.
    pub fn is_stale(&self, rows: u64) -> bool {
        let grown = rows.max(1) as f64 / self.rows.max(1) as f64;
        !(1.0 / STALE..=STALE).contains(&grown)
    }

    /// The `nprobe` at which a search for `k` has this recall in an index of so many vectors, and the number of rows to score again, where
    /// rows are kept: what a search with [`target_recall`](crate::SearchParams::target_recall) uses.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a recall outside 0 to 1, or one that was not reached, and for a `k` beyond the largest that was
    /// calibrated, which in an index that grew stands for as many times more.
    pub fn settings(&self, k: usize, recall: f64, rows: u64) -> Result<(usize, Option<usize>)> {
        let Settings { nprobe, rerank } = self.find(k, recall, rows)?;
        Ok((nprobe, rerank))
    }

    /// What was measured for one of [`ks`](Self::ks): `nprobe`, rows to score again where rows are kept, and the recall there, curve after
    /// curve. Nothing for another k.
    pub fn measured(&self, k: usize) -> Vec<(usize, Option<usize>, f64)> {
        let of = |curve: &Curve| {
            let rerank = Some(curve.rerank).filter(|rows| *rows > 0);
            curve.points.iter().map(move |(nprobe, recall)| (*nprobe, rerank, *recall)).collect::<Vec<_>>()
        };
        self.curves.iter().filter(|curve| curve.k == k).flat_map(of).collect()
    }

    pub(crate) fn find(&self, k: usize, recall: f64, rows: u64) -> Result<Settings> {
        check_recall(recall)?;
        let ks = self.ks();
        let most = ks.last().copied().unwrap_or(0);
        let grown = rows.max(1) as f64 / self.rows.max(1) as f64;
        if k > most && k as f64 / grown > most as f64 {
            let what = format!("k = {k}, calibrated up to {most}");
            return Err(Error::Parameter { name: "target_recall", what });
        }
        let there = (k as f64 / grown).min(most as f64);
        let Settings { nprobe, rerank } = self.find_between(&ks, there, recall)?;
        let more = |rows: usize| ((rows as f64 * grown).ceil() as usize).max(k);
        Ok(Settings { nprobe, rerank: rerank.map(more) })
    }

    /// For a k that need not be one of those measured, nor whole.
    fn find_between(&self, ks: &[usize], k: f64, recall: f64) -> Result<Settings> {
        let at = ks.partition_point(|known| (*known as f64) < k);
        let high = ks[at.min(ks.len() - 1)];
        if high as f64 == k || ks.len() == 1 {
            return self.cheapest(high, recall);
        }
        // Below the least, the line goes on that begins there; it is drawn from farther off, which errs less.
        let (low, high) = if at == 0 { (ks[0], ks[2.min(ks.len() - 1)]) } else { (ks[at - 1], high) };
        let (below, above) = (self.cheapest(low, recall)?, self.cheapest(high, recall)?);
        let share = (k / low as f64).ln() / (high as f64 / low as f64).ln();
        let between = |a: usize, b: usize| between((a as f64, b as f64), share);
        Ok(Settings {
            // Fewer lists for more neighbours are chance.
            nprobe: between(below.nprobe.min(above.nprobe), above.nprobe),
            rerank: below.rerank.zip(above.rerank).map(|(a, b)| between(a.min(b), b)),
        })
    }

    /// Of the curves of `k`.
    fn cheapest(&self, k: usize, recall: f64) -> Result<Settings> {
        let curves = || self.curves.iter().filter(|curve| curve.k == k);
        let priced = curves().filter_map(|curve| {
            let nprobe = curve.nprobe(recall)?;
            let cost = nprobe as f64 * self.list_cost + curve.rerank as f64 * self.row_cost;
            Some((cost, Settings { nprobe, rerank: Some(curve.rerank).filter(|rows| *rows > 0) }))
        });
        let best = priced.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, settings)| settings);
        best.ok_or_else(|| {
            let most = curves().filter_map(|curve| curve.points.last()).map(|point| point.1);
            let most = most.fold(0.0, f64::max);
            let what = format!("{recall} for k = {k}: {most:.4} was the most that calibrating reached");
            Error::Parameter { name: "target_recall", what }
        })
    }
}

pub(crate) fn check_recall(recall: f64) -> Result<()> {
    match recall > 0.0 && recall <= 1.0 {
        true => Ok(()),
        false => {
            let what = format!("{recall}, expected more than 0 and at most 1");
            Err(Error::Parameter { name: "target_recall", what })
        }
    }
}

/// A share of the way from one number to the other, logarithmically.
fn between((a, b): (f64, f64), share: f64) -> usize {
    (a.ln() + share * (b.ln() - a.ln())).exp().mul_add(1.0, -1e-9).ceil().max(1.0) as usize
}

impl Curve {
    /// How many lists have this recall, by a curve that is not quite sure of it.
    fn nprobe(&self, recall: f64) -> Option<usize> {
        let most = self.points.last().filter(|point| point.1 >= recall)?.1;
        let sought = (recall + self.margin(recall)).min(most);
        let at = self.points.iter().position(|point| point.1 >= sought)?;
        let (nprobe, reached) = self.points[at];
        let Some(&(before, less)) = at.checked_sub(1).map(|before| &self.points[before]) else {
            return Some(nprobe);
        };
        Some(between((before as f64, nprobe as f64), (sought - less) / (reached - less)))
    }

    fn margin(&self, recall: f64) -> f64 {
        let error = (recall * (1.0 - recall) / self.trials.max(1.0)).sqrt();
        (2.0 * error - TOLERANCE).max(0.0)
    }
}

// ------------------------------------------------------------------ measuring

/// Rows left out on either side of a query, as a part of all, and at most.
const AROUND: usize = 200;
const AROUND_MAX: usize = 1000;

impl IndexReader<'_> {
    /// What the index was calibrated to, if it was since it was trained.
    pub fn calibration(&self) -> Option<&Calibration> {
        self.model.calibration.as_deref()
    }

    /// Measures which recall comes at which settings, with stored vectors as queries, of which neither they nor what was stored
    /// around them is sought. Nothing is stored: [`IndexWriter::set_calibration`] does that, [`Store::calibrate`](crate::Store::calibrate)
    /// both. Takes a brute-force search of all queries and some dozens of searches.
    ///
    /// Ticks as `"truth"` and `"calibrate"`.
    ///
    /// # Errors
    /// [`Error::TooFewRows`] if the index has fewer vectors than twice the largest k that is calibrated for; [`Error::Parameter`]
    /// for no queries or no k, and for an index that has estimates of its vectors alone (`PQ16`, not `PQ16,RFlat`); [`Error::Cancelled`].
    pub fn calibrate(&self, params: &CalibrateParams, observer: &mut Observer<'_>) -> Result<Calibration> {
        self.check_calibrate(params)?;
        let held = self.stored_queries(params)?;
        self.measure(held, CalibrationSource::Stored, params, observer)
    }

    /// The same with queries of the caller's: where they are not like the vectors that are stored (questions, and stored are
    /// answers), they know better. None of what is stored is left out.
    ///
    /// # Errors
    /// As [`calibrate`](Self::calibrate), and the errors of queries.
    pub fn calibrate_with(
        &self,
        queries: Rows<'_>,
        params: &CalibrateParams,
        observer: &mut Observer<'_>,
    ) -> Result<Calibration> {
        self.check_calibrate(params)?;
        let prepared = self.model.prepare(queries)?;
        let queries = Rows::of(&prepared, self.dim());
        let most = queries.len().min(params.queries);
        if most == 0 {
            return Err(Error::Parameter { name: "queries", what: "none, expected at least 1".into() });
        }
        let picks = Random::new(params.seed).sample(queries.len(), most);
        let held = Held {
            queries: picks.iter().flat_map(|pick| queries.row(*pick).iter().copied()).collect(),
            left_out: vec![0..0; most],
            truth: Vec::new(),
        };
        self.measure(held, CalibrationSource::Queries, params, observer)
    }

    /// What a search for `k` with this [`target_recall`](crate::SearchParams::target_recall) uses: `nprobe`, and rows to score again where rows
    /// are kept.
    ///
    /// # Errors
    /// [`Error::NotCalibrated`], and as [`Calibration::settings`].
    pub fn target_settings(&self, k: usize, recall: f64) -> Result<(usize, Option<usize>)> {
        match self.calibration() {
            Some(calibration) => calibration.settings(k, recall, self.len()),
            None => Err(Error::NotCalibrated { index: self.model.spec.to_string() }),
        }
    }

    fn check_calibrate(&self, params: &CalibrateParams) -> Result<()> {
        let bad = |name, what: &str| Err(Error::Parameter { name, what: what.into() });
        if params.queries == 0 {
            return bad("queries", "0, expected at least 1");
        }
        let Some(most) = params.ks.iter().copied().max().filter(|_| !params.ks.contains(&0)) else {
            return bad("ks", "numbers of neighbours, 1 or more each");
        };
        if self.len() < 2 * most as u64 {
            return Err(Error::TooFewRows { rows: self.len() as usize, needed: 2 * most });
        }
        let model = &*self.model;
        let exact_codes = model.chain.is_none() && model.spec.encoding.is_exact();
        match model.judge().is_some() || model.code_element().is_some() || exact_codes {
            true => Ok(()),
            false => {
                let what = format!("`{}` keeps no vectors to know the truth by, only estimates", model.spec);
                Err(Error::Parameter { name: "calibrate", what })
            }
        }
    }

    /// Stored rows, in no order: one somewhere in each part of the rows.
    fn stored_queries(&self, params: &CalibrateParams) -> Result<Held> {
        let live = self.live_rows()?;
        let (picks, around) = spread(live.len(), params.queries, params.seed);
        let mut held = Held { queries: Vec::new(), left_out: Vec::new(), truth: Vec::new() };
        for pick in picks {
            let last = (pick + around).min(live.len() - 1);
            held.left_out.push(live[pick.saturating_sub(around)]..live[last] + 1);
            held.queries.extend(self.vector_of(live[pick])?);
        }
        Ok(held)
    }

    fn live_rows(&self) -> Result<Vec<u32>> {
        let mut live = Vec::with_capacity(self.len() as usize);
        self.view.for_each_id(&mut |row, _| live.push(row))?;
        Ok(live)
    }

    fn measure(
        &self,
        mut held: Held,
        source: CalibrationSource,
        params: &CalibrateParams,
        observer: &mut Observer<'_>,
    ) -> Result<Calibration> {
        let live = self.live_rows()?;
        let fetch = |row: u32, vectors: &mut Vec<f32>| {
            vectors.extend(self.vector_of(row)?);
            Ok(())
        };
        let ids = ViewIds(&*self.view);
        let stock = Stock { spec: &self.model.spec, rows: &live, fetch: &fetch, ids: &ids };
        let most = params.ks.iter().copied().max().unwrap_or(1);
        self.in_pool(true, || {
            stock.seek(&mut held, most, observer)?;
            let field = Field { view: &*self.view, model: &self.model, held: &held };
            let calibration = field.calibration(source, &params.ks, observer)?;
            Ok(Calibration { model: self.fingerprint(), ..calibration })
        })
    }
}

/// Numbers of `0..n`, one of each part, in random order; and how many to leave out on either side.
fn spread(n: usize, most: usize, seed: u64) -> (Vec<usize>, usize) {
    let (most, mut random) = (most.min(n), Random::new(seed));
    let order = random.sample(most, most);
    let one = |part: usize| {
        let part = part * n / most..(part + 1) * n / most;
        part.start + random.below(part.len())
    };
    (order.into_iter().map(one).collect(), (n / AROUND).min(AROUND_MAX))
}

impl Field<'_> {
    /// The curves of all k. The training it belongs to is for others to say.
    fn calibration(
        &self,
        source: CalibrationSource,
        ks: &[usize],
        observer: &mut Observer<'_>,
    ) -> Result<Calibration> {
        let mut ks = ks.to_vec();
        ks.sort_unstable();
        ks.dedup();
        let (mut curves, mut queries) = (Vec::new(), 0);
        let total = ks.len() as u64;
        for (done, &k) in ks.iter().enumerate() {
            let answer = self.answer(k, observer, (done as u64, total))?;
            queries = queries.max(answer.queries as u64);
            curves.extend(answer.curves.into_iter().map(|measured| Curve {
                k,
                rerank: if self.model.judge().is_some() { measured.rerank } else { 0 },
                trials: answer.trials,
                points: measured.points,
            }));
        }
        observer.tick("calibrate", total, total)?;
        let (model, header) = (self.model, self.view.header());
        let entries = header.entries(model.places()) as f64;
        let code_bytes = model.codec.layout().code_bytes();
        Ok(Calibration {
            source,
            rows: header.ntotal,
            queries,
            model: None,
            list_cost: entries / model.nlist() as f64 * code_bytes as f64,
            row_cost: model.kept.first().map_or(0, |kept| kept.form.width() + search::FETCH_BYTES) as f64,
            curves,
        })
    }
}

// ------------------------------------------------------------------ storing

impl IndexWriter<'_> {
    /// [`IndexReader::calibrate`] over what the index holds now, uncommitted changes included, and stores the result. A writer keeps
    /// nothing in memory: calibrating a reader, and storing that, is faster.
    ///
    /// # Errors
    /// As [`IndexReader::calibrate`].
    pub fn calibrate(
        &mut self,
        params: &CalibrateParams,
        observer: &mut Observer<'_>,
    ) -> Result<Calibration> {
        let calibration = self.reader().calibrate(params, observer)?;
        self.set_calibration(&calibration)?;
        Ok(calibration)
    }

    /// Stores what [`IndexReader::calibrate`] found, in place of what was stored before. It stays, until the index is trained
    /// again: when its vectors have become others, or many more, calibrate again.
    ///
    /// # Errors
    /// [`Error::Incompatible`] if it is not of this index's training.
    pub fn set_calibration(&mut self, calibration: &Calibration) -> Result<()> {
        if self.reader().fingerprint() != calibration.model {
            return Err(Error::Incompatible { what: "the calibration is of another training".into() });
        }
        let bytes = calibration.encode();
        self.change(|writer| {
            let seq = writer.header.seq;
            // What stores keep in memory of this training is not all any more.
            writer.header.model_version = random();
            writer.tables.write_section(Section::Calibration, &bytes, seq)?;
            writer.model = Arc::new(Model::load(&*writer.tables, &writer.header, Some(&writer.quantizers))?);
            Ok(())
        })
    }
}

impl crate::Store {
    /// Calibrates an index in its committed state, and stores the result in a transaction of its own:
    /// [`IndexReader::calibrate`], [`IndexWriter::set_calibration`]. Writers can go on meanwhile.
    ///
    /// # Errors
    /// As those two.
    pub fn calibrate(
        &self,
        index: &str,
        params: &CalibrateParams,
        observer: &mut Observer<'_>,
    ) -> Result<Calibration> {
        let calibration = self.begin_read()?.index(index)?.calibrate(params, observer)?;
        let txn = self.begin_write()?;
        txn.index(index)?.set_calibration(&calibration)?;
        txn.commit()?;
        Ok(calibration)
    }
}

impl Calibration {
    /// `name value` lines, `trials` before the curves that it is said of, and one a curve: `curve k rerank nprobe:recall …`.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let model = self.model.as_ref().map_or("none".to_string(), |model| model.to_string());
        let mut text = format!(
            "source {}\nrows {}\nqueries {}\nmodel {model}\nlist_cost {}\nrow_cost {}\n",
            self.source.name(),
            self.rows,
            self.queries,
            self.list_cost,
            self.row_cost
        );
        for Curve { k, rerank, trials, points } in &self.curves {
            text += &format!("trials {trials}\ncurve {k} {rerank}");
            points.iter().for_each(|(nprobe, recall)| text += &format!(" {nprobe}:{recall}"));
            text.push('\n');
        }
        text.into_bytes()
    }

    /// What [`encode`](Self::encode) wrote; what is wrong with it if it did not.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "the calibration is no text")?;
        let mut read = Calibration {
            source: CalibrationSource::Stored,
            rows: 0,
            queries: 0,
            model: None,
            list_cost: 0.0,
            row_cost: 0.0,
            curves: Vec::new(),
        };
        let mut trials = f64::INFINITY;
        for line in text.lines() {
            read.set(line, &mut trials).ok_or_else(|| format!("calibration: `{line}`"))?;
        }
        let sorted = read.curves.is_sorted_by_key(|curve| curve.k);
        if read.curves.is_empty() || !sorted {
            return Err("a calibration without curves, or with curves in no order".into());
        }
        Ok(read)
    }

    /// `trials` are those of the curves to come.
    fn set(&mut self, line: &str, trials: &mut f64) -> Option<()> {
        let (name, value) = line.split_once(' ')?;
        let float = || value.parse().ok().filter(|x: &f64| x.is_finite() && *x >= 0.0);
        match name {
            "source" => self.source = CalibrationSource::of_name(value)?,
            "rows" => self.rows = value.parse().ok()?,
            "queries" => self.queries = value.parse().ok()?,
            "model" if value == "none" => self.model = None,
            "model" => self.model = Some(Fingerprint::from_hex(value)?),
            "list_cost" => self.list_cost = float()?,
            "row_cost" => self.row_cost = float()?,
            "trials" => *trials = value.parse().ok().filter(|trials: &f64| *trials > 0.0)?,
            "curve" => self.curves.push(Curve::decode(value, *trials)?),
            _ => {}
        }
        Some(())
    }
}

impl Curve {
    fn decode(text: &str, trials: f64) -> Option<Self> {
        let mut words = text.split(' ');
        let k = words.next()?.parse().ok().filter(|k| *k > 0)?;
        let rerank = words.next()?.parse().ok()?;
        let point = |word: &str| -> Option<(usize, f64)> {
            let (nprobe, recall) = word.split_once(':')?;
            let (nprobe, recall) = (nprobe.parse().ok()?, recall.parse().ok()?);
            (nprobe > 0 && (0.0..=1.0).contains(&recall)).then_some((nprobe, recall))
        };
        let points: Vec<(usize, f64)> = words.map(point).collect::<Option<_>>()?;
        let ascending = points.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1);
        ascending.then_some(Curve { k, rerank, trials, points })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calibration() -> Calibration {
        let curve =
            |k, rerank, points: &[(usize, f64)]| Curve { k, rerank, trials: 1e9, points: points.to_vec() };
        Calibration {
            source: CalibrationSource::Queries,
            rows: 1000,
            queries: 64,
            model: None,
            list_cost: 100.0,
            row_cost: 10.0,
            curves: vec![
                curve(1, 5, &[(1, 0.5), (4, 0.9), (16, 0.97)]),
                curve(10, 50, &[(1, 0.4), (4, 0.8), (16, 0.9)]),
                curve(10, 100, &[(4, 0.85), (16, 0.98)]),
            ],
        }
    }

    #[test]
    fn the_stored_form_round_trips_and_others_are_refused() {
        let some = calibration();
        assert_eq!(Calibration::decode(&some.encode()), Ok(some));
        for text in [
            "",
            "rows 3\n",
            "rows x\n",
            "curve 0 5 1:0.5\n",
            "curve 1 5 1\n",
            "curve 1 5 1:2\n",
            "curve 1 5 2:0.5 1:0.6\n",
            "curve 1 5 0:0.5\n",
            "curve 9 5 1:0.5\ncurve 1 5 1:0.5\n",
            "list_cost NaN\ncurve 1 5 1:0.5\n",
        ] {
            assert!(Calibration::decode(text.as_bytes()).is_err(), "{text}");
        }
        assert!(Calibration::decode(b"later thing\ncurve 1 5 1:0.5\n").is_ok());
    }

    #[test]
    fn the_cheapest_settings_that_have_the_recall_are_chosen() {
        let calibration = calibration();
        let of = |k, recall| calibration.settings(k, recall, 1000).unwrap();
        assert_eq!(of(10, 0.4), (1, Some(50)));
        assert_eq!(of(10, 0.8), (4, Some(50)));
        // Halfway from 4 to 16 by logarithm.
        assert_eq!(of(10, 0.85), (8, Some(50)), "8 lists and 50 rows are cheaper than 4 and 100");
        assert_eq!(of(1, 0.7), (2, Some(5)));
        assert_eq!(of(10, 0.95).1, Some(100), "50 rows do not reach it");
        // Between two k, and never fewer rows than are wanted.
        let (nprobe, rerank) = of(3, 0.9);
        assert!((4..=16).contains(&nprobe) && (5..=100).contains(&rerank.unwrap()), "{nprobe} {rerank:?}");
        for (k, recall) in [(10, 0.981), (11, 0.5), (1, 0.0), (1, 1.5), (1, f64::NAN)] {
            let refused = calibration.settings(k, recall, 1000);
            assert!(matches!(refused, Err(Error::Parameter { name: "target_recall", .. })), "{k} {recall}");
        }
    }

    #[test]
    fn an_index_that_grew_has_the_settings_of_fewer_neighbours() {
        let calibration = calibration();
        let of = |k, recall, rows| calibration.settings(k, recall, rows).unwrap();
        let (nprobe, rerank) = of(1, 0.9, 1000);
        assert_eq!((nprobe, rerank), (4, Some(5)));
        assert_eq!(
            of(10, 0.9, 10_000),
            (4, Some(50)),
            "ten times the vectors: those of k = 1, ten times the rows"
        );
        let ten = of(10, 0.9, 1000);
        assert_eq!(
            of(1, 0.9, 100),
            (ten.0, ten.1.map(|rows| rows / 10)),
            "a tenth: those of k = 10, a tenth of the rows"
        );
        let few = of(1, 0.9, 10_000).0;
        assert!(few < nprobe, "{few}: below the least k the line goes on");
        assert!(!calibration.is_stale(1999) && !calibration.is_stale(501));
        assert!(calibration.is_stale(2001) && calibration.is_stale(499) && calibration.is_stale(0));
    }

    #[test]
    fn a_curve_that_is_not_sure_seeks_more_and_no_more_than_there_is() {
        let curve = |trials| Curve { k: 1, rerank: 0, trials, points: vec![(1, 0.5), (4, 0.9), (16, 0.97)] };
        let exact = curve(1e9).nprobe(0.7);
        assert_eq!(exact, Some(2));
        // Twice the error of .0458 is .0917: .0817 more.
        let unsure = curve(100.0).nprobe(0.7);
        assert_eq!(unsure, curve(1e9).nprobe(0.7817), "{exact:?}");
        assert_eq!(curve(10.0).nprobe(0.97), Some(16));
        assert_eq!(curve(10.0).nprobe(0.98), None);
    }
}
