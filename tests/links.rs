//! Symbolic links in the place of a store: worry is that making one follows a link into a file of somebody else's, or
//! takes a link away. It would show as bytes that changed, or a link that is gone.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::symlink;
use tempfile::TempDir;
use vellum::{Error, Observer, Store};

#[test]
fn a_store_is_opened_through_a_link() {
    let folder = TempDir::new().unwrap();
    let (file, link) = (folder.path().join("store"), folder.path().join("link"));
    drop(Store::create(&file).unwrap());
    symlink(&file, &link).unwrap();
    let store = Store::open(&link).unwrap();
    assert!(matches!(Store::open(&file), Err(Error::Locked)));
    drop(store);
    assert!(link.symlink_metadata().unwrap().is_symlink());
}

#[test]
fn a_store_is_never_made_through_a_link() {
    let folder = TempDir::new().unwrap();
    let (file, link) = (folder.path().join("text"), folder.path().join("link"));
    fs::write(&file, "somebody else's").unwrap();
    symlink(&file, &link).unwrap();
    assert!(matches!(Store::create(&link), Err(Error::Exists { .. })));
    assert!(matches!(Store::open(&link), Err(Error::Foreign { .. })));
    assert_eq!(fs::read_to_string(&file).unwrap(), "somebody else's");

    let dangling = folder.path().join("dangling");
    symlink(folder.path().join("nothing"), &dangling).unwrap();
    assert!(matches!(Store::create(&dangling), Err(Error::Exists { .. })));
    assert!(matches!(Store::open(&dangling), Err(Error::NotFound { .. })));
    assert!(matches!(
        Store::builder().open_or_create(&dangling),
        Err(Error::Exists { .. } | Error::NotFound { .. })
    ));

    let store = Store::create(folder.path().join("store")).unwrap();
    for link in [&link, &dangling] {
        assert!(matches!(store.backup(link, &mut Observer::none()), Err(Error::Exists { .. })));
        assert!(link.symlink_metadata().unwrap().is_symlink());
    }
    assert!(!folder.path().join("nothing").exists());
    assert_eq!(fs::read_to_string(&file).unwrap(), "somebody else's");
}
