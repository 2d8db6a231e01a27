//! A new order, and a change of one, of a document and what a provider's file says about it.

use serde_json::value::RawValue;

use super::{
    file::{self, File, Kind},
    lines::{self, Basket},
    reader::{Reader, e164},
};
use crate::order::{
    model::{
        Address, Courier, Customer, Discount, Extra, Flag, Fulfillment, Order, Payment, Pricing, StatusChange, TaxMode,
    },
    money::{Currency, Money},
    status::Status,
    tree::Tree,
};

/// Most bytes of what has no field that are kept beside an order; the log has all of it.
const MAX_EXTRA_BYTES: usize = 32 * 1024;
/// Longest pointer that is kept there.
const MAX_EXTRA_POINTER_BYTES: usize = 512;

/// What both an order and a change of one say.
pub(super) struct Common<'a> {
    pub(super) external_id: &'a str,
    pub(super) event_id: Option<String>,
    pub(super) store_ref: Option<String>,
    /// The word that said what the webhook is.
    pub(super) type_word: Option<String>,
    pub(super) is_test: bool,
}

/// Reads a new order. `currency` is the configured one.
pub(super) fn new_order(reader: &Reader<'_>, file: &File, common: Common<'_>, currency: Option<Currency>) -> Order {
    let root = reader.root();
    let head = &file.order.head;
    let mut flags = Vec::new();
    let currency = the_currency(reader, file, currency);
    let (status, provider_status) = status_of_new(reader, file, common.type_word, &mut flags);
    let basket = lines::basket(reader, file, currency, &mut flags);
    if basket.lines.is_empty() {
        let place = file.order.lines.each.from.first();
        let place = place.map_or_else(String::new, |source| reader.place_of(source, root));
        reader.fault(&place, "expected at least one item");
    }
    let pricing = pricing(reader, &file.order.pricing, &basket, currency, &mut flags);
    if common.is_test {
        flags.push(Flag::TestOrder);
    }
    let address = address(reader, &file.order.address);
    let mut customer = customer(reader, &file.order.customer);
    let address = address.map(|address| redact(address, &file.order.customer.withheld, &mut customer));
    let delivery_type = reader.optional(&head.delivery_type, root);
    let mut order = Order {
        order_number: order_number(file, common.external_id),
        external_id: common.external_id.to_owned(),
        display_id: reader.optional(&head.display_id, root),
        provider_event_id: common.event_id,
        store_ref: common.store_ref,
        status,
        provider_status,
        fulfillment: reader
            .choice(&head.fulfillment, root)
            .unwrap_or(Fulfillment::PlatformCourier),
        delivery_type,
        placed_at: reader.time(&head.placed_at, root),
        accept_by: reader.time(&head.accept_by, root),
        ready_by: reader.time(&head.ready_by, root),
        deliver_by: reader.time(&head.deliver_by, root),
        scheduled: head.scheduled.as_ref().map(|test| reader.test(test, root)),
        customer,
        address: address.filter(|address| !address.is_empty()),
        lines: basket.lines,
        pricing,
        payment: payment(reader, &file.order.payment),
        courier: courier(reader, file),
        notes: reader.optional(&head.notes, root),
        flags,
        extra: Extra::default(),
    };
    order.extra = extra(reader, &mut order.flags);
    order.flags.sort_unstable();
    order.flags.dedup();
    order
}

/// Reads a change.
pub(super) fn change(reader: &Reader<'_>, file: &File, common: Common<'_>, kind: Kind) -> StatusChange {
    let root = reader.root();
    let mut flags = Vec::new();
    let (status, provider_status) = match kind {
        Kind::CourierUpdated => (None, None),
        _ => status_of_change(reader, file, common.type_word, kind, &mut flags),
    };
    if common.is_test {
        flags.push(Flag::TestOrder);
    }
    let mut courier = courier(reader, file);
    if let Some(known) = &mut courier
        && known.state.is_none()
        && known.provider_state == provider_status
    {
        // One word for both: it said something about the order.
        known.provider_state = None;
    }
    let mut change = StatusChange {
        external_id: common.external_id.to_owned(),
        provider_event_id: common.event_id,
        status,
        provider_status,
        reason: reader.optional(&file.status.reason, root),
        courier: courier.filter(|courier| !courier.is_empty()),
        changed_at: reader.time(&file.status.changed_at, root),
        flags,
        extra: Extra::default(),
    };
    change.extra = extra(reader, &mut change.flags);
    change
}

fn the_currency(reader: &Reader<'_>, file: &File, configured: Option<Currency>) -> Currency {
    let head = &file.order.head;
    let known = configured.or(head.default_currency);
    if let Some(sources) = &head.currency {
        match reader.text_at(sources, reader.root()).map(|code| code.parse()) {
            Some(Ok(currency)) => return currency,
            found => {
                let place = sources.0.first().map(|source| reader.place_of(source, reader.root()));
                match (found, known) {
                    (Some(Err(error)), _) => reader.fault(&place.unwrap_or_default(), error),
                    (_, Some(known)) => return known,
                    (_, None) => reader.fault(&place.unwrap_or_default(), "missing: the currency's code"),
                }
            }
        }
    } else if let Some(known) = known {
        return known;
    } else {
        reader.fault("", "no currency is configured for this provider");
    }
    // There is a fault by now; what is read with this one is thrown away.
    known.unwrap_or_else(|| {
        "XTS"
            .parse()
            .unwrap_or_else(|_| "JOD".parse().expect("JOD is a currency"))
    })
}

fn order_number(file: &File, external_id: &str) -> String {
    let head = &file.order.head;
    let stripped = head
        .number_strip
        .as_deref()
        .and_then(|strip| external_id.strip_prefix(strip))
        .filter(|rest| !rest.is_empty());
    let id = stripped.unwrap_or(external_id);
    match &head.number_prefix {
        Some(prefix) => format!("{prefix}{id}"),
        None => format!("{}-{id}", file.identity.name.to_ascii_uppercase()),
    }
}

/// An order that just came is received, whatever else its provider calls it.
fn status_of_new(
    reader: &Reader<'_>,
    file: &File,
    type_word: Option<String>,
    flags: &mut Vec<Flag>,
) -> (Status, String) {
    match reader.optional(&file.status.status, reader.root()) {
        Some(word) => {
            let status = file.status.words.get(&word).copied();
            if status.is_none() {
                flags.push(Flag::UnknownStatus);
            }
            (status.unwrap_or(Status::Received), word)
        }
        None => (Status::Received, type_word.unwrap_or_else(|| "created".into())),
    }
}

fn status_of_change(
    reader: &Reader<'_>,
    file: &File,
    type_word: Option<String>,
    kind: Kind,
    flags: &mut Vec<Flag>,
) -> (Option<Status>, Option<String>) {
    let cancelled = (kind == Kind::OrderCancelled).then_some(Status::Cancelled);
    let word = reader.optional(&file.status.status, reader.root()).or(type_word);
    let Some(word) = word.or_else(|| cancelled.map(|status| status.as_str().to_owned())) else {
        let source = file.status.status.as_ref().and_then(|pick| pick.from.first());
        let place = source.map_or_else(String::new, |source| reader.place_of(source, reader.root()));
        reader.fault(&place, "missing");
        return (None, None);
    };
    let status = file.status.words.get(&word).copied().or(cancelled);
    if status.is_none() {
        flags.push(Flag::UnknownStatus);
    }
    (status, Some(word))
}

fn customer(reader: &Reader<'_>, table: &file::Customer) -> Customer {
    let mut redacted = false;
    let mut read = |pick| {
        let text = reader.optional(pick, reader.root());
        text.filter(|text| {
            let is_withheld = is_withheld(text, &table.withheld);
            redacted |= is_withheld;
            !is_withheld
        })
    };
    let (name, phone, email) = (read(&table.name), read(&table.phone), read(&table.email));
    Customer {
        phone_e164: phone
            .as_deref()
            .and_then(|phone| e164(phone, table.phone_is_international)),
        name,
        phone,
        email,
        redacted,
    }
}

/// Whether a text stands for one that the provider keeps to itself: nothing but stars, or a beginning that the file names.
fn is_withheld(text: &str, beginnings: &[String]) -> bool {
    let is_starred = text.contains('*') && text.chars().all(|c| c == '*' || c.is_whitespace());
    is_starred || beginnings.iter().any(|beginning| text.starts_with(beginning))
}

fn redact(mut address: Address, withheld: &[String], customer: &mut Customer) -> Address {
    for field in [
        &mut address.street,
        &mut address.number,
        &mut address.building,
        &mut address.floor,
        &mut address.apartment,
        &mut address.area,
        &mut address.city,
        &mut address.postcode,
    ] {
        if field.as_deref().is_some_and(|text| is_withheld(text, withheld)) {
            *field = None;
            customer.redacted = true;
        }
    }
    address
}

fn address(reader: &Reader<'_>, table: &file::Address) -> Option<Address> {
    let root = reader.root();
    let text = |pick| reader.optional(pick, root);
    let address = Address {
        street: text(&table.street),
        number: text(&table.number),
        building: text(&table.building),
        floor: text(&table.floor),
        apartment: text(&table.apartment),
        area: text(&table.area),
        city: text(&table.city),
        postcode: text(&table.postcode),
        country: text(&table.country),
        latitude: reader.decimal(&table.latitude, root),
        longitude: reader.decimal(&table.longitude, root),
        notes: text(&table.notes),
    };
    (!address.is_empty()).then_some(address)
}

fn payment(reader: &Reader<'_>, table: &file::Payment) -> Payment {
    Payment {
        method: reader.optional(&table.method, reader.root()),
        is_prepaid: table
            .prepaid
            .as_ref()
            .is_some_and(|test| reader.test(test, reader.root())),
    }
}

fn courier(reader: &Reader<'_>, file: &File) -> Option<Courier> {
    let table = file.courier.as_ref()?;
    let root = reader.root();
    let provider_state = reader.optional(&table.state, root);
    let courier = Courier {
        id: reader.optional(&table.id, root),
        name: reader.optional(&table.name, root),
        phone: reader.optional(&table.phone, root),
        eta: reader.time(&table.eta, root),
        state: provider_state
            .as_deref()
            .and_then(|word| table.words.get(word).copied()),
        provider_state,
    };
    (!courier.is_empty()).then_some(courier)
}

fn pricing(
    reader: &Reader<'_>,
    table: &file::Pricing,
    basket: &Basket,
    currency: Currency,
    flags: &mut Vec<Flag>,
) -> Pricing {
    let root = reader.root();
    let amount = |amount| reader.amount(amount, root, currency);
    let (delivery_fee, service_fee) = (amount(&table.delivery_fee), amount(&table.service_fee));
    let (other_fees, tax, tip) = (amount(&table.other_fees), amount(&table.tax), amount(&table.tip));
    let discounts = discounts(reader, &table.discounts, currency);
    let discount = amount(&table.discount).map(positive).or_else(|| {
        let amounts = discounts.iter().map(|discount| discount.amount);
        amounts.reduce(Money::plus)
    });
    let subtotal = amount(&table.subtotal);
    let total = amount(&table.total);
    let tax_mode = table.tax_mode.as_ref().and_then(|choice| reader.choice(choice, root));
    if subtotal.is_none() {
        missing_amount(reader, table.subtotal.as_ref(), flags, Flag::SubtotalComputed);
    }
    if total.is_none() {
        missing_amount(reader, table.total.as_ref(), flags, Flag::TotalComputed);
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
    if total.is_some_and(|total| !sums.contains(&total)) {
        flags.push(Flag::TotalMismatch);
    }
    Pricing {
        currency,
        subtotal,
        delivery_fee,
        service_fee,
        other_fees,
        tax,
        tax_mode,
        tip,
        discount,
        discounts,
        total: total.unwrap_or(sums[0]),
        collect_cash: amount(&table.collect_cash),
    }
}

/// Where a file says that an amount is always there, its absence is a fault; else the sum stands in for it, and says so.
fn missing_amount(reader: &Reader<'_>, amount: Option<&super::pick::Amount>, flags: &mut Vec<Flag>, flag: Flag) {
    match amount {
        Some(amount) if amount.required => {
            // A part of a sum that is wrong is told at its place, and only once.
            let place = amount.from.first().or(amount.sum.first());
            let place = place.map(|source| reader.place_of(source, reader.root()));
            reader.fault(&place.unwrap_or_default(), "missing");
        }
        _ => flags.push(flag),
    }
}

fn discounts(reader: &Reader<'_>, tables: &[file::Discount], currency: Currency) -> Vec<Discount> {
    let mut discounts = Vec::new();
    for table in tables {
        let places = match &table.each {
            Some(each) => reader.each(each, reader.root()),
            None => vec![reader.root()],
        };
        for place in places {
            let amount = reader
                .amount(&Some(table.amount.clone()), place, currency)
                .map(positive);
            if let Some(amount) = amount.filter(|amount| amount.minor != 0) {
                discounts.push(Discount {
                    amount,
                    funded_by: table.funded_by.clone(),
                    name: reader.optional(&table.name, place),
                });
            }
        }
    }
    discounts
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

/// Whether every reader of JSON can read it: a number such as 1e999 is JSON, but beyond what most can hold.
fn is_in_range(value: &RawValue) -> bool {
    serde_json::from_str::<serde_json::Value>(value.get()).is_ok()
}

/// What nobody took, of the document and, where that is another, of the body.
fn extra(reader: &Reader<'_>, flags: &mut Vec<Flag>) -> Extra {
    let mut kept = Vec::new();
    let mut room = MAX_EXTRA_BYTES;
    let mut keep = |tree: &Tree<'_>, prefix: &str| {
        for place in tree.not_taken() {
            let pointer = format!("{prefix}{}", tree.pointer(place));
            let raw = tree.compact(place);
            let size = pointer.len() + raw.len();
            let fits = size <= room && pointer.len() <= MAX_EXTRA_POINTER_BYTES;
            match RawValue::from_string(raw) {
                Ok(value) if fits && is_in_range(&value) => {
                    room -= size;
                    kept.push((pointer, value));
                }
                _ => flags.push(Flag::ExtraTruncated),
            }
        }
    };
    keep(reader.document, "");
    if reader.has_own_document() {
        keep(reader.body, "body:");
    }
    flags.dedup();
    Extra(kept)
}
