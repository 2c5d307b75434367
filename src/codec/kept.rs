//! The forms in which rows are kept beside their codes, and all that anybody needs to know of them.
//!
//! ```text
//! RFlat   dim × f32                            loses nothing
//! RF16    dim × f16
//! RBF16   dim × bf16
//! RU8     dim × u8 | 0                         loses nothing: other rows are refused at the door
//! RSQ8    low f32 | step f32 | dim × u8        x̂ᵢ = low + step·uᵢ, low the least component, step a 255th of the span
//! ```
//! With a threshold components of f16, bf16 and steps go up or down as `shaped` chooses, and not to the nearest.
//!
//! A column entry of 0xFF bytes says that there is none (see `storage/column`). No form has such an entry: it would
//! be NaN as a float, and bytes end with a zero.
//!
//! `RSQ8+Flat` are two forms in two columns, the coarser first: the best by estimate are scored on its rows, which take
//! a quarter of the memory, and the best of those on exact ones.

use super::flat::{F16_MAX, check_range};
use super::shaped::Shape;
use crate::encoding::Real;
use crate::kernel::{Element, Kernels, Similarity};
use crate::{KeptRows, Result, Rows};

/// One form of kept rows of `dim` components.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeptForm {
    kind: Kind,
    dim: usize,
    /// Errors along a row weigh more, as for products of this size.
    threshold: Option<Real>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    F32,
    F16,
    BF16,
    U8,
    SQ8,
}

/// Bytes of a row of steps before its steps.
const STEPS: usize = 8;

impl KeptForm {
    /// What `kept` says, the coarser form first.
    #[cfg(test)]
    pub(crate) fn stages(kept: KeptRows, dim: usize) -> Vec<Self> {
        Self::stages_shaped(kept, dim, None)
    }

    /// The same rounded with a threshold.
    pub(crate) fn stages_shaped(kept: KeptRows, dim: usize, threshold: Option<Real>) -> Vec<Self> {
        let kinds: &[Kind] = match kept {
            KeptRows::F32 => &[Kind::F32],
            KeptRows::F16 => &[Kind::F16],
            KeptRows::BF16 => &[Kind::BF16],
            KeptRows::U8 => &[Kind::U8],
            KeptRows::SQ8 => &[Kind::SQ8],
            KeptRows::SQ8Flat => &[Kind::SQ8, Kind::F32],
        };
        kinds.iter().map(|&kind| KeptForm { kind, dim, threshold }).collect()
    }

    /// Bytes of a row.
    pub(crate) fn width(&self) -> usize {
        match self.kind {
            Kind::F32 => 4 * self.dim,
            Kind::F16 | Kind::BF16 => 2 * self.dim,
            Kind::U8 => self.dim + 1,
            Kind::SQ8 => STEPS + self.dim,
        }
    }

    /// How a component is stored, where it is stored by itself.
    pub(crate) fn element(&self) -> Option<Element> {
        match self.kind {
            Kind::F32 => Some(Element::F32),
            Kind::F16 => Some(Element::F16),
            Kind::BF16 => Some(Element::BF16),
            Kind::U8 => Some(Element::U8),
            Kind::SQ8 => None,
        }
    }

    /// Components may be farther from the row's than the nearest that there are.
    pub(crate) fn is_shaped(&self) -> bool {
        self.threshold.is_some()
    }

    /// A row that passed the door comes back as it was.
    pub(crate) fn is_exact(&self) -> bool {
        matches!(self.kind, Kind::F32 | Kind::U8)
    }

    /// Refuses rows that the form cannot hold.
    pub(crate) fn check(&self, rows: Rows<'_>) -> Result<()> {
        self.element().map_or(Ok(()), |element| check_range(rows, element))
    }

    /// Makes of any finite rows such as the form holds, exactly if it holds anything exactly.
    pub(crate) fn fit(&self, rows: &mut [f32]) {
        match self.kind {
            Kind::F32 | Kind::SQ8 => {}
            Kind::F16 => rows.iter_mut().for_each(|x| *x = x.clamp(-F16_MAX, F16_MAX)),
            Kind::BF16 => rows.iter_mut().for_each(|x| *x = x.clamp(-BF16_MAX, BF16_MAX)),
            Kind::U8 => rows.iter_mut().for_each(|x| *x = x.clamp(0.0, 255.0).round_ties_even()),
        }
    }

    /// The bytes of `rows`, row after row.
    pub(crate) fn encode(&self, rows: &[f32], bytes: &mut Vec<u8>) {
        let start = bytes.len();
        bytes.resize(start + rows.len() / self.dim * self.width(), 0);
        let bytes = &mut bytes[start..];
        match (self.element(), self.kind) {
            (Some(element), Kind::U8) => {
                for (row, bytes) in rows.chunks_exact(self.dim).zip(bytes.chunks_exact_mut(self.width())) {
                    Kernels::get().encode(element, row, &mut bytes[..self.dim]);
                }
            }
            (Some(element), _) => Kernels::get().encode(element, rows, bytes),
            (None, _) => {
                for (row, bytes) in rows.chunks_exact(self.dim).zip(bytes.chunks_exact_mut(self.width())) {
                    encode_steps(row, bytes);
                }
            }
        }
        if let Some(threshold) = self.threshold {
            let mut shape = Shape::new(threshold.get(), self.dim);
            for (row, bytes) in rows.chunks_exact(self.dim).zip(bytes.chunks_exact_mut(self.width())) {
                self.shape(&mut shape, row, bytes);
            }
        }
    }

    /// Moves the components of a row that was rounded to the nearest.
    fn shape(&self, shape: &mut Shape, row: &[f32], bytes: &mut [u8]) {
        match self.element() {
            Some(element) => {
                let decoded = |bits: u16| {
                    let mut value = [0.0];
                    Kernels::get().decode(element, &bits.to_le_bytes(), &mut value);
                    value[0]
                };
                let (pairs, _) = bytes.as_chunks_mut::<2>();
                shape.improve(row, pairs, |pair| {
                    let bits = u16::from_le_bytes(*pair);
                    [-1, 0, 1].map(|by| {
                        let bits = beside(bits, by);
                        let value = decoded(bits);
                        value.is_finite().then_some((bits.to_le_bytes(), value))
                    })
                });
            }
            None => {
                let (low, step, _) = steps(bytes);
                let value = |code: u8| low + step * f32::from(code);
                shape.improve(row, &mut bytes[STEPS..], |code| match *code {
                    // The least and the greatest stay: low and step were made of them.
                    end @ (0 | 255) => [None, Some((end, value(end))), None],
                    code => [code - 1, code, code + 1].map(|code| Some((code, value(code)))),
                });
            }
        }
    }

    /// The row of `bytes`, [`width`](Self::width) of them.
    pub(crate) fn decode(&self, bytes: &[u8], row: &mut [f32]) {
        match self.element() {
            Some(element) => Kernels::get().decode(element, &bytes[..self.dim * element.size()], row),
            None => {
                let (low, step, codes) = steps(bytes);
                Kernels::get().steps_decode(low, step, codes, row);
            }
        }
    }

    /// Decodes `bytes`; true if they can be those of a row.
    pub(crate) fn is_row(&self, bytes: &[u8], row: &mut [f32]) -> bool {
        self.decode(bytes, row);
        (self.kind != Kind::U8 || bytes[self.dim] == 0) && row.iter().all(|component| component.is_finite())
    }

    /// The scores of `query` with `rows`, each as it is stored.
    pub(crate) fn scores(&self, similarity: Similarity, query: &[f32], rows: &[&[u8]], scores: &mut [f32]) {
        let kernels = Kernels::get();
        match self.element() {
            Some(element) => {
                let bytes = self.dim * element.size();
                for (rows, scores) in rows.chunks(AT_ONCE).zip(scores.chunks_mut(AT_ONCE)) {
                    let mut cut = [&[][..]; AT_ONCE];
                    cut.iter_mut().zip(rows).for_each(|(cut, row)| *cut = &row[..bytes]);
                    kernels.scan_apart(similarity, element, query, &cut[..rows.len()], scores);
                }
            }
            None => rows.iter().zip(scores).for_each(|(row, score)| {
                let (low, step, codes) = steps(row);
                *score = kernels.steps_score(similarity, query, low, step, codes);
            }),
        }
    }
}

/// The largest finite bf16.
const BF16_MAX: f32 = f32::from_bits(0x7f7f_0000);

/// Rows that are scored in one call.
const AT_ONCE: usize = 8;

/// Lanes of the search for the least and the greatest component.
const LANES: usize = 16;

fn encode_steps(row: &[f32], bytes: &mut [u8]) {
    let (low, high) = extremes(row);
    let step = (high - low) / 255.0;
    bytes[..4].copy_from_slice(&low.to_le_bytes());
    bytes[4..STEPS].copy_from_slice(&step.to_le_bytes());
    let codes = &mut bytes[STEPS..];
    if step > 0.0 {
        // Added to 2^23 a number below 256 is rounded to the nearest whole one, in its lowest bits. A span of a few of
        // the smallest numbers there are has a step so coarse that the quotient may be greater.
        let nearest = |x: f32| (((x - low) / step).min(255.0) + 8_388_608.0).to_bits() as u8;
        codes.iter_mut().zip(row).for_each(|(code, x)| *code = nearest(*x));
    }
}

fn extremes(row: &[f32]) -> (f32, f32) {
    let (mut lows, mut highs) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
    for part in row.chunks(LANES) {
        for (lane, &x) in part.iter().enumerate() {
            lows[lane] = if x < lows[lane] { x } else { lows[lane] };
            highs[lane] = if x > highs[lane] { x } else { highs[lane] };
        }
    }
    (lows.into_iter().fold(f32::INFINITY, f32::min), highs.into_iter().fold(f32::NEG_INFINITY, f32::max))
}

/// The bits of the number that comes so many after this one, of two bytes: a sign, and what ascends with the size.
fn beside(bits: u16, by: i32) -> u16 {
    let size = i32::from(bits & 0x7fff);
    let place = if bits & 0x8000 == 0 { size } else { -size } + by;
    place.unsigned_abs() as u16 | if place < 0 { 0x8000 } else { 0 }
}

/// Low, step, and the steps of a row.
fn steps(bytes: &[u8]) -> (f32, f32, &[u8]) {
    let (head, codes) = bytes.split_at(STEPS);
    let float = |at: usize| f32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    (float(0), float(4), codes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use crate::math::random::Random;

    const KEPT: [KeptRows; 6] =
        [KeptRows::F32, KeptRows::F16, KeptRows::BF16, KeptRows::U8, KeptRows::SQ8, KeptRows::SQ8Flat];

    fn encoded(form: &KeptForm, rows: &[f32]) -> Vec<u8> {
        let mut bytes = vec![7];
        form.encode(rows, &mut bytes);
        assert_eq!((bytes[0], bytes.len()), (7, 1 + rows.len() / form.dim * form.width()));
        bytes.split_off(1)
    }

    /// Rows whose stored bytes would be taken for a row that is not there.
    #[test]
    fn no_row_looks_absent() {
        for form in KEPT.into_iter().flat_map(|kept| KeptForm::stages(kept, 3)) {
            for row in [[255.0; 3], [-0.0; 3], [65504.0, 255.0, 255.0], [0.0, 255.0, 255.0]] {
                let bytes = encoded(&form, &row);
                assert!(bytes.iter().any(|byte| *byte != 0xff), "{form:?}");
            }
            assert!(!form.is_row(&vec![0xff; form.width()], &mut [0.0; 3]), "{form:?}");
        }
    }

    /// A component is at most half a step from its nearest one, a row of one value is itself, and the ends of the
    /// range are, down to the smallest numbers.
    #[test]
    fn steps_are_as_near_as_steps_can_be() {
        let mut random = Random::new(3);
        let [form] = KeptForm::stages(KeptRows::SQ8, 37)[..] else { panic!("one stage") };
        for exponent in [-149, -140, -126, -20, 0, 17, 60] {
            for offset in [0.0, 1.0, -100.0] {
                let size = f64::exp2(f64::from(exponent));
                let row: Vec<f32> = (0..37).map(|_| (size * (random.unit() + offset)) as f32).collect();
                let bytes = encoded(&form, &row);
                let mut decoded = vec![f32::NAN; 37];
                form.decode(&bytes, &mut decoded);
                let step = steps(&bytes).1;
                let largest = row.iter().fold(0.0f32, |most, x| most.max(x.abs()));
                for (x, d) in row.iter().zip(&decoded) {
                    let off = (f64::from(*x) - f64::from(*d)).abs();
                    // Where a step is among the smallest numbers, it is itself rounded by up to half of one.
                    let rounding = f64::from(largest) * f64::exp2(-22.0) + 256.0 * f64::exp2(-150.0);
                    assert!(off <= f64::from(step) / 2.0 + rounding, "{exponent} {offset}: {x} {d} {step}");
                }
            }
        }
        let mut decoded = vec![f32::NAN; 37];
        for value in [0.0, -3.7, 1e-45, 1e18] {
            form.decode(&encoded(&form, &[value; 37]), &mut decoded);
            assert_eq!(decoded, [value; 37]);
        }
    }

    fn score(form: &KeptForm, similarity: Similarity, query: &[f32], row: &[u8]) -> f32 {
        let mut scores = [f32::NAN];
        form.scores(similarity, query, &[row], &mut scores);
        scores[0]
    }

    /// A score is that of the row that `decode` gives, and an exact form gives back what passed the door.
    #[test]
    fn scores_are_those_of_the_decoded_row() {
        let mut random = Random::new(4);
        for dim in [1, 2, 31, 32, 33, 128] {
            for form in KEPT.into_iter().flat_map(|kept| KeptForm::stages(kept, dim)) {
                let row: Vec<f32> = (0..dim).map(|_| random.below(256) as f32).collect();
                let query: Vec<f32> = (0..dim).map(|_| random.below(256) as f32).collect();
                assert!(form.check(Rows::of(&row, dim)).is_ok());
                let bytes = encoded(&form, &row);
                let mut decoded = vec![f32::NAN; dim];
                form.decode(&bytes, &mut decoded);
                assert!(!form.is_exact() || decoded == row);
                let pairs = || query.iter().zip(&decoded).map(|(q, x)| (f64::from(*q), f64::from(*x)));
                let l2: f64 = pairs().map(|(q, x)| (q - x) * (q - x)).sum();
                let dot: f64 = pairs().map(|(q, x)| -q * x).sum();
                for (similarity, exact) in [(Similarity::L2, l2), (Similarity::Dot, dot)] {
                    let off = f64::from(score(&form, similarity, &query, &bytes)) - exact;
                    assert!(off.abs() <= 1e-5 * exact.abs() + 1e-3, "{form:?} {similarity:?} {dim}");
                }
            }
        }
    }

    /// The threshold lowers the error along the row, and moves no component by more than one place.
    #[test]
    fn shaped_rows_have_less_error_along_the_row() {
        let (mut random, dim) = (Random::new(11), 48);
        for kept in [KeptRows::F16, KeptRows::BF16, KeptRows::SQ8] {
            let plain = KeptForm::stages(kept, dim)[0];
            let shaped = KeptForm::stages_shaped(kept, dim, Real::new(0.5))[0];
            let (mut along, mut whole, mut fewer) = ([0.0; 2], [0.0; 2], 0);
            for _ in 0..50 {
                let mut row: Vec<f32> = (0..dim).map(|_| random.unit() as f32 - 0.5).collect();
                let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
                row.iter_mut().for_each(|x| *x /= norm);
                let mut both = [vec![0.0; dim], vec![0.0; dim]];
                for (form, decoded) in [plain, shaped].into_iter().zip(&mut both) {
                    form.decode(&encoded(&form, &row), decoded);
                }
                let error = |decoded: &[f32]| -> (f64, f64) {
                    let e = || row.iter().zip(decoded).map(|(x, d)| (f64::from(*x), f64::from(x - d)));
                    (e().map(|(x, e)| x * e).sum::<f64>().abs(), e().map(|(_, e)| e * e).sum())
                };
                for (at, decoded) in both.iter().enumerate() {
                    along[at] += error(decoded).0;
                    whole[at] += error(decoded).1;
                }
                assert!(error(&both[1]).0 <= error(&both[0]).0 + 1e-7, "{kept:?}");
                fewer += usize::from(error(&both[1]).0 < error(&both[0]).0);
                // Stored again what was stored stays what it is.
                let bytes = encoded(&shaped, &both[1]);
                let mut again = vec![0.0; dim];
                shaped.decode(&bytes, &mut again);
                let off = again.iter().zip(&both[1]).fold(0.0f32, |most, (a, b)| most.max((a - b).abs()));
                assert!(off <= 1e-6, "{kept:?}: {off}");
            }
            assert!(fewer > 25 && along[1] < 0.5 * along[0], "{kept:?}: {along:?}");
            assert!(whole[1] >= whole[0] && whole[1] < 3.0 * whole[0], "{kept:?}: {whole:?}");
        }
        assert_eq!(
            [beside(0, -1), beside(0x8001, 1), beside(0x8000, 1), beside(0x3c00, 1)],
            [0x8001, 0, 1, 0x3c01]
        );
    }

    #[test]
    fn what_is_no_byte_is_refused() {
        let [form] = KeptForm::stages(KeptRows::U8, 2)[..] else { panic!("one stage") };
        for wrong in [-1.0, 0.5, 255.5, 256.0, 1e18, f32::MIN_POSITIVE] {
            let refused = form.check(Rows::of(&[1.0, 2.0, 3.0, wrong], 2)).unwrap_err();
            let expected = |e: &Error| matches!(e, Error::OutOfRange { row: 1, component: 1, value, element: "u8" } if *value == wrong);
            assert!(expected(&refused), "{refused:?}");
        }
        assert!(form.check(Rows::of(&[0.0, -0.0, 255.0, 17.0], 2)).is_ok());
    }
}
