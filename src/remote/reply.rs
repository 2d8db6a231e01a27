//! The result of a request to a provider.

use std::time::Duration;

use serde_json::json;

use super::Caller;
use crate::event::outcome::ErrorReport;

/// What became of a request.
#[derive(Debug)]
pub enum Reply {
    /// 2xx, or a status that means that it is so already.
    Done {
        /// HTTP status.
        status: u16,
        /// The answer.
        body: Vec<u8>,
    },
    /// The provider will not have it; trying again cannot help.
    Refused(ErrorReport),
    /// Later, perhaps.
    Temporary {
        /// What went wrong.
        error: ErrorReport,
        /// Not before this long from now.
        after: Option<Duration>,
    },
    /// The provider says that it is too early.
    Again {
        /// What it said.
        error: ErrorReport,
        /// Not before this long from now.
        after: Duration,
        /// For how long it is asked again, counted from the event.
        within: Duration,
    },
    /// No request was made, or the set-up is at fault: not before this long from now.
    Wait(Duration),
    /// No request was made; its turn comes in this long.
    Turn(Duration),
}

impl Reply {
    /// Adds the branch to the error, for the readers of the dead letter.
    pub(super) fn of(mut self, origin: &Caller) -> Self {
        if let (Self::Refused(error) | Self::Temporary { error, .. } | Self::Again { error, .. }, Some(branch)) =
            (&mut self, &origin.branch)
        {
            if error.details.is_null() {
                error.details = json!({});
            }
            error.details["branch"] = branch.as_str().into();
        }
        self
    }
}
