//! The menu that the backend sends, `docs/menus.md`: categories, items, modifier groups and their options.
//!
//! Read from its text: an amount is decimal text or a number of minor units, never a float.

use std::collections::{HashMap, HashSet, hash_map::Entry};

use serde_json::{Value, json};

use crate::{
    json::fault::{Fault, Faults},
    order::{
        money::{Currency, Money},
        node::{Node, Object},
    },
};

/// Most categories, items and so on of one menu, all together.
const MAX_ENTRIES: usize = 20_000;
/// Longest name or description, in characters.
const MAX_TEXT_CHARS: usize = 2000;
/// Longest id, in bytes.
const MAX_ID_BYTES: usize = 128;
/// Most options that may be chosen of one group.
const MAX_CHOICES: u64 = 1000;

/// A menu.
#[derive(Debug)]
pub struct Menu {
    /// Of all its amounts.
    pub currency: Currency,
    categories: Vec<Category>,
}

/// A text in several languages.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Name {
    plain: Option<String>,
    ar: Option<String>,
}

#[derive(Debug)]
struct Category {
    id: String,
    name: Name,
    items: Vec<MenuItem>,
}

#[derive(Debug)]
struct MenuItem {
    id: String,
    name: Name,
    description: Name,
    price: Money,
    image_url: Option<String>,
    available: bool,
    groups: Vec<Group>,
}

#[derive(Debug, Clone)]
struct Group {
    id: String,
    name: Name,
    min: u64,
    max: u64,
    options: Vec<Choice>,
}

#[derive(Debug, Clone)]
struct Choice {
    id: String,
    name: Name,
    price: Money,
    available: bool,
    /// The field of the price, for faults.
    price_field: &'static str,
}

impl Menu {
    /// Reads a menu.
    ///
    /// # Errors
    /// Every fault with its JSON pointer.
    pub fn parse(bytes: &[u8]) -> Result<Self, Vec<Fault>> {
        let root = Node::document(bytes)?;
        let mut reading = MenuReader::default();
        let body = root.object(&mut reading.faults);
        let currency = reading.currency(&body.get("currency"));
        let categories: Vec<_> = body.get("categories").elements(&mut reading.faults);
        if categories.is_empty() {
            reading.faults.add("/categories", "expected at least one category");
        }
        let categories = categories.iter().map(|node| reading.category(node, currency)).collect();
        reading.faults.none_or(Self { currency, categories })
    }

    /// How many items it has.
    pub fn items(&self) -> usize {
        self.categories.iter().map(|category| category.items.len()).sum()
    }

    /// As the slots and lists of templates (see [`crate::provider::outbound::words::MENU`]).
    pub fn as_slots(&self) -> Value {
        let mut groups = Vec::new();
        let mut known = HashSet::new();
        let items = self.categories.iter().flat_map(|category| &category.items);
        for group in items.flat_map(|item| &item.groups) {
            // A group that several items share is listed once.
            if known.insert(group.id.as_str()) {
                groups.push(group.slots(groups.len()));
            }
        }
        let categories: Vec<_> = self
            .categories
            .iter()
            .enumerate()
            .map(|(at, one)| one.slots(at))
            .collect();
        let items: Vec<_> = categories
            .iter()
            .filter_map(|category| category["items"].as_array())
            .flatten()
            .cloned()
            .collect();
        json!({ "categories": categories, "items": items, "groups": groups })
    }
}

impl Category {
    fn slots(&self, position: usize) -> Value {
        let items: Vec<_> = self
            .items
            .iter()
            .enumerate()
            .map(|(at, item)| item.slots(&self.id, at))
            .collect();
        let ids: Vec<_> = self.items.iter().map(|item| &item.id).collect();
        let mut slots = json!({ "id": self.id, "position": position, "items": items, "item_ids": ids });
        self.name.say(&mut slots, "name");
        slots
    }
}

impl MenuItem {
    fn slots(&self, category: &str, position: usize) -> Value {
        let groups: Vec<_> = self
            .groups
            .iter()
            .enumerate()
            .map(|(at, group)| group.slots(at))
            .collect();
        let ids: Vec<_> = self.groups.iter().map(|group| &group.id).collect();
        let mut slots = json!({
            "id": self.id, "available": self.available, "category_id": category, "position": position,
            "image_url": self.image_url, "groups": groups, "group_ids": ids,
        });
        self.name.say(&mut slots, "name");
        self.description.say(&mut slots, "description");
        say_price(&mut slots, self.price);
        slots
    }
}

impl Group {
    /// Where it says something else than another of the same id: JSON pointers within it.
    fn differs_from(&self, other: &Self) -> Vec<String> {
        let mut fields: Vec<String> = [
            ("/name", self.name != other.name),
            ("/min", self.min != other.min),
            ("/max", self.max != other.max),
            ("/options", self.options.len() != other.options.len()),
        ]
        .into_iter()
        .filter(|(_, differs)| *differs)
        .map(|(field, _)| field.to_owned())
        .collect();
        for (at, (ours, theirs)) in self.options.iter().zip(&other.options).enumerate() {
            for (field, differs) in [
                ("id", ours.id != theirs.id),
                ("name", ours.name != theirs.name),
                (ours.price_field, ours.price != theirs.price),
                ("available", ours.available != theirs.available),
            ] {
                if differs {
                    fields.push(format!("/options/{at}/{field}"));
                }
            }
        }
        fields
    }

    fn slots(&self, position: usize) -> Value {
        let options: Vec<_> = self
            .options
            .iter()
            .enumerate()
            .map(|(at, option)| option.slots(at))
            .collect();
        let mut slots =
            json!({ "id": self.id, "min": self.min, "max": self.max, "position": position, "options": options });
        self.name.say(&mut slots, "name");
        slots
    }
}

impl Choice {
    fn slots(&self, position: usize) -> Value {
        let mut slots = json!({ "id": self.id, "available": self.available, "position": position });
        self.name.say(&mut slots, "name");
        say_price(&mut slots, self.price);
        slots
    }
}

impl Name {
    fn say(&self, slots: &mut Value, field: &str) {
        slots[field] = self.plain.clone().into();
        slots[format!("{field}_ar")] = self.ar.clone().into();
    }
}

/// As text, in minor units, and as a number: the shortest text of that is the decimal itself, up to fifteen digits.
fn say_price(slots: &mut Value, price: Money) {
    let text = price.to_string();
    slots["price_number"] = serde_json::from_str(&text).unwrap_or(Value::Null);
    slots["price_minor"] = price.minor.into();
    slots["price"] = text.into();
}

/// What was read so far.
#[derive(Default)]
struct MenuReader {
    faults: Faults,
    entries: usize,
    /// Ids that may stand only once: of categories and of items.
    ids: HashSet<(&'static str, String)>,
    /// The first group of each id, and where it stands: a catalogue has one of an id.
    groups: HashMap<String, (String, Group)>,
}

impl MenuReader {
    fn currency(&mut self, node: &Node<'_>) -> Currency {
        let code = node.required_text(&mut self.faults);
        code.parse().unwrap_or_else(|_| {
            if !code.is_empty() {
                self.faults.add(node.pointer(), "expected an ISO 4217 code such as JOD");
            }
            "JOD".parse().expect("JOD is a currency")
        })
    }

    /// The members of an entry, which is counted and may have only these fields.
    fn entry<'a>(&mut self, node: &Node<'a>) -> Object<'a> {
        self.entries += 1;
        if self.entries == MAX_ENTRIES + 1 {
            self.faults
                .add(node.pointer(), format_args!("a menu has at most {MAX_ENTRIES} entries"));
        }
        node.object(&mut self.faults)
    }

    fn id(&mut self, node: &Node<'_>, unique: Option<&'static str>) -> String {
        let id = node.verbatim(&mut self.faults).unwrap_or_default();
        if id.is_empty() {
            // Only the first fault of each location is reported.
            self.faults.add(node.pointer(), "missing");
        }
        if id.len() > MAX_ID_BYTES {
            self.faults
                .add(node.pointer(), format_args!("longer than {MAX_ID_BYTES} bytes"));
        }
        if let Some(kind) = unique
            && !id.is_empty()
            && !self.ids.insert((kind, id.clone()))
        {
            self.faults
                .add(node.pointer(), format_args!("another {kind} has this id"));
        }
        id
    }

    /// Text, or an object with a text by language: `en`, or else the first, is the plain one.
    fn name(&mut self, node: &Node<'_>, required: bool) -> Name {
        let name = if node.is_object() {
            let by_language = node.object(&mut self.faults);
            let mut text = |language: &str| by_language.get(language).text(&mut self.faults);
            let (en, ar) = (text("en"), text("ar"));
            Name {
                plain: en.or_else(|| ar.clone()),
                ar,
            }
        } else {
            Name {
                plain: node.text(&mut self.faults),
                ar: None,
            }
        };
        if required && name.plain.is_none() {
            self.faults.add(
                node.pointer(),
                "expected text, or an object with text by language: en, ar",
            );
        }
        let longest = [&name.plain, &name.ar].into_iter().flatten();
        if longest.map(|text| text.chars().count()).max() > Some(MAX_TEXT_CHARS) {
            self.faults
                .add(node.pointer(), format_args!("longer than {MAX_TEXT_CHARS} characters"));
        }
        name
    }

    /// `price` as decimal text or number, or `priceMinor`.
    fn price(&mut self, of: &Object<'_>, currency: Currency, required: bool) -> Money {
        let (price, minor) = (of.get("price"), of.get("priceMinor"));
        let free = Money { minor: 0, currency };
        let amount = match (price.is_present(), minor.is_present()) {
            (true, true) => {
                self.faults.add(minor.pointer(), "stands beside price; keep one");
                return free;
            }
            (true, false) => price.money(currency, &mut self.faults),
            (false, true) => minor.whole(&mut self.faults).map(|minor| Money { minor, currency }),
            (false, false) if required => {
                self.faults.add(
                    price.pointer(),
                    "expected a price: decimal text such as \"4.500\", or priceMinor",
                );
                None
            }
            (false, false) => None,
        };
        if amount.is_some_and(|amount| amount.minor < 0) {
            self.faults.add(price.pointer(), "a price is not negative");
        }
        amount.unwrap_or(free)
    }

    fn flag(&mut self, node: &Node<'_>) -> bool {
        node.flag(&mut self.faults).unwrap_or(true)
    }

    fn category(&mut self, node: &Node<'_>, currency: Currency) -> Category {
        let category = self.entry(node);
        let items = category.get("items").elements(&mut self.faults);
        Category {
            id: self.id(&category.get("id"), Some("category")),
            name: self.name(&category.get("name"), true),
            items: items.iter().map(|node| self.item(node, currency)).collect(),
        }
    }

    fn item(&mut self, node: &Node<'_>, currency: Currency) -> MenuItem {
        let item = self.entry(node);
        let nodes = item.get("modifierGroups").elements(&mut self.faults);
        let mut groups: Vec<_> = nodes.iter().map(|node| self.group(node, currency)).collect();
        // A group that an item names twice counts once.
        let mut known = HashSet::new();
        groups.retain(|group| known.insert(group.id.clone()));
        MenuItem {
            id: self.id(&item.get("id"), Some("item")),
            name: self.name(&item.get("name"), true),
            description: self.name(&item.get("description"), false),
            price: self.price(&item, currency, true),
            image_url: item.get("imageUrl").text(&mut self.faults),
            available: self.flag(&item.get("available")),
            groups,
        }
    }

    fn group(&mut self, node: &Node<'_>, currency: Currency) -> Group {
        let group = self.entry(node);
        let options = group.get("options").elements(&mut self.faults);
        if options.is_empty() {
            self.faults
                .add(&format!("{}/options", node.pointer()), "expected at least one option");
        }
        let choices = options.len() as u64;
        let (min, max) = (self.count(&group.get("min"), 0), self.count(&group.get("max"), choices));
        if min > max {
            self.faults.add(node.pointer(), "min is more than max");
        }
        let group = Group {
            id: self.id(&group.get("id"), None),
            name: self.name(&group.get("name"), true),
            min,
            max,
            options: options.iter().map(|node| self.choice(node, currency)).collect(),
        };
        self.options_are_different(node.pointer(), &group);
        self.is_the_same_everywhere(node.pointer(), &group);
        group
    }

    /// An option's id may stand only once in its group.
    fn options_are_different(&mut self, pointer: &str, group: &Group) {
        let mut known = HashSet::new();
        for (at, option) in group.options.iter().enumerate() {
            if !option.id.is_empty() && !known.insert(&option.id) {
                let message = "another option of the group has this id";
                self.faults.add(&format!("{pointer}/options/{at}/id"), message);
            }
        }
    }

    /// A provider is sent one group of an id, so all that have it must say the same.
    fn is_the_same_everywhere(&mut self, pointer: &str, group: &Group) {
        if group.id.is_empty() {
            return;
        }
        match self.groups.entry(group.id.clone()) {
            Entry::Vacant(new) => drop(new.insert((pointer.to_owned(), group.clone()))),
            Entry::Occupied(first) => {
                let (at, first) = first.get();
                for field in group.differs_from(first) {
                    let message = format_args!("differs from the group of this id at {at}");
                    self.faults.add(&format!("{pointer}{field}"), message);
                }
            }
        }
    }

    fn count(&mut self, node: &Node<'_>, default: u64) -> u64 {
        let Some(count) = node.whole(&mut self.faults) else {
            return default;
        };
        let count = u64::try_from(count).ok().filter(|count| *count <= MAX_CHOICES);
        if count.is_none() {
            self.faults.add(
                node.pointer(),
                format_args!("expected a whole number from 0 to {MAX_CHOICES}"),
            );
        }
        count.unwrap_or(default)
    }

    fn choice(&mut self, node: &Node<'_>, currency: Currency) -> Choice {
        let option = self.entry(node);
        let has_minor = option.get("priceMinor").is_present();
        Choice {
            id: self.id(&option.get("id"), None),
            name: self.name(&option.get("name"), true),
            price: self.price(&option, currency, false),
            available: self.flag(&option.get("available")),
            price_field: if has_minor { "priceMinor" } else { "price" },
        }
    }
}

#[cfg(test)]
mod tests;
