//! Requests retries of dead letters. A request is an event, `order.retry_requested`.
//!
//! The id of a request derives from the dead letter's alone: two requests at the same time, by persons or jobs, are one event. A later
//! one finds the earlier one on the log.

use anyhow::{Context as _, anyhow};
use async_nats::jetstream::context::PublishAckFuture;
use chrono::Utc;

use super::{
    find::{GivenUp, Log},
    letter::Letter,
};
use crate::{
    event::{EventId, EventType, outcome::RetryRequested},
    journal::{
        codec::{self, Form},
        connection::Connection,
    },
};

/// Label of a retry's id (see [`EventId::derive`]).
pub const RETRY: &str = "retry";

/// Who requests retries, and why.
#[derive(Debug, Clone)]
pub struct Requester {
    /// The form in which requests are written.
    pub form: Form,
    /// Who.
    pub by: String,
    /// Why.
    pub reason: Option<String>,
    /// The job that it belongs to.
    pub job: Option<EventId>,
}

impl Requester {
    /// Publishes a request. It is on the log once the result is acknowledged. Requests that are published one after the other come to the
    /// log in that order.
    ///
    /// # Errors
    /// The inner one if this letter cannot be retried; the outer one if NATS is away.
    pub async fn publish(
        &self,
        connection: &Connection,
        letter: &Letter,
        given_up: &GivenUp,
    ) -> anyhow::Result<anyhow::Result<PublishAckFuture>> {
        let Some(subject) = codec::subject_beside(&letter.subject, EventType::OrderRetryRequested) else {
            return Ok(Err(anyhow!("was published on {}, which no hub does", letter.subject)));
        };
        let envelope = letter.event.follow(RETRY, EventType::OrderRetryRequested, Utc::now());
        let payload = RetryRequested {
            stage: given_up.stage.clone(),
            sequence: given_up.sequence,
            ended_as: letter.facts.as_ref().ok().map(|facts| facts.error.code.clone()),
            by: self.by.clone(),
            reason: self.reason.clone(),
            again: false,
            job: self.job,
        };
        let (headers, payload) = (codec::headers(&envelope, self.form)?, serde_json::to_vec(&payload)?);
        let published = connection
            .context
            .publish_with_headers(subject, headers, payload.into())
            .await;
        Ok(Ok(published.context("cannot publish")?))
    }
}

/// The event to retry, or why a letter cannot be retried.
///
/// # Errors
/// If NATS does not answer.
pub async fn event_of(log: &Log, letter: &Letter) -> anyhow::Result<anyhow::Result<GivenUp>> {
    if let Err(reason) = &letter.facts {
        return Ok(Err(anyhow!("{reason}; the provider has to send the order again")));
    }
    let given_up = log.given_up(letter).await?;
    let is_there = |given_up: &GivenUp| given_up.sequence >= log.first_sequence;
    Ok(given_up.filter(is_there).ok_or_else(|| {
        let facts = letter.facts.as_ref().ok();
        let place = facts.and_then(|facts| facts.sequence);
        let place = place.map_or_else(String::new, |sequence| format!(" (sequence {sequence})"));
        anyhow!(
            "the event that ended{place} has left the log (`max_age` of EVENTS); the provider has to send the order again"
        )
    }))
}
