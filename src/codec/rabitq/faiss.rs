//! FAISS's form of a code, and ours from it.
//!
//! ```text
//! 1 bit     signs, bit j of byte j / 8 | lengths f32 | multiplier f32
//! more      the same | error f32 | extra bits of component after component, the lowest first | add f32 | rescale f32
//!
//! lengths     ‖r‖², for products less ‖x‖²
//! multiplier  ‖r‖²·√d / Σ|r_j| = s·√d / 2
//! rescale     −2·scale of ẑ; for products the scale
//! add         ‖r‖²; for products ⟨c, r⟩
//! ```
//! Signs, extra bits and error mean the same on both sides. Our biases hold what FAISS computes anew for each list, so the
//! centroid is needed both ways. What leaves us says our estimates: `lengths` is off by what rounding the scale to a bf16
//! was made good for in the bias. What comes to us says FAISS's estimates, but for that rounding.

use super::{Parts, RaBitQ, round_up, set_bits};
use crate::kernel::Similarity;
use half::bf16;

impl RaBitQ {
    /// Bytes of FAISS's code.
    pub(crate) fn faiss_bytes(&self) -> usize {
        let factors = if self.extra_bits() == 0 { 8 } else { 20 };
        self.dim.div_ceil(8) + (self.dim * self.extra_bits()).div_ceil(8) + factors
    }

    /// Appends FAISS's form of a packed code.
    pub(crate) fn to_faiss(&self, centroid: Option<&[f32]>, code: &[u8], out: &mut Vec<u8>) {
        let parts = self.parts(code);
        let [signs, levels, _] = self.centroid_products(centroid, &parts);
        out.extend_from_slice(&parts.signs[..self.dim.div_ceil(8)]);
        let root = (self.dim as f64).sqrt();
        let (bias, scale) = (f64::from(parts.bias), f64::from(parts.scale));
        let lengths = match self.similarity {
            // A scale of nothing is a code of nothing but a length.
            Similarity::L2 => bias - 2.0 * scale * signs,
            Similarity::Dot => 2.0 * (bias - scale * signs) - squared(centroid),
        };
        out.extend_from_slice(&(lengths as f32).to_le_bytes());
        out.extend_from_slice(&((scale * root / 2.0) as f32).to_le_bytes());
        if self.extra_bits() == 0 {
            return;
        }
        out.extend_from_slice(&parts.error.to_le_bytes());
        let start = out.len();
        out.resize(start + (self.dim * self.extra_bits()).div_ceil(8), 0);
        let planes = |j: usize| {
            let bit = move |plane: &[u8]| plane[j / 8] >> (j % 8) & 1 == 1;
            parts.planes.chunks_exact(self.plane_bytes()).map(bit)
        };
        set_bits(&mut out[start..], (0..self.dim).flat_map(planes));
        let (bias, scale) = (f64::from(parts.level_bias), f64::from(parts.level_scale));
        let (add, rescale) = match self.similarity {
            Similarity::L2 => (bias - 2.0 * scale * levels, -2.0 * scale),
            Similarity::Dot => (scale * levels - bias, scale),
        };
        out.extend_from_slice(&(add as f32).to_le_bytes());
        out.extend_from_slice(&(rescale as f32).to_le_bytes());
    }

    /// Appends the packed code that FAISS's says, or tells why it cannot be one.
    pub(crate) fn take_faiss(
        &self,
        centroid: Option<&[f32]>,
        bytes: &[u8],
        code: &mut Vec<u8>,
    ) -> Result<(), String> {
        if bytes.len() != self.faiss_bytes() {
            return Err(format!("a code of {} bytes, expected {}", bytes.len(), self.faiss_bytes()));
        }
        let (signs, rest) = bytes.split_at(self.dim.div_ceil(8));
        let [lengths, multiplier, error, add, rescale] = self.faiss_factors(rest);
        if [lengths, multiplier, error, add, rescale].iter().any(|factor| !factor.is_finite()) {
            return Err("a factor that is not finite".into());
        }
        let start = code.len();
        code.resize(start + self.subspaces / 2, 0);
        set_bits(&mut code[start..], (0..self.dim).map(|j| signs[j / 8] >> (j % 8) & 1 == 1));
        // Factors that nobody reads, for the parts.
        code.extend_from_slice(&[0; 6]);
        if self.extra_bits() > 0 {
            code.extend_from_slice(&round_up(error).to_le_bytes());
            let (planes_at, bits) = (code.len(), self.extra_bits());
            code.resize(planes_at + bits * self.plane_bytes(), 0);
            let extra = &rest[12..];
            for (b, plane) in code[planes_at..].chunks_exact_mut(self.plane_bytes()).enumerate() {
                let at = |j: usize| j * bits + b;
                set_bits(plane, (0..self.dim).map(|j| extra[at(j) / 8] >> (at(j) % 8) & 1 == 1));
            }
            code.extend_from_slice(&[0; 8]);
        }
        let [signs, levels, fit] = self.centroid_products(centroid, &self.parts(&code[start..]));
        let exact = 2.0 * multiplier / (self.dim as f64).sqrt();
        let scale = bf16::from_f64(exact.max(0.0));
        let rounded = f64::from(scale.to_f32());
        // What makes up for rounding the scale needs a length; among products only an estimate of it is left.
        let (fixed, length) = match self.similarity {
            Similarity::L2 => (lengths, lengths),
            Similarity::Dot => ((lengths + squared(centroid)) / 2.0, exact * exact * fit),
        };
        let correction = if exact > 0.0 { self.twice() * (rounded / exact - 1.0) * length } else { 0.0 };
        let bias = self.twice() * rounded * signs + fixed + correction;
        let at = start + self.subspaces / 2;
        code[at..at + 2].copy_from_slice(&scale.to_le_bytes());
        code[at + 2..at + 6].copy_from_slice(&finite(bias).to_le_bytes());
        if self.extra_bits() > 0 {
            let (scale, bias) = match self.similarity {
                Similarity::L2 => (rescale / -2.0, add - rescale * levels),
                Similarity::Dot => (rescale, rescale * levels - add),
            };
            let at = code.len() - 8;
            code[at..at + 4].copy_from_slice(&finite(scale).to_le_bytes());
            code[at + 4..].copy_from_slice(&finite(bias).to_le_bytes());
        }
        Ok(())
    }

    /// Lengths, multiplier, error, add and rescale of what follows the signs; zero for what is not there.
    pub(super) fn faiss_factors(&self, rest: &[u8]) -> [f64; 5] {
        let at = |start: usize| {
            let bytes = rest.get(start..).and_then(|rest| rest.first_chunk::<4>());
            bytes.map_or(0.0, |bytes| f64::from(f32::from_le_bytes(*bytes)))
        };
        if self.extra_bits() == 0 {
            return [at(0), at(4), 0.0, 0.0, 0.0];
        }
        let extra = (self.dim * self.extra_bits()).div_ceil(8);
        [at(0), at(4), at(8), at(12 + extra), at(16 + extra)]
    }

    /// ⟨c, ŷ⟩, ⟨c, ẑ⟩, and ‖ŷ‖² times what signs keep of a Gaussian.
    fn centroid_products(&self, centroid: Option<&[f32]>, parts: &Parts<'_>) -> [f64; 3] {
        let (mut signs, mut levels) = (0.0, 0.0);
        for (j, c) in centroid.unwrap_or_default().iter().enumerate() {
            let sign = if parts.signs[j / 8] >> (j % 8) & 1 == 1 { 0.5 } else { -0.5 };
            signs += f64::from(*c) * sign;
            levels += f64::from(*c) * f64::from(self.value(parts, j));
        }
        [signs, levels, self.dim as f64 / 4.0 * f64::from(super::FIT[0])]
    }
}

fn squared(centroid: Option<&[f32]>) -> f64 {
    centroid.unwrap_or_default().iter().map(|c| f64::from(*c).powi(2)).sum()
}

/// As an f32 that no score becomes infinite by, and no -0.0.
fn finite(value: f64) -> f32 {
    (value as f32).clamp(-1e38, 1e38) + 0.0
}
