//! Which orders a provider has, and how the hub asks: the table `[reconcile]`.
//!
//! A webhook may never arrive. A provider with a list of its orders can be asked for what is missing on the log. What is found becomes
//! the webhook that should have come: the file says how one is made of an order's id or document ([`WebhookMade`]), and from there on
//! it takes the path of every webhook. Pure; [`crate::reconcile`] asks.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use super::{
    When,
    check::Check,
    tables::json,
    template::{Json, Text},
    words,
};
use crate::json::pointer::Pointer;

/// How often the lists are read, where neither the file nor a variable says.
const DEFAULT_EVERY: Duration = Duration::from_secs(10 * 60);
/// How far back they are read, where neither says.
const DEFAULT_WINDOW: Duration = Duration::from_secs(3 * 3600);
/// How old an order is before its webhook counts as missing, where the file does not say.
const DEFAULT_GRACE: Duration = Duration::from_secs(2 * 60);
/// Bounds of how often, in a file and in `<PROVIDER>_RECONCILE_EVERY`.
pub const EVERY: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(6 * 3600));
/// Bounds of how far back, in a file and in `<PROVIDER>_RECONCILE_WINDOW`. No list is known to reach further than a day.
pub const WINDOW: (Duration, Duration) = (Duration::from_secs(3600), Duration::from_secs(24 * 3600));
/// Longest grace: an order that is given up by its provider after some minutes must be found before.
const MAX_GRACE: Duration = Duration::from_secs(30 * 60);
/// Longest pause between two requests.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// Slots of the time from which on orders are wanted.
const SINCE: [&str; 4] = ["since", "since_s", "since_ms", "hours"];

/// The table `[reconcile]`, as written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reconcile {
    /// Whether there is a list for each branch, or one for all.
    #[serde(default)]
    pub of: ListOf,
    /// How often the lists are read, `10m`.
    #[serde(default)]
    pub every: Option<String>,
    /// How far back, `3h`.
    #[serde(default)]
    pub window: Option<String>,
    /// How old an order is before its webhook counts as missing, `2m`.
    #[serde(default)]
    pub grace: Option<String>,
    /// Shortest time between two requests, `6s`.
    #[serde(default)]
    pub pause: Option<String>,
    /// JSON pointers of the time at which an order was placed, in an entry of a list or in the document; the first that is there counts.
    #[serde(default, deserialize_with = "pointers")]
    pub time: Vec<Pointer>,
    /// The lists.
    pub list: Vec<OrderList>,
    /// How the document of an order is had, where the lists do not have it.
    #[serde(default)]
    pub order: Option<OrderDocument>,
    /// The webhook that announces an order.
    pub created: WebhookTable,
    /// The webhook that cancels one.
    #[serde(default)]
    pub cancelled: Option<WebhookTable>,
}

/// Of what there is a list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ListOf {
    /// Each active branch.
    #[default]
    Branch,
    /// The provider as a whole.
    Provider,
}

/// An entry of `[[reconcile.list]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrderList {
    /// On the base URL, with slots.
    pub path: String,
    /// JSON pointers of the list in the answer; the first that leads to a list counts.
    #[serde(deserialize_with = "pointers")]
    pub items: Vec<Pointer>,
    /// JSON pointer of the order's id in an entry; the entry itself where it is absent.
    #[serde(default, deserialize_with = "pointer")]
    pub id: Option<Pointer>,
    /// How the next page is asked for.
    #[serde(default)]
    pub next: Option<NextPage>,
    /// Which entries are cancelled.
    #[serde(default)]
    pub cancelled: Cancelled,
}

/// The next page of a list.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NextPage {
    /// JSON pointer, in the answer, of what names the next page.
    #[serde(deserialize_with = "one_pointer")]
    pub at: Pointer,
    /// The parameter of the query in which it goes back.
    pub query: String,
}

/// Which entries of a list are cancelled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Cancelled {
    /// None.
    #[default]
    None,
    /// All of them: `true`.
    All,
    /// Those with one of these values there.
    Where(When),
}

impl<'de> Deserialize<'de> for Cancelled {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match toml::Value::deserialize(deserializer)? {
            toml::Value::Boolean(true) => Ok(Self::All),
            toml::Value::Boolean(false) => Ok(Self::None),
            table @ toml::Value::Table(_) => When::deserialize(table).map(Self::Where).map_err(de::Error::custom),
            _ => Err(de::Error::custom(
                "cancelled: expected true, or a place and its values such as { pointer = \"/status\", is = [\"canceled\"] }",
            )),
        }
    }
}

/// `[reconcile.order]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrderDocument {
    /// On the base URL, with slots.
    pub path: String,
    /// JSON pointers of the document in the answer; the first that is there counts, else the answer itself.
    #[serde(default, deserialize_with = "pointers")]
    pub part: Vec<Pointer>,
}

/// `[reconcile.created]` and `[reconcile.cancelled]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookTable {
    /// Below `/api/webhooks/NAME`, with slots.
    #[serde(default)]
    pub path: Option<String>,
    /// JSON with slots, `{document}` among them.
    #[serde(deserialize_with = "json")]
    pub body: String,
    /// JSON pointers of what is null in the document that goes in: an announcement does not say that its order is cancelled.
    #[serde(default, deserialize_with = "pointers")]
    pub blank: Vec<Pointer>,
}

/// The checked table.
#[derive(Debug, Clone)]
pub struct ReconcileSpec {
    /// Of what there is a list.
    pub of: ListOf,
    /// How often the lists are read.
    pub every: Duration,
    /// How far back.
    pub window: Duration,
    /// How old an order is before its webhook counts as missing.
    pub grace: Duration,
    /// Shortest time between two requests.
    pub pause: Duration,
    /// Where the time of an order is.
    pub time: Vec<Pointer>,
    /// The lists.
    pub lists: Vec<ListSpec>,
    /// Where an order's document is, and which part of the answer; none where the entries are documents, or none is needed.
    pub order: Option<(Text, Vec<Pointer>)>,
    /// The webhook that announces an order.
    pub created: WebhookMade,
    /// The webhook that cancels one; there is one where a list can have cancelled orders.
    pub cancelled: Option<WebhookMade>,
}

/// A list.
#[derive(Debug, Clone)]
pub struct ListSpec {
    /// Its first page.
    pub path: Text,
    /// Where the entries are.
    pub items: Vec<Pointer>,
    /// Where an entry's id is; empty: the entry itself.
    pub id: Pointer,
    /// How the next page is asked for.
    pub next: Option<NextPage>,
    /// Which entries are cancelled.
    pub cancelled: Cancelled,
}

/// A webhook as the hub makes it of what a provider's list says.
#[derive(Debug, Clone)]
pub struct WebhookMade {
    /// Below `/api/webhooks/NAME`.
    pub path: Option<Text>,
    /// Its body.
    pub body: Json,
    /// Whether the order's document is a part of it.
    pub needs_document: bool,
    /// What is null in that.
    pub blank: Vec<Pointer>,
}

impl Check {
    /// Checks `[reconcile]`.
    pub(super) fn reconcile(&mut self, table: &Reconcile) -> ReconcileSpec {
        if table.list.is_empty() {
            self.note("reconcile.list", "expected at least one list");
        }
        let lists = table.list.iter().enumerate();
        let lists = lists.map(|(index, list)| self.order_list(index, list, table)).collect();
        let order = table.order.as_ref().map(|order| {
            let path = self.path("reconcile.order.path", &order.path, &words::LIST_ORDER);
            (path, order.part.clone())
        });
        let can_be_cancelled = table.list.iter().any(|list| list.cancelled != Cancelled::None);
        if can_be_cancelled != table.cancelled.is_some() {
            self.note(
                "reconcile.cancelled",
                "expected this table if a list has cancelled orders, and only then",
            );
        }
        ReconcileSpec {
            of: table.of,
            every: self.bounded("reconcile.every", table.every.as_deref(), DEFAULT_EVERY, EVERY),
            window: self.bounded("reconcile.window", table.window.as_deref(), DEFAULT_WINDOW, WINDOW),
            grace: self.bounded(
                "reconcile.grace",
                table.grace.as_deref(),
                DEFAULT_GRACE,
                (Duration::ZERO, MAX_GRACE),
            ),
            pause: self.bounded(
                "reconcile.pause",
                table.pause.as_deref(),
                Duration::ZERO,
                (Duration::ZERO, MAX_PAUSE),
            ),
            time: table.time.clone(),
            lists,
            order,
            created: self.webhook_made("reconcile.created", &table.created),
            cancelled: table
                .cancelled
                .as_ref()
                .map(|made| self.webhook_made("reconcile.cancelled", made)),
        }
    }

    fn bounded(
        &mut self,
        at: &str,
        text: Option<&str>,
        default: Duration,
        (least, most): (Duration, Duration),
    ) -> Duration {
        let duration = self.duration(at, text, default);
        if !(least..=most).contains(&duration) {
            let expected = format!("expected from {}s to {}s", least.as_secs(), most.as_secs());
            self.note(at, &expected);
        }
        duration
    }

    fn order_list(&mut self, index: usize, list: &OrderList, table: &Reconcile) -> ListSpec {
        let at = |field: &str| format!("reconcile.list[{index}].{field}");
        let path = self.path(&at("path"), &list.path, &words::LIST);
        if table.time.is_empty() && !SINCE.iter().any(|slot| path.uses(slot)) {
            // Orders from before the hub would otherwise come again.
            self.note(
                &at("path"),
                "expected {since}, {since_s}, {since_ms} or {hours}, or reconcile.time, which says when an order was placed",
            );
        }
        if list.items.is_empty() {
            self.note(&at("items"), "expected at least one JSON pointer");
        }
        if let Some(next) = &list.next {
            let is_name = |text: &str| {
                text.bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
            };
            if next.query.is_empty() || !is_name(&next.query) {
                self.note(&at("next.query"), "expected the name of a parameter such as page_token");
            }
        }
        if let Cancelled::Where(when) = &list.cancelled
            && !when.pointer.starts_with('/')
        {
            self.note(&at("cancelled.pointer"), "expected a JSON pointer such as /status");
        }
        ListSpec {
            path,
            items: list.items.clone(),
            id: list.id.clone().unwrap_or_default(),
            next: list.next.clone(),
            cancelled: list.cancelled.clone(),
        }
    }

    fn webhook_made(&mut self, at: &str, table: &WebhookTable) -> WebhookMade {
        let path_at = format!("{at}.path");
        let path = table.path.as_ref();
        WebhookMade {
            path: path.map(|path| self.path(&path_at, path, &words::WEBHOOK_MADE)),
            body: Json::read(
                &table.body,
                &words::WEBHOOK_MADE,
                &format!("{at}.body"),
                &mut self.faults,
            ),
            needs_document: table.body.contains("{document"),
            blank: table.blank.clone(),
        }
    }
}

fn read_pointer<E: de::Error>(text: &str) -> Result<Pointer, E> {
    let pointer: Pointer = text.parse().map_err(E::custom)?;
    if pointer.has_each() {
        return Err(E::custom(format_args!("{text:?}: * cannot stand here")));
    }
    Ok(pointer)
}

fn one_pointer<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Pointer, D::Error> {
    read_pointer(&String::deserialize(deserializer)?)
}

fn pointer<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Pointer>, D::Error> {
    one_pointer(deserializer).map(Some)
}

/// A pointer, or a list of them.
fn pointers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Pointer>, D::Error> {
    let texts = match toml::Value::deserialize(deserializer)? {
        toml::Value::Array(values) => values,
        value => vec![value],
    };
    let read = |value: toml::Value| match value {
        toml::Value::String(text) => read_pointer(&text),
        other => Err(de::Error::custom(format_args!(
            "expected a JSON pointer or a list of them, found {}",
            other.type_str()
        ))),
    };
    texts.into_iter().map(read).collect()
}
