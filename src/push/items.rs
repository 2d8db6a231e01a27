//! Sends to a provider which items of a branch can be ordered.
//!
//! The entries of a request go in the calls and batches of the provider's file ([`work`]). A provider may take some of them only. If it cannot
//! be asked about the rest now, what it has answered so far is recorded (`items.availability_progressed`), so that only the rest is sent later,
//! by whichever instance.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use chrono::Utc;

use self::work::Work;
use super::{
    Push,
    catalog::{log_away, payload},
};
use crate::{
    event::{
        EventType, NewEvent, Recorded,
        branch::{EntryKind, ItemsProgressed, ItemsPushed, ItemsRequested},
        outcome::{ErrorReport, ErrorType, OUTCOME},
    },
    journal::read::{Entry, LogReader, Start},
    provider::outbound::{
        Call,
        branch::NotSupported,
        template::{Scope, Unfilled},
    },
    remote::{Caller, Remote, Reply},
    retry::{Failure, Next},
};

mod work;

pub(super) use self::work::written;

/// Most requests of one turn. Then what is settled is recorded, so that a crash repeats no more than these.
const MAX_REQUESTS_A_TURN: u32 = 20;
/// Longest wait for the provider's limit within a turn.
const SHORT_WAIT: Duration = Duration::from_secs(2);
/// Most later requests of a branch that are compared with one that is retried.
const MAX_LATER: usize = 1000;

impl Push {
    pub(super) async fn items(
        &self,
        remote: &Remote,
        event: &Recorded,
        request: u32,
    ) -> Result<Vec<NewEvent>, Failure> {
        let Ok(wanted) = serde_json::from_slice::<ItemsRequested>(&event.payload) else {
            return self.unreadable(event, request);
        };
        let progress = self.items_progress(event).await.map_err(|error| log_away(&error))?;
        let mut work = Work::new(&remote.spec.items, &wanted, progress);
        if event.run.is_some() {
            let named = self.named_later(event).await.map_err(|error| log_away(&error))?;
            work.leave_out(|kind, entry| named.contains(&(kind, entry.id.clone(), entry.group_id.clone())));
        }
        let now = Utc::now();
        work.leave_out(|_, entry| entry.until.is_some_and(|until| until <= now));
        match Box::pin(self.send_items(remote, event, request, &mut work)).await {
            Ok(()) if work.is_open() => {
                let message = "the provider cannot take some of the items yet";
                let error = ErrorReport::new(ErrorType::Temporary, "ITEMS_LATER", message);
                let failed = self.failed(event, request, error, None, u32::MAX);
                self.with_progress(event, request, &work, failed)
            }
            Ok(()) => Ok(self.items_pushed(event, request, &mut work)),
            Err(ended) => self.with_progress(event, request, &work, ended),
        }
    }

    /// Sends all that is not settled.
    ///
    /// # Errors
    /// What follows where that is not possible now.
    async fn send_items(
        &self,
        remote: &Remote,
        event: &Recorded,
        request: u32,
        work: &mut Work<'_>,
    ) -> Result<(), Result<Vec<NewEvent>, Failure>> {
        let mut batches = work.batches().map_err(|why| self.not_supported(event, request, &why))?;
        let branch = event.envelope.branch.clone().unwrap_or_default();
        let mut subject = self.subject(remote, event, Some(&branch)).await.map_err(Err)?;
        let paced = format!("items:{branch}");
        let enough = work.requests + MAX_REQUESTS_A_TURN;
        while let Some(batch) = batches.pop_front() {
            if work.requests >= enough {
                return Err(Err(Failure::Later {
                    after: Duration::ZERO,
                    for_creation: false,
                }));
            }
            let spec = &remote.spec.items[batch.call];
            if let Some(wait) = remote.limits.menu_wait(Instant::now(), &paced, spec.every) {
                tokio::time::sleep(wait).await;
            }
            work.fill(&mut subject.scope, &batch);
            subject.origin.has_own_limit = !spec.every.is_zero();
            let reply = call_in_turn(remote, &subject.origin, &spec.call, &mut subject.scope).await;
            let reply = match reply {
                Ok(reply) => reply,
                Err(unfilled) => return Err(self.unfilled(remote, event, request, &subject, &unfilled).await),
            };
            if !spec.every.is_zero() {
                remote.limits.menu_sent(Instant::now(), &paced);
            }
            match reply {
                Reply::Done { status, body } => {
                    for rest in work.answered(batch, status, &body).into_iter().rev() {
                        batches.push_front(rest);
                    }
                }
                Reply::Refused(error) => work.refused(&batch, error),
                reply => return Err(self.not_done(event, request, reply)),
            }
        }
        Ok(())
    }

    /// The end: the provider took something, or there was nothing left to send. If it took nothing at all, a person has to look.
    fn items_pushed(&self, event: &Recorded, request: u32, work: &mut Work<'_>) -> Vec<NewEvent> {
        let (taken, outdated, refused) = work.sums();
        if taken + outdated == 0 && !refused.is_empty() {
            let error = work.refusal.take().unwrap_or_else(|| {
                let message = "the provider takes none of the items";
                let codes: Vec<_> = refused.iter().take(20).map(|one| (&one.id, &one.code)).collect();
                let details = serde_json::json!({ "refused": codes, "branch": event.envelope.branch });
                ErrorReport::new(ErrorType::Validation, "ITEMS_REFUSED", message).with(details)
            });
            return self.given_up(event, request, error);
        }
        let pushed = ItemsPushed {
            taken,
            refused,
            outdated,
            requests: work.requests,
            attempts: request,
            requested_at: event.envelope.time,
            pushed_at: Utc::now(),
        };
        let envelope = event.follow(OUTCOME, EventType::ItemsPushed, Utc::now());
        vec![NewEvent::new(envelope, &pushed)]
    }

    /// Adds what the provider has answered in this turn to what follows.
    fn with_progress(
        &self,
        event: &Recorded,
        request: u32,
        work: &Work<'_>,
        ended: Result<Vec<NewEvent>, Failure>,
    ) -> Result<Vec<NewEvent>, Failure> {
        if !work.has_news {
            return ended;
        }
        let progress = |attempt: u32| {
            // Each turn adds requests, so that no two events have one id.
            let label = format!("progress/{}", work.requests);
            let envelope = event.follow(&label, EventType::ItemsProgressed, Utc::now());
            NewEvent::new(envelope, &work.progress(attempt))
        };
        match ended {
            Ok(mut events) => {
                events.insert(0, progress(request));
                Ok(events)
            }
            Err(Failure::Retry {
                next,
                mut record,
                is_no_fault,
                for_creation,
            }) => {
                record.insert(0, progress(request));
                Err(Failure::Retry {
                    next,
                    record,
                    is_no_fault,
                    for_creation,
                })
            }
            // What is recorded has to be kept, which a pause alone does not do; no attempt is counted for it.
            Err(Failure::Later { after, for_creation }) => Err(Failure::Retry {
                next: Next::ParkUncounted(after),
                record: vec![progress(request.saturating_sub(1))],
                is_no_fault: true,
                for_creation,
            }),
            other => other,
        }
    }

    pub(super) fn not_supported(
        &self,
        event: &Recorded,
        request: u32,
        why: &NotSupported,
    ) -> Result<Vec<NewEvent>, Failure> {
        let error = ErrorReport::new(ErrorType::Validation, "NOT_SUPPORTED", why.message.clone());
        Ok(self.given_up(event, request.saturating_sub(1), error))
    }

    /// What an earlier turn recorded. Where a person takes it up again, what the provider refused is sent again.
    async fn items_progress(&self, event: &Recorded) -> anyhow::Result<ItemsProgressed> {
        let last = self.last(&event.envelope, EventType::ItemsProgressed).await?;
        // A request that is accepted again after a day has the same id. Events before it belong to the first one.
        let is_ours =
            |last: &Recorded| last.envelope.root_id == event.envelope.root_id && last.sequence > event.sequence;
        let Some(last) = last.filter(is_ours) else {
            return Ok(ItemsProgressed::default());
        };
        let mut progress: ItemsProgressed = payload(&last).unwrap_or_default();
        if last.envelope.cause_id != Some(event.run_id()) {
            progress.refused.clear();
        }
        Ok(progress)
    }

    /// The entries that later requests of the branch name.
    async fn named_later(&self, event: &Recorded) -> anyhow::Result<HashSet<(EntryKind, String, Option<String>)>> {
        let subject = Self::subjects_of(&event.envelope, EventType::ItemsRequested);
        let start = Start::Sequence(event.sequence + 1);
        let connection = self.journal.connection();
        let mut reader = LogReader::of_subjects(connection, subject, start).at_most(MAX_LATER);
        let (mut named, mut read) = (HashSet::new(), 0);
        while read < MAX_LATER {
            let entries = reader.next_batch_to_end(connection).await?;
            if entries.is_empty() {
                break;
            }
            read += entries.len();
            for entry in &entries {
                if let Entry::Event(later) = entry
                    && later.envelope.external_order_id == event.envelope.external_order_id
                    && let Some(wanted) = payload::<ItemsRequested>(later)
                {
                    let keys = wanted
                        .entries()
                        .map(|(kind, one)| (kind, one.id.clone(), one.group_id.clone()));
                    named.extend(keys);
                }
            }
        }
        Ok(named)
    }
}

/// Makes a call, after a short wait for the provider's limit where there is one.
///
/// # Errors
/// Why a text of the file cannot be filled.
pub(super) async fn call_in_turn(
    remote: &Remote,
    origin: &Caller,
    call: &Call,
    scope: &mut Scope,
) -> Result<Reply, Unfilled> {
    let patience = Instant::now() + SHORT_WAIT;
    loop {
        match remote.call(origin, call, scope).await? {
            Reply::Turn(wait) if Instant::now() + wait <= patience => tokio::time::sleep(wait).await,
            reply => return Ok(reply),
        }
    }
}
