//! Much of the log is read by a consumer that is set to a place, and by direct gets wherever that does not bring exactly what follows.

use std::future::IntoFuture as _;

use async_nats::{HeaderMap, jetstream};
use futures_util::StreamExt as _;
use webhook_hub::{
    config,
    journal::{
        connection::{Connection, HUB_INBOX},
        identity::Mark,
        read::{BATCH, LogReader, LongReader, end},
    },
};

use crate::harness::servers::Nats;

/// Messages of the log: five batches and a part of one.
const MESSAGES: u64 = 5 * BATCH as u64 + 300;
/// The consumer by which it is read.
const CONSUMER: &str = "read-rebuild";

/// A log, and a connection of the hub's user.
struct Log {
    nats: Nats,
    connection: Connection,
}

/// What a reader found: the places, and the mark of the last message.
type Found = (Vec<u64>, Option<Mark>);

impl Log {
    async fn with_messages() -> Self {
        Self::of(Nats::start_with_streams().await).await
    }

    /// The messages before this place have left it.
    async fn beginning_at(place: u64) -> Self {
        let nats = Nats::start_with_streams().await;
        let provision = nats.provision().await;
        let config = provision
            .get_stream("EVENTS")
            .await
            .unwrap()
            .cached_info()
            .config
            .clone();
        provision.delete_stream("EVENTS").await.unwrap();
        let later = jetstream::stream::Config {
            first_sequence: Some(place),
            ..config
        };
        provision.create_stream(later).await.unwrap();
        nats.apply_streams().await;
        Self::of(nats).await
    }

    async fn of(nats: Nats) -> Self {
        let client = nats.connect("hub").await;
        let context = jetstream::new(client);
        let mut appended = Vec::new();
        for number in 0..MESSAGES {
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Msg-Id", format!("message-{number}"));
            let subject = format!("webhooks.received.careem.p{:02}", number % 7);
            let sent = context.publish_with_headers(subject, headers, "{}".into()).await;
            appended.push(sent.unwrap().into_future());
            if appended.len() == 500 {
                futures_util::future::try_join_all(appended.drain(..)).await.unwrap();
            }
        }
        futures_util::future::try_join_all(appended).await.unwrap();
        let settings = config::Nats::from_environment(&nats.settings("hub").environment()).unwrap();
        let connection = Connection::open(&settings, "test", HUB_INBOX).await.unwrap();
        connection.reach().await.unwrap();
        Self { nats, connection }
    }

    async fn reader(&self, from: u64) -> LogReader {
        LogReader::from(&self.connection, from).up_to(end(&self.connection).await.unwrap())
    }

    async fn by_gets(&self, from: u64) -> Found {
        read(self.reader(from).await).await
    }

    async fn by_consumer(&self, from: u64) -> LogReader {
        self.reader(from).await.by(&self.connection, LongReader::Rebuild)
    }

    /// The place up to which the consumer has handed out messages.
    async fn handed_out(&self) -> u64 {
        let stream = self.nats.provision().await.get_stream("EVENTS").await.unwrap();
        let consumer = stream.get_consumer::<jetstream::consumer::pull::Config>(CONSUMER).await;
        consumer.unwrap().cached_info().delivered.stream_sequence
    }
}

async fn read(mut reader: LogReader) -> Found {
    let mut places = Vec::new();
    read_on(&mut reader, &mut places, u64::MAX).await;
    (places, reader.mark())
}

/// Up to the batch that reaches a place.
async fn read_on(reader: &mut LogReader, places: &mut Vec<u64>, up_to: u64) {
    while places.last().is_none_or(|last| *last < up_to) {
        let entries = reader.next_batch().await.unwrap();
        if entries.is_empty() {
            return;
        }
        places.extend(entries.iter().map(|entry| entry.sequence()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_brings_what_direct_gets_find() {
    let log = Log::with_messages().await;
    let all: Vec<u64> = (1..=MESSAGES).collect();
    let by_gets = log.by_gets(1).await;
    assert_eq!(by_gets.0, all);
    assert_eq!(log.handed_out().await, 0);
    assert!(by_gets.1.is_some());
    for from in [1, 700, 1] {
        let found = read(log.by_consumer(from).await).await;
        assert_eq!(found.0, all[from as usize - 1..]);
        assert_eq!(found.1, by_gets.1, "the mark");
        assert_eq!(log.handed_out().await, MESSAGES, "the consumer was used");
    }
    // A few messages are not worth setting it.
    let few = MESSAGES - 2 * BATCH as u64;
    let stream = log.nats.provision().await.get_stream("EVENTS").await.unwrap();
    stream.delete_consumer(CONSUMER).await.unwrap();
    log.nats.apply_streams().await;
    assert_eq!(read(log.by_consumer(few).await).await.0, all[few as usize - 1..]);
    assert_eq!(log.handed_out().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_else_takes_messages_of_the_consumer() {
    let log = Log::with_messages().await;
    let by_gets = log.by_gets(1).await;
    // Two readers at a time, in turns.
    let (mut one, mut other) = (log.by_consumer(1).await, log.by_consumer(1).await);
    let (mut of_one, mut of_other) = (Vec::new(), Vec::new());
    for batch in 1..=3 {
        read_on(&mut one, &mut of_one, batch * BATCH as u64).await;
        read_on(&mut other, &mut of_other, batch * BATCH as u64).await;
    }
    read_on(&mut one, &mut of_one, u64::MAX).await;
    read_on(&mut other, &mut of_other, u64::MAX).await;
    assert_eq!((&of_one, &of_other), (&by_gets.0, &by_gets.0));
    assert_eq!((one.mark(), other.mark()), (by_gets.1, by_gets.1));

    // One that has set it to another place, and takes as many.
    let mut reader = log.by_consumer(1).await;
    let mut places = Vec::new();
    read_on(&mut reader, &mut places, 2 * BATCH as u64).await;
    assert_eq!(log.handed_out().await, 2 * BATCH as u64);
    let client = log.nats.connect("hub").await;
    let reset = format!("$JS.API.CONSUMER.RESET.EVENTS.{CONSUMER}");
    client.request(reset, r#"{"seq":3000}"#.into()).await.unwrap();
    let inbox = client.new_inbox();
    let mut taken = client.subscribe(inbox.clone()).await.unwrap();
    let pull = format!(r#"{{"batch":{BATCH},"no_wait":true}}"#);
    let next = format!("$JS.API.CONSUMER.MSG.NEXT.EVENTS.{CONSUMER}");
    client.publish_with_reply(next, inbox, pull.into()).await.unwrap();
    for _ in 0..BATCH {
        taken.next().await.unwrap();
    }
    read_on(&mut reader, &mut places, u64::MAX).await;
    assert_eq!(places, by_gets.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_consumer_is_missing_or_goes_while_the_log_is_read() {
    let log = Log::with_messages().await;
    let by_gets = log.by_gets(1).await;
    let stream = log.nats.provision().await.get_stream("EVENTS").await.unwrap();
    let mut reader = log.by_consumer(1).await;
    let mut places = Vec::new();
    read_on(&mut reader, &mut places, 2 * BATCH as u64).await;
    assert_eq!(log.handed_out().await, 2 * BATCH as u64);
    stream.delete_consumer(CONSUMER).await.unwrap();
    read_on(&mut reader, &mut places, u64::MAX).await;
    assert_eq!((places, reader.mark()), by_gets);
    assert_eq!(read(log.by_consumer(1).await).await, by_gets);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_has_lost_its_beginning() {
    let log = Log::beginning_at(1201).await;
    let by_gets = log.by_gets(1).await;
    assert_eq!(by_gets.0, (1201..=1200 + MESSAGES).collect::<Vec<_>>());
    assert_eq!(read(log.by_consumer(1).await).await, by_gets);
    assert_eq!(log.handed_out().await, 1200 + MESSAGES, "the consumer was used");
}
