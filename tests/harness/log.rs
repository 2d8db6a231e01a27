//! The log, as the library reads it, for assertions.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::sync::Mutex;
use webhook_hub::{
    config,
    event::{EventId, EventType, Recorded},
    journal::{
        connection::{Connection, HUB_INBOX},
        read::{Entry, LogReader},
    },
};

use super::{
    servers::Nats,
    wait::{PATIENCE, eventually},
};

/// The log of one test.
pub(crate) struct Log(Mutex<Read>);

struct Read {
    reader: LogReader,
    events: Vec<Arc<Recorded>>,
    unreadable: Vec<u64>,
}

impl Log {
    /// Reads as the user `hub`, on a connection of its own.
    pub(crate) async fn open(nats: &Nats) -> Self {
        let settings = config::Nats::from_environment(&nats.settings("hub").environment()).unwrap();
        let connection = Connection::open(&settings, "test", HUB_INBOX).await.unwrap();
        connection.wait_up().await;
        let reader = LogReader::from(&connection, 1);
        Self(Mutex::new(Read {
            reader,
            events: Vec::new(),
            unreadable: Vec::new(),
        }))
    }

    /// All events so far, in their order.
    pub(crate) async fn events(&self) -> Vec<Arc<Recorded>> {
        eventually("the log is read", PATIENCE, async || {
            self.try_events().await.map_err(|error| format!("{error:#}"))
        })
        .await
    }

    /// As [`Self::events`], or why NATS does not answer.
    pub(crate) async fn try_events(&self) -> anyhow::Result<Vec<Arc<Recorded>>> {
        let mut read = self.0.lock().await;
        loop {
            let entries = read.reader.next_batch().await?;
            if entries.is_empty() {
                return Ok(read.events.clone());
            }
            for entry in entries {
                match entry {
                    Entry::Event(event) => read.events.push(Arc::new(*event)),
                    Entry::Unreadable { sequence, .. } => read.unreadable.push(sequence),
                }
            }
        }
    }

    /// Sequences of the messages that are no events.
    pub(crate) async fn unreadable(&self) -> Vec<u64> {
        self.events().await;
        self.0.lock().await.unreadable.clone()
    }

    /// Waits until `judge` accepts the events so far. It is asked once for each state of the log, not at each look, and takes at most a
    /// quarter of the time: the hub has the same cores.
    async fn until<T>(
        &self,
        what: &str,
        patience: Duration,
        mut judge: impl FnMut(Vec<Arc<Recorded>>) -> Result<T, String>,
    ) -> T {
        let (mut judged, mut said, mut next) = (None, String::new(), Instant::now());
        eventually(what, patience, async || {
            let events = self.try_events().await.map_err(|error| format!("{error:#}"))?;
            let began = Instant::now();
            if began >= next && judged.replace(events.len()) != Some(events.len()) {
                match judge(events) {
                    Ok(found) => return Ok(found),
                    Err(reason) => said = reason,
                }
                next = Instant::now() + 3 * began.elapsed();
            }
            Err(said.clone())
        })
        .await
    }

    /// Waits for so many events of a type, and returns them.
    pub(crate) async fn wait_for(&self, event_type: EventType, count: usize) -> Vec<Arc<Recorded>> {
        let is_wanted = |event: &&Arc<Recorded>| event.envelope.event_type == event_type;
        self.until(&format!("{count} of {event_type}"), PATIENCE, |events| {
            let found: Vec<_> = events.iter().filter(is_wanted).cloned().collect();
            if found.len() >= count {
                Ok(found)
            } else {
                Err(summary(&events))
            }
        })
        .await
    }

    /// Payloads of all events of a type, of which there are so many.
    pub(crate) async fn payloads(&self, event_type: EventType, count: usize) -> Vec<Value> {
        let events = self.wait_for(event_type, count).await;
        assert_eq!(events.len(), count, "{event_type}");
        events.iter().map(|event| payload(event)).collect()
    }

    /// Waits until every accepted webhook has an ending, and returns all events.
    pub(crate) async fn settled(&self) -> Vec<Arc<Recorded>> {
        self.settled_within(PATIENCE).await
    }

    /// The same, with other patience.
    pub(crate) async fn settled_within(&self, patience: Duration) -> Vec<Arc<Recorded>> {
        self.until("every accepted webhook has ended", patience, |events| {
            match open(&events) {
                0 => Ok(events),
                open => Err(format!("{open} have not: {}", summary(&events))),
            }
        })
        .await
    }
}

/// Which acceptance of a webhook an event belongs to: an event says where the one stands that it followed from.
pub(crate) struct Acceptances<'a> {
    by_sequence: HashMap<u64, &'a Recorded>,
    first: HashMap<EventId, u64>,
}

impl<'a> Acceptances<'a> {
    pub(crate) fn of(events: &'a [Arc<Recorded>]) -> Self {
        let mut first = HashMap::new();
        for event in events {
            if event.envelope.event_type == EventType::WebhookReceived {
                first.entry(event.envelope.id).or_insert(event.sequence);
            }
        }
        let by_sequence = events.iter().map(|event| (event.sequence, &**event)).collect();
        Self { by_sequence, first }
    }

    /// The webhook's id, and where that acceptance of it stands: the first where the event does not say, 0 where there is none.
    pub(crate) fn of_event(&self, event: &Recorded) -> (EventId, u64) {
        let root = event.envelope.root_id;
        let (mut at, first) = (event, self.first.get(&root).copied().unwrap_or_default());
        loop {
            if at.envelope.event_type == EventType::WebhookReceived {
                return (root, at.sequence);
            }
            if at.envelope.root_id == at.envelope.id {
                // A request of the backend.
                return (root, 0);
            }
            match at
                .envelope
                .cause_sequence
                .and_then(|cause| self.by_sequence.get(&cause))
            {
                Some(cause) if cause.envelope.root_id == root => at = cause,
                _ => return (root, first),
            }
        }
    }
}

/// How many webhooks have no ending.
fn open(events: &[Arc<Recorded>]) -> usize {
    let acceptances = Acceptances::of(events);
    let mut ended: HashMap<(EventId, u64), bool> = HashMap::new();
    for event in events
        .iter()
        .filter(|event| !event.envelope.event_type.is_of_operator())
    {
        let acceptance = ended.entry(acceptances.of_event(event)).or_default();
        match event.envelope.event_type {
            // What was given up is taken up again.
            EventType::OrderRetryRequested => *acceptance = false,
            one => *acceptance |= one.ends(),
        }
    }
    ended.values().filter(|ended| !**ended).count()
}

/// How many of each type.
fn summary(events: &[Arc<Recorded>]) -> String {
    let count = |one: EventType| {
        (
            one,
            events.iter().filter(|event| event.envelope.event_type == one).count(),
        )
    };
    let counts = EventType::ALL.into_iter().map(count).filter(|(_, count)| *count > 0);
    counts
        .map(|(one, count)| format!("{count} {one}"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// An event's payload.
pub(crate) fn payload(event: &Recorded) -> Value {
    serde_json::from_slice(&event.payload).unwrap()
}
