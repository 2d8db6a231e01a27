//! Webhooks that report the result of a menu, as described by `[outbound.menu.result]` of the provider's file. They concern no
//! order, so the intake requires no order id.

use serde_json::Value;

use crate::{
    event::push::SyncReported,
    provider::outbound::{MenuResult, Spec},
};

/// The result in such a webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MenuWord {
    /// The store that it names, where it does.
    pub store: Option<String>,
    /// The result of the menu; none while the provider is still working on it.
    pub result: Option<SyncReported>,
}

/// Reads one; none if the webhook is about something else, as nearly all are.
pub fn read(spec: &Spec, payload: &[u8]) -> Option<MenuWord> {
    let (table, body) = found(spec, payload)?;
    let store = table.store.as_ref().and_then(|pointer| match body.pointer(pointer)? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    });
    Some(MenuWord {
        store,
        result: table.read(payload),
    })
}

/// Whether a webhook is one.
pub(super) fn is_one(spec: &Spec, payload: &[u8]) -> bool {
    found(spec, payload).is_some()
}

fn found<'s>(spec: &'s Spec, payload: &[u8]) -> Option<(&'s MenuResult, Value)> {
    let table = &spec.menu.as_ref()?.result.as_ref()?.table;
    let is = &table.when.as_ref()?.is;
    // This search of the text avoids parsing most webhooks twice.
    let text = str::from_utf8(payload).ok()?;
    if !is.iter().any(|is| text.contains(is.as_str())) {
        return None;
    }
    let body: Value = serde_json::from_slice(payload).ok()?;
    table.is_one(&body).then_some((table, body))
}
