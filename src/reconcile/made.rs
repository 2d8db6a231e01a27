//! A webhook as the provider would have sent it, made of what its list says of an order. Pure.

use std::borrow::Cow;

use axum::http::{HeaderMap, Method, Uri};
use bytes::Bytes;
use uuid::Uuid;

use super::seen::Said;
use crate::{
    json::{pointer::Pointer, scan::Document, structure},
    provider::{
        Admission, Provider,
        outbound::{reconcile::WebhookMade, template::Scope},
    },
    verification::{Unverified, Verified},
};

/// The slot of the document.
const DOCUMENT: &str = "document";

/// A webhook that may go onto the log.
#[derive(Debug)]
pub(super) struct MissedWebhook {
    pub(super) path: String,
    pub(super) body: Bytes,
    pub(super) admission: Admission,
    /// The store that it names.
    pub(super) store: Option<String>,
}

/// Makes it, and checks it as the intake checks a webhook. `document` is the order's, as the provider wrote it.
///
/// # Errors
/// What is wrong with it; never what it holds.
pub(super) fn make(
    provider: &dyn Provider,
    (made, said): (&WebhookMade, Said),
    mut scope: Scope,
    document: &str,
) -> Result<MissedWebhook, String> {
    let below = match &made.path {
        Some(path) => path.fill_path(&scope).map_err(|unfilled| unfilled.to_string())?,
        None => String::new(),
    };
    let path = format!("/api/webhooks/{}{below}", provider.name());
    // The document takes the place of a text that stands nowhere else, and so keeps its bytes.
    let stand_in = Uuid::new_v4().simple().to_string();
    scope.0.insert(DOCUMENT.into(), stand_in.clone().into());
    let body = made.body.fill(&mut scope).to_string();
    let document = blanked(document, &made.blank);
    let body = Bytes::from(body.replacen(&format!("\"{stand_in}\""), &document, 1));
    structure::check(&body).map_err(|why| why.to_string())?;
    let uri: Uri = path.parse().map_err(|_| "its path is none".to_owned())?;
    let headers = HeaderMap::new();
    let request = Unverified::new(&Method::POST, None, &uri, &headers, &body);
    let store = provider.store_ref(&request);
    let read = provider.read(&Verified::of_own_question(request));
    let admission = read.map_err(|refusal| refusal.to_string())?;
    if admission.webhook_type != said.webhook_type() {
        return Err(format!(
            "the provider's file takes it for {}, not for {}",
            admission.webhook_type,
            said.webhook_type()
        ));
    }
    Ok(MissedWebhook {
        path,
        body,
        admission,
        store,
    })
}

/// The document with null at these places, and otherwise byte for byte.
fn blanked<'d>(document: &'d str, blank: &[Pointer]) -> Cow<'d, str> {
    let mut text = Cow::Borrowed(document);
    for place in blank {
        let Ok(whole) = Document::new(text.as_bytes()) else {
            return text;
        };
        let Some(part) = whole.find(place) else { continue };
        // The part is a slice of the text.
        let begin = part.as_ptr() as usize - text.as_ptr() as usize;
        text = Cow::Owned(format!("{}null{}", &text[..begin], &text[begin + part.len()..]));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        event::EventId,
        provider::{
            Catalogue,
            declarative::{Declarative, load},
            outbound::ReconcileSpec,
        },
    };

    fn scope() -> Scope {
        let Value::Object(slots) = json!({
            "external_id": "order-1", "branch_id": "branch-1", "branch_store_id": "store-1", "base_url": "https://api.example",
        }) else {
            unreachable!("it is an object")
        };
        Scope(slots)
    }

    fn provider(name: &str) -> (Declarative, ReconcileSpec) {
        let known = Catalogue::shipped();
        let file = std::sync::Arc::clone(known.get(name).unwrap().file());
        let spec = file.outbound.as_ref().unwrap().reconcile.clone().expect("it has lists");
        (Declarative::new(file, None), spec)
    }

    #[test]
    fn a_document_keeps_its_bytes_and_the_webhook_its_id() {
        let (provider, spec) = provider("delivery-hero");
        let document = r#"{"token": "order-1",  "price": 1.50, "products": [ {"a": 1e2} ]}"#;
        let made = || make(&provider, (&spec.created, Said::Created), scope(), document).unwrap();
        let webhook = made();
        assert_eq!(
            (&*webhook.path, &*webhook.body),
            ("/api/webhooks/delivery-hero/order/store-1", document.as_bytes())
        );
        // The id that the same bytes have as a webhook of the provider.
        let sent = EventId::of_webhook("delivery-hero", &[b"order-1", b"order_created", document.as_bytes()]);
        assert_eq!((webhook.admission.event_id, made().admission.event_id), (sent, sent));
    }

    /// The example of `docs/outbound.md`, with the file that `docs/providers.md` writes.
    #[test]
    fn the_example_of_the_guide_works() {
        let examples = |text: &str, until: &str| -> String {
            let (shown, _) = text.split_once(until).unwrap();
            // Other ways to write a part stand between `~~~`.
            let blocks = shown.split("```toml\n").skip(1);
            blocks.map(|block| block.split_once("```").unwrap().0).collect()
        };
        let parts = examples(include_str!("../../docs/providers.md"), "**5. ");
        let outbound = examples(include_str!("../../docs/outbound.md"), "## Slots");
        let file = load::load("guide.toml", &format!("{parts}{outbound}")).unwrap();
        let spec = file.outbound.as_ref().unwrap().reconcile.clone().unwrap();
        let provider = Declarative::new(std::sync::Arc::new(file), None);
        let order = include_str!("../../tests/fixtures/providers.d/order.json");
        let mut scope = scope();
        scope.0.insert("merchant_id".into(), "zarqa-1".into());
        let created = make(&provider, (&spec.created, Said::Created), scope.clone(), order).unwrap();
        assert_eq!(created.admission.external_order_id, "ME-77001");
        let cancelled = spec.cancelled.as_ref().unwrap();
        let cancelled = make(&provider, (cancelled, Said::Cancelled), scope, order).unwrap();
        assert_eq!(
            &*cancelled.body,
            br#"{"kind":"VOID","kitchen":{"code":"zarqa-1"},"ref":"order-1"}"#
        );
    }

    #[test]
    fn every_list_makes_an_announcement_and_a_cancellation() {
        for name in ["uber-eats", "delivery-hero", "deliveroo", "careem-pos"] {
            let (provider, spec) = provider(name);
            let document = r#"{"id": "order-1", "token": "order-1", "products": [], "status": "accepted"}"#;
            let created = make(&provider, (&spec.created, Said::Created), scope(), document).unwrap();
            assert_eq!(created.admission.external_order_id, "order-1", "{name}");
            let cancelled = spec.cancelled.as_ref().expect("it has one");
            let document = r#"{"id": "order-1", "status": "canceled"}"#;
            let cancelled = make(&provider, (cancelled, Said::Cancelled), scope(), document).unwrap();
            assert_eq!(cancelled.admission.external_order_id, "order-1", "{name}");
        }
    }

    /// The announcement of an order that is cancelled by now says nothing of that.
    #[test]
    fn what_the_file_blanks_is_null_in_the_document() {
        let (provider, spec) = provider("deliveroo");
        let document = r#"{"id": "order-1", "status" : "canceled", "total": 1.50}"#;
        let created = make(&provider, (&spec.created, Said::Created), scope(), document).unwrap();
        let body = std::str::from_utf8(&created.body).unwrap();
        assert!(
            body.contains(r#"{"id": "order-1", "status" : null, "total": 1.50}"#),
            "{body}"
        );
        let places = ["/a/1".parse().unwrap(), "/none".parse().unwrap(), "/b".parse().unwrap()];
        assert_eq!(
            blanked(r#"{"a":[1,{"x":2}],"b":"y"}"#, &places),
            r#"{"a":[1,null],"b":null}"#
        );
        assert_eq!(blanked("no JSON", &places), "no JSON");
    }

    #[test]
    fn what_no_webhook_could_be_is_refused() {
        let (provider, spec) = provider("deliveroo");
        let make = |document: &str, said| {
            let table = spec.cancelled.as_ref().filter(|_| said == Said::Cancelled);
            make(&provider, (table.unwrap_or(&spec.created), said), scope(), document).unwrap_err()
        };
        assert!(make(r#"{"id": "1", "id": "2"}"#, Said::Created).contains("twice"));
        assert!(make("{}", Said::Created).contains("order id"));
        assert!(make(r#"{"id": "a/b"}"#, Said::Created).contains("order id"));
        assert!(make(r#"{"id": "1", "status": "accepted"}"#, Said::Cancelled).contains("order_status_updated"));
    }
}
