//! Which connections of the public port stay open when there are more than it can hold.
//!
//! Strangers share a room of their own; more is kept for known addresses: those that lately sent a verified webhook or showed
//! the service token, those on a provider's list, and trusted proxies. An address of a stranger may have as many connections
//! as are left for all strangers, so one that comes alone gets half of the room, and each of many gets less. Who asks for more
//! than that, or finds no room, gets the place of an older connection that does nothing: one that has sent no whole request
//! head yet, or waits for its next request. So whoever sends a request at once is served, also from the address of an
//! attacker. A connection that a verified request came over keeps its place.
//!
//! The table is locked when a connection opens, ends, or is verified for the first time, and never for a request.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    task::Context,
    time::Instant,
};

use futures_util::task::AtomicWaker;
use metrics::Gauge;

use super::limit::address::Address;

/// How many of all connections strangers may have: three quarters.
const OF_STRANGERS: (usize, usize) = (3, 4);
/// Connections that every address may have while strangers have room at all.
const LEAST_SHARE: usize = 8;
/// Most connections that are looked at to find one that does nothing; with so many busy ones there is no room.
const MAX_LOOKED_AT: usize = 1024;
/// Least milliseconds between two warnings.
const WARN_EVERY_MS: u64 = 10_000;

/// It waits for a request head.
const IDLE: u8 = 0;
/// A request of it is being answered.
const BUSY: u8 = 1;
/// It gave its place to another one.
const ENDED: u8 = 2;

/// Why a connection is not accepted, or ends before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Its address has its share.
    #[error("the address has its share of connections")]
    Share,
    /// Strangers have all that they may have.
    #[error("unknown addresses have all connections that they may have")]
    Strangers,
    /// All are in use.
    #[error("all connections are in use")]
    Full,
    /// A newer connection took its place.
    #[error("a newer connection took the place of one that did nothing")]
    Replaced,
}

impl Refused {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Share => "share",
            Self::Strangers => "strangers",
            Self::Full => "full",
            Self::Replaced => "replaced",
        }
    }
}

/// Whether an address is a known one, asked once for each connection.
type IsKnown = Box<dyn Fn(IpAddr) -> bool + Send + Sync>;

/// All connections of a port.
pub struct Connections {
    table: Mutex<Table>,
    is_known: IsKnown,
    most: usize,
    most_strangers: usize,
    /// The warning says how many were refused since the last one.
    warned_ms: AtomicU64,
    unsaid: AtomicU64,
    started: Instant,
    gauges: Option<[Gauge; 2]>,
}

#[derive(Default)]
struct Table {
    next: u64,
    strangers: BTreeMap<u64, Arc<Connection>>,
    known: BTreeMap<u64, Arc<Connection>>,
    /// Of strangers.
    by_address: HashMap<Address, BTreeMap<u64, Arc<Connection>>>,
}

/// A connection that has a place.
pub struct Connection {
    id: u64,
    address: Address,
    state: AtomicU8,
    is_verified: AtomicBool,
    /// Who reads from it, to be told that it ended.
    reader: AtomicWaker,
}

/// Its place, given back when dropped.
pub struct Place {
    connections: Arc<Connections>,
    connection: Arc<Connection>,
}

impl Connections {
    /// Of the public port, which may have so many. Each costs about 10 KB and a file descriptor.
    pub fn public(most: usize, is_known: impl Fn(IpAddr) -> bool + Send + Sync + 'static) -> Arc<Self> {
        let gauge = |class: &'static str| metrics::gauge!("connections_open", "class" => class);
        let gauges = Some([gauge("unknown"), gauge("known")]);
        let strangers = most * OF_STRANGERS.0 / OF_STRANGERS.1;
        Arc::new(Self::new(most, strangers, Box::new(is_known), gauges))
    }

    /// Of a port that strangers do not reach: a scraper, a few probes, an operator.
    pub fn private(most: usize) -> Arc<Self> {
        Arc::new(Self::new(most, 0, Box::new(|_| true), None))
    }

    fn new(most: usize, most_strangers: usize, is_known: IsKnown, gauges: Option<[Gauge; 2]>) -> Self {
        Self {
            table: Mutex::default(),
            is_known,
            most,
            most_strangers,
            warned_ms: AtomicU64::new(0),
            unsaid: AtomicU64::new(0),
            started: Instant::now(),
            gauges,
        }
    }

    /// How many there may be at a time.
    pub fn most(&self) -> usize {
        self.most
    }

    /// Takes a place for a connection of this address.
    ///
    /// # Errors
    /// Why there is none.
    pub fn open(self: &Arc<Self>, peer: IpAddr) -> Result<Place, Refused> {
        let (address, is_known) = (Address::of(peer), (self.is_known)(peer));
        let mut table = self.lock();
        let room = self.room(&mut table, address, is_known);
        if let Ok(None) = room {
            return Ok(self.place(table, address, is_known));
        }
        match room {
            Ok(Some(replaced)) => {
                let place = self.place(table, address, is_known);
                // Woken outside of the lock: its task gives the place back, which takes it.
                replaced.reader.wake();
                self.note(Refused::Replaced, replaced.address);
                Ok(place)
            }
            Ok(None) => Err(Refused::Full),
            Err(refused) => {
                drop(table);
                self.note(refused, address);
                Err(refused)
            }
        }
    }

    /// Finds room; the connection that had to end for it, where one had to.
    fn room(&self, table: &mut Table, address: Address, is_known: bool) -> Result<Option<Arc<Connection>>, Refused> {
        if !is_known {
            let own = table.by_address.get(&address);
            let free = self.most_strangers.saturating_sub(table.strangers.len());
            if let Some(own) = own.filter(|own| own.len() >= free.max(LEAST_SHARE)) {
                let oldest = idle(own).ok_or(Refused::Share)?;
                table.remove(&oldest);
                return Ok(Some(oldest));
            }
            if free == 0 {
                let oldest = idle(&table.strangers).ok_or(Refused::Strangers)?;
                table.remove(&oldest);
                return Ok(Some(oldest));
            }
        }
        if table.strangers.len() + table.known.len() < self.most {
            return Ok(None);
        }
        let oldest = idle(&table.strangers).or_else(|| idle(&table.known));
        let oldest = oldest.ok_or(Refused::Full)?;
        table.remove(&oldest);
        Ok(Some(oldest))
    }

    fn place(self: &Arc<Self>, mut table: MutexGuard<'_, Table>, address: Address, is_known: bool) -> Place {
        table.next += 1;
        let connection = Arc::new(Connection {
            id: table.next,
            address,
            state: AtomicU8::new(IDLE),
            is_verified: AtomicBool::new(false),
            reader: AtomicWaker::new(),
        });
        table.insert(&connection, is_known);
        self.show(&table);
        Place {
            connections: Arc::clone(self),
            connection,
        }
    }

    fn show(&self, table: &Table) {
        if let Some([unknown, known]) = &self.gauges {
            unknown.set(table.strangers.len() as f64);
            known.set(table.known.len() as f64);
        }
    }

    /// Counts it, and warns now and then.
    fn note(&self, refused: Refused, address: Address) {
        metrics::counter!("connections_refused_total", "reason" => refused.as_str()).increment(1);
        self.unsaid.fetch_add(1, Ordering::Relaxed);
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let last = self.warned_ms.load(Ordering::Relaxed);
        let is_due = last == 0 || now >= last + WARN_EVERY_MS;
        let claim = |last| {
            let next = now.max(1);
            self.warned_ms
                .compare_exchange(last, next, Ordering::Relaxed, Ordering::Relaxed)
        };
        if is_due && claim(last).is_ok() {
            tracing::warn!(
                client = %address,
                reason = %refused,
                connections = self.unsaid.swap(0, Ordering::Relaxed),
                "connections are refused, or end before their time"
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // No code panics while it holds it.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The oldest that does nothing, which from now on has ended.
fn idle(among: &BTreeMap<u64, Arc<Connection>>) -> Option<Arc<Connection>> {
    let found = among.values().take(MAX_LOOKED_AT).find(|one| {
        !one.is_verified.load(Ordering::Relaxed)
            && one
                .state
                .compare_exchange(IDLE, ENDED, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
    });
    found.cloned()
}

impl Table {
    fn insert(&mut self, connection: &Arc<Connection>, is_known: bool) {
        let id = connection.id;
        if is_known {
            self.known.insert(id, Arc::clone(connection));
            return;
        }
        self.strangers.insert(id, Arc::clone(connection));
        let own = self.by_address.entry(connection.address).or_default();
        own.insert(id, Arc::clone(connection));
    }

    /// Also where it is not there any more.
    fn remove(&mut self, connection: &Connection) {
        if self.known.remove(&connection.id).is_some() || self.strangers.remove(&connection.id).is_none() {
            return;
        }
        if let Some(own) = self.by_address.get_mut(&connection.address) {
            own.remove(&connection.id);
            if own.is_empty() {
                self.by_address.remove(&connection.address);
            }
        }
    }
}

impl Place {
    /// A handle on the connection, for its requests.
    pub fn guest(&self) -> Guest {
        Guest {
            connections: Arc::clone(&self.connections),
            connection: Arc::clone(&self.connection),
        }
    }

    /// Whether it has to end because a newer one took its place; if not, whoever asks is woken when it has to.
    pub fn has_ended(&self, context: &Context<'_>) -> bool {
        let connection = &self.connection;
        // It keeps its place; nobody has to be woken.
        if connection.is_verified.load(Ordering::Relaxed) {
            return false;
        }
        connection.reader.register(context.waker());
        connection.state.load(Ordering::Acquire) == ENDED
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.connections.lock();
        table.remove(&self.connection);
        self.connections.show(&table);
    }
}

/// A connection, as its requests know it.
#[derive(Clone)]
pub struct Guest {
    connections: Arc<Connections>,
    connection: Arc<Connection>,
}

impl Guest {
    /// A request of it came and is being answered until the result is dropped.
    pub fn busy(&self) -> Busy {
        let state = &self.connection.state;
        // One that has just ended stays so; its answer is lost with it.
        let _ = state.compare_exchange(IDLE, BUSY, Ordering::AcqRel, Ordering::Relaxed);
        Busy(Arc::clone(&self.connection))
    }

    /// A verified request came over it: it keeps its place, among those that are known.
    pub fn note_verified(&self) {
        if self.connection.is_verified.swap(true, Ordering::Relaxed) {
            return;
        }
        let mut table = self.connections.lock();
        if table.strangers.contains_key(&self.connection.id) {
            table.remove(&self.connection);
            table.insert(&self.connection, true);
            self.connections.show(&table);
        }
    }
}

/// While it is there, the connection is not taken for one that does nothing.
pub struct Busy(Arc<Connection>);

impl Drop for Busy {
    fn drop(&mut self) {
        let state = &self.0.state;
        let _ = state.compare_exchange(BUSY, IDLE, Ordering::AcqRel, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
