//! Hostile store files: an error or a sound store, never a panic of ours, a hang, or memory for what is not there.
//!
//! ```text
//! | 0xFF          | the whole file |
//! | store u8      | u8: bit 0 digests left as they are, bit 1 also written to | edits: | op u8 | table u8 | key u8 | … |
//! ```
//! The first form meets redb's own checks; the second changes values inside a sound store and signs them again, frames,
//! headers, digests of lists and the tree's sum, so that only their meaning is wrong.
//!
//! Sound is what answers as it says it is: where `verify` finds nothing wrong no verb may find damage, and what `repair`
//! has repaired has nothing wrong. redb's own panics on damaged pages are expected, and caught by vellum.

use super::Bytes;
use super::seal::{self, FRAME, crc32_of, put, u32_at};
use super::stores::{self, DIM, SPECS};
use redb::{BackendError, Database, ReadableTable, StorageBackend, TableDefinition, WriteTransaction};
use std::backtrace::Backtrace;
use std::collections::BTreeMap;
use std::io;
use std::ops::{Bound, ControlFlow};
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::{Arc, Mutex, OnceLock};
use vellum::{Error, IdSelector, IndexReader, IndexWriter, Observer, SearchParams, Store};

pub(crate) const WHOLE_FILE: u8 = 0xFF;

/// Whether the store was opened; an error says what hostile bytes did that they must not.
pub(crate) fn check(input: &[u8]) -> Result<bool, String> {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(note_panic));
    let opened = catch_unwind(AssertUnwindSafe(|| match input {
        [WHOLE_FILE, file @ ..] => whole_file(file),
        [store, flags, edits @ ..] => edited(*store as usize % SPECS.len(), *flags, edits),
        _ => false,
    }));
    std::panic::set_hook(before);
    match OURS.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take() {
        Some(panic) => Err(panic),
        None => opened.map_err(|_| "a panic came through to the caller".into()),
    }
}

// ---- panics ----

/// The first panic in code of vellum's or of the target's.
static OURS: Mutex<Option<String>> = Mutex::new(None);

/// Lets redb's panics pass, which vellum turns into errors, and notes all others. (The fuzzer's own hook would end the
/// process at the first.)
fn note_panic(info: &PanicHookInfo<'_>) {
    let place = info.location().map_or("", |location| location.file());
    // The standard library's are noticed if they come through.
    if place.contains("/redb-") || place.starts_with("/rustc/") || place.contains("/library/") {
        return;
    }
    let text = || format!("{info}\n{}", Backtrace::force_capture());
    OURS.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get_or_insert_with(text);
}

// ---- a whole file ----

fn whole_file(file: &[u8]) -> bool {
    let file = Arc::new(Mutex::new(file.to_vec()));
    let builder = Store::builder().cache_bytes(1 << 20);
    let Ok(store) = builder.open_backend(move || Ok(Memory(file.clone()))) else { return false };
    ask_all(&store, true);
    true
}

/// Bytes in memory as a file. Nothing is allocated on the word of a length: a file system would say that it is full.
#[derive(Debug)]
struct Memory(Arc<Mutex<Vec<u8>>>);

const FILE_BYTES_MAX: u64 = 16 << 20;

impl StorageBackend for Memory {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let bytes = self.0.lock().unwrap();
        let from = bytes.get(offset as usize..).and_then(|rest| rest.get(..out.len()));
        out.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if len > FILE_BYTES_MAX {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0.lock().unwrap().resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut bytes = self.0.lock().unwrap();
        let to = bytes.get_mut(offset as usize..).and_then(|rest| rest.get_mut(..data.len()));
        to.ok_or(io::ErrorKind::UnexpectedEof)?.copy_from_slice(data);
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        Ok(())
    }

    fn try_lock_range(&self, _start: Bound<u64>, _end: Bound<u64>) -> Result<bool, BackendError> {
        Ok(true)
    }

    fn unlock_range(&self, _start: Bound<u64>, _end: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }
}

/// The file of a store: the smallest there is, for seeds.
pub(crate) fn file_of(number: Option<usize>) -> Vec<u8> {
    let file = Arc::new(Mutex::new(Vec::new()));
    let its = file.clone();
    let store = Store::builder().open_backend(move || Ok(Memory(its.clone()))).expect("an empty store");
    if let Some(number) = number {
        stores::fill(&store, number).expect("a small store");
        store.compact().expect("a smaller one");
    }
    drop(store);
    file.lock().unwrap().clone()
}

// ---- a store with changed values ----

fn bytes_table(name: &str) -> TableDefinition<'_, u64, &'static [u8]> {
    TableDefinition::new(name)
}

const CATALOG: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("vellum/indexes");

const PARTS: [&str; 13] = [
    "meta", "model", "lists", "blocks", "tails", "slots", "ids", "rows", "exact", "keys", "twins", "map",
    "keymap",
];

/// A store of our own, made once: its file, and everything in its tables.
struct Template {
    image: Vec<u8>,
    contents: Contents,
    indexes: Vec<String>,
}

type Values = BTreeMap<(String, u64), Vec<u8>>;

/// What stands under table and key.
#[derive(Clone, Default)]
struct Contents {
    bytes: Values,
    map: BTreeMap<(String, u64), u32>,
    free: BTreeMap<(String, u64), ()>,
    keymap: BTreeMap<(String, Vec<u8>), u64>,
    catalog: BTreeMap<String, Vec<u8>>,
}

fn template(number: usize) -> &'static Template {
    static TEMPLATES: [OnceLock<Template>; SPECS.len()] = [const { OnceLock::new() }; SPECS.len()];
    TEMPLATES[number].get_or_init(|| read_template(number).expect("a store of our own"))
}

fn read_template(number: usize) -> Result<Template, redb::Error> {
    let file = Arc::new(Mutex::new(Vec::new()));
    let db = Arc::new(database(file.clone())?);
    stores::fill(&Store::builder().attach(db.clone()).expect("an empty store"), number)
        .unwrap_or_else(|e| panic!("{}: {e}", SPECS[number].0));
    let txn = db.begin_write()?;
    let mut contents = Contents::default();
    for entry in txn.open_table(CATALOG)?.iter()? {
        let (name, value) = entry?;
        contents.catalog.insert(name.value().into(), value.value().to_vec());
    }
    let indexes: Vec<String> = contents.catalog.keys().filter(|name| !name.is_empty()).cloned().collect();
    indexes.iter().try_for_each(|index| read_index(&txn, index, &mut contents))?;
    // Tables that were not there are made by opening them.
    txn.commit()?;
    let mut db = Arc::into_inner(db).expect("nobody else has it");
    db.compact()?;
    drop(db);
    let image = file.lock().unwrap().clone();
    Ok(Template { image, contents, indexes })
}

fn read_index(txn: &WriteTransaction, index: &str, contents: &mut Contents) -> Result<(), redb::Error> {
    for part in &PARTS[..11] {
        let name = format!("{index}/{part}");
        for entry in txn.open_table(bytes_table(&name))?.iter()? {
            let (key, value) = entry?;
            contents.bytes.insert((name.clone(), key.value()), value.value().to_vec());
        }
    }
    let [map, free, keymap] = ["map", "free", "keymap"].map(|part| format!("{index}/{part}"));
    for entry in txn.open_table(TableDefinition::<u64, u32>::new(&map))?.iter()? {
        let (id, row) = entry?;
        contents.map.insert((map.clone(), id.value()), row.value());
    }
    for entry in txn.open_table(TableDefinition::<u64, ()>::new(&free))?.iter()? {
        contents.free.insert((free.clone(), entry?.0.value()), ());
    }
    for entry in txn.open_table(TableDefinition::<&[u8], u64>::new(&keymap))?.iter()? {
        let (key, id) = entry?;
        contents.keymap.insert((keymap.clone(), key.value().to_vec()), id.value());
    }
    Ok(())
}

fn edited(number: usize, flags: u8, edits: &[u8]) -> bool {
    let template = template(number);
    let mut contents = template.contents.clone();
    let mut bytes = Bytes(edits);
    for _ in 0..16 {
        if bytes.is_empty() {
            break;
        }
        let op = bytes.byte();
        let (index, part) = (bytes.byte() as usize, bytes.byte() as usize);
        let index = &template.indexes[index % template.indexes.len()];
        match part % (PARTS.len() + 2) {
            part @ 0..=10 => edit(&mut contents.bytes, &format!("{index}/{}", PARTS[part]), op, &mut bytes),
            11 => {
                let id = (format!("{index}/map"), bytes.number());
                edit_map(&mut contents.map, id, op, bytes.number() as u32);
            }
            12 => edit_map(&mut contents.free, (format!("{index}/free"), bytes.number()), op, ()),
            13 => {
                let (key, id) = (format!("key {}", bytes.byte()), bytes.number());
                edit_map(&mut contents.keymap, (format!("{index}/keymap"), key.into()), op, id);
            }
            _ => {
                let name = if op & 0x40 == 0 { index.as_str() } else { "" };
                let len = bytes.byte() as usize % 32;
                edit_map(&mut contents.catalog, name.into(), op, bytes.take(len).to_vec());
            }
        }
    }
    if flags & 1 == 0 {
        template.indexes.iter().for_each(|index| sign(&mut contents.bytes, index));
    }
    let db = write_database(template, &contents).expect("a database of our own");
    let Ok(store) = Store::builder().cache_bytes(1 << 20).attach(Arc::new(db)) else { return false };
    ask_all(&store, flags & 2 != 0);
    true
}

/// Every second kind of edit takes the entry away, the others set it.
fn edit_map<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, op: u8, value: V) {
    if op & 1 == 1 {
        map.remove(&key);
    } else {
        map.insert(key, value);
    }
}

/// One edit of a value of `table`.
fn edit(values: &mut Values, table: &str, op: u8, bytes: &mut Bytes<'_>) {
    let keys: Vec<u64> = values.keys().filter(|(its, _)| its == table).map(|(_, key)| *key).collect();
    let nth = |n: u8| keys.get(n as usize % keys.len().max(1)).copied();
    let nth_key = nth(bytes.byte());
    let home = |key| (table.to_string(), key);
    let is_header = table.ends_with("/meta");
    let framed = !is_header && !table.ends_with("/keys");
    // In a frame the payload is what is mostly changed.
    let base = if framed { FRAME } else { 0 };
    let Some(key) = nth_key.filter(|_| op % 10 != 9) else {
        let (key, len) = (bytes.number(), bytes.word() as usize % 4097);
        let mut value = vec![0; base];
        value.extend_from_slice(bytes.take(len));
        return drop(values.insert(home(key), value));
    };
    let Some(mut value) = values.get(&home(key)).cloned() else { return };
    let mut place = key;
    match op % 10 {
        0 => {
            let (at, with) = (bytes.word() as usize, bytes.byte());
            if let Some(byte) = value.get_mut(base + at) {
                *byte ^= with;
            }
        }
        1 => {
            let (at, len) = (bytes.word() as usize, bytes.byte() as usize);
            put(&mut value, base + at, bytes.take(len));
        }
        2 => {
            let (at, number) = (bytes.word() as usize, bytes.number() as u32);
            put(&mut value, base + at, &number.to_le_bytes());
        }
        3 => {
            let (at, number) = (bytes.word() as usize, bytes.number());
            put(&mut value, base + at, &number.to_le_bytes());
        }
        4 => {
            let (at, number) = (bytes.byte() as usize % FRAME, bytes.number() as u32);
            put(&mut value, at, &number.to_le_bytes());
        }
        5 => {
            value.resize(bytes.word() as usize % 8192, bytes.byte());
            if framed && value.len() >= FRAME {
                let payload = (value.len() - FRAME) as u32;
                put(&mut value, 28, &payload.to_le_bytes());
            }
        }
        6 => return drop(values.remove(&home(key))),
        7 => {
            // Another value of the table in this one's place.
            let other = nth(bytes.byte()).unwrap_or(key);
            value = values.get(&home(other)).cloned().unwrap_or_default();
        }
        _ => {
            // The value under another key.
            place = key.wrapping_add(bytes.number());
        }
    }
    if op & 0x80 == 0 {
        if framed {
            put(&mut value, 8, &place.to_le_bytes());
            seal::frame(&mut value);
        } else if is_header {
            seal::header(&mut value);
        }
    }
    values.insert(home(place), value);
}

/// Digests of the lists, and the sum that binds the tree to its centroids.
fn sign(values: &mut Values, index: &str) {
    let mut digests: BTreeMap<u32, u32> = BTreeMap::new();
    for ((table, key), value) in values.iter() {
        if *table == format!("{index}/blocks") || *table == format!("{index}/tails") {
            *digests.entry((key >> 32) as u32).or_default() ^= u32_at(value, 60);
        }
    }
    const ENTRY: usize = 48;
    let per_page = (4096 - 16 - FRAME) / ENTRY;
    for (list, digest) in digests {
        let page = list as usize / per_page;
        if let Some(value) = values.get_mut(&(format!("{index}/lists"), page as u64)) {
            put(value, FRAME + list as usize % per_page * ENTRY + 4, &digest.to_le_bytes());
            seal::frame(value);
        }
    }
    let section = |kind: u64| (format!("{index}/model"), kind << 32);
    let centroids = values.get(&section(1)).map(|value| seal::payload(value).to_vec()).unwrap_or_default();
    if let Some(tree) = values.get_mut(&section(3)).filter(|tree| seal::payload(tree).len() > 4) {
        let sum = crc32_of(&[&centroids, &seal::payload(tree)[4..]]);
        put(tree, FRAME, &sum.to_le_bytes());
        seal::frame(tree);
    }
}

/// The template's file with what is different.
fn write_database(template: &Template, contents: &Contents) -> Result<Database, redb::Error> {
    let db = database(Arc::new(Mutex::new(template.image.clone())))?;
    let mut txn = db.begin_write()?;
    txn.set_durability(redb::Durability::None).expect("nothing is written yet");
    let before = &template.contents;
    each_change(&before.bytes, &contents.bytes, |(table, key), value| {
        let mut table = txn.open_table(bytes_table(table))?;
        match value {
            Some(value) => table.insert(key, value.as_slice())?,
            None => table.remove(key)?,
        };
        Ok(())
    })?;
    each_change(&before.map, &contents.map, |(table, id), row| {
        let mut table = txn.open_table(TableDefinition::<u64, u32>::new(table))?;
        match row {
            Some(row) => table.insert(id, row)?,
            None => table.remove(id)?,
        };
        Ok(())
    })?;
    each_change(&before.free, &contents.free, |(table, row), there| {
        let mut table = txn.open_table(TableDefinition::<u64, ()>::new(table))?;
        match there {
            Some(()) => table.insert(row, ())?,
            None => table.remove(row)?,
        };
        Ok(())
    })?;
    each_change(&before.keymap, &contents.keymap, |(table, key), id| {
        let mut table = txn.open_table(TableDefinition::<&[u8], u64>::new(table))?;
        match id {
            Some(id) => table.insert(key.as_slice(), id)?,
            None => table.remove(key.as_slice())?,
        };
        Ok(())
    })?;
    each_change(&before.catalog, &contents.catalog, |name, value| {
        let mut table = txn.open_table(CATALOG)?;
        match value {
            Some(value) => table.insert(name.as_str(), value.as_slice())?,
            None => table.remove(name.as_str())?,
        };
        Ok(())
    })?;
    txn.commit()?;
    Ok(db)
}

fn database(file: Arc<Mutex<Vec<u8>>>) -> Result<Database, redb::Error> {
    let mut builder = Database::builder();
    builder.set_cache_size(1 << 20);
    Ok(builder.create_with_backend(Memory(file))?)
}

/// What is new or another, with its value, and what is gone, without one.
fn each_change<K: Ord, V: PartialEq>(
    before: &BTreeMap<K, V>,
    after: &BTreeMap<K, V>,
    mut each: impl FnMut(&K, Option<&V>) -> Result<(), redb::Error>,
) -> Result<(), redb::Error> {
    for (key, value) in after.iter().filter(|(key, value)| before.get(key) != Some(value)) {
        each(key, Some(value))?;
    }
    before.keys().filter(|key| !after.contains_key(key)).try_for_each(|key| each(key, None))
}

// ---- what is asked ----

fn ask_all(store: &Store, write: bool) {
    let Ok(txn) = store.begin_read() else { return };
    let Ok(names) = txn.indexes() else { return };
    for name in names.iter().take(4) {
        let whole = txn.verify(name, &mut Observer::none()).is_ok_and(|report| report.is_ok());
        let read = txn.index(name).and_then(|reader| read(&reader));
        hold(whole, name, "a read", &read);
        if write {
            // One transaction a verb: what the first refuses says nothing of the others.
            for (what, verb) in CHANGES {
                hold(whole, name, what, &change(store, name, verb));
            }
        }
    }
    drop(txn);
    if write {
        names.iter().take(4).for_each(|name| repair(store, name));
        let _ = store.compact();
        let _ = store.stats();
    }
}

/// Where nothing is wrong, nothing is damage.
fn hold(whole: bool, index: &str, verb: &str, done: &vellum::Result<()>) {
    if let (true, Err(Error::Corrupt { table, key, what })) = (whole, done) {
        panic!("verify found nothing wrong with {index}, {verb} did: {table}, {key}: {what}");
    }
}

fn read(reader: &IndexReader<'_>) -> vellum::Result<()> {
    let query = stores::data(2, 13);
    let everything = SearchParams::new().nprobe(99);
    let some = IdSelector::batch([0, 3, 7, 12, 1 << 40]);
    let odd = IdSelector::callback(|id| id % 2 == 1);
    if reader.dim() == DIM {
        damage(reader.search_batch(stores::rows(&query), 7, &everything))?;
        damage(reader.search(&query[..DIM], 3, &SearchParams::new().nprobe(1)))?;
        damage(reader.search(&query[..DIM], 3, &everything.clone().selector(some)))?;
        damage(reader.range_search(&query[..DIM], 90.0, &everything.clone().selector(odd)))?;
        if let Some(prepared) = damage(reader.prepare_query(&query[..DIM]))? {
            let mut scanner = prepared.list_scanner();
            for (list, _) in prepared.probe(2)? {
                damage(scanner.enter(list))?;
                damage(scanner.scan(1e9, |_| ControlFlow::Continue(())))?;
            }
            damage(prepared.distance_computer().distance(3))?;
        }
    }
    damage(reader.list_sizes())?;
    damage(reader.imbalance())?;
    damage(reader.check_ids_sorted())?;
    damage(reader.note())?;
    damage(reader.training())?;
    damage(reader.export_model())?;
    damage(reader.stats())?;
    for list in reader.lists().take(4) {
        damage(list.ids())?;
        damage(list.codes())?;
    }
    for id in damage(reader.ids())?.unwrap_or_default().into_iter().take(50) {
        damage(reader.contains(id))?;
        damage(reader.reconstruct(id))?;
        damage(reader.code(id))?;
        if let Some(Some(key)) = damage(reader.key(id))? {
            damage(reader.id_of_key(&key))?;
        }
    }
    damage(reader.id_of_key(b"key 3"))?;
    Ok(())
}

/// Refusals are no damage.
fn damage<T>(done: vellum::Result<T>) -> vellum::Result<Option<T>> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(e @ Error::Corrupt { .. }) => Err(e),
        Err(_) => Ok(None),
    }
}

type Change = fn(&mut IndexWriter<'_>) -> vellum::Result<()>;

const CHANGES: [(&str, Change); 5] = [
    ("add", |writer| {
        let keys: Vec<String> = (0..5).map(|i| format!("new {i}")).collect();
        match writer.spec().keys() {
            true => writer.add_with_keys(&keys, stores::rows(&stores::data(5, 17))).map(|_| ()),
            false => writer.add(stores::rows(&stores::data(5, 17))).map(|_| ()),
        }
    }),
    ("remove", |writer| writer.remove_ids(&IdSelector::callback(|id| id % 3 == 0)).map(|_| ())),
    ("update", |writer| writer.update_vectors(&[1, 14], stores::rows(&stores::data(2, 19)))),
    ("renumber", |writer| writer.renumber(&mut Observer::none()).map(|_| ())),
    ("train", |writer| writer.train_stored(&stores::params(), &mut Observer::none()).map(|_| ())),
];

/// Done, and given up: every verb meets the same store.
fn change(store: &Store, index: &str, verb: Change) -> vellum::Result<()> {
    let txn = store.begin_write()?;
    verb(&mut txn.index(index)?)?;
    txn.abort()
}

fn repair(store: &Store, index: &str) {
    let repaired = store.begin_write().and_then(|txn| {
        txn.damaged_index(index)?.repair(&mut Observer::none())?;
        txn.commit()
    });
    if repaired.is_err() {
        return;
    }
    let Ok(txn) = store.begin_read() else { return };
    match txn.verify(index, &mut Observer::none()) {
        Ok(report) => {
            // A repair does not touch the catalog: another index may own the header.
            let wrong = report.problems.iter().find(|problem| !problem.what.contains("by another uuid"));
            assert!(wrong.is_none(), "{index} was repaired and is not whole: {wrong:?}");
        }
        Err(e) => panic!("{index} was repaired and cannot be verified: {e}"),
    }
}

/// Seeds: each store as it is, and with one edit of each kind in each table.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = (0..SPECS.len()).map(|store| vec![store as u8, 2]).collect();
    for (i, part) in (0..PARTS.len() as u8 + 2).flat_map(|part| (0..10).map(move |op| (op, part))).enumerate()
    {
        let store = (i * 7 % SPECS.len()) as u8;
        seeds.push(vec![store, 2, part.0, 0, part.1, 0, 4, 0, 1, 1, 1, 3]);
    }
    seeds
}
