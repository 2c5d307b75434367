use vellum::*;
fn data(n: usize, d: usize, seed: u64) -> Vec<f32> {
    let mut s = seed.wrapping_mul(0x9E3779B97F4A7C15) | 1;
    (0..n * d)
        .map(|_| {
            s ^= s << 13;
            s ^= s >> 7;
            s ^= s << 17;
            ((s >> 40) as f32) / 65536.0 - 128.0
        })
        .collect()
}
#[test]
fn smoke() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.vellum");
    let store = Store::create(&path).unwrap();
    let d = 24;
    let base = data(3000, d, 1);
    for spec in ["IVF16,Flat", "IVF16,SQfp16,RFlat", "Flat", "IVF7,SQbf16"] {
        for metric in [Metric::L2, Metric::InnerProduct, Metric::Cosine] {
            let name = format!("{spec}-{metric}");
            let txn = store.begin_write().unwrap();
            txn.create_index(&name, &spec.parse::<IndexSpec>().unwrap().with_dim(d).with_metric(metric))
                .unwrap();
            let mut w = txn.index(&name).unwrap();
            let rows = Rows::new(&base, d).unwrap();
            w.add(rows.slice(0..1000)).unwrap();
            if spec.starts_with("IVF") {
                w.train(rows, &TrainParams::default(), &mut Observer::none()).unwrap();
            }
            w.add(rows.slice(1000..3000)).unwrap();
            assert_eq!(w.remove_ids(&IdSelector::range(500..700)).unwrap(), 200);
            w.update_vectors(&[0, 1, 2], rows.slice(100..103)).unwrap();
            w.upsert(&[0, 600, 9000], rows.slice(200..203)).unwrap();
            let found = w.reader().search(rows.row(1234), 5, &SearchParams::new().nprobe(16)).unwrap();
            assert!(found.iter().any(|n| n.id == 1234), "{found:?}");
            drop(w);
            txn.commit().unwrap();
            let r = store.begin_read().unwrap();
            let report = r.verify(&name, &mut Observer::none()).unwrap();
            assert!(report.is_ok(), "{name}: {report:?}");
            let idx = r.index(&name).unwrap();
            assert_eq!(idx.len(), 2802);
            assert_eq!(idx.search(rows.row(1234), 5, &SearchParams::new().nprobe(16)).unwrap(), found);
            println!(
                "{name} {:?} {:?}",
                found[0],
                idx.stats().unwrap().parts.iter().map(|p| (p.name, p.file_bytes)).collect::<Vec<_>>()
            );
        }
    }
    let all = store.begin_read().unwrap().indexes().unwrap();
    assert_eq!(all.len(), 12);
    let b = dir.path().join("b.vellum");
    println!("{:?}", store.backup(&b, &mut Observer::none()).unwrap());
    println!("{:?}", store.compact());
    let copy = Store::open(&b).unwrap();
    for name in all {
        assert!(copy.begin_read().unwrap().verify(&name, &mut Observer::none()).unwrap().is_ok());
        let txn = copy.begin_write().unwrap();
        let mut w = txn.damaged_index(&name).unwrap();
        println!("{:?}", w.repair(&mut Observer::none()).unwrap());
        drop(w);
        txn.commit().unwrap();
        let rep = copy.begin_read().unwrap().verify(&name, &mut Observer::none()).unwrap();
        assert!(rep.is_ok(), "{rep:?}");
    }
    drop(copy);
    drop(store);
    let store = Store::open(&path).unwrap();
    assert!(matches!(Store::open(&path), Err(Error::Locked)));
    println!("{:?}", store.stats());
}
