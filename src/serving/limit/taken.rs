//! What a verified webhook takes from its provider's limits, and what is given back.
//!
//! A new webhook takes a point of the provider's quota, its bytes, and points of its branch's part where a branch's own
//! secret proved it. All of that is given back when it was not stored. A repeat that is stored again, because the log forgot
//! its id, gives the provider's point back: it may have been intercepted. The rest stays taken: the branch's part, and the
//! bytes, of which repeats have as many in a window as new webhooks have. While the log is nearly full, a branch that filled
//! it is refused, with or without repeats; of the provider's own webhooks, repeats are refused where they filled it.

use std::sync::Arc;

use super::{
    LimitScope, Limited, Limits, ProviderQuota, bytes::BytesOwner, length_ms, limited, lock, now_ms, window::QuotaWait,
};
use crate::{event::Principal, registry::Enabled};

/// A point of a provider's quota that was taken, and bytes; and of its branch's part, where the branch's own secret was used.
#[derive(Debug)]
#[must_use = "a request that could not be stored gives it back"]
pub struct Point {
    window: Option<u64>,
    of_branch: Option<(Arc<str>, u64, u64)>,
    of_bytes: Option<TakenBytes>,
}

/// Bytes that were taken.
#[derive(Debug)]
struct TakenBytes {
    principal: Principal,
    is_repeat: bool,
    bytes: u64,
    window: u64,
}

/// The counted properties of a verified webhook.
#[derive(Debug, Clone, Copy)]
pub struct QuotaLoad<'a> {
    /// The principal of the secret that proved it.
    pub principal: &'a Principal,
    /// Length of its body.
    pub bytes: usize,
    /// Whether it was there before, as far as is remembered.
    pub is_repeat: bool,
}

impl<'a> QuotaLoad<'a> {
    pub(super) fn of(&self) -> BytesOwner<'a> {
        BytesOwner {
            branch: self.principal.branch(),
            is_repeat: self.is_repeat,
        }
    }
}

impl Limits {
    /// Takes a point of the provider's quota, and the bytes, for a request that was verified; first of its branch's part, where
    /// the branch's own secret was used. There a webhook that is larger than the average counts for more than one.
    ///
    /// # Errors
    /// When to come back.
    pub fn take(&self, provider: &Enabled, load: QuotaLoad<'_>) -> Result<Point, Limited> {
        let (bytes, now) = (load.bytes as u64, now_ms());
        let mut point = Point {
            window: None,
            of_branch: None,
            of_bytes: None,
        };
        let Some(own) = self.of(&provider.name) else {
            return Ok(point);
        };
        if !self.enabled {
            // Without a limit; the bytes on the log are still counted.
            point.of_bytes = own.take_bytes(load, u64::MAX, now).ok();
            return Ok(point);
        }
        if let Some(branch) = load.principal.branch() {
            let points = bytes.div_ceil(self.bytes_a_point).max(1);
            let taken = lock(&own.branches).take(branch, points, now, self.instances());
            let window = taken.map_err(|ms| limited(&provider.name, LimitScope::Branch, ms))?;
            point.of_branch = Some((Arc::clone(branch), window, points));
        }
        // There is no shared counter of bytes, so each instance has an equal part.
        let most = own.rule.points.saturating_mul(self.bytes_a_point) / self.instances();
        match own.take_bytes(load, most, now) {
            Ok(taken) => point.of_bytes = Some(taken),
            Err(wait) => {
                own.give_back(point);
                own.say_spent(now);
                return Err(limited(&provider.name, LimitScope::Bytes, wait.ms));
            }
        }
        let taken = lock(&own.quota).take(now, self.instances());
        match taken {
            Ok(taken) => {
                if taken.is_urgent {
                    self.soon.notify_one();
                }
                point.window = Some(taken.window);
                Ok(point)
            }
            Err(QuotaWait { ms, is_spent }) => {
                own.give_back(point);
                own.say_spent(now);
                let ms = if is_spent && !own.rule.block.is_zero() {
                    self.block_provider(own, now)
                } else {
                    ms
                };
                Err(limited(&provider.name, LimitScope::Provider, ms))
            }
        }
    }

    /// Gives all of it back: what it was taken for is not on the log, or not a second time.
    pub fn give_back(&self, provider: &Enabled, point: Point) {
        if let Some(own) = self.of(&provider.name) {
            own.give_back(point);
        }
    }

    /// Gives the provider's point back: a repeat is on the log once more. It costs the provider nothing, because anyone who intercepted a webhook
    /// can send it again. Its bytes fill the log and stay counted, and so does the part of the branch that proved it.
    pub fn give_back_of_repeat(&self, provider: &Enabled, point: Point) {
        if let (Some(own), Some(window)) = (self.of(&provider.name), point.window) {
            lock(&own.quota).give_back(window);
        }
    }

    /// Whether more was put on the log lately by whom this is of, and this with it, than so many bytes.
    pub fn fills_more_than(&self, provider: &Enabled, load: QuotaLoad<'_>, left: u64) -> bool {
        let own = self.of(&provider.name);
        let recent = own.map_or(0.0, |own| lock(&own.bytes).recent(load.of(), now_ms()));
        recent > 0.0 && recent + load.bytes as f64 > left as f64
    }
}

impl ProviderQuota {
    fn take_bytes(&self, load: QuotaLoad<'_>, most: u64, now: u64) -> Result<TakenBytes, QuotaWait> {
        let bytes = load.bytes as u64;
        let window = lock(&self.bytes).take(load.of(), bytes, (most, length_ms(&self.rule)), now)?;
        Ok(TakenBytes {
            principal: load.principal.clone(),
            is_repeat: load.is_repeat,
            bytes,
            window,
        })
    }

    fn give_back(&self, point: Point) {
        if let Some(window) = point.window {
            lock(&self.quota).give_back(window);
        }
        if let Some((branch, window, points)) = point.of_branch {
            lock(&self.branches).give_back(&branch, window, points);
        }
        if let Some(taken) = point.of_bytes {
            let of = BytesOwner {
                branch: taken.principal.branch(),
                is_repeat: taken.is_repeat,
            };
            lock(&self.bytes).give_back(of, taken.bytes, taken.window);
        }
    }
}
