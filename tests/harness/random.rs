//! Random numbers that are the same again from the same seed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// SplitMix64: random enough to pick a moment or a fault, and the same again from the same seed.
pub(crate) struct Random(u64);

impl Random {
    /// A new seed each time, shown where the test fails.
    pub(crate) fn new() -> Self {
        let seed = new_seed();
        eprintln!("seed {seed}");
        Self(seed)
    }

    /// A sequence of its own for each label of a seed, so that one part of a test may draw more or less without changing
    /// what the others draw, and so that what is drawn does not depend on who comes first.
    pub(crate) fn labelled(seed: u64, label: &str) -> Self {
        // FNV-1a: SplitMix64 turns neighbouring states into unrelated numbers.
        let hash = label.bytes().fold(0xCBF2_9CE4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
        });
        let mut mixer = Self(seed ^ hash);
        Self(mixer.next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// True so many times of a hundred.
    pub(crate) fn percent(&mut self, share: usize) -> bool {
        self.below(100) < share
    }

    /// Milliseconds, from `least` up to below `end`.
    pub(crate) fn millis(&mut self, least: usize, end: usize) -> Duration {
        Duration::from_millis((least + self.below(end - least)) as u64)
    }
}

/// A seed that no run had before.
pub(crate) fn new_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::from(now.subsec_nanos()) ^ now.as_secs()
}
