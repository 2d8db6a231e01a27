//! The header `hub`: what the envelope has beside CloudEvents' own attributes, as one JSON object in ASCII.
//!
//! Its field `v` is the version. Fields are added without a new version; a reader ignores those that it does not know. A new
//! version is one that an older reader must not handle: it leaves the event to an instance that can read it. Every version
//! has `v` and, where the event has one, `principal`, so that an older reader knows which order has to wait.

use std::{borrow::Cow, io};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Serializer, ser::Formatter};
use uuid::Uuid;

use super::text::time_text;
use crate::event::{Envelope, EventId, RequestFacts};

/// The version that is written.
const VERSION: u32 = 1;

/// As it is written; what is absent has its default.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HubHeaderOut<'a> {
    v: u32,
    /// Absent where it is the event's own id.
    #[serde(skip_serializing_if = "Option::is_none")]
    root_id: Option<EventId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause_id: Option<EventId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause_sequence: Option<u64>,
    #[serde(skip_serializing_if = "str::is_empty")]
    webhook_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    branch: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    principal: Option<String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    request_id: &'a str,
    /// Absent where it is `ce-time`.
    #[serde(skip_serializing_if = "Option::is_none")]
    received_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<&'a RequestFacts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotency_key: Option<Uuid>,
}

/// As it is read.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct HubHeader {
    v: u32,
    pub(super) root_id: Option<EventId>,
    pub(super) cause_id: Option<EventId>,
    pub(super) cause_sequence: Option<u64>,
    #[serde(default)]
    pub(super) webhook_type: String,
    pub(super) branch: Option<String>,
    pub(super) principal: Option<String>,
    #[serde(default)]
    pub(super) request_id: String,
    pub(super) received_time: Option<DateTime<Utc>>,
    pub(super) request: Option<RequestFacts>,
    pub(super) idempotency_key: Option<Uuid>,
}

/// The fields that every version has.
#[derive(Deserialize)]
struct Common<'a> {
    v: u32,
    #[serde(borrow)]
    principal: Option<Cow<'a, str>>,
}

/// Why it is nothing that this version can read.
#[derive(Debug)]
pub(super) enum Unreadable {
    /// It has a later version.
    Newer {
        version: u32,
        /// The recorded principal of the webhook.
        principal: Option<String>,
    },
    /// It is no such header.
    Malformed(String),
}

/// The header's value.
///
/// # Errors
/// Only if the request's facts cannot be written as JSON, which does not happen.
pub(super) fn write(envelope: &Envelope) -> serde_json::Result<String> {
    let written = HubHeaderOut {
        v: VERSION,
        root_id: (envelope.root_id != envelope.id).then_some(envelope.root_id),
        cause_id: envelope.cause_id,
        cause_sequence: envelope.cause_sequence,
        webhook_type: &envelope.webhook_type,
        branch: envelope.branch.as_deref(),
        principal: envelope.principal.to_record(),
        request_id: &envelope.request_id,
        received_time: (envelope.received_at != envelope.time).then(|| time_text(envelope.received_at)),
        request: envelope.request.as_ref(),
        idempotency_key: envelope.idempotency_key,
    };
    let mut value = Vec::with_capacity(512);
    written.serialize(&mut Serializer::with_formatter(&mut value, Ascii))?;
    Ok(String::from_utf8(value).unwrap_or_default())
}

/// Reads the value back.
///
/// # Errors
/// See [`Unreadable`].
pub(super) fn read(value: &str) -> Result<HubHeader, Unreadable> {
    let error = match serde_json::from_str::<HubHeader>(value) {
        Ok(read) if read.v == VERSION => return Ok(read),
        Ok(read) => format!("version {}", read.v),
        Err(error) => error.to_string(),
    };
    match serde_json::from_str::<Common<'_>>(value) {
        Ok(Common { v, principal }) if v > VERSION => Err(Unreadable::Newer {
            version: v,
            principal: principal.map(Cow::into_owned),
        }),
        _ => Err(Unreadable::Malformed(error)),
    }
}

/// JSON in which everything outside of ASCII is escaped: a header is a line, and not every client reads it as UTF-8.
struct Ascii;

impl Formatter for Ascii {
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        if fragment.is_ascii() {
            return writer.write_all(fragment.as_bytes());
        }
        for c in fragment.chars() {
            if c.is_ascii() {
                writer.write_all(&[c as u8])?;
                continue;
            }
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
        }
        Ok(())
    }
}
