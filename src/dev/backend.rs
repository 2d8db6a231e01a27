//! A sample backend for development: it accepts orders as the restaurant's backend would, stores them in `orders`, and
//! recognises a repeat by its `Idempotency-Key`.

use std::{
    collections::{HashMap, VecDeque},
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::{
    config,
    config::Environment,
    database::Database,
    serving::{server, server::Serving},
};

/// What the hub must bring to be let in.
pub const SERVICE_TOKEN: &str = "dev-service-token";
/// Time for a request's headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections at a time; one hub opens 128 at most.
const CONNECTIONS: usize = 256;
/// Keys that are remembered; a developer's machine sees few.
const MAX_KEYS: usize = 100_000;

/// Bodies that are kept to be looked at, the latest.
const MAX_BODIES: usize = 100;

struct Backend {
    database: Database,
    /// What came, and about which order.
    bodies: Mutex<VecDeque<(String, Bytes)>>,
    /// The order that each key made.
    keys: Mutex<HashMap<String, String>>,
}

/// Serves until it is stopped.
///
/// # Errors
/// If the listener or the database's settings cannot be used.
pub async fn serve(listener: TcpListener, database_url: String, stop: CancellationToken) -> anyhow::Result<()> {
    let environment = Environment::from_iter([("DATABASE_URL", database_url)]);
    let database = Database::new(&config::Database::from_environment(&environment)?)?;
    let backend = Arc::new(Backend {
        database,
        bodies: Mutex::default(),
        keys: Mutex::default(),
    });
    let router = Router::new()
        .route("/api/integration/orders", post(create))
        .route("/api/integration/orders/{id}/status", post(change))
        .route("/api/integration/orders/{id}/amendment", post(amend))
        .route("/orders/{id}", get(came))
        .with_state(backend);
    listener.set_nonblocking(true)?;
    let address: SocketAddr = listener.local_addr()?;
    tracing::debug!(%address, "sample backend");
    let serving = Serving::privately(HEADER_TIMEOUT, Duration::from_secs(1), CONNECTIONS);
    Ok(server::serve(listener, router, serving, stop).await?)
}

async fn create(State(backend): State<Arc<Backend>>, headers: HeaderMap, body: Bytes) -> Response {
    let text = |name: &str| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned()
    };
    if text("x-service-token") != SERVICE_TOKEN {
        return refuse(StatusCode::UNAUTHORIZED, "wrong X-Service-Token");
    }
    let Ok(order) = serde_json::from_slice::<Value>(&body) else {
        return refuse(StatusCode::BAD_REQUEST, "no JSON");
    };
    let order = &order["transformedOrder"];
    backend.keep(order["externalOrderId"].as_str(), &body).await;
    let key = text("idempotency-key");
    let mut keys = backend.keys.lock().await;
    if let Some(known) = keys.get(&key) {
        return Json(json!({ "success": true, "orderId": known, "status": "pending" })).into_response();
    }
    let id = format!("order-{}", uuid::Uuid::new_v4().simple());
    match insert(&backend.database, &id, order).await {
        Ok(()) => {}
        Err(error) => return refuse(StatusCode::SERVICE_UNAVAILABLE, &format!("{error:#}")),
    }
    if keys.len() < MAX_KEYS {
        keys.insert(key, id.clone());
    }
    Json(json!({ "success": true, "orderId": id, "status": "pending", "printJobQueued": true })).into_response()
}

impl Backend {
    async fn keep(&self, external_id: Option<&str>, body: &Bytes) {
        let mut bodies = self.bodies.lock().await;
        if bodies.len() == MAX_BODIES {
            bodies.pop_front();
        }
        bodies.push_back((external_id.unwrap_or_default().to_owned(), body.clone()));
    }
}

/// What came about an order, in its order and byte for byte, so that every digit of an amount can be seen.
async fn came(State(backend): State<Arc<Backend>>, Path(external_id): Path<String>) -> Response {
    let bodies = backend.bodies.lock().await;
    let of_order = bodies.iter().filter(|(id, _)| *id == external_id);
    let mut text = String::new();
    for (_, body) in of_order {
        text.push_str(&String::from_utf8_lossy(body));
        text.push('\n');
    }
    match text.is_empty() {
        true => refuse(
            StatusCode::NOT_FOUND,
            "nothing came about this order, or it was long ago",
        ),
        false => text.into_response(),
    }
}

async fn insert(database: &Database, id: &str, order: &Value) -> anyhow::Result<()> {
    let text = |name: &str| order[name].as_str().unwrap_or_default().to_owned();
    database
        .connect()
        .await?
        .execute(
            "INSERT INTO orders (id, order_number, branch_id, provider_order_id) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
            &[&id, &text("orderNumber"), &text("branchId"), &text("externalOrderId")],
        )
        .await?;
    Ok(())
}

async fn change(State(backend): State<Arc<Backend>>, Path(external_id): Path<String>, body: Bytes) -> Response {
    let change: Value = serde_json::from_slice(&body).unwrap_or_default();
    backend.keep(Some(&external_id), &body).await;
    let status = change["statusChange"]["status"]
        .as_str()
        .unwrap_or("pending")
        .to_owned();
    let updated = async {
        let connection = backend.database.connect().await?;
        let sql = "UPDATE orders SET status = $2::text::order_status WHERE provider_order_id = $1 RETURNING id";
        anyhow::Ok(connection.query_opt(sql, &[&external_id, &status]).await?)
    };
    match updated.await {
        Ok(Some(row)) => {
            Json(json!({ "success": true, "orderId": row.get::<_, String>(0), "status": status })).into_response()
        }
        Ok(None) => refuse(StatusCode::NOT_FOUND, "no such order"),
        Err(error) => refuse(StatusCode::SERVICE_UNAVAILABLE, &format!("{error:#}")),
    }
}

async fn amend(State(backend): State<Arc<Backend>>, Path(external_id): Path<String>, body: Bytes) -> Response {
    backend.keep(Some(&external_id), &body).await;
    let found = async {
        let connection = backend.database.connect().await?;
        let sql = "SELECT id FROM orders WHERE provider_order_id = $1";
        anyhow::Ok(connection.query_opt(sql, &[&external_id]).await?)
    };
    match found.await {
        Ok(Some(row)) => Json(json!({ "success": true, "orderId": row.get::<_, String>(0) })).into_response(),
        Ok(None) => refuse(StatusCode::NOT_FOUND, "no such order"),
        Err(error) => refuse(StatusCode::SERVICE_UNAVAILABLE, &format!("{error:#}")),
    }
}

fn refuse(status: StatusCode, message: &str) -> Response {
    (
        status,
        Json(json!({ "success": false, "error": { "message": message } })),
    )
        .into_response()
}
