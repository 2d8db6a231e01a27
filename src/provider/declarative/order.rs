//! Reads a new order, or a change of one, from a document by a provider's file.

use serde_json::value::RawValue;

use super::{
    amount::Unit,
    file::{self, File, Kind},
    lines,
    pricing::pricing,
    reader::{Accepts, Need, OrderReader, is_nothing},
    values::Chosen,
};
use crate::{
    event::push::PushStatus,
    json::{
        pointer::Pointer,
        tree::{Tree, ValueId},
    },
    order::{
        flag::Flag,
        model::{Address, Courier, Customer, Extra, Fulfillment, Order, Payment, StatusChange},
        money::Currency,
        phone::e164,
        status::Status,
    },
    provider::outbound::Offered,
};

/// Most bytes of what has no field that are kept beside an order; the log has all of it.
const MAX_EXTRA_BYTES: usize = 32 * 1024;
/// Longest pointer that is kept there.
const MAX_EXTRA_POINTER_BYTES: usize = 512;

/// The parts that an order and a change of one share.
pub(super) struct Common<'a> {
    pub(super) external_id: &'a str,
    pub(super) event_id: Option<String>,
    pub(super) store_ref: Option<String>,
    /// The word that said what the webhook is.
    pub(super) type_word: Option<String>,
    pub(super) is_test: bool,
}

/// Reads a new order. `currency` is the configured one.
pub(super) fn new_order(
    reader: &OrderReader<'_>,
    file: &File,
    common: Common<'_>,
    currency: Option<Currency>,
) -> Order {
    let root = reader.root();
    let head = &file.order.head;
    let currency = the_currency(reader, file, currency);
    let (status, provider_status) = status_of_new(reader, file, common.type_word);
    let basket = lines::basket(reader, file, currency);
    if basket.lines.is_empty() {
        let place = file.order.lines.each.from.first();
        let place = place.map_or_else(String::new, |source| reader.place_of(source, root));
        reader.missing(&place, "expected at least one item");
    }
    let pricing = pricing(reader, &file.order.pricing, &basket, currency);
    if common.is_test {
        reader.flag(Flag::TestOrder);
    }
    let address = address(reader, &file.order.address);
    let mut customer = customer(reader, &file.order.customer);
    let address = address.map(|address| redact(address, &file.order.customer.withheld, &mut customer));
    let address = address.filter(|address| !address.is_empty());
    let mut order = Order {
        order_number: order_number(file, common.external_id),
        external_id: common.external_id.to_owned(),
        display_id: reader.optional(&head.display_id, root),
        provider_event_id: common.event_id,
        store_ref: common.store_ref,
        status,
        fulfillment: fulfillment(reader, file, address.is_some()),
        delivery_type: reader.optional(&head.delivery_type, root),
        placed_at: reader.time(&head.placed_at, root),
        accept_by: reader.time(&head.accept_by, root),
        confirm_at: reader.time(&head.confirm_at, root),
        ready_by: reader.time(&head.ready_by, root),
        deliver_by: reader.time(&head.deliver_by, root),
        scheduled: head.scheduled.as_ref().and_then(|test| reader.answer(test, root)),
        customer,
        address,
        lines: basket.lines,
        pricing,
        payment: payment(reader, &file.order.payment),
        courier: courier(reader, file, Some(&provider_status)),
        provider_status,
        table_number: reader.optional(&head.table_number, root),
        provider_takes: provider_takes(reader, file),
        brand_ref: reader.optional(&head.brand, root),
        notes: reader.optional(&head.notes, root),
        flags: Vec::new(),
        extra: Extra::default(),
    };
    order.extra = extra(reader);
    order.flags = reader.flags();
    order
}

/// The statuses that the provider takes about this order, where its file says that orders list their calls.
fn provider_takes(reader: &OrderReader<'_>, file: &File) -> Option<Vec<PushStatus>> {
    let calls = &file.outbound.as_ref()?.status;
    let of_order = |place: ValueId, pointer: &Pointer| {
        let found = reader.document.find(place, pointer)?;
        (!is_nothing(reader.document, found)).then_some(found)
    };
    let listed = |offered: &Offered| of_order(reader.root(), &offered.r#in);
    calls
        .values()
        .flatten()
        .filter_map(|call| call.offered.as_ref())
        .find_map(listed)?;
    let is_taken = |word: &PushStatus| {
        calls.get(word).into_iter().flatten().any(|call| match &call.offered {
            None => true,
            Some(offered) => listed(offered).is_none_or(|list| of_order(list, &offered.at).is_some()),
        })
    };
    Some(PushStatus::of_backend().filter(is_taken).collect())
}

/// Who brings the order. An order that waits for a courier who never comes is lost; so where the provider's word is not known,
/// it is the restaurant that has to see to it: it brings what has an address, and hands out what has none.
fn fulfillment(reader: &OrderReader<'_>, file: &File, has_address: bool) -> Fulfillment {
    let unknown = if has_address {
        Fulfillment::MerchantCourier
    } else {
        Fulfillment::Pickup
    };
    match reader.choice(&file.order.head.fulfillment, reader.root(), Flag::UnknownFulfillment) {
        Chosen::Known(fulfillment) | Chosen::Absent(Some(fulfillment)) => fulfillment,
        Chosen::Unknown(other) => other.unwrap_or(unknown),
        Chosen::Absent(None) => {
            reader.flag(Flag::UnknownFulfillment);
            unknown
        }
    }
}

/// Reads a change.
pub(super) fn change(reader: &OrderReader<'_>, file: &File, common: Common<'_>, kind: Kind) -> StatusChange {
    let root = reader.root();
    let (status, provider_status) = match kind {
        Kind::CourierUpdated => (None, None),
        _ => status_of_change(reader, file, common.type_word, kind),
    };
    if common.is_test {
        reader.flag(Flag::TestOrder);
    }
    let mut change = StatusChange {
        external_id: common.external_id.to_owned(),
        provider_event_id: common.event_id,
        status,
        reason: reader.optional(&file.status.reason, root),
        courier: courier(reader, file, provider_status.as_deref()),
        provider_status,
        changed_at: reader.time(&file.status.changed_at, root),
        flags: Vec::new(),
        extra: Extra::default(),
    };
    change.extra = extra(reader);
    change.flags = reader.flags();
    change
}

/// The currency of all amounts. One that cannot be read is the configured one, where there is any; without one nothing can be
/// charged.
pub(super) fn the_currency(reader: &OrderReader<'_>, file: &File, configured: Option<Currency>) -> Currency {
    let head = &file.order.head;
    reader.scale(head.amount_digits.as_ref());
    let known = configured.or(head.default_currency);
    if let Some(sources) = &head.currency {
        let root = reader.root();
        let need = if known.is_some() {
            Need::Optional
        } else {
            Need::Essential
        };
        let told = (need, Flag::CurrencyAssumed);
        let found = reader.first((&sources.0, &[]), root, Accepts::Text, told).found();
        let code = found.as_ref().map(|found| {
            let text = found.text.trim().to_ascii_uppercase();
            // An amount with the code after it names the currency, too.
            let code = text
                .rsplit(char::is_whitespace)
                .next()
                .filter(|_| head.amounts == Unit::Money);
            code.unwrap_or(&text).parse()
        });
        match (found, code, known) {
            (Some(found), Some(Ok(currency)), _) => {
                reader.take(&found);
                return currency;
            }
            (Some(_), Some(Err(_)), Some(known)) => {
                reader.flag(Flag::CurrencyAssumed);
                return known;
            }
            (Some(found), Some(Err(error)), None) => reader.fault(&found.place, error),
            (_, _, Some(known)) => return known,
            (_, _, None) => {
                let place = sources.0.first().map(|source| reader.place_of(source, root));
                reader.missing(&place.unwrap_or_default(), "missing: the currency's code");
            }
        }
    } else if let Some(known) = known {
        return known;
    } else {
        reader.fault("", "no currency is configured for this provider");
    }
    // A fault has been recorded, so what is read with this placeholder is discarded.
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
fn status_of_new(reader: &OrderReader<'_>, file: &File, type_word: Option<String>) -> (Status, String) {
    match reader.optional(&file.status.status, reader.root()) {
        Some(word) => {
            let status = file.status.words.get(&word).copied();
            if status.is_none() {
                reader.flag(Flag::UnknownStatus);
            }
            (status.unwrap_or(Status::Received), word)
        }
        None => (Status::Received, type_word.unwrap_or_else(|| "created".into())),
    }
}

fn status_of_change(
    reader: &OrderReader<'_>,
    file: &File,
    type_word: Option<String>,
    kind: Kind,
) -> (Option<Status>, Option<String>) {
    let cancelled = (kind == Kind::OrderCancelled).then_some(Status::Cancelled);
    let word = reader.optional(&file.status.status, reader.root()).or(type_word);
    let Some(word) = word.or_else(|| cancelled.map(|status| status.as_str().to_owned())) else {
        // The webhook has no status, but it may have news of the courier.
        reader.flag(Flag::StatusMissing);
        return (None, None);
    };
    let status = file.status.words.get(&word).copied().or(cancelled);
    if status.is_none() {
        reader.flag(Flag::UnknownStatus);
    }
    (status, Some(word))
}

fn customer(reader: &OrderReader<'_>, table: &file::Customer) -> Customer {
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
    let (country_code, phone_pin) = (read(&table.phone_country_code), read(&table.phone_pin));
    Customer {
        phone_e164: phone
            .as_deref()
            .and_then(|phone| international(phone, country_code.as_deref(), table.phone_is_international)),
        name,
        phone,
        phone_pin,
        email,
        redacted,
    }
}

/// A phone as E.164, with the country's code that stands beside it where the number has none itself.
fn international(phone: &str, country_code: Option<&str>, is_international: bool) -> Option<String> {
    let has_code = phone.trim_start().starts_with('+') || phone.trim_start().starts_with("00");
    match country_code.map(|code| code.trim().trim_start_matches(['+', '0'])) {
        Some(code) if !has_code && !code.is_empty() => e164(&format!("+{code}{}", phone.trim()), false),
        _ => e164(phone, is_international),
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

fn address(reader: &OrderReader<'_>, table: &file::Address) -> Option<Address> {
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
        latitude: reader.decimal(&table.latitude, root, Need::Optional),
        longitude: reader.decimal(&table.longitude, root, Need::Optional),
        notes: text(&table.notes),
    };
    (!address.is_empty()).then_some(address)
}

fn payment(reader: &OrderReader<'_>, table: &file::Payment) -> Payment {
    Payment {
        method: reader.optional(&table.method, reader.root()),
        is_prepaid: table
            .prepaid
            .as_ref()
            .is_some_and(|test| reader.is_so(test, reader.root())),
    }
}

/// Who drives. `status` is the provider's word for the order's status: where the same word is looked at for the courier's state
/// and means none, it said something about the order.
fn courier(reader: &OrderReader<'_>, file: &File, status: Option<&str>) -> Option<Courier> {
    let table = file.courier.as_ref()?;
    let root = reader.root();
    let word = reader.optional(&table.state, root);
    let state = word.as_deref().and_then(|word| table.words.get(word).copied());
    let provider_state = word.filter(|word| state.is_some() || Some(word.as_str()) != status);
    if state.is_none() && provider_state.is_some() && !table.words.is_empty() {
        reader.flag(Flag::UnknownCourierState);
    }
    let courier = Courier {
        id: reader.optional(&table.id, root),
        name: reader.optional(&table.name, root),
        phone: reader.optional(&table.phone, root),
        eta: reader.time(&table.eta, root),
        state,
        provider_state,
    };
    (!courier.is_empty()).then_some(courier)
}

/// Whether every reader of JSON can read it: a number such as 1e999 is JSON, but beyond what most can hold.
fn is_in_range(value: &RawValue) -> bool {
    serde_json::from_str::<serde_json::Value>(value.get()).is_ok()
}

/// The values that the file did not read, of the document and, where that is another, of the body.
pub(super) fn extra(reader: &OrderReader<'_>) -> Extra {
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
                _ => reader.flag(Flag::ExtraTruncated),
            }
        }
    };
    keep(reader.document, "");
    if reader.has_own_document() {
        keep(reader.body, "body:");
    }
    Extra(kept)
}
