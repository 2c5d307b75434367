//! The scan is its formula, all instruction sets agree to the bit, and tables are as exact as they say.

use super::super::portable;
use super::*;
use crate::math::random::Random;

/// Random groups, at an odd address; NaN and infinite biases among them.
fn groups(random: &mut Random, subspaces: usize, biased: bool, n: usize) -> Vec<u8> {
    let mut bytes = vec![0xff];
    for _ in 0..n {
        bytes.extend((0..16 * subspaces).map(|_| random.next_u64() as u8));
        let bias = |random: &mut Random| match random.below(20) {
            0 => f32::INFINITY,
            1 => f32::NAN,
            _ => (random.unit() * 1000.0 - 500.0) as f32,
        };
        let biases = if biased { GROUP } else { 0 };
        bytes.extend((0..biases).flat_map(|_| bias(random).to_le_bytes()));
    }
    bytes
}

/// A table of any bytes, or of the largest everywhere, which is where sums overflow first.
fn table(random: &mut Random, subspaces: usize, extreme: bool) -> Vec<u8> {
    let mut table = vec![0; table_bytes(subspaces)];
    let used = &mut table[..POINTS * subspaces];
    used.iter_mut().for_each(|t| *t = if extreme { 255 } else { random.next_u64() as u8 });
    table
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// The formula, entry by entry.
fn expected(groups: &FastGroups<'_>, query: &FastQuery<'_>) -> Found {
    let mut found = Found::default();
    for entry in 0..groups.count() * GROUP {
        let (group, e) = (&groups.bytes[entry / GROUP * groups.stride()..], entry % GROUP);
        let nibble = |j: usize| usize::from(group[16 * j + e % 16] >> (4 * (e / 16)) & 15);
        let sum: u64 = (0..groups.subspaces).map(|j| u64::from(query.table[16 * j + nibble(j)])).sum();
        let at = 16 * groups.subspaces + 4 * e;
        let bias = groups.biased.then(|| f32::from_le_bytes(group[at..at + 4].try_into().unwrap()));
        let score = (bias.unwrap_or(0.0) + query.base) + query.step * sum as f32;
        if score <= query.worst && query.live[entry / 32] >> e & 1 == 1 {
            found.push(entry as u32, score);
        }
    }
    found
}

/// Every table of kernels finds what the formula says with the same bits, for 1 to 4 queries a pass, any even number of
/// sub-spaces, tables of extremes, and entries that `live` leaves out.
#[test]
fn scans_are_the_formula_in_all_tables() {
    let mut random = Random::new(5);
    for subspaces in [2, 4, 6, 8, 14, 48, 64, 66, 96, 254, 256, 258, 262, 512, 514, 774] {
        for biased in [false, true] {
            let n = 1 + random.below(5);
            let bytes = groups(&mut random, subspaces, biased, n);
            let extreme = random.below(2) == 0;
            let tables: Vec<Vec<u8>> =
                (0..4).map(|q| table(&mut random, subspaces, extreme && q < 2)).collect();
            let live: Vec<u32> =
                (0..n).map(|_| random.next_u64() as u32 | random.next_u64() as u32).collect();
            let middle = 0.25 * 127.0 * subspaces as f32;
            let query = |q: usize| FastQuery {
                table: &tables[q],
                step: [0.25, 0.0, 0.25, 1.0][q],
                base: [10.0, -0.0, 0.0, 1.0][q],
                worst: [f32::INFINITY, 50.0, middle, f32::NEG_INFINITY][q],
                live: &live,
            };
            let queries: Vec<FastQuery<'_>> = (0..4).map(query).collect();
            let groups = FastGroups { subspaces, biased, bytes: &bytes[1..], ahead: &bytes };
            let expected: Vec<Found> = queries.iter().map(|query| expected(&groups, query)).collect();
            assert!(expected[0].len() > 0 && expected[0].iter().all(|(_, score)| !score.is_nan()));
            assert!(expected[2].len() < expected[0].len(), "a threshold that leaves something out");
            for kernels in Kernels::all() {
                for count in 1..=4 {
                    let mut found = vec![Found::default(); count];
                    kernels.fast_scan(&groups, &queries[..count], &mut found);
                    for (q, (found, expected)) in found.iter().zip(&expected).enumerate() {
                        let what = format!("{} {subspaces} {biased} {q}/{count}", kernels.name);
                        assert_eq!(found.entries, expected.entries, "{what}");
                        assert_eq!(bits(&found.scores), bits(&expected.scores), "{what}");
                        assert!(found.scores.iter().all(|s| s.to_bits() != (-0.0f32).to_bits()), "{what}");
                    }
                }
            }
        }
    }
}

/// What is found comes after what was found before, and no groups find nothing.
#[test]
fn scans_append() {
    let mut random = Random::new(6);
    let bytes = groups(&mut random, 6, true, 2);
    let table = table(&mut random, 6, false);
    let live = [7, 0];
    let query = FastQuery { table: &table, step: 1.0, base: 0.0, worst: f32::MAX, live: &live };
    for kernels in Kernels::all() {
        let mut found = [Found::default()];
        found[0].push(99, 1.5);
        kernels.fast_scan(
            &FastGroups { subspaces: 6, biased: true, bytes: &bytes[1..], ahead: &[] },
            &[query],
            &mut found,
        );
        assert_eq!((found[0].entries[0], found[0].scores[0]), (99, 1.5), "{}", kernels.name);
        assert!(found[0].entries[1..].iter().all(|entry| *entry < 3) && found[0].len() <= 4);
        let none = FastGroups { subspaces: 6, biased: true, bytes: &[], ahead: &bytes };
        let mut nothing = [Found::default()];
        kernels.fast_scan(&none, &[FastQuery { live: &[], ..query }], &mut nothing);
        assert_eq!(nothing[0].len(), 0);
    }
}

/// The limit is the last sum that is near enough, also where bases are so large that steps are lost in them, or
/// thresholds no numbers.
#[test]
fn limits_are_the_last_sums_within() {
    let mut random = Random::new(7);
    for round in 0..2000 {
        let subspaces = 2 + 2 * random.below(20);
        let most = 255 * subspaces as i32;
        let step = [0.0, 1e-40, 0.001, 0.7, 1e30][round % 5];
        let base = (random.unit() - 0.3) as f32 * [0.0, 1.0, 1e10, 1e38][random.below(4)];
        let worst = match random.below(6) {
            0 => f32::INFINITY,
            1 => f32::NAN,
            2 => base,
            3 => f32::NEG_INFINITY,
            _ => base + step * (random.unit() * 1.2 - 0.1) as f32 * most as f32,
        };
        let query = FastQuery { table: &[], step, base, worst, live: &[] };
        let within = |sum: i32| base + step * sum as f32 <= worst;
        let expected = (0..=most).take_while(|sum| within(*sum)).last().unwrap_or(-1);
        assert_eq!(limit(&query, subspaces), expected, "{query:?}");
    }
}

/// Tables of random values, of a wide sub-space among narrow ones, constant, tiny and huge.
fn values(random: &mut Random, kind: usize, subspaces: usize) -> Vec<f32> {
    let mut value = |j: usize| match kind {
        0 => (random.unit() * 20.0 - 10.0) as f32,
        1 if j == 0 => (random.unit() * 1e6) as f32,
        1 => random.unit() as f32,
        2 => -3.25,
        3 => (random.unit() * 1e-34) as f32,
        4 => (random.unit() * 2.0 - 1.0) as f32 * VALUE_MAX,
        // Everything half-way between two steps.
        5 => [0.0, 255.0, 100.5, 7.5][random.below(4)],
        _ => (random.unit() * 1e-3) as f32 + 1e6,
    };
    (0..POINTS * subspaces).map(|at| value(at / POINTS)).collect()
}

/// Each byte is within half a step of its value, so a sum of m within m/2 steps; the steps are those of the widest
/// sub-space; all tables agree.
#[test]
fn tables_are_within_their_bound() {
    let mut random = Random::new(11);
    for kind in 0..7 {
        for subspaces in [1, 2, 3, 4, 7, 32, 130, 300] {
            let values = values(&mut random, kind, subspaces);
            let run = |kernels: &Kernels| {
                let mut table = vec![9; table_bytes(subspaces)];
                let steps = kernels.fast_table(&values, &mut vec![0.0; subspaces], &mut table);
                (steps, table)
            };
            let (Steps { step, offset }, table) = run(&portable::KERNELS);
            let (mut sums, mut floats) = (0.0, 0.0);
            let mut widest = 0.0f64;
            for (values, bytes) in values.chunks(POINTS).zip(table.chunks(POINTS)) {
                let least = values.iter().copied().fold(f32::INFINITY, f32::min);
                let span = |v: &f32| f64::from(*v) - f64::from(least);
                widest = values.iter().map(span).fold(widest, f64::max);
                let wrong = |k: usize| f64::from(step) * f64::from(bytes[k]) - span(&values[k]);
                let k = (0..POINTS).max_by(|a, b| wrong(*a).abs().total_cmp(&wrong(*b).abs())).unwrap();
                let rounding = 1e-6 * span(&values[k]);
                // Where values are huge, steps are cut short so that no score overflows.
                if kind != 4 {
                    assert!(wrong(k).abs() <= f64::from(step) * 0.5001 + rounding, "{kind} {subspaces}");
                }
                sums += f64::from(step) * f64::from(bytes[k]);
                floats += f64::from(values[k]);
            }
            let score = offset + sums;
            let reach = f64::from(step) * 255.0 * subspaces as f64;
            assert!(reach <= f64::from(VALUE_MAX) * 1.001, "{kind} {subspaces}: {reach}");
            if kind != 4 {
                let bound = 0.5001 * subspaces as f64 * f64::from(step) + 1e-6 * floats.abs();
                assert!((score - floats).abs() <= bound, "{kind} {subspaces}: {score} for {floats}");
                assert!((f64::from(step) * 255.0 - widest).abs() <= 1e-6 * widest, "{kind} {subspaces}");
            }
            assert!(table[POINTS * subspaces..].iter().all(|t| *t == 0));
            for kernels in Kernels::all() {
                assert_eq!(run(kernels), (Steps { step, offset }, table.clone()), "{}", kernels.name);
            }
        }
    }
}

/// A span that underflows is a constant; its table is zeros and the error no more than the span.
#[test]
fn the_narrowest_tables_are_constants() {
    let mut tables = FastTables::new(2);
    let values: Vec<f32> = (0..32).map(|k| 5.0 + k as f32 * 1e-40).collect();
    let tiny: Vec<f32> = (0..32).map(|k| k as f32 * 1e-42).collect();
    for kernels in Kernels::all() {
        tables.push(kernels, &values);
        tables.push(kernels, &tiny);
    }
    for q in 0..2 * Kernels::all().len() {
        assert!(tables.steps(q).step == 0.0 && tables.table(q).iter().all(|t| *t == 0));
        assert_eq!(tables.steps(q).offset as f32, [10.0, 16.0 * 1e-42][q % 2]);
    }
}

/// Values that are infinite or no numbers make tables all the same.
#[test]
fn values_beyond_all_bounds_are_cut() {
    let mut values = vec![1.0; 64];
    (values[0], values[1], values[20], values[40]) = (f32::INFINITY, f32::NAN, f32::NEG_INFINITY, f32::MAX);
    let mut all = FastTables::new(4);
    Kernels::all().iter().for_each(|kernels| all.push(kernels, &values));
    let Steps { step, offset } = all.steps(0);
    assert!(step.is_finite() && (offset as f32).is_finite() && step * 255.0 * 4.0 < f32::MAX);
    assert_eq!((all.table(0)[0], all.table(0)[1], all.table(0)[20], all.table(0)[40]), (255, 255, 0, 255));
    for q in 1..Kernels::all().len() {
        assert_eq!((all.steps(q), all.table(q)), (all.steps(0), all.table(0)));
    }
}
