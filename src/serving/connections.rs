//! Decides which connections of the public port stay open if there are more than it can hold.
//!
//! Connections have three classes: strangers; known addresses, which lately sent a verified webhook; and trusted ones, which
//! showed the service token, are on a provider's list, or are trusted proxies. Strangers may have three quarters of the
//! slots, strangers and known addresses together all but a reserve, trusted ones all. Being known proves little: one old
//! webhook that was intercepted, or the secret of one branch, is enough. So every address but a trusted proxy has a share: as
//! many connections as are left for its class. A single address gets half of the slots, and each of many gets less. An
//! address that wants more than its share, or finds no free slot, replaces an older idle connection: one that has sent no
//! whole request head yet, or waits for its next request. So a client that sends its request at once is served, also from the
//! address of an attacker. A connection that carried a verified request keeps its slot while its address is within its share.
//!
//! The table is locked when a connection opens, ends, or is verified for the first time, and never for a request.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Instant,
};

use futures_util::task::AtomicWaker;
use metrics::Gauge;

use super::limit::address::Address;

/// How many of all connections strangers may have: three quarters.
const OF_STRANGERS: (usize, usize) = (3, 4);
/// How many of all connections only trusted addresses may have: one in 32, which are 128 of 4,096.
const RESERVED: usize = 32;
/// Connections that every address may have while its class has room at all.
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
pub enum ConnectionRefused {
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

impl ConnectionRefused {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Share => "share",
            Self::Strangers => "strangers",
            Self::Full => "full",
            Self::Replaced => "replaced",
        }
    }
}

/// The class of the address that a connection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Nothing.
    Stranger,
    /// It lately sent a verified webhook.
    Known,
    /// It lately showed the service token, or is on a provider's list.
    Trusted,
    /// A trusted proxy, with many clients behind it: it has no share, but all that is there.
    Proxy,
}

impl Peer {
    /// Index of its class; classes with a higher one have more room.
    const fn class(self) -> usize {
        match self {
            Self::Stranger => STRANGERS,
            Self::Known => KNOWN,
            Self::Trusted | Self::Proxy => TRUSTED,
        }
    }
}

const STRANGERS: usize = 0;
const KNOWN: usize = 1;
const TRUSTED: usize = 2;

/// The class of an address, looked up once for each connection.
type WhoIs = Box<dyn Fn(IpAddr) -> Peer + Send + Sync>;

/// All connections of a port.
pub struct Connections {
    table: Mutex<ConnectionTable>,
    who_is: WhoIs,
    /// How many each class may have, together with those below it.
    most: [usize; 3],
    /// The warning says how many were refused since the last one.
    warned_ms: AtomicU64,
    unsaid: AtomicU64,
    started: Instant,
    gauges: Option<[Gauge; 2]>,
}

#[derive(Default)]
struct ConnectionTable {
    next: u64,
    classes: [PeerClass; 3],
}

/// Connections of a class.
#[derive(Default)]
struct PeerClass {
    all: BTreeMap<u64, Arc<ClientConnection>>,
    by_address: HashMap<Address, BTreeMap<u64, Arc<ClientConnection>>>,
}

/// A connection that has a place.
pub struct ClientConnection {
    id: u64,
    address: Address,
    state: AtomicU8,
    is_verified: AtomicBool,
    is_of_proxy: bool,
    /// Wakes the task that reads from it, when the connection is ended.
    reader: AtomicWaker,
}

/// The slot of a connection, released when dropped.
pub struct ConnectionSlot {
    connections: Arc<Connections>,
    connection: Arc<ClientConnection>,
}

impl Connections {
    /// Of the public port, which may have so many. Each costs a file descriptor, and about 10 KB once it is served.
    pub fn public(most: usize, who_is: impl Fn(IpAddr) -> Peer + Send + Sync + 'static) -> Arc<Self> {
        let gauge = |class: &'static str| metrics::gauge!("connections_open", "class" => class);
        let gauges = Some([gauge("unknown"), gauge("known")]);
        let strangers = most * OF_STRANGERS.0 / OF_STRANGERS.1;
        let most = [strangers, most - most / RESERVED, most];
        Arc::new(Self::new(most, Box::new(who_is), gauges))
    }

    /// Of a port that strangers do not reach: a scraper, a few probes, an operator.
    pub fn private(most: usize) -> Arc<Self> {
        Arc::new(Self::new([0, 0, most], Box::new(|_| Peer::Proxy), None))
    }

    fn new(most: [usize; 3], who_is: WhoIs, gauges: Option<[Gauge; 2]>) -> Self {
        Self {
            table: Mutex::default(),
            who_is,
            most,
            warned_ms: AtomicU64::new(0),
            unsaid: AtomicU64::new(0),
            started: Instant::now(),
            gauges,
        }
    }

    /// How many there may be at a time.
    pub fn most(&self) -> usize {
        self.most[TRUSTED]
    }

    /// Takes a place for a connection of this address.
    ///
    /// # Errors
    /// Why there is none.
    pub fn open(self: &Arc<Self>, peer: IpAddr) -> Result<ConnectionSlot, ConnectionRefused> {
        let (address, peer) = (Address::of(peer), (self.who_is)(peer));
        let mut table = self.lock();
        let room = self.room(&mut table, address, peer);
        if let Ok(None) = room {
            return Ok(self.place(table, address, peer));
        }
        match room {
            Ok(Some(replaced)) => {
                let place = self.place(table, address, peer);
                // Woken without the lock, because its task takes the lock to release the slot.
                replaced.reader.wake();
                self.note(ConnectionRefused::Replaced, replaced.address);
                Ok(place)
            }
            Ok(None) => Err(ConnectionRefused::Full),
            Err(refused) => {
                drop(table);
                self.note(refused, address);
                Err(refused)
            }
        }
    }

    /// Finds room; the connection that had to end for it, where one had to.
    fn room(
        &self,
        table: &mut ConnectionTable,
        address: Address,
        peer: Peer,
    ) -> Result<Option<Arc<ClientConnection>>, ConnectionRefused> {
        let class = peer.class();
        let free = self.free(table, class);
        if peer != Peer::Proxy && table.has_share(class, address, free) {
            let own = table.classes[class].by_address.get(&address);
            let oldest = own.and_then(|own| idle(own, |_| true));
            // A gateway that uses its whole share may have more while strangers leave slots idle.
            let others = || {
                let left = self.most[class].saturating_sub(table.classes[class].all.len());
                let may = class > STRANGERS && own.is_some_and(|own| own.len() < left);
                may.then(|| table.idle(STRANGERS)).flatten()
            };
            let oldest = oldest.or_else(others).ok_or(ConnectionRefused::Share)?;
            table.remove(&oldest);
            return Ok(Some(oldest));
        }
        if free > 0 {
            return Ok(None);
        }
        // Less trusted connections are replaced first; more trusted ones are not replaced.
        let oldest = (STRANGERS..=class).find_map(|class| table.idle(class));
        let oldest = oldest.ok_or(
            if class == STRANGERS && table.classes[class].all.len() >= self.most[class] {
                ConnectionRefused::Strangers
            } else {
                ConnectionRefused::Full
            },
        )?;
        table.remove(&oldest);
        Ok(Some(oldest))
    }

    /// Places that are left for a class.
    fn free(&self, table: &ConnectionTable, class: usize) -> usize {
        let mut used = 0;
        let mut free = usize::MAX;
        for (at, one) in table.classes.iter().enumerate() {
            used += one.all.len();
            if at >= class {
                free = free.min(self.most[at].saturating_sub(used));
            }
        }
        free
    }

    fn place(
        self: &Arc<Self>,
        mut table: MutexGuard<'_, ConnectionTable>,
        address: Address,
        peer: Peer,
    ) -> ConnectionSlot {
        table.next += 1;
        let connection = Arc::new(ClientConnection {
            id: table.next,
            address,
            state: AtomicU8::new(IDLE),
            is_verified: AtomicBool::new(false),
            is_of_proxy: peer == Peer::Proxy,
            reader: AtomicWaker::new(),
        });
        table.classes[peer.class()].insert(&connection);
        self.show(&table);
        ConnectionSlot {
            connections: Arc::clone(self),
            connection,
        }
    }

    fn show(&self, table: &ConnectionTable) {
        if let Some([unknown, known]) = &self.gauges {
            let [strangers, others @ ..] = &table.classes;
            unknown.set(strangers.all.len() as f64);
            known.set(others.iter().map(|class| class.all.len()).sum::<usize>() as f64);
        }
    }

    /// Counts it, and warns now and then.
    fn note(&self, refused: ConnectionRefused, address: Address) {
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

    fn lock(&self) -> MutexGuard<'_, ConnectionTable> {
        // No code panics while it holds this lock.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The oldest that does nothing and may have to end, which from now on has ended.
fn idle(
    among: &BTreeMap<u64, Arc<ClientConnection>>,
    may_end: impl Fn(&ClientConnection) -> bool,
) -> Option<Arc<ClientConnection>> {
    let found = among.values().take(MAX_LOOKED_AT).find(|one| {
        may_end(one)
            && one
                .state
                .compare_exchange(IDLE, ENDED, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
    });
    found.cloned()
}

impl ConnectionTable {
    /// Whether an address has its share already, of a class for which so many places are left.
    fn has_share(&self, class: usize, address: Address, free: usize) -> bool {
        let own = self.classes[class].by_address.get(&address);
        own.is_some_and(|own| own.len() >= free.max(LEAST_SHARE))
    }

    /// The oldest of a class that does nothing. One that was verified is left where its address has no more than others have.
    fn idle(&self, class: usize) -> Option<Arc<ClientConnection>> {
        let PeerClass { all, by_address } = &self.classes[class];
        let average = all.len() / by_address.len().max(1);
        let has_more = |address: &Address| {
            by_address
                .get(address)
                .is_some_and(|own| own.len() > average.max(LEAST_SHARE))
        };
        idle(all, |one| {
            !one.is_verified.load(Ordering::Relaxed) || class == STRANGERS || !one.is_of_proxy && has_more(&one.address)
        })
    }

    /// Does nothing if it is no longer there.
    fn remove(&mut self, connection: &ClientConnection) {
        let _ = self.classes.iter_mut().any(|class| class.remove(connection));
    }
}

impl PeerClass {
    fn insert(&mut self, connection: &Arc<ClientConnection>) {
        self.all.insert(connection.id, Arc::clone(connection));
        let own = self.by_address.entry(connection.address).or_default();
        own.insert(connection.id, Arc::clone(connection));
    }

    fn remove(&mut self, connection: &ClientConnection) -> bool {
        if self.all.remove(&connection.id).is_none() {
            return false;
        }
        if let Some(own) = self.by_address.get_mut(&connection.address) {
            own.remove(&connection.id);
            if own.is_empty() {
                self.by_address.remove(&connection.address);
            }
        }
        true
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let mut table = self.connections.lock();
        table.remove(&self.connection);
        self.connections.show(&table);
    }
}

impl ConnectionSlot {
    /// A handle on the connection, for its requests.
    pub fn guest(&self) -> Guest {
        Guest {
            connections: Arc::clone(&self.connections),
            connection: Arc::clone(&self.connection),
        }
    }

    /// Its first request has come, so it is busy until that is answered. False if a newer one has taken its place.
    pub fn begin(&self) -> bool {
        let state = &self.connection.state;
        let begun = state.compare_exchange(IDLE, BUSY, Ordering::AcqRel, Ordering::Acquire);
        begun != Err(ENDED)
    }

    /// Ready when it has to end because a newer one took its place. Of several tasks only the last one that asked is woken.
    pub fn poll_end(&self, context: &Context<'_>) -> Poll<()> {
        let connection = &self.connection;
        connection.reader.register(context.waker());
        match connection.state.load(Ordering::Acquire) {
            ENDED => Poll::Ready(()),
            _ => Poll::Pending,
        }
    }
}

/// A connection, as its requests know it.
#[derive(Clone)]
pub struct Guest {
    connections: Arc<Connections>,
    connection: Arc<ClientConnection>,
}

impl Guest {
    /// A request of it came and is being answered until the result is dropped.
    pub fn busy(&self) -> BusyGuard {
        let state = &self.connection.state;
        // A connection that was just replaced stays replaced, and its answer is lost.
        let _ = state.compare_exchange(IDLE, BUSY, Ordering::AcqRel, Ordering::Relaxed);
        BusyGuard(Arc::clone(&self.connection))
    }

    /// A verified request came over it: it keeps its place, among those of known addresses, while its address has no more than its
    /// share of them.
    pub fn note_verified(&self) {
        if self.connection.is_verified.swap(true, Ordering::Relaxed) {
            return;
        }
        let mut table = self.connections.lock();
        let (id, address) = (self.connection.id, self.connection.address);
        if !table.classes[STRANGERS].all.contains_key(&id) {
            return;
        }
        let free = self.connections.free(&table, KNOWN);
        if !table.has_share(KNOWN, address, free) {
            table.remove(&self.connection);
            table.classes[KNOWN].insert(&self.connection);
            self.connections.show(&table);
        }
    }
}

/// While it is there, the connection is not taken for one that does nothing.
pub struct BusyGuard(Arc<ClientConnection>);

impl Drop for BusyGuard {
    fn drop(&mut self) {
        let state = &self.0.state;
        let _ = state.compare_exchange(BUSY, IDLE, Ordering::AcqRel, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
