//! Changes of a payload.

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

/// A change of a payload. Each picks its place anew, because the changes before it may have moved the places.
#[derive(Debug, Clone)]
pub(super) enum Change {
    /// Another number in place of one.
    Number(prop::sample::Index, prop::sample::Index),
    /// An element of a list once more: a line, an addition, a fee, a discount.
    Repeat(prop::sample::Index, prop::sample::Index),
    /// An element of a list less, where that is not the only one: without lines it is no order.
    Drop(prop::sample::Index, prop::sample::Index),
}

pub(super) fn changes() -> impl Strategy<Value = Vec<Change>> {
    let two = || (any::<prop::sample::Index>(), any::<prop::sample::Index>());
    let change = prop_oneof![
        3 => two().prop_map(|(place, number)| Change::Number(place, number)),
        1 => two().prop_map(|(list, element)| Change::Repeat(list, element)),
        1 => two().prop_map(|(list, element)| Change::Drop(list, element)),
    ];
    prop::collection::vec(change, 1..5)
}

/// The code of a currency behind a number.
fn code_of(text: &str) -> Option<&str> {
    let (number, code) = text.split_once(' ')?;
    (number.parse::<f64>().is_ok() && code.len() == 3).then_some(code)
}

/// Places of numbers, in any form.
fn numbers(value: &Value) -> Vec<String> {
    let is_number = |place: &String| match value.pointer(place) {
        Some(Value::Number(_)) => true,
        Some(Value::String(text)) => text.parse::<f64>().is_ok() || code_of(text).is_some(),
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
pub(super) fn apply(change: &Change, value: &mut Value) -> String {
    match change {
        Change::Number(place, number) => {
            let (places, numbers) = (numbers(value), other_numbers());
            let (place, number) = (place.get(&places), number.get(&numbers));
            let place_of = value.pointer_mut(place).unwrap();
            let number = match place_of.as_str().and_then(code_of) {
                Some(code) => json!(format!("{} {code}", text_of(number))),
                None => number.clone(),
            };
            *place_of = number.clone();
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
