//! An index's tables opened with redb itself, past vellum: to damage them value by value.

use redb::{Database, ReadableTable, TableDefinition, WriteTransaction};

/// The tables of an index that hold bytes under numbers.
pub(crate) const BYTES: [&str; 11] =
    ["meta", "model", "lists", "blocks", "tails", "slots", "ids", "rows", "exact", "twins", "keys"];
/// All of them.
pub(crate) const TABLES: [&str; 14] = [
    "meta", "model", "lists", "blocks", "tails", "slots", "ids", "rows", "exact", "twins", "keys", "map",
    "free", "keymap",
];

/// A value of any table, as bytes.
pub(crate) type Pair = (Vec<u8>, Vec<u8>);

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().unwrap())
}

/// Runs `$call` with the table open under its own types, keys and values going through bytes.
macro_rules! with_table {
    ($txn:expr, $index:expr, $table:expr, |$open:ident, $key:ident, $value:ident| $call:expr) => {{
        let name = format!("{}/{}", $index, $table);
        match $table {
            "map" => {
                let mut $open = $txn.open_table(TableDefinition::<u64, u32>::new(&name)).unwrap();
                let $key = |bytes: &[u8]| number(bytes);
                let $value = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
                let _ = (&$key, &$value, &mut $open);
                $call
            }
            "free" => {
                let mut $open = $txn.open_table(TableDefinition::<u64, ()>::new(&name)).unwrap();
                let $key = |bytes: &[u8]| number(bytes);
                let $value = |_: &[u8]| ();
                let _ = (&$key, &$value, &mut $open);
                $call
            }
            "keymap" => {
                let mut $open = $txn.open_table(TableDefinition::<&[u8], u64>::new(&name)).unwrap();
                fn $key(bytes: &[u8]) -> &[u8] {
                    bytes
                }
                let $value = |bytes: &[u8]| number(bytes);
                let _ = (&$value, &mut $open);
                $call
            }
            _ => {
                let mut $open = $txn.open_table(TableDefinition::<u64, &[u8]>::new(&name)).unwrap();
                let $key = |bytes: &[u8]| number(bytes);
                fn $value(bytes: &[u8]) -> &[u8] {
                    bytes
                }
                let _ = (&$key, &mut $open);
                $call
            }
        }
    }};
}

fn bytes_of<'v, V: redb::Value + 'v>(value: &V::SelfType<'v>) -> Vec<u8> {
    V::as_bytes(value).as_ref().to_vec()
}

fn pairs_of<K: redb::Key + 'static, V: redb::Value + 'static>(table: &redb::Table<'_, K, V>) -> Vec<Pair> {
    let pair = |entry: Result<(redb::AccessGuard<'_, K>, redb::AccessGuard<'_, V>), redb::StorageError>| {
        let (key, value) = entry.unwrap();
        (bytes_of::<K>(&key.value()), bytes_of::<V>(&value.value()))
    };
    table.iter().unwrap().map(pair).collect()
}

/// All entries of a table.
pub(crate) fn entries(db: &Database, index: &str, table: &str) -> Vec<Pair> {
    let txn = redb::Database::begin_write(db).unwrap();
    let pairs = with_table!(txn, index, table, |open, _key, _value| pairs_of(&open));
    txn.abort().unwrap();
    pairs
}

#[allow(clippy::unit_arg, reason = "the values of `free` are units")]
pub(crate) fn put(txn: &WriteTransaction, index: &str, table: &str, key: &[u8], value: &[u8]) {
    with_table!(txn, index, table, |open, k, v| drop(open.insert(k(key), v(value)).unwrap()));
}

pub(crate) fn delete(txn: &WriteTransaction, index: &str, table: &str, key: &[u8]) {
    with_table!(txn, index, table, |open, k, _v| drop(open.remove(k(key)).unwrap().expect("it is there")));
}
