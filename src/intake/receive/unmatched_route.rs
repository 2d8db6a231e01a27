//! Answers requests that are not webhooks: a wrong method, an unknown path or another spelling of one, or plain HTTP where HTTPS is
//! required.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    body::Body,
    extract::{ConnectInfo, Request, State},
    http::Response,
    middleware::Next,
};

use super::answer::refuse;
use crate::{
    intake::Intake,
    serving::{
        audit::NO_PROVIDER,
        body,
        client_ip::{came_by_tls, client_ip},
        refusal::Reason,
        request_id,
    },
};

/// `REQUIRE_HTTPS`: goes on only with what came by TLS.
pub async fn require_https(
    State(intake): State<Arc<Intake>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response<Body> {
    let settings = &intake.settings;
    let (peer, tls) = (peer.ip(), settings.tls.is_some());
    if came_by_tls(peer, tls, request.headers(), &settings.trusted_proxies) {
        return next.run(request).await;
    }
    let client = client_ip(peer, request.headers(), &settings.trusted_proxies);
    let request_id = request_id::of(request.headers());
    body::discard(request.into_body()).await;
    refuse(NO_PROVIDER, &Reason::HttpsRequired, &request_id, client)
}

/// Any other method on a webhook's path.
pub async fn method_not_allowed(
    State(intake): State<Arc<Intake>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response<Body> {
    intake
        .refuse_unmatched(&Reason::MethodNotAllowed("POST"), peer, request)
        .await
}

/// Any other path.
pub async fn not_found(
    State(intake): State<Arc<Intake>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response<Body> {
    intake.refuse_unmatched(&Reason::NotFound, peer, request).await
}

impl Intake {
    async fn refuse_unmatched(&self, reason: &Reason, peer: SocketAddr, request: Request) -> Response<Body> {
        let request_id = request_id::of(request.headers());
        let client = client_ip(peer.ip(), request.headers(), &self.settings.trusted_proxies);
        body::discard(request.into_body()).await;
        refuse(NO_PROVIDER, reason, &request_id, client)
    }
}
