//! One attempt of an event: its requests to the backend, and what follows from the answer.

use std::time::{Duration, Instant};

use super::{
    Attempt, Forward, UNKNOWN_ORDER_RETRIES,
    classify::AnswerVerdict,
    identity::{Plan, Posting},
    record::{ignore, refused, shown_by},
    slots::Hangs,
    waits::{branch_of, of_branch},
};
use crate::{
    event::{
        NewEvent,
        outcome::{ErrorReport, OrderSummary},
    },
    http,
    retry::{Failure, Next, Schedule},
};

impl Forward {
    /// Sends a request, if the breaker lets it pass; the answer, and whether it was a trial of the breaker. `is_own`: it is about the
    /// event itself, and not about another announcement of its order.
    async fn ask(
        &self,
        attempt: Attempt<'_>,
        post: http::Request,
        posting: &Posting,
        is_own: bool,
    ) -> Result<(AnswerVerdict, bool), Failure> {
        let Attempt { event, request, .. } = attempt;
        let slot = self.client.slot(branch_of(event)).await;
        let mut slot = slot.map_err(|Hangs| of_branch(event, Duration::ZERO))?;
        let pass = self.pass(event)?;
        let (asked, is_trial) = (Instant::now(), pass.is_trial());
        let verdict = self.client.forward(post, &event.envelope, posting).await;
        self.measured.request(verdict.label(), asked.elapsed());
        self.arrivals.note(event, request, is_own && verdict.is_reached());
        if verdict.is_timeout() {
            slot.hung();
        }
        pass.record_with_code(shown_by(&verdict), verdict.failure());
        Ok((verdict, is_trial))
    }

    /// Makes the request, and says what follows from the answer.
    pub(super) async fn post(
        &self,
        mut attempt: Attempt<'_>,
        posting: &Posting,
        summary: OrderSummary,
        plan: Plan,
    ) -> Result<Vec<NewEvent>, Failure> {
        let Attempt { event, request, .. } = attempt;
        let post = match self.client.post(posting.request, &event.envelope) {
            Ok(post) => post,
            Err(why) => return self.dead(attempt, request - 1, ErrorReport::of_order_id(why)).await,
        };
        let is_own = !matches!(plan, Plan::Confirm(..));
        let (mut verdict, mut is_trial) = self.ask(attempt, post, posting, is_own).await?;
        // If this one fails, the amendment is sent once more with it, under its key.
        if let (
            AnswerVerdict::Accepted(_),
            Plan::Amend {
                status: Some(status), ..
            },
        ) = (&verdict, &plan)
            && let Ok(post) = self.client.post(status.request, &event.envelope)
        {
            attempt.amended = true;
            (verdict, is_trial) = self.ask(attempt, post, status, is_own).await?;
        }
        match verdict {
            AnswerVerdict::Accepted(accepted) => {
                self.arrivals.end(event);
                self.accepted(event, request, accepted, summary, plan).await
            }
            AnswerVerdict::Invalid(error) => match plan {
                Plan::Confirm(first, _) => Err(Failure::Retry {
                    next: Next::Quick(Duration::ZERO),
                    record: vec![refused(&first, event, request, error)],
                    is_no_fault: true,
                    for_creation: false,
                }),
                _ => self.dead(attempt, request, error).await,
            },
            AnswerVerdict::UnknownOrder { error, is_certain } => {
                let next = self.schedule.next(request, None, event.run_id());
                // While it is uncertain whether the URL is right, news are not given up sooner than their order.
                let next = next.filter(|_| !is_certain || Schedule::retries(request) < UNKNOWN_ORDER_RETRIES);
                if next.is_none()
                    && let Ok(Some(ignored)) = self.identity.nothing_to_cancel(event).await
                {
                    return Ok(vec![ignore(event, &ignored)]);
                }
                self.failed(attempt, error, next, (true, is_trial)).await
            }
            AnswerVerdict::Doubtful(error) => {
                let next = self.next(request, None, event, is_trial);
                self.failed(attempt, error, next, (false, is_trial)).await
            }
            AnswerVerdict::Temporary { error, after } => {
                let next = self.next(request, after, event, is_trial);
                self.failed(attempt, error, next, (false, is_trial)).await
            }
            AnswerVerdict::Misconfigured(error) => Err(Failure::Hold {
                cause: error.message,
                pause: self.gate.alone(),
            }),
        }
    }
}
