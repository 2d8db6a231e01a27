//! (d) Memory without load, and with a large log.

use std::sync::Arc;

use anyhow::Result;
use bytes::Bytes;
use chrono::Utc;
use webhook_hub::{
    config::EventLog,
    event::{Envelope, EventType, NewEvent, Recorded},
    journal::{Journal, append::MAX_WAITING, streams},
};

use super::{Bench, position};
use crate::{
    process::resident_bytes,
    results::row::{Goal, Samples},
    saturate::{DRAIN, MB, wait},
    setup::{PATIENCE, postgres},
};

/// Events on the log.
const LARGE_LOG: u64 = 1_000_000;

impl Bench {
    pub(crate) async fn memory(&mut self) -> Result<()> {
        let mut samples = Samples::new("memory");
        let last = self.fill_log(LARGE_LOG).await?;
        samples.add("events on the log", last as f64, "");
        for round in 0..self.rounds {
            let url = self.servers.new_database(&format!("memory_{round}")).await?;
            let client = postgres(&url).await?;
            let child = self.servers.hub(&url, &self.traffic.backend())?;
            let pid = child.pid();
            let mut largest = 0;
            wait(DRAIN, async || {
                largest = largest.max(resident_bytes(pid)?);
                Ok(position(&client).await? >= last as i64)
            })
            .await?;
            let what = "resident while the tables catch up, largest";
            let largest = samples.add(what, largest as f64 / MB, "MB");
            largest.wants(Goal::AtMost(70.0));
            let idle = resident_bytes(pid)? as f64 / MB;
            let idle = samples.add("resident afterwards, idle", idle, "MB");
            idle.wants(Goal::AtMost(70.0));
            child.stop(PATIENCE)?;
        }
        self.push(samples);
        Ok(())
    }

    /// Appends until the log has so many events; returns its last position.
    pub(super) async fn fill_log(&self, events: u64) -> Result<u64> {
        let connection = Arc::new(self.servers.hub_connection().await?);
        let mut last = streams::last_sequence(&connection).await?;
        let (journal, writer) = Journal::open(connection, EventLog::default());
        let writing = tokio::spawn(writer.run());
        while last < events {
            let appends = (0..(MAX_WAITING / 2).min((events - last) as usize)).map(|_| journal.append(filler()));
            for appended in futures_util::future::join_all(appends).await {
                last = last.max(appended?.sequence);
            }
        }
        drop(journal);
        writing.await??;
        Ok(last)
    }
}

/// An event that nothing follows from.
fn filler() -> NewEvent {
    let order = uuid::Uuid::new_v4().to_string();
    let envelope = Envelope {
        event_type: EventType::OrderIgnored,
        request: None,
        ..Recorded::sample("careem", &order, "order_created", order.as_bytes(), Utc::now()).envelope
    };
    NewEvent {
        envelope,
        payload: Bytes::from_static(br#"{"reason":"BENCH","message":"filler of the benchmark's log"}"#),
    }
}
