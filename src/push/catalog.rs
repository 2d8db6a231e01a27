//! Sends a menu to a provider, and waits for its result.
//!
//! The log records that the menu was sent (`menu.sync_accepted`), and the provider's result (`menu.sync_reported`); the menu
//! itself waits in its lane, which the result wakes. So an instance that takes over finds both.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Push, Subject, menu, until};
use crate::{
    event::{
        Envelope, EventType, NewEvent, Recorded,
        outcome::{ErrorReport, ErrorType, OUTCOME},
        push::{SyncAccepted, SyncReported, Synced},
    },
    http::MAX_ANSWER_BYTES,
    journal::{
        EVENTS, codec,
        read::{Entry, LogReader, Start, last_of},
    },
    provider::outbound::{MenuResult, MenuSpec, ResultSpec, template::Unfilled},
    remote::{Remote, Reply, RequestTarget},
    retry::{Failure, Next},
};

/// Longest wait for one answer of NATS.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause when NATS does not answer about the result of a menu.
const LOG_AWAY: Duration = Duration::from_secs(2);
/// Most words of a provider that are looked at for one menu, beside the last one; an honest provider says two or three.
const MAX_REPORTS: usize = 1000;
/// Most characters of what a provider says about a menu that are kept: it names faults of the menu.
const MAX_MESSAGE_CHARS: usize = 1000;

impl Push {
    pub(super) async fn menu(&self, remote: &Remote, event: &Recorded, request: u32) -> Result<Vec<NewEvent>, Failure> {
        let Some(spec) = &remote.spec.menu else {
            return Ok(vec![synced(event, 0, None, None)]);
        };
        // Before the first request the provider cannot have accepted anything.
        if let (Some(result), true) = (&spec.result, request > 1) {
            match self.accepted(event).await {
                Ok(None) => {}
                Ok(Some((sequence, accepted))) => {
                    let following = self.follow_up(remote, event, request, result, sequence, accepted);
                    return Box::pin(following).await;
                }
                Err(error) => return Err(log_away(&error)),
            }
        }
        Box::pin(self.send_menu(remote, spec, event, request)).await
    }

    async fn send_menu(
        &self,
        remote: &Remote,
        spec: &MenuSpec,
        event: &Recorded,
        request: u32,
    ) -> Result<Vec<NewEvent>, Failure> {
        let Ok(menu) = menu::Menu::parse(&event.payload) else {
            return self.unreadable(event, request);
        };
        let branch = event.envelope.branch.clone().unwrap_or_default();
        self.keep_distance(remote, spec, event, &branch).await?;
        let mut subject = self.subject(remote, event, Some(&branch)).await?;
        subject.origin.has_own_limit = !spec.every.is_zero();
        let slots = &mut subject.scope.0;
        slots.insert("request_id".into(), event.run_id().to_string().into());
        slots.insert("currency".into(), menu.currency.code().into());
        slots.insert("menu".into(), menu.as_slots());
        let reports_before = match &spec.result {
            Some(_) => self.last(&event.envelope, EventType::MenuSyncReported).await,
            None => Ok(None),
        };
        let reports_before = reports_before.map_err(|error| log_away(&error))?;
        let reply = match remote.call(&subject.origin, &spec.call, &mut subject.scope).await {
            Err(unfilled) => return self.unfilled(remote, event, request, &subject, &unfilled).await,
            Ok(reply) => reply,
        };
        let Reply::Done { status, body } = reply else {
            return self.not_done(event, request, reply);
        };
        remote.limits.menu_sent(Instant::now(), &branch);
        let reference = spec.reference.as_ref().and_then(|pointer| text_at(&body, pointer));
        let Some(result) = &spec.result else {
            return Ok(vec![synced(event, request, Some(status), reference)]);
        };
        let due = Utc::now() + TimeDelta::from_std(result.wait).unwrap_or_default();
        let pause = result.pause(due);
        let accepted = SyncAccepted {
            attempt: request,
            provider_status: status,
            reference,
            next_attempt_at: Utc::now() + TimeDelta::from_std(pause).unwrap_or_default(),
            result_due_at: due,
            reports_before: Some(reports_before.map_or(0, |last| last.sequence)),
        };
        let label = format!("accepted/{request}");
        let envelope = event.follow(&label, EventType::MenuSyncAccepted, Utc::now());
        Err(Failure::Retry {
            next: Next::Park(pause),
            record: vec![NewEvent::new(envelope, &accepted)],
            is_no_fault: true,
            for_creation: true,
        })
    }

    /// One menu of a branch in a while. What another instance sent is known from the log.
    async fn keep_distance(
        &self,
        remote: &Remote,
        spec: &MenuSpec,
        event: &Recorded,
        branch: &str,
    ) -> Result<(), Failure> {
        if spec.every.is_zero() {
            return Ok(());
        }
        let wait = match remote.limits.menu_wait(Instant::now(), branch, spec.every) {
            Some(wait) => wait,
            None => {
                let took = match spec.result {
                    Some(_) => EventType::MenuSyncAccepted,
                    None => EventType::MenuSynced,
                };
                let last = self
                    .last(&event.envelope, took)
                    .await
                    .map_err(|error| log_away(&error))?;
                let Some(last) = last else { return Ok(()) };
                let next = last.envelope.time + TimeDelta::from_std(spec.every).unwrap_or_default();
                // A clock that is ahead must not delay it for longer than the file's interval.
                until(next).min(spec.every)
            }
        };
        if wait.is_zero() {
            return Ok(());
        }
        Err(Failure::Later {
            after: wait,
            for_creation: false,
        })
    }

    /// The provider has taken the menu: has it said what it makes of it?
    async fn follow_up(
        &self,
        remote: &Remote,
        event: &Recorded,
        request: u32,
        result: &ResultSpec,
        sequence: u64,
        accepted: SyncAccepted,
    ) -> Result<Vec<NewEvent>, Failure> {
        let since = accepted.reports_before.unwrap_or(sequence);
        let mut word = match self.reported(event, since, &accepted).await {
            Ok(word) => word,
            Err(error) => return Err(log_away(&error)),
        };
        // If the provider could not be polled, the time limit is extended once more.
        let mut due = accepted.result_due_at;
        if word.is_none() && result.poll.is_some() {
            let mut subject = self.subject(remote, event, event.envelope.branch.as_deref()).await?;
            match self.ask(remote, event, result, &accepted, &mut subject).await {
                Ok(SyncPoll::Reported(said)) => word = Some(said),
                Ok(SyncPoll::Running) => {}
                Ok(SyncPoll::Unknown) => due += TimeDelta::from_std(result.wait).unwrap_or_default(),
                Ok(SyncPoll::Later(after)) => {
                    return Err(Failure::Later {
                        after,
                        for_creation: true,
                    });
                }
                Err(unfilled) => return self.unfilled(remote, event, request, &subject, &unfilled).await,
            }
        }
        match word {
            Some(word) if word.ok => {
                let reference = word.reference.or(accepted.reference);
                Ok(vec![synced(
                    event,
                    accepted.attempt,
                    Some(accepted.provider_status),
                    reference,
                )])
            }
            Some(word) => {
                let said = word.message.unwrap_or_else(|| "it does not say why".into());
                self.menu_failed(
                    event,
                    &accepted,
                    "MENU_REFUSED",
                    &format!("the provider refuses the menu: {said}"),
                )
            }
            None if due <= Utc::now() => self.menu_failed(
                event,
                &accepted,
                "MENU_RESULT_TIMEOUT",
                "the provider accepted the menu but did not report its result in time",
            ),
            None => Err(Failure::Later {
                after: result.pause(due),
                for_creation: true,
            }),
        }
    }

    /// Polls the provider for its result, if the file says so.
    async fn ask(
        &self,
        remote: &Remote,
        event: &Recorded,
        result: &ResultSpec,
        accepted: &SyncAccepted,
        subject: &mut Subject,
    ) -> Result<SyncPoll, Unfilled> {
        let Some((poll, _)) = &result.poll else {
            return Ok(SyncPoll::Running);
        };
        let slots = &mut subject.scope.0;
        if let Some(reference) = &accepted.reference {
            slots.insert("ref".into(), reference.clone().into());
        }
        slots.insert("request_id".into(), event.run_id().to_string().into());
        let (place, max) = (RequestTarget::Path(poll), MAX_ANSWER_BYTES);
        let asked = remote.read(&subject.origin, place, &mut subject.scope, max).await?;
        Ok(match asked {
            Reply::Done { body, .. } => result.table.read(&body).map_or(SyncPoll::Running, SyncPoll::Reported),
            Reply::Turn(wait) => SyncPoll::Later(wait),
            // The provider has no result, or none yet.
            Reply::Refused(error) => {
                note_no_result(event, &error);
                SyncPoll::Running
            }
            Reply::Temporary { error, .. } | Reply::Again { error, .. } => {
                note_no_result(event, &error);
                SyncPoll::Unknown
            }
            Reply::Wait(_) => SyncPoll::Unknown,
        })
    }

    fn menu_failed(
        &self,
        event: &Recorded,
        accepted: &SyncAccepted,
        code: &str,
        message: &str,
    ) -> Result<Vec<NewEvent>, Failure> {
        let error = ErrorReport::new(ErrorType::Validation, code, message);
        Ok(self.given_up(event, accepted.attempt, error))
    }

    /// That the provider took this menu, where it has, and where on the log that stands.
    async fn accepted(&self, event: &Recorded) -> anyhow::Result<Option<(u64, SyncAccepted)>> {
        let last = self.last(&event.envelope, EventType::MenuSyncAccepted).await?;
        // A request that is accepted again after a day has the same id. Events before it belong to the first one.
        let is_ours =
            |last: &Recorded| last.envelope.cause_id == Some(event.run_id()) && last.sequence > event.sequence;
        let ours = last.filter(is_ours);
        Ok(ours.and_then(|last| Some((last.sequence, payload(&last)?))))
    }

    /// The provider's result, if it has come as a webhook.
    async fn reported(
        &self,
        event: &Recorded,
        after: u64,
        accepted: &SyncAccepted,
    ) -> anyhow::Result<Option<SyncReported>> {
        let Some(last) = self.last(&event.envelope, EventType::MenuSyncReported).await? else {
            return Ok(None);
        };
        if last.sequence <= after {
            return Ok(None);
        }
        let is_about_it = |word: &SyncReported| match (&word.reference, &accepted.reference) {
            (Some(one), Some(other)) => one == other,
            // Without ids the result belongs to the menu that was accepted last.
            _ => true,
        };
        if let Some(word) = payload::<SyncReported>(&last).filter(is_about_it) {
            return Ok(Some(word));
        }
        // The last report is about another menu, so an earlier one may be about this menu.
        let subject = Self::subjects_of(&event.envelope, EventType::MenuSyncReported);
        let connection = self.journal.connection();
        let mut reader = LogReader::of_subjects(connection, subject, Start::Sequence(after + 1)).at_most(MAX_REPORTS);
        let (mut found, mut read) = (None, 0);
        while read < MAX_REPORTS {
            let entries = reader.next_batch().await?;
            if entries.is_empty() {
                break;
            }
            read += entries.len();
            let words = entries.iter().rev().filter_map(|entry| match entry {
                Entry::Event(event) => payload::<SyncReported>(event),
                Entry::Unreadable { .. } => None,
            });
            found = words.into_iter().find(is_about_it).or(found);
        }
        Ok(found)
    }

    /// The subjects of a type of event about this branch's menu or items: in any partition, because `PARTITIONS` may have been changed
    /// since it was published.
    pub(super) fn subjects_of(envelope: &Envelope, event_type: EventType) -> String {
        codec::subjects_in_any_partition(&Envelope {
            event_type,
            ..envelope.clone()
        })
    }

    /// The last event of a type about this branch's menu or items, as the leader has it.
    pub(super) async fn last(&self, envelope: &Envelope, event_type: EventType) -> anyhow::Result<Option<Recorded>> {
        let of_type = Envelope {
            event_type,
            ..envelope.clone()
        };
        // Another branch may have the same token on its subjects. Then today's partition tells the two apart.
        for subject in [
            Self::subjects_of(envelope, event_type),
            codec::subject(&of_type, self.journal.partitions()),
        ] {
            let last = last_of(self.journal.connection(), EVENTS, &subject, ANSWER_TIMEOUT).await?;
            let Some(last) = last else { return Ok(None) };
            let last = codec::decode(Some(&last.headers), last.payload, last.sequence).ok();
            let is_same = |last: &Recorded| last.envelope.external_order_id == envelope.external_order_id;
            if last.as_ref().is_none_or(is_same) {
                return Ok(last);
            }
        }
        Ok(None)
    }
}

/// The result of a poll.
enum SyncPoll {
    Reported(SyncReported),
    /// It has none yet.
    Running,
    /// The provider could not be polled, or gave no usable answer.
    Unknown,
    /// The limit allows a poll only after this time.
    Later(Duration),
}

fn note_no_result(event: &Recorded, error: &ErrorReport) {
    tracing::warn!(
        provider = &*event.envelope.provider,
        branch = event.envelope.branch,
        code = error.code,
        error = error.message,
        "cannot fetch the result of a menu, trying again"
    );
}

impl ResultSpec {
    /// How long from now until it is looked again.
    fn pause(&self, due: DateTime<Utc>) -> Duration {
        let left = until(due);
        self.poll.as_ref().map_or(left, |(_, every)| left.min(*every))
    }
}

impl MenuResult {
    /// A provider's result; none while the provider is still working on it.
    pub fn read(&self, body: &[u8]) -> Option<SyncReported> {
        let body: Value = serde_json::from_slice(body).ok()?;
        let text = |pointer: &String| text_of(body.pointer(pointer)?);
        let status = text(&self.status)?;
        let ok = self.ok.contains(&status);
        if !ok && !self.failed.contains(&status) {
            return None;
        }
        let message = self.message.as_ref().and_then(text);
        Some(SyncReported {
            reference: self.reference.as_ref().and_then(text),
            ok,
            message: message.map(|message| message.chars().take(MAX_MESSAGE_CHARS).collect()),
        })
    }

    /// Whether a webhook is such a result.
    pub fn is_one(&self, body: &Value) -> bool {
        self.when.as_ref().is_some_and(|when| {
            let text = body.pointer(&when.pointer).and_then(Value::as_str);
            text.is_some_and(|text| when.is.iter().any(|is| is == text))
        })
    }
}

fn synced(event: &Recorded, attempts: u32, provider_status: Option<u16>, reference: Option<String>) -> NewEvent {
    let payload = Synced {
        reference,
        skipped: provider_status.is_none(),
        provider_status,
        attempts,
        requested_at: event.envelope.time,
        synced_at: Utc::now(),
    };
    NewEvent::new(event.follow(OUTCOME, EventType::MenuSynced, Utc::now()), &payload)
}

pub(super) fn log_away(error: &anyhow::Error) -> Failure {
    tracing::warn!(
        error = format!("{error:#}"),
        "cannot read what became of a request before, trying again"
    );
    Failure::Later {
        after: LOG_AWAY,
        for_creation: false,
    }
}

pub(super) fn payload<T: DeserializeOwned>(event: &Recorded) -> Option<T> {
    serde_json::from_slice(&event.payload).ok()
}

fn text_at(body: &[u8], pointer: &str) -> Option<String> {
    text_of(serde_json::from_slice::<Value>(body).ok()?.pointer(pointer)?)
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_synced_refused_or_pending() {
        let table: MenuResult = toml::from_str(
            "status = '/state'\nok = ['done']\nfailed = ['error']\nref = '/job'\nmessage = '/why'\nwhen = { pointer = '/type', is = 'catalog' }",
        )
        .unwrap();
        let word = table.read(br#"{"state":"error","job":7,"why":"no price"}"#).unwrap();
        assert_eq!(
            (word.ok, word.reference.as_deref(), word.message.as_deref()),
            (false, Some("7"), Some("no price"))
        );
        assert!(table.read(br#"{"state":"done"}"#).unwrap().ok);
        for open in [&br#"{"state":"running"}"#[..], b"{}", b"nonsense"] {
            assert_eq!(table.read(open), None);
        }
        assert!(table.is_one(&serde_json::json!({ "type": "catalog" })));
        assert!(!table.is_one(&serde_json::json!({ "type": "order" })));
    }
}
