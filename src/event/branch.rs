//! Payloads of requests about a branch: which items of it can be ordered, and whether it takes orders.
//!
//! As those of [`super::outcome`], they are part of the contract with subscribers: fields are added, never renamed or
//! removed.
//!
//! The `webhookType` of these events is that of menus ([`super::push::MENU_SYNC`]). By it earlier versions, which do not know the new types, know
//! that the outcomes that they do know (`order.dead_lettered`, `order.ignored`) are about no order.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::push::ReasonCode;
use crate::text::words;

/// Replaces an order's id in the events about a branch's items, so that those of one branch follow one another.
pub fn items_subject(branch: &str) -> String {
    format!("items:{branch}")
}

/// The same, of the events about the state of a branch.
pub fn store_subject(branch: &str) -> String {
    format!("store:{branch}")
}

words! {
    /// What can be ordered, or not.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    pub enum EntryKind {
        /// An item of the menu.
        Item = "item",
        /// An option of a group.
        Option = "option",
    }
}

/// An item or an option, and whether it can be ordered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Availability {
    /// The restaurant's id of it.
    pub id: String,
    /// The restaurant's id of the option's group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_id: Option<String>,
    /// Whether it can be ordered.
    pub available: bool,
    /// Until when it cannot; absent: until the backend says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<DateTime<Utc>>,
}

/// Payload of `items.availability_requested`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ItemsRequested {
    /// Items of the menu.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<Availability>,
    /// Options of groups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<Availability>,
}

impl ItemsRequested {
    /// Everything that it names, items first. The place in this order is what [`ItemsProgressed`] counts.
    pub fn entries(&self) -> impl Iterator<Item = (EntryKind, &Availability)> {
        let items = self.items.iter().map(|entry| (EntryKind::Item, entry));
        items.chain(self.options.iter().map(|entry| (EntryKind::Option, entry)))
    }
}

/// An item or an option that the provider did not take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RefusedEntry {
    /// What it is.
    pub kind: EntryKind,
    /// The restaurant's id of it.
    pub id: String,
    /// The restaurant's id of the option's group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_id: Option<String>,
    /// The provider's code, or the hub's for its answer (`PROVIDER_404`).
    pub code: String,
}

/// The place of a refused entry, from 0, and the code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RefusedAt {
    /// Its place in [`ItemsRequested::entries`].
    pub at: usize,
    /// See [`RefusedEntry::code`].
    pub code: String,
}

/// Payload of `items.availability_progressed`: the provider has answered about some, the rest is still to be sent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ItemsProgressed {
    /// How many attempts were counted before the rest is sent.
    pub attempt: u32,
    /// Requests to the provider so far.
    pub requests: u32,
    /// Places of those that the provider took, in [`ItemsRequested::entries`].
    pub taken: Vec<usize>,
    /// Those that it did not take.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<RefusedAt>,
}

/// Payload of `items.availability_pushed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ItemsPushed {
    /// How many items and options the provider took.
    pub taken: usize,
    /// Those that it did not take.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<RefusedEntry>,
    /// How many were not sent, because their time was over or a later request names them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub outdated: usize,
    /// How many requests to the provider it took.
    pub requests: u32,
    /// How many attempts.
    pub attempts: u32,
    /// When the backend requested it.
    pub requested_at: DateTime<Utc>,
    /// When the provider had answered about the last one.
    pub pushed_at: DateTime<Utc>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(count: &usize) -> bool {
    *count == 0
}

words! {
    /// Whether a branch takes orders.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    pub enum StoreState {
        /// As usual.
        Open = "open",
        /// It does, and needs longer.
        Busy = "busy",
        /// It does not.
        Paused = "paused",
    }
}

/// Payload of `store.state_requested`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreRequested {
    /// The state.
    pub state: StoreState,
    /// How long the kitchen needs; only of `busy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preparation_minutes: Option<u32>,
    /// Until when it is paused; absent: until the backend says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<DateTime<Utc>>,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why, as one of the hub's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason_code: Option<ReasonCode>,
}

/// Payload of `store.state_pushed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StorePushed {
    /// The state.
    pub state: StoreState,
    /// Nothing was sent: the pause was over before the provider could be reached.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub outdated: bool,
    /// The provider's HTTP status; absent where nothing was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_status: Option<u16>,
    /// How many attempts it took.
    pub attempts: u32,
    /// When the backend requested it.
    pub requested_at: DateTime<Utc>,
    /// When the provider had answered.
    pub pushed_at: DateTime<Utc>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn words_and_places_read_back() {
        for state in StoreState::ALL {
            assert_eq!(StoreState::from_word(state.as_str()), Some(state));
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
        for kind in EntryKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
        let wanted: ItemsRequested = serde_json::from_value(json!({
            "options": [{ "id": "o", "groupId": "g", "available": true }], "items": [{ "id": "i", "available": false }],
        }))
        .unwrap();
        let places: Vec<_> = wanted
            .entries()
            .map(|(kind, entry)| (kind, entry.id.as_str()))
            .collect();
        assert_eq!(places, [(EntryKind::Item, "i"), (EntryKind::Option, "o")]);
    }
}
