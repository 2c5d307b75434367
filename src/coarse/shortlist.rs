//! The nearest of lists whose approximate scores are known: a few are scored exactly, and the k-th of those and the
//! bounds of `quantised` say which others must be.

use super::{NONE, Probes};
use crate::kernel::{Kernels, Picked};
use crate::math::topk::kth_bound;

/// Lists scored exactly, and room to work in.
#[derive(Default)]
pub(super) struct Shortlist {
    picks: Vec<u32>,
    scores: Vec<f32>,
    /// Score and list in one number.
    keys: Vec<u64>,
}

impl Shortlist {
    /// Appends the probes of one query if they are among few of the lists. `within` says which approximate scores
    /// a list may have whose exact one is at most a threshold; `list_of`, which list an approximate score is of. Infinite
    /// scores are of none.
    pub(super) fn find(
        &mut self,
        kernels: &Kernels,
        picked: &Picked<'_>,
        approximate: &[f32],
        list_of: impl Fn(u32) -> u32,
        within: impl Fn(f32) -> Option<f32>,
        probes: &mut Probes,
    ) -> bool {
        let k = probes.nprobe;
        let near = kth_bound(approximate, k, 2 * k);
        self.keys.clear();
        kernels.select_at_most(approximate, near, &mut self.picks);
        if self.picks.len() < k || self.picks.len() > approximate.len() / 2 {
            return false;
        }
        self.score(kernels, picked, &list_of);
        let Some(limit) = within(self.kth(k)) else { return false };
        kernels.select_at_most(approximate, limit, &mut self.picks);
        if self.picks.len() > approximate.len() / 2 {
            return false;
        }
        self.picks.retain(|&pick| approximate[pick as usize] > near);
        self.score(kernels, picked, &list_of);
        self.finish(probes);
        true
    }

    /// Appends the probes of one query among `lists`, all of them scored exactly.
    pub(super) fn scan(
        &mut self,
        kernels: &Kernels,
        picked: &Picked<'_>,
        lists: impl Iterator<Item = u32>,
        probes: &mut Probes,
    ) {
        self.keys.clear();
        self.picks.clear();
        self.picks.extend(lists);
        self.score(kernels, picked, &|list| list);
        self.finish(probes);
    }

    /// Adds the exact scores of `picks`.
    fn score(&mut self, kernels: &Kernels, picked: &Picked<'_>, list_of: &impl Fn(u32) -> u32) {
        self.picks.iter_mut().for_each(|pick| *pick = list_of(*pick));
        self.scores.resize(self.picks.len(), 0.0);
        kernels.picked_scores(picked, &self.picks, &mut self.scores);
        self.keys.extend(self.picks.iter().zip(&self.scores).map(|(&pick, &score)| key_of(score, pick)));
    }

    /// The k-th smallest score; the `k` smallest keys come to the front.
    fn kth(&mut self, k: usize) -> f32 {
        score_of(*self.keys.select_nth_unstable(k - 1).1)
    }

    fn finish(&mut self, probes: &mut Probes) {
        let (k, end) = (probes.nprobe, probes.lists.len() + probes.nprobe);
        if k < self.keys.len() {
            self.kth(k);
            self.keys.truncate(k);
        }
        self.keys.sort_unstable();
        probes.lists.extend(self.keys.iter().map(|&key| key as u32));
        probes.scores.extend(self.keys.iter().map(|&key| score_of(key)));
        probes.lists.resize(end, NONE);
        probes.scores.resize(end, 0.0);
    }
}

/// A number that is ordered as (score, list) is, the score by `total_cmp`; what is no number comes last.
fn key_of(score: f32, list: u32) -> u64 {
    let bits = if score.is_nan() { f32::NAN.to_bits() & 0x7fff_ffff } else { score.to_bits() };
    let ordered = if bits >> 31 == 0 { bits | 1 << 31 } else { !bits };
    u64::from(ordered) << 32 | u64::from(list)
}

fn score_of(key: u64) -> f32 {
    let ordered = (key >> 32) as u32;
    f32::from_bits(if ordered >> 31 == 0 { !ordered } else { ordered & !(1 << 31) })
}
