//! How often an address sent one and the same webhook. A repeat costs the provider's quota nothing, so that an intercepted
//! webhook cannot be used to spend the quota; so repeats have a limit of their own.

use std::{net::IpAddr, num::NonZeroUsize};

use lru::LruCache;

use super::{LimitScope, Limited, Limits, address::Address, limited, lock, now_ms};
use crate::{event::EventId, registry::Enabled};

/// How often an address may send a webhook in a window. Providers repeat after seconds, and more slowly each time; a gateway that
/// does not wait sends it some ten times.
const MOST: u32 = 50;
/// Length of a window in milliseconds. It begins with the first.
const WINDOW_MS: u64 = 60_000;
/// Webhooks that are counted at a time, some 100 bytes each: a minute with 270 a second. Of more, those that came longest ago are
/// forgotten.
const MAX_COUNTED: NonZeroUsize = NonZeroUsize::new(16_384).expect("not zero");

#[derive(Debug, Clone, Copy)]
struct Count {
    ends_ms: u64,
    times: u32,
}

/// Pure; the time is passed in.
pub struct Repeats(LruCache<(EventId, Address), Count>);

impl Default for Repeats {
    fn default() -> Self {
        Self(LruCache::new(MAX_COUNTED))
    }
}

impl Repeats {
    /// Counts a webhook that an address sends.
    ///
    /// # Errors
    /// Milliseconds until it may send it again.
    fn count(&mut self, event: EventId, address: Address, now_ms: u64) -> Result<(), u64> {
        let fresh = Count {
            ends_ms: now_ms + WINDOW_MS,
            times: 0,
        };
        let count = self.0.get_or_insert_mut((event, address), || fresh);
        if count.ends_ms <= now_ms {
            *count = fresh;
        }
        if count.times >= MOST {
            return Err(count.ends_ms - now_ms);
        }
        count.times += 1;
        Ok(())
    }

    /// It was not stored, and has to come again.
    fn forget(&mut self, event: EventId, address: Address) {
        if let Some(count) = self.0.peek_mut(&(event, address)) {
            count.times = count.times.saturating_sub(1);
        }
    }
}

impl Limits {
    /// Counts a verified webhook, before it takes a point of a quota. What is beyond the limit counts against the address like a
    /// refused request.
    ///
    /// # Errors
    /// When to come back.
    pub fn note_sent(&self, provider: &Enabled, event: EventId, client: IpAddr) -> Result<(), Limited> {
        if !self.enabled {
            return Ok(());
        }
        let counted = lock(&self.repeats).count(event, Address::of(client), now_ms());
        counted.map_err(|ms| {
            self.note_refused(Some(provider), client);
            limited(&provider.name, LimitScope::Repeat, ms)
        })
    }

    /// A webhook that was counted could not be stored: its next try is no repeat.
    pub fn forget_sent(&self, event: EventId, client: IpAddr) {
        lock(&self.repeats).forget(event, Address::of(client));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_of_an_address_are_limited() {
        let (mut repeats, now) = (Repeats::default(), 1_700_000_000_000);
        let [one, other] = ["1", "2"].map(|id| EventId::of_webhook("careem", &[id.as_bytes()]));
        let [here, there] = ["203.0.113.9", "203.0.113.10"].map(|text| text.parse().unwrap());
        for _ in 0..MOST {
            assert_eq!(repeats.count(one, here, now), Ok(()));
        }
        assert_eq!(repeats.count(one, here, now + 1000), Err(WINDOW_MS - 1000));
        assert_eq!(repeats.count(one, there, now), Ok(()), "the provider may go on");
        assert_eq!(repeats.count(other, here, now), Ok(()));
        repeats.forget(one, here);
        assert_eq!(repeats.count(one, here, now), Ok(()));
        assert!(repeats.count(one, here, now).is_err());
        assert_eq!(repeats.count(one, here, now + WINDOW_MS), Ok(()));
    }
}
