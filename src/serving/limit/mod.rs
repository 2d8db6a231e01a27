//! Rate limits: decided in memory, without a request to any server.
//!
//! Two things are counted separately. A provider's quota ([`window`]) is spent by requests with a successful verification, so
//! that no stranger can use it up; more requests are answered 429 until the window is over. One branch, by its own secret,
//! may take a part of that quota ([`branches`]). Refused requests count against the client's address ([`address`]), and too
//! many of them block it ([`blocks`]): its requests are then refused before their body is read. [`shared`] keeps the
//! instances of the hub together: quotas by a counter in the stream `LIMITS`, blocks by records in the stream `BLOCKS`
//! ([`stored`]).

use std::{
    collections::VecDeque,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::sync::Notify;

use self::{
    address::{Address, Addresses},
    blocks::{Block, BlockTarget, Blocks},
    branches::BranchShares,
    bytes::Bytes,
    repeats::Repeats,
    stored::LimitRecord,
    vouched::Vouched,
    window::Quota,
};
use super::audit::NO_PROVIDER;
use crate::{
    config::{RateLimits, Rule},
    event::Principal,
    registry::Enabled,
};

pub mod window;
pub mod branches;
pub mod bytes;
pub mod repeats;
pub mod taken;
pub mod address;
pub mod blocks;
pub mod stored;
pub mod shared;
mod heard;
mod vouched;

/// Most records that wait while NATS is away or busy. Beyond that the oldest are dropped, and apply to this instance only.
const MAX_WORDS: usize = 4096;

/// Why a request is refused: what came to its limit, and when it is worth trying again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limited {
    /// The scope of the limit.
    pub scope: LimitScope,
    /// Whole seconds, rounded up, at least 1.
    pub retry_after_seconds: u64,
}

/// What a limit applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitScope {
    /// The client's address is blocked.
    Address,
    /// The provider has sent more than it may.
    Provider,
    /// One branch has, by its own secret.
    Branch,
    /// It has sent more bytes than it may.
    Bytes,
    /// The client's address sent the same webhook too often.
    Repeat,
}

impl LimitScope {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Provider => "provider",
            Self::Branch => "branch",
            Self::Bytes => "bytes",
            Self::Repeat => "repeat",
        }
    }
}

struct ProviderQuota {
    name: Arc<str>,
    rule: Rule,
    quota: Mutex<Quota>,
    branches: Mutex<BranchShares>,
    bytes: Mutex<Bytes>,
    /// In which window the log last said that it was spent.
    said_in: AtomicU64,
}

/// All limits of this instance.
pub struct Limits {
    enabled: bool,
    /// `RATE_LIMIT_BYTES`.
    bytes_a_point: u64,
    quotas: Vec<ProviderQuota>,
    repeats: Mutex<Repeats>,
    addresses: Mutex<Addresses>,
    vouched: Mutex<Vouched>,
    blocks: Mutex<Blocks>,
    /// How many blocks there are; most of the time none, and nothing has to be looked up.
    blocked: AtomicUsize,
    /// Instances that share the quotas, with this one.
    instances: AtomicU64,
    /// It was read which addresses are known, or waited for long enough; before, this instance blocks no address.
    is_informed: AtomicBool,
    records: Mutex<VecDeque<LimitRecord>>,
    /// A record is to be published at once.
    soon: Notify,
}

impl Limits {
    /// With nothing counted.
    pub fn new(settings: &RateLimits) -> Self {
        let quotas = settings.providers.iter().zip(&settings.branch_points);
        let quotas = quotas.map(|((name, rule), points)| {
            let quota = Quota::new(rule);
            ProviderQuota {
                name: Arc::clone(name),
                rule: *rule,
                bytes: Mutex::default(),
                branches: Mutex::new(BranchShares::new(*points, quota.length_ms())),
                quota: Mutex::new(quota),
                said_in: AtomicU64::new(0),
            }
        });
        Self {
            enabled: settings.enabled,
            bytes_a_point: settings.bytes_a_point,
            quotas: quotas.collect(),
            repeats: Mutex::default(),
            addresses: Mutex::new(Addresses::new(settings.address)),
            vouched: Mutex::default(),
            blocks: Mutex::default(),
            blocked: AtomicUsize::new(0),
            instances: AtomicU64::new(1),
            is_informed: AtomicBool::new(false),
            records: Mutex::default(),
            soon: Notify::new(),
        }
    }

    /// `RATE_LIMIT_ENABLED`.
    pub const fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Before anything of a request is read: whether its address is blocked, or its provider has no points left.
    ///
    /// # Errors
    /// When to come back.
    pub fn check(&self, provider: &Enabled, client: IpAddr) -> Result<(), Limited> {
        if !self.enabled {
            return Ok(());
        }
        let now = now_ms();
        if self.blocked.load(Ordering::Relaxed) > 0 {
            if !provider.lists(client)
                && let Some(until) = self.blocked_until(client, now)
            {
                return Err(limited(&provider.name, LimitScope::Address, until - now));
            }
            let mut blocks = lock(&self.blocks);
            if let Some(until) = blocks.until(&BlockTarget::Provider(Arc::clone(&provider.name)), now) {
                return Err(limited(&provider.name, LimitScope::Provider, until - now));
            }
        }
        let Some(own) = self.of(&provider.name) else {
            return Ok(());
        };
        // If exceeding the quota causes a block, only a verified request may cause it, so the request has to be read first.
        if !own.rule.block.is_zero() {
            return Ok(());
        }
        let checked = lock(&own.quota).check(now, self.instances());
        checked.map_err(|wait| {
            own.say_spent(now);
            limited(&provider.name, LimitScope::Provider, wait.ms)
        })
    }

    /// The same for a request that is for no provider: whether its address is blocked.
    ///
    /// # Errors
    /// When to come back.
    pub fn check_address(&self, client: IpAddr) -> Result<(), Limited> {
        if !self.enabled || self.blocked.load(Ordering::Relaxed) == 0 {
            return Ok(());
        }
        let now = now_ms();
        match self.blocked_until(client, now) {
            Some(until) => Err(limited(&Arc::from(NO_PROVIDER), LimitScope::Address, until - now)),
            None => Ok(()),
        }
    }

    /// Until when an address is blocked, by itself or with the /48 around it. A block of that is none for a known address.
    fn blocked_until(&self, client: IpAddr, now: u64) -> Option<u64> {
        let address = Address::of(client);
        let own = lock(&self.blocks).until(&BlockTarget::Address(address), now);
        let around = || lock(&self.blocks).until(&BlockTarget::Address(address.site()?), now);
        own.or_else(|| around().filter(|_| !lock(&self.addresses).is_known(address, now)))
    }

    /// Whether a request or a connection of this address has the room that is kept for those who are known: it lately sent a
    /// webhook that was verified, or showed the service token.
    pub fn has_room(&self, client: IpAddr) -> bool {
        lock(&self.addresses).has_room(Address::of(client), now_ms())
    }

    /// Whether this address lately showed the service token.
    pub fn holds_token(&self, client: IpAddr) -> bool {
        lock(&self.addresses).holds_token(Address::of(client), now_ms())
    }

    /// Counts a refused request against its address. `provider`: where it went, where there is such a provider.
    pub fn note_refused(&self, provider: Option<&Enabled>, client: IpAddr) {
        let counts = self.enabled && self.is_informed.load(Ordering::Relaxed);
        if !counts || provider.is_some_and(|provider| provider.lists(client)) {
            return;
        }
        let now = now_ms();
        let too_many = lock(&self.addresses).refused(Address::of(client), now);
        for (address, too_many) in too_many {
            let block = Block {
                since_ms: now,
                until_ms: too_many.until_ms,
                provider: provider.map_or(NO_PROVIDER, |provider| &provider.name).to_owned(),
                requests: too_many.refused,
            };
            self.block_address(address, block);
        }
    }

    fn block_address(&self, address: Address, block: Block) {
        let hint = if address.is_local() {
            "; it is not a public address: should TRUSTED_PROXIES name it?"
        } else {
            ""
        };
        tracing::warn!(
            client = %address,
            provider = block.provider,
            refused = block.requests,
            seconds = (block.until_ms - block.since_ms).div_ceil(1000),
            "address blocked for its refused requests{hint}"
        );
        self.block(BlockTarget::Address(address), block);
    }

    /// A webhook of this address was verified, for this principal, and is new: it is one that is not to be blocked.
    pub fn note_accepted(&self, provider: &Enabled, principal: &Principal, client: IpAddr) {
        // If nothing is verified, any address could become known.
        if provider.scheme.is_none() {
            return;
        }
        let (now, address) = (now_ms(), Address::of(client));
        if let Some(branch) = principal.branch() {
            let branch = (Arc::clone(&provider.name), Arc::clone(branch));
            if !lock(&self.vouched).may(branch, address, now) {
                return;
            }
        }
        // Without rate limits nothing sends the records, and the bounded queue would fill.
        if lock(&self.addresses).verified(address, now) && self.enabled {
            self.vouch(address, now);
        }
    }

    /// This address showed the service token: room is kept for it. It may still be blocked, because other senders may share it.
    pub fn note_token(&self, client: IpAddr) {
        lock(&self.addresses).showed_token(Address::of(client), now_ms());
    }

    /// Tells the others that an address is known, and ends its block.
    fn vouch(&self, address: Address, now: u64) {
        self.tell(LimitRecord::Known(address, now));
        let who = BlockTarget::Address(address);
        if self.lift(&who) {
            tracing::info!(client = %address, "block lifted: the address sends verified webhooks");
            self.tell(LimitRecord::Lifted(who));
        }
    }

    /// Blocks a provider that was set up so; for how many milliseconds.
    fn block_provider(&self, own: &ProviderQuota, now: u64) -> u64 {
        let ms = u64::try_from(own.rule.block.as_millis()).unwrap_or(u64::MAX);
        let block = Block {
            since_ms: now,
            until_ms: now + ms,
            provider: own.name.to_string(),
            requests: own.rule.points,
        };
        tracing::warn!(
            provider = &*own.name,
            seconds = own.rule.block.as_secs(),
            "provider blocked: it sent more than RATE_LIMIT_ says"
        );
        self.block(BlockTarget::Provider(Arc::clone(&own.name)), block);
        ms
    }

    fn block(&self, who: BlockTarget, block: Block) {
        if self.put(who.clone(), block.clone(), false) {
            self.tell(LimitRecord::Blocked(who, block));
        }
    }

    fn put(&self, who: BlockTarget, block: Block, is_stored: bool) -> bool {
        let mut blocks = lock(&self.blocks);
        let is_news = blocks.put(who, block, is_stored);
        self.note_blocks(blocks.len());
        is_news
    }

    fn lift(&self, who: &BlockTarget) -> bool {
        let mut blocks = lock(&self.blocks);
        let was_blocked = blocks.lift(who);
        self.note_blocks(blocks.len());
        was_blocked
    }

    fn note_blocks(&self, count: usize) {
        self.blocked.store(count, Ordering::Relaxed);
        metrics::gauge!("blocks_active").set(count as f64);
    }

    fn tell(&self, record: LimitRecord) {
        let mut records = lock(&self.records);
        if records.len() == MAX_WORDS {
            records.pop_front();
        }
        records.push_back(record);
        self.soon.notify_one();
    }

    /// The next record to publish; a block that was lifted meanwhile is skipped.
    fn next_record(&self) -> Option<LimitRecord> {
        loop {
            let record = lock(&self.records).pop_front()?;
            match &record {
                LimitRecord::Blocked(who, _) if lock(&self.blocks).until(who, now_ms()).is_none() => {}
                _ => return Some(record),
            }
        }
    }

    fn of(&self, provider: &str) -> Option<&ProviderQuota> {
        self.quotas.iter().find(|one| &*one.name == provider)
    }

    fn instances(&self) -> u64 {
        self.instances.load(Ordering::Relaxed)
    }
}

impl ProviderQuota {
    /// Once in a window; what is refused then is counted by a metric.
    fn say_spent(&self, now: u64) {
        let window = now / lock(&self.quota).length_ms();
        if self.said_in.swap(window, Ordering::Relaxed) != window {
            tracing::warn!(
                provider = &*self.name,
                points = self.rule.points,
                seconds = self.rule.window.as_secs_f64(),
                "provider over its rate limit, by webhooks or by bytes; it is answered 429 until the window ends"
            );
        }
    }
}

fn length_ms(rule: &Rule) -> u64 {
    u64::try_from(rule.window.as_millis()).unwrap_or(u64::MAX).max(1)
}

fn limited(provider: &Arc<str>, scope: LimitScope, ms: u64) -> Limited {
    metrics::counter!("rate_limited_total", "provider" => Arc::clone(provider), "scope" => scope.as_str()).increment(1);
    Limited {
        scope,
        retry_after_seconds: ms.div_ceil(1000).max(1),
    }
}

/// Milliseconds since 1970, by the machine's clock: windows and blocks mean the same on every instance.
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code panics while it holds one of these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
