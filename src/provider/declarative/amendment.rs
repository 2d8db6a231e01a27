//! Reads an amendment of an order from a document by a provider's file.

use chrono::TimeDelta;

use super::{
    file::{AmendmentTable, File, RefundTable},
    lines::basket,
    order::{Common, extra, the_currency},
    pricing::pricing,
    reader::{Need, OrderReader},
    values::Chosen,
};
use crate::{
    json::tree::ValueId,
    order::{
        flag::Flag,
        model::{AmendedContent, Amendment, AmendmentKind, Extra, Refund, RefundLine},
        money::Currency,
    },
};

/// Reads an amendment. `currency` is the configured one.
pub(super) fn amendment(
    reader: &OrderReader<'_>,
    file: &File,
    common: Common<'_>,
    currency: Option<Currency>,
) -> Amendment {
    let root = reader.root();
    let table = file.amendment.as_ref();
    let has_lines = !reader.each(&file.order.lines.each, root, Need::Optional).is_empty();
    let refund_table = table.and_then(|table| table.refund.as_ref());
    if !has_lines && refund_table.is_none() {
        reader.missing("", "expected the lines of the order as it is now");
    }
    let has_amounts = has_lines || refund_table.is_some();
    let currency = has_amounts.then(|| the_currency(reader, file, currency));
    let content = currency.filter(|_| has_lines).map(|currency| {
        let basket = basket(reader, file, currency);
        let pricing = pricing(reader, &file.order.pricing, &basket, currency);
        AmendedContent {
            lines: basket.lines,
            pricing,
        }
    });
    let changed_at = table.and_then(|table| reader.time(&table.changed_at, root));
    let refund = refund_table.zip(currency).and_then(|(table, currency)| {
        let mut refund = refund(reader, table, currency, !has_lines)?;
        let within = table.decide_within.and_then(|within| TimeDelta::from_std(within).ok());
        refund.decide_by = changed_at.zip(within).map(|(at, within)| at + within);
        Some(refund)
    });
    if common.is_test {
        reader.flag(Flag::TestOrder);
    }
    let text = |pick: fn(&AmendmentTable) -> &Option<super::pick::Pick>| {
        table.and_then(|table| reader.optional(pick(table), root))
    };
    let mut amendment = Amendment {
        external_id: common.external_id.to_owned(),
        provider_event_id: common.event_id,
        kind: kind(reader, table),
        provider_kind: text(|table| &table.provider_kind).or(common.type_word),
        reason: text(|table| &table.reason),
        changed_at,
        content,
        refund,
        flags: Vec::new(),
        extra: Extra::default(),
    };
    amendment.extra = extra(reader);
    amendment.flags = reader.flags();
    amendment
}

fn kind(reader: &OrderReader<'_>, table: Option<&AmendmentTable>) -> AmendmentKind {
    let chosen = table.map(|table| reader.choice(&table.kind, reader.root(), Flag::UnknownAmendment));
    match chosen {
        Some(Chosen::Known(kind) | Chosen::Unknown(Some(kind)) | Chosen::Absent(Some(kind))) => kind,
        Some(Chosen::Unknown(None) | Chosen::Absent(None)) | None => AmendmentKind::Adjusted,
    }
}

/// What is to be paid back. Its amount is what it is about, unless the order's lines are there as well.
fn refund(reader: &OrderReader<'_>, table: &RefundTable, currency: Currency, is_all: bool) -> Option<Refund> {
    let root = reader.root();
    let need = if is_all { Need::Essential } else { Need::Optional };
    let Some(amount) = reader.amount(&Some(table.amount.clone()), root, currency, need) else {
        if is_all {
            reader.missing(
                &reader.place_of_amount(&table.amount, root),
                "missing: how much is refunded",
            );
        }
        return None;
    };
    let line = |place: ValueId| {
        let lines = table.lines.as_ref()?;
        let merchant_ref = reader.optional(&lines.merchant_ref, place);
        let name = reader.text(&lines.name, place).or_else(|| merchant_ref.clone())?;
        Some(RefundLine {
            merchant_ref,
            name,
            quantity: super::lines::quantity(reader, &lines.quantity, place),
            amount: reader.amount(&lines.amount, place, currency, Need::Optional),
        })
    };
    let lines = table.lines.as_ref();
    let places = lines.map_or_else(Vec::new, |lines| reader.each(&lines.each, root, Need::Optional));
    Some(Refund {
        external_id: reader.optional(&table.id, root),
        provider_status: reader.optional(&table.status, root),
        amount,
        decide_by: None,
        lines: places.into_iter().filter_map(line).collect(),
    })
}
