//! The content of an event, read from its payload.

use serde::de::DeserializeOwned;

use super::{RetryWait, StepDetail};
use crate::{
    event::{
        EventType, Recorded,
        operator::Acted,
        outcome::{DeadLettered, ForwardFailed, Forwarded, Ignored, Rejected, RetryRequested},
        push::{PushFailed, StatusPushed, StatusRequested},
    },
    order::body,
};

/// The stage of an `order.rejected` of earlier versions, which did not record it.
const FIRST_STAGE: &str = "transform";

impl StepDetail {
    /// Of any event.
    pub(super) fn of(event: &Recorded) -> serde_json::Result<Self> {
        Ok(match event.envelope.event_type {
            EventType::WebhookReceived => Self::received(event),
            EventType::OrderFetchRequested => Self::FetchRequested,
            EventType::OrderFetched => Self::Fetched {
                bytes: event.payload.len(),
            },
            EventType::OrderTransformed => Self::read_as(event)?,
            EventType::OrderIgnored => {
                let Ignored {
                    reason,
                    message,
                    differs,
                    ..
                } = read(event)?;
                Self::Ignored {
                    reason,
                    message,
                    differs,
                }
            }
            EventType::OrderForwardFailed => Self::forward_failed(read(event)?),
            EventType::OrderFetchFailed
            | EventType::OrderStatusPushFailed
            | EventType::MenuSyncFailed
            | EventType::ItemsPushFailed
            | EventType::StorePushFailed => Self::push_failed(read(event)?),
            EventType::OrderRejected => Self::rejected(read(event)?),
            EventType::OrderDeadLettered => Self::given_up(read(event)?),
            EventType::OrderRetryRequested => Self::retry(read(event)?),
            EventType::OrderForwarded => Self::forwarded(read(event)?),
            EventType::OrderStatusRequested => {
                let asked: StatusRequested = read(event)?;
                Self::StatusRequested {
                    status: asked.status.as_str(),
                    automatic: asked.automatic,
                }
            }
            EventType::OrderStatusPushed => {
                let pushed: StatusPushed = read(event)?;
                Self::StatusPushed {
                    status: pushed.status.as_str(),
                    attempts: pushed.attempts,
                    provider_status: pushed.provider_status,
                }
            }
            EventType::OperatorActed => {
                let Acted {
                    kind,
                    by,
                    reason,
                    result,
                    ..
                } = read(event)?;
                Self::Acted {
                    kind,
                    by,
                    reason,
                    result,
                }
            }
            of_job if of_job.is_of_operator() => Self::Job,
            _ => Self::of_branch(event)?,
        })
    }

    fn received(event: &Recorded) -> Self {
        let request = event.envelope.request.clone().unwrap_or_default();
        Self::Received {
            scheme: request.scheme,
            address: request.client_address,
            secrets: request.secrets,
            origin: request.origin,
            bytes: event.payload.len(),
        }
    }

    fn read_as(event: &Recorded) -> serde_json::Result<Self> {
        let facts = body::facts(&event.payload)?;
        Ok(Self::ReadAs {
            status: facts.status,
            provider_status: facts.provider_status,
            order_number: facts.order_number,
            deadline: facts.deadline,
            flags: facts.flags,
            bytes: event.payload.len(),
        })
    }

    fn forward_failed(failed: ForwardFailed) -> Self {
        Self::Failed {
            stage: "forward",
            attempt: failed.attempt,
            max_attempts: failed.max_attempts,
            error: failed.error.into(),
            waits: RetryWait {
                until: Some(failed.next_attempt_at),
                for_order: failed.waits_for_order,
            },
        }
    }

    fn push_failed(failed: PushFailed) -> Self {
        Self::Failed {
            stage: "push",
            attempt: failed.attempt,
            max_attempts: failed.max_attempts,
            error: failed.error.into(),
            waits: RetryWait {
                until: failed.next_attempt_at,
                for_order: false,
            },
        }
    }

    fn rejected(rejected: Rejected) -> Self {
        Self::GivenUp {
            stage: rejected.stage.unwrap_or_else(|| FIRST_STAGE.to_owned()),
            attempts: 0,
            error: rejected.error.into(),
        }
    }

    fn given_up(dead: DeadLettered) -> Self {
        Self::GivenUp {
            stage: dead.stage,
            attempts: dead.attempts,
            error: dead.error.into(),
        }
    }

    fn retry(asked: RetryRequested) -> Self {
        Self::RetryRequested {
            by: asked.by,
            reason: asked.reason,
            stage: asked.stage,
        }
    }

    fn forwarded(forwarded: Forwarded) -> Self {
        Self::Forwarded {
            attempts: forwarded.attempts,
            backend_status: forwarded.backend_status,
            order_id: forwarded.internal_order_id,
            as_news: forwarded.as_news,
        }
    }
}

/// Reads a payload.
pub(super) fn read<T: DeserializeOwned>(event: &Recorded) -> serde_json::Result<T> {
    serde_json::from_slice(&event.payload)
}
