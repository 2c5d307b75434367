//! The nibble code's loops: scanning groups of 32 entries, choosing code points, rotating.
//!
//! ```text
//! group:   sub-space 0: 16 bytes | sub-space 1: 16 bytes | … | scales 32 × bf16 | biases 32 × f32
//! byte p of a sub-space:  low nibble = entry p, high nibble = entry p + 16
//!
//! S(entry)     = Σ_j table[16·j + nibble j of the entry]                    (signed bytes, exact in i32)
//! score(entry) = (bias + coarse) + (scale · factor) · S                      (three roundings, no fusing)
//! ```
//! Where entries are looked at twice, 32 errors, bf16, stand behind the biases, and behind them what the second look
//! needs. The first look then is at a bound, which leaves out who cannot be near:
//! ```text
//! bound(entry) = ((bias + coarse) + (scale · factor) · (S + slack)) − error · reach
//! ```
//! The sum is a whole number and the three roundings are the same everywhere, so all tables give the same
//! bits. An entry is found if its score is at most the query's threshold and its bit in `live` is set; the
//! last group of a block is filled up with entries that nobody may find.
//!
//! With AVX-512 VBMI and VNNI one `vpermb` brings the bytes of four sub-spaces of one entry side by side, another
//! looks all 64 up in one register of four tables, and `vpdpbusd` with ones adds the four up. With AVX2 it is
//! `vpshufb`, the shuffle of the fast-scan family (André, Kermarrec and Le Scouarnec 2015).

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(super) mod neon;
pub(super) mod portable;

use super::{Found, Kernels};

/// Entries of a group.
pub(crate) const GROUP: usize = 32;
/// Code points of a sub-space.
pub(crate) const POINTS: usize = 16;
/// Bytes of a group's scales and biases.
const FACTORS: usize = GROUP * (2 + 4);
/// Bytes of a group's errors.
const ERRORS: usize = GROUP * 2;
/// Queries that one pass takes at most.
pub(crate) const NIBBLE_QUERIES: usize = 4;

/// Bytes of a group of entries of `subspaces` nibbles.
pub(crate) const fn group_bytes(subspaces: usize) -> usize {
    16 * subspaces + FACTORS
}

/// Bytes of such a group with errors, up to where the extra bytes begin.
pub(crate) const fn bounded_bytes(subspaces: usize) -> usize {
    group_bytes(subspaces) + ERRORS
}

/// One query in one list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NibbleQuery<'a> {
    /// 16 entries for each sub-space.
    pub(crate) table: &'a [i8],
    pub(crate) factor: f32,
    pub(crate) coarse: f32,
    /// Scores beyond it are not wanted.
    pub(crate) worst: f32,
    /// A bit for each entry that may be found, 32 a word.
    pub(crate) live: &'a [u32],
}

/// One query in one list of entries with errors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BoundQuery<'a> {
    pub(crate) query: NibbleQuery<'a>,
    /// What rounding the table may have taken from the sum; not negative.
    pub(crate) slack: f32,
    /// What an entry's error is to be multiplied with.
    pub(crate) reach: f32,
}

/// What a scan asks of its queries, so that one loop does for both kinds.
trait Look: Copy {
    /// True if entries have errors, and what is looked for is a bound.
    const BOUNDED: bool;
    fn nibble(&self) -> &NibbleQuery<'_>;
    /// Slack and reach.
    fn doubt(&self) -> (f32, f32);
}

impl Look for NibbleQuery<'_> {
    const BOUNDED: bool = false;

    #[inline(always)]
    fn nibble(&self) -> &NibbleQuery<'_> {
        self
    }

    #[inline(always)]
    fn doubt(&self) -> (f32, f32) {
        (0.0, 0.0)
    }
}

impl Look for BoundQuery<'_> {
    const BOUNDED: bool = true;

    #[inline(always)]
    fn nibble(&self) -> &NibbleQuery<'_> {
        &self.query
    }

    #[inline(always)]
    fn doubt(&self) -> (f32, f32) {
        (self.slack, self.reach)
    }
}

/// Groups of entries, one after the other.
#[derive(Clone, Copy)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // prefetches
pub(super) struct Groups<'a> {
    subspaces: usize,
    /// Bytes from one to the next.
    stride: usize,
    bytes: &'a [u8],
    /// What is to be brought into the cache meanwhile.
    ahead: &'a [u8],
    /// Of that, so many bytes with each group.
    piece: usize,
    /// Of each stride of them, so many from its start.
    near: usize,
}

impl<'a> Groups<'a> {
    /// Whole groups; the last byte of `ahead` comes with the last of them.
    fn of(subspaces: usize, stride: usize, near: usize, bytes: &'a [u8], ahead: &'a [u8]) -> Self {
        let groups = (bytes.len() / stride).max(1);
        let piece = if near == stride {
            ahead.len().div_ceil(groups).next_multiple_of(64)
        } else {
            ahead.len().div_ceil(stride).div_ceil(groups) * stride
        };
        Groups { subspaces, stride, bytes, ahead, piece, near }
    }

    fn iter(&self) -> impl Iterator<Item = Group<'a>> + use<'a> {
        let subspaces = self.subspaces;
        self.bytes.chunks_exact(self.stride).map(move |group| Group::of(subspaces, group))
    }

    /// What is brought along with group `g`: all of a piece, or of each stride the part that is always read.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // prefetches
    #[inline(always)]
    fn ahead_of(&self, g: usize) -> (&'a [u8], usize, usize) {
        let end = self.ahead.len().min((g + 1) * self.piece);
        let piece = self.ahead.get(g * self.piece..end).unwrap_or_default();
        if self.near == self.stride {
            (piece, usize::MAX, usize::MAX)
        } else {
            (piece, self.stride, self.near)
        }
    }
}

pub(super) type NibbleScan = unsafe fn(groups: &Groups<'_>, queries: &[NibbleQuery<'_>], found: &mut [Found]);
pub(super) type NibbleBounds =
    unsafe fn(groups: &Groups<'_>, queries: &[BoundQuery<'_>], found: &mut [Found]);
pub(super) type NibbleChoose = unsafe fn(book: &Book, planes: &[f32], codes: &mut [u8]);
pub(super) type NibbleTable =
    unsafe fn(book: &Book, query: &[f32], products: &mut [f32], table: &mut [i8]) -> f32;
pub(super) type Hadamard = unsafe fn(values: &mut [f32]);

/// The points of a code book and what the choice among them needs, by component.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Book {
    /// Components of a sub-space: 2 or 4.
    pub(crate) components: usize,
    /// Component `p` of point `k` is `points[p][k]`.
    pub(crate) points: [[f32; POINTS]; 4],
    /// Half the squared norm of each point.
    pub(crate) half_norms: [f32; POINTS],
}

#[allow(unsafe_code)]
impl Kernels {
    /// Scans whole groups for up to [`NIBBLE_QUERIES`] queries; appends what each finds to `found`. Meanwhile `ahead` is
    /// brought into the cache, a piece with each group: all at once would wait for each other.
    pub(crate) fn nibble_scan(
        &self,
        subspaces: usize,
        groups: &[u8],
        ahead: &[u8],
        queries: &[NibbleQuery<'_>],
        found: &mut [Found],
    ) {
        let stride = group_bytes(subspaces);
        check(subspaces, stride, groups, queries.iter().copied(), found);
        let groups = Groups::of(subspaces, stride, stride, groups, ahead);
        // SAFETY: the table exists only where its instructions do; the lengths were checked above.
        unsafe { (self.nibble_scan)(&groups, queries, found) }
    }

    /// The same for entries with errors and `extra` bytes each behind them: appends who is not beyond `worst` by its bound.
    pub(crate) fn nibble_bounds(
        &self,
        subspaces: usize,
        extra: usize,
        groups: &[u8],
        ahead: &[u8],
        queries: &[BoundQuery<'_>],
        found: &mut [Found],
    ) {
        let near = bounded_bytes(subspaces);
        let stride = near + GROUP * extra;
        check(subspaces, stride, groups, queries.iter().map(|query| query.query), found);
        let groups = Groups::of(subspaces, stride, near, groups, ahead);
        // SAFETY: as for `nibble_scan`.
        unsafe { (self.nibble_bounds)(&groups, queries, found) }
    }

    /// The nearest point of `book` for each sub-space: component `p` of sub-space `j` is
    /// `planes[p · codes.len() + j]`. Ties go to the lower point.
    pub(crate) fn nibble_choose(&self, book: &Book, planes: &[f32], codes: &mut [u8]) {
        assert!(book.components <= 4 && planes.len() == book.components * codes.len());
        assert!(codes.len().is_multiple_of(CHOOSE));
        // SAFETY: as for `nibble_scan`.
        unsafe { (self.nibble_choose)(book, planes, codes) }
    }

    /// The table of a rotated query: the products of its parts with all points, as signed bytes. Returns the step from
    /// one whole number to the next, 0 for a query of zeros, whose table is zeros too. `products` is scratch.
    pub(crate) fn nibble_table(
        &self,
        book: &Book,
        query: &[f32],
        products: &mut [f32],
        table: &mut [i8],
    ) -> f32 {
        assert!((1..=4).contains(&book.components) && query.len().is_multiple_of(book.components));
        assert!(table.len() == POINTS * (query.len() / book.components) && products.len() == table.len());
        // SAFETY: as for `nibble_scan`.
        unsafe { (self.nibble_table)(book, query, products, table) }
    }

    /// The Hadamard transform of `values`, a power of two of them, not normalised.
    pub(crate) fn hadamard(&self, values: &mut [f32]) {
        assert!(values.len().is_power_of_two());
        // SAFETY: as for `nibble_scan`.
        unsafe { (self.hadamard)(values) }
    }
}

/// Checks the lengths that scans rely on, and makes room for what they find.
fn check<'a>(
    subspaces: usize,
    stride: usize,
    groups: &[u8],
    queries: impl ExactSizeIterator<Item = NibbleQuery<'a>>,
    found: &mut [Found],
) {
    assert!(subspaces > 0 && subspaces.is_multiple_of(4));
    assert!(groups.len().is_multiple_of(stride));
    let n = groups.len() / stride;
    assert!(u32::try_from(n * GROUP).is_ok());
    assert!(queries.len() <= NIBBLE_QUERIES && queries.len() == found.len());
    for query in queries {
        assert!(query.table.len() == POINTS * subspaces && query.live.len() == n);
    }
    for found in found {
        // A store of a whole register may reach beyond what was found.
        assert_eq!(found.entries.len(), found.scores.len());
        found.entries.reserve((n + 1) * GROUP);
        found.scores.reserve((n + 1) * GROUP);
    }
}

/// Sub-spaces that are chosen for together.
pub(crate) const CHOOSE: usize = 16;

/// The body of [`Kernels::nibble_choose`]: plain loops of 16, which the compiler turns into the
/// instructions of the table that it is inlined into. Nothing is fused, so all tables agree.
#[inline(always)]
fn choose_body(book: &Book, planes: &[f32], codes: &mut [u8]) {
    let m = codes.len();
    for (first, codes) in codes.as_chunks_mut::<CHOOSE>().0.iter_mut().enumerate() {
        let mut best = [f32::INFINITY; CHOOSE];
        let mut chosen = [0u32; CHOOSE];
        for k in 0..POINTS {
            let mut score = [book.half_norms[k]; CHOOSE];
            for p in 0..book.components {
                let plane = &planes[p * m + first * CHOOSE..][..CHOOSE];
                let point = book.points[p][k];
                for lane in 0..CHOOSE {
                    score[lane] -= plane[lane] * point;
                }
            }
            for lane in 0..CHOOSE {
                let nearer = score[lane] < best[lane];
                best[lane] = if nearer { score[lane] } else { best[lane] };
                chosen[lane] = if nearer { k as u32 } else { chosen[lane] };
            }
        }
        for lane in 0..CHOOSE {
            codes[lane] = chosen[lane] as u8;
        }
    }
}

/// The body of [`Kernels::nibble_table`].
#[inline(always)]
fn table_body(book: &Book, query: &[f32], products: &mut [f32], table: &mut [i8]) -> f32 {
    let mut most = [0.0f32; POINTS];
    for (part, out) in query.chunks_exact(book.components).zip(products.as_chunks_mut::<POINTS>().0) {
        let mut sums = [0.0; POINTS];
        for (&value, points) in part.iter().zip(&book.points) {
            for k in 0..POINTS {
                sums[k] += value * points[k];
            }
        }
        for k in 0..POINTS {
            let size = sums[k].abs();
            most[k] = if size > most[k] { size } else { most[k] };
        }
        *out = sums;
    }
    let step = most.iter().fold(0.0f32, |most, v| most.max(*v)) / 127.0;
    // So short a query that its steps underflow counts as zeros.
    let inverse = if step >= f32::MIN_POSITIVE { 1.0 / step } else { 0.0 };
    for (value, out) in products.iter().zip(table) {
        // Added to 1.5·2^23 a number is rounded to the nearest whole one, ties to even, in its lowest bits.
        *out = (value * inverse + 12_582_912.0).to_bits() as u8 as i8;
    }
    if inverse == 0.0 { 0.0 } else { step }
}

/// The body of [`Kernels::hadamard`]: butterflies of 1, 2, 4 within eights, then of whole eights.
#[inline(always)]
fn hadamard_body(values: &mut [f32]) {
    if values.len() < 8 {
        return small_hadamard(values);
    }
    for eight in values.as_chunks_mut::<8>().0 {
        let mut v = *eight;
        for half in [1, 2, 4] {
            let mut w = v;
            for i in 0..8 {
                w[i] = if i & half == 0 { v[i] + v[i ^ half] } else { v[i ^ half] - v[i] };
            }
            v = w;
        }
        *eight = v;
    }
    butterflies(values, 8);
}

/// The butterflies of `first` and wider, which go eights by eights.
#[inline(always)]
fn butterflies(values: &mut [f32], first: usize) {
    let mut half = first;
    while half < values.len() {
        for pair in values.chunks_exact_mut(2 * half) {
            let (low, high) = pair.split_at_mut(half);
            for (low, high) in low.as_chunks_mut::<8>().0.iter_mut().zip(high.as_chunks_mut::<8>().0) {
                for i in 0..8 {
                    (low[i], high[i]) = (low[i] + high[i], low[i] - high[i]);
                }
            }
        }
        half *= 2;
    }
}

fn small_hadamard(values: &mut [f32]) {
    let mut half = 1;
    while half < values.len() {
        for pair in values.chunks_exact_mut(2 * half) {
            let (low, high) = pair.split_at_mut(half);
            for (low, high) in low.iter_mut().zip(high) {
                (*low, *high) = (*low + *high, *low - *high);
            }
        }
        half *= 2;
    }
}

/// A group cut into its parts.
struct Group<'a> {
    codes: &'a [u8],
    scales: &'a [u8],
    biases: &'a [u8],
    /// None where entries have no errors; else they, and the extra bytes behind them.
    errors: &'a [u8],
}

impl<'a> Group<'a> {
    #[inline(always)]
    fn of(subspaces: usize, group: &'a [u8]) -> Self {
        let (codes, factors) = group.split_at(16 * subspaces);
        let (scales, factors) = factors.split_at(2 * GROUP);
        let (biases, errors) = factors.split_at(4 * GROUP);
        Group { codes, scales, biases, errors }
    }
}
