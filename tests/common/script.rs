//! From arbitrary bytes to operations, for proptest and the fuzzer alike.
//!
//! ```text
//! settings: 8 bytes | then per operation:  length u8 | that many bytes
//! ```
//! Every operation has bytes of its own (zeros after their end), so that a fuzzer that cuts one out, or
//! a shrinking proptest, leaves the others as they were. Every byte string is a script.

use vellum::{
    ClusteringParams, Coarse, Encoding, IndexSpec, Init, KeptRows, Metric, Rerank, TrainParams, TransformKind,
};

#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) settings: Settings,
    pub(crate) operations: Vec<Operation>,
}

/// How the store is opened, and the index that is there from the start.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) cache_bytes: usize,
    pub(crate) durable: bool,
    pub(crate) quick_repair: bool,
    pub(crate) load_bytes: usize,
    pub(crate) first: IndexSpec,
}

#[derive(Clone, Debug)]
pub(crate) enum Operation {
    Transaction {
        steps: Vec<Step>,
        end: End,
    },
    Read {
        index: &'static str,
        read: Read,
    },
    /// Begins to read and keeps the state; opens its readers at once, or only when they are first compared.
    Hold {
        at_once: bool,
    },
    Release,
    /// Drops every handle and opens the store again.
    Close,
    /// [`vellum::Store::reopen`].
    Reopen,
    Flush,
    Compact,
    Backup,
    Load {
        index: &'static str,
        fresh: Option<IndexSpec>,
        batches: Vec<(Option<Ids>, Batch)>,
        finish: bool,
    },
    DiscardLoad {
        index: &'static str,
    },
    Repair {
        index: &'static str,
    },
    Fail {
        after: u64,
        reads: bool,
        for_ever: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Commit,
    Abort,
    Drop,
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Create(&'static str, IndexSpec),
    Drop(&'static str),
    Rename(&'static str, &'static str),
    /// Several verbs by one writer. With `suited`, verbs by id are done by key where the index has keys,
    /// and the other way round, so that most are accepted.
    Index {
        name: &'static str,
        verbs: Vec<Verb>,
        suited: bool,
    },
    /// Dropping and renaming an index that a writer has open: refused, and nothing is changed.
    DropWhileOpen(&'static str),
    /// Adds all of the second index, as it was committed last, to the first, its ids so much larger. Not in scripts: the
    /// model does not know which indexes go together.
    Merge(&'static str, &'static str, u64),
    /// Copies one index, as it was committed last, into a new one of the same model, part after part.
    Copy {
        from: &'static str,
        to: &'static str,
        cut: Cut,
    },
}

/// How an index is cut into parts that share nothing and leave nothing out.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cut {
    All,
    /// Ids below, and from there on.
    Ids(u64),
    /// Remainders.
    Modulo(u64),
    /// Ranks below, and from there on.
    Elements(u64),
    /// Equal parts of each list.
    ListPart(u64),
    /// Lists below, and from there on.
    Lists(u32),
    /// Subsets that are none.
    Wrong,
}

#[derive(Clone, Debug)]
pub(crate) enum Verb {
    Add(Batch),
    AddWithIds(Ids, Batch),
    /// To lists of the caller's choice.
    AddPreassigned(Ids, Batch, Lists),
    /// Encoded by the index itself, and in lists of the caller's choice if some are named.
    AddCodes(Ids, Batch, Option<Lists>),
    Upsert(Ids, Batch),
    Update(Ids, Batch),
    AddWithKeys(Keys, Batch),
    UpsertWithKeys(Keys, Batch),
    UpdateWithKeys(Keys, Batch),
    Remove(Sel),
    RemoveKeys(Keys, usize),
    Clear,
    Train(Batch, TrainParams),
    TrainStored(TrainParams),
    SetDefaults(Params),
    Renumber,
    /// Read verbs of the writer, which see its own changes.
    Read(Read),
}

impl Verb {
    /// The verb that an index of this kind accepts in this one's place.
    pub(crate) fn suited(&self, keyed: bool) -> Verb {
        let (given, batch) = match self {
            Verb::Add(batch) => (None, batch),
            Verb::AddWithIds(ids, batch)
            | Verb::AddPreassigned(ids, batch, _)
            | Verb::AddCodes(ids, batch, _)
            | Verb::Upsert(ids, batch)
            | Verb::Update(ids, batch) => (Some(*ids), batch),
            Verb::AddWithKeys(keys, batch)
            | Verb::UpsertWithKeys(keys, batch)
            | Verb::UpdateWithKeys(keys, batch) => (Some(keys.as_ids()), batch),
            other => return other.clone(),
        };
        let batch = batch.clone();
        let ids =
            given.unwrap_or(Ids::Given { first: batch.seeds.first().map_or(0, |n| (*n).into()), step: 1 });
        match (self, keyed) {
            (Verb::Add(_) | Verb::AddWithIds(..) | Verb::AddPreassigned(..) | Verb::AddCodes(..), true) => {
                Verb::AddWithKeys(ids.as_keys(), batch)
            }
            (Verb::Upsert(..), true) => Verb::UpsertWithKeys(ids.as_keys(), batch),
            (Verb::Update(..), true) => Verb::UpdateWithKeys(ids.as_keys(), batch),
            (Verb::AddWithKeys(..), false) => Verb::AddWithIds(ids, batch),
            (Verb::UpsertWithKeys(..), false) => Verb::Upsert(ids, batch),
            (Verb::UpdateWithKeys(..), false) => Verb::Update(ids, batch),
            _ => self.clone(),
        }
    }
}

impl Ids {
    fn as_keys(self) -> Keys {
        match self {
            Ids::Given { first, step } => Keys::Given { first: first as u8, step: step as u8, long: false },
            Ids::Existing { start, stride } => Keys::Existing { start, stride },
        }
    }
}

impl Keys {
    fn as_ids(self) -> Ids {
        match self {
            Keys::Given { first, step, .. } => Ids::Given { first: first.into(), step: step.into() },
            Keys::Existing { start, stride } => Ids::Existing { start, stride },
        }
    }
}

/// List numbers, by a rule.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lists {
    pub(crate) first: u8,
    pub(crate) step: u8,
    pub(crate) wrong: WrongList,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WrongList {
    Nothing,
    /// The last one is the number of lists.
    Unknown,
    /// One too few.
    Length,
}

impl Lists {
    /// One list for each of `n` rows, and why they must be refused, if they must.
    pub(crate) fn of_rows(self, n: usize, nlist: usize) -> (Vec<u32>, Option<&'static str>) {
        let mut lists: Vec<u32> = (0..n).map(|i| (self.number(i) % nlist) as u32).collect();
        let refusal = match (self.wrong, lists.last_mut()) {
            (WrongList::Unknown, Some(last)) => {
                *last = nlist as u32;
                Some("Parameter")
            }
            (WrongList::Length, Some(_)) => {
                lists.pop();
                Some("Length")
            }
            _ => None,
        };
        (lists, refusal)
    }

    /// Up to four lists for each of `n` queries, some of them none and some of them twice.
    pub(crate) fn of_queries(self, n: usize, nlist: usize) -> (Vec<Vec<Option<u32>>>, Option<&'static str>) {
        let list = |number: usize| (number % 8 != 7).then_some((number % nlist) as u32);
        let query = |q: usize| (0..self.number(q) % 5).map(|i| list(self.number(q + i))).collect();
        let mut lists: Vec<Vec<Option<u32>>> = (0..n).map(query).collect();
        let refusal = match (self.wrong, lists.last_mut()) {
            (WrongList::Unknown, Some(last)) => {
                last.push(Some(nlist as u32));
                Some("Parameter")
            }
            (WrongList::Length, Some(_)) => {
                lists.pop();
                Some("Length")
            }
            _ => None,
        };
        (lists, refusal)
    }

    fn number(self, i: usize) -> usize {
        usize::from(self.first) + i * usize::from(self.step)
    }
}

/// What a search asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    Nearest(usize),
    Within(f32),
}

/// Vectors, by the numbers that [`super::model::vector`] makes them of.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    pub(crate) seeds: Vec<u8>,
    pub(crate) wrong: Wrong,
}

/// Something about an input that must be refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    Nothing,
    Dimension,
    NotFinite,
    /// A zero vector, which cosine refuses.
    Zero,
    /// 1e6, which f16 cannot hold.
    Huge,
    /// One id or key too few.
    Length,
    /// The first id or key twice.
    Twice,
    /// An id or key that cannot be stored.
    Invalid,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Ids {
    Given {
        first: u64,
        step: u64,
    },
    /// Ids that are there, counted from the `start`-th.
    Existing {
        start: usize,
        stride: usize,
    },
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Keys {
    Given { first: u8, step: u8, long: bool },
    Existing { start: usize, stride: usize },
}

#[derive(Clone, Debug)]
pub(crate) enum Sel {
    All,
    Range(u64, u64),
    Array(Vec<u64>),
    Batch(Vec<u64>),
    Bitmap(Vec<u64>),
    /// A function: ids whose remainder is 0.
    Multiples(u64),
    Not(Box<Sel>),
    And(Box<Sel>, Box<Sel>),
    Or(Box<Sel>, Box<Sel>),
    XOr(Box<Sel>, Box<Sel>),
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Params {
    pub(crate) nprobe: Option<usize>,
    pub(crate) max_codes: Option<usize>,
    pub(crate) rerank: Option<Rerank>,
    pub(crate) selector: Option<Sel>,
}

#[derive(Clone, Debug)]
pub(crate) enum Read {
    Search {
        queries: Batch,
        k: usize,
        params: Params,
    },
    Range {
        queries: Batch,
        radius: f32,
        params: Params,
    },
    /// A heap continued over the ids that the selector holds and those it does not.
    Into {
        query: Batch,
        k: usize,
        selector: Sel,
    },
    /// A search in the lists that a probe of so many names, and in lists of the caller's choice.
    Preassigned {
        queries: Batch,
        goal: Goal,
        params: Params,
        nprobe: usize,
        lists: Lists,
    },
    /// A search with the place, code and vector of everything that was found.
    Placed {
        queries: Batch,
        goal: Goal,
        params: Params,
    },
    /// To codes and back.
    Encode(Batch),
    Residual(Batch, Ids),
    Reconstruct(Ids, usize),
    Lookup(Keys, Ids),
    Stats,
}

/// The operations of a byte string.
pub(crate) fn decode(bytes: &[u8]) -> Script {
    let (head, mut rest) = bytes.split_at(bytes.len().min(SETTINGS));
    let settings = Bytes(head).settings();
    let mut operations = Vec::new();
    while let Some((len, tail)) = rest.split_first() {
        let (own, next) = tail.split_at(tail.len().min(*len as usize));
        operations.push(Bytes(own).operation());
        rest = next;
    }
    Script { settings, operations }
}

/// The byte string that gives each operation the bytes of one chunk, at most 255 each.
pub(crate) fn encode(settings: &[u8], operations: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = settings.to_vec();
    bytes.resize(SETTINGS, 0);
    for operation in operations {
        bytes.push(operation.len() as u8);
        bytes.extend_from_slice(operation);
    }
    bytes
}

pub(crate) const SETTINGS: usize = 12;

/// What is left of an operation's bytes.
struct Bytes<'a>(&'a [u8]);

/// What the model can predict an index with: most codes alone are estimates, bytes and steps of what cosine scales are
/// refused or inexact, and steps do not go with exact codes.
fn fitting(spec: &IndexSpec, kept: Option<KeptRows>) -> Option<KeptRows> {
    let exact = matches!(spec.encoding(), Encoding::Flat | Encoding::F16 | Encoding::BF16);
    match (kept, spec.metric()) {
        _ if spec.encoding() == Encoding::FlatDedup => None,
        (None, _) if are_estimates(spec) => Some(KeptRows::F32),
        (Some(KeptRows::U8), Metric::Cosine) => Some(KeptRows::F32),
        (Some(KeptRows::SQ8 | KeptRows::SQ8Flat), _) if exact => {
            spec.transforms().first().map(|_| KeptRows::F32)
        }
        (Some(KeptRows::SQ8), Metric::Cosine) => Some(KeptRows::SQ8Flat),
        (kept, _) => kept,
    }
}

/// The codes do not say what the vectors are.
pub(crate) fn are_estimates(spec: &IndexSpec) -> bool {
    let exact =
        [Encoding::Flat, Encoding::FlatDedup, Encoding::F16, Encoding::BF16].contains(&spec.encoding());
    !exact || !spec.transforms().is_empty()
}

/// One of the encodings that are learned, or at least take lists, and that go with vectors of `dim` components.
fn learned(number: usize, dim: usize, metric: Metric) -> Encoding {
    let m = [8, 4, 2, 1].into_iter().find(|m| dim.is_multiple_of(*m)).unwrap_or(1);
    let text = match number % 16 {
        0 => "SQ8".into(),
        1 => "SQ6_raw".into(),
        2 => "SQ4_uniform".into(),
        3 => "SQ8_quantiles0.1".into(),
        4 => format!("PQ{m}x4"),
        5 => format!("PQ{m}x3np_raw"),
        6 => format!("PQ{m}x2+{m}x4"),
        7 => format!("PQ{m}x4fs"),
        8 if metric == Metric::L2 => format!("PQ{m}x4fsr"),
        8 => format!("PQ{m}x4fsr_aq0.3"),
        9 => "RQ2x3".into(),
        10 => "RQ3x2_Nqint8".into(),
        11 => format!("PRQ{m}x2x2_Nfloat"),
        12 if metric == Metric::L2 => "SH1.5c".into(),
        13 => "RaBitQ".into(),
        14 => "RaBitQ3".into(),
        _ => "RaBitQfs2".into(),
    };
    text.parse::<IndexSpec>().map_or(Encoding::Flat, |spec| spec.encoding())
}

/// Rows of a batch of a bulk load.
const LOAD_ROWS_MAX: usize = 60;

/// Components of a batch that a verb is given, about: longer ones take long and show nothing that shorter ones do not.
const BATCH_COMPONENTS_MAX: usize = 60_000;

impl Verb {
    /// The same with not so many rows, if they are long.
    pub(crate) fn shortened(mut self, dim: usize) -> Verb {
        match &mut self {
            Verb::Add(batch)
            | Verb::AddWithIds(_, batch)
            | Verb::AddPreassigned(_, batch, _)
            | Verb::AddCodes(_, batch, _)
            | Verb::Upsert(_, batch)
            | Verb::Update(_, batch)
            | Verb::AddWithKeys(_, batch)
            | Verb::UpsertWithKeys(_, batch)
            | Verb::UpdateWithKeys(_, batch)
            | Verb::Train(batch, _) => batch.seeds.truncate((BATCH_COMPONENTS_MAX / dim).max(24)),
            _ => {}
        }
        self
    }
}

/// Components up to which a matrix costs next to nothing: making one of 1,000 × 1,000 takes as long as a thousand scripts.
const MATRIX_DIM_MAX: usize = 32;

/// Transforms of vectors of `dim` components; mostly none, and no matrices for long vectors.
fn transforms(number: usize, dim: usize) -> Vec<TransformKind> {
    let few = dim.div_ceil(2);
    let text = match number % 16 {
        0 | 2 if dim > MATRIX_DIM_MAX => "HR".into(),
        3 if dim > MATRIX_DIM_MAX => format!("Center,Trunc{few}"),
        5 if dim > MATRIX_DIM_MAX => format!("Pad{},HR", dim + 3),
        0 => "RR".into(),
        1 => "L2norm".into(),
        2 => format!("PCA{few}"),
        3 => format!("Center,PCAR{few}"),
        4 => "HR".into(),
        5 => format!("Pad{},RR{few}", dim + 3),
        6 => format!("Trunc{few}"),
        _ => return Vec::new(),
    };
    text.split(',').filter_map(|kind| kind.parse().ok()).collect()
}

/// One of the metrics beyond L2 and products. The powers are such as the model sums exactly.
fn measured(number: usize) -> Metric {
    let power = Metric::lp([1.0, 2.0, 3.0, 4.0][number / 9 % 4]).expect("a power");
    [
        Metric::L1,
        Metric::Linf,
        power,
        Metric::Canberra,
        Metric::BrayCurtis,
        Metric::JensenShannon,
        Metric::Jaccard,
        Metric::NanEuclidean,
        Metric::Gower,
    ][number % 9]
}

pub(crate) fn is_measured(metric: Metric) -> bool {
    !matches!(metric, Metric::L2 | Metric::InnerProduct | Metric::Cosine)
}

impl Bytes<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn below(&mut self, n: usize) -> usize {
        self.byte() as usize % n
    }

    fn pick<T: Copy, const N: usize>(&mut self, from: [T; N]) -> T {
        from[self.below(N)]
    }

    /// True about once in `n`.
    fn rarely(&mut self, n: usize) -> bool {
        self.below(n) == n - 1
    }

    fn settings(&mut self) -> Settings {
        Settings {
            cache_bytes: self.pick([1 << 20, 0, 20_000, 200_000]),
            durable: !self.rarely(4),
            quick_repair: !self.rarely(3),
            load_bytes: self.pick([2_000, 500, 20_000, 1]),
            first: self.spec(),
        }
    }

    fn spec(&mut self) -> IndexSpec {
        let dim = self.pick([3, 1, 2, 4, 8, 24, 97, 250, 300, 1000]);
        let byte = self.byte() as usize;
        let metric = match byte / 3 % 4 {
            // What is left of the byte says which, so that scripts are as long as they were.
            3 => measured(byte / 12),
            _ => [Metric::L2, Metric::InnerProduct, Metric::Cosine][byte % 3],
        };
        let byte = self.byte() as usize;
        // What is left of the byte says whether vectors spill and whether there is a tree, so that scripts are as long as
        // they were.
        let (nlist, spill) = ([3, 1, 2, 5, 9, 16][byte % 6], byte / 6 % 3 == 2);
        let tree = byte / 18 % 4 == 3;
        let mut spec = match self.rarely(6) {
            true => IndexSpec::flat(dim, metric),
            false => IndexSpec::ivf(dim, metric, nlist),
        };
        if let Some(nlist) = spec.nlist().filter(|_| tree) {
            spec = spec.with_coarse(Coarse::Tree(nlist.div_ceil(3)));
        }
        spec = if spec.nlist().is_some_and(|nlist| nlist > 1) { spec.with_spill(spill) } else { spec };
        let byte = self.byte() as usize;
        let plain =
            [Encoding::Flat, Encoding::F16, Encoding::BF16, Encoding::Nibble2, Encoding::Nibble1][byte % 5];
        // What is left of the byte says whether it is one of the others, and what is done to vectors first.
        let (others, number) = (byte / 5 % 3 == 2, byte / 15);
        spec = match spec.nlist() {
            Some(_) if others => {
                // So many components are encoded as are left.
                let spec = spec.with_transforms(transforms(number + byte, dim));
                let left =
                    spec.transforms().iter().try_fold(dim, |dim, kind| kind.dim_out(dim)).unwrap_or(dim);
                spec.with_encoding(learned(number, left, metric))
            }
            Some(_) => spec.with_encoding(plain).with_transforms(transforms(2 * number + 1, dim)),
            None => spec.with_encoding(plain),
        };
        let kept = self.pick([
            None,
            None,
            Some(KeptRows::F32),
            Some(KeptRows::F16),
            Some(KeptRows::U8),
            Some(KeptRows::SQ8),
            Some(KeptRows::SQ8Flat),
        ]);
        // And whether equal vectors share an entry: with nothing kept, spilled or transformed.
        let flat = if number % 3 == 1 { Encoding::FlatDedup } else { Encoding::Flat };
        if spec.encoding() == Encoding::Flat && flat != Encoding::Flat {
            spec = spec.with_encoding(flat).with_spill(false).with_transforms([]);
        }
        match fitting(&spec, kept) {
            // Under such a metric there is nothing but f32 codes.
            _ if is_measured(metric) => {
                let plain = spec.with_coarse(Coarse::Auto).with_spill(false).with_encoding(flat);
                spec = plain.with_transforms([]);
            }
            Some(kept) => spec = spec.with_kept_rows(kept),
            None => {}
        }
        spec.with_keys(self.rarely(4)).with_block_order(self.pick([0, 0, 0, 1, 2]))
    }

    fn index(&mut self) -> &'static str {
        match self.byte() {
            0..=199 => "a",
            200..=233 => "b",
            234..=251 => "ça va",
            _ => "a/b",
        }
    }

    /// One of two names, or any.
    fn index_or(&mut self, names: [&'static str; 2]) -> &'static str {
        let any = self.index();
        self.pick([names[0], names[1], any])
    }

    fn operation(&mut self) -> Operation {
        match self.below(64) {
            0..=33 => {
                let end = match self.byte() {
                    0..=199 => End::Commit,
                    200..=227 => End::Abort,
                    _ => End::Drop,
                };
                let mut steps = vec![self.step()];
                while !self.0.is_empty() && steps.len() < 6 {
                    steps.push(self.step());
                }
                Operation::Transaction { steps, end }
            }
            34..=43 => Operation::Read { index: self.index(), read: self.read() },
            44..=46 => Operation::Hold { at_once: self.rarely(2) },
            47 => Operation::Release,
            48..=50 => Operation::Close,
            51 => Operation::Reopen,
            52 => Operation::Flush,
            53 => Operation::Compact,
            54 => Operation::Backup,
            55..=58 => {
                let index = self.index_or(["b", "b"]);
                let fresh = (!self.rarely(6)).then(|| self.spec().with_keys(self.rarely(9)));
                let finish = !self.rarely(2);
                let mut batches = Vec::new();
                while !self.0.is_empty() && batches.len() < 5 {
                    let ids = (!self.rarely(2)).then(|| self.ids());
                    let mut batch = self.batch();
                    // Each row may be a commit.
                    batch.seeds.truncate(LOAD_ROWS_MAX);
                    batches.push((ids, batch));
                }
                Operation::Load { index, fresh, batches, finish }
            }
            59 => Operation::DiscardLoad { index: self.index() },
            60 => Operation::Repair { index: self.index() },
            _ => Operation::Fail {
                after: self.pick([0, 1, 2, 3, 5, 8, 13, 21, 34, 55]) + self.below(3) as u64,
                reads: self.rarely(3),
                for_ever: self.rarely(2),
            },
        }
    }

    fn step(&mut self) -> Step {
        match self.byte() {
            248.. => Step::Copy { from: self.index(), to: self.index_or(["b", "ça va"]), cut: self.cut() },
            byte => self.step_of(byte % 64),
        }
    }

    fn step_of(&mut self, kind: u8) -> Step {
        match kind {
            0..=3 => Step::Create(self.index_or(["b", "ça va"]), self.spec()),
            4 => Step::Drop(self.index()),
            5..=6 => Step::Rename(self.index(), self.index_or(["b", "ça va"])),
            7 => Step::DropWhileOpen(self.index()),
            _ => {
                let (name, suited) = (self.index(), !self.rarely(8));
                let verbs = 1 + self.below(4);
                Step::Index { name, verbs: (0..verbs).map(|_| self.verb()).collect(), suited }
            }
        }
    }

    fn cut(&mut self) -> Cut {
        let kind = self.below(8);
        let at = self.byte();
        match kind {
            0 | 1 => Cut::Ids(at.into()),
            2 => Cut::Modulo(u64::from(at % 3) + 1),
            3 => Cut::Elements(u64::from(at % 32)),
            4 => Cut::ListPart(u64::from(at % 3) + 1),
            5 => Cut::Lists(u32::from(at % 4)),
            6 if at % 2 == 1 => Cut::Wrong,
            _ => Cut::All,
        }
    }

    /// The bytes that no verb had of old are those beyond the last multiple of 40.
    fn verb(&mut self) -> Verb {
        match self.byte() {
            240..=247 => Verb::AddPreassigned(self.ids(), self.batch(), self.lists()),
            248.. => {
                let (ids, batch) = (self.ids(), self.batch());
                Verb::AddCodes(ids, batch, self.rarely(2).then(|| self.lists()))
            }
            byte => self.verb_of(byte % 40),
        }
    }

    fn lists(&mut self) -> Lists {
        let (first, step) = (self.byte(), self.byte());
        let wrong = match self.byte() {
            250..=252 => WrongList::Unknown,
            253.. => WrongList::Length,
            _ => WrongList::Nothing,
        };
        Lists { first, step, wrong }
    }

    fn verb_of(&mut self, kind: u8) -> Verb {
        match kind {
            0..=5 => Verb::Add(self.batch()),
            6..=9 => Verb::AddWithIds(self.ids(), self.batch()),
            10..=12 => Verb::Upsert(self.ids(), self.batch()),
            13..=15 => Verb::Update(self.ids(), self.batch()),
            16..=18 => Verb::AddWithKeys(self.keys(), self.batch()),
            19..=20 => Verb::UpsertWithKeys(self.keys(), self.batch()),
            21 => Verb::UpdateWithKeys(self.keys(), self.batch()),
            22..=26 => Verb::Remove(self.selector(2)),
            27 => Verb::RemoveKeys(self.keys(), self.below(9)),
            28 if self.rarely(3) => Verb::Clear,
            29..=31 => Verb::Train(self.batch(), self.training()),
            32 => Verb::TrainStored(self.training()),
            33 => Verb::SetDefaults(self.params()),
            34 => Verb::Renumber,
            _ => Verb::Read(self.read()),
        }
    }

    fn batch(&mut self) -> Batch {
        let n = match self.byte() {
            n @ 0..=251 => usize::from(n) % 24,
            252..=253 => 120,
            _ => 600,
        };
        let (first, step) = (self.byte(), self.byte());
        let seeds = (0..n).map(|i| first.wrapping_add(step.wrapping_mul(i as u8))).collect();
        Batch { seeds, wrong: self.wrong() }
    }

    fn wrong(&mut self) -> Wrong {
        match self.byte() {
            240..=241 => Wrong::Dimension,
            242..=243 => Wrong::NotFinite,
            244..=245 => Wrong::Zero,
            246..=248 => Wrong::Huge,
            249..=250 => Wrong::Length,
            251..=252 => Wrong::Twice,
            253..=255 => Wrong::Invalid,
            _ => Wrong::Nothing,
        }
    }

    fn id(&mut self) -> u64 {
        match self.byte() {
            0..=235 => self.byte().into(),
            236..=254 => (1 << 40) + u64::from(self.byte() % 64),
            255 => u64::MAX - 3 - u64::from(self.byte() % 4),
        }
    }

    fn ids(&mut self) -> Ids {
        match self.rarely(3) {
            false => Ids::Given { first: self.id(), step: 1 + self.below(3) as u64 },
            true => Ids::Existing { start: self.byte().into(), stride: 1 + self.below(5) },
        }
    }

    fn keys(&mut self) -> Keys {
        match self.rarely(3) {
            false => Keys::Given { first: self.byte(), step: 1 + self.byte() % 3, long: self.rarely(8) },
            true => Keys::Existing { start: self.byte().into(), stride: 1 + self.below(5) },
        }
    }

    fn some_ids(&mut self) -> Vec<u64> {
        let n = self.below(10);
        (0..n).map(|_| self.id()).collect()
    }

    fn selector(&mut self, depth: u32) -> Sel {
        let kinds = if depth == 0 { 8 } else { 14 };
        match self.below(kinds) {
            0 => Sel::Array(self.some_ids()),
            1 => Sel::Batch(self.some_ids()),
            2 => Sel::Bitmap(self.some_ids()),
            3 | 4 => {
                let first = self.id();
                Sel::Range(first, first.saturating_add(self.byte().into()))
            }
            5 => Sel::Multiples(2 + self.below(5) as u64),
            6 if self.rarely(3) => Sel::All,
            7 => {
                let (first, end) = self.pick([(0, u64::MAX), (9, 3), (1 << 20, 1 << 50)]);
                Sel::Range(first, end)
            }
            8 => Sel::Not(Box::new(self.selector(depth - 1))),
            9 | 10 => Sel::And(Box::new(self.selector(depth - 1)), Box::new(self.selector(depth - 1))),
            11 | 12 => Sel::Or(Box::new(self.selector(depth - 1)), Box::new(self.selector(depth - 1))),
            13 => Sel::XOr(Box::new(self.selector(depth - 1)), Box::new(self.selector(depth - 1))),
            _ => Sel::Array(vec![self.id()]),
        }
    }

    fn params(&mut self) -> Params {
        Params {
            nprobe: self.pick([None, None, Some(1), Some(2), Some(4), Some(16), Some(usize::MAX), Some(0)]),
            max_codes: self.pick([None, None, None, Some(0), Some(1), Some(7), Some(40)]),
            rerank: self.rerank(),
            selector: (!self.rarely(2)).then(|| self.selector(2)),
        }
    }

    fn rerank(&mut self) -> Option<Rerank> {
        let byte = self.byte();
        // What is left of the byte says in which form, so that scripts are as long as they were.
        let (kind, bounded) = (byte % 7, byte / 7 % 2 == 1);
        Some(match (kind.checked_sub(4)?, bounded) {
            (0, false) => Rerank::Rows(3),
            (1, false) => Rerank::Rows(20),
            (_, false) => Rerank::Rows(1000),
            (0, true) => Rerank::Bound(0.0),
            (1, true) => Rerank::Bound(2.5),
            (_, true) => Rerank::Bound(1e9),
        })
    }

    fn k(&mut self) -> usize {
        self.pick([1, 2, 3, 5, 10, 33, 1000, usize::MAX, 0])
    }

    fn goal(&mut self) -> Goal {
        match self.rarely(3) {
            false => Goal::Nearest(self.k()),
            true => Goal::Within(self.radius()),
        }
    }

    /// A quarter of the bytes are of reads that came later.
    fn read(&mut self) -> Read {
        match self.byte() {
            byte @ 192.. => self.later_read(byte % 16),
            byte => self.read_of(byte % 16),
        }
    }

    fn later_read(&mut self, kind: u8) -> Read {
        match kind {
            0..=5 => Read::Preassigned {
                queries: self.queries(),
                goal: self.goal(),
                params: self.params(),
                nprobe: self.pick([1, 2, 3, 9, usize::MAX, 0]),
                lists: self.lists(),
            },
            6..=9 => Read::Placed { queries: self.queries(), goal: self.goal(), params: self.params() },
            10..=12 => Read::Encode(self.batch()),
            _ => Read::Residual(self.queries(), self.ids()),
        }
    }

    fn read_of(&mut self, kind: u8) -> Read {
        match kind {
            0..=6 => Read::Search { queries: self.queries(), k: self.k(), params: self.params() },
            7..=9 => Read::Range { queries: self.queries(), radius: self.radius(), params: self.params() },
            10..=11 => Read::Into { query: self.query(), k: self.k(), selector: self.selector(2) },
            12..=13 => Read::Reconstruct(self.ids(), self.below(12)),
            14 => Read::Lookup(self.keys(), self.ids()),
            _ => Read::Stats,
        }
    }

    fn queries(&mut self) -> Batch {
        let n = self.pick([1, 1, 2, 5, 9]);
        let (first, step) = (self.byte(), self.byte());
        let seeds = (0..n).map(|i| first.wrapping_add(step.wrapping_mul(i))).collect();
        Batch { seeds, wrong: self.wrong() }
    }

    fn query(&mut self) -> Batch {
        Batch { seeds: vec![self.byte()], wrong: self.wrong() }
    }

    fn radius(&mut self) -> f32 {
        match self.byte() {
            255 => f32::NAN,
            254 => f32::INFINITY,
            253 => f32::NEG_INFINITY,
            // Halves, quarters and whole numbers, so that many distances lie exactly on the radius.
            byte => f32::from(byte as i8) * self.pick([1.0, 0.25, 0.5, 8.0]),
        }
    }

    fn training(&mut self) -> TrainParams {
        let clustering = ClusteringParams {
            niter: self.below(5),
            nredo: 1 + self.below(2),
            int_centroids: self.rarely(5),
            seed: self.byte().into(),
            init: self.pick([Init::Random, Init::KMeansPlusPlus, Init::AfkMc2]),
            max_points_per_centroid: self.pick([256, 3, 1]),
            ..ClusteringParams::default()
        };
        TrainParams { clustering, sample_rows: self.pick([None, None, Some(17)]), ..TrainParams::default() }
    }
}
