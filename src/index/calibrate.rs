//! Calibrating: how many lists, and how many rows to score again, give a wanted recall.
//!
//! ```text
//! queries   stored rows, 16 neighbours in row order a group      or rows that the caller gives
//! left out  of truth and answers of a group: it and the rows stored around it, a 200th of the index on either side
//! truth     brute force over the vectors as they are stored
//! measured  recall@k of real searches, for each k, each of 1, 2, 4, 8 times the default rows to score again,
//!           nprobe = 1, 2, 3, 4, 6, 8, 12, … until nothing is gained any more
//! asked     a recall → on each curve the nprobe between two points (logarithmically), of the curves the cheapest
//! ```
//! A stored row has neighbours that came with it (the next frame, the next paragraph), in the lists that training fitted to
//! them all, and finds them more easily than a new query finds its own. So it is not only itself that is left out, but what was
//! stored around it. The table is a section of the model, and goes when the index is trained again.

use super::exchange::Fingerprint;
use super::filter::Filter;
use super::model::{Model, untrained_codec};
use super::reader::IndexReader;
use super::search::{self, Goal, Limits, Request};
use super::view::ViewIds;
use super::writer::{IndexWriter, random};
use crate::codec::{Assigned, Codec, Codes, Probe, Scanner, Visit};
use crate::kernel::Found;
use crate::math::random::Random;
use crate::math::selector::RowSet;
use crate::math::topk::{Collector, TopK};
use crate::storage::sections::Section;
use crate::{Encoding, Error, Observer, Result, Rows};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;

/// How to calibrate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CalibrateParams {
    /// Queries, at most, 1 or more: all for k = 1, fewer for larger k, whose recall varies less. 4,096 by default.
    pub queries: usize,
    /// The numbers of neighbours to calibrate for; 1, 10 and 100 by default. Between two of them settings are
    /// interpolated, beyond the largest there are none.
    pub ks: Vec<usize>,
    /// Chooses the queries.
    pub seed: u64,
}

impl Default for CalibrateParams {
    fn default() -> Self {
        CalibrateParams { queries: 4096, ks: vec![1, 10, 100], seed: 1234 }
    }
}

/// What calibrating found out about an index: for each k which recall comes at which settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    rows: u64,
    queries: u64,
    /// Of the training it belongs to; none without lists.
    model: Option<Fingerprint>,
    /// What a list and a row to score again cost, in bytes of codes.
    list_cost: f64,
    row_cost: f64,
    curves: Vec<Curve>,
}

/// Recall by lists, for one k and one number of rows to score again (0 where nothing is).
#[derive(Clone, Debug, PartialEq)]
struct Curve {
    k: usize,
    rerank: usize,
    /// Ascending in both.
    points: Vec<(usize, f64)>,
}

/// Lists, and rows to score again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) nprobe: usize,
    pub(crate) rerank: Option<usize>,
}

impl Calibration {
    /// Vectors that the index held when it was calibrated.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Queries that it was calibrated with.
    pub fn queries(&self) -> u64 {
        self.queries
    }

    /// The numbers of neighbours it was calibrated for, ascending.
    pub fn ks(&self) -> Vec<usize> {
        let mut ks: Vec<usize> = self.curves.iter().map(|curve| curve.k).collect();
        ks.dedup();
        ks
    }

    /// The `nprobe` at which a search for `k` has this recall, and the number of rows to score again, where rows are kept:
    /// what a search with [`target_recall`](crate::SearchParams::target_recall) uses.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a recall outside 0 to 1, or one that was not reached, and for a `k` beyond the largest that was
    /// calibrated.
    pub fn settings(&self, k: usize, recall: f64) -> Result<(usize, Option<usize>)> {
        let Settings { nprobe, rerank } = self.find(k, recall)?;
        Ok((nprobe, rerank))
    }

    pub(crate) fn find(&self, k: usize, recall: f64) -> Result<Settings> {
        check_recall(recall)?;
        let ks = self.ks();
        let Some(&above) = ks.iter().find(|known| **known >= k) else {
            let most = ks.last().copied().unwrap_or(0);
            let what = format!("k = {k}, calibrated up to {most}");
            return Err(Error::Parameter { name: "target_recall", what });
        };
        let high = self.cheapest(above, recall)?;
        let Some(&below) = ks.iter().rev().find(|known| **known < k).filter(|_| above > k) else {
            return Ok(Settings { rerank: high.rerank.map(|rows| rows.max(k)), ..high });
        };
        let low = self.cheapest(below, recall)?;
        let share = (k as f64 / below as f64).ln() / (above as f64 / below as f64).ln();
        let between = |a: usize, b: usize| between((a as f64, b as f64), share);
        Ok(Settings {
            nprobe: between(low.nprobe, high.nprobe),
            rerank: low.rerank.zip(high.rerank).map(|(a, b)| between(a, b).max(k)),
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
    fn nprobe(&self, recall: f64) -> Option<usize> {
        let at = self.points.iter().position(|point| point.1 >= recall)?;
        let (nprobe, reached) = self.points[at];
        let Some(&(before, less)) = at.checked_sub(1).map(|before| &self.points[before]) else {
            return Some(nprobe);
        };
        Some(between((before as f64, nprobe as f64), (recall - less) / (reached - less)))
    }
}

// ------------------------------------------------------------------ measuring

/// Stored rows that are queries together: they share what is left out.
const GROUP: usize = 16;
/// Queries of the caller's that are searched together.
const BATCH: usize = 256;
/// Rows left out on either side of a group, as a part of all, and at most.
const AROUND: usize = 200;
const AROUND_MAX: usize = 1000;
/// Nothing is gained beyond this recall.
const ENOUGH: f64 = 0.9985;
/// Nor by lists that add so little.
const GAIN_MIN: f64 = 0.0004;
/// Of the default number of rows to score again.
const RERANKS: [usize; 4] = [1, 2, 4, 8];
/// Vectors scored at once for the truth.
const TRUTH_ROWS: usize = 1024;

/// Queries with what must not be found for them, and what should be.
struct Group {
    queries: Vec<f32>,
    filter: Filter,
    left_out: Range<u32>,
    /// Rows, nearest first.
    truth: Vec<Vec<u32>>,
}

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
        let groups = self.stored_groups(params)?;
        self.measure(groups, params, observer)
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
        let group = |picks: &[usize]| Group {
            queries: picks.iter().flat_map(|pick| queries.row(*pick).iter().copied()).collect(),
            filter: Filter::All,
            left_out: 0..0,
            truth: Vec::new(),
        };
        self.measure(picks.chunks(BATCH).map(group).collect(), params, observer)
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

    /// Groups of stored rows, in no order.
    fn stored_groups(&self, params: &CalibrateParams) -> Result<Vec<Group>> {
        let mut live: Vec<u32> = Vec::with_capacity(self.len() as usize);
        self.view.for_each_id(&mut |row, _| live.push(row))?;
        let n = live.len();
        let most = params.queries.min(n).div_ceil(GROUP);
        let around = (n / AROUND).min(AROUND_MAX);
        let mut random = Random::new(params.seed);
        let order = random.sample(most, most);
        let mut group = |slot: usize| -> Result<Group> {
            // Somewhere in its part of the rows.
            let part = slot * n / most..(slot + 1) * n / most;
            let len = GROUP.min(part.len());
            let first = part.start + random.below(part.len() - len + 1);
            let low = live[first.saturating_sub(around)];
            let high = live[(first + len + around).min(n) - 1];
            let mut admitted = RowSet::full(self.header().next_row);
            (low..=high).for_each(|row| admitted.remove(row));
            let mut queries = Vec::with_capacity(len * self.dim());
            for row in &live[first..first + len] {
                queries.extend(self.vector_of(*row)?);
            }
            let filter = Filter::Rows(Arc::new(admitted));
            Ok(Group { queries, filter, left_out: low..high + 1, truth: Vec::new() })
        };
        order.into_iter().map(&mut group).collect()
    }

    fn measure(
        &self,
        mut groups: Vec<Group>,
        params: &CalibrateParams,
        observer: &mut Observer<'_>,
    ) -> Result<Calibration> {
        let mut ks = params.ks.clone();
        ks.sort_unstable();
        ks.dedup();
        let most = ks.last().copied().unwrap_or(1);
        self.find_truth(&mut groups, most, observer)?;
        let all: usize = groups.iter().map(|group| group.truth.len()).sum();
        let mut curves = Vec::new();
        for (done, &k) in ks.iter().enumerate() {
            let wanted = (all as f64 / (k as f64).cbrt()).ceil() as usize;
            let mut enough = 0;
            let some = groups.iter().take_while(|group| {
                let more = enough < wanted;
                enough += group.truth.len();
                more
            });
            let some: Vec<&Group> = some.collect();
            observer.tick("calibrate", done as u64, ks.len() as u64)?;
            curves.extend(self.curves(&some, k, observer, (done as u64, ks.len() as u64))?);
        }
        observer.tick("calibrate", ks.len() as u64, ks.len() as u64)?;
        let model = &*self.model;
        let entries = self.header().entries(model.places()) as f64;
        let code_bytes = model.codec.layout().code_bytes();
        Ok(Calibration {
            rows: self.len(),
            queries: all as u64,
            model: self.fingerprint(),
            list_cost: entries / model.nlist() as f64 * code_bytes as f64,
            row_cost: model.kept.first().map_or(0, |kept| kept.form.width() + search::FETCH_BYTES) as f64,
            curves,
        })
    }

    /// The curves of one k.
    fn curves(
        &self,
        groups: &[&Group],
        k: usize,
        observer: &mut Observer<'_>,
        (done, total): (u64, u64),
    ) -> Result<Vec<Curve>> {
        let most = self.len() as usize;
        let default = self.model.spec.reranked_rows(k);
        let mut reranks: Vec<usize> = match self.model.judge() {
            None => vec![0],
            Some(_) => RERANKS.iter().map(|times| (default.saturating_mul(*times)).min(most)).collect(),
        };
        reranks.dedup();
        let mut curves: Vec<Curve> = Vec::new();
        let mut from = 1;
        for rerank in reranks {
            let mut points: Vec<(usize, f64)> = Vec::new();
            for nprobe in grid(self.nlist()).filter(|nprobe| *nprobe >= from) {
                let recall = self.recall(groups, nprobe, rerank, k)?;
                observer.tick("calibrate", done, total)?;
                // More lists are never worse but by chance.
                let best = points.last().map_or(0.0, |point| point.1);
                if recall > best {
                    points.push((nprobe, recall));
                }
                let gained = recall - points.len().checked_sub(3).map_or(0.0, |at| points[at].1);
                if recall >= ENOUGH || nprobe > 8 && recall > 0.3 && gained < GAIN_MIN {
                    break;
                }
            }
            // More rows to score again pay where lists bring less.
            let good = points.iter().find(|point| point.1 >= 0.6).or(points.last());
            from = good.map_or(from, |point| point.0).max(from);
            let reached = points.last().map_or(0.0, |point| point.1);
            curves.push(Curve { k, rerank, points });
            if reached >= ENOUGH && rerank > default {
                break;
            }
        }
        Ok(curves)
    }

    /// The mean share of the k nearest that searches find.
    fn recall(&self, groups: &[&Group], nprobe: usize, rerank: usize, k: usize) -> Result<f64> {
        let limit = f32::INFINITY;
        let goal = match rerank {
            0 => Goal::TopK { k, limit },
            rows => Goal::Rerank { rows, z: None, k, limit },
        };
        let hits = |group: &&Group| -> Result<usize> {
            let request = Request {
                goal,
                nprobe,
                chosen: None,
                limits: Limits::default(),
                mode: Default::default(),
                filter: &group.filter,
                widen: None,
                quantizer: None,
                hamming: 0,
                shared: self.header().twins > 0,
                stats: None,
            };
            let queries = Rows::of(&group.queries, self.dim());
            let found = search::search(&*self.view, &self.model, queries, &request)?;
            let hits = found.iter().zip(&group.truth).map(|(found, truth)| {
                let truth = &truth[..k.min(truth.len())];
                found.iter().filter(|hit| truth.contains(&hit.row)).count()
            });
            Ok(hits.sum())
        };
        let hits: Result<Vec<usize>> =
            self.in_pool(true, || groups.par_iter().map(hits).collect::<Result<Vec<usize>>>());
        let wanted: usize =
            groups.iter().flat_map(|group| &group.truth).map(|truth| truth.len().min(k)).sum();
        Ok(hits?.into_iter().sum::<usize>() as f64 / wanted.max(1) as f64)
    }

    /// The k nearest of each query, by brute force.
    fn find_truth(&self, groups: &mut [Group], k: usize, observer: &mut Observer<'_>) -> Result<()> {
        let mut live: Vec<u32> = Vec::with_capacity(self.len() as usize);
        self.view.for_each_id(&mut |row, _| live.push(row))?;
        let spec = &self.model.spec;
        let codec = untrained_codec(spec, Encoding::Flat, spec.dim)
            .ok_or(Error::Unsupported { what: "brute force under this metric" })?;
        let total = groups.len() as u64;
        let at_once = groups.len().div_ceil(rayon::current_num_threads()).clamp(1, 64);
        let mut done = 0;
        for some in groups.chunks_mut(at_once * rayon::current_num_threads()) {
            observer.tick("truth", done, total)?;
            done += some.len() as u64;
            let found: Result<()> = self.in_pool(true, || {
                some.par_chunks_mut(at_once).try_for_each(|groups| self.truth_of(&*codec, groups, &live, k))
            });
            found?;
        }
        observer.tick("truth", total, total)
    }

    fn truth_of(&self, codec: &dyn Codec, groups: &mut [Group], live: &[u32], k: usize) -> Result<()> {
        let dim = self.dim();
        let ids = ViewIds(&*self.view);
        let queries: Vec<f32> = groups.iter().flat_map(|group| group.queries.iter().copied()).collect();
        let queries = Rows::of(&queries, dim);
        let left_out: Vec<Range<u32>> = groups
            .iter()
            .flat_map(|group| std::iter::repeat_n(group.left_out.clone(), group.queries.len() / dim))
            .collect();
        let mut nearest: Vec<TopK<'_>> = queries.iter().map(|_| TopK::new(k, &ids, f32::INFINITY)).collect();
        let visits: Vec<Visit> =
            (0..queries.len()).map(|query| Visit { query: query as u32, coarse: 0.0 }).collect();
        let mut scanner = codec.scanner(queries);
        scanner.enter(Probe { list: 0, centroid: None, visits: &visits });
        let mut vectors = Vec::with_capacity(TRUTH_ROWS * dim);
        for rows in live.chunks(TRUTH_ROWS) {
            vectors.clear();
            for row in rows {
                vectors.extend(self.vector_of(*row)?);
            }
            scan_rows(&mut *scanner, codec, &vectors, rows, &left_out, &mut nearest);
        }
        let mut nearest = nearest.into_iter();
        for group in groups {
            let of = nearest.by_ref().take(group.queries.len() / dim);
            let rows = of.map(|nearest| Ok(nearest.finish()?.into_iter().map(|hit| hit.row).collect()));
            group.truth = rows.collect::<Result<_>>()?;
        }
        Ok(())
    }
}

/// Offers the scores of these vectors, but of what a query leaves out.
fn scan_rows(
    scanner: &mut dyn Scanner,
    codec: &dyn Codec,
    vectors: &[f32],
    rows: &[u32],
    left_out: &[Range<u32>],
    nearest: &mut [TopK<'_>],
) {
    const AT_ONCE: usize = 16;
    let mut bytes = Vec::new();
    let vectors = Rows::of(vectors, vectors.len() / rows.len());
    let assigned = Assigned { rows: vectors, lists: &[], centroids: None };
    codec.encode(assigned, &mut bytes);
    let codes = Codes { bytes: &bytes, n: rows.len(), ahead: &[] };
    let mut found = vec![Found::default(); AT_ONCE];
    for first in (0..nearest.len()).step_by(AT_ONCE) {
        let range = first..nearest.len().min(first + AT_ONCE);
        let live: Vec<Vec<u32>> = left_out[range.clone()].iter().map(|out| words(rows, out)).collect();
        let live: Vec<&[u32]> = live.iter().map(|words| &words[..]).collect();
        let worst: Vec<f32> = nearest[range.clone()].iter().map(|nearest| nearest.threshold()).collect();
        scanner.scan(codes, first, &worst, &live, &mut found[..range.len()]);
        for (nearest, found) in nearest[range].iter_mut().zip(&mut found) {
            found.entries.iter_mut().for_each(|entry| *entry = rows[*entry as usize]);
            nearest.take(found);
            found.clear();
        }
    }
}

/// A bit for each row that is not left out.
fn words(rows: &[u32], left_out: &Range<u32>) -> Vec<u32> {
    let bit = |(e, row): (usize, &u32)| u32::from(!left_out.contains(row)) << e;
    rows.chunks(32).map(|rows| rows.iter().enumerate().map(bit).fold(0, |word, bit| word | bit)).collect()
}

/// 1, 2, 3, 4, 6, 8, 12, … and all lists.
fn grid(nlist: usize) -> impl Iterator<Item = usize> {
    let steps = (0..usize::BITS - 2).flat_map(|power| [1 << power, 3 << power >> 1]);
    let mut last = 0;
    let steps = steps.filter(move |n: &usize| std::mem::replace(&mut last, *n) < *n && *n > 0);
    steps.take_while(move |n| *n < nlist).chain([nlist])
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
    /// `name value` lines, and one a curve: `curve k rerank nprobe:recall …`.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let model = self.model.as_ref().map_or("none".to_string(), |model| model.to_string());
        let mut text = format!(
            "rows {}\nqueries {}\nmodel {model}\nlist_cost {}\nrow_cost {}\n",
            self.rows, self.queries, self.list_cost, self.row_cost
        );
        for Curve { k, rerank, points } in &self.curves {
            text += &format!("curve {k} {rerank}");
            points.iter().for_each(|(nprobe, recall)| text += &format!(" {nprobe}:{recall}"));
            text.push('\n');
        }
        text.into_bytes()
    }

    /// What [`encode`](Self::encode) wrote; what is wrong with it if it did not.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "the calibration is no text")?;
        let (rows, queries, model) = (0, 0, None);
        let mut read =
            Calibration { rows, queries, model, list_cost: 0.0, row_cost: 0.0, curves: Vec::new() };
        for line in text.lines() {
            read.set(line).ok_or_else(|| format!("calibration: `{line}`"))?;
        }
        let sorted = read.curves.is_sorted_by_key(|curve| curve.k);
        if read.curves.is_empty() || !sorted {
            return Err("a calibration without curves, or with curves in no order".into());
        }
        Ok(read)
    }

    fn set(&mut self, line: &str) -> Option<()> {
        let (name, value) = line.split_once(' ')?;
        let float = || value.parse().ok().filter(|x: &f64| x.is_finite() && *x >= 0.0);
        match name {
            "rows" => self.rows = value.parse().ok()?,
            "queries" => self.queries = value.parse().ok()?,
            "model" if value == "none" => self.model = None,
            "model" => self.model = Some(Fingerprint::from_hex(value)?),
            "list_cost" => self.list_cost = float()?,
            "row_cost" => self.row_cost = float()?,
            "curve" => self.curves.push(Curve::decode(value)?),
            _ => {}
        }
        Some(())
    }
}

impl Curve {
    fn decode(text: &str) -> Option<Self> {
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
        ascending.then_some(Curve { k, rerank, points })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calibration() -> Calibration {
        let curve = |k, rerank, points: &[(usize, f64)]| Curve { k, rerank, points: points.to_vec() };
        Calibration {
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
        let of = |k, recall| calibration.settings(k, recall).unwrap();
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
            let refused = calibration.settings(k, recall);
            assert!(matches!(refused, Err(Error::Parameter { name: "target_recall", .. })), "{k} {recall}");
        }
    }

    #[test]
    fn the_grid_ends_with_all_lists() {
        assert_eq!(grid(1).collect::<Vec<_>>(), [1]);
        assert_eq!(grid(7).collect::<Vec<_>>(), [1, 2, 3, 4, 6, 7]);
        assert_eq!(grid(8).collect::<Vec<_>>(), [1, 2, 3, 4, 6, 8]);
        assert_eq!(grid(NLIST).last(), Some(NLIST));
    }

    const NLIST: usize = crate::NLIST_MAX;
}
