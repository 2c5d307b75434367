//! `bench`: recall and speed of an index, one JSON line per operating point.

use crate::args::{Bench, Common};
use crate::console::{Console, rounded};
use crate::failure::Failure;
use crate::input::read_rows;
use crate::progress::Meter;
use crate::search::params;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};
use vellum::files::NumberReader;
use vellum::{Error, IndexReader, Neighbor, Rerank, Rows, SearchParams, SearchStats};

pub(crate) fn bench(args: &Bench, common: &Common, console: &Console) -> Result<(), Failure> {
    let threads = common.threads.unwrap_or(1);
    let store = common.builder_on(Some(threads))?.open(&args.target.store)?;
    let reader = store.begin_read()?.index(&args.target.index)?;
    let queries = read_rows(&args.queries, reader.dim())?;
    let queries = Rows::new(&queries, reader.dim())?;
    let truth = read_truth(&args.truth, queries.len(), args.k)?;
    let reranks = reranks(args, &reader)?;
    let mut points = Vec::new();
    for &recall in &args.target_recall {
        let (nprobe, rerank) = reader.target_settings(args.k, recall)?;
        let head = format!(r#""target_recall":{recall},"#);
        points.push((head, nprobe, rerank.map(Rerank::Rows), SearchParams::new().target_recall(recall)));
    }
    for &nprobe in &args.nprobe {
        for &rerank in &reranks {
            points.push((String::new(), nprobe, rerank, params(Some(nprobe), rerank, None)));
        }
    }
    let total = points.len() as u64;
    let mut meter = Meter::new(console);
    for ((head, nprobe, rerank, params), done) in points.into_iter().zip(0..) {
        meter.step("bench", done, total)?;
        let call = Call { reader: &reader, k: args.k, params: &params, threads, single: args.single };
        let measured = measure(&call, queries, Duration::from_secs_f64(args.seconds))?;
        let profile = if args.profile { profile(&call, queries)? } else { String::new() };
        // Written by hand to keep the order that people read it in.
        console.line(format_args!(
            r#"{{{head}"nprobe":{nprobe},"rerank":{},"recall":{},"qps":{},"p50_us":{},"p99_us":{},"threads":{threads}{profile}}}"#,
            rerank.map_or(Value::Null, spelled),
            json!(rounded(recall(&measured.found, &truth, args.k), 6)),
            json!(rounded(queries.len() as f64 / measured.best.as_secs_f64(), 1)),
            json!(rounded(percentile(&measured.calls, 0.50), 2)),
            json!(rounded(percentile(&measured.calls, 0.99), 2)),
        ))?;
    }
    Ok(())
}

/// What a query does and where its time goes, of all threads together, as further members of the JSON object. The clock
/// is read some times in each call, so this is measured in a pass of its own.
fn profile(call: &Call<'_>, queries: Rows<'_>) -> Result<String, Failure> {
    let stats = Arc::new(SearchStats::default());
    let params = call.params.clone().stats(&stats);
    Call { params: &params, ..*call }.run(queries, &mut Vec::new())?;
    let a_query = |sum: f64| rounded(sum / stats.queries().max(1) as f64, 3);
    let stages = SearchStats::stages().iter();
    let stages: serde_json::Map<_, _> = stages
        .filter_map(|stage| Some((stage.to_string(), json!(a_query(stats.time(stage)?.as_secs_f64() * 1e6)))))
        .collect();
    Ok(format!(
        r#","stages_us":{},"lists":{},"entries":{},"reranked":{}"#,
        json!(stages),
        json!(a_query(stats.lists() as f64)),
        json!(a_query(stats.entries() as f64)),
        json!(a_query(stats.reranked() as f64)),
    ))
}

/// As it was given: numbers are numbers.
fn spelled(rerank: Rerank) -> Value {
    match rerank {
        Rerank::Rows(rows) => rows.into(),
        bound => bound.to_string().into(),
    }
}

/// What --rerank asks for; `[None]` if it is not given. An index that keeps nothing to rank by again
/// refuses it.
fn reranks(args: &Bench, reader: &IndexReader<'_>) -> Result<Vec<Option<Rerank>>, Failure> {
    if args.rerank.is_empty() {
        return Ok(vec![None]);
    }
    if reader.spec().kept_rows().is_none() {
        return Err(Failure::Usage(format!(
            "--rerank: index `{}` ({}) keeps no vectors to rank again by; leave --rerank out",
            args.target.index,
            reader.spec()
        )));
    }
    Ok(args.rerank.iter().copied().map(Some).collect())
}

/// The `k` nearest ids of each query.
fn read_truth(path: &Path, queries: usize, k: usize) -> Result<Vec<Vec<i128>>, Failure> {
    let mut reader = NumberReader::open(path)?;
    let (rows, columns) = (reader.rows(), reader.columns());
    let name = path.display();
    if rows != queries as u64 {
        return Err(Failure::message(format!(
            "{name} has answers for {rows} queries, but there are {queries}"
        )));
    }
    if columns < k {
        return Err(Failure::message(format!("{name} has {columns} answers for each query, but k is {k}")));
    }
    let all = reader.next_batch::<i128>(queries.max(1))?.unwrap_or_default();
    Ok(all.chunks_exact(columns).map(|row| row.iter().copied().take(k).collect()).collect())
}

/// The mean share of the k exact answers that were found, as the peers' script counts it.
fn recall(found: &[Vec<Neighbor>], truth: &[Vec<i128>], k: usize) -> f64 {
    let hits = |(found, truth): (&Vec<Neighbor>, &Vec<i128>)| {
        found.iter().filter(|neighbor| truth.contains(&i128::from(neighbor.id))).count()
    };
    let all: usize = found.iter().zip(truth).map(hits).sum();
    all as f64 / (k * truth.len()) as f64
}

/// How all queries are searched once.
struct Call<'a> {
    reader: &'a IndexReader<'a>,
    k: usize,
    params: &'a SearchParams,
    threads: usize,
    single: bool,
}

struct Measured {
    found: Vec<Vec<Neighbor>>,
    /// The shortest time for all queries.
    best: Duration,
    /// The durations of all timed calls in microseconds, ascending.
    calls: Vec<f64>,
}

/// One repetition to warm up, then at least one, until `time` is over.
fn measure(call: &Call<'_>, queries: Rows<'_>, time: Duration) -> Result<Measured, Failure> {
    call.run(queries, &mut Vec::new())?;
    let (mut best, mut calls) = (Duration::MAX, Vec::new());
    let begin = Instant::now();
    let found = loop {
        crate::progress::check_interrupt()?;
        let start = Instant::now();
        let found = call.run(queries, &mut calls)?;
        best = best.min(start.elapsed());
        if begin.elapsed() >= time {
            break found;
        }
    };
    calls.sort_by(f64::total_cmp);
    Ok(Measured { found, best, calls })
}

impl Call<'_> {
    /// Searches all queries; adds the duration of each call.
    fn run(&self, queries: Rows<'_>, calls: &mut Vec<f64>) -> Result<Vec<Vec<Neighbor>>, Error> {
        match (self.single, self.threads) {
            (false, _) => timed(calls, || self.reader.search_batch(queries, self.k, self.params)),
            (true, 1) => queries.iter().map(|query| self.one(query, calls)).collect(),
            (true, _) => self.one_by_one_on_threads(queries, calls),
        }
    }

    fn one(&self, query: &[f32], calls: &mut Vec<f64>) -> Result<Vec<Neighbor>, Error> {
        timed(calls, || self.reader.search(query, self.k, self.params))
    }

    /// Each thread takes the next query that nobody has taken.
    fn one_by_one_on_threads(
        &self,
        queries: Rows<'_>,
        calls: &mut Vec<f64>,
    ) -> Result<Vec<Vec<Neighbor>>, Error> {
        let next = AtomicUsize::new(0);
        let work = || {
            let (mut found, mut calls) = (Vec::new(), Vec::new());
            loop {
                let query = next.fetch_add(1, Relaxed);
                if query >= queries.len() {
                    return Ok::<_, Error>((found, calls));
                }
                found.push((query, self.one(queries.row(query), &mut calls)?));
            }
        };
        let parts: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..self.threads).map(|_| scope.spawn(work)).collect();
            // A panic of a search is a panic here.
            threads.into_iter().map(|t| t.join().unwrap_or_else(|e| std::panic::resume_unwind(e))).collect()
        });
        let mut all = vec![Vec::new(); queries.len()];
        for part in parts {
            let (found, durations) = part?;
            calls.extend(durations);
            found.into_iter().for_each(|(query, neighbors)| all[query] = neighbors);
        }
        Ok(all)
    }
}

fn timed<T>(calls: &mut Vec<f64>, call: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = call();
    calls.push(start.elapsed().as_secs_f64() * 1e6);
    result
}

/// The smallest of `sorted` that at least a share of `p` does not exceed.
fn percentile(sorted: &[f64], p: f64) -> f64 {
    let rank = (p * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recall_counts_the_first_k_of_the_truth() {
        let found = vec![vec![Neighbor { id: 1, distance: 0.0 }, Neighbor { id: 7, distance: 1.0 }], vec![]];
        assert_eq!(recall(&found, &[vec![7, 2], vec![3, -1]], 2), 0.25);
    }

    #[test]
    fn percentiles_are_ranks() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(percentile(&hundred, 0.50), 50.0);
        assert_eq!(percentile(&hundred, 0.99), 99.0);
        assert_eq!(percentile(&[3.0], 0.99), 3.0);
    }
}
