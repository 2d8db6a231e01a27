//! Every provider that the hub sends requests to, played over HTTP: one row for each file of `providers/` with a table `[outbound]`, and
//! one case for each way in which a call can go. Rows are made from the files, so a new file has its row without any work here.

mod rows;

use std::{
    ops::RangeInclusive,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use chrono::Utc;
use futures_util::future::join_all;
use serde_json::{Value, json};
use webhook_hub::event::{EventType, Recorded};

use self::rows::{Action, Row};
use crate::harness::{
    World,
    at_end::Ends,
    hub::Hub,
    log::payload,
    platform::Say,
    wait::{PATIENCE, eventually},
};

/// How far a wrong clock is from ours, in seconds: hours, in both directions.
const WRONG_CLOCKS: [i64; 2] = [5 * 3600, -5 * 3600];
/// The end of a pause that a provider asks for by a date, in seconds from its own time.
const UNTIL: i64 = 3;
/// What comes after a refusal that is no provider's fault: the first quick retry.
const NEXT_TRY: RangeInclusive<Duration> = Duration::from_millis(950)..=Duration::from_secs(15);

/// What must become of a request of the backend.
#[derive(Debug, Clone, PartialEq)]
enum Expect {
    /// The provider has it, after so many attempts.
    Pushed { attempts: u64, already: bool },
    /// It is a dead letter after one attempt: the hub's code, and the provider's.
    Dead(String, Option<String>),
}

impl Expect {
    const fn pushed(attempts: u64) -> Self {
        Self::Pushed {
            attempts,
            already: false,
        }
    }

    fn of(event: &Recorded) -> Option<Self> {
        let said = payload(event);
        match event.envelope.event_type {
            EventType::OrderStatusPushed | EventType::StorePushed | EventType::ItemsPushed => Some(Self::Pushed {
                attempts: said["attempts"].as_u64()?,
                already: said["already"] == true,
            }),
            EventType::OrderDeadLettered => {
                let error = &said["error"];
                let text = |value: &Value| value.as_str().map(str::to_owned);
                Some(Self::Dead(
                    text(&error["code"])?,
                    text(&error["details"]["providerCode"]),
                ))
            }
            _ => None,
        }
    }
}

/// A request of the backend that is on the log.
struct Asked {
    row: usize,
    event: String,
    what: String,
    expect: Expect,
}

/// The table: a hub, all rows, and what was wrong so far.
struct Table {
    world: World,
    hub: Hub,
    rows: Vec<Row>,
    orders: u64,
    dead: usize,
    wrong: Vec<String>,
}

impl Table {
    async fn new() -> Self {
        let world = World::new().await;
        let files = tempfile::tempdir().unwrap();
        let (rows, settings) = rows::all(&world, &files).await;
        let hub = Hub::start(&settings).await;
        Self {
            world,
            hub,
            rows,
            orders: 900_000,
            dead: 0,
            wrong: Vec::new(),
        }
    }

    /// Asks for these, and says what must become of each.
    async fn ask(&mut self, wanted: Vec<(usize, Action, Expect)>) -> Vec<Asked> {
        let first = self.orders;
        self.orders += wanted.len() as u64;
        let (hub, rows) = (&self.hub, &self.rows);
        let ask = |((row, action, expect), order): ((usize, Action, Expect), u64)| async move {
            Asked {
                row,
                event: rows[row].ask(hub, &action, order).await,
                what: format!("{action:?}"),
                expect,
            }
        };
        join_all(wanted.into_iter().zip(first..).map(ask)).await
    }

    /// Waits until all of them have ended, and notes what ended differently.
    async fn ends(&mut self, case: &str, asked: &[Asked]) {
        let log = &self.world.log;
        let ended = |events: &[Arc<Recorded>], one: &Asked| {
            let of_one = events
                .iter()
                .filter(|event| event.envelope.root_id.to_string() == one.event);
            of_one.filter_map(|event| Expect::of(event)).next_back()
        };
        let open = |events: &[Arc<Recorded>]| -> Vec<String> {
            let open = asked.iter().filter(|one| ended(events, one).is_none());
            open.map(|one| format!("{} {}", self.rows[one.row].name, one.what))
                .collect()
        };
        let what = format!("{case}: everything ends");
        let all_ended = eventually(&what, PATIENCE, async || {
            let events = log.events().await;
            let open = open(&events);
            if open.is_empty() { Ok(events) } else { Err(open) }
        });
        let events = all_ended.await;
        for one in asked {
            let found = ended(&events, one);
            self.dead += usize::from(matches!(found, Some(Expect::Dead(..))));
            if found.as_ref() != Some(&one.expect) {
                let name = &self.rows[one.row].name;
                self.wrong
                    .push(format!("{case}: {name} {}: {found:?}, not {:?}", one.what, one.expect));
            }
        }
    }

    /// One action of each row for which the case has answers.
    async fn case(&mut self, case: &str, of: impl Fn(&Row) -> Option<(Vec<Say>, Expect)>) {
        let mut wanted = Vec::new();
        for (at, row) in self.rows.iter_mut().enumerate() {
            let Some((answers, expect)) = of(row) else { continue };
            row.platform.next(answers);
            row.mark();
            wanted.push((at, row.action, expect));
        }
        let asked = self.ask(wanted).await;
        self.ends(case, &asked).await;
    }

    /// The same, with a pause that must lie between two calls of each row.
    async fn paused(&mut self, case: &str, pause: RangeInclusive<Duration>, answer: Say) {
        self.case(case, |_| Some((vec![answer.clone()], Expect::pushed(2))))
            .await;
        for row in &self.rows {
            let calls = row.calls();
            let between = calls.get(1).map(|second| second.at - calls[0].at);
            if calls.len() != 2 || between.is_none_or(|between| !pause.contains(&between)) {
                self.wrong.push(format!(
                    "{case}: {}: {} calls, {between:?} between them, not {pause:?}",
                    row.name,
                    calls.len()
                ));
            }
        }
    }

    /// All platforms have this clock.
    fn clocks(&self, ahead: i64) {
        for row in &self.rows {
            row.platform.clock().store(ahead, Ordering::Relaxed);
        }
    }
}

fn too_often(seconds: Option<u64>, until: Option<i64>) -> Say {
    Say {
        retry_after: seconds,
        retry_date: until,
        ..Say::status(429)
    }
}

/// Success, refusals, what is so already, throttling, outages and refused tokens, of every provider.
#[tokio::test(flavor = "multi_thread")]
async fn every_call_of_every_provider_takes_every_failure() {
    let mut table = Table::new().await;
    let every = |(at, row): (usize, &Row)| {
        let actions = row.actions().into_iter();
        actions
            .map(|action| (at, action, Expect::pushed(1)))
            .collect::<Vec<_>>()
    };
    let wanted = table.rows.iter().enumerate().flat_map(every).collect();
    let asked = table.ask(wanted).await;
    table.ends("success", &asked).await;
    table
        .case("refused", |row| {
            let (answer, code) = row.refusal();
            Some((vec![answer], Expect::Dead(code, Some("SAID_NO".into()))))
        })
        .await;
    let most = table.rows.iter().map(|row| row.special().len()).max().unwrap_or(0);
    for at in 0..most {
        let mut wanted = Vec::new();
        for (number, row) in table.rows.iter().enumerate() {
            if let Some((action, answer, expect)) = row.special().into_iter().nth(at) {
                row.platform.next([answer]);
                wanted.push((number, action, expect));
            }
        }
        let asked = table.ask(wanted).await;
        table.ends("its own rules of answers", &asked).await;
    }
    table
        .paused("429 with seconds", NEXT_TRY, too_often(Some(1), None))
        .await;
    table.paused("503", NEXT_TRY, Say::status(503)).await;
    let unavailable = |row: &Row| Some((vec![row.later()?], Expect::pushed(2)));
    table.case("its own answer of an outage", unavailable).await;
    no_connection(&mut table).await;
    token_refused(&mut table).await;
    token_throttled(&mut table).await;
    finish(table).await;
}

/// Waits until each of these was tried in vain.
async fn failed(table: &Table, asked: &[Asked]) {
    let failed = [EventType::OrderStatusPushFailed, EventType::StorePushFailed];
    eventually("every provider was tried in vain", PATIENCE, async || {
        let events = table.world.log.events().await;
        let tried = |one: &&Asked| {
            events.iter().any(|event| {
                failed.contains(&event.envelope.event_type) && event.envelope.root_id.to_string() == one.event
            })
        };
        match asked.iter().filter(tried).count() {
            count if count == asked.len() => Ok(()),
            count => Err(count),
        }
    })
    .await;
}

/// No connection, and then one.
async fn no_connection(table: &mut Table) {
    join_all(table.rows.iter().map(|row| row.platform.close())).await;
    let wanted = (0..table.rows.len()).map(|at| (at, table.rows[at].action, Expect::pushed(2)));
    let wanted = wanted.collect();
    let asked = table.ask(wanted).await;
    failed(table, &asked).await;
    table.rows.iter().for_each(|row| row.platform.open());
    table.ends("no connection", &asked).await;
}

/// Where tokens are given, another one is had at once; a secret that is refused is tried again later.
async fn token_refused(table: &mut Table) {
    let refused = |row: &Row| {
        row.platform.forget_tokens();
        let is_replaced = row.gets_tokens() || row.signs_tokens();
        let answers = if row.gets_tokens() {
            vec![]
        } else {
            vec![row.unauthorised()]
        };
        Some((answers, Expect::pushed(if is_replaced { 1 } else { 2 })))
    };
    table.case("401", refused).await;
    for row in table.rows.iter().filter(|row| row.gets_tokens()) {
        let tokens = row.tokens();
        if tokens.len() != 1 {
            table
                .wrong
                .push(format!("401: {}: {} tokens, not 1", row.name, tokens.len()));
        }
    }
}

/// A provider that gives no token for a while is left alone by all requests.
async fn token_throttled(table: &mut Table) {
    let mut wanted = Vec::new();
    for (at, row) in table.rows.iter_mut().enumerate().filter(|(_, row)| row.gets_tokens()) {
        row.mark();
        row.platform.forget_tokens();
        row.platform.next_token(too_often(Some(2), None));
        wanted.push((at, row.action, Expect::pushed(2)));
    }
    let first = table.ask(wanted.clone()).await;
    failed(table, &first).await;
    for (_, _, expect) in &mut wanted {
        *expect = Expect::pushed(1);
    }
    let second = table.ask(wanted).await;
    table.ends("no token for 2 s, and one request more", &second).await;
    table.ends("no token for 2 s", &first).await;
    for row in table.rows.iter().filter(|row| row.gets_tokens()) {
        let times = row.tokens();
        let pause = times.get(1).map(|second| *second - times[0]);
        if times.len() != 2 || pause.is_none_or(|pause| pause < Duration::from_millis(1900)) {
            table.wrong.push(format!(
                "no token for 2 s: {}: {} requests, {pause:?} between them",
                row.name,
                times.len()
            ));
        }
    }
}

/// A provider's clock that is hours off costs neither hours nor tokens.
#[tokio::test(flavor = "multi_thread")]
async fn no_provider_is_lost_by_a_wrong_clock() {
    let mut table = Table::new().await;
    // The pause that is asked for, less the part of a second that dates leave out, and less than a quick retry more.
    let pause = Duration::from_millis(1950)..=Duration::from_secs(10);
    table
        .paused("429 with a date", pause.clone(), too_often(None, Some(UNTIL)))
        .await;
    for ahead in WRONG_CLOCKS {
        table.clocks(ahead);
        table.rows.iter().for_each(|row| row.platform.forget_tokens());
        let case = format!("a clock that is {ahead} s ahead");
        table.case(&case, |_| Some((vec![], Expect::pushed(1)))).await;
        // Where it was learnt, nothing is refused any more.
        table.case(&case, |_| Some((vec![], Expect::pushed(1)))).await;
        for row in &table.rows {
            let calls = row.calls();
            if calls.len() != 1 {
                table
                    .wrong
                    .push(format!("{case}: {}: {} calls, not 1", row.name, calls.len()));
            }
        }
        let case = format!("429 with a date, by {case}");
        table.paused(&case, pause.clone(), too_often(None, Some(UNTIL))).await;
    }
    table.clocks(0);
    // What a clock that is hours off makes of the end of a token, and an end as a date.
    for said in [json!(0), json!(-18_000), json!("-18000"), json!(Utc::now().timestamp())] {
        let case = format!("tokens that end in {said}");
        for row in &mut table.rows {
            row.platform.tokens_expire_in(Some(said.clone()));
            row.platform.forget_tokens();
            row.mark_tokens();
        }
        for _ in 0..3 {
            table.case(&case, |_| Some((vec![], Expect::pushed(1)))).await;
        }
        for row in table.rows.iter().filter(|row| row.gets_tokens()) {
            let tokens = row.tokens_marked();
            if tokens != 1 {
                table
                    .wrong
                    .push(format!("{case}: {}: {tokens} tokens for 3 requests", row.name));
            }
        }
    }
    finish(table).await;
}

async fn finish(table: Table) {
    assert!(table.wrong.is_empty(), "{:#?}", table.wrong);
    let ends = Ends::default().dead_lettered(table.dead);
    table.world.at_end(ends).await;
}
