//! (f) What it costs to make the backend's order of a webhook, by a provider's file: the platform's sample, and the same
//! order as another file wants it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use chrono::Utc;
use serde_json::{Value, json};
use webhook_hub::{
    event::Recorded,
    order::{
        body::{self, BodySource, BranchRef},
        sanitise::clean_json,
    },
    provider::{Catalogue, Content, Provider, declarative::Declarative},
};

use super::Bench;
use crate::results::row::{Goal, Samples};

/// The platform's sample.
const SAMPLE: &str = include_str!("../../tests/fixtures/careem.order.json");
/// Orders of one batch; the quickest of some batches is a figure, for the machine is shared.
const ORDERS: u32 = 5_000;
const BATCHES: usize = 3;
/// What the sample may cost, in microseconds.
const LIMIT_MICROS: f64 = 40.0;

impl Bench {
    pub(crate) fn transform(&mut self) -> Result<()> {
        let mut samples = Samples::new("transform");
        let sample: Value = serde_json::from_str(SAMPLE)?;
        let generic = as_generic(&sample);
        for _ in 0..self.rounds {
            let careem = micros("careem", &sample)?;
            let generic = micros("generic", &generic)?;
            let row = samples.add("the sample order", careem, "µs");
            row.on_one_core = true;
            row.wants(Goal::AtMost(LIMIT_MICROS));
            samples.add("the same order by another file", generic, "µs").on_one_core = true;
            let share = samples.add("share of the sample's", generic / careem, "");
            share.wants(Goal::AtMost(2.0));
        }
        self.push(samples);
        Ok(())
    }
}

/// The sample in the format of the file `generic`.
fn as_generic(sample: &Value) -> Value {
    let at = |pointer: &str| sample.pointer(pointer).cloned().unwrap_or_default();
    let item = |pointer: &str| at(&format!("/items/0{pointer}"));
    let option = |pointer: &str| item(&format!("/groups/0/options/0{pointer}"));
    json!({
        "type": "order.created",
        "timestamp": at("/created_at"),
        "data": {
            "id": at("/id"), "number": at("/order_number"), "status": "received", "placed_at": at("/created_at"),
            "fulfillment": "platform_courier", "currency": "JOD",
            "customer": { "name": at("/customer/name"), "phone": at("/customer/phone_number"), "email": at("/customer/email") },
            "address": {
                "street": at("/customer/address/street"), "area": at("/customer/address/area"), "city": at("/customer/address/city"),
                "latitude": at("/customer/address/latitude"), "longitude": at("/customer/address/longitude"),
            },
            "lines": [{
                "id": item("/id"), "name": item("/name"), "names": { "ar": item("/name_ar") }, "quantity": item("/quantity"),
                "unit_price": item("/item_price"), "total": item("/total_price"),
                "modifiers": [{
                    "group": item("/groups/0/name"), "id": option("/id"), "name": option("/name"),
                    "quantity": option("/quantity"), "price": option("/price"),
                }],
            }],
            "subtotal": at("/price/subtotal"), "delivery_fee": at("/price/delivery_fee"), "service_fee": at("/price/service_fee"),
            "tax": at("/price/tax_amount"), "tax_mode": "excluded", "total": at("/price/total_taxable_price"),
            "payment": { "method": at("/merchant_pay_type"), "prepaid": false },
        },
    })
}

/// Microseconds from a webhook on the log to the backend's body.
fn micros(provider: &str, webhook: &Value) -> Result<f64> {
    let catalogue = Catalogue::shipped();
    let known = catalogue.get(provider).context("a provider that is shipped")?;
    let declarative = Declarative::new(Arc::clone(known.file()), None);
    let received = received(provider, webhook)?;
    let place = BranchRef {
        auto_accept: false,
        branch_id: "branch-uuid".into(),
        company_id: "company-uuid".into(),
    };
    let mut best = Duration::MAX;
    for _ in 0..BATCHES {
        let began = Instant::now();
        for _ in 0..ORDERS {
            let fact = declarative.transform(&received)?;
            let Content::NewOrder(order) = &fact.content else {
                bail!("{provider}: the sample is no new order");
            };
            let envelope = &received.envelope;
            let origin = BodySource {
                auto_accept: false,
                provider: &envelope.provider,
                webhook_type: &envelope.webhook_type,
                external_order_id: &envelope.external_order_id,
                timestamp: fact.timestamp.unwrap_or(envelope.time),
                transformed_at: envelope.time,
                zone: None,
            };
            std::hint::black_box(clean_json(body::new_order(order, &place, origin)?));
        }
        best = best.min(began.elapsed());
    }
    Ok(best.as_secs_f64() * 1e6 / f64::from(ORDERS))
}

fn received(provider: &str, webhook: &Value) -> Result<Recorded> {
    let body = webhook.to_string();
    let mut received = Recorded::sample(provider, "CR123456789", "order_created", body.as_bytes(), Utc::now());
    let request = received.envelope.request.as_mut().context("a webhook has a request")?;
    request.headers.insert("x-merchant-id".into(), "merchant-1".into());
    Ok(received)
}
