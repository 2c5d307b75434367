//! Salvage: what was not touched comes back bit for bit, what was lost is counted, and nothing is made up.
//!
//! The worries: a file of which one page is bad and nothing can be had; a vector that comes back as another one, or under
//! another one's id; a removed vector that comes back and is passed off as certain; a report that says less than was lost; and
//! a broken file that is broken a little more by looking at it. So a store that has lived (trained, changed, row numbers used
//! again) is damaged in its bytes at known places: the test takes the file apart by itself (frames are found by their magic,
//! and say what they are), knows the pages that each vector rests on, and demands every vector whose pages were not touched. What
//! comes back besides must be what the id was at the last commit; where the report says that values are unproven, at some commit.
//!
//! The campaign: `VELLUM_CAMPAIGN_CASES=20000 cargo test --release --test salvage campaign -- --nocapture`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod campaign;
mod support;

use campaign::Random as Chance;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::OnceLock;
use support::*;
use vellum::*;

const PAGE: usize = 4096;

/// An index is told from the others by its dimension, whatever its name.
const KINDS: [(&str, &str, usize); 4] = [
    ("flat", "IVF6,Flat", 8),
    ("keyed", "IVF3,SQfp16,RFlat", 12),
    ("shared", "IVF4,FlatDedup", 10),
    ("one", "Flat", 6),
];

/// What an index should hold.
#[derive(Default)]
struct Truth {
    now: BTreeMap<u64, Vec<f32>>,
    /// All that an id ever was.
    ever: BTreeMap<u64, Vec<Vec<f32>>>,
    keys: BTreeMap<u64, String>,
    /// The pages of the file that each id rests on.
    rests_on: BTreeMap<u64, BTreeSet<usize>>,
    /// The pages that all of them do.
    all_rest_on: BTreeSet<usize>,
}

impl Truth {
    fn put(&mut self, id: u64, vector: &[f32]) {
        self.now.insert(id, vector.to_vec());
        self.ever.entry(id).or_default().push(vector.to_vec());
    }
}

struct World {
    image: Vec<u8>,
    truths: BTreeMap<&'static str, Truth>,
    frames: Vec<Frame>,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let store = Store::create(&path).unwrap();
        let mut truths: BTreeMap<&'static str, Truth> = BTreeMap::new();
        for (at, (name, text, dim)) in KINDS.into_iter().enumerate() {
            let keys = name == "keyed";
            create(
                &store,
                name,
                &spec(text, dim, Metric::L2).with_keys(keys).with_block_order((at % 2) as u8),
            );
            let truth = truths.entry(name).or_default();
            let data = integers(900, dim, if name == "shared" { 2 } else { 60 }, 7 + at as u64);
            change(&store, name, |writer| add(writer, truth, &data[..700 * dim], dim));
            if text.starts_with("IVF") {
                change(&store, name, |writer| drop(train(writer, rows(&data, dim))));
            }
            // Row numbers are used again, vectors replaced, lists shortened.
            change(&store, name, |writer| {
                let gone = |id: u64| id.is_multiple_of(5) || (100..160).contains(&id);
                writer.remove_ids(&IdSelector::callback(gone)).unwrap();
                truth.now.retain(|id, _| !gone(*id));
                truth.keys.retain(|id, _| !gone(*id));
            });
            change(&store, name, |writer| add(writer, truth, &data[700 * dim..], dim));
            change(&store, name, |writer| {
                let ids: Vec<u64> = truth.now.keys().copied().filter(|id| id % 17 == 1).collect();
                let vectors = integers(ids.len(), dim, 50, 99);
                writer.update_vectors(&ids, rows(&vectors, dim)).unwrap();
                ids.iter().zip(vectors.chunks(dim)).for_each(|(id, vector)| truth.put(*id, vector));
            });
        }
        let mut slots: BTreeMap<&str, BTreeMap<u64, Slot>> = BTreeMap::new();
        for (name, ..) in KINDS {
            let reader = reader(&store, name);
            assert_eq!(reader.ids().unwrap(), truths[name].now.keys().copied().collect::<Vec<_>>());
            let ids = reader.ids().unwrap();
            slots.insert(name, ids.into_iter().map(|id| (id, reader.slot(id).unwrap())).collect());
        }
        drop(store);
        let image = fs::read(&path).unwrap();
        let frames = frames(&image);
        for (name, _, dim) in KINDS {
            let truth = truths.get_mut(name).unwrap();
            let header =
                headers(&image).into_iter().filter(|h| h.dim as usize == dim).max_by_key(|h| h.seq).unwrap();
            rest(truth, &header, &frames, &image, &slots[name]);
        }
        World { image, truths, frames }
    }

    /// The newest frames of an index, by kind.
    fn newest(&self, dim: usize, kind: u8) -> Vec<Frame> {
        let header =
            headers(&self.image).into_iter().filter(|h| h.dim as usize == dim).max_by_key(|h| h.seq).unwrap();
        newest(&self.frames, header.uuid)
            .into_iter()
            .filter(|((k, _), _)| *k == kind)
            .map(|(_, f)| f)
            .collect()
    }
}

fn add(writer: &mut IndexWriter<'_>, truth: &mut Truth, data: &[f32], dim: usize) {
    let ids = if writer.spec().keys() {
        let from = truth.ever.len();
        let keys: Vec<String> = (from..from + data.len() / dim).map(|i| format!("key {i}")).collect();
        let ids = writer.add_with_keys(&keys, rows(data, dim)).unwrap();
        truth.keys.extend(ids.clone().zip(keys));
        ids
    } else {
        writer.add(rows(data, dim)).unwrap()
    };
    ids.zip(data.chunks(dim)).for_each(|(id, vector)| truth.put(id, vector));
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    // What redb has to say of its own panics is in the errors.
    WORLD.get_or_init(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if info.location().is_none_or(|at| !at.file().contains("redb")) {
                before(info);
            }
        }));
        World::new()
    })
}

// ---- the file taken apart ----

#[derive(Clone, Debug)]
struct Frame {
    uuid: [u8; 16],
    kind: u8,
    key: u64,
    count: u32,
    capacity: u32,
    seq: u64,
    bytes: Range<usize>,
}

// The kinds of frames.
const BLOCK: u8 = 1;
const IDS: u8 = 2;
const SLOTS: u8 = 3;
const ROWS: u8 = 4;
const LISTS: u8 = 5;
const MODEL: u8 = 6;
const TWINS: u8 = 8;

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn finds<'a>(image: &'a [u8], magic: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    (0..image.len() - magic.len()).filter(move |at| image[*at..].starts_with(magic))
}

/// All frames, old ones too.
fn frames(image: &[u8]) -> Vec<Frame> {
    let frame = |at: usize| {
        let bytes = image.get(at..at + 64)?;
        (crc32fast::hash(&bytes[..60]) == u32_at(bytes, 60)).then(|| Frame {
            uuid: bytes[40..56].try_into().unwrap(),
            kind: bytes[4],
            key: u64_at(bytes, 8),
            count: u32_at(bytes, 16),
            capacity: u32_at(bytes, 20),
            seq: u64_at(bytes, 32),
            bytes: at..at + 64 + u32_at(bytes, 28) as usize,
        })
    };
    finds(image, b"VLF1").filter_map(frame).collect()
}

struct Header {
    uuid: [u8; 16],
    dim: u32,
    first_list: u32,
    seq: u64,
    at: usize,
}

fn headers(image: &[u8]) -> Vec<Header> {
    let header = |at: usize| Header {
        uuid: image[at + 24..at + 40].try_into().unwrap(),
        dim: u32_at(image, at + 48),
        first_list: u32_at(image, at + 56),
        seq: u64_at(image, at + 84),
        at,
    };
    finds(image, b"vellum.i").map(header).collect()
}

fn newest(frames: &[Frame], uuid: [u8; 16]) -> HashMap<(u8, u64), Frame> {
    let mut newest: HashMap<(u8, u64), Frame> = HashMap::new();
    for frame in frames.iter().filter(|frame| frame.uuid == uuid) {
        let place = (frame.kind, frame.key);
        if newest.get(&place).is_none_or(|other| other.seq < frame.seq) {
            newest.insert(place, frame.clone());
        }
    }
    newest
}

fn pages(bytes: &Range<usize>) -> Range<usize> {
    bytes.start / PAGE..(bytes.end - 1) / PAGE + 1
}

/// Notes the pages that everything rests on.
fn rest(truth: &mut Truth, header: &Header, frames: &[Frame], image: &[u8], slots: &BTreeMap<u64, Slot>) {
    let newest = newest(frames, header.uuid);
    truth.all_rest_on.insert(header.at / PAGE);
    for frame in newest.values().filter(|frame| frame.kind == MODEL) {
        truth.all_rest_on.extend(pages(&frame.bytes));
    }
    let mut rows: HashMap<u64, u64> = HashMap::new();
    for frame in newest.values().filter(|frame| frame.kind == IDS) {
        let per_page = u64::from(frame.capacity);
        for (i, id) in image[frame.bytes.start + 64..frame.bytes.end].chunks(8).enumerate() {
            rows.insert(u64_at(id, 0), frame.key * per_page + i as u64);
        }
    }
    let capacity = newest.values().find(|frame| frame.kind == BLOCK).unwrap().capacity;
    for (id, slot) in slots {
        let block = u64::from(header.first_list + slot.list) << 32 | u64::from(slot.offset / capacity);
        let row = rows[id];
        let mut own = BTreeSet::new();
        own.extend(pages(&newest[&(BLOCK, block)].bytes));
        for kind in [IDS, SLOTS, TWINS] {
            // All three have entries of 8 bytes.
            let per_page = u64::from(newest[&(IDS, 0)].capacity);
            if let Some(frame) = newest.get(&(kind, row / per_page)) {
                own.extend(pages(&frame.bytes));
            }
        }
        truth.rests_on.insert(*id, own);
    }
}

// ---- salvaging, and what must come of it ----

#[derive(Clone, Copy, Debug, PartialEq)]
enum How {
    Redb,
    Scan,
}

fn salvage(image: &[u8], how: How, folder: &Path) -> Result<(SalvageReport, Store)> {
    let (broken, new) = (folder.join("broken"), folder.join("new"));
    fs::write(&broken, image).unwrap();
    let report = match how {
        How::Redb => Store::salvage(&broken, &new, &mut Observer::none())?,
        How::Scan => Store::salvage_by_scan(&broken, &new, &mut Observer::none())?,
    };
    assert!(fs::read(&broken).unwrap() == image, "the broken file was written");
    let store = Store::open(&new)?;
    Ok((report, store))
}

/// What is wrong with a salvage after damage to the pages `touched`.
fn judge(
    world: &World,
    touched: &BTreeSet<usize>,
    report: &SalvageReport,
    store: &Store,
) -> Result<(), String> {
    let mut found: BTreeMap<&str, (&SalvagedIndex, IndexReader<'static>)> = BTreeMap::new();
    for index in report.indexes.iter().filter(|index| index.rows > 0) {
        let reader = store.begin_read().and_then(|txn| txn.index(&index.name)).map_err(|e| e.to_string())?;
        let (name, ..) =
            KINDS.into_iter().find(|(.., dim)| *dim == reader.dim()).ok_or("an index of nobody's")?;
        faithful(&world.truths[name], index, &reader).map_err(|e| format!("{name}: {e}"))?;
        if found.insert(name, (index, reader)).is_some() {
            return Err(format!("{name} twice"));
        }
    }
    for (name, truth) in &world.truths {
        complete(truth, touched, found.get(name)).map_err(|e| format!("{name}: {e}"))?;
    }
    Ok(())
}

/// Nothing is made up.
fn faithful(truth: &Truth, index: &SalvagedIndex, reader: &IndexReader<'_>) -> Result<(), String> {
    let ids = reader.ids().map_err(|e| e.to_string())?;
    if ids.len() as u64 != index.rows || index.rows_counted.is_none_or(|rows| rows < index.lost_rows()) {
        return Err(format!("{} ids, the report says {} of {:?}", ids.len(), index.rows, index.rows_counted));
    }
    for id in &ids {
        let vector = reader.reconstruct(*id).map_err(|e| e.to_string())?;
        let key = reader.key(*id).map_err(|e| e.to_string())?;
        let of_key = |key: &[u8]| truth.keys.iter().find(|(_, own)| own.as_bytes() == key).map(|(id, _)| *id);
        // Where the index was made again, ids of keys are others.
        let was = match &key {
            Some(key) if !index.model_found => {
                of_key(key).or_else(|| std::str::from_utf8(key).ok()?.parse().ok())
            }
            _ => Some(*id),
        };
        let Some(was) = was else { continue };
        let made = index.repair.made_keys > 0 || !index.model_found;
        if let Some(key) = key
            && truth.keys.get(&was).is_none_or(|own| own.as_bytes() != key)
            && !(made && key == was.to_string().as_bytes())
            && truth.now.contains_key(&was)
        {
            return Err(format!("id {id} has key {:?}", String::from_utf8_lossy(&key)));
        }
        let now = truth.now.get(&was) == Some(&vector);
        let once = index.unproven_values > 0 && truth.ever.get(&was).is_some_and(|all| all.contains(&vector));
        if !now && !once {
            return Err(format!("id {id} is {vector:?}, it was {:?}; {index:?}", truth.ever.get(&was)));
        }
    }
    match index.lost_ids.iter().find(|id| ids.contains(id)) {
        Some(id) => Err(format!("id {id} is there and said to be lost")),
        None => Ok(()),
    }
}

/// What was not touched is there.
fn complete(
    truth: &Truth,
    touched: &BTreeSet<usize>,
    found: Option<&(&SalvagedIndex, IndexReader<'static>)>,
) -> Result<(), String> {
    if !truth.all_rest_on.is_disjoint(touched) {
        return Ok(());
    }
    let (mut lost, mut kept) = (0, 0);
    for (id, pages) in &truth.rests_on {
        if !pages.is_disjoint(touched) {
            lost += 1;
            continue;
        }
        kept += 1;
        let Some((index, reader)) = found else {
            return Err(format!("lost, with id {id}, which nobody touched"));
        };
        let vector = reader.reconstruct(*id).map_err(|e| format!("{e}: nobody touched it; {index:?}"))?;
        if vector != truth.now[id] {
            return Err(format!("id {id} is {vector:?}, not {:?}, and nobody touched it", truth.now[id]));
        }
    }
    match found {
        Some((index, _)) if index.lost_rows() > lost => {
            Err(format!("{} lost, {lost} touched", index.lost_rows()))
        }
        Some((index, _)) if !index.problems.is_empty() => Err(format!("{:?}", index.problems)),
        None if kept > 0 => Err("lost".into()),
        _ => Ok(()),
    }
}

fn expect(image: &[u8], how: How, touched: &BTreeSet<usize>) -> (SalvageReport, Store) {
    let folder = tempfile::tempdir().unwrap();
    let (report, store) = salvage(image, how, folder.path()).unwrap();
    if let Err(e) = judge(world(), touched, &report, &store) {
        panic!("{how:?}: {e}");
    }
    (report, store)
}

fn of<'r>(report: &'r SalvageReport, name: &str) -> &'r SalvagedIndex {
    report.indexes.iter().find(|index| index.name == name).unwrap_or_else(|| panic!("{name}: {report:?}"))
}

#[test]
fn a_sound_file_comes_back_as_it_was() {
    let world = world();
    for how in [How::Redb, How::Scan] {
        let (report, store) = expect(&world.image, how, &BTreeSet::new());
        assert_eq!(report.refused.is_some(), how == How::Scan);
        assert_eq!(report.indexes.len(), KINDS.len());
        for (name, ..) in KINDS {
            let (index, truth) = (of(&report, name), &world.truths[name]);
            assert!(index.name_found && index.model_found && index.problems.is_empty(), "{index:?}");
            assert_eq!((index.rows, index.lost_rows()), (truth.now.len() as u64, 0), "{how:?} {name}");
            assert_eq!(index.lost_ids, [0u64; 0]);
            assert_eq!(index.unproven_values == 0, how == How::Redb, "{name}");
            assert_sound(&store, name);
            let reader = reader(&store, name);
            for (id, key) in &truth.keys {
                assert_eq!(reader.key(*id).unwrap().as_deref(), Some(key.as_bytes()), "{how:?} {index:?}");
            }
            // It can be written again, and ids go on where they were.
            let (dim, next) = (reader.dim(), *truth.ever.keys().last().unwrap() + 1);
            let data = integers(3, dim, 9, 5);
            if !reader.spec().keys() {
                assert_eq!(
                    change(&store, name, |writer| writer.add(rows(&data, dim)).unwrap()),
                    next..next + 3
                );
            }
            assert_sound(&store, name);
        }
    }
}

/// redb's own header is gone, and with it everything that redb knows.
#[test]
fn a_file_that_redb_refuses() {
    let world = world();
    for bytes in [0..PAGE, 0..320, 0..1, 64..320] {
        let mut image = world.image.clone();
        image[bytes].fill(0);
        let (report, store) = expect(&image, How::Redb, &BTreeSet::from([0]));
        assert!(report.refused.is_some());
        for (name, ..) in KINDS {
            let index = of(&report, name);
            assert_eq!((index.rows, index.lost_rows()), (world.truths[name].now.len() as u64, 0));
            assert_sound(&store, name);
        }
    }
}

/// Each block in turn: lost are exactly its vectors, and they are named.
#[test]
fn a_block_that_is_lost_is_lost_alone() {
    let world = world();
    let mut tried = 0;
    for (name, _, dim) in KINDS {
        for frame in world.newest(dim, BLOCK).into_iter().step_by(7) {
            let page = frame.bytes.start / PAGE;
            let mut image = world.image.clone();
            image[frame.bytes.start + 64..frame.bytes.start + 68].iter_mut().for_each(|byte| *byte ^= 0x55);
            let truth = &world.truths[name];
            let hit = |image: &[u8]| {
                let payload = &image[frame.bytes.clone()];
                payload[payload.len() - 4 * frame.count as usize..].chunks(4).count()
            };
            assert!(hit(&image) > 0);
            let touched = BTreeSet::from([page]);
            let at_most: BTreeSet<u64> =
                truth.rests_on.iter().filter(|(_, pages)| pages.contains(&page)).map(|(id, _)| *id).collect();
            for how in [How::Redb, How::Scan] {
                let (report, _) = expect(&image, how, &touched);
                let index = of(&report, name);
                assert_eq!(index.lost_ids.len() as u64, index.lost_rows(), "{how:?} {index:?}");
                assert!(index.lost_ids.iter().all(|id| at_most.contains(id)), "{how:?} {index:?}");
                tried += usize::from(index.lost_rows() > 0);
            }
        }
    }
    assert!(tried > 10, "{tried}");
}

/// Directory, slots, kept rows: nothing is lost with them.
#[test]
fn what_can_be_made_again_is() {
    let world = world();
    for (name, _, dim) in KINDS {
        for kind in [LISTS, SLOTS, ROWS] {
            let frames = world.newest(dim, kind);
            let mut image = world.image.clone();
            for frame in &frames {
                image[frame.bytes.clone()].fill(0xee);
            }
            if kind == SLOTS && name == "shared" {
                continue;
            }
            for how in [How::Redb, How::Scan] {
                let folder = tempfile::tempdir().unwrap();
                let (report, store) = salvage(&image, how, folder.path()).unwrap();
                let index = of(&report, name);
                faithful(&world.truths[name], index, &reader(&store, name)).unwrap();
                if how == How::Redb {
                    assert_eq!(index.lost_rows(), 0, "{name} {kind} {index:?}");
                    assert_eq!(reader(&store, name).ids().unwrap().len(), world.truths[name].now.len());
                }
            }
        }
    }
}

/// Without centroids, vectors that stand as they are come back, untrained.
#[test]
fn an_index_whose_model_is_lost() {
    let world = world();
    for (name, text, dim) in KINDS.into_iter().filter(|(_, text, _)| text.starts_with("IVF")) {
        let mut image = world.image.clone();
        for frame in world.newest(dim, MODEL) {
            image[frame.bytes.start + 70] ^= 1;
        }
        for how in [How::Redb, How::Scan] {
            let folder = tempfile::tempdir().unwrap();
            let (report, store) = salvage(&image, how, folder.path()).unwrap();
            let (index, reader, truth) = (of(&report, name), reader(&store, name), &world.truths[name]);
            assert!(!index.model_found && !reader.is_trained());
            assert_eq!(reader.spec().to_string(), text);
            faithful(truth, index, &reader).unwrap();
            assert_eq!((index.rows, index.lost_rows()), (truth.now.len() as u64, 0), "{how:?} {index:?}");
            let query = &truth.now.values().next().unwrap()[..];
            assert_eq!(reader.search(query, 1, &SearchParams::new()).unwrap()[0].distance, 0.0);
            change(&store, name, |writer| {
                writer.train_stored(&TrainParams::default(), &mut Observer::none()).unwrap();
            });
            assert_sound(&store, name);
        }
    }
}

#[test]
fn refusals_leave_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let none = &mut Observer::none();
    fs::write(at("nonsense"), vec![7; 9000]).unwrap();
    fs::write(at("empty"), []).unwrap();
    fs::write(at("there"), b"mine").unwrap();
    assert!(matches!(Store::salvage(at("nonsense"), at("new"), none), Err(Error::Foreign { .. })));
    assert!(matches!(Store::salvage(at("empty"), at("new"), none), Err(Error::Foreign { .. })));
    assert!(matches!(Store::salvage(folder.path(), at("new"), none), Err(Error::Foreign { .. })));
    assert!(matches!(Store::salvage(at("missing"), at("new"), none), Err(Error::NotFound { .. })));
    assert!(matches!(Store::salvage(at("nonsense"), at("there"), none), Err(Error::Exists { .. })));
    let store = Store::create(at("open")).unwrap();
    assert!(matches!(Store::salvage(at("open"), at("new"), none), Err(Error::Locked)));
    drop(store);
    fs::write(at("broken"), &world().image).unwrap();
    let mut ticks = 0;
    let mut count = |_: Tick| {
        ticks += 1;
        std::ops::ControlFlow::Continue(())
    };
    Store::salvage(at("broken"), at("whole"), &mut Observer::new(&mut count)).unwrap();
    for stop in [1, 2, ticks / 2, ticks] {
        let mut seen = 0;
        let mut cancel = |_: Tick| {
            seen += 1;
            if seen == stop { std::ops::ControlFlow::Break(()) } else { std::ops::ControlFlow::Continue(()) }
        };
        let cancelled = Store::salvage(at("broken"), at("part"), &mut Observer::new(&mut cancel));
        assert!(matches!(cancelled, Err(Error::Cancelled)), "{stop}: {cancelled:?}");
    }
    let mut left: Vec<String> =
        fs::read_dir(folder.path()).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    left.sort();
    assert_eq!(left, ["broken", "empty", "nonsense", "open", "there", "whole"]);
}

/// An empty store is one with nothing lost.
#[test]
fn nothing_comes_of_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("a"), folder.path().join("b"));
    drop(Store::create(&from).unwrap());
    let report = Store::salvage(&from, &to, &mut Observer::none()).unwrap();
    assert_eq!((report.refused, report.indexes), (None, vec![]));
    assert!(Store::open(&to).unwrap().begin_read().unwrap().indexes().unwrap().is_empty());
}

// ---- the campaign ----

/// Damages a file; returns the pages it touched.
fn damage(image: &mut Vec<u8>, random: &mut Chance) -> BTreeSet<usize> {
    let mut touched = BTreeSet::new();
    let pages = image.len() / PAGE;
    for _ in 0..1 + random.below(4) {
        let page = random.below(pages as u64) as usize;
        let at = page * PAGE;
        if image.len() < at + PAGE {
            continue;
        }
        touched.insert(page);
        match random.below(9) {
            0 => image[at..at + PAGE].fill(0),
            1 => image[at..at + PAGE].fill_with(|| random.next() as u8),
            2 => {
                let sector = at + 512 * random.below(8) as usize;
                image[sector..sector + 512].fill(0);
            }
            3 => {
                let other = random.below(pages as u64) as usize * PAGE;
                if image.len() >= other + PAGE {
                    touched.insert(other / PAGE);
                    let copy = image[at..at + PAGE].to_vec();
                    image.copy_within(other..other + PAGE, at);
                    image[other..other + PAGE].copy_from_slice(&copy);
                }
            }
            4 => {
                // redb's own bytes: its header, or the head of a page.
                let (page, within) = if random.one_in(2) { (0, 320) } else { (page, 32) };
                touched.insert(page);
                image[page * PAGE + random.below(within) as usize] ^= 1 << random.below(8);
            }
            5 if random.one_in(3) => {
                image.truncate(at);
                touched.extend(page..pages);
            }
            _ => (0..1 + random.below(3))
                .for_each(|_| image[at + random.below(PAGE as u64) as usize] ^= 1 << random.below(8)),
        }
    }
    touched
}

fn case(
    number: u64,
    random: &mut Chance,
    spoil: impl Fn(&World, &mut Vec<u8>, &mut BTreeSet<usize>),
) -> Result<(), String> {
    let world = world();
    let mut image = world.image.clone();
    let mut touched = damage(&mut image, random);
    spoil(world, &mut image, &mut touched);
    let how = if number.is_multiple_of(3) { How::Scan } else { How::Redb };
    let folder = tempfile::tempdir().unwrap();
    match salvage(&image, how, folder.path()) {
        Ok((report, store)) => judge(world, &touched, &report, &store).map_err(|e| format!("{how:?}: {e}")),
        // A file cut off before the first value.
        Err(Error::Foreign { .. }) if image.len() < 64 * PAGE => Ok(()),
        Err(e) => Err(format!("{how:?}: {e}")),
    }
}

#[test]
fn campaign() {
    campaign::run("salvage", 40, |number, random| case(number, random, |_, _, _| {})).expect_clean();
}

/// Every door of a damaged store: an error or an answer, and no panic of redb's comes through.
#[test]
fn campaign_of_doors() {
    campaign::run("doors", 20, |_, random| {
        let world = world();
        let mut image = world.image.clone();
        damage(&mut image, random);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("broken");
        fs::write(&path, &image).unwrap();
        // Errors are as good as answers here: what is right is for the other campaigns.
        let _ = Store::verify_pages(&path);
        let _ = Store::restore(&path, folder.path().join("restored"), &mut Observer::none());
        let Ok(store) = Store::open(&path) else { return Ok(()) };
        for (name, _, dim) in KINDS {
            let _ = doors(&store, name, &integers(20, dim, 50, 3), dim);
        }
        let _ = store.backup(folder.path().join("backup"), &mut Observer::none());
        let _ = store.compact();
        let _ = store.flush();
        let _ = store.reopen();
        drop(store);
        let _ = Store::open(&path).and_then(|store| store.begin_read()?.indexes());
        Ok(())
    })
    .expect_clean();
}

fn doors(store: &Store, name: &str, data: &[f32], dim: usize) -> Result<()> {
    let none = &mut Observer::none();
    let read = store.begin_read()?;
    let _ = read.indexes();
    let _ = read.verify_to(VerifyDepth::Model, name, none);
    read.verify(name, none)?;
    if let Ok(reader) = read.index(name) {
        let _ = reader.search(&data[..dim], 5, &everywhere());
        let _ = (reader.ids(), reader.stats(), reader.note(), reader.training(), reader.list_sizes());
        let _ = (reader.digest(none), reader.check_ids_sorted(), reader.reconstruct(1), reader.key(2));
    }
    drop(read);
    let txn = store.begin_write()?;
    let changed = txn.index(name).and_then(|mut writer| {
        writer.remove_ids(&IdSelector::range(0..40))?;
        match writer.spec().keys() {
            true => writer.add_with_keys(&["new", "newer"], rows(&data[..2 * dim], dim)).map(drop),
            false => writer.add(rows(data, dim)).map(drop),
        }
    });
    match changed {
        Ok(()) => txn.commit()?,
        Err(_) => txn.abort()?,
    }
    let txn = store.begin_write()?;
    let _ = txn.damaged_index(name).and_then(|mut writer| writer.repair(none));
    let _ = txn.commit();
    let txn = store.begin_write()?;
    let _ = txn.rename_index(name, "other");
    let _ = txn.drop_index("other");
    txn.abort()
}

/// The test of the test: a component is changed and the checksums are made to fit, as if nobody had looked at them.
#[test]
fn a_checksum_that_nobody_looks_at_is_noticed() {
    let spoil = |world: &World, image: &mut Vec<u8>, _: &mut BTreeSet<usize>| {
        for frame in world.newest(8, BLOCK) {
            let Some(bytes) = image.get_mut(frame.bytes) else { continue };
            bytes[66] ^= 0x40;
            let payload = crc32fast::hash(&bytes[64..]);
            bytes[56..60].copy_from_slice(&payload.to_le_bytes());
            let header = crc32fast::hash(&bytes[..60]);
            bytes[60..64].copy_from_slice(&header.to_le_bytes());
        }
    };
    campaign::run_exactly("salvage, planted", 4, |number, random| case(number, random, spoil))
        .expect_caught();
}
