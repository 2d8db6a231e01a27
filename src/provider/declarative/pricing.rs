//! Reads the prices of an order.

use super::{
    amount::Amount,
    choice::Choice,
    file,
    lines::Basket,
    reader::{Need, OrderReader},
    values::Chosen,
};
use crate::{
    json::tree::ValueId,
    order::{
        flag::Flag,
        model::{Discount, Pricing, TaxMode, Tip},
        money::{Currency, Money},
    },
};

/// What it costs. Beside a total every other amount informs; without one the total is their sum, and they are what is charged.
pub(super) fn pricing(reader: &OrderReader<'_>, table: &file::Pricing, basket: &Basket, currency: Currency) -> Pricing {
    let root = reader.root();
    let charged = |amount| reader.amount(amount, root, currency, Need::Essential);
    let total = charged(&table.total);
    let need = if total.is_some() {
        Need::Optional
    } else {
        Need::Essential
    };
    let rounded = reader.rounded.get();
    let amount = |amount| reader.amount(amount, root, currency, need);
    let (delivery_fee, service_fee) = (amount(&table.delivery_fee), amount(&table.service_fee));
    let (other_fees, tax) = (amount(&table.other_fees), amount(&table.tax));
    let (tips, tip) = tips(reader, table, currency, need);
    let (discounts, discount) = discounts(reader, table, currency, need);
    let before = reader.rounded.get();
    let (subtotal, subtotal_tax) = (amount(&table.subtotal), amount(&table.subtotal_tax));
    let slack = basket.slack.saturating_add(i64::from(reader.rounded.get() - before));
    let tax_mode = chosen(reader, table.tax_mode.as_ref(), root, Flag::UnknownTaxMode);
    let remitted_by = table.tax_remitted_by.as_ref().map(|said| &said.0);
    match subtotal {
        None => missing_amount(reader, table.subtotal.as_ref(), Flag::SubtotalComputed),
        Some(subtotal) => {
            // The kitchen sees the lines, so they must come to what is charged for them.
            let with_tax = basket.sum.plus(subtotal_tax.unwrap_or(Money::zero(currency)));
            if differs(subtotal, basket.sum, slack) {
                reader.flag(match differs(subtotal, with_tax, slack) {
                    true => Flag::SubtotalMismatch,
                    false => Flag::LinesWithoutTax,
                });
            }
        }
    }
    if total.is_none() {
        missing_amount(reader, table.total.as_ref(), Flag::TotalComputed);
    }
    let subtotal = subtotal.unwrap_or(basket.sum);
    let parts = [delivery_fee, service_fee, other_fees, tip];
    let without_tax = parts.into_iter().flatten().fold(subtotal, Money::plus);
    let without_tax = without_tax.plus(negative(discount.unwrap_or(Money::zero(currency))));
    let with_tax = without_tax.plus(tax.unwrap_or(Money::zero(currency)));
    let sums = match tax_mode {
        Some(TaxMode::Included) => [without_tax, without_tax],
        Some(TaxMode::Excluded) => [with_tax, with_tax],
        None => [with_tax, without_tax],
    };
    let slack = i64::from(reader.rounded.get() - rounded);
    if total.is_some_and(|total| sums.iter().all(|sum| differs(total, *sum, slack))) {
        reader.flag(Flag::TotalMismatch);
    }
    Pricing {
        currency,
        subtotal,
        delivery_fee,
        service_fee,
        other_fees,
        tax,
        tax_mode,
        tax_remitted_by: chosen(reader, remitted_by, root, Flag::UnknownParty),
        tip,
        tips,
        discount,
        discounts,
        total: total.unwrap_or(sums[0]),
        collect_cash: reader.amount(&table.collect_cash, root, currency, Need::Optional),
    }
}

/// Whether two amounts differ by more than rounding explains.
const fn differs(one: Money, other: Money, slack: i64) -> bool {
    one.minor.abs_diff(other.minor) > slack.unsigned_abs()
}

/// Where a file says that an amount is always there, its absence is a fault; else the sum stands in for it, and says so.
fn missing_amount(reader: &OrderReader<'_>, amount: Option<&Amount>, flag: Flag) {
    match amount {
        Some(amount) if amount.required => reader.missing(&reader.place_of_amount(amount, reader.root()), "missing"),
        _ => reader.flag(flag),
    }
}

/// One of our words; what the file says for a word that it does not know, which is flagged.
fn chosen<T: Copy>(reader: &OrderReader<'_>, choice: Option<&Choice<T>>, at: ValueId, unknown: Flag) -> Option<T> {
    match reader.choice(choice?, at, unknown) {
        Chosen::Known(word) => Some(word),
        Chosen::Unknown(word) | Chosen::Absent(word) => word,
    }
}

/// Each tip, and all of them: as the provider says, else their sum.
fn tips(reader: &OrderReader<'_>, table: &file::Pricing, currency: Currency, need: Need) -> (Vec<Tip>, Option<Money>) {
    let root = reader.root();
    let (mut tips, mut sum) = (Vec::new(), None);
    let unread = reader.unread.get();
    for one in &table.tips {
        let Some(amount) = reader.amount(&Some(one.amount.clone()), root, currency, need) else {
            continue;
        };
        sum = Some(sum.map_or(amount, |sum: Money| sum.plus(amount)));
        if amount.minor != 0 {
            tips.push(Tip {
                amount,
                receiver: one.to,
            });
        }
    }
    let are_all_read = reader.unread.get() == unread;
    let all = reader.amount(&table.tip, root, currency, need);
    (tips, all.or(sum.filter(|_| are_all_read)))
}

/// Each discount, and all of them: as the provider says, else their sum.
fn discounts(
    reader: &OrderReader<'_>,
    table: &file::Pricing,
    currency: Currency,
    need: Need,
) -> (Vec<Discount>, Option<Money>) {
    let root = reader.root();
    let (mut discounts, mut sum) = (Vec::new(), None);
    let unread = reader.unread.get();
    for one in &table.discounts {
        let places = match &one.each {
            Some(each) => reader.each(each, root, need),
            None => vec![root],
        };
        for place in places {
            let amount = reader
                .amount(&Some(one.amount.clone()), place, currency, need)
                .map(positive);
            let Some(amount) = amount else {
                continue;
            };
            sum = Some(sum.map_or(amount, |sum: Money| sum.plus(amount)));
            if amount.minor != 0 {
                by_payer(reader, one, place, amount, &mut discounts);
            }
        }
    }
    let are_all_read = reader.unread.get() == unread;
    let all = reader.amount(&table.discount, root, currency, need).map(positive);
    (discounts, all.or(sum.filter(|_| are_all_read)))
}

/// A discount, as many times as it has payers; what no payer is said to bear has none.
fn by_payer(
    reader: &OrderReader<'_>,
    table: &file::Discount,
    place: ValueId,
    amount: Money,
    discounts: &mut Vec<Discount>,
) {
    let name = reader.optional(&table.name, place);
    let mut left = amount;
    for share in &table.shares {
        let places = match &share.each {
            Some(each) => reader.each(each, place, Need::Optional),
            None => vec![place],
        };
        for place in places {
            let part = reader.amount(&Some(share.amount.clone()), place, amount.currency, Need::Optional);
            let Some(part) = part.map(positive).filter(|part| part.minor != 0) else {
                continue;
            };
            left = left.plus(negative(part));
            discounts.push(Discount {
                amount: part,
                funded_by: chosen(reader, Some(&share.funded_by.0), place, Flag::UnknownParty),
                name: name.clone(),
            });
        }
    }
    // Shares that come to more than the discount say nothing about a rest.
    if left.minor > 0 {
        let funded_by = table.funded_by.as_ref().map(|said| &said.0);
        discounts.push(Discount {
            amount: left,
            funded_by: chosen(reader, funded_by, place, Flag::UnknownParty),
            name,
        });
    }
}

const fn positive(money: Money) -> Money {
    Money {
        minor: money.minor.saturating_abs(),
        ..money
    }
}

const fn negative(money: Money) -> Money {
    Money {
        minor: money.minor.saturating_neg(),
        ..money
    }
}
