//! A sieve before looked-up sums: which entries may score within a bound, told from tables of bytes.
//!
//! ```text
//! values      v_jk, 256 for each of the m bytes of a code (kernel/lookup.rs)
//! byte        t_jk = (v_jk − least_j) / step, rounded          step = the widest span of values of a byte / 255
//! S           Σ_j t_jk                                         16 bits, so m ≤ 257
//! passes      unless (base + bias) + (Σ_j least_j + step · S) − slack − |base + bias| / 2^21 > worst
//! slack       ½ m step, and what roundings of f32 can come to
//! ```
//! Whoever scores at most `worst` passes; few others do, because half a step of 255 in each byte is little beside the sum. Who
//! passes is looked up in the values themselves, so no answer changes. After Quick ADC and Quicker ADC (André et al. 2017, 2019),
//! but that the bound is kept: their sums are the answer.
//!
//! With VBMI a table of 256 bytes is four registers: two permutations and a blend look up 64 entries. Elsewhere a byte's table costs as much
//! to look into as a float's, and the sieve does not pay ([`Kernels::sieve_pays`]). Turning 64 entries into columns of bytes takes longer
//! than a look-up of them, so several queries share the columns. The bound is computed without fused
//! multiply-adds, so that all tables of kernels let the same entries pass.

#![allow(unsafe_code)]

use super::Kernels;
use super::lookup::Lookup;

/// Bytes of a code whose sum 16 bits hold.
const CODE_BYTES_MAX: usize = 257;

/// 2^−21: of base and bias, what rounding may cost.
const ROUNDING: f32 = 1.0 / (1 << 21) as f32;

/// A query's values as bytes.
#[derive(Clone, Debug, Default)]
pub(crate) struct SieveTable {
    /// 256 for each byte of a code; empty if the values are not fit for it.
    bytes: Vec<u8>,
    step: f32,
    offset: f32,
    slack: f32,
}

/// A table, and for whom it sieves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sieve<'a> {
    pub(crate) table: &'a SieveTable,
    /// Less than `f32::MAX`.
    pub(crate) worst: f32,
    /// A bit for each entry that may be found, 32 a word.
    pub(crate) live: &'a [u32],
    /// What will be read afterwards.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // prefetches
    pub(crate) ahead: &'a [u8],
    /// What [`Kernels::sieve_columns`] made of the entries, or nothing.
    pub(crate) columns: &'a [u8],
}

/// Entries that are turned into columns together.
const TOGETHER: usize = 64;

pub(super) type Pass = unsafe fn(sieve: &Sieve<'_>, lookup: &Lookup<'_>, picks: &mut Vec<u32>);
pub(super) type Columns = unsafe fn(lookup: &Lookup<'_>, columns: &mut [u8]);
pub(super) type Spreads = unsafe fn(values: &[f32], leasts: &mut [f32]) -> Spread;
pub(super) type Bytes = unsafe fn(values: &[f32], step: f32, leasts: &[f32], bytes: &mut [u8]);

/// How far a query's values are apart.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Spread {
    /// The widest span of a byte's.
    span: f32,
    /// The sum of their least ones.
    offset: f64,
    /// The sum of their greatest sizes.
    size: f64,
}

impl Kernels {
    /// True where it is faster to sieve than to look up everything.
    pub(crate) fn sieve_pays(&self) -> bool {
        self.name == "avx512vbmi"
    }

    /// The table of a query's values.
    pub(crate) fn sieve_table(&self, values: &[f32]) -> SieveTable {
        let m = values.len() / 256;
        if m > CODE_BYTES_MAX {
            return SieveTable::default();
        }
        let mut leasts = vec![0.0; m];
        // SAFETY: the table exists only where its instructions do; there is a least value for every 256.
        let Spread { span, offset, size } = unsafe { (self.sieve_spread)(values, &mut leasts) };
        let step = span / 255.0;
        // All sums of the values and of the bytes are below this.
        let size = size + m as f64 * f64::from(span);
        let slack = 0.501 * m as f64 * f64::from(step) + (m + 16) as f64 * size / f64::from(1 << 23);
        let (offset, slack) = (offset as f32, 1.001 * slack as f32);
        if !(step.is_normal() && slack.is_finite() && offset.is_finite()) {
            return SieveTable::default();
        }
        let mut bytes = vec![0; values.len()];
        // SAFETY: as above.
        unsafe { (self.sieve_bytes)(values, step, &leasts, &mut bytes) }
        SieveTable { bytes, step, offset, slack }
    }

    /// Replaces `columns` by the entries' code bytes as the sieve takes them, for several calls with the same entries.
    pub(crate) fn sieve_columns(&self, lookup: &Lookup<'_>, columns: &mut Vec<u8>) {
        lookup.check();
        columns.clear();
        if self.sieve_pays() && lookup.code_bytes() >= 4 {
            columns.resize(columns_len(lookup), 0);
            // SAFETY: the table exists only where its instructions do; there is room for all columns.
            unsafe { (self.sieve_columns)(lookup, columns) }
        }
    }

    /// Replaces `picks` by live entries, ascending, among them all that score at most `worst`. Meanwhile what is ahead is
    /// brought into the second-level cache.
    pub(crate) fn sieve(&self, sieve: &Sieve<'_>, lookup: &Lookup<'_>, picks: &mut Vec<u32>) {
        lookup.check();
        let n = lookup.count();
        assert!(sieve.table.bytes.len() == lookup.tables.len() && !lookup.tables.is_empty());
        assert!(sieve.live.len() == n.div_ceil(32) && u32::try_from(n).is_ok());
        assert!(sieve.columns.is_empty() || sieve.columns.len() == columns_len(lookup));
        picks.clear();
        // A store of a whole register may reach beyond the last pick.
        picks.reserve(n + 16);
        // SAFETY: the table exists only where its instructions do; the lengths were checked above.
        unsafe { (self.sieve)(sieve, lookup, picks) }
    }
}

/// A byte for each byte of a code, of as many entries as go together.
fn columns_len(lookup: &Lookup<'_>) -> usize {
    lookup.count().div_ceil(TOGETHER) * TOGETHER * lookup.code_bytes()
}

impl SieveTable {
    /// False if the values are not fit for it: too many, all equal, or beyond what can be summed.
    pub(crate) fn is_usable(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// True unless an entry's score is beyond `worst` for sure.
    #[inline(always)]
    fn passes(&self, start: f32, sum: u16, worst: f32) -> bool {
        let least =
            (start + (self.offset + self.step * f32::from(sum)) - self.slack) - start.abs() * ROUNDING;
        // What is not a number passes.
        least <= worst || least.is_nan()
    }
}

#[inline(always)]
fn spread_body(values: &[f32], leasts: &mut [f32]) -> Spread {
    let mut spread = Spread::default();
    for (values, least) in values.as_chunks::<256>().0.iter().zip(leasts) {
        let (low, high) = extremes(values);
        *least = low;
        let span = high - low;
        // What is not a number must not be lost.
        spread.span = if span <= spread.span { spread.span } else { span };
        spread.offset += f64::from(low);
        spread.size += f64::from(low.abs().max(high.abs()));
    }
    spread
}

#[inline(always)]
fn extremes(values: &[f32; 256]) -> (f32, f32) {
    let (mut low, mut high) = ([f32::INFINITY; 32], [f32::NEG_INFINITY; 32]);
    for values in values.as_chunks::<32>().0 {
        for lane in 0..32 {
            low[lane] = if values[lane] < low[lane] { values[lane] } else { low[lane] };
            high[lane] = if values[lane] > high[lane] { values[lane] } else { high[lane] };
        }
    }
    for half in [16, 8, 4, 2, 1] {
        for lane in 0..half {
            low[lane] = if low[lane + half] < low[lane] { low[lane + half] } else { low[lane] };
            high[lane] = if high[lane + half] > high[lane] { high[lane + half] } else { high[lane] };
        }
    }
    (low[0], high[0])
}

/// A value's byte: not below 0, so that adding a half rounds. `scale` is 1 / step.
#[inline(always)]
fn byte(value: f32, least: f32, scale: f32) -> u8 {
    ((value - least) * scale + 0.5) as u8
}

pub(super) fn spread(values: &[f32], leasts: &mut [f32]) -> Spread {
    spread_body(values, leasts)
}

pub(super) fn bytes(values: &[f32], step: f32, leasts: &[f32], bytes: &mut [u8]) {
    let columns = values.as_chunks::<256>().0.iter().zip(bytes.as_chunks_mut::<256>().0);
    for ((values, bytes), least) in columns.zip(leasts) {
        values.iter().zip(bytes).for_each(|(value, b)| *b = byte(*value, *least, 1.0 / step));
    }
}

/// Where nobody reads columns, there are none.
pub(super) fn columns(_: &Lookup<'_>, _: &mut [u8]) {}

pub(super) fn pass(sieve: &Sieve<'_>, lookup: &Lookup<'_>, picks: &mut Vec<u32>) {
    for i in 0..lookup.count() {
        if sieve.live[i / 32] >> (i % 32) & 1 == 0 {
            continue;
        }
        let entry = lookup.entry(i);
        let columns = sieve.table.bytes.as_chunks::<256>().0.iter();
        let sum = columns.zip(entry).map(|(table, code)| u16::from(table[usize::from(*code)])).sum();
        if sieve.table.passes(lookup.base + lookup.bias(entry), sum, sieve.worst) {
            picks.push(i as u32);
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) mod avx512 {
    use super::{Lookup, ROUNDING, Sieve, Spread, TOGETHER, pass, spread_body};
    use crate::kernel::avx2::prefetch;
    use std::arch::x86_64::*;

    /// Of the 64 entries, the one whose code bytes each lane of four registers holds: then the sums of those at even
    /// places, as numbers of 16 bits, are of entries 0–15 and 32–47 in order, and those at odd places of 16–31 and 48–63.
    const ENTRIES: [[i32; 16]; 4] = entries();

    const fn entries() -> [[i32; 16]; 4] {
        let mut entries = [[0; 16]; 4];
        let mut i = 0;
        while i < 64 {
            let (register, lane) = (i / 16, i % 16);
            entries[register][lane] =
                (register / 2 * 32 + register % 2 * 8 + lane / 2 + lane % 2 * 16) as i32;
            i += 1;
        }
        entries
    }

    /// Byte `16 j + lane` is byte j of the lane's four.
    const COLUMNS: [u8; 64] = by_column();

    const fn by_column() -> [u8; 64] {
        let mut columns = [0; 64];
        let mut i = 0;
        while i < 64 {
            columns[i] = (4 * (i % 16) + i / 16) as u8;
            i += 1;
        }
        columns
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub(in crate::kernel) fn spread(values: &[f32], leasts: &mut [f32]) -> Spread {
        spread_body(values, leasts)
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub(in crate::kernel) fn bytes(values: &[f32], step: f32, leasts: &[f32], bytes: &mut [u8]) {
        let (scale, half) = (_mm512_set1_ps(1.0 / step), _mm512_set1_ps(0.5));
        let columns = values.as_chunks::<256>().0.iter().zip(bytes.as_chunks_mut::<256>().0);
        for ((values, bytes), least) in columns.zip(leasts) {
            let least = _mm512_set1_ps(*least);
            for (values, bytes) in values.as_chunks::<16>().0.iter().zip(bytes.as_chunks_mut::<16>().0) {
                // SAFETY: 64 bytes are read from an array of 16 values.
                let values = unsafe { _mm512_loadu_ps(values.as_ptr()) };
                let steps = _mm512_mul_ps(_mm512_sub_ps(values, least), scale);
                let rounded = _mm512_cvttps_epi32(_mm512_add_ps(steps, half));
                // SAFETY: 16 bytes are written to an array of 16.
                unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), _mm512_cvtusepi32_epi8(rounded)) }
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")]
    pub(in crate::kernel) fn pass_vbmi(sieve: &Sieve<'_>, lookup: &Lookup<'_>, picks: &mut Vec<u32>) {
        let (n, size) = (lookup.count(), lookup.entry_bytes);
        if lookup.code_bytes() < 4 || i32::try_from(TOGETHER * size).is_err() {
            return pass(sieve, lookup, picks);
        }
        let groups = n.div_ceil(TOGETHER);
        let mut columns = sieve.columns.chunks_exact(TOGETHER * lookup.code_bytes());
        let mut ahead =
            sieve.ahead.chunks(sieve.ahead.len().div_ceil(groups.max(1)).next_multiple_of(64).max(64));
        for (group, live) in sieve.live.chunks(2).enumerate() {
            prefetch::<2>(ahead.next().unwrap_or_default());
            let columns = columns.next().unwrap_or_default();
            let first = group * TOGETHER;
            let live = u64::from(live[0]) | u64::from(live.get(1).copied().unwrap_or(0)) << 32;
            let n = (n - first).min(TOGETHER);
            let live = live & (u64::MAX >> (TOGETHER - n));
            if live != 0 {
                let entries = &lookup.entries[first * size..][..n * size];
                some(&Sieve { columns, ..*sieve }, &Lookup { entries, ..*lookup }, live, first as u32, picks);
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")]
    pub(in crate::kernel) fn columns(lookup: &Lookup<'_>, columns: &mut [u8]) {
        let (m, size) = (lookup.code_bytes(), lookup.entry_bytes);
        if i32::try_from(TOGETHER * size).is_err() {
            // Nor does the sieve take them then.
            return;
        }
        let groups = lookup.entries.chunks(TOGETHER * size);
        for (entries, columns) in groups.zip(columns.chunks_exact_mut(TOGETHER * m)) {
            let offsets = offsets(entries.len() / size, size);
            for w in 0..m.div_ceil(4) {
                // The last four bytes may overlap those before.
                let at = (4 * w).min(m - 4);
                let four = columns[TOGETHER * at..][..TOGETHER * 4].as_chunks_mut::<TOGETHER>().0;
                for (to, column) in four.iter_mut().zip(four_columns(&entries[at..], offsets)) {
                    // SAFETY: 64 bytes are written to an array of 64.
                    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), column) }
                }
            }
        }
    }

    /// Where the entries of each lane of the four registers begin, of `n` that have `size` bytes.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")]
    fn offsets(n: usize, size: usize) -> [__m512i; 4] {
        let (last, size) = (_mm512_set1_epi32(n as i32 - 1), _mm512_set1_epi32(size as i32));
        ENTRIES.map(|entries| {
            // SAFETY: 64 bytes are read from an array of 64.
            let entries = unsafe { _mm512_loadu_si512(entries.as_ptr().cast()) };
            _mm512_mullo_epi32(_mm512_min_epi32(entries, last), size)
        })
    }

    /// Up to 64 entries, from the `first` on. Behind the last one it is repeated.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")]
    fn some(sieve: &Sieve<'_>, lookup: &Lookup<'_>, live: u64, first: u32, picks: &mut Vec<u32>) {
        let last = _mm512_set1_epi32(lookup.count() as i32 - 1);
        let size = _mm512_set1_epi32(lookup.entry_bytes as i32);
        let [even, odd] = match sieve.columns {
            [] => sums(&sieve.table.bytes, lookup),
            columns => sums_of(&sieve.table.bytes, columns),
        };
        let halves = [
            _mm512_castsi512_si256(even),
            _mm512_castsi512_si256(odd),
            _mm512_extracti64x4_epi64::<1>(even),
            _mm512_extracti64x4_epi64::<1>(odd),
        ];
        let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        for (i, sums) in halves.into_iter().enumerate() {
            let live = (live >> (16 * i)) as u16;
            if live == 0 {
                continue;
            }
            let entries = _mm512_add_epi32(lanes, _mm512_set1_epi32(16 * i as i32));
            let at = _mm512_mullo_epi32(_mm512_min_epi32(entries, last), size);
            let near = live & near(sieve, lookup, _mm512_cvtepu16_epi32(sums), at);
            let numbers = _mm512_add_epi32(entries, _mm512_set1_epi32(first as i32));
            // SAFETY: there is room for one pick of each entry and a register more; the first of these are set.
            unsafe {
                let numbers = _mm512_maskz_compress_epi32(near, numbers);
                _mm512_storeu_si512(picks.as_mut_ptr().add(picks.len()).cast(), numbers);
                picks.set_len(picks.len() + near.count_ones() as usize);
            }
        }
    }

    /// Which of 16 entries pass.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")]
    fn near(sieve: &Sieve<'_>, lookup: &Lookup<'_>, sums: __m512i, at: __m512i) -> __mmask16 {
        let bias = if lookup.biased {
            let biases = lookup.entries[lookup.entry_bytes - 4..].as_ptr();
            // SAFETY: the last 4 bytes of 16 entries.
            _mm512_castsi512_ps(unsafe { _mm512_i32gather_epi32::<1>(at, biases.cast()) })
        } else {
            _mm512_setzero_ps()
        };
        let table = sieve.table;
        let start = _mm512_add_ps(_mm512_set1_ps(lookup.base), bias);
        let sum = _mm512_mul_ps(_mm512_set1_ps(table.step), _mm512_cvtepi32_ps(sums));
        let sum = _mm512_add_ps(_mm512_set1_ps(table.offset), sum);
        let least = _mm512_sub_ps(_mm512_add_ps(start, sum), _mm512_set1_ps(table.slack));
        let rounding = _mm512_mul_ps(_mm512_abs_ps(start), _mm512_set1_ps(ROUNDING));
        let least = _mm512_sub_ps(least, rounding);
        _mm512_cmp_ps_mask::<_CMP_NGT_UQ>(least, _mm512_set1_ps(sieve.worst))
    }

    /// The sums of 64 entries in columns: of those at even places and at odd ones.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")]
    fn sums_of(tables: &[u8], columns: &[u8]) -> [__m512i; 2] {
        let mut sums = [_mm512_setzero_si512(); 2];
        for (table, column) in tables.as_chunks::<256>().0.iter().zip(columns.as_chunks::<TOGETHER>().0) {
            // SAFETY: 64 bytes are read from an array of 64.
            let column = unsafe { _mm512_loadu_si512(column.as_ptr().cast()) };
            add(&mut sums, look_up(table, column));
        }
        sums
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")]
    fn add(sums: &mut [__m512i; 2], found: __m512i) {
        sums[0] = _mm512_add_epi16(sums[0], _mm512_and_si512(found, _mm512_set1_epi16(0xff)));
        sums[1] = _mm512_add_epi16(sums[1], _mm512_srli_epi16::<8>(found));
    }

    /// The sums of up to 64 entries: of those at even places and at odd ones.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")]
    fn sums(tables: &[u8], lookup: &Lookup<'_>) -> [__m512i; 2] {
        let m = lookup.code_bytes();
        let offsets = offsets(lookup.count(), lookup.entry_bytes);
        let mut sums = [_mm512_setzero_si512(); 2];
        let tables = tables.as_chunks::<256>().0;
        for (w, tables) in tables.chunks(4).enumerate() {
            // The last four bytes may overlap those before.
            let skipped = 4 - tables.len();
            let at = 4 * w - skipped;
            debug_assert!(at + 4 <= m);
            let columns = four_columns(&lookup.entries[at..], offsets);
            for (table, column) in tables.iter().zip(&columns[skipped..]) {
                add(&mut sums, look_up(table, *column));
            }
        }
        sums
    }

    /// The four bytes at the offsets: first bytes, second bytes and so on, 64 each.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")]
    fn four_columns(codes: &[u8], offsets: [__m512i; 4]) -> [__m512i; 4] {
        // SAFETY: 64 bytes are read from an array of 64.
        let columns = unsafe { _mm512_loadu_si512(COLUMNS.as_ptr().cast()) };
        let [a, b, c, d] = offsets.map(|offsets| {
            // SAFETY: four code bytes of each of 16 entries.
            let words = unsafe { _mm512_i32gather_epi32::<1>(offsets, codes.as_ptr().cast()) };
            _mm512_permutexvar_epi8(columns, words)
        });
        let (ab, cd) = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0x88>(c, d));
        let (ab_odd, cd_odd) = (_mm512_shuffle_i32x4::<0xdd>(a, b), _mm512_shuffle_i32x4::<0xdd>(c, d));
        [
            _mm512_shuffle_i32x4::<0x88>(ab, cd),
            _mm512_shuffle_i32x4::<0x88>(ab_odd, cd_odd),
            _mm512_shuffle_i32x4::<0xdd>(ab, cd),
            _mm512_shuffle_i32x4::<0xdd>(ab_odd, cd_odd),
        ]
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")]
    fn look_up(table: &[u8; 256], codes: __m512i) -> __m512i {
        let at = |i: usize| {
            // SAFETY: 64 of the table's 256 bytes.
            unsafe { _mm512_loadu_si512(table.as_ptr().add(64 * i).cast()) }
        };
        let low = _mm512_permutex2var_epi8(at(0), codes, at(1));
        let high = _mm512_permutex2var_epi8(at(2), codes, at(3));
        _mm512_mask_blend_epi8(_mm512_movepi8_mask(codes), low, high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::random::Random;

    struct Case {
        values: Vec<f32>,
        entries: Vec<u8>,
        entry_bytes: usize,
        biased: bool,
        live: Vec<u32>,
    }

    impl Case {
        fn new(random: &mut Random, m: usize, extra: usize, biased: bool, n: usize) -> Self {
            let values = (0..256 * m).map(|_| random.unit() as f32 - 0.25).collect();
            let entry_bytes = m + extra + if biased { 4 } else { 0 };
            let mut entries: Vec<u8> = (0..n * entry_bytes).map(|_| random.next_u64() as u8).collect();
            if biased {
                for entry in entries.chunks_exact_mut(entry_bytes) {
                    entry[entry_bytes - 4..].copy_from_slice(&(random.unit() as f32).to_le_bytes());
                }
            }
            let mut live: Vec<u32> =
                (0..n.div_ceil(32)).map(|_| (random.next_u64() | random.next_u64()) as u32).collect();
            if let (Some(last), 1..) = (live.last_mut(), n % 32) {
                *last &= (1 << (n % 32)) - 1;
            }
            Case { values, entries, entry_bytes, biased, live }
        }

        fn lookup(&self, base: f32) -> Lookup<'_> {
            let Case { values, entries, entry_bytes, biased, .. } = self;
            Lookup {
                tables: values,
                entries,
                entry_bytes: *entry_bytes,
                biased: *biased,
                base,
                floor: f32::MIN,
            }
        }
    }

    /// Breaks if a byte is looked up in another one's table, an entry is dropped, or rounding is not allowed for.
    #[test]
    fn whoever_scores_within_the_bound_passes_and_few_others() {
        let mut random = Random::new(1);
        let (mut within, mut passed, mut all) = (0, 0, 0);
        for m in [1, 3, 4, 5, 6, 7, 8, 16, 25, 48, 96, 257] {
            for n in [0, 1, 31, 32, 33, 63, 64, 65, 127, 200] {
                let case = Case::new(&mut random, m, n % 3, n % 2 == 0, n);
                let lookup = case.lookup(0.75);
                let mut scores = vec![0.0; n];
                Kernels::get().lookup(&lookup, &mut scores);
                let mut sorted = scores.clone();
                sorted.sort_by(f32::total_cmp);
                for worst in [f32::MIN, 0.0, sorted.get(n / 10).copied().unwrap_or(1.0), 1e30] {
                    let mut first = None;
                    for kernels in Kernels::all() {
                        let table = kernels.sieve_table(&case.values);
                        let mut columns = vec![7];
                        kernels.sieve_columns(&lookup, &mut columns);
                        let ahead = &case.entries;
                        let sieve = Sieve { table: &table, worst, live: &case.live, ahead, columns: &[] };
                        let mut picks = vec![7];
                        kernels.sieve(&sieve, &lookup, &mut picks);
                        let mut again = vec![7];
                        kernels.sieve(&Sieve { columns: &columns, ..sieve }, &lookup, &mut again);
                        assert_eq!(picks, again, "{}: others by columns", kernels.name);
                        assert!(picks.is_sorted_by(|a, b| a < b));
                        let live = |i: usize| case.live[i / 32] >> (i % 32) & 1 == 1;
                        assert!(picks.iter().all(|pick| live(*pick as usize)));
                        let wanted = (0..n).filter(|&i| live(i) && scores[i] <= worst);
                        let missed = wanted.clone().find(|i| !picks.contains(&(*i as u32)));
                        assert_eq!(missed, None, "{} {m} {n} {worst}", kernels.name);
                        let picks = first.get_or_insert_with(|| picks.clone()) == &picks;
                        assert!(picks, "{}: not the entries of the other tables", kernels.name);
                        within += wanted.count();
                        all += n;
                    }
                    passed += Kernels::all().len() * first.map_or(0, |picks| picks.len());
                }
            }
        }
        assert!(passed < within + all / 20, "{within} within, {passed} of {all} passed");
    }

    /// Values that are far from each other, huge, or all equal must not lose anybody.
    #[test]
    fn values_of_any_size_lose_nobody() {
        let mut random = Random::new(2);
        for scale in [1e-38, 1e-30, 1.0, 1e20, 1e35, 3e38] {
            for shift in [0.0, 1.0, -1e6] {
                let mut case = Case::new(&mut random, 8, 0, true, 100);
                case.values.iter_mut().for_each(|value| *value = (*value + shift) * scale);
                for base in [0.0, scale, -1e30, 1e38] {
                    let lookup = case.lookup(base);
                    let mut scores = vec![0.0; 100];
                    Kernels::get().lookup(&lookup, &mut scores);
                    for kernels in Kernels::all() {
                        let table = kernels.sieve_table(&case.values);
                        if !table.is_usable() {
                            continue;
                        }
                        for &worst in &scores {
                            let sieve =
                                Sieve { table: &table, worst, live: &case.live, ahead: &[], columns: &[] };
                            let mut picks = Vec::new();
                            kernels.sieve(&sieve, &lookup, &mut picks);
                            for i in (0..100).filter(|&i| scores[i] <= worst && worst < f32::MAX) {
                                let live = case.live[i / 32] >> (i % 32) & 1 == 1;
                                assert_eq!(
                                    live,
                                    picks.contains(&(i as u32)) && live,
                                    "{scale} {shift} {base}"
                                );
                            }
                        }
                    }
                }
            }
        }
        assert!(!Kernels::get().sieve_table(&[1.5; 512]).is_usable());
        assert!(!Kernels::get().sieve_table(&[f32::INFINITY; 512]).is_usable());
        assert!(!Kernels::get().sieve_table(&vec![1.5; 256 * 258]).is_usable());
    }
}
