//! A disk that fails at operation N, for every N: once or for ever, with an error, with no space left, half-way
//! through a write.
//!
//! The worry is a failure that nobody tries: a panic in a drop, a commit of half a change, a handle that cannot be
//! opened again, a failed disk that is reported as damage. Two sweeps: every verb by itself, on a store as the
//! application would have it, which must afterwards hold what it held before or what the verb would have made; and
//! workloads of the crash campaign, in which the store and its model go on after the fault.
//!
//! `campaign/mod.rs` says how to ask for other seeds: the kind of fault at each N changes with the seed, six seeds have all.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod campaign;
mod common;
#[path = "crash/workloads.rs"]
#[allow(dead_code)] // the crash campaign's
mod workloads;

use campaign::Random;
use common::disk::{Disk, Fault, Kind};
use common::world::{Plant, World};
use std::collections::BTreeMap;
use std::sync::OnceLock;
use vellum::{
    Error, IdSelector, IndexReader, IndexSpec, IndexWriter, Observer, Preassigned, Result, Rows,
    SearchParams, Store, Subset, TopK, TrainParams,
};
use workloads::{Workload, spec, workloads};

const DIM: usize = 8;

fn vectors(seed: u64, n: usize) -> Vec<f32> {
    let mut random = Random::new(seed, 0);
    (0..n * DIM).map(|_| random.below(9) as f32).collect()
}

fn rows(data: &[f32]) -> Rows<'_> {
    Rows::new(data, DIM).unwrap()
}

fn quiet() -> Observer<'static> {
    Observer::none()
}

fn everything() -> SearchParams {
    SearchParams::new().nprobe(usize::MAX)
}

// ---- the store that verbs are tried on ----

fn open(disk: &Disk) -> Result<Store> {
    let disk = disk.clone();
    Store::builder().cache_bytes(1 << 20).load_bytes(400).open_backend(move || Ok(disk.handle()))
}

fn prepare() -> Vec<u8> {
    let disk = Disk::default();
    let store = open(&disk).unwrap();
    let sample = vectors(1, 20);
    for (name, text) in [
        ("a", "IVF3,Flat"),
        ("b", "IVF3,Flat"),
        ("kept", "IVF3,SQfp16,RFlat"),
        ("keys", "Flat"),
        ("learned", "IVF2,PQ4x2,RFlat"),
        ("load", "Flat"),
        ("empty", "Flat"),
        ("sparse", "Flat"),
    ] {
        let txn = store.begin_write().unwrap();
        let spec: IndexSpec = spec(text, DIM).with_keys(name == "keys");
        txn.create_index(name, &spec).unwrap();
        let mut writer = txn.index(name).unwrap();
        if spec.nlist().is_some() {
            writer.train(rows(&sample), &TrainParams::default(), &mut quiet()).unwrap();
        }
        let first = if name == "b" { 500 } else { 0 };
        let ids: Vec<u64> = (first..first + 40).collect();
        match name {
            "load" | "empty" => {}
            "keys" => {
                let keys: Vec<String> = ids.iter().map(|id| format!("key {id}")).collect();
                writer.add_with_keys(&keys, rows(&vectors(2, 40))).map(|_| ()).unwrap();
            }
            _ => writer.add_with_ids(&ids, rows(&vectors(2 + first, 40))).unwrap(),
        }
        if name == "sparse" {
            writer.remove_ids(&IdSelector::range(2..36)).unwrap();
        }
        drop(writer);
        txn.commit().unwrap();
    }
    let mut load = store.bulk_load("load").unwrap();
    load.add(rows(&vectors(4, 20))).unwrap();
    drop((load, store));
    disk.image()
}

/// Everything that is to be seen of a store, each index by itself.
fn contents(store: &Store) -> Result<BTreeMap<String, String>> {
    let txn = store.begin_read()?;
    let mut contents = BTreeMap::new();
    for name in txn.indexes()? {
        let seen = match txn.index(&name) {
            Ok(reader) => index_contents(&reader)?,
            Err(Error::Unfinished { rows, .. }) => format!("{rows} rows loaded"),
            Err(e) => return Err(e),
        };
        contents.insert(name, seen);
    }
    Ok(contents)
}

fn index_contents(reader: &IndexReader<'_>) -> Result<String> {
    let ids = reader.ids()?;
    let keys: Vec<_> = ids.iter().map(|id| reader.key(*id)).collect::<Result<_>>()?;
    let found = reader.search(&vectors(9, 1), 60, &everything())?;
    let said = (reader.is_trained(), reader.list_sizes()?, reader.note()?, reader.search_defaults());
    Ok(format!("{ids:?} {keys:?} {:?} {found:?} {said:?}", reader.reconstruct_batch(&ids)?))
}

fn verify(store: &Store) -> std::result::Result<(), String> {
    let txn = store.begin_read().map_err(|e| e.to_string())?;
    for name in txn.indexes().map_err(|e| e.to_string())? {
        let report = txn.verify(&name, &mut quiet()).map_err(|e| e.to_string())?;
        if !report.is_ok() {
            return Err(format!("{name}: {:?}", report.problems));
        }
    }
    Ok(())
}

// ---- the verbs ----

/// What a verb does and says, if it succeeds.
type Call = fn(&Store) -> Result<String>;

fn change<T: std::fmt::Debug>(
    store: &Store,
    name: &str,
    verb: impl FnOnce(&mut IndexWriter<'_>) -> Result<T>,
) -> Result<String> {
    let txn = store.begin_write()?;
    let mut writer = txn.index(name)?;
    let said = verb(&mut writer)?;
    drop(writer);
    txn.commit()?;
    Ok(format!("{said:?}"))
}

fn read<T: std::fmt::Debug>(
    store: &Store,
    name: &str,
    verb: impl FnOnce(&IndexReader<'_>) -> Result<T>,
) -> Result<String> {
    let reader = store.begin_read()?.index(name)?;
    verb(&reader).map(|said| format!("{said:?}"))
}

const WRITES: &[(&str, Call)] = &[
    ("create_index", |s| {
        let txn = s.begin_write()?;
        txn.create_index("new", &spec("IVF2,SQfp16,RFlat", DIM))?;
        txn.commit().map(|()| String::new())
    }),
    ("drop_index", |s| {
        let txn = s.begin_write()?;
        txn.drop_index("kept")?;
        txn.commit().map(|()| String::new())
    }),
    ("rename_index", |s| {
        let txn = s.begin_write()?;
        txn.rename_index("kept", "other")?;
        txn.commit().map(|()| String::new())
    }),
    ("abort", |s| {
        let txn = s.begin_write()?;
        txn.index("a")?.clear()?;
        txn.abort().map(|()| String::new())
    }),
    ("add", |s| change(s, "a", |w| w.add(rows(&vectors(3, 30))))),
    ("add_with_ids", |s| change(s, "kept", |w| w.add_with_ids(&[77, 1 << 40], rows(&vectors(3, 2))))),
    ("add_preassigned", |s| change(s, "a", |w| w.add_preassigned(&[70, 71], rows(&vectors(3, 2)), &[2, 0]))),
    ("upsert", |s| change(s, "kept", |w| w.upsert(&[3, 90], rows(&vectors(3, 2))))),
    ("update_vectors", |s| change(s, "kept", |w| w.update_vectors(&[3, 9, 30], rows(&vectors(3, 3))))),
    ("add_with_keys", |s| change(s, "keys", |w| w.add_with_keys(&["x", "y"], rows(&vectors(3, 2))))),
    ("upsert_with_keys", |s| {
        change(s, "keys", |w| w.upsert_with_keys(&["key 3", "y"], rows(&vectors(3, 2))))
    }),
    ("update_with_keys", |s| change(s, "keys", |w| w.update_with_keys(&["key 3"], rows(&vectors(3, 1))))),
    ("add_codes", |s| {
        change(s, "a", |w| {
            let codes = w.reader().encode(rows(&vectors(3, 4)))?;
            let bytes = w.reader().list_number_bytes() + w.reader().code_bytes();
            w.add_codes(&(800..800 + (codes.len() / bytes) as u64).collect::<Vec<_>>(), &codes)
        })
    }),
    ("add_codes_with_rows", |s| {
        change(s, "kept", |w| {
            let given = vectors(3, 4);
            let codes = w.reader().encode(rows(&given))?;
            w.add_codes_with_rows(&[800, 801, 802, 803], &codes, rows(&given))
        })
    }),
    ("remove_ids", |s| change(s, "kept", |w| w.remove_ids(&IdSelector::range(5..25)))),
    ("remove_keys", |s| change(s, "keys", |w| w.remove_keys(&["key 3", "key 9"]))),
    ("clear", |s| change(s, "kept", |w| w.clear())),
    ("renumber", |s| change(s, "sparse", |w| w.renumber(&mut quiet()))),
    ("set_note", |s| change(s, "a", |w| w.set_note(b"a note"))),
    ("set_search_defaults", |s| change(s, "a", |w| w.set_search_defaults(&SearchParams::new().nprobe(2)))),
    ("train", |s| {
        change(s, "kept", |w| {
            let report = w.train(rows(&vectors(6, 30)), &TrainParams::default(), &mut quiet())?;
            Ok(report.redistributed)
        })
    }),
    ("train_stored", |s| {
        change(s, "learned", |w| Ok(w.train_stored(&TrainParams::default(), &mut quiet())?.redistributed))
    }),
    ("train_lists", |s| {
        change(s, "learned", |w| {
            Ok(w.train_lists(rows(&vectors(6, 30)), &TrainParams::default(), &mut quiet())?.redistributed)
        })
    }),
    ("train_codec", |s| {
        change(s, "learned", |w| w.train_codec(rows(&vectors(6, 30)), &TrainParams::default(), &mut quiet()))
    }),
    ("train_with_centroids", |s| {
        change(s, "a", |w| {
            let (centroids, sample) = (vectors(6, 3), vectors(7, 20));
            w.train_with_centroids(rows(&centroids), rows(&sample), &TrainParams::default(), &mut quiet())
        })
    }),
    ("merge_from", |s| {
        let other = s.begin_read()?.index("b")?;
        change(s, "a", |w| w.merge_from(&other, 1000, &mut quiet()))
    }),
    ("copy_subset_to", |s| {
        let other = s.begin_read()?.index("b")?;
        change(s, "a", |w| other.copy_subset_to(w, &Subset::Ids(505..515), &mut quiet()))
    }),
    ("import_model", |s| {
        let model = s.begin_read()?.index("b")?.export_model()?;
        change(s, "a", |w| w.import_model(&model, &mut quiet()).map(|_| ()))
    }),
    ("repair", |s| {
        let txn = s.begin_write()?;
        let mut writer = txn.damaged_index("kept")?;
        let report = writer.repair(&mut quiet())?;
        drop(writer);
        txn.commit().map(|()| format!("{report:?}"))
    }),
    ("bulk_load", |s| s.bulk_load("empty").map(|load| load.rows_done().to_string())),
    ("bulk_load finish", |s| {
        let load = s.bulk_load("load")?;
        load.finish().map(|()| String::new())
    }),
    ("discard_load", |s| s.discard_load("load").map(|rows| rows.to_string())),
    ("flush", |s| s.flush().map(|()| String::new())),
    ("compact", |s| s.compact().map(|_| String::new())),
    ("reopen", |s| s.reopen().map(|()| String::new())),
];

const READS: &[(&str, Call)] = &[
    ("indexes", |s| Ok(format!("{:?}", s.begin_read()?.indexes()?))),
    ("search", |s| read(s, "a", |r| r.search(&vectors(3, 1), 7, &everything()))),
    ("search_batch", |s| read(s, "kept", |r| r.search_batch(rows(&vectors(3, 9)), 7, &everything()))),
    ("search_into", |s| {
        read(s, "a", |r| {
            let mut heap = TopK::new(9);
            r.search_into(&vectors(3, 1), &mut heap, &everything())?;
            Ok(heap.neighbors().to_vec())
        })
    }),
    ("search_preassigned", |s| {
        read(s, "a", |r| {
            let probes = Preassigned::of_lists([[Some(2), Some(0)]]);
            r.search_preassigned(rows(&vectors(3, 1)), &probes, 7, &SearchParams::new())
        })
    }),
    ("range_search", |s| read(s, "learned", |r| r.range_search(&vectors(3, 1), 90.0, &everything()))),
    ("a filtered search", |s| {
        let params = everything().selector(IdSelector::range(3..20));
        read(s, "kept", |r| r.search(&vectors(3, 1), 7, &params))
    }),
    ("of_shards", |s| {
        let txn = s.begin_read()?;
        let shards = IndexReader::of_shards(&[txn.index("a")?, txn.index("b")?])?;
        Ok(format!("{:?}", shards.search(&vectors(3, 1), 7, &everything())?))
    }),
    ("reconstruct_batch", |s| read(s, "kept", |r| r.reconstruct_batch(&[3, 30, 5]))),
    ("ids", |s| read(s, "a", |r| Ok((r.ids()?, r.contains(3)?, r.contains(1 << 50)?)))),
    ("keys", |s| read(s, "keys", |r| Ok((r.id_of_key(b"key 7")?, r.key(9)?)))),
    ("list", |s| read(s, "a", |r| Ok((r.list(1)?, r.list_sizes()?, r.imbalance()?)))),
    ("slot and code", |s| {
        read(s, "a", |r| Ok((r.slot(3)?, r.code(3)?, r.compute_residual(&vectors(3, 1), 3)?)))
    }),
    ("scanner", |s| {
        read(s, "a", |r| {
            let query = r.prepare_query(&vectors(3, 1))?;
            let (mut scanner, mut heap) = (query.list_scanner(), TopK::new(5));
            scanner.enter(1)?;
            scanner.scan_into(&mut heap)?;
            Ok(heap.neighbors().to_vec())
        })
    }),
    ("export_model", |s| read(s, "learned", |r| r.export_model())),
    ("stats", |s| read(s, "kept", |r| r.stats().map(|stats| stats.rows))),
    ("verify", |s| Ok(format!("{:?}", s.begin_read()?.verify("a", &mut quiet())?.rows))),
    ("backup", |s| {
        let folder = tempfile::tempdir()?;
        let report = s.backup(folder.path().join("copy"), &mut quiet())?;
        Ok(format!("{:?}", (report.indexes, report.rows)))
    }),
];

/// A verb, and what came of it on a disk that did not fail.
struct Tried {
    name: &'static str,
    call: Call,
    said: String,
    after: BTreeMap<String, String>,
    /// Operations of the disk: those that write, and all.
    operations: [u64; 2],
}

struct Verbs {
    image: Vec<u8>,
    before: BTreeMap<String, String>,
    tried: Vec<Tried>,
    /// Verb, kind of fault, for ever, N.
    cases: Vec<(usize, Kind, bool, u64)>,
}

const KINDS: [Kind; 3] = [Kind::Eio, Kind::Full, Kind::Short];

fn disk_of(image: &[u8]) -> Disk {
    let disk = Disk::default();
    disk.restore(image.to_vec());
    disk
}

/// Operations that a call makes on the disk.
fn count(disk: &Disk, reads: bool, call: impl FnOnce()) -> u64 {
    disk.fail(Fault { after: u64::MAX, reads, for_ever: true, kind: Kind::Eio });
    call();
    let left = disk.left().unwrap();
    disk.heal();
    u64::MAX - left
}

fn verbs() -> &'static Verbs {
    static VERBS: OnceLock<Verbs> = OnceLock::new();
    VERBS.get_or_init(|| {
        let image = prepare();
        let before = contents(&open(&disk_of(&image)).unwrap()).unwrap();
        let try_it = |(name, call): &(&'static str, Call)| {
            let (mut said, mut after) = (String::new(), BTreeMap::new());
            let operations = [false, true].map(|reads| {
                let disk = disk_of(&image);
                let store = open(&disk).unwrap();
                let count = count(&disk, reads, || {
                    said = call(&store).unwrap_or_else(|e| panic!("{name}: {e}"));
                });
                after = contents(&store).unwrap();
                count
            });
            Tried { name, call: *call, said, after, operations }
        };
        let tried: Vec<Tried> = WRITES.iter().chain(READS).map(try_it).collect();
        let mut cases = Vec::new();
        for (verb, tried) in tried.iter().enumerate() {
            for kind in KINDS {
                for for_ever in [false, true] {
                    // A full disk can be read.
                    let n = tried.operations[usize::from(kind == Kind::Eio)];
                    cases.extend((0..n).map(|n| (verb, kind, for_ever, n)));
                }
            }
        }
        Verbs { image, before, tried, cases }
    })
}

/// A verb that fails, or does not, when the disk fails.
fn fail_verb(verbs: &Verbs, case: u64, planted: Option<Kind>) -> std::result::Result<(), String> {
    let (verb, kind, for_ever, n) = verbs.cases[case as usize];
    let kind = planted.unwrap_or(kind);
    let tried = &verbs.tried[verb];
    let failed = |what: String| format!("{} with {kind:?}, for ever {for_ever}, at {n}: {what}", tried.name);
    let disk = disk_of(&verbs.image);
    let store = open(&disk).map_err(|e| failed(format!("open: {e}")))?;
    disk.fail(Fault { after: n, reads: kind == Kind::Eio, for_ever, kind });
    let outcome = (tried.call)(&store);
    if !disk.fired() {
        return Err(failed("the fault never struck".into()));
    }
    match &outcome {
        Ok(said) if *said != tried.said => return Err(failed(format!("said {said}, not {}", tried.said))),
        Err(Error::Corrupt { .. }) => return Err(failed(format!("called damage: {outcome:?}"))),
        _ => {}
    }
    let possible = |seen: &BTreeMap<String, String>| match &outcome {
        Ok(_) => *seen == tried.after,
        Err(_) => *seen == verbs.before || *seen == tried.after,
    };
    // Latched or not: what can be read is right.
    if contents(&store).is_ok_and(|seen| !possible(&seen)) {
        return Err(failed("another state before the disk was well again".into()));
    }
    disk.heal();
    store.reopen().map_err(|e| failed(format!("reopen: {e}")))?;
    let seen = contents(&store).map_err(|e| failed(format!("read again: {e}")))?;
    if !possible(&seen) {
        return Err(failed(format!("{outcome:?} left {seen:?}")));
    }
    verify(&store).map_err(failed)?;
    go_on(&store, &disk).map_err(|e| failed(format!("and then: {e}")))
}

/// The store works on, and can be opened by the next process.
fn go_on(store: &Store, disk: &Disk) -> std::result::Result<(), String> {
    change(store, "a", |writer| writer.upsert(&[5, 6, 4000], rows(&vectors(11, 3))))
        .map_err(|e| e.to_string())?;
    let seen = contents(store).map_err(|e| e.to_string())?;
    // The caller's handle is closed as if the process had ended: on the bytes alone.
    let next = open(&disk_of(&disk.image())).map_err(|e| e.to_string())?;
    if contents(&next).map_err(|e| e.to_string())? != seen {
        return Err("the next process sees something else".into());
    }
    verify(&next)
}

#[test]
fn every_verb_at_every_operation() {
    let verbs = verbs();
    println!("{} verbs, {} faults", verbs.tried.len(), verbs.cases.len());
    let case = |case, _: &mut Random| fail_verb(verbs, case, None);
    campaign::run_exactly("I/O errors, verb by verb", verbs.cases.len() as u64, case).expect_clean();
}

/// The test of the test: the disk says that a write was done that it did not do.
#[test]
fn a_disk_that_loses_writes_is_noticed() {
    let verbs = verbs();
    let case = |case, _: &mut Random| fail_verb(verbs, case, Some(Kind::Lost));
    campaign::run_exactly("planted: writes lost", 300, case).expect_caught();
}

// ---- opening ----

/// Opening fails at every operation, after a good end and after a crash; then it succeeds.
#[test]
fn opening_at_every_operation() {
    let clean = verbs().image.clone();
    let crashed = {
        let disk = disk_of(&clean);
        let store = open(&disk).unwrap();
        change(&store, "a", |writer| writer.set_note(b"before the crash")).unwrap();
        disk.image()
    };
    let images = [clean, crashed].map(|image| {
        let disk = disk_of(&image);
        let mut store = None;
        let counts = [false, true].map(|reads| {
            store = None;
            let disk = disk_of(&image);
            count(&disk, reads, || drop(open(&disk).unwrap()))
        });
        store = Some(open(&disk).unwrap());
        let expected = contents(store.as_ref().unwrap()).unwrap();
        (image, expected, counts)
    });
    let mut cases = Vec::new();
    for (which, (_, _, counts)) in images.iter().enumerate() {
        for kind in KINDS {
            for for_ever in [false, true] {
                let n = counts[usize::from(kind == Kind::Eio)];
                cases.extend((0..n).map(|n| (which, kind, for_ever, n)));
            }
        }
    }
    let case = |case: u64, _: &mut Random| {
        let (which, kind, for_ever, n) = cases[case as usize];
        let (image, expected, _) = &images[which];
        let failed = |what: String| format!("image {which}, {kind:?}, for ever {for_ever}, at {n}: {what}");
        let disk = disk_of(image);
        disk.fail(Fault { after: n, reads: kind == Kind::Eio, for_ever, kind });
        match open(&disk) {
            Err(e @ (Error::Corrupt { .. } | Error::Foreign { .. })) => {
                return Err(failed(format!("called damage: {e}")));
            }
            Ok(store) if contents(&store).is_ok_and(|seen| seen != *expected) => {
                return Err(failed("another state".into()));
            }
            _ => {}
        }
        disk.heal();
        let store = open(&disk).map_err(|e| failed(e.to_string()))?;
        match contents(&store) {
            Ok(seen) if seen == *expected => verify(&store).map_err(failed),
            other => Err(failed(format!("{other:?}"))),
        }
    };
    campaign::run_exactly("I/O errors while opening", cases.len() as u64, case).expect_clean();
}

// ---- workloads that go on ----

/// The workloads that are swept: between them they have every verb that commits.
const SWEPT: [&str; 6] = ["update", "keys", "merge", "compact", "bulk", "drop"];

struct Sweep {
    workload: Workload,
    /// Operations on the disk that write.
    operations: u64,
}

fn sweeps() -> &'static [Sweep] {
    static SWEEPS: OnceLock<Vec<Sweep>> = OnceLock::new();
    SWEEPS.get_or_init(|| {
        let modes = workloads::MODES;
        let at = campaign::seed() as usize;
        let named = |(i, name): (usize, &&str)| {
            // Other modes for other seeds.
            let all = workloads(modes[(at + i) % modes.len()]);
            let mut workload = all.into_iter().find(|one| one.name.starts_with(name)).unwrap();
            workload.operations.truncate(5);
            let mut operations = 0;
            sweep(&workload, None, &mut operations).unwrap();
            Sweep { workload, operations }
        };
        SWEPT.iter().enumerate().map(named).collect()
    })
}

/// Does a workload while the disk fails; counts what the disk did where it does not.
fn sweep(workload: &Workload, fault: Option<Fault>, operations: &mut u64) -> std::result::Result<(), String> {
    let disk = Disk::default();
    let mut world = World::around(disk.clone(), workload.settings.clone(), Plant::Nothing);
    world.inspects = fault.is_none();
    world.open().map_err(|stop| format!("{stop:?}"))?;
    disk.fail(fault.unwrap_or(Fault { after: u64::MAX, reads: false, for_ever: true, kind: Kind::Eio }));
    world.start()?;
    for operation in &workload.operations {
        world.run(operation)?;
    }
    *operations = disk.left().map_or(0, |left| u64::MAX - left);
    world.inspects = true;
    world.finish()
}

#[test]
fn workloads_go_on_after_every_fault() {
    let sweeps = sweeps();
    let points: Vec<(usize, u64)> =
        sweeps.iter().enumerate().flat_map(|(i, one)| (0..one.operations).map(move |n| (i, n))).collect();
    let case = |case: u64, _: &mut Random| {
        let (which, n) = points[case as usize];
        let workload = &sweeps[which].workload;
        let variant = n + campaign::seed();
        let (kind, for_ever) = (KINDS[(variant % 3) as usize], (variant / 3).is_multiple_of(2));
        let fault = Fault { after: n, reads: false, for_ever, kind };
        sweep(workload, Some(fault), &mut 0)
            .map_err(|what| format!("{} with {fault:?}: {what}", workload.name))
    };
    campaign::run_exactly("I/O errors, workloads that go on", points.len() as u64, case).expect_clean();
}
