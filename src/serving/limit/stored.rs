//! The records of addresses and blocks that instances exchange, and the stream `BLOCKS` that keeps them for later instances.
//!
//! Each record is one message: every subscriber receives it, and the stream keeps the last one of each subject. A block
//! leaves the stream when it ends, by its own time to live.

use std::{sync::Arc, time::Duration};

use async_nats::HeaderMap;
use bytes::Bytes;

use super::{
    address::{Address, KNOWN_FOR_MS},
    blocks::{Block, BlockTarget},
};
use crate::journal::{
    connection::Connection,
    read::{LogReader, Raw, Start},
    streams::BLOCKS,
};

/// Blocks, on `hub.block.address.{address}` and `hub.block.provider.{provider}`; an empty message lifts one.
pub const BLOCK_SUBJECTS: &str = "hub.block.>";
/// Addresses that lately sent a verified webhook, on `hub.known.{address}`; the payload says when.
pub const KNOWN_SUBJECTS: &str = "hub.known.>";
/// How long the end of a block is kept: an instance that is cut off for longer finds that the block is not there.
const LIFTED_FOR_SECONDS: u64 = 60;
/// Most bytes of a message that are read. A record has about a hundred.
const MAX_MESSAGE_BYTES: usize = 1024;
/// Longest block that is believed, twice the longest that can be set, in milliseconds.
const LONGEST_MS: u64 = 2 * 24 * 3600 * 1000;
/// Wait for the next message of an answer: nothing else is sent or received meanwhile.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// A record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LimitRecord {
    /// A block begins.
    Blocked(BlockTarget, Block),
    /// A block is lifted.
    Lifted(BlockTarget),
    /// An address sent a verified webhook, at this time in milliseconds since 1970.
    Known(Address, u64),
}

impl LimitRecord {
    /// As a message: subject, headers, payload.
    pub fn message(&self, now_ms: u64) -> (String, HeaderMap, Bytes) {
        let (subject, payload, seconds) = match self {
            Self::Blocked(who, block) => {
                // It consists of numbers and a name, so serialising cannot fail.
                let payload = serde_json::to_vec(block).unwrap_or_default();
                let seconds = block.until_ms.saturating_sub(now_ms).div_ceil(1000);
                (subject(who), payload, seconds)
            }
            Self::Lifted(who) => (subject(who), Vec::new(), LIFTED_FOR_SECONDS),
            Self::Known(address, verified_ms) => {
                let ends_ms = verified_ms.saturating_add(KNOWN_FOR_MS);
                let seconds = ends_ms.saturating_sub(now_ms).div_ceil(1000);
                let subject = format!("hub.known.{}", address.token());
                (subject, verified_ms.to_string().into_bytes(), seconds)
            }
        };
        let mut headers = HeaderMap::new();
        headers.insert("Nats-TTL", format!("{}s", seconds.max(1)));
        (subject, headers, payload.into())
    }

    /// Reads a record from a message; none if it is no record of the hub, or has impossible values.
    pub fn read(subject: &str, payload: &[u8], now_ms: u64) -> Option<Self> {
        if payload.len() > MAX_MESSAGE_BYTES {
            return None;
        }
        let rest = subject.strip_prefix("hub.")?;
        if let Some(token) = rest.strip_prefix("known.") {
            let verified_ms: u64 = std::str::from_utf8(payload).ok()?.parse().ok()?;
            // Another instance's clock that is ahead must not make an address known for ever.
            return Some(Self::Known(Address::from_token(token)?, verified_ms.min(now_ms)));
        }
        let who = match rest.strip_prefix("block.")?.split_once('.')? {
            ("address", token) => BlockTarget::Address(Address::from_token(token)?),
            ("provider", name) => BlockTarget::Provider(Arc::from(name)),
            _ => return None,
        };
        if payload.is_empty() {
            return Some(Self::Lifted(who));
        }
        let block: Block = serde_json::from_slice(payload).ok()?;
        (block.until_ms <= now_ms.saturating_add(LONGEST_MS)).then_some(Self::Blocked(who, block))
    }
}

fn subject(who: &BlockTarget) -> String {
    match who {
        BlockTarget::Address(address) => format!("hub.block.address.{}", address.token()),
        // A provider's name contains only characters that a token may have.
        BlockTarget::Provider(name) => format!("hub.block.provider.{name}"),
    }
}

/// Reads the records on these subjects of the stream.
///
/// # Errors
/// If NATS does not answer, or the stream is not there.
pub async fn read(connection: &Connection, subjects: &str, now_ms: u64) -> anyhow::Result<Vec<LimitRecord>> {
    let reader = LogReader::of_subjects(connection, subjects, Start::Sequence(1)).of_stream(BLOCKS);
    let (mut reader, mut records) = (reader.within(ANSWER_TIMEOUT), Vec::new());
    loop {
        let messages = reader.next_raw().await?;
        if messages.is_empty() {
            return Ok(records);
        }
        let read = |message: &Raw| LimitRecord::read(&message.subject, &message.payload, now_ms);
        records.extend(messages.iter().filter_map(read));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_000;

    fn back(record: &LimitRecord) -> Option<LimitRecord> {
        let (subject, _, payload) = record.message(NOW);
        LimitRecord::read(&subject, &payload, NOW)
    }

    fn ttl(record: &LimitRecord) -> String {
        record.message(NOW).1.get("Nats-TTL").unwrap().to_string()
    }

    #[test]
    fn records_read_back() {
        let address: Address = "2001:db8::/64".parse().unwrap();
        let block = Block {
            since_ms: NOW,
            until_ms: NOW + 1500,
            provider: "careem".into(),
            requests: 100,
        };
        for who in [BlockTarget::Address(address), BlockTarget::Provider("uber-eats".into())] {
            let blocked = LimitRecord::Blocked(who.clone(), block.clone());
            assert_eq!(back(&blocked), Some(blocked.clone()));
            assert_eq!(ttl(&blocked), "2s");
            let lifted = LimitRecord::Lifted(who);
            assert_eq!(back(&lifted), Some(lifted.clone()));
            assert_eq!(ttl(&lifted), "60s");
        }
        let known = LimitRecord::Known(address, NOW - 1000);
        assert_eq!(back(&known), Some(known.clone()));
        assert_eq!(ttl(&known), "86399s");
        assert_eq!(ttl(&LimitRecord::Known(address, 0)), "1s");
    }

    #[test]
    fn garbage_is_ignored() {
        for (subject, payload) in [
            ("hub.block.address.cb007109", &b"{}"[..]),
            ("hub.block.address.203.0.113.9", b""),
            ("hub.block.cb007109", b""),
            ("hub.known.cb007109", b""),
            ("hub.known.cb007109", b"-1"),
            ("hub.known.nonsense", b"1"),
            ("hub.breaker", b"{}"),
            ("", b""),
        ] {
            assert_eq!(LimitRecord::read(subject, payload, NOW), None, "{subject}");
        }
        let until = |until_ms: u64| {
            let payload =
                format!(r#"{{"sinceMs":{NOW},"untilMs":{until_ms},"provider":"careem","requests":1,"later":"more"}}"#);
            LimitRecord::read("hub.block.address.cb007109", payload.as_bytes(), NOW).is_some()
        };
        assert!(until(NOW + LONGEST_MS) && !until(NOW + LONGEST_MS + 1));
        assert_eq!(
            LimitRecord::read("hub.known.cb007109", (NOW * 2).to_string().as_bytes(), NOW),
            Some(LimitRecord::Known("203.0.113.9".parse().unwrap(), NOW))
        );
        assert_eq!(
            LimitRecord::read("hub.block.address.cb007109", &[b' '; MAX_MESSAGE_BYTES + 1], NOW),
            None
        );
    }
}
