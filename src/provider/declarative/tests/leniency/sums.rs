//! The parts of a price come to what is charged, or the order says that they do not.

use super::*;

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

/// Places of numbers, in either form.
fn numbers(ready: &Ready) -> Vec<&String> {
    let is_number = |place: &&String| match ready.value.pointer(place) {
        Some(Value::Number(_)) => true,
        Some(Value::String(text)) => text.parse::<f64>().is_ok(),
        _ => false,
    };
    ready.places.iter().filter(is_number).collect()
}

/// An amount of the body in its smallest unit.
fn minor(value: &Value, exponent: i32) -> i64 {
    let amount = value.as_f64().unwrap_or_default();
    (amount * 10_f64.powi(exponent)).round() as i64
}

/// What an order without any flag does not explain.
fn unexplained(body: &Value) -> Option<String> {
    if !flags_of(body).is_empty() {
        return None;
    }
    let pricing = &body["transformedOrder"]["pricing"];
    let exponent = i32::try_from(pricing["exponent"].as_i64().unwrap()).unwrap();
    let amount = |name: &str| minor(&pricing[name], exponent);
    let fees = ["deliveryFee", "serviceFee", "otherFees", "tip"];
    let without_tax = amount("subtotal") + fees.iter().map(|fee| amount(fee)).sum::<i64>() - amount("discount");
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
    for ready in READY.iter() {
        assert_eq!(unexplained(&ready.body), None, "{}", ready.case.provider);
    }
}

proptest! {
    /// With any other numbers in it, too.
    #[test]
    fn orders_come_to_what_is_charged_or_say_that_they_do_not(
        which in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..4),
    ) {
        let ready = which.get(&READY);
        let (places, numbers, mut value) = (numbers(ready), other_numbers(), ready.value.clone());
        let mut changed = Vec::new();
        for (place, number) in changes {
            let (place, number) = (place.get(&places), number.get(&numbers));
            *value.pointer_mut(place).unwrap() = number.clone();
            changed.push(format!("{place} = {number}"));
        }
        if let Ok(body) = ready.becomes(&value) {
            prop_assert_eq!(unexplained(&body), None, "{}: {:?}", ready.case.provider, changed);
        }
    }
}
