//! The rows of `provider_order_logs` as PostgreSQL takes them.

use std::borrow::Cow;

use chrono::NaiveDateTime;
use tokio_postgres::types::ToSql;

use super::{New, OrderNews, RawData, TABLE, mapped};
use crate::{
    database::{Transaction, query},
    order::status::OrderStatus,
    projection::{copy::CopiedRows, storable::storable_json, timestamp},
};

/// The columns of news, as arrays.
#[derive(Default)]
pub(super) struct Changes {
    id: Vec<String>,
    provider_status: Vec<Option<String>>,
    mapped_status: Vec<Option<&'static str>>,
    actual_delivery: Vec<Option<NaiveDateTime>>,
    captain_name: Vec<Option<String>>,
    captain_phone: Vec<Option<String>>,
    captain_id: Vec<Option<String>>,
    updated_at: Vec<NaiveDateTime>,
}

impl Changes {
    pub(super) fn push(&mut self, id: String, news: OrderNews) {
        self.id.push(id);
        self.provider_status.push(news.provider_status);
        self.mapped_status.push(news.mapped_status.map(OrderStatus::as_str));
        self.actual_delivery.push(news.actual_delivery);
        self.captain_name.push(news.captain_name);
        self.captain_phone.push(news.captain_phone);
        self.captain_id.push(news.captain_id);
        self.updated_at.push(news.updated_at);
    }

    /// Changes rows.
    ///
    /// # Errors
    /// If PostgreSQL refuses or does not answer.
    pub(super) async fn store(&self, transaction: &Transaction<'_>) -> anyhow::Result<()> {
        if self.id.is_empty() {
            return Ok(());
        }
        let columns: [&(dyn ToSql + Sync); 8] = [
            &self.id,
            &self.provider_status,
            &self.mapped_status,
            &self.actual_delivery,
            &self.captain_name,
            &self.captain_phone,
            &self.captain_id,
            &self.updated_at,
        ];
        transaction.execute(query::UPDATE_ORDER_LOGS, &columns).await?;
        Ok(())
    }
}

/// The columns of new rows, as arrays; what news can change stands in `state`.
#[derive(Default)]
pub(super) struct NewRows<'a> {
    order_id: Vec<String>,
    provider_id: Vec<String>,
    branch_id: Vec<String>,
    company_id: Vec<String>,
    external_order_id: Vec<String>,
    delivery_type: Vec<Option<String>>,
    delivery_fee: Vec<Option<String>>,
    service_fee: Vec<Option<String>>,
    total_amount: Vec<Option<String>>,
    payment_method: Vec<Option<String>>,
    is_prepaid: Vec<bool>,
    root_id: Vec<Option<String>>,
    payload: Vec<Option<Cow<'a, str>>>,
    created_at: Vec<NaiveDateTime>,
    state: Changes,
}

impl<'a> NewRows<'a> {
    pub(super) fn push(
        &mut self,
        id: String,
        order_id: String,
        provider_id: String,
        new: New<'a>,
        news: Option<OrderNews>,
    ) {
        let (order, envelope) = (new.order, &new.event.envelope);
        let at = timestamp(envelope.time);
        let mapped_status = mapped(order);
        let news = news.unwrap_or(OrderNews {
            updated_at: at,
            ..OrderNews::default()
        });
        let state = OrderNews {
            provider_status: Some(news.provider_status.unwrap_or_else(|| order.provider_status.clone())),
            mapped_status: news.mapped_status.or(mapped_status),
            captain_name: news.captain_name.or_else(|| order.captain_name.clone()),
            captain_phone: news.captain_phone.or_else(|| order.captain_phone.clone()),
            captain_id: news.captain_id.or_else(|| order.captain_id.clone()),
            ..news
        };
        self.state.push(id, state);
        self.order_id.push(order_id);
        self.provider_id.push(provider_id);
        self.branch_id.push(order.branch_id.clone());
        self.company_id.push(order.company_id.clone());
        self.external_order_id.push(envelope.external_order_id.clone());
        self.delivery_type.push(order.delivery_type.clone());
        self.delivery_fee.push(order.delivery_fee.clone());
        self.service_fee.push(order.service_fee.clone());
        self.total_amount.push(order.total.clone());
        self.payment_method.push(order.payment_method.clone());
        self.is_prepaid.push(order.is_prepaid);
        let (is_known, payload) = match new.raw_data {
            RawData::Absent => (false, None),
            RawData::InRow => (true, None),
            RawData::Of(webhook) => (true, Some(storable_json(&webhook.payload))),
        };
        self.root_id.push(is_known.then(|| envelope.root_id.to_string()));
        self.payload.push(payload);
        self.created_at.push(at);
    }

    /// Adds rows with the payloads that they name.
    ///
    /// # Errors
    /// If PostgreSQL refuses or does not answer.
    pub(super) async fn copy(&self, transaction: &Transaction<'_>) -> anyhow::Result<()> {
        let (mut rows, state) = (CopiedRows::default(), &self.state);
        for at in 0..self.order_id.len() {
            rows.text(&state.id[at])
                .text(&self.order_id[at])
                .text(&self.provider_id[at])
                .text(&self.branch_id[at])
                .text(&self.company_id[at])
                .text(&self.external_order_id[at])
                .maybe(state.provider_status[at].as_deref())
                .maybe(state.mapped_status[at])
                .maybe(self.delivery_type[at].as_deref())
                .maybe_time(state.actual_delivery[at])
                .maybe(state.captain_name[at].as_deref())
                .maybe(state.captain_phone[at].as_deref())
                .maybe(state.captain_id[at].as_deref())
                .maybe(self.delivery_fee[at].as_deref())
                .maybe(self.service_fee[at].as_deref())
                .maybe(self.total_amount[at].as_deref())
                .maybe(self.payment_method[at].as_deref())
                .plain(self.is_prepaid[at])
                .time(self.created_at[at])
                .time(state.updated_at[at])
                .maybe(self.payload[at].as_deref())
                .end();
        }
        Ok(rows.store(transaction, &TABLE).await?)
    }

    /// Adds rows with the payloads that the webhooks' rows have.
    ///
    /// # Errors
    /// If PostgreSQL refuses or does not answer.
    pub(super) async fn insert(&self, transaction: &Transaction<'_>) -> anyhow::Result<()> {
        if self.order_id.is_empty() {
            return Ok(());
        }
        let columns: [&(dyn ToSql + Sync); 21] = [
            &self.state.id,
            &self.order_id,
            &self.provider_id,
            &self.branch_id,
            &self.company_id,
            &self.external_order_id,
            &self.delivery_type,
            &self.state.captain_name,
            &self.state.captain_phone,
            &self.state.captain_id,
            &self.delivery_fee,
            &self.service_fee,
            &self.total_amount,
            &self.payment_method,
            &self.is_prepaid,
            &self.state.provider_status,
            &self.state.mapped_status,
            &self.state.actual_delivery,
            &self.root_id,
            &self.created_at,
            &self.state.updated_at,
        ];
        transaction.execute(query::INSERT_ORDER_LOGS, &columns).await?;
        Ok(())
    }
}
