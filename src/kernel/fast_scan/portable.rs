//! What the scan means, in plain loops.

use super::{FastGroups, FastQuery, Found, GROUP, Steps, table_body};

pub(in crate::kernel) fn scan(groups: &FastGroups<'_>, queries: &[FastQuery<'_>], found: &mut [Found]) {
    for (g, (nibbles, biases, _)) in groups.each().enumerate() {
        for (query, found) in queries.iter().zip(&mut *found) {
            let mut sums = [0; GROUP];
            for (codes, table) in nibbles.as_chunks::<16>().0.iter().zip(query.table.as_chunks::<16>().0) {
                for (p, &code) in codes.iter().enumerate() {
                    sums[p] += i32::from(table[usize::from(code & 15)]);
                    sums[p + 16] += i32::from(table[usize::from(code >> 4)]);
                }
            }
            report(g, biases, query, &sums, found);
        }
    }
}

/// Turns the sums of a group into scores and keeps what is wanted.
pub(super) fn report(g: usize, biases: &[u8], query: &FastQuery<'_>, sums: &[i32; GROUP], found: &mut Found) {
    let biases = biases.as_chunks::<4>().0;
    for e in 0..GROUP {
        let bias = biases.get(e).map_or(0.0, |bias| f32::from_le_bytes(*bias));
        let score = (bias + query.base) + query.step * sums[e] as f32;
        if score <= query.worst && query.live[g] >> e & 1 == 1 {
            found.push((g * GROUP + e) as u32, score);
        }
    }
}

pub(in crate::kernel) fn table(values: &[f32], leasts: &mut [f32], table: &mut [u8]) -> Steps {
    table_body(values, leasts, table)
}
