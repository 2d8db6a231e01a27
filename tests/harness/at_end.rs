//! What must hold at the end of every test, whatever it did meanwhile.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::jetstream::consumer;
use futures_util::TryStreamExt;
use webhook_hub::{
    config::{self, Retention},
    database::Database,
    event::{EventId, EventType, Recorded},
    journal::connection::{Connection, HUB_INBOX},
    operator::queries::log_check,
    projection::rebuild::{self, Asked, Parts},
};

use super::{
    World,
    backend::ORDERS,
    log::{Acceptances, payload},
    played::Heard,
    wait::{PATIENCE, eventually},
};

/// After this time the server has handed out again what an instance did not acknowledge: `ack_wait` of the consumer `projection`, and the
/// time until the next instance pulls.
const HANDED_OUT_AGAIN: Duration = Duration::from_secs(75);

/// How the accepted webhooks of a test ended; each one in exactly one of these ways.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ends {
    pub(crate) forwarded: usize,
    pub(crate) ignored: usize,
    pub(crate) rejected: usize,
    pub(crate) dead_lettered: usize,
}

impl Ends {
    pub(crate) fn forwarded(count: usize) -> Self {
        Self {
            forwarded: count,
            ..Self::default()
        }
    }

    pub(crate) fn ignored(self, count: usize) -> Self {
        Self { ignored: count, ..self }
    }

    pub(crate) fn rejected(self, count: usize) -> Self {
        Self {
            rejected: count,
            ..self
        }
    }

    pub(crate) fn dead_lettered(self, count: usize) -> Self {
        Self {
            dead_lettered: count,
            ..self
        }
    }
}

impl World {
    /// Every accepted webhook ended, once, as declared; nothing is pending; the backend got each order byte for byte and in
    /// order; the tables say what the log says.
    pub(crate) async fn at_end(&self, expected: Ends) {
        self.at_end_within(PATIENCE, expected).await;
    }

    /// The same, with other patience for each wait: where much is left to be done, or pauses of minutes are part of it.
    pub(crate) async fn at_end_within(&self, patience: Duration, expected: Ends) {
        let mut events = self.log.settled_within(patience).await;
        events.retain(|event| !event.envelope.event_type.is_of_operator());
        assert_eq!(ends(&events), expected);
        self.nothing_pending(patience).await;
        self.backend_agrees(&events);
        self.tables_agree(&events, patience).await;
        // Without an event no hub has written anything.
        if !events.is_empty() {
            self.verified().await;
        }
    }

    /// `verify` finds nothing: a second opinion, and of each test's log and tables an opinion about `verify`. It runs here rather
    /// than as the command, which takes as long again to start.
    async fn verified(&self) {
        let mut environment = self.nats.settings("hub").set("DATABASE_URL", &self.database.url);
        environment.extend(&self.tables_by.lock().unwrap());
        let environment = environment.environment();
        let database = Database::new(&config::Database::from_environment(&environment).unwrap()).unwrap();
        let settings = config::Nats::from_environment(&environment).unwrap();
        let log = Connection::open(&settings, "verify", HUB_INBOX).await.unwrap();
        log.reach().await.unwrap();
        let parts = Parts {
            log: &log,
            database: &database,
            tell: &|_| {},
        };
        let all = Asked {
            tables: Vec::new(),
            from: None,
            to: None,
            provider: None,
            retention: Retention::of_hub(&environment).unwrap(),
        };
        let tables = Box::pin(rebuild::verify(parts, &all)).await.unwrap();
        assert!(tables.is_same, "verify: {tables:?}");
        let checked = log_check::check(&log, None, &|_| {}).await.unwrap();
        assert!(checked.is_whole, "verify: {checked:?}");
    }

    /// The same, but for the backend, which knows more than a log that was restored.
    pub(crate) async fn log_and_tables_end(&self, expected: Ends) {
        let mut events = self.log.settled().await;
        events.retain(|event| !event.envelope.event_type.is_of_operator());
        assert_eq!(ends(&events), expected);
        self.nothing_pending(PATIENCE).await;
        self.tables_agree(&events, PATIENCE).await;
    }

    /// No consumer has anything that is not handed out, or handed out and not acknowledged.
    ///
    /// The tables may have read events from the log that were handed out to an instance which stopped before it acknowledged them: it did
    /// so when nothing had come for a while. The server hands those out again after `ack_wait`.
    async fn nothing_pending(&self, within: Duration) {
        self.none_pending(within, |consumer| consumer != "projection").await;
        self.none_pending(within.max(HANDED_OUT_AGAIN), |_| true).await;
    }

    async fn none_pending(&self, within: Duration, is_asked: impl Fn(&str) -> bool) {
        let provision = self.nats.provision().await;
        eventually("nothing is pending in any consumer", within, async || {
            let stream = provision
                .get_stream("EVENTS")
                .await
                .map_err(|error| error.to_string())?;
            let infos: Vec<consumer::Info> = stream
                .consumers()
                .try_collect()
                .await
                .map_err(|error| error.to_string())?;
            // What only reads is set to a place each time; what lies behind that means nothing.
            let asked = infos
                .iter()
                .filter(|info| info.config.ack_policy != consumer::AckPolicy::None && is_asked(&info.name));
            let busy = asked.filter(|info| info.num_pending > 0 || info.num_ack_pending > 0);
            let mut busy: Vec<_> = busy
                .map(|info| format!("{}: {} + {}", info.name, info.num_pending, info.num_ack_pending))
                .collect();
            busy.extend(self.lanes().await.iter().map(|lane| format!("lane {lane}")));
            if busy.is_empty() { Ok(()) } else { Err(busy.join(", ")) }
        })
        .await;
    }

    /// Each key came with one body, which is the event's payload; the first coming of each is in the log's order, which is
    /// the order in which the webhooks were accepted. Where an order was announced again after it was forgotten, two events have
    /// one key, and their bodies differ in the time of acceptance.
    fn backend_agrees(&self, events: &[Arc<Recorded>]) {
        let (requests, known) = (self.backend.requests(), Posted::of(events));
        let mut bodies: HashMap<&str, &[u8]> = HashMap::new();
        let mut arrived: HashMap<String, Vec<&str>> = HashMap::new();
        for request in requests
            .iter()
            .filter(|request| !known.of_its_own.contains_key(request.key()))
        {
            let key = request.key();
            match bodies.insert(key, &request.body) {
                Some(_) if known.is_of_several(key) => {
                    let is_one = known.by_key[key].iter().any(|event| event.payload == request.body);
                    assert!(is_one, "a body that is no event's under the Idempotency-Key {key}");
                }
                Some(before) => assert_eq!(
                    before, &request.body,
                    "another body under the same Idempotency-Key {key}"
                ),
                None => arrived.entry(known.order_of(request)).or_default().push(key),
            }
        }
        // Repeated announcements that were sent as news.
        let news: HashSet<_> = requests
            .iter()
            .filter(|request| request.path != ORDERS)
            .map(Heard::key)
            .collect();
        let as_news = |key: &str| news.contains(key);
        let came = |key: &str| requests.iter().any(|request| request.key() == key);
        let mut recorded: HashMap<String, Vec<String>> = HashMap::new();
        for event in events {
            // A repeated announcement with the same key may have been sent as news, by its event's id.
            let [key, id] = names(event);
            let names = [as_news(&id).then(|| id.clone()), Some(key), Some(id)];
            let sent = names.into_iter().flatten().find(|name| bodies.contains_key(&**name));
            match (event.envelope.event_type, sent) {
                (EventType::OrderTransformed, Some(key)) => {
                    if (!event.envelope.is_creation() || !as_news(&key)) && !known.is_of_several(&key) {
                        assert_eq!(bodies[&*key], event.payload, "the body is the event's payload");
                    }
                    let recorded = recorded.entry(order_name(event)).or_default();
                    let status = status_too(event);
                    let sent = [Some(key), bodies.contains_key(&*status).then_some(status)];
                    for key in sent.into_iter().flatten() {
                        if !recorded.contains(&key) {
                            recorded.push(key);
                        }
                    }
                }
                (EventType::OrderForwarded, _) => {
                    let [key, id] = known.keys_of(event);
                    let mut own = known.of_its_own.iter().filter(|(_, event)| **event == id);
                    assert!(
                        bodies.contains_key(&*key) || bodies.contains_key(&*id) || own.any(|(own, _)| came(own)),
                        "{key} is recorded as forwarded but the backend never got it"
                    );
                }
                _ => {}
            }
        }
        in_order_of_acceptance(events);
        for (order, keys) in &recorded {
            let arrived = arrived.get(order).cloned().unwrap_or_default();
            assert!(
                arrived == *keys || passed_by_its_creation(&arrived, keys, &known.by_key),
                "{order}: keys as they stand on the log: {keys:#?}, as they arrived: {:#?}",
                arrivals(&requests, |request| known.order_of(request) == *order)
            );
        }
        assert_eq!(
            arrived.len(),
            recorded.len(),
            "the backend got an order that is not on the log"
        );
    }
}

/// What is known of the events that requests are made of.
struct Posted<'a> {
    by_id: HashMap<String, &'a Recorded>,
    by_sequence: HashMap<u64, &'a Recorded>,
    /// By the key of a new order, and by the id, which is the key of everything else.
    by_key: HashMap<String, Vec<&'a Recorded>>,
    /// Keys of what somebody declared to be an order of its own, with the ids of their events.
    of_its_own: HashMap<String, String>,
}

impl<'a> Posted<'a> {
    fn of(events: &'a [Arc<Recorded>]) -> Self {
        let mut posted = Self {
            by_id: HashMap::new(),
            by_sequence: HashMap::new(),
            by_key: HashMap::new(),
            of_its_own: HashMap::new(),
        };
        for event in events {
            let id = event.envelope.id;
            posted.by_id.insert(id.to_string(), event);
            posted.by_sequence.insert(event.sequence, event);
            if event.envelope.event_type == EventType::OrderTransformed {
                let own = id.derive("order_of_its_own").to_string();
                posted.of_its_own.insert(own, id.to_string());
                let [key, id] = names(event);
                for name in BTreeSet::from([key, id, status_too(event)]) {
                    posted.by_key.entry(name).or_default().push(event);
                }
            }
        }
        posted
    }

    fn is_of_several(&self, key: &str) -> bool {
        self.by_key.get(key).is_some_and(|events| events.len() > 1)
    }

    fn order_of(&self, request: &Heard) -> String {
        let events = self.by_key.get(request.key());
        events.map_or_else(|| order_of(request), |events| order_name(events[0]))
    }

    /// The [`names`] of what was posted, which is the cause of this, or what the request that is its cause took up again.
    fn keys_of(&self, forwarded: &Recorded) -> [String; 2] {
        let cause = forwarded.envelope.cause_id.unwrap().to_string();
        match self.by_id.get(&cause) {
            Some(request) if request.envelope.event_type == EventType::OrderRetryRequested => {
                let taken_up = self.by_sequence[&payload(request)["sequence"].as_u64().unwrap()];
                assert_eq!(taken_up.envelope.event_type, EventType::OrderTransformed);
                names(taken_up)
            }
            Some(posted) => names(posted),
            None => [cause.clone(), cause],
        }
    }
}

/// The key of the request that an event makes as it is, and its id, which is the key of what is sent as news.
fn names(event: &Recorded) -> [String; 2] {
    [event.envelope.request_key().to_string(), event.envelope.id.to_string()]
}

/// The key of the status that an announcement says in addition to its amendment.
fn status_too(event: &Recorded) -> String {
    event.envelope.id.derive("status_of_amendment").to_string()
}

/// Provider and number of the order that a request is about.
fn order_of(request: &Heard) -> String {
    let provider = &request.json()["originalWebhook"]["providerId"];
    format!("{} {}", provider.as_str().unwrap(), request.external_order_id())
}

/// Provider and number of the order that an event is about, and the branch whose own secret proved it: such have lines of their
/// own.
fn order_name(event: &Recorded) -> String {
    let envelope = &event.envelope;
    let branch = envelope.principal.branch().map(|branch| format!(" of {branch}"));
    format!(
        "{} {}{}",
        envelope.provider,
        envelope.external_order_id,
        branch.unwrap_or_default()
    )
}

/// Whether all keys but that of the event that created the order came as they stand on the log, and that one earlier:
/// a word about an order that nobody knows yet lets it pass.
fn passed_by_its_creation(arrived: &[&str], recorded: &[String], by_key: &HashMap<String, Vec<&Recorded>>) -> bool {
    let creates = |key: &str| by_key[key][0].envelope.is_creation();
    let recorded: Vec<&str> = recorded.iter().map(String::as_str).collect();
    let place = |keys: &[&str]| keys.iter().position(|key| creates(key));
    let others = |keys: &[&str]| {
        keys.iter()
            .filter(|key| !creates(key))
            .map(|key| (*key).to_owned())
            .collect::<Vec<_>>()
    };
    others(arrived) == others(&recorded) && place(arrived).is_some_and(|came| Some(came) < place(&recorded))
}

/// Every request about an order, for whoever has to find out what happened.
fn arrivals(requests: &[Heard], is_of_order: impl Fn(&Heard) -> bool) -> Vec<(Instant, &str, &str)> {
    let of_order = requests.iter().filter(|request| is_of_order(request));
    of_order
        .map(|request| (request.at, request.key(), request.path.as_str()))
        .collect()
}

/// The outcomes of an order's webhooks stand on the log in the order of the webhooks.
fn in_order_of_acceptance(events: &[Arc<Recorded>]) {
    let acceptances = Acceptances::of(events);
    let mut latest: HashMap<String, u64> = HashMap::new();
    for event in events {
        // What a test put on the log itself came from no webhook; what was taken up again comes when it comes.
        let is_first = event.envelope.cause_id == Some(event.envelope.root_id);
        if event.envelope.event_type != EventType::OrderTransformed || !is_first {
            continue;
        }
        let (_, sequence) = acceptances.of_event(event);
        if sequence == 0 {
            continue;
        }
        let order = order_name(event);
        let before = latest.insert(order.clone(), sequence).unwrap_or_default();
        assert!(
            before < sequence,
            "{order}: webhook {sequence} was transformed after {before}"
        );
    }
}

fn ends(events: &[Arc<Recorded>]) -> Ends {
    let acceptances = Acceptances::of(events);
    let mut by_acceptance: HashMap<(EventId, u64), EventType> = HashMap::new();
    // For whoever has to find out what happened.
    let story = |root: EventId| {
        let of_it = events.iter().filter(|event| event.envelope.root_id == root);
        of_it
            .map(|event| {
                let (envelope, sequence) = (&event.envelope, event.sequence);
                let (id, cause) = (envelope.id, envelope.cause_sequence);
                format!("{sequence} {} {id} after {cause:?}", envelope.event_type)
            })
            .collect::<Vec<_>>()
    };
    for event in events {
        let event_type = event.envelope.event_type;
        let acceptance = acceptances.of_event(event);
        if event_type == EventType::OrderRetryRequested {
            let earlier = by_acceptance.remove(&acceptance);
            let can_be_retried = [
                EventType::OrderDeadLettered,
                EventType::OrderRejected,
                EventType::OrderIgnored,
            ];
            // What the backend has is sent again only where a person says so. What is lost has no end.
            let is_again = payload(event)["again"] == true && earlier == Some(EventType::OrderForwarded);
            let is_lost = earlier.is_none() && payload(event)["endedAs"].is_null();
            assert!(
                is_again || is_lost || earlier.is_some_and(|end| can_be_retried.contains(&end)),
                "a retry of what ended as {earlier:?}"
            );
        }
        if !event_type.ends() {
            continue;
        }
        let earlier = by_acceptance.insert(acceptance, event_type);
        // Another announcement found out whether the backend has what was given up.
        let may_be_confirmed = [EventType::OrderForwarded, EventType::OrderDeadLettered].contains(&event_type);
        let is_confirmed = may_be_confirmed && payload(event)["confirmedBy"].is_u64();
        let may = if is_confirmed {
            Some(EventType::OrderDeadLettered)
        } else {
            None
        };
        let root = event.envelope.root_id;
        assert_eq!(earlier, may, "webhook {root} ended twice: {:#?}", story(root));
    }
    let count = |one: EventType| by_acceptance.values().filter(|end| **end == one).count();
    Ends {
        forwarded: count(EventType::OrderForwarded),
        ignored: count(EventType::OrderIgnored),
        rejected: count(EventType::OrderRejected),
        dead_lettered: count(EventType::OrderDeadLettered),
    }
}

/// A time limit for what takes as long as an append may take, and some more.
pub(crate) const ONE_APPEND: Duration = Duration::from_millis(6500);
