//! `provider_order_logs`: one row an order that the backend has, with the provider's latest word about it.

use std::collections::HashMap;

use chrono::NaiveDateTime;
use deadpool_postgres::Transaction;

use super::{payload, providers::Providers, timestamp};
use crate::{
    database::query,
    event::{
        EventType, Recorded,
        outcome::{Forwarded, OrderSummary},
    },
    order::status::OrderStatus,
};

/// The columns of new rows, as arrays.
#[derive(Default)]
struct Orders<'a> {
    id: Vec<String>,
    order_id: Vec<String>,
    provider_id: Vec<&'a str>,
    branch_id: Vec<String>,
    company_id: Vec<String>,
    external_order_id: Vec<&'a str>,
    provider_status: Vec<String>,
    mapped_status: Vec<Option<&'static str>>,
    delivery_type: Vec<Option<String>>,
    captain_name: Vec<Option<String>>,
    captain_phone: Vec<Option<String>>,
    captain_id: Vec<Option<String>>,
    delivery_fee: Vec<Option<String>>,
    service_fee: Vec<Option<String>>,
    total_amount: Vec<Option<String>>,
    payment_method: Vec<Option<String>>,
    is_prepaid: Vec<bool>,
    at: Vec<NaiveDateTime>,
    root_id: Vec<String>,
}

impl<'a> Orders<'a> {
    fn push(&mut self, event: &'a Recorded, provider_id: &'a str, order_id: String, order: OrderSummary) {
        // By order, not by event: should one event ever be recorded with two orders, each has its row.
        self.id
            .push(event.envelope.root_id.derive(&format!("order/{order_id}")).to_string());
        self.order_id.push(order_id);
        self.provider_id.push(provider_id);
        self.mapped_status.push(mapped(&order));
        self.branch_id.push(order.branch_id);
        self.company_id.push(order.company_id);
        self.external_order_id.push(&event.envelope.external_order_id);
        self.provider_status.push(order.provider_status);
        self.delivery_type.push(order.delivery_type);
        self.captain_name.push(order.captain_name);
        self.captain_phone.push(order.captain_phone);
        self.captain_id.push(order.captain_id);
        self.delivery_fee.push(order.delivery_fee);
        self.service_fee.push(order.service_fee);
        self.total_amount.push(order.total);
        self.payment_method.push(order.payment_method);
        self.is_prepaid.push(order.is_prepaid);
        self.at.push(timestamp(event.envelope.time));
        self.root_id.push(event.envelope.root_id.to_string());
    }
}

/// A word of the enum only: another would refuse the whole batch.
fn mapped(order: &OrderSummary) -> Option<&'static str> {
    order
        .status
        .as_deref()
        .and_then(OrderStatus::from_word)
        .map(OrderStatus::as_str)
}

/// Applies events in the log's order.
pub(super) async fn apply(
    transaction: &Transaction<'_>,
    events: &[Recorded],
    providers: &Providers,
) -> anyhow::Result<()> {
    let mut orders = Orders::default();
    // A statement may touch a row once: of the creations of one order the first counts, its changes go one after another.
    let mut created: HashMap<(&str, String), ()> = HashMap::new();
    let mut changes: HashMap<(&str, &str), usize> = HashMap::new();
    let mut rounds: Vec<Vec<Change<'_>>> = Vec::new();
    for event in events
        .iter()
        .filter(|event| event.envelope.event_type == EventType::OrderForwarded)
    {
        let Some(provider_id) = providers.id(&event.envelope.provider) else {
            continue;
        };
        let Some(forwarded) = payload::<Forwarded>(event) else {
            continue;
        };
        match forwarded.internal_order_id {
            Some(order_id) if event.envelope.is_creation() => {
                if created.insert((provider_id, order_id.clone()), ()).is_none() {
                    orders.push(event, provider_id, order_id, forwarded.order);
                }
            }
            _ => {
                let order = (provider_id, event.envelope.external_order_id.as_str());
                let round = changes.entry(order).or_default();
                if rounds.len() == *round {
                    rounds.push(Vec::new());
                }
                rounds[*round].push((order, forwarded.order, timestamp(event.envelope.time)));
                *round += 1;
            }
        }
    }
    insert(transaction, orders).await?;
    for round in rounds {
        update(transaction, round).await?;
    }
    Ok(())
}

/// Provider and order, what it says, and when.
type Change<'a> = ((&'a str, &'a str), OrderSummary, NaiveDateTime);

async fn insert(transaction: &Transaction<'_>, orders: Orders<'_>) -> anyhow::Result<()> {
    if orders.id.is_empty() {
        return Ok(());
    }
    let statement = transaction.prepare_cached(query::UPSERT_ORDER_LOGS).await?;
    transaction
        .execute(
            &statement,
            &[
                &orders.id,
                &orders.order_id,
                &orders.provider_id,
                &orders.branch_id,
                &orders.company_id,
                &orders.external_order_id,
                &orders.provider_status,
                &orders.mapped_status,
                &orders.delivery_type,
                &orders.captain_name,
                &orders.captain_phone,
                &orders.captain_id,
                &orders.delivery_fee,
                &orders.service_fee,
                &orders.total_amount,
                &orders.payment_method,
                &orders.is_prepaid,
                &orders.at,
                &orders.root_id,
            ],
        )
        .await?;
    Ok(())
}

async fn update(transaction: &Transaction<'_>, changes: Vec<Change<'_>>) -> anyhow::Result<()> {
    let (mut provider_id, mut external_id, mut word, mut status) = (vec![], vec![], vec![], vec![]);
    let (mut captain_name, mut captain_phone, mut captain_id, mut at) = (vec![], vec![], vec![], vec![]);
    for ((provider, external), order, time) in changes {
        provider_id.push(provider);
        external_id.push(external);
        status.push(mapped(&order));
        word.push(order.provider_status);
        captain_name.push(order.captain_name);
        captain_phone.push(order.captain_phone);
        captain_id.push(order.captain_id);
        at.push(time);
    }
    let statement = transaction.prepare_cached(query::UPDATE_ORDER_LOGS).await?;
    let columns: [&(dyn tokio_postgres::types::ToSql + Sync); 8] = [
        &provider_id,
        &external_id,
        &word,
        &status,
        &captain_name,
        &captain_phone,
        &captain_id,
        &at,
    ];
    transaction.execute(&statement, &columns).await?;
    Ok(())
}
