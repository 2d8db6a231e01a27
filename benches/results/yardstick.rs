//! How fast the machine's CPU is at the moment: a fixed piece of work, done for a fixed time on one core and on all.
//!
//! Its figure moves with the clock of the CPU and with whatever else runs on the machine. So figures are divided by it, and a run in which
//! it moved was not alone.

use std::{
    hint::black_box,
    sync::Barrier,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::statistics;

/// Counted up when the work changes: figures by another yardstick cannot be compared.
pub(crate) const VERSION: u32 = 2;
/// Pieces a second on a core that count as speed 1. Any number would do; a release build on a server of 2024 is near it.
const REFERENCE: f64 = 10_000.0;
/// Of one piece: bytes that are hashed, and how often the order is parsed. About half of the time each, without instructions for SHA-256.
const HASHED: usize = 16 * 1024;
const PARSED: usize = 8;
/// How often each is taken, for how long, and the pause after both; the mean counts. The speed of an idle virtual machine was seen to move by
/// 40 % between takes of 200 ms, and a look must not show what evens out while anything is measured.
const TAKES: usize = 12;
const TAKE: Duration = Duration::from_millis(80);
const PAUSE: Duration = Duration::from_millis(100);
/// A webhook like those of the load. A copy, for a change there must not change the yardstick.
const ORDER: &str = r#"{"id":"CR000000001","status":"created","order_number":"ORD-001","created_at":"2025-10-01T12:00:00Z",
"customer":{"name":"Ahmed Ali","phone_number":"+962791234567","email":"ahmed@example.com","address":{"street":"King Abdullah Street",
"area":"Abdoun","city":"Amman","latitude":31.9539,"longitude":35.9106}},"items":[{"id":"item-001","name":"Chicken Burger",
"quantity":2,"item_price":5.5,"total_price":11.0,"groups":[{"name":"Add-ons","options":[{"id":"opt-001","name":"Extra Cheese",
"price":0.5,"quantity":1}]}]}],"price":{"subtotal":11.0,"delivery_fee":2.0,"tax_amount":2.24,"total_taxable_price":16.24}}"#;

/// One look at the CPU's speed; 1 is a core that does [`REFERENCE`] pieces a second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Yardstick {
    /// Of one core, the others left alone.
    pub(crate) one: f64,
    /// Of each core, all of them at work.
    pub(crate) all: f64,
}

impl Yardstick {
    /// Takes it. Blocks for 3 s.
    pub(crate) fn take() -> Self {
        debug_assert!(parses());
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let (mut one, mut all) = (0.0, 0.0);
        for _ in 0..TAKES {
            one += pieces_per_second(1);
            all += pieces_per_second(cores);
            std::thread::sleep(PAUSE);
        }
        let speed = |pieces: f64, cores: usize| pieces / TAKES as f64 / cores as f64 / REFERENCE;
        Self {
            one: speed(one, 1),
            all: speed(all, cores),
        }
    }

    /// The mean of some looks, for what was measured between them.
    pub(crate) fn mean(looks: &[Self]) -> Self {
        let of = |speed: fn(&Self) -> f64| looks.iter().map(speed).sum::<f64>() / looks.len() as f64;
        Self {
            one: of(|look| look.one),
            all: of(|look| look.all),
        }
    }
}

/// How far all looks of a run moved, on one core or on all, whichever is more; see [`statistics::movement`].
pub(crate) fn movement(looks: &[Yardstick]) -> f64 {
    let of = |speed: fn(&Yardstick) -> f64| statistics::movement(&looks.iter().map(speed).collect::<Vec<_>>());
    of(|look| look.one).max(of(|look| look.all))
}

/// Whether the order of the yardstick is JSON: one that is not would be given up at its first fault, and measure nothing.
pub(crate) fn parses() -> bool {
    serde_json::from_str::<serde_json::Value>(ORDER).is_ok()
}

/// All cores together.
fn pieces_per_second(cores: usize) -> f64 {
    let start = Barrier::new(cores);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(|| work(&start))).collect();
        // A thread that died leaves no number, so that nothing looks measured.
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or(f64::NAN))
            .sum()
    })
}

fn work(start: &Barrier) -> f64 {
    let bytes = vec![0x5a; HASHED];
    start.wait();
    let began = Instant::now();
    let mut pieces = 0.0;
    while began.elapsed() < TAKE {
        black_box(Sha256::digest(black_box(&bytes)));
        for _ in 0..PARSED {
            // It is JSON, see [`parses`].
            let _ = black_box(serde_json::from_str::<serde_json::Value>(black_box(ORDER)));
        }
        pieces += 1.0;
    }
    pieces / began.elapsed().as_secs_f64()
}
