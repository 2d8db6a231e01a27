//! What answers of a provider show about the provider, and what they mean for the request.

use std::{
    sync::{MutexGuard, PoisonError},
    time::Instant,
};

use super::{
    Caller, Remote, Reply, TOO_OFTEN,
    answer::{done, report, temporary},
    refusals::Troubles,
};
use crate::{delivery::breaker::RequestOutcome, event::outcome::ErrorType, http::Answer};

impl Remote {
    /// What an answer shows about the provider.
    pub(super) fn outcome(&self, origin: &Caller, status: u16) -> RequestOutcome {
        match status {
            _ if origin.is_aside => {
                if status == 401 {
                    self.refusals().note_new_token(Instant::now(), origin.refused());
                }
                RequestOutcome::Abandoned
            }
            401 => {
                let several = self.refusals().refused(Instant::now(), origin.refused());
                if several {
                    let reason = format!("{} refuses the hub's credentials for several branches", self.name);
                    return RequestOutcome::Misconfigured(reason);
                }
                // A failure of one branch alone says nothing about the provider.
                RequestOutcome::Abandoned
            }
            408 | 425 | 500.. => self.failure(origin),
            403 | 429 => RequestOutcome::Success,
            _ => {
                self.refusals().taken(origin.refused());
                self.troubles().over();
                RequestOutcome::Success
            }
        }
    }

    /// What a missing answer, or a missing token, shows about the provider.
    pub(super) fn no_answer(&self, origin: &Caller, reply: &Reply) -> RequestOutcome {
        match reply {
            _ if origin.is_aside => RequestOutcome::Abandoned,
            Reply::Refused(_) => RequestOutcome::Success,
            Reply::Temporary { error, .. } if error.code == TOO_OFTEN => RequestOutcome::Success,
            // Only this branch may hang.
            Reply::Temporary { error, .. } if error.code == "PROVIDER_TIMEOUT" => self.failure(origin),
            _ => RequestOutcome::Failure,
        }
    }

    /// A failure that may be one branch's own.
    fn failure(&self, origin: &Caller) -> RequestOutcome {
        let is_providers = match origin.one_of_several() {
            Some(branch) => self.troubles().failed(branch),
            None => true,
        };
        if is_providers {
            RequestOutcome::Failure
        } else {
            RequestOutcome::Abandoned
        }
    }

    fn troubles(&self) -> MutexGuard<'_, Troubles> {
        // No code panics while it holds this lock.
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The meaning of an answer for which the call has no rule of its own.
    pub(super) fn meaning(&self, answer: Answer, origin: &Caller) -> Reply {
        let after = answer.retry_after;
        match answer.status {
            200..=299 => done(answer),
            401 => {
                let of_branch = origin.branch.as_ref().map(|branch| format!(" for branch {branch}"));
                let of_branch = of_branch.unwrap_or_default();
                let message = format!("the provider refuses the hub's credentials{of_branch}");
                temporary(&answer, &message, ErrorType::Configuration)
            }
            429 => {
                if let Some(after) = after
                    && !origin.has_own_limit
                {
                    self.limits.pause(Instant::now(), after);
                }
                temporary(&answer, "the provider was asked too often", ErrorType::Temporary)
            }
            408 | 425 | 500..=599 => temporary(&answer, "the provider cannot take it now", ErrorType::Temporary),
            status if self.spec.retry.contains(&status) => {
                temporary(&answer, "the provider cannot take it yet", ErrorType::Temporary)
            }
            400..=499 => Reply::Refused(report(&answer, ErrorType::Validation, "the provider refuses it")),
            _ => temporary(&answer, "an answer that means nothing here", ErrorType::Unknown),
        }
    }
}
