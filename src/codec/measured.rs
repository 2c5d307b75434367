//! Rows of f32 under a metric of its own: the flat code where what is computed is a [`Distance`].
//!
//! Scores are the metric's own over the components as they are. A pair without a distance scores NaN, and is not found.

use super::flat::RowScanner;
use super::{Assigned, Codec, KeptForm, Scanner};
use crate::kernel::{Distance, Element, Kernels};
use crate::layout::Layout;
use crate::{Result, Rows};

/// A flat code of `dim` components under `distance`.
pub(crate) struct Measured {
    dim: usize,
    distance: Distance,
    kernels: &'static Kernels,
}

impl Measured {
    pub(crate) fn new(dim: usize, distance: Distance) -> Self {
        Measured { dim, distance, kernels: Kernels::get() }
    }
}

impl Codec for Measured {
    fn layout(&self) -> Layout {
        Layout::RowMajor { code_bytes: self.dim * Element::F32.size() }
    }

    fn check(&self, _rows: Rows<'_>) -> Result<()> {
        Ok(())
    }

    fn encode(&self, rows: Assigned<'_>, codes: &mut Vec<u8>) {
        codes.extend(rows.rows.as_slice().iter().flat_map(|component| component.to_le_bytes()));
    }

    fn decode(&self, _centroid: Option<&[f32]>, code: &[u8], row: &mut [f32]) {
        self.kernels.decode(Element::F32, code, row);
    }

    /// Of what is present: a missing component is nowhere.
    fn residual(&self, centroid: &[f32], code: &[u8]) -> f64 {
        let components = code.as_chunks().0.iter().map(|component| f32::from_le_bytes(*component));
        let square = |(x, c): (f32, &f32)| (f64::from(x) - f64::from(*c)).powi(2);
        components.zip(centroid).map(square).filter(|square| !square.is_nan()).sum()
    }

    fn scanner<'a>(&'a self, queries: Rows<'a>) -> Box<dyn Scanner + 'a> {
        let Measured { distance, kernels, .. } = *self;
        let score = move |queries: &[&[f32]], codes: &[u8], scores: &mut [f32]| {
            kernels.distances(distance, queries, codes, scores);
        };
        Box::new(RowScanner::new(kernels, queries, score))
    }

    fn bounds<'a>(&'a self, _queries: Rows<'a>, _kept: KeptForm) -> Option<Box<dyn Scanner + 'a>> {
        // No rows are kept beside codes that are exact already.
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Codes, Probe, Visit};
    use super::*;
    use crate::kernel::Found;

    #[test]
    fn a_missing_component_has_no_residual() {
        let codec = Measured::new(3, Distance::NanEuclidean);
        let rows = [1.0, f32::NAN, 5.0];
        let mut code = Vec::new();
        codec.encode(Assigned { rows: Rows::of(&rows, 3), lists: &[0], centroids: None }, &mut code);
        assert_eq!(codec.residual(&[2.0, 9.0, 3.0], &code), 5.0);
    }

    #[test]
    fn a_pair_without_a_distance_is_not_found_whatever_the_threshold() {
        let codec = Measured::new(2, Distance::Jaccard);
        let (rows, queries) = ([0.0, 0.0, 1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]);
        let mut code = Vec::new();
        codec.encode(Assigned { rows: Rows::of(&rows, 2), lists: &[0; 3], centroids: None }, &mut code);
        let mut scanner = codec.scanner(Rows::of(&queries, 2));
        let visits = [0, 1].map(|query| Visit { query, coarse: 0.0 });
        for some in [&visits[..], &visits[..1], &visits[1..]] {
            let mut found = [Found::default(), Found::default()];
            let block = Codes { bytes: &code, n: 3, ahead: &[] };
            scanner.enter(Probe { list: 0, centroid: None, visits: some });
            let (worst, live) = ([f32::INFINITY; 2], [&[7][..]; 2]);
            scanner.scan(block, 0, &worst[..some.len()], &live[..some.len()], &mut found[..some.len()]);
            for (visit, found) in some.iter().zip(&found) {
                let expected: (&[u32], &[f32]) =
                    if visit.query == 0 { (&[1], &[0.0]) } else { (&[0, 1, 2], &[0.0, -0.5, 0.0]) };
                assert_eq!((&found.entries[..found.len()], &found.scores[..found.len()]), expected);
            }
        }
    }
}
