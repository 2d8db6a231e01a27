//! The backend of the benchmark: takes every order at once and notes when it came, as cheaply as it can.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::Result;
use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{
        StatusCode,
        header::{CONTENT_TYPE, RETRY_AFTER},
    },
    response::{IntoResponse, Response},
    routing::post,
};

use crate::times::{Times, order_number};

/// What it asks for where it is away: longer than any measurement takes.
const LATER_SECONDS: &str = "43200";

#[derive(Clone)]
struct Backend {
    times: Arc<Times>,
    /// It asks every order to come back much later.
    is_away: Arc<AtomicBool>,
}

/// Starts it on a thread of its own, for as long as the process lives.
pub(crate) fn start(times: Arc<Times>, is_away: Arc<AtomicBool>) -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let router = Router::new()
        .route("/api/integration/orders", post(take))
        .with_state(Backend { times, is_away });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("backend".into()).spawn(move || {
        runtime.block_on(async {
            // Without it there is nothing to measure; the load's figures will say so.
            if let Ok(server) = axum_server::from_tcp(listener) {
                let _ = server.http1_only().serve(router.into_make_service()).await;
            }
        });
    })?;
    Ok(address)
}

async fn take(State(backend): State<Backend>, body: Bytes) -> Response {
    if backend.is_away.load(Ordering::Relaxed) {
        return (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, LATER_SECONDS)]).into_response();
    }
    let id = external_id(&body).unwrap_or_default();
    if let Some(number) = order_number(id) {
        backend.times.mark_arrived(number);
    }
    let answer = format!(r#"{{"success":true,"orderId":"order-{id}","status":"pending"}}"#);
    ([(CONTENT_TYPE, "application/json")], answer).into_response()
}

/// The text of the first `"orderId":"…"`, which is the provider's id.
fn external_id(body: &[u8]) -> Option<&str> {
    const FIELD: &[u8] = br#""orderId":""#;
    let at = body.windows(FIELD.len()).position(|window| window == FIELD)? + FIELD.len();
    let end = at + body[at..].iter().position(|byte| *byte == b'"')?;
    std::str::from_utf8(&body[at..end]).ok()
}
