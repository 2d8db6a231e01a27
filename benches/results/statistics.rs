//! What several figures of one kind say together. Pure.

use serde::{Deserialize, Serialize};

/// Figures that a judgement needs on either side: of three against three that differ by chance alone, one pair of ten is apart.
pub(crate) const FEWEST: usize = 3;
/// How far the yardstick may move while something is measured, as a share of its median, before the machine counts as busy.
pub(crate) const MAY_MOVE: f64 = 0.15;

/// The middle of some figures and how far they are apart.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spread {
    /// The middle figure; of an even number of figures the mean of the two in the middle.
    pub(crate) median: f64,
    /// The least and the largest.
    pub(crate) least: f64,
    pub(crate) most: f64,
    /// How many figures there are.
    pub(crate) taken: usize,
}

impl Spread {
    /// `None` where there is no figure, or one that is no finite number: a part that failed must not look like a result.
    pub(crate) fn of(figures: &[f64]) -> Option<Self> {
        if figures.is_empty() || figures.iter().any(|one| !one.is_finite()) {
            return None;
        }
        let mut sorted = figures.to_vec();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        } else {
            sorted[middle]
        };
        Some(Self {
            median,
            least: sorted[0],
            most: sorted[sorted.len() - 1],
            taken: sorted.len(),
        })
    }

    /// The distance of the largest from the least, as a share of the median; 0 where all are the same.
    pub(crate) fn relative(&self) -> f64 {
        if self.most == self.least {
            return 0.0;
        }
        (self.most - self.least) / self.median.abs()
    }

    /// The same figures, each multiplied by a positive number.
    pub(crate) fn times(&self, factor: f64) -> Self {
        Self {
            median: self.median * factor,
            least: self.least * factor,
            most: self.most * factor,
            taken: self.taken,
        }
    }
}

/// Whether two sets of figures differ by more than each does in itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// They overlap: nothing is shown.
    Within,
    /// Every figure of one is larger than every figure of the other.
    Beyond,
    /// Too few figures on one side to tell, see [`FEWEST`].
    TooFew,
}

impl Verdict {
    /// Judges two sets.
    pub(crate) fn of(one: &Spread, other: &Spread) -> Self {
        if one.taken < FEWEST || other.taken < FEWEST {
            Self::TooFew
        } else if one.least > other.most || other.least > one.most {
            Self::Beyond
        } else {
            Self::Within
        }
    }
}

/// How far the yardstick moved: the distance of its largest from its least figure, as a share of the median. Infinite where it was not
/// taken twice, for then nothing is known.
pub(crate) fn movement(figures: &[f64]) -> f64 {
    match Spread::of(figures) {
        Some(spread) if spread.taken > 1 => spread.relative(),
        _ => f64::INFINITY,
    }
}
