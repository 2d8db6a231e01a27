//! Handles one webhook: the checks of the contract in their order, the append to the log, and the answer.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use axum::{
    body::Body,
    extract::{ConnectInfo, OriginalUri, Path, Request, State, rejection::PathRejection},
    http::{Response, request::Parts},
};
use bytes::Bytes;
use chrono::Utc;

use super::{Intake, authenticate};
use crate::{
    event::NewEvent,
    journal::Appended,
    json::structure,
    provider::{self, Admission},
    registry::Enabled,
    serving::{
        body,
        body::{BodyLimits, Sender, SenderClass},
        client_ip::client_ip,
        connections::Guest,
        limit::{
            address::Address,
            taken::{Point, QuotaLoad},
        },
        refusal::Reason,
        request_id,
    },
    verification::Unverified,
};

pub mod unmatched_route;
mod precheck;
mod envelope;
mod answer;
mod waited;

use self::{
    answer::{contract_answer, heartbeat, in_own_format},
    envelope::envelope,
    precheck::precheck,
};

/// The facts of a request that its answer needs.
struct RequestInfo {
    request_id: String,
    /// The client address, as far as trusted proxies name it.
    client: IpAddr,
    began: Instant,
}

/// `POST /api/webhooks/{provider}`, and below it the paths that the provider's file names.
pub async fn receive(
    State(intake): State<Arc<Intake>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    name: Result<Path<HashMap<String, String>>, PathRejection>,
    OriginalUri(sent): OriginalUri,
    request: Request,
) -> Response<Body> {
    let began = Instant::now();
    let (mut parts, body) = request.into_parts();
    // The signature and the log use the path as sent, not the normalised one.
    parts.uri = sent;
    let info = RequestInfo {
        request_id: request_id::of(&parts.headers),
        client: client_ip(peer.ip(), &parts.headers, &intake.settings.trusted_proxies),
        began,
    };
    // A name that is not UTF-8 matches no provider.
    let names = name.map(|Path(names)| names).unwrap_or_default();
    let enabled = match precheck(&intake, &names, info.client) {
        Ok(enabled) => enabled,
        Err(rejection) => return rejection.respond(body, &info.request_id, info.client).await,
    };
    match accept(&intake, enabled, &info, parts, body).await {
        Ok(answer) => answer,
        Err(reason) => intake.refuse_counted(enabled, &reason, &info.request_id, info.client),
    }
}

/// Reads, checks, appends and answers a request that passed the precheck.
async fn accept(
    intake: &Intake,
    enabled: &Enabled,
    info: &RequestInfo,
    parts: Parts,
    body: Body,
) -> Result<Response<Body>, Reason> {
    let settings = &intake.settings;
    let sender = Sender {
        address: Address::of(info.client),
        class: intake.sender_class(enabled, info.client),
        provider: Arc::clone(&enabled.name),
    };
    let reading = BodyLimits {
        budget: &intake.budget,
        heavy: &intake.heavy,
        sender: &sender,
        max_bytes: settings.max_payload_bytes,
        time: settings.request_timeout,
    };
    let buffered = body::read(&parts.headers, body, &reading).await?;
    if let Some(answer) = heartbeat(enabled, &info.request_id, &buffered.bytes) {
        return Ok(answer);
    }
    let Admitted {
        admission,
        was_there,
        is_observed,
        point,
        event,
    } = admit(intake, enabled, info, parts, (&buffered.bytes, sender.class)).await?;
    let principal = event.envelope.principal.clone();
    let wait = waited::place(intake, enabled, &admission, &principal);
    let appended = match intake.journal.accept(event).await {
        Ok(appended) => appended,
        Err(error) => {
            // The provider will repeat the webhook, and the hub's failure must not use up its quota.
            intake.limits.give_back(enabled, point);
            intake.limits.forget_sent(admission.event_id, info.client);
            return Err(Reason::EventLogUnavailable(error));
        }
    };
    enabled.measured.accept_duration.record(info.began.elapsed());
    // A third party may have intercepted a known webhook and replayed it: it costs the provider nothing, and makes no address
    // known. The bytes that it adds to the log still count.
    if appended.duplicate {
        intake.limits.give_back(enabled, point);
    } else if was_there {
        intake.limits.give_back_of_repeat(enabled, point);
    } else {
        if !is_observed {
            intake.limits.note_accepted(enabled, &principal, info.client);
        }
        let now = Utc::now().timestamp();
        intake.last_webhooks.accepted(&enabled.name, now, !is_observed);
    }
    log_accepted(enabled, &admission, info, appended);
    if let Some(answer) = in_own_format(enabled, &admission, &info.request_id, appended, &buffered.bytes) {
        return Ok(answer);
    }
    let Some(wait) = wait else {
        return Ok(contract_answer(&info.request_id, admission.event_id, appended, None));
    };
    // A request that waits holds no memory of its body.
    drop(buffered);
    Ok(Box::pin(waited::answer((intake, enabled), &admission, info, appended, wait)).await)
}

/// A webhook that may go onto the log.
struct Admitted {
    admission: Admission,
    /// Whether it is known from before. The log knows ids for five minutes, the memory for days.
    was_there: bool,
    /// Whether its signature was only observed, so that its address is none the better known.
    is_observed: bool,
    /// The point that it took of its provider's quota.
    point: Point,
    event: NewEvent,
}

/// Verified, counted against its provider, and looked at. What the log does not keep of a request ends here, so that
/// those who wait for the log hold little memory.
async fn admit(
    intake: &Intake,
    enabled: &Enabled,
    info: &RequestInfo,
    parts: Parts,
    (body, class): (&Bytes, SenderClass),
) -> Result<Admitted, Reason> {
    let now = Utc::now();
    let public_url = intake.settings.public_url.as_deref();
    let unverified = Unverified::new(&parts.method, public_url, &parts.uri, &parts.headers, body);
    let verified = authenticate::verified(intake, enabled, unverified, class, now).await?;
    // Anyone may send what is only observed.
    let is_observed = verified.proof().is_observed();
    let is_proven = !enabled.scheme.is_none() && !is_observed;
    if let Some(guest) = parts.extensions.get::<Guest>().filter(|_| is_proven) {
        guest.note_verified();
    }
    let read = structure::check(body)
        .map_err(provider::AdmissionRefusal::from)
        .and_then(|()| enabled.provider.read(&verified));
    let was_there = read.as_ref().is_ok_and(|admission| {
        let order = &admission.external_order_id;
        intake.orders.has_webhook(&enabled.name, order, admission.event_id)
    });
    let load = QuotaLoad {
        principal: verified.principal(),
        bytes: body.len(),
        is_repeat: was_there,
    };
    intake.check_room_on_the_log(enabled, load)?;
    if let Ok(admission) = &read {
        intake.limits.note_sent(enabled, admission.event_id, info.client)?;
    }
    // An unreadable webhook takes a point as well.
    let taken = intake.limits.take(enabled, load);
    if let (Err(_), Ok(admission)) = (&taken, &read) {
        intake.limits.forget_sent(admission.event_id, info.client);
    }
    let (point, admission) = (taken?, read?);
    enabled.measured.received.increment(1);
    let event = NewEvent {
        envelope: envelope(enabled, &verified, &admission, info, (parts.uri.path(), body), now),
        payload: body.clone(),
    };
    Ok(Admitted {
        admission,
        was_there,
        is_observed,
        point,
        event,
    })
}

fn log_accepted(enabled: &Enabled, admission: &Admission, info: &RequestInfo, appended: Appended) {
    tracing::debug!(
        provider = &*enabled.name,
        request_id = info.request_id,
        order_id = admission.external_order_id,
        event_id = %admission.event_id,
        sequence = appended.sequence,
        duplicate = appended.duplicate,
        processing_time = info.began.elapsed().as_millis() as u64,
        "webhook accepted"
    );
}
