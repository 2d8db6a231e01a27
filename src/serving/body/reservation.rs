//! Memory for bodies: how many bytes are held at a time, and for which addresses.
//!
//! Strangers may hold half of it, known addresses more, and the rest is for the backend. No request waits for memory. When it
//! is used up, the address that holds most loses its largest unfinished body; a new body is refused only if it would be
//! that one itself. So a webhook of a few KB, which comes in one piece, finds memory however many large bodies are kept open.
//! The answer to a body that was ended for holding most says so, and it counts against the address.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use metrics::Gauge;
use tokio::sync::Notify;

use crate::serving::{limit::address::Address, refusal::Reason};

/// Share of strangers in all memory, in sixteenths: of 32 MiB two bodies of the largest `MAX_PAYLOAD_SIZE`, and some.
const OF_STRANGERS: usize = 8;
/// Share of strangers and known addresses together; the rest is kept for the backend.
const OF_KNOWN: usize = 13;
/// Share of bodies for one provider in any of these: three quarters.
const PROVIDER_PARTS: (usize, usize) = (3, 4);

/// The classes of senders, in ascending order of trust.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SenderClass {
    /// Unknown addresses.
    Stranger,
    /// An address that lately sent a verified webhook, or is on the provider's list.
    Known,
    /// Addresses with the service token.
    Backend,
}

/// All standings, from the least.
const SENDER_CLASSES: [SenderClass; 3] = [SenderClass::Stranger, SenderClass::Known, SenderClass::Backend];

/// The sender of a body.
#[derive(Debug, Clone)]
pub struct Sender {
    /// The client's address.
    pub address: Address,
    /// The class of the sender.
    pub class: SenderClass,
    /// The provider that it is for.
    pub provider: Arc<str>,
}

/// Room for bodies. Cheap to clone.
#[derive(Clone)]
pub struct BodyBudget(Arc<SharedBudget>);

struct SharedBudget {
    table: Mutex<BudgetTable>,
    /// Bytes that a standing and those below it may hold together.
    limits: [usize; 3],
    gauge: Gauge,
}

#[derive(Default)]
struct BudgetTable {
    next: u64,
    used: [usize; 3],
    holders: HashMap<Address, SenderBodies>,
    providers: HashMap<Arc<str>, [usize; 3]>,
}

/// The memory of an address.
#[derive(Default)]
struct SenderBodies {
    bytes: usize,
    bodies: HashMap<u64, BodyInTransit>,
}

/// A body that holds room.
struct BodyInTransit {
    bytes: usize,
    class: SenderClass,
    provider: Arc<str>,
    state: Arc<ReservationState>,
}

#[derive(Default)]
struct ReservationState {
    /// It came to its end; what follows takes a moment, so it keeps its place.
    is_whole: AtomicBool,
    has_lost: AtomicBool,
    lost: Notify,
}

/// The memory of a body so far; released when dropped.
pub(super) struct MemoryReservation {
    budget: BodyBudget,
    sender: Sender,
    id: Option<u64>,
    bytes: usize,
    state: Arc<ReservationState>,
}

impl std::fmt::Debug for MemoryReservation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MemoryReservation({} bytes)", self.bytes)
    }
}

impl BodyBudget {
    /// For all connections together, so many bytes.
    pub fn all(bytes: usize) -> Self {
        Self::of([bytes / 16 * OF_STRANGERS, bytes / 16 * OF_KNOWN, bytes])
    }

    /// With these limits.
    pub(super) fn of(limits: [usize; 3]) -> Self {
        let shared = SharedBudget {
            table: Mutex::default(),
            limits,
            gauge: metrics::gauge!("body_bytes_held"),
        };
        Self(Arc::new(shared))
    }

    /// Room of one body, of which nothing is taken.
    pub(super) fn reservation(&self, sender: &Sender) -> MemoryReservation {
        MemoryReservation {
            budget: self.clone(),
            sender: sender.clone(),
            id: None,
            bytes: 0,
            state: Arc::default(),
        }
    }

    /// Bytes that are held.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        let table = self.lock();
        let by_address: usize = table.holders.values().map(|holder| holder.bytes).sum();
        let by_provider: usize = table.providers.values().flatten().sum();
        assert_eq!(by_address, table.used.iter().sum::<usize>());
        assert_eq!(by_address, by_provider);
        by_address
    }

    fn lock(&self) -> MutexGuard<'_, BudgetTable> {
        // No code panics while it holds this lock.
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What prevents a larger reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lack {
    Memory,
    OfProvider,
}

impl BudgetTable {
    fn lack(&self, limits: &[usize; 3], sender: &Sender, more: usize) -> Option<Lack> {
        let own = self.providers.get(&sender.provider).copied().unwrap_or_default();
        let (mut all, mut of_provider) = (0, 0);
        for (at, class) in SENDER_CLASSES.into_iter().enumerate() {
            all += self.used[at];
            of_provider += own[at];
            if class < sender.class {
                continue;
            }
            if all + more > limits[at] {
                return Some(Lack::Memory);
            }
            let (part, of) = PROVIDER_PARTS;
            if of_provider + more > limits[at] / of * part {
                return Some(Lack::OfProvider);
            }
        }
        None
    }

    /// The body that is ended to free so much memory; none if it would be the requesting one.
    fn loser(&self, lack: Lack, sender: &Sender, id: Option<u64>, wanted: usize) -> Option<(Address, u64)> {
        let counts = |load: &BodyInTransit| {
            load.class <= sender.class
                && (lack == Lack::Memory || load.provider == sender.provider)
                && !load.state.is_whole.load(Ordering::Relaxed)
        };
        let has = |address: &Address| self.holders.get(address).map_or(0, |holder| holder.bytes);
        let candidates = self.holders.iter().flat_map(|(address, holder)| {
            let loads = holder
                .bodies
                .iter()
                .filter(|(other, load)| Some(**other) != id && counts(load));
            loads.map(|(other, load)| {
                (
                    std::cmp::Reverse(load.class),
                    holder.bytes,
                    load.bytes,
                    *address,
                    *other,
                )
            })
        });
        let most = candidates.max_by_key(|(class, of_address, bytes, ..)| (*class, *of_address, *bytes))?;
        let (class, of_address, bytes, address, other) = most;
        let held = self.bytes(&sender.address, id);
        let own = (has(&sender.address) + wanted - held, wanted);
        // For two bodies of one address, the address's bytes are the same and the bodies' sizes decide.
        let of_address = if address == sender.address { own.0 } else { of_address };
        (class.0 < sender.class || (of_address, bytes) > own).then_some((address, other))
    }

    fn bytes(&self, address: &Address, id: Option<u64>) -> usize {
        let load = id.and_then(|id| self.holders.get(address)?.bodies.get(&id));
        load.map_or(0, |load| load.bytes)
    }

    /// Sets what a body holds; it is there.
    fn set(&mut self, address: Address, id: u64, bytes: usize) {
        let Some(holder) = self.holders.get_mut(&address) else {
            return;
        };
        let Some(load) = holder.bodies.get_mut(&id) else { return };
        let (before, at) = (std::mem::replace(&mut load.bytes, bytes), load.class as usize);
        holder.bytes = holder.bytes - before + bytes;
        self.used[at] = self.used[at] - before + bytes;
        if let Some(own) = self.providers.get_mut(&load.provider) {
            own[at] = own[at] - before + bytes;
        }
    }

    fn insert(&mut self, sender: &Sender, state: &Arc<ReservationState>) -> u64 {
        self.next += 1;
        let load = BodyInTransit {
            bytes: 0,
            class: sender.class,
            provider: Arc::clone(&sender.provider),
            state: Arc::clone(state),
        };
        let holder = self.holders.entry(sender.address).or_default();
        holder.bodies.insert(self.next, load);
        // At most one entry for each provider.
        self.providers.entry(Arc::clone(&sender.provider)).or_default();
        self.next
    }

    fn remove(&mut self, address: Address, id: u64) -> Option<Arc<ReservationState>> {
        self.set(address, id, 0);
        let holder = self.holders.get_mut(&address)?;
        let load = holder.bodies.remove(&id)?;
        if holder.bodies.is_empty() {
            self.holders.remove(&address);
        }
        Some(load.state)
    }

    fn held(&self) -> usize {
        self.used.iter().sum()
    }
}

impl MemoryReservation {
    /// Takes or gives back room, so that it is as much as so many bytes need.
    ///
    /// # Errors
    /// [`Reason::HoldsMost`] where it lost its place or is the one that holds most, [`Reason::Overloaded`] where there is no
    /// room and it is not. Then it stays as it is, or has nothing.
    pub(super) fn resize(&mut self, bytes: usize) -> Result<(), Reason> {
        if bytes == self.bytes {
            return Ok(());
        }
        let shared = Arc::clone(&self.budget.0);
        let mut table = self.budget.lock();
        if self.state.has_lost.load(Ordering::Relaxed) {
            return Err(Reason::HoldsMost);
        }
        while let Some(more) = bytes.checked_sub(self.bytes)
            && let Some(lack) = table.lack(&shared.limits, &self.sender, more)
        {
            let Some((address, loser)) = table.loser(lack, &self.sender, self.id, bytes) else {
                let holder = table.holders.get(&self.sender.address);
                let others = holder.map_or(0, |holder| holder.bodies.len()) - usize::from(self.id.is_some());
                let is_most = others > 0 || bytes > shared.limits[2] / 16;
                drop(table);
                count(if lack == Lack::Memory { "room" } else { "provider" });
                return Err(if is_most { Reason::HoldsMost } else { Reason::Overloaded });
            };
            if let Some(state) = table.remove(address, loser) {
                state.has_lost.store(true, Ordering::Relaxed);
                state.lost.notify_one();
                count("holds_most");
            }
        }
        let id = *self.id.get_or_insert_with(|| table.insert(&self.sender, &self.state));
        table.set(self.sender.address, id, bytes);
        self.bytes = bytes;
        shared.gauge.set(table.held() as f64);
        Ok(())
    }

    /// It came to its end, and keeps its place from now on.
    pub(super) fn is_whole(&self) {
        self.state.is_whole.store(true, Ordering::Relaxed);
    }

    /// Waits until it has lost its place.
    pub(super) async fn lost(&self) {
        self.state.lost.notified().await;
    }
}

impl Drop for MemoryReservation {
    fn drop(&mut self) {
        let Some(id) = self.id else { return };
        let mut table = self.budget.lock();
        table.remove(self.sender.address, id);
        let held = table.held();
        drop(table);
        self.budget.0.gauge.set(held as f64);
    }
}

fn count(reason: &'static str) {
    metrics::counter!("bodies_refused_total", "reason" => reason).increment(1);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KB: usize = 1024;

    fn sender(address: &str, class: SenderClass, provider: &str) -> Sender {
        Sender {
            address: address.parse().unwrap(),
            class,
            provider: provider.into(),
        }
    }

    fn stranger(address: &str) -> Sender {
        sender(address, SenderClass::Stranger, "careem")
    }

    /// Strangers 64 KB, of which one provider's may have 48; known ones 128; all 160.
    fn budget() -> BodyBudget {
        BodyBudget::of([64 * KB, 128 * KB, 160 * KB])
    }

    fn taken(budget: &BodyBudget, sender: &Sender, bytes: usize) -> MemoryReservation {
        let mut room = budget.reservation(sender);
        room.resize(bytes).unwrap();
        room
    }

    #[test]
    fn the_largest_holder_loses_its_body() {
        let budget = budget();
        let mut large: Vec<_> = (0..4)
            .map(|_| taken(&budget, &stranger("203.0.113.9"), 12 * KB))
            .collect();
        assert_eq!(budget.held(), 48 * KB);
        // The provider's share is used up; ordinary webhooks of another address and of the same one still get memory.
        let other = taken(&budget, &stranger("203.0.113.10"), 2 * KB);
        let same = taken(&budget, &stranger("203.0.113.9"), 2 * KB);
        let lost = large
            .iter_mut()
            .map(|room| room.resize(13 * KB))
            .filter(|resized| *resized == Err(Reason::HoldsMost))
            .count();
        assert!(lost >= 1, "{lost}");
        assert!(budget.held() <= 48 * KB);
        drop((large, other, same));
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn a_complete_body_keeps_its_memory() {
        let budget = budget();
        let whole: Vec<_> = (0..4)
            .map(|_| taken(&budget, &stranger("203.0.113.9"), 12 * KB))
            .collect();
        whole.iter().for_each(MemoryReservation::is_whole);
        assert_eq!(
            budget.reservation(&stranger("203.0.113.10")).resize(KB),
            Err(Reason::Overloaded)
        );
        assert_eq!(
            budget.reservation(&stranger("203.0.113.9")).resize(KB),
            Err(Reason::HoldsMost)
        );
        // Another provider, a known address and the backend still get memory.
        let rooms = [
            taken(
                &budget,
                &sender("203.0.113.10", SenderClass::Stranger, "talabat"),
                16 * KB,
            ),
            taken(&budget, &sender("203.0.113.11", SenderClass::Known, "careem"), 48 * KB),
            taken(&budget, &sender("203.0.113.12", SenderClass::Known, "talabat"), 16 * KB),
            taken(
                &budget,
                &sender("203.0.113.13", SenderClass::Backend, "talabat"),
                32 * KB,
            ),
        ];
        assert_eq!(budget.held(), 160 * KB);
        drop((whole, rooms));
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn strangers_lose_memory_to_known_addresses() {
        let budget = budget();
        let strangers: Vec<_> = (1..=64)
            .map(|number| {
                let provider = if number % 2 == 0 { "careem" } else { "talabat" };
                let address = format!("203.0.113.{number}");
                taken(&budget, &sender(&address, SenderClass::Stranger, provider), KB)
            })
            .collect();
        let known = taken(&budget, &sender("10.0.0.1", SenderClass::Known, "careem"), 64 * KB);
        let more = taken(&budget, &sender("10.0.0.1", SenderClass::Known, "talabat"), 32 * KB);
        assert_eq!(budget.held(), 128 * KB, "strangers lost what they had too much");
        drop((strangers, known, more));
        assert_eq!(budget.held(), 0);
    }

    proptest! {
        /// Whatever comes and goes, no limit is broken and nothing is left over.
        #[test]
        fn the_limits_hold(steps in prop::collection::vec((0u8..6, 0usize..3, 0usize..80, 0u8..5), 1..200)) {
            let budget = budget();
            let mut open: Vec<MemoryReservation> = Vec::new();
            for (address, class, kilobytes, what) in steps {
                let provider = if address % 2 == 0 { "careem" } else { "talabat" };
                let sender = sender(&format!("203.0.113.{address}"), SENDER_CLASSES[class], provider);
                let at = usize::from(address);
                match what {
                    0 if at < open.len() => drop(open.remove(at)),
                    1 => if let Some(room) = open.get_mut(at) { let _ = room.resize(kilobytes * KB); },
                    2 => if let Some(room) = open.get(at) { room.is_whole() },
                    _ => {
                        let mut room = budget.reservation(&sender);
                        if room.resize(kilobytes * KB).is_ok() {
                            open.push(room);
                        }
                    }
                }
                let used = budget.lock().used;
                prop_assert!(used[0] <= 64 * KB && used[0] + used[1] <= 128 * KB && budget.held() <= 160 * KB);
            }
            drop(open);
            prop_assert_eq!(budget.held(), 0);
        }
    }
}
