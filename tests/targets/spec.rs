//! What is read as a specification is printed so that it reads the same, and can be created or is
//! refused with an error. What is read as a form of reranking is printed so, too.

use vellum::{Coarse, Encoding, Error, IndexSpec, Rerank, Store};

pub(crate) fn check(text: &str) -> bool {
    if let Ok(rerank) = text.parse::<Rerank>() {
        assert_eq!(rerank.to_string().parse::<Rerank>().expect("reads what it prints"), rerank);
    }
    let Ok(spec) = text.parse::<IndexSpec>() else { return false };
    let printed = spec.to_string();
    assert_eq!(printed.parse::<IndexSpec>().expect("reads what it prints"), spec);
    assert_eq!(printed.parse::<IndexSpec>().expect("reads what it prints").to_string(), printed);
    // Many sub-spaces divide it.
    let spec = spec.with_dim(48);
    let store =
        Store::builder().open_backend(|| Ok(redb::backends::InMemoryBackend::new())).expect("an empty store");
    let txn = store.begin_write().expect("a transaction");
    match txn.create_index("a", &spec) {
        // It may not go with so many components.
        Err(Error::Spec { .. }) => return false,
        created => created.expect("what can be read can be created"),
    }
    let created = txn.index("a").expect("it is there").spec().clone();
    // What was left open is decided.
    let open = spec.is_auto()
        || spec.encoding() == Encoding::Nibble
        || spec.coarse() == Coarse::Auto && spec.nlist() >= Some(1 << 16);
    assert!(created == spec || open, "{created} of {spec}");
    assert_ne!(created.encoding(), Encoding::Nibble);
    true
}
