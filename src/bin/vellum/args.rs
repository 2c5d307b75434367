//! What may be typed. The help texts are the doc comments.

use crate::input::{IdList, parse_bytes};
use clap::{ArgGroup, Args, Parser, Subcommand};
use std::path::{Path, PathBuf};
use vellum::{Builder, IndexSpec, Metric, Rerank, Store};

const AFTER_HELP: &str = "\
Vectors are read from .npy (f32, f16, u8, i8, i32; C order), .fvecs, .bvecs and .ivecs; ids and exact answers \
from .npy (int32, uint32, int64, uint64) and .ivecs. Files are streamed: they may be larger than memory.

Ctrl-C stops cleanly: a transaction is undone, a bulk load keeps what it has committed. Only compaction runs to \
its end. A second Ctrl-C stops at once, which the store survives too.

Exit codes:
  0    done
  1    failed
  2    the command line is wrong
  3    `verify` found problems
  130  cancelled";

/// Vectors kept in one file: build, search, change and look after vellum stores.
#[derive(Debug, Parser)]
#[command(name = "vellum", version, after_help = AFTER_HELP, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Print one JSON object instead of text, also for a failure
    #[arg(long, global = true, help_heading = "Everywhere")]
    pub(crate) json: bool,
    /// Show no progress
    #[arg(long, short, global = true, help_heading = "Everywhere")]
    pub(crate) quiet: bool,
    /// Report progress in lines on standard error, for logs, where a bar cannot be drawn
    #[arg(long, global = true, conflicts_with = "quiet", help_heading = "Everywhere")]
    pub(crate) progress_lines: bool,
    /// Threads to use [default: one per core; 1 for `bench`]
    #[arg(long, global = true, value_name = "N", value_parser = threads, help_heading = "Everywhere")]
    pub(crate) threads: Option<usize>,
    /// Memory for what is read from the store, such as 512M or 2G
    #[arg(long, global = true, value_name = "SIZE", value_parser = parse_bytes, help_heading = "Everywhere")]
    pub(crate) cache_bytes: Option<usize>,
}

impl Common {
    /// How stores are opened, on `threads` threads unless the user says otherwise.
    pub(crate) fn builder(&self) -> Result<Builder, crate::Failure> {
        self.builder_on(self.threads)
    }

    pub(crate) fn builder_on(&self, threads: Option<usize>) -> Result<Builder, crate::Failure> {
        let mut builder = Store::builder();
        if let Some(bytes) = self.cache_bytes {
            builder = builder.cache_bytes(bytes);
        }
        if let Some(threads) = threads {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            let pool = pool.map_err(|e| crate::Failure::message(format!("{threads} threads: {e}")))?;
            builder = builder.thread_pool(std::sync::Arc::new(pool));
        }
        Ok(builder)
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// See it work: build, search, change and verify a store of 10,000 real vectors, in a temporary folder
    Demo,
    /// Create an index, train it and add the vectors of a file
    Build(Build),
    /// Create an empty index
    Create(Create),
    /// Train an index: before adding, or after, on what it holds
    Train(Train),
    /// Add the vectors of a file
    Add(Add),
    /// Find the nearest vectors of queries
    Search(Search),
    /// Measure recall and speed: one JSON line per operating point
    Bench(Bench),
    /// Remove vectors
    Remove(Remove),
    /// Replace vectors, keeping their ids
    Update(Update),
    /// Show what a store or an index holds
    Info(OneOrAll),
    /// Check a store: the models, every value, or redb's pages as well
    Verify(Verify),
    /// Rebuild an index's directories from its blocks and ids
    Repair(Target),
    /// Drop an index and all its vectors
    Drop(Target),
    /// Give an index another name
    Rename(Rename),
    /// Measure which recall comes at which settings, for `search --target-recall`
    Calibrate(Calibrate),
    /// Give unused space back to the file system
    Compact(StoreOnly),
    /// Copy a store to a new file, while it is in use
    Backup(Backup),
    /// Make a new store of a backup, after verifying it
    Restore(TwoFiles),
    /// Say whether two stores hold the same
    Compare(TwoFiles),
    /// Copy whatever can be read out of a broken file to a new store
    Salvage(Salvage),
    /// Write the vectors of an index to a .npy file
    Export(Export),
}

impl Command {
    /// The store and the index that the command is about, for advice when it fails.
    pub(crate) fn target(&self) -> Option<(&Path, Option<&str>)> {
        let (store, index) = match self {
            Command::Demo => return None,
            Command::Build(Build { target, .. })
            | Command::Create(Create { target, .. })
            | Command::Train(Train { target, .. })
            | Command::Add(Add { target, .. })
            | Command::Search(Search { target, .. })
            | Command::Bench(Bench { target, .. })
            | Command::Remove(Remove { target, .. })
            | Command::Update(Update { target, .. })
            | Command::Export(Export { target, .. })
            | Command::Calibrate(Calibrate { target, .. })
            | Command::Drop(target)
            | Command::Rename(Rename { target, .. })
            | Command::Repair(target) => (&target.store, Some(&target.index)),
            Command::Info(one) | Command::Verify(Verify { one, .. }) => (&one.store, one.index.as_ref()),
            Command::Restore(TwoFiles { from, .. })
            | Command::Compare(TwoFiles { from, .. })
            | Command::Salvage(Salvage { files: TwoFiles { from, .. }, .. }) => (from, None),
            Command::Compact(StoreOnly { store }) | Command::Backup(Backup { store, .. }) => (store, None),
        };
        Some((store.as_path(), index.map(String::as_str)))
    }
}

#[derive(Debug, Args)]
pub(crate) struct Rename {
    #[command(flatten)]
    pub(crate) target: Target,
    /// The new name
    pub(crate) to: String,
}

/// Measure which recall comes at which nprobe and rerank
///
/// Queries are vectors of the index, which neither they nor what was added around them may find, or those of a file. The
/// result is stored with the index in place of the first calibration, which training made; calibrate again when many vectors
/// have come or gone.
#[derive(Debug, Args)]
pub(crate) struct Calibrate {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Query vectors that are like those to come [default: vectors of the index]
    #[arg(long, value_name = "FILE")]
    pub(crate) queries: Option<PathBuf>,
    /// Queries to measure with, at most
    #[arg(long, value_name = "N", default_value_t = 8192, value_parser = positive)]
    pub(crate) most: usize,
    /// Numbers of neighbours to measure; what is searched for may lie between them
    #[arg(short, value_name = "K,K,...", value_delimiter = ',', default_value = "1,3,10,30,100", value_parser = positive)]
    pub(crate) k: Vec<usize>,
}

#[derive(Debug, Args)]
pub(crate) struct Target {
    /// The store's file
    pub(crate) store: PathBuf,
    /// The index's name within the store
    pub(crate) index: String,
}

#[derive(Debug, Args)]
pub(crate) struct OneOrAll {
    /// The store's file
    pub(crate) store: PathBuf,
    /// The index's name; all of them if it is left out
    pub(crate) index: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct StoreOnly {
    /// The store's file
    pub(crate) store: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Kind {
    /// What to create: "IVF2048,Flat" is 2048 inverted lists of exact vectors, "Flat" one list
    #[arg(long)]
    pub(crate) spec: IndexSpec,
    /// How nearness is measured: l2, ip or cosine; with f32 codes alone also l1, linf, lp:P, canberra, braycurtis,
    /// jensenshannon, jaccard, nan-euclidean or gower
    #[arg(long)]
    pub(crate) metric: Metric,
    /// Blocks of 4096 * 2^K - 16 bytes, K from 0 to 6
    #[arg(long, value_name = "K")]
    pub(crate) block_order: Option<u8>,
}

impl Kind {
    pub(crate) fn spec(&self, dim: usize) -> IndexSpec {
        let spec = self.spec.clone().with_dim(dim).with_metric(self.metric);
        match self.block_order {
            Some(order) => spec.with_block_order(order),
            None => spec,
        }
    }
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Training {
    /// Rows to train on, drawn at random [default: 256 for each list]
    #[arg(long, value_name = "N")]
    pub(crate) train_size: Option<usize>,
    /// Iterations of k-means [default: 10]
    #[arg(long, value_name = "N")]
    pub(crate) niter: Option<usize>,
    /// Vectors that are the first of the initial centroids; k-means chooses the others
    #[arg(long, value_name = "FILE")]
    pub(crate) initial_centroids: Option<PathBuf>,
    /// Keep the initial centroids as they are; only the others move
    #[arg(long, requires = "initial_centroids")]
    pub(crate) frozen: bool,
    /// Seed of the sample and of k-means
    #[arg(long, value_name = "N", default_value_t = 1234)]
    pub(crate) seed: u64,
}

/// What the vectors of a file are called.
#[derive(Debug, Args)]
pub(crate) struct Names {
    /// Their ids, as many as there are vectors [default: numbers not used before, from 0]
    #[arg(long, value_name = "FILE")]
    pub(crate) ids: Option<PathBuf>,
    /// Their keys, for an index of keys: one a line, UTF-8, as many as there are vectors
    #[arg(long, value_name = "FILE", conflicts_with = "ids")]
    pub(crate) keys: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    #[command(flatten)]
    pub(crate) target: Target,
    #[command(flatten)]
    pub(crate) kind: Kind,
    /// Components of a vector
    #[arg(long)]
    pub(crate) dim: usize,
    /// Name vectors by keys, which `vellum add --keys` gives, instead of by numbers
    #[arg(long)]
    pub(crate) keyed: bool,
}

/// Create an index, train it and add the vectors of a file
///
/// The rows are loaded in transactions of bounded size. If that stops half-way, `vellum add --resume` goes on and
/// `vellum add --discard` empties the index. With --keys all of it is one transaction: it is done or it is not.
#[derive(Debug, Args)]
pub(crate) struct Build {
    #[command(flatten)]
    pub(crate) target: Target,
    #[command(flatten)]
    pub(crate) kind: Kind,
    /// The vectors
    #[arg(long, value_name = "FILE")]
    pub(crate) data: PathBuf,
    #[command(flatten)]
    pub(crate) names: Names,
    #[command(flatten)]
    pub(crate) training: Training,
    /// Leave the space that loading freed in the file
    #[arg(long)]
    pub(crate) no_compact: bool,
    /// Memory to build with, such as 512M: a smaller sample to train on, smaller transactions and a smaller cache, and a
    /// file larger than that is no matter. Not with --keys, which are added in one transaction. The program itself takes some 20 MB more
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, conflicts_with = "keys")]
    pub(crate) memory: Option<usize>,
}

/// Train an index: before adding, or after, on what it holds
#[derive(Debug, Args)]
pub(crate) struct Train {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Vectors to train on [default: those that the index holds]
    #[arg(long, value_name = "FILE")]
    pub(crate) data: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) training: Training,
}

/// Add the vectors of a file
///
/// All of them in one transaction; or with --bulk, into an empty index, in transactions of bounded size: faster for a
/// large file, but the index cannot be searched until the load is finished. If a bulk load stops half-way, --resume
/// goes on with the same file and --discard empties the index.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).args(["data", "discard"]))]
pub(crate) struct Add {
    #[command(flatten)]
    pub(crate) target: Target,
    /// The vectors
    #[arg(long, value_name = "FILE")]
    pub(crate) data: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) names: Names,
    /// Load an empty index in transactions of bounded size
    #[arg(long, requires = "data", conflicts_with = "keys")]
    pub(crate) bulk: bool,
    /// Go on with an unfinished bulk load of the same file
    #[arg(long, requires = "data", conflicts_with_all = ["bulk", "keys"])]
    pub(crate) resume: bool,
    /// Empty the index of what an unfinished bulk load has loaded
    #[arg(long, conflicts_with_all = ["ids", "keys"])]
    pub(crate) discard: bool,
}

/// Find the nearest vectors of queries
///
/// With --out-ids and --out-distances the answers go to .npy files of one row per query and k columns (int64, float32).
/// Where fewer than k vectors were found, a row ends with ids -1 and distances NaN.
#[derive(Debug, Args)]
pub(crate) struct Search {
    #[command(flatten)]
    pub(crate) target: Target,
    /// The query vectors
    #[arg(long, value_name = "FILE")]
    pub(crate) queries: PathBuf,
    /// Neighbours to find for each query
    #[arg(short, default_value_t = 10, value_parser = neighbors)]
    pub(crate) k: usize,
    /// Lists to look into [default: the index's own]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub(crate) nprobe: Option<usize>,
    /// Look into as many lists, and rank as many candidates again, as gave this recall when the index was calibrated
    #[arg(long, value_name = "SHARE", value_parser = recall, conflicts_with_all = ["nprobe", "rerank", "max_codes"])]
    pub(crate) target_recall: Option<f64>,
    /// Entries to look at for each query, at most
    #[arg(long, value_name = "N", value_parser = positive)]
    pub(crate) max_codes: Option<usize>,
    /// Candidates to rank again by the vectors kept beside the codes: so many (40), or bound:Z, until the next would have to
    /// be nearer than its code says by more than Z standard deviations (bound:3)
    #[arg(long, value_name = "N|bound:Z", value_parser = rerank)]
    pub(crate) rerank: Option<Rerank>,
    /// Write the ids found to this .npy file
    #[arg(long, value_name = "FILE")]
    pub(crate) out_ids: Option<PathBuf>,
    /// Write the distances found to this .npy file
    #[arg(long, value_name = "FILE")]
    pub(crate) out_distances: Option<PathBuf>,
    /// Queries whose answers are printed; with --json all are, unless they go to files
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub(crate) show: usize,
}

/// Measure recall and speed: one JSON line per operating point
///
/// {"nprobe", "rerank", "recall", "qps", "p50_us", "p99_us", "threads"}. Recall is the mean share of the k nearest (the
/// first k of the truth) that were found. All queries go in one batch call, with --single in one call per query; with
/// --single and several threads, each thread makes its own calls. After one pass to warm up, points are repeated for
/// --seconds: `qps` is that of the best repetition, `p50_us` and `p99_us` are percentiles of the duration of a call, so of a whole
/// batch without --single and of one query with it. `rerank` is a number, or a text for a bound ("bound:3"), or null where
/// --rerank is not given. With --target-recall both are those that the index was calibrated to, and "target_recall" comes first.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    #[command(flatten)]
    pub(crate) target: Target,
    /// The query vectors
    #[arg(long, value_name = "FILE")]
    pub(crate) queries: PathBuf,
    /// The ids of the exact nearest, nearest first: a row for each query, at least k columns
    #[arg(long, value_name = "FILE")]
    pub(crate) truth: PathBuf,
    /// Neighbours to find for each query
    #[arg(short, default_value_t = 10, value_parser = neighbors)]
    pub(crate) k: usize,
    /// Lists to look into, one operating point for each
    #[arg(long, value_name = "N,N,...", value_delimiter = ',', required_unless_present = "target_recall", value_parser = positive)]
    pub(crate) nprobe: Vec<usize>,
    /// Recalls to reach, by what calibrating measured, one operating point for each
    #[arg(long, value_name = "SHARE,...", value_delimiter = ',', value_parser = recall, conflicts_with_all = ["nprobe", "rerank"])]
    pub(crate) target_recall: Vec<f64>,
    /// Candidates to rank again, numbers or bounds (bound:3), one operating point for each with each nprobe
    #[arg(long, value_name = "N,bound:Z,...", value_delimiter = ',', value_parser = rerank)]
    pub(crate) rerank: Vec<Rerank>,
    /// One call per query
    #[arg(long)]
    pub(crate) single: bool,
    /// Add where the time of a query goes: microseconds a stage, lists, entries and rows, from a pass of its own
    #[arg(long)]
    pub(crate) profile: bool,
    /// How long to repeat each point, at least
    #[arg(long, default_value_t = 0.5, value_parser = seconds)]
    pub(crate) seconds: f64,
}

/// Remove vectors
#[derive(Debug, Args)]
pub(crate) struct Remove {
    #[command(flatten)]
    pub(crate) target: Target,
    #[command(flatten)]
    pub(crate) ids: Ids,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Ids {
    /// The ids, such as 1,2,5-9 (both ends are meant)
    #[arg(long, value_name = "LIST")]
    pub(crate) ids: Option<IdList>,
    /// A file of ids
    #[arg(long, value_name = "FILE")]
    pub(crate) ids_file: Option<PathBuf>,
}

/// Replace vectors, keeping their ids
///
/// All of them or, if an id is not there, none.
#[derive(Debug, Args)]
pub(crate) struct Update {
    #[command(flatten)]
    pub(crate) target: Target,
    /// The ids whose vectors to replace
    #[arg(long, value_name = "FILE")]
    pub(crate) ids_file: PathBuf,
    /// The new vectors, in the order of the ids
    #[arg(long, value_name = "FILE")]
    pub(crate) data: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Backup {
    /// The store's file
    pub(crate) store: PathBuf,
    /// The new file
    pub(crate) dest: PathBuf,
    /// Open the copy again and compare it with what it was made of
    #[arg(long)]
    pub(crate) check: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TwoFiles {
    /// A store's file
    pub(crate) from: PathBuf,
    /// The other file
    pub(crate) to: PathBuf,
}

/// Copy whatever can be read out of a broken file to a new store
///
/// The broken file is only read. What was lost is said; try a backup, or `vellum repair` if the store can still be opened, first.
#[derive(Debug, Args)]
pub(crate) struct Salvage {
    #[command(flatten)]
    pub(crate) files: TwoFiles,
    /// Do not ask redb, which may never come to an end on such a file: what was removed or replaced may come back
    #[arg(long)]
    pub(crate) scan: bool,
}

/// Check a store: the models, every value, or redb's pages as well
#[derive(Debug, Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    pub(crate) one: OneOrAll,
    /// How deep to look: headers and models; every checksum and invariant; redb's own pages, too
    #[arg(long, value_enum, default_value = "values")]
    pub(crate) depth: Depth,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Depth {
    Model,
    Values,
    Pages,
}

/// Write the vectors of an index to a .npy file
///
/// As f32, in ascending order of ids, as exact as the index keeps them; with metric cosine they have length 1.
#[derive(Debug, Args)]
pub(crate) struct Export {
    #[command(flatten)]
    pub(crate) target: Target,
    /// The .npy file for the vectors
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// A .npy file for their ids (uint64)
    #[arg(long, value_name = "FILE")]
    pub(crate) out_ids: Option<PathBuf>,
    /// A text file for their keys, one a line
    #[arg(long, value_name = "FILE")]
    pub(crate) out_keys: Option<PathBuf>,
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("a whole number of at least 1 is needed".into()),
        Ok(number) => Ok(number),
    }
}

fn rerank(text: &str) -> Result<Rerank, String> {
    text.parse()
        .map_err(|_| "a number of rows of at least 1, or bound:Z with Z of 0 or more, is needed".into())
}

/// A row of an answer file has k places whether they are filled or not.
fn neighbors(text: &str) -> Result<usize, String> {
    positive(text)
        .ok()
        .filter(|&k| k <= 1_000_000)
        .ok_or_else(|| "1 to 1000000 neighbours are possible".into())
}

fn threads(text: &str) -> Result<usize, String> {
    positive(text).ok().filter(|&n| n <= 1024).ok_or_else(|| "1 to 1024 threads are possible".into())
}

/// A share, more than 0 and at most 1.
fn recall(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share: &f64| *share > 0.0 && *share <= 1.0);
    share.ok_or_else(|| "a recall is more than 0 and at most 1".into())
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|s: &f64| (0.0..=3600.0).contains(s));
    seconds.ok_or_else(|| "a number of seconds, at most 3600".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_command_lines_that_scripts_rely_on() {
        for line in [
            "vellum demo",
            "vellum build S I --spec IVF2048,Flat --metric l2 --data B.npy --ids I.npy --train-size 9",
            "vellum search S I --queries Q.npy -k 10 --nprobe 4 --out-ids F.npy --out-distances G.npy",
            "vellum bench S I --queries Q.npy --truth T.npy -k 10 --nprobe 1,2,4 --threads 1 --single",
            "vellum bench S I --queries Q.npy --truth T.npy --nprobe 1 --rerank 20,40 --json",
            "vellum bench S I --queries Q.npy --truth T.npy --target-recall 0.9,0.95",
            "vellum search S I --queries Q.npy --target-recall 0.95",
            "vellum calibrate S I -k 10 --most 100",
            "vellum remove S I --ids 1,2,5-9",
            "vellum verify S --json",
            "vellum verify S I --depth pages",
            "vellum backup S B --check",
            "vellum restore B S",
            "vellum compare A B --json",
            "vellum salvage S N --scan",
        ] {
            Cli::try_parse_from(line.split(' ')).map_err(|e| e.to_string()).unwrap();
        }
    }

    #[test]
    fn contradictions_are_refused() {
        for line in [
            "vellum",
            "vellum remove S I",
            "vellum remove S I --ids 1 --ids-file F.npy",
            "vellum remove S I --ids 9-5",
            "vellum add S I",
            "vellum add S I --data F.npy --discard",
            "vellum search S I --queries Q.npy -k 0",
            "vellum build S I --spec PQ --metric l2 --data B.npy",
            "vellum build S I --spec Flat --metric l3 --data B.npy",
            "vellum bench S I --queries Q.npy --truth T.npy --nprobe 1,,2",
            "vellum bench S I --queries Q.npy --truth T.npy",
            "vellum search S I --queries Q.npy --target-recall 1.5",
            "vellum search S I --queries Q.npy --target-recall 0.9 --nprobe 3",
            "vellum info S --threads 0",
            "vellum info S --cache-bytes 1Q",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
