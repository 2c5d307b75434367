//! What the scan means, in plain loops.

use super::{Book, Found, GROUP, Group, NibbleQuery, choose_body, group_bytes, hadamard_body, table_body};

pub(in crate::kernel) fn scan(
    subspaces: usize,
    groups: &[u8],
    _ahead: &[u8],
    queries: &[NibbleQuery<'_>],
    found: &mut [Found],
) {
    for (g, group) in groups.chunks_exact(group_bytes(subspaces)).enumerate() {
        let group = Group::of(subspaces, group);
        for (query, found) in queries.iter().zip(&mut *found) {
            let mut sums = [0i32; GROUP];
            for (codes, table) in group.codes.as_chunks::<16>().0.iter().zip(query.table.as_chunks::<16>().0)
            {
                for (p, &code) in codes.iter().enumerate() {
                    sums[p] += i32::from(table[usize::from(code & 15)]);
                    sums[p + 16] += i32::from(table[usize::from(code >> 4)]);
                }
            }
            report(&group, g, query, &sums, found);
        }
    }
}

/// Turns the sums of a group into scores and keeps what is wanted.
pub(super) fn report(
    group: &Group<'_>,
    g: usize,
    query: &NibbleQuery<'_>,
    sums: &[i32; GROUP],
    found: &mut Found,
) {
    let scales = group.scales.as_chunks::<2>().0;
    let biases = group.biases.as_chunks::<4>().0;
    for e in 0..GROUP {
        let scale = f32::from_bits(u32::from(u16::from_le_bytes(scales[e])) << 16);
        let score = (f32::from_le_bytes(biases[e]) + query.coarse) + (scale * query.factor) * sums[e] as f32;
        if score <= query.worst && query.live[g] >> e & 1 == 1 {
            found.push((g * GROUP + e) as u32, score);
        }
    }
}

pub(in crate::kernel) fn choose(book: &Book, planes: &[f32], codes: &mut [u8]) {
    choose_body(book, planes, codes);
}

pub(in crate::kernel) fn hadamard(values: &mut [f32]) {
    hadamard_body(values);
}

pub(in crate::kernel) fn table(book: &Book, query: &[f32], products: &mut [f32], table: &mut [i8]) -> f32 {
    table_body(book, query, products, table)
}
