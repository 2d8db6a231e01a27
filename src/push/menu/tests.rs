use super::*;

const SAMPLE: &str = include_str!("../../../tests/fixtures/menu.json");

#[test]
fn the_sample_of_the_documentation() {
    let menu = Menu::parse(SAMPLE.as_bytes()).unwrap();
    assert_eq!((menu.currency.code(), menu.items()), ("JOD", 2));
    let slots = menu.as_slots();
    let item = &slots["items"][0];
    assert_eq!(
        (&item["price"], &item["price_minor"], &item["price_number"].to_string()),
        (&json!("4.500"), &json!(4500), &"4.5".to_owned())
    );
    assert_eq!(item["name_ar"], "شاورما دجاج");
    assert_eq!(item["groups"][0]["options"][1]["price_minor"], 250);
    assert_eq!(slots["items"][1]["available"], false);
    assert_eq!(slots["groups"].as_array().map(Vec::len), Some(1));
    assert_eq!(
        slots["categories"][0]["item_ids"],
        json!(["chicken-shawarma", "lentil-soup"])
    );
}

#[test]
fn a_menu_has_limits() {
    let item = |id: usize| json!({ "id": format!("i{id}"), "name": "x", "price": 1 });
    let with = |items: Vec<Value>| {
        let menu = json!({ "currency": "JOD", "categories": [{ "id": "c", "name": "x", "items": items }] });
        Menu::parse(menu.to_string().as_bytes())
            .map(|_| ())
            .map_err(|faults| faults[0].message.clone())
    };
    let changed = |field: &str, value: Value| {
        let mut item = item(1);
        item[field] = value;
        with(vec![item])
    };
    let text = |length: usize| json!("x".repeat(length));
    assert_eq!(
        (changed("id", text(128)), changed("name", text(2000))),
        (Ok(()), Ok(()))
    );
    assert_eq!(changed("id", text(129)), Err("longer than 128 bytes".into()));
    assert_eq!(changed("name", text(2001)), Err("longer than 2000 characters".into()));
    assert_eq!(
        changed("description", text(2001)),
        Err("longer than 2000 characters".into())
    );
    let group = |max: u64| json!([{ "id": "g", "name": "x", "max": max, "options": [{ "id": "o", "name": "x" }] }]);
    assert_eq!(changed("modifierGroups", group(1000)), Ok(()));
    let wrong = "expected a whole number from 0 to 1000";
    assert_eq!(changed("modifierGroups", group(1001)), Err(wrong.into()));
    assert_eq!(with((0..2000).map(item).collect()), Ok(()));
    assert_eq!(
        with((0..2001).map(item).collect()),
        Err("more than 2000 elements".into())
    );
    // The limit applies to all kinds together, however they are distributed.
    let options: Vec<_> = (0..2000).map(|id| json!({ "id": id, "name": "x" })).collect();
    let large = |items: usize| {
        let group = json!([{ "id": "g", "name": "x", "max": 1, "options": options }]);
        let items = (0..items).map(|id| {
            let mut item = item(id);
            item["modifierGroups"] = group.clone();
            item
        });
        with(items.collect())
    };
    assert_eq!(large(9), Ok(()));
    assert_eq!(large(10), Err("a menu has at most 20000 entries".into()));
}

#[test]
fn every_fault_has_its_place() {
    let mut menu: Value = serde_json::from_str(SAMPLE).unwrap();
    menu["currency"] = "XYZ".into();
    let item = &mut menu["categories"][0]["items"][0];
    item["price"] = json!("4.5001");
    item["name"] = json!({ "fr": "poulet" });
    item["available"] = json!("yes");
    item["modifierGroups"][0]["min"] = json!(9);
    item["modifierGroups"][0]["options"][0]["priceMinor"] = json!(5);
    item["modifierGroups"][0]["options"][0]["price"] = json!("1");
    menu["categories"][0]["items"][1]["id"] = json!("chicken-shawarma");
    let faults = Menu::parse(menu.to_string().as_bytes()).unwrap_err();
    let pointers: Vec<_> = faults.iter().map(|fault| fault.pointer.as_str()).collect();
    for pointer in [
        "/currency",
        "/categories/0/items/0/price",
        "/categories/0/items/0/name",
        "/categories/0/items/0/available",
        "/categories/0/items/0/modifierGroups/0",
        "/categories/0/items/0/modifierGroups/0/options/0/priceMinor",
        "/categories/0/items/1/id",
    ] {
        // With an unknown currency, decimals are read as for JOD.
        assert!(pointers.contains(&pointer), "{pointer} in {faults:#?}");
    }
    assert_eq!(Menu::parse(b"[]").unwrap_err()[0].message, "expected an object");
    assert_eq!(Menu::parse(b"{").unwrap_err()[0].message, "expected JSON");
}

/// A provider gets one group of an id: with two that differ, the second item would have been sold at the first one's prices.
#[test]
fn groups_of_one_id_must_be_equal() {
    let group = json!({
        "id": "extras", "name": "Extras", "max": 1,
        "options": [{ "id": "garlic", "name": "Garlic", "price": "0.250" }, { "id": "cheese", "name": "Cheese" }],
    });
    let with = |second: &Value| {
        let item = |id: &str, group: &Value| json!({ "id": id, "name": "x", "price": 1, "modifierGroups": [group] });
        let items = [item("i-1", &group), item("i-2", second)];
        let menu = json!({ "currency": "JOD", "categories": [{ "id": "c", "name": "x", "items": items }] });
        Menu::parse(menu.to_string().as_bytes())
    };
    // The same menu in another form: prices in minor units, and defaults written out.
    let mut equal = group.clone();
    equal["options"][0] = json!({ "id": "garlic", "name": "Garlic", "priceMinor": 250, "available": true });
    assert_eq!(
        with(&equal).unwrap().as_slots()["groups"].as_array().map(Vec::len),
        Some(1)
    );
    let place = "/categories/0/items/1/modifierGroups/0";
    for (pointer, value) in [
        ("/name", json!("Others")),
        ("/min", json!(1)),
        ("/max", json!(2)),
        ("/options/0/price", json!("0.300")),
        ("/options/1/available", json!(false)),
        ("/options/1/id", json!("halloumi")),
        ("/options/0/name", json!("Toum")),
    ] {
        let mut other = group.clone();
        match other.pointer_mut(pointer) {
            Some(field) => *field = value,
            None if pointer.starts_with("/options") => other["options"][1]["available"] = value,
            None => other[&pointer[1..]] = value,
        }
        let faults = with(&other).unwrap_err();
        assert_eq!(faults.len(), 1, "{faults:#?}");
        assert_eq!(faults[0].pointer, format!("{place}{pointer}"));
        assert!(
            faults[0].message.contains("/categories/0/items/0/modifierGroups/0"),
            "{}",
            faults[0].message
        );
    }
    let mut longer = group.clone();
    longer["options"]
        .as_array_mut()
        .unwrap()
        .push(json!({ "id": "onion", "name": "Onion" }));
    assert_eq!(with(&longer).unwrap_err()[0].pointer, format!("{place}/options"));
    let mut twice = group.clone();
    twice["options"][1]["id"] = json!("garlic");
    let faults = with(&twice).unwrap_err();
    assert_eq!(faults[0].message, "another option of the group has this id");
}

#[test]
fn a_group_that_an_item_has_twice_is_sent_once() {
    let group = json!({ "id": "g", "name": "x", "options": [{ "id": "o", "name": "x" }] });
    let item = json!({ "id": "i", "name": "x", "price": 1, "modifierGroups": [group, group] });
    let menu = json!({ "currency": "JOD", "categories": [{ "id": "c", "name": "x", "items": [item] }] });
    let slots = Menu::parse(menu.to_string().as_bytes()).unwrap().as_slots();
    assert_eq!(slots["items"][0]["group_ids"], json!(["g"]));
}
