//! `provider_order_logs`: one row an order that the backend has, with the provider's latest status of it (see
//! [`super::rules`]).

mod rows;

use std::collections::{HashMap, HashSet};

use chrono::NaiveDateTime;
use futures_util::future::BoxFuture;

use self::rows::{Changes, NewRows};
use super::{
    Projection,
    batch::Batch,
    copy::Adding,
    decoded::{DecodedPayload, Event},
    providers::Providers,
    rules::{self, EventOrder, WebhookKnowledge},
    table::{RowRetention, Table},
    timestamp,
};
use crate::{
    database::{Transaction, query},
    event::{
        Envelope, EventId, EventType,
        outcome::{Forwarded, OrderSummary},
    },
    order::status::OrderStatus,
};

/// Its table.
static TABLE: Table = Table {
    name: "provider_order_logs",
    version: 1,
    key: &["id"],
    began: "created_at",
    provider: "provider_id",
    insert: query::INSERT_ORDER_LOGS,
    by_people: None,
    same_order: Some(|| "l.provider_id = s.provider_id AND l.order_id = s.order_id".to_owned()),
    retention: Some(RowRetention {
        kept: |kept| kept.provider_order_logs,
        changed: "updated_at",
        ended: None,
        delete: query::RETAIN_PROVIDER_ORDER_LOGS,
    }),
};

/// The projection.
pub(super) struct ProviderOrderLogs;

impl Projection for ProviderOrderLogs {
    fn table(&self) -> &'static Table {
        &TABLE
    }

    fn apply<'a>(
        &'a self,
        transaction: &'a Transaction<'_>,
        batch: &'a mut Batch<'_>,
    ) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async move {
            let mut orders = OrderLogs::load(transaction, batch).await?;
            for (event, standing) in batch.with_standings() {
                orders.apply(event, standing, batch.providers);
            }
            orders.store(transaction, batch.adding).await
        })
    }
}

/// The changes by news. None leaves a column as it is.
#[derive(Debug, Default)]
struct OrderNews {
    provider_status: Option<String>,
    mapped_status: Option<OrderStatus>,
    actual_delivery: Option<NaiveDateTime>,
    captain_name: Option<String>,
    captain_phone: Option<String>,
    captain_id: Option<String>,
    updated_at: NaiveDateTime,
}

/// An order of a batch.
struct OrderLog<'a> {
    id: String,
    order_id: String,
    provider_id: String,
    branch_id: String,
    external_order_id: String,
    /// The row after the events so far.
    status: Option<OrderStatus>,
    created_at: NaiveDateTime,
    /// When the row was last changed by an earlier batch.
    changed_at: NaiveDateTime,
    /// The other columns of a new row.
    new: Option<New<'a>>,
    news: Option<OrderNews>,
}

impl OrderLog<'_> {
    fn change(&mut self, comes: EventOrder, at: NaiveDateTime, order: &OrderSummary) {
        if !comes.may_change(self.changed_at, at) {
            return;
        }
        let next = mapped(order);
        let news = self.news.get_or_insert_default();
        if rules::may_become(self.status, next) {
            // News about the courier alone have no status.
            if !order.provider_status.is_empty() {
                news.provider_status = Some(order.provider_status.clone());
            }
            if next.is_some() {
                (news.mapped_status, self.status) = (next, next);
            }
            if next == Some(OrderStatus::Delivered) {
                news.actual_delivery = Some(at);
            }
        }
        news.captain_name = order.captain_name.clone().or(news.captain_name.take());
        news.captain_phone = order.captain_phone.clone().or(news.captain_phone.take());
        news.captain_id = order.captain_id.clone().or(news.captain_id.take());
        news.updated_at = at;
    }
}

/// The columns that only the event that creates an order has.
struct New<'a> {
    event: &'a Event,
    raw_data: RawData<'a>,
    order: &'a OrderSummary,
}

/// Where the order's webhook is.
#[derive(Clone, Copy)]
enum RawData<'a> {
    /// It has no row.
    Absent,
    /// Its row has it.
    InRow,
    /// Its row is of this batch, and says what this event says.
    Of(&'a Event),
}

/// A word of the enum only: another would refuse the whole batch.
fn mapped(order: &OrderSummary) -> Option<OrderStatus> {
    order.status.as_deref().and_then(OrderStatus::from_word)
}

/// The orders of a batch.
struct OrderLogs<'a> {
    order: EventOrder,
    rows: Vec<OrderLog<'a>>,
    /// Places among the rows by provider's id and the provider's order id.
    by_external_id: HashMap<(String, String), Vec<usize>>,
    /// The same by provider's id and the backend's order id.
    by_order_id: HashMap<(String, String), usize>,
    /// The webhooks with a new row that is known to say what they say.
    webhooks: HashMap<EventId, &'a Event>,
}

impl<'a> OrderLogs<'a> {
    /// Reads the rows of these events' orders.
    async fn load(transaction: &Transaction<'_>, batch: &'a Batch<'_>) -> anyhow::Result<OrderLogs<'a>> {
        let (events, providers) = (batch.events(), batch.providers);
        let mut orders = Self {
            order: batch.order,
            rows: Vec::new(),
            by_external_id: HashMap::new(),
            by_order_id: HashMap::new(),
            webhooks: HashMap::new(),
        };
        if batch.rows_are_as_written {
            // The first one, if it had no row before.
            for (event, standing) in batch.with_standings() {
                if event.envelope.event_type == EventType::WebhookReceived && !standing.is_known {
                    orders.webhooks.entry(event.envelope.root_id).or_insert(event);
                }
            }
        }
        let (mut provider_ids, mut external_ids) = (Vec::new(), Vec::new());
        let (mut providers_of_orders, mut order_ids) = (Vec::new(), Vec::new());
        let mut asked = HashSet::new();
        let mut is_wanted =
            |what: &'static str, key: (&'a str, &'a str)| asked.insert((what, key)) && batch.may_be_there(what, key);
        for event in events {
            let DecodedPayload::Forwarded(forwarded) = event.decoded() else {
                continue;
            };
            if let Some(provider_id) = providers.id(&event.envelope.provider) {
                let external_id = event.envelope.external_order_id.as_str();
                if is_wanted("external order", (provider_id, external_id)) {
                    provider_ids.push(provider_id);
                    external_ids.push(external_id);
                }
                if let (true, Some(order_id)) = (event.envelope.is_creation(), &forwarded.internal_order_id)
                    && is_wanted("backend's order", (provider_id, order_id))
                {
                    providers_of_orders.push(provider_id);
                    order_ids.push(order_id.as_str());
                }
            }
        }
        if provider_ids.is_empty() && order_ids.is_empty() {
            return Ok(orders);
        }
        for row in transaction
            .query(
                query::KNOWN_ORDER_LOGS,
                &[&provider_ids, &external_ids, &providers_of_orders, &order_ids],
            )
            .await?
        {
            let status: Option<&str> = row.try_get(5)?;
            orders.add(OrderLog {
                id: row.try_get(0)?,
                order_id: row.try_get(1)?,
                provider_id: row.try_get(2)?,
                branch_id: row.try_get(3)?,
                external_order_id: row.try_get(4)?,
                status: status.and_then(OrderStatus::from_word),
                created_at: row.try_get(6)?,
                changed_at: row.try_get(7)?,
                new: None,
                news: None,
            });
        }
        Ok(orders)
    }

    fn add(&mut self, row: OrderLog<'a>) {
        let key = (row.provider_id.clone(), row.external_order_id.clone());
        self.by_external_id.entry(key).or_default().push(self.rows.len());
        self.by_order_id
            .insert((row.provider_id.clone(), row.order_id.clone()), self.rows.len());
        self.rows.push(row);
    }

    /// Applies an event, with what was known of its webhook before.
    fn apply(&mut self, event: &'a Event, standing: WebhookKnowledge, providers: &Providers) {
        let envelope = &event.envelope;
        let (Some(provider_id), DecodedPayload::Forwarded(forwarded)) =
            (providers.id(&envelope.provider), event.decoded())
        else {
            return;
        };
        let Forwarded {
            internal_order_id,
            as_news,
            order,
            ..
        } = &**forwarded;
        match internal_order_id {
            Some(order_id) if envelope.is_creation() => {
                match self.by_order_id.get(&(provider_id.to_owned(), order_id.clone())) {
                    Some(place) => self.announced_again(*place, event, standing, order),
                    None => self.create(provider_id, order_id.clone(), event, standing, order),
                }
            }
            // A new order without the backend's id gets no row, and must not change the row of another order that had this number
            // before. An announcement that was sent as news changes the row of its order.
            None if envelope.is_creation() && !as_news => {}
            _ if standing.is_settled => {}
            _ => self.change(provider_id, event, order),
        }
    }

    fn create(
        &mut self,
        provider_id: &str,
        order_id: String,
        event: &'a Event,
        standing: WebhookKnowledge,
        order: &'a OrderSummary,
    ) {
        let raw_data = match self.webhooks.get(&event.envelope.root_id) {
            _ if !standing.is_known => RawData::Absent,
            Some(webhook) => RawData::Of(webhook),
            None => RawData::InRow,
        };
        let new = New { event, raw_data, order };
        let envelope = &new.event.envelope;
        let at = timestamp(envelope.time);
        self.add(OrderLog {
            // The id derives from the order and not from the event alone, so that each of two orders of one event has its row.
            id: envelope.root_id.derive(&format!("order/{order_id}")).to_string(),
            order_id,
            provider_id: provider_id.to_owned(),
            branch_id: new.order.branch_id.clone(),
            external_order_id: envelope.external_order_id.clone(),
            status: mapped(new.order),
            created_at: at,
            changed_at: at,
            new: Some(new),
            news: None,
        });
    }

    /// The order of this number in this branch; the latest one, where the provider has used the number before.
    fn find(&mut self, provider_id: &str, envelope: &Envelope, branch_id: &str) -> Option<&mut OrderLog<'a>> {
        let places = self
            .by_external_id
            .get(&(provider_id.to_owned(), envelope.external_order_id.clone()))?;
        let rows = &self.rows;
        let of_branch = places.iter().copied().filter(|place| {
            let branch = &rows[*place].branch_id;
            (branch_id.is_empty() || branch == branch_id) && envelope.principal.may_act_for(branch).is_ok()
        });
        let latest = of_branch.max_by_key(|place| (rows[*place].created_at, &rows[*place].id))?;
        Some(&mut self.rows[latest])
    }

    /// The same order once more; also if the backend says so of another number, or of another branch's order, which are left
    /// alone.
    fn announced_again(&mut self, place: usize, event: &Event, standing: WebhookKnowledge, order: &OrderSummary) {
        let (comes, row) = (self.order, &mut self.rows[place]);
        let envelope = &event.envelope;
        let is_same = row.external_order_id == envelope.external_order_id
            && envelope.principal.may_act_for(&row.branch_id).is_ok();
        let is_news = is_same && !standing.is_settled;
        if is_news && rules::may_be_announced(row.status, mapped(order)) {
            row.change(comes, timestamp(event.envelope.time), order);
        }
    }

    fn change(&mut self, provider_id: &str, event: &Event, order: &OrderSummary) {
        let comes = self.order;
        if let Some(row) = self.find(provider_id, &event.envelope, &order.branch_id) {
            row.change(comes, timestamp(event.envelope.time), order);
        }
    }

    /// Writes what the batch made of them.
    async fn store(self, transaction: &Transaction<'_>, adding: Adding) -> anyhow::Result<()> {
        let is_copied = adding.copies(self.rows.iter().filter(|row| row.new.is_some()).count());
        let (mut copied, mut inserted, mut changed) = (NewRows::default(), NewRows::default(), Changes::default());
        for row in self.rows {
            match (row.new, row.news) {
                (Some(made), news) => {
                    let can_be_copied = !matches!(made.raw_data, RawData::InRow);
                    let new = if is_copied && can_be_copied {
                        &mut copied
                    } else {
                        &mut inserted
                    };
                    new.push(row.id, row.order_id, row.provider_id, made, news);
                }
                (None, Some(news)) => changed.push(row.id, news),
                (None, None) => {}
            }
        }
        copied.copy(transaction).await?;
        inserted.insert(transaction).await?;
        changed.store(transaction).await
    }
}
