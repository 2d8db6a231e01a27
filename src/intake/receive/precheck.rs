//! The checks before the body is read: the provider exists, the address may call, and it is not blocked.

use std::{collections::HashMap, net::IpAddr};

use axum::{body::Body, http::Response};

use super::answer::{refuse, refuse_to};
use crate::{
    intake::Intake,
    registry::Enabled,
    serving::{audit::NO_PROVIDER, body, limit::LimitScope, refusal::Reason},
};

/// The checks that need nothing of the body, in their order.
pub(super) fn precheck<'a>(
    intake: &'a Intake,
    names: &HashMap<String, String>,
    client: IpAddr,
) -> Result<&'a Enabled, Rejection<'a>> {
    let below = names.get("below").map_or("", String::as_str);
    let known = names.get("provider").and_then(|name| intake.registry.get(name));
    let Some(enabled) = known.filter(|enabled| enabled.provider.knows_path(below)) else {
        intake.limits.note_refused(None, client);
        let reason = if below.is_empty() {
            Reason::ProviderNotFound
        } else {
            Reason::NotFound
        };
        return Err(Rejection::new(None, reason));
    };
    if !enabled.allow_list.allows(client) {
        return Err(Rejection::new(Some(enabled), Reason::IpNotAllowed));
    }
    match intake.limits.check(enabled, client) {
        Ok(()) => Ok(enabled),
        Err(limited) => Err(Rejection {
            provider: Some(enabled),
            // A provider over its quota must get the answer, so its body is read and discarded. That of a blocked address is not read.
            is_read: limited.scope == LimitScope::Provider,
            reason: limited.into(),
        }),
    }
}

/// A request that is refused before its body.
pub(super) struct Rejection<'a> {
    /// None if it is not known: the name is the caller's; as a label it would let anyone make metrics without end.
    provider: Option<&'a Enabled>,
    reason: Reason,
    /// Whether its body is read and discarded.
    is_read: bool,
}

impl<'a> Rejection<'a> {
    const fn new(provider: Option<&'a Enabled>, reason: Reason) -> Self {
        Self {
            provider,
            reason,
            is_read: true,
        }
    }

    pub(super) async fn respond(self, body: Body, request_id: &str, client: IpAddr) -> Response<Body> {
        if self.is_read {
            body::discard(body).await;
        }
        match self.provider {
            Some(enabled) => refuse_to(enabled, &self.reason, request_id, client),
            None => refuse(NO_PROVIDER, &self.reason, request_id, client),
        }
    }
}
