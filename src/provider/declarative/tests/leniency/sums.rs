//! What the kitchen sees comes to what is charged, or the order says that it does not: each line to its parts, the lines to the
//! subtotal, the subtotal with fees, tax and discount to the total, and the total to what the provider sent. What was sent and
//! what it comes to are worked out here a second time, without the reader of files. A flag explains only what it is for.

use std::collections::BTreeSet;

use rust_decimal::Decimal;

use super::{cases::SHAPES, *};

mod changes;

use self::changes::{apply, changes};

/// The samples and the shapes.
static PRICED: LazyLock<Vec<Ready>> = LazyLock::new(|| CASES.iter().chain(SHAPES).map(Ready::of).collect());

/// How a provider writes what it charges.
#[derive(Debug, Clone, Copy)]
enum Written {
    /// In the currency.
    Decimal,
    /// The same, with the currency's code behind.
    Money,
    /// In the currency's smallest unit.
    Minor,
    /// In units of `10^-n`.
    Units(u32),
    /// In units of as many decimals as this place says.
    Said(&'static str),
}

/// Where providers send what is charged; the first place that has something counts. Wolt sends it nowhere.
const CHARGED: &[(&str, &[&str], Written)] = &[
    ("careem", &["/price/total_taxable_price"], Written::Decimal),
    ("talabat", &["/price/total_taxable_price"], Written::Decimal),
    (
        "careem-pos",
        &["/details/price/total_taxable_price", "/price/total_taxable_price"],
        Written::Decimal,
    ),
    (
        "delivery-hero",
        &["/updatedOrder/price/grandTotal", "/price/grandTotal"],
        Written::Decimal,
    ),
    (
        "deliveroo",
        &[
            "/body/order/total_price/fractional",
            "/body/order/partner_order_total/fractional",
        ],
        Written::Minor,
    ),
    ("just-eat", &["/payment/final/inc_tax"], Written::Minor),
    ("doordash", &["/order/total", "/total"], Written::Units(2)),
    (
        "keeta",
        &["/orderInfo/feeDtl/customerFee/payTotal", "/feeDtl/customerFee/payTotal"],
        Written::Minor,
    ),
    ("jahez", &["/final_price"], Written::Decimal),
    ("generic", &["/data/total"], Written::Decimal),
    (
        "glovo",
        &[
            "/total_customer_to_pay",
            "/discounted_products_total",
            "/partner_discounted_products_total",
            "/estimated_total_price",
        ],
        Written::Units(2),
    ),
    ("hubrise", &["/new_state/total"], Written::Money),
    ("deliverect", &["/payment/amount"], Written::Said("/decimalDigits")),
    ("rappi", &["/order_detail/totals/total_order"], Written::Decimal),
    (
        "uber-eats",
        &["/order/payment/payment_detail/order_total/gross/amount_e5"],
        Written::Units(5),
    ),
    ("uber-eats", &["/payment/charges/total/amount"], Written::Minor),
    ("wolt", &[], Written::Minor),
];
/// Providers that send no total of a line in these samples: it is what its parts come to.
const LINES_COMPUTED: &[&str] = &["just-eat", "doordash", "glovo", "deliverect", "rappi"];

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn decimal_of(value: &Value) -> Option<Decimal> {
    Decimal::from_str_exact(text_of(value).trim()).ok()
}

/// An amount of the body; nothing where it is not there.
fn amount(pricing: &Value, name: &str) -> Decimal {
    decimal_of(&pricing[name]).unwrap_or_default()
}

/// What the provider charges, in the currency; none where it says nothing, or nothing that is exact.
fn charged_by(ready: &Ready, sent: &Value, exponent: u32) -> Option<Decimal> {
    let known = CHARGED.iter().filter(|(provider, ..)| *provider == ready.case.provider);
    known
        .flat_map(|(_, places, written)| places.iter().map(move |place| (*place, *written)))
        .find_map(|(place, written)| {
            let value = sent.pointer(place).filter(|value| !value.is_null() && **value != "")?;
            let text = text_of(value);
            let number = match written {
                Written::Money => text.split(' ').next().unwrap_or_default(),
                _ => &text,
            };
            let number = Decimal::from_str_exact(number.trim()).ok()?;
            let decimals = match written {
                Written::Decimal | Written::Money => 0,
                Written::Minor => exponent,
                Written::Units(decimals) => decimals,
                Written::Said(place) => decimal_of(sent.pointer(place)?)?.try_into().ok()?,
            };
            Some(number * Decimal::new(1, decimals))
        })
}

/// The price of one piece with what was chosen for it, where all is counted in whole pieces.
fn cost(one: &Value, price: &str) -> Option<Decimal> {
    let chosen = one["modifiers"].as_array().into_iter().flatten();
    let chosen = chosen.map(|modifier| {
        let count = decimal_of(&modifier["quantity"]).filter(|count| count.is_integer())?;
        Some(cost(modifier, "price")? * count)
    });
    Some(amount(one, price) + chosen.sum::<Option<Decimal>>()?)
}

/// What the flags of an order do not explain; what must be explained, as the provider sent it, is `sent`.
fn unexplained(ready: &Ready, sent: &Value, body: &Value) -> Option<String> {
    let order = body.get("transformedOrder").unwrap_or(&body["amendment"]);
    let flags = flags_of(body);
    let has = |flag: &str| flags.iter().any(|said| said == flag);
    let pricing = &order["pricing"];
    let exponent = u32::try_from(pricing["exponent"].as_u64().unwrap()).unwrap();
    let (total, is_rounded) = (amount(pricing, "total"), has("price_rounded") || has("amount_rounded"));
    match charged_by(ready, sent, exponent) {
        Some(charged) if charged != total && !has("price_rounded") => {
            return Some(format!("charged are {charged}: {pricing:#}"));
        }
        Some(_) => {}
        None if !has("total_computed") => return Some(format!("nothing is charged: {pricing:#}")),
        None => {}
    }
    let lines = order["items"].as_array().unwrap();
    if LINES_COMPUTED.contains(&ready.case.provider) {
        let is_wrong = |line: &&Value| {
            let count = decimal_of(&line["quantity"]).filter(Decimal::is_integer);
            let parts = count.and_then(|count| Some(cost(line, "unitPrice")? * count));
            parts.is_some_and(|parts| parts != amount(line, "totalPrice"))
        };
        if let Some(line) = lines.iter().find(is_wrong) {
            return Some(format!("a line is not what it is made of: {line:#}"));
        }
    }
    // Of amounts that were rounded it is said that they were.
    if is_rounded {
        return None;
    }
    let (lines, subtotal) = (
        lines.iter().map(|line| amount(line, "totalPrice")).sum(),
        amount(pricing, "subtotal"),
    );
    let explains = ["subtotal_mismatch", "lines_without_tax"].iter().any(|flag| has(flag));
    if (subtotal != lines) != explains {
        return Some(format!("the lines come to {lines}, {flags:?}: {pricing:#}"));
    }
    let fees = ["deliveryFee", "serviceFee", "otherFees", "tip"];
    let without_tax =
        subtotal + fees.iter().map(|fee| amount(pricing, fee)).sum::<Decimal>() - amount(pricing, "discount");
    let with_tax = without_tax + amount(pricing, "taxAmount");
    let sums = match pricing["taxMode"].as_str() {
        Some("included") => vec![without_tax],
        Some(_) => vec![with_tax],
        None => vec![with_tax, without_tax],
    };
    let fits = |slack: Decimal| sums.iter().any(|sum| (total - sum).abs() <= slack);
    // Careem's percentage is rounded here, and perhaps otherwise there.
    let slack = Decimal::new(i64::from(ready.case.provider == "careem-pos"), exponent);
    let is_wrong = match has("total_mismatch") {
        true => fits(Decimal::ZERO),
        false => !fits(slack),
    };
    is_wrong.then(|| format!("the parts come to {without_tax} or {with_tax}, {flags:?}: {pricing:#}"))
}

#[test]
fn samples_come_to_what_is_charged_or_say_that_they_do_not() {
    for ready in PRICED.iter() {
        assert_eq!(
            unexplained(ready, &ready.value, &ready.body),
            None,
            "{}",
            ready.case.provider
        );
    }
}

/// Each file's orders are tried, so none can be added without samples here.
#[test]
fn every_file_has_orders_that_are_tried() {
    let tried: BTreeSet<&str> = CASES.iter().map(|case| case.provider).collect();
    let charged: BTreeSet<&str> = CHARGED.iter().map(|(provider, ..)| *provider).collect();
    let catalogue = Catalogue::shipped();
    let files: BTreeSet<&str> = catalogue.names().collect();
    assert_eq!((&tried, &charged), (&files, &files));
}

/// A line that is charged and not sent, or sent twice, shows.
#[test]
fn lines_that_do_not_come_to_the_subtotal_are_flagged() {
    let of = |provider: &str| PRICED.iter().find(|ready| ready.case.provider == provider).unwrap();
    let ready = of("careem-pos");
    assert!(!flags_of(&ready.body).contains(&"subtotal_mismatch".to_owned()));
    let mut value = ready.value.clone();
    let lines = value
        .pointer_mut("/details/items")
        .and_then(Value::as_array_mut)
        .unwrap();
    lines.push(lines[0].clone());
    let flags = flags_of(&ready.becomes(&value).unwrap());
    assert!(flags.contains(&"subtotal_mismatch".to_owned()), "{flags:?}");
    // Lines without tax come to a subtotal with tax, which is said; a tax that is not that of the lines does not explain the rest.
    let ready = of("just-eat");
    assert!(flags_of(&ready.body).contains(&"lines_without_tax".to_owned()));
    let mut value = ready.value.clone();
    value["payment"]["items_in_cart"]["tax"] = json!(1);
    let flags = flags_of(&ready.becomes(&value).unwrap());
    assert!(flags.contains(&"subtotal_mismatch".to_owned()), "{flags:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// With any other numbers, lines, additions, fees and discounts, too.
    #[test]
    fn orders_come_to_what_is_charged_or_say_that_they_do_not(which in any::<prop::sample::Index>(), changes in changes()) {
        let ready = which.get(&PRICED);
        let mut value = ready.value.clone();
        let changed: Vec<_> = changes.iter().map(|change| apply(change, &mut value)).collect();
        if let Ok(body) = ready.becomes(&value) {
            prop_assert_eq!(unexplained(ready, &value, &body), None, "{}: {:?}", ready.case.provider, changed);
        }
    }
}
