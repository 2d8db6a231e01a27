//! The part of providers' answers that means the same for every call. `forward::classify` reads the backend's answers, by its
//! contract.

use super::Reply;
use crate::{
    event::outcome::{ErrorReport, ErrorType},
    http::{self, Answer, Client, Failure, Request},
    provider::outbound::template::Unfilled,
};

/// Why there is no answer.
pub(super) enum RequestFailure {
    Unfilled(Unfilled),
    Misconfigured(ErrorReport),
    Reply(Reply),
}

pub(super) fn done(answer: Answer) -> Reply {
    Reply::Done {
        status: answer.status,
        body: answer.body,
    }
}

pub(super) fn temporary(answer: &Answer, message: &str, error_type: ErrorType) -> Reply {
    Reply::Temporary {
        error: report(answer, error_type, message),
        after: answer.retry_after,
    }
}

pub(super) fn report(answer: &Answer, error_type: ErrorType, message: &str) -> ErrorReport {
    let codes = ["/error/code", "/code", "/errorCode", "/error"];
    answer.report("provider", &codes, error_type, message)
}

/// The answer to a request for a token that is none.
pub(super) fn without_token(answer: &Answer) -> RequestFailure {
    match answer.status {
        400..=407 | 409..=424 | 426..=428 | 430..=499 => RequestFailure::Misconfigured(report(
            answer,
            ErrorType::Configuration,
            "the provider gives the hub no token: are CLIENT_ID and CLIENT_SECRET right?",
        )),
        _ => RequestFailure::Reply(temporary(
            answer,
            "the provider gives no token now",
            ErrorType::Temporary,
        )),
    }
}

/// Asks, and reads an answer within its limit.
pub(super) async fn ask(http: &Client, request: Request, max_bytes: usize) -> Result<Answer, RequestFailure> {
    let answer = http.ask(request, max_bytes).await.and_then(Answer::unbroken);
    answer.map_err(|error| no_answer(&error))
}

/// There was no answer: what that means.
fn no_answer(error: &Failure) -> RequestFailure {
    let error = http::no_answer(error, "provider", "its API_URL");
    match error.error_type {
        ErrorType::Configuration => RequestFailure::Misconfigured(error),
        _ => RequestFailure::Reply(Reply::Temporary { error, after: None }),
    }
}

pub(super) fn no_token_in_time() -> RequestFailure {
    let message = "the provider did not give a token in time";
    RequestFailure::Reply(Reply::Temporary {
        error: ErrorReport::new(ErrorType::Temporary, "PROVIDER_TIMEOUT", message),
        after: None,
    })
}
