//! What the scan means, in plain loops.

use super::{
    Book, BoundQuery, Found, GROUP, Group, Groups, Look, NibbleQuery, choose_body, hadamard_body, table_body,
};

pub(in crate::kernel) fn scan(groups: &Groups<'_>, queries: &[NibbleQuery<'_>], found: &mut [Found]) {
    scan_any(groups, queries, found);
}

pub(in crate::kernel) fn bounds(groups: &Groups<'_>, queries: &[BoundQuery<'_>], found: &mut [Found]) {
    scan_any(groups, queries, found);
}

fn scan_any<L: Look>(groups: &Groups<'_>, queries: &[L], found: &mut [Found]) {
    for (g, group) in groups.iter().enumerate() {
        for (query, found) in queries.iter().zip(&mut *found) {
            let mut sums = [0i32; GROUP];
            let tables = query.nibble().table.as_chunks::<16>().0;
            for (codes, table) in group.codes.as_chunks::<16>().0.iter().zip(tables) {
                for (p, &code) in codes.iter().enumerate() {
                    sums[p] += i32::from(table[usize::from(code & 15)]);
                    sums[p + 16] += i32::from(table[usize::from(code >> 4)]);
                }
            }
            report(&group, g, query, &sums, found);
        }
    }
}

/// Turns the sums of a group into scores or bounds and keeps what is wanted.
pub(super) fn report<L: Look>(group: &Group<'_>, g: usize, look: &L, sums: &[i32; GROUP], found: &mut Found) {
    let (query, (slack, reach)) = (look.nibble(), look.doubt());
    let scales = group.scales.as_chunks::<2>().0;
    let biases = group.biases.as_chunks::<4>().0;
    let errors = group.errors.as_chunks::<2>().0;
    let wide = |bytes: [u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16);
    for e in 0..GROUP {
        let fixed = f32::from_le_bytes(biases[e]) + query.coarse;
        let factor = wide(scales[e]) * query.factor;
        let score = match L::BOUNDED {
            false => fixed + factor * sums[e] as f32,
            true => (fixed + factor * (sums[e] as f32 + slack)) - wide(errors[e]) * reach,
        };
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
