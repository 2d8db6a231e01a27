//! `[response]`: answers to a provider, in its own format.

use serde::{Deserialize, Deserializer, de};

use crate::json::{
    pointer::Pointer,
    scan::{Document, unescape},
};

/// The content of an answer to a provider, before it is put into the provider's format.
#[derive(Debug, Clone, Copy)]
pub enum WebhookAnswer<'a> {
    /// The webhook is on the log.
    Accepted {
        /// The order.
        order_id: &'a str,
        /// The event.
        event_id: &'a str,
        /// Whether it was there before.
        duplicate: bool,
        /// Whether a later call to the provider says that the backend has the order.
        pending: bool,
    },
    /// It is a heartbeat: a request that says nothing and proves nothing, and is not recorded.
    Heartbeat,
    /// It is refused.
    Refused {
        /// For machines, `INVALID_SIGNATURE`.
        code: &'a str,
        /// For people.
        message: &'a str,
    },
}

/// An answer in the provider's format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormattedAnswer {
    /// HTTP status, where it is not the hub's own.
    pub status: Option<u16>,
    /// Body; JSON, or empty.
    pub body: String,
}

/// `[response]`. What is absent is answered in the hub's own format.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Responses {
    /// To a webhook that was accepted.
    pub success: Option<Response>,
    /// To one that was accepted before; as `success` where it is absent.
    pub duplicate: Option<Response>,
    /// The answer to a new order if a later call says whether the backend has it; as `success` where it is absent.
    pub pending: Option<Response>,
    /// To one that is refused; the HTTP status stays the hub's.
    pub error: Option<Response>,
    /// To a request without content (no body, or `{}`), by which the provider asks whether anyone is there. Where it is absent,
    /// such a request is refused as any other that proves nothing.
    pub heartbeat: Option<Response>,
}

/// One answer.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Response {
    /// 200 to 299; only if it is accepted.
    #[serde(default, deserialize_with = "status")]
    status: Option<u16>,
    /// JSON with placeholders, or `""` for none.
    body: Template,
}

fn status<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u16>, D::Error> {
    match u16::deserialize(deserializer)? {
        status @ 200..=299 => Ok(Some(status)),
        status => Err(de::Error::custom(format_args!("expected 200 to 299, found {status}"))),
    }
}

/// JSON with placeholders.
#[derive(Debug, Clone)]
enum Template {
    Nothing,
    Object(Vec<(String, Template)>),
    Array(Vec<Template>),
    /// Literal JSON.
    Plain(String),
    Text(Vec<Piece>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Literal(String),
    OrderId,
    EventId,
    RequestId,
    Code,
    Message,
    /// Of the webhook's body.
    At(Pointer),
}

impl<'de> Deserialize<'de> for Template {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match toml::Value::deserialize(deserializer)? {
            toml::Value::String(text) if text.is_empty() => Ok(Self::Nothing),
            value => Self::of(value).map_err(de::Error::custom),
        }
    }
}

impl Template {
    fn of(value: toml::Value) -> Result<Self, String> {
        Ok(match value {
            toml::Value::String(text) => Self::Text(pieces(&text)?),
            toml::Value::Integer(number) => Self::Plain(number.to_string()),
            toml::Value::Boolean(flag) => Self::Plain(flag.to_string()),
            toml::Value::Array(values) => Self::Array(values.into_iter().map(Self::of).collect::<Result<_, _>>()?),
            toml::Value::Table(members) => {
                let member = |(name, value): (String, toml::Value)| Ok::<_, String>((name, Self::of(value)?));
                Self::Object(members.into_iter().map(member).collect::<Result<_, _>>()?)
            }
            toml::Value::Float(_) | toml::Value::Datetime(_) => {
                return Err("expected text, whole numbers, true or false, lists or tables".into());
            }
        })
    }

    fn write(&self, to: &mut String, facts: &AnswerSlots<'_>) {
        match self {
            Self::Nothing => {}
            Self::Plain(json) => to.push_str(json),
            Self::Object(members) => {
                to.push('{');
                for (at, (name, value)) in members.iter().enumerate() {
                    to.push_str(if at == 0 { "" } else { "," });
                    push_text(to, name);
                    to.push(':');
                    value.write(to, facts);
                }
                to.push('}');
            }
            Self::Array(values) => {
                to.push('[');
                for (at, value) in values.iter().enumerate() {
                    to.push_str(if at == 0 { "" } else { "," });
                    value.write(to, facts);
                }
                to.push(']');
            }
            Self::Text(pieces) => match pieces.as_slice() {
                // A value of the webhook keeps its JSON type.
                [Piece::At(pointer)] => to.push_str(facts.raw(pointer).unwrap_or("null")),
                pieces => push_text(to, &pieces.iter().map(|piece| facts.text(piece)).collect::<String>()),
            },
        }
    }
}

fn push_text(to: &mut String, text: &str) {
    to.push_str(&serde_json::to_string(text).expect("text is always JSON"));
}

fn pieces(text: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('{') {
        if at > 0 {
            pieces.push(Piece::Literal(rest[..at].to_owned()));
        }
        let end = rest[at..]
            .find('}')
            .ok_or_else(|| format!("{text:?}: a {{ without a }}"))?;
        pieces.push(match &rest[at + 1..at + end] {
            "order_id" => Piece::OrderId,
            "event_id" => Piece::EventId,
            "request_id" => Piece::RequestId,
            "code" => Piece::Code,
            "message" => Piece::Message,
            pointer if pointer.starts_with('/') => {
                Piece::At(pointer.parse().map_err(|error| format!("{text:?}: {error}"))?)
            }
            other => {
                return Err(format!(
                    "{{{other}}} is not a placeholder; the placeholders are order_id, event_id, request_id, code, message, and pointers such as /id"
                ));
            }
        });
        rest = &rest[at + end + 1..];
    }
    if !rest.is_empty() {
        pieces.push(Piece::Literal(rest.to_owned()));
    }
    Ok(pieces)
}

struct AnswerSlots<'a> {
    answer: WebhookAnswer<'a>,
    request_id: &'a str,
    body: Option<Document<'a>>,
}

impl<'a> AnswerSlots<'a> {
    fn raw(&self, pointer: &Pointer) -> Option<&'a str> {
        self.body?.find(pointer)
    }

    fn text(&self, piece: &Piece) -> String {
        let (order_id, event_id, code, message) = match self.answer {
            WebhookAnswer::Accepted { order_id, event_id, .. } => (order_id, event_id, "", ""),
            WebhookAnswer::Refused { code, message } => ("", "", code, message),
            WebhookAnswer::Heartbeat => ("", "", "", ""),
        };
        match piece {
            Piece::Literal(text) => text.clone(),
            Piece::OrderId => order_id.to_owned(),
            Piece::EventId => event_id.to_owned(),
            Piece::RequestId => self.request_id.to_owned(),
            Piece::Code => code.to_owned(),
            Piece::Message => message.to_owned(),
            Piece::At(pointer) => match self.raw(pointer) {
                Some(raw) if raw.starts_with('"') => unescape(raw).into_owned(),
                raw => raw.unwrap_or_default().to_owned(),
            },
        }
    }
}

impl Responses {
    /// The answer in the provider's format; none if the hub's own is meant. `body` is the webhook's, as far as it was
    /// read.
    pub fn answer(&self, answer: WebhookAnswer<'_>, request_id: &str, body: &[u8]) -> Option<FormattedAnswer> {
        let pending = self.pending.as_ref();
        let response = match answer {
            WebhookAnswer::Accepted { pending: true, .. } if pending.is_some() => pending?,
            WebhookAnswer::Accepted { duplicate: true, .. } => self.duplicate.as_ref().or(self.success.as_ref())?,
            WebhookAnswer::Accepted { .. } => self.success.as_ref()?,
            WebhookAnswer::Refused { .. } => self.error.as_ref()?,
            WebhookAnswer::Heartbeat => self.heartbeat.as_ref().filter(|_| is_empty(body))?,
        };
        let facts = AnswerSlots {
            answer,
            request_id,
            body: Document::new(body).ok(),
        };
        let mut text = String::new();
        response.body.write(&mut text, &facts);
        Some(FormattedAnswer {
            status: response
                .status
                .filter(|_| !matches!(answer, WebhookAnswer::Refused { .. })),
            body: text,
        })
    }
}

/// Whether a body says nothing: it is empty, or an object without members.
fn is_empty(body: &[u8]) -> bool {
    let mut said = body.iter().filter(|byte| !byte.is_ascii_whitespace());
    matches!(
        (said.next(), said.next(), said.next()),
        (None, ..) | (Some(b'{'), Some(b'}'), None)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCEPTED: WebhookAnswer<'_> = WebhookAnswer::Accepted {
        order_id: "o\"1",
        event_id: "e",
        duplicate: false,
        pending: false,
    };

    fn told(toml: &str, answer: WebhookAnswer<'_>) -> Option<FormattedAnswer> {
        let responses: Responses = toml::from_str(toml).unwrap();
        responses.answer(answer, "req-1", br#"{"id": 90071992547409931234, "code": "n0s1"}"#)
    }

    #[test]
    fn placeholders_are_filled_in() {
        let toml = r#"success.body = { remoteResponse = { remoteOrderId = "HUB-{order_id}-{/code}" }, id = "{/id}", code = 0, all = ["{request_id}", true] }"#;
        assert_eq!(
            told(toml, ACCEPTED).unwrap().body,
            r#"{"all":["req-1",true],"code":0,"id":90071992547409931234,"remoteResponse":{"remoteOrderId":"HUB-o\"1-n0s1"}}"#
        );
    }

    #[test]
    fn missing_answers_are_the_hubs_own() {
        let toml = "[success]\nstatus = 202\nbody = \"\"\n";
        let empty = FormattedAnswer {
            status: Some(202),
            body: String::new(),
        };
        assert_eq!(told(toml, ACCEPTED), Some(empty.clone()));
        let again = WebhookAnswer::Accepted {
            order_id: "1",
            event_id: "e",
            duplicate: true,
            pending: true,
        };
        assert_eq!(told(toml, again), Some(empty));
        let refused = WebhookAnswer::Refused {
            code: "INVALID_SIGNATURE",
            message: "no",
        };
        assert_eq!(told(toml, refused), None);
        assert_eq!(
            told("error.body = { reason = \"{code}: {message}\" }", refused)
                .unwrap()
                .body,
            r#"{"reason":"INVALID_SIGNATURE: no"}"#
        );
    }

    #[test]
    fn only_a_request_without_content_is_a_heartbeat() {
        let responses: Responses = toml::from_str("heartbeat.body = { code = 0 }").unwrap();
        let answer = |body: &[u8]| responses.answer(WebhookAnswer::Heartbeat, "req-1", body);
        for body in [&b""[..], b"{}", b" {\r\n} "] {
            assert_eq!(answer(body).unwrap().body, r#"{"code":0}"#);
        }
        for body in [&b"{\"sig\":\"\"}"[..], b"[]", b"{}{}", b"{", b"null"] {
            assert_eq!(answer(body), None);
        }
        assert_eq!(
            Responses::default().answer(WebhookAnswer::Heartbeat, "req-1", b"{}"),
            None
        );
    }

    #[test]
    fn bad_templates_are_refused() {
        for toml in [
            "success.body = \"{orderid}\"",
            "success.body = \"{order_id\"",
            "[success]\nstatus = 500\nbody = \"\"",
            "success.body = 1.5",
            "success.bdy = \"\"",
        ] {
            assert!(toml::from_str::<Responses>(toml).is_err(), "{toml}");
        }
    }
}
