//! The demonstration: sends a signed order through the whole hub and shows each step.

use std::{
    fmt::Display,
    io::Write,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use async_nats::{ConnectOptions, Subscriber};
use axum::http::{HeaderMap, Method, StatusCode};
use chrono::Utc;
use futures_util::StreamExt;
use serde_json::Value;
use tokio_postgres::NoTls;

use super::{DATABASE, Dev, WEBHOOK_SECRET, backend::SERVICE_TOKEN};
use crate::{
    config::ClientTls,
    http::{self, Answer, MAX_ANSWER_BYTES, Request, Target},
    verification::{
        Keys, Scheme,
        sign::{self, Outgoing},
    },
};

const SAMPLE: &str = include_str!("sample_order.json");
/// Longest time the sample order may take; it takes some ten milliseconds.
const WAIT: Duration = Duration::from_secs(30);
/// Pause between two looks at the row.
const POLL: Duration = Duration::from_millis(20);

/// Sends the order, shows each step of it, and prints what to try next.
pub(super) async fn run(dev: &Dev, hub: SocketAddr, metrics: SocketAddr, providers: &str) -> anyhow::Result<()> {
    say("")?;
    say(format_args!(
        "  NATS        {}   (data in {})",
        dev.nats.url(),
        dev.nats.dir().display()
    ))?;
    say(format_args!(
        "  PostgreSQL  {}   (data in {})",
        dev.postgres.url(DATABASE),
        dev.postgres.dir().display()
    ))?;
    say(format_args!(
        "  backend     http://{0}   (a sample; its orders: http://{0}/orders/{{order id}}; X-Service-Token: {SERVICE_TOKEN})",
        dev.backend
    ))?;
    say(format_args!(
        "  hub         http://{hub}   health: /health   metrics: http://{metrics}/metrics"
    ))?;
    say(format_args!(
        "  providers   {providers}   (PROVIDERS_DIR and <PROVIDER>_… are taken from this shell)"
    ))?;
    say(format_args!(
        "  in a shell  . {}   (sets these addresses and the variables of commands)",
        dev.dir.join(super::VARIABLES).display()
    ))?;
    say("")?;
    let number = Utc::now().timestamp_millis();
    let order_id = format!("CR{number}");
    let body = SAMPLE.replace("ORDER_ID", &order_id);
    let mut events = subscribe(dev).await?;
    let client = http::client(WAIT, 1, HeaderMap::new(), &ClientTls::of_machine("HUB"))?;
    wait_ready(&client, hub).await?;
    say(format_args!("sending a signed Careem order, {order_id}:"))?;
    let began = Instant::now();
    let answer = post(&client, hub, &body).await?;
    say(format_args!(
        "  accepted      in {}: on the event log, fsynced; answer {answer}",
        ms(began)
    ))?;
    let forwarded = outcome(&mut events, &order_id, began).await?;
    let order = forwarded["internalOrderId"].as_str().unwrap_or("?").to_owned();
    say(format_args!(
        "  at backend    in {}: order {order}, total {} {}",
        ms(began),
        text(&forwarded["order"]["total"]),
        text(&forwarded["order"]["currency"])
    ))?;
    let row = row(dev, &order_id).await?;
    say(format_args!("  webhook_logs  in {}: {row}", ms(began)))?;
    go_on(dev, hub, number + 1)
}

fn go_on(dev: &Dev, hub: SocketAddr, number: i64) -> anyhow::Result<()> {
    let file = dev.dir.join("next-order.json");
    let next = SAMPLE.replace("ORDER_ID", &format!("CR{number}"));
    std::fs::write(&file, &next).with_context(|| format!("cannot write {}", file.display()))?;
    say("")?;
    say("send another order (run it twice: the second one is a duplicate):")?;
    let request = signed(hub, &next)?;
    let header = |name: &str| {
        request
            .headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    };
    say(format_args!(
        "  curl -sS -H 'x-careem-signature: {}' -H 'x-merchant-id: {}' --data-binary @{} {}",
        header("x-careem-signature"),
        header("x-merchant-id"),
        file.display(),
        request.url,
    ))?;
    say("")?;
    say("everything keeps running; Ctrl-C stops it")
}

fn say(line: impl Display) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}

fn ms(since: Instant) -> String {
    format!("{:.1} ms", since.elapsed().as_secs_f64() * 1000.0)
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The order as Careem sends it.
fn signed(hub: SocketAddr, body: &str) -> anyhow::Result<Outgoing> {
    let mut request = Outgoing::post(format!("http://{hub}/api/webhooks/careem"), body);
    request.headers.insert("x-merchant-id", "dev-merchant".parse()?);
    let scheme = Scheme::preset("careem").context("no scheme of careem")?;
    Ok(sign::sign(&scheme, &Keys::single(WEBHOOK_SECRET), request, Utc::now())?)
}

/// Subscribes as the restaurant's subscriber would: with only a NATS client.
async fn subscribe(dev: &Dev) -> anyhow::Result<Subscriber> {
    let client = ConnectOptions::with_user_and_password("subscriber".into(), dev.passwords.subscriber.clone())
        .custom_inbox_prefix("_INBOX_subscriber")
        .connect(dev.nats.url())
        .await?;
    let subscriber = client.subscribe("orders.>").await?;
    client.flush().await?;
    Ok(subscriber)
}

async fn wait_ready(client: &http::Client, hub: SocketAddr) -> anyhow::Result<()> {
    let deadline = Instant::now() + WAIT;
    while Instant::now() < deadline {
        let target = Target::parse(&format!("http://{hub}/health/ready"));
        let asked = client.ask(Request::new(Method::GET, target), MAX_ANSWER_BYTES).await;
        if asked.is_ok_and(|answer| (200..300).contains(&answer.status)) {
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
    bail!("the hub was not ready within {} s", WAIT.as_secs())
}

async fn post(client: &http::Client, hub: SocketAddr, body: &str) -> anyhow::Result<String> {
    let request = signed(hub, body)?;
    let post = Request::new(Method::POST, Target::parse(&request.url))
        .headers(request.headers)
        .body(request.body);
    let answer = client.ask(post, MAX_ANSWER_BYTES).await.and_then(Answer::unbroken)?;
    let (status, text) = (
        StatusCode::from_u16(answer.status)?,
        String::from_utf8_lossy(&answer.body).into_owned(),
    );
    if !status.is_success() {
        bail!("the hub answered the sample order with {status}: {text}");
    }
    Ok(format!("{status} {text}"))
}

/// Shows each event of the order until it ends.
async fn outcome(events: &mut Subscriber, order_id: &str, began: Instant) -> anyhow::Result<Value> {
    loop {
        let event = tokio::time::timeout(WAIT, events.next())
            .await
            .context("no outcome of the sample order")?;
        let event = event.context("the subscription ended")?;
        let header = |name: &str| {
            event
                .headers
                .as_ref()
                .and_then(|all| all.get(name))
                .map_or("", |value| value.as_str())
        };
        if header("ce-subject") != order_id {
            continue;
        }
        let event_type = header("ce-type");
        say(format_args!(
            "  event         in {}: {event_type} on {}",
            ms(began),
            event.subject
        ))?;
        match event_type {
            "order.forwarded" => return Ok(serde_json::from_slice(&event.payload)?),
            "order.rejected" | "order.dead_lettered" | "order.ignored" => {
                bail!(
                    "the sample order ended as {event_type}: {}",
                    String::from_utf8_lossy(&event.payload)
                )
            }
            _ => {}
        }
    }
}

/// The order's row, once it is completed.
async fn row(dev: &Dev, order_id: &str) -> anyhow::Result<String> {
    let (client, connection) = tokio_postgres::connect(&dev.postgres.url(DATABASE), NoTls).await?;
    let look = async {
        let deadline = Instant::now() + WAIT;
        loop {
            let sql = "SELECT status::text, internal_order_id FROM public.webhook_logs WHERE external_order_id = $1";
            if let Some(row) = client.query_opt(sql, &[&order_id]).await? {
                let (status, internal): (String, Option<String>) = (row.try_get(0)?, row.try_get(1)?);
                if status == "completed" {
                    return Ok(format!(
                        "{status}, internal_order_id = {}",
                        internal.unwrap_or_default()
                    ));
                }
            }
            if Instant::now() > deadline {
                bail!("webhook_logs has no completed row of the sample order");
            }
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::select! {
        row = look => row,
        ended = connection => bail!("the connection to PostgreSQL ended: {ended:?}"),
    }
}
