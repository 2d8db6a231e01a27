//! What the kitchen sees comes to what is charged, or the order says that it does not: the lines to the subtotal, and the
//! subtotal with fees, tax and discount to the total.

use super::{cases::SHAPES, *};

/// The samples and the shapes.
static PRICED: LazyLock<Vec<Ready>> = LazyLock::new(|| CASES.iter().chain(SHAPES).map(Ready::of).collect());

/// Amounts and quantities that may stand in place of others.
fn other_numbers() -> Vec<Value> {
    vec![
        json!(0),
        json!(1),
        json!(3),
        json!("7.5"),
        json!(199),
        json!(250_000),
        json!("0.25"),
        json!(-40),
    ]
}

/// A change of a payload. Each picks its place anew, because the changes before it may have moved the places.
#[derive(Debug, Clone)]
enum Change {
    /// Another number in place of one.
    Number(prop::sample::Index, prop::sample::Index),
    /// An element of a list once more: a line, an addition, a fee, a discount.
    Repeat(prop::sample::Index, prop::sample::Index),
    /// An element of a list less, where that is not the only one: without lines it is no order.
    Drop(prop::sample::Index, prop::sample::Index),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let two = || (any::<prop::sample::Index>(), any::<prop::sample::Index>());
    let change = prop_oneof![
        3 => two().prop_map(|(place, number)| Change::Number(place, number)),
        1 => two().prop_map(|(list, element)| Change::Repeat(list, element)),
        1 => two().prop_map(|(list, element)| Change::Drop(list, element)),
    ];
    prop::collection::vec(change, 1..5)
}

/// Places of numbers, in either form.
fn numbers(value: &Value) -> Vec<String> {
    let is_number = |place: &String| match value.pointer(place) {
        Some(Value::Number(_)) => true,
        Some(Value::String(text)) => text.parse::<f64>().is_ok(),
        _ => false,
    };
    let mut all = Vec::new();
    places(value, "", &mut all);
    all.retain(is_number);
    all
}

/// Lists that have elements.
fn lists(value: &Value) -> Vec<String> {
    let mut all = Vec::new();
    places(value, "", &mut all);
    all.retain(|place| {
        let list = value.pointer(place).and_then(Value::as_array);
        list.is_some_and(|list| !list.is_empty())
    });
    all
}

/// Makes a change; what it did.
fn apply(change: &Change, value: &mut Value) -> String {
    match change {
        Change::Number(place, number) => {
            let (places, numbers) = (numbers(value), other_numbers());
            let (place, number) = (place.get(&places), number.get(&numbers));
            *value.pointer_mut(place).unwrap() = number.clone();
            format!("{place} = {number}")
        }
        Change::Repeat(list, element) | Change::Drop(list, element) => {
            let lists = lists(value);
            if lists.is_empty() {
                return "nothing".into();
            }
            let place = list.get(&lists);
            let list = value.pointer_mut(place).and_then(Value::as_array_mut).unwrap();
            let at = element.index(list.len());
            if matches!(change, Change::Repeat(..)) {
                list.push(list[at].clone());
                format!("{place}/{at} twice")
            } else if list.len() > 1 {
                list.remove(at);
                format!("without {place}/{at}")
            } else {
                "nothing".into()
            }
        }
    }
}

/// An amount of the body in its smallest unit.
fn minor(value: &Value, exponent: i32) -> i64 {
    let amount = value.as_f64().unwrap_or_default();
    (amount * 10_f64.powi(exponent)).round() as i64
}

/// The tax that the subtotal holds and the lines do not, of the only provider that has such lines.
fn subtotal_tax(ready: &Ready, sent: &Value) -> i64 {
    let tax = match ready.case.provider {
        "just-eat" => sent.pointer("/payment/items_in_cart/tax"),
        _ => None,
    };
    tax.map_or(0, |tax| {
        let text = tax.as_str().map_or_else(|| tax.to_string(), str::to_owned);
        text.parse().unwrap_or_default()
    })
}

/// What an order without any flag does not explain.
fn unexplained(body: &Value, subtotal_tax: i64) -> Option<String> {
    if !flags_of(body).is_empty() {
        return None;
    }
    let order = body.get("transformedOrder").unwrap_or(&body["amendment"]);
    let pricing = &order["pricing"];
    let exponent = i32::try_from(pricing["exponent"].as_i64().unwrap()).unwrap();
    let lines = order["items"].as_array().unwrap().iter();
    let lines: i64 = lines.map(|line| minor(&line["totalPrice"], exponent)).sum();
    let amount = |name: &str| minor(&pricing[name], exponent);
    let subtotal = amount("subtotal");
    if lines != subtotal && lines + subtotal_tax != subtotal {
        return Some(format!(
            "the lines come to {lines}, the tax is {subtotal_tax}: {pricing:#}"
        ));
    }
    let fees = ["deliveryFee", "serviceFee", "otherFees", "tip"];
    let without_tax = subtotal + fees.iter().map(|fee| amount(fee)).sum::<i64>() - amount("discount");
    let with_tax = without_tax + amount("taxAmount");
    let fits = match pricing["taxMode"].as_str() {
        Some("included") => amount("total") == without_tax,
        Some(_) => amount("total") == with_tax,
        None => amount("total") == without_tax || amount("total") == with_tax,
    };
    (!fits).then(|| format!("the parts come to {without_tax} or {with_tax}: {pricing:#}"))
}

#[test]
fn samples_come_to_what_is_charged_or_say_that_they_do_not() {
    for ready in PRICED.iter() {
        let tax = subtotal_tax(ready, &ready.value);
        assert_eq!(unexplained(&ready.body, tax), None, "{}", ready.case.provider);
    }
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
    // Lines without tax come to a subtotal with tax; a tax that is not that of the lines does not explain the rest.
    let ready = of("just-eat");
    assert!(!flags_of(&ready.body).contains(&"subtotal_mismatch".to_owned()));
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
            let tax = subtotal_tax(ready, &value);
            prop_assert_eq!(unexplained(&body, tax), None, "{}: {:?}", ready.case.provider, changed);
        }
    }
}
