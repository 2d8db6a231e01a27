//! Divides memory and file descriptors between the intake and the rest.
//!
//! Everything behind the intake gets what it needs, and the intake gets the rest. So a crowd of callers cannot take the
//! descriptor that a connection to the backend or the event log needs, nor the memory for handling an order.

use crate::{
    config::Config,
    process::{descriptors, memory},
    remote::MAX_REQUESTS,
};

/// Connections of the intake at a time, however much there is.
const MAX_CONNECTIONS: u64 = 4096;
/// The same of the port of metrics, which serves a few machines.
pub(super) const PRIVATE_CONNECTIONS: usize = 64;
/// Fewest connections of the intake. With fewer descriptors than that takes, the hub serves, and says that it is too few.
const LEAST_CONNECTIONS: u64 = 16;
/// Descriptors of the process itself: the runtime, listeners, logs, files that are read again, look-ups of names.
const OWN_DESCRIPTORS: u64 = 64;
/// Of the connection to NATS, and of one that takes its place.
const NATS_DESCRIPTORS: u64 = 2;

const MIB: u64 = 1 << 20;
/// Bytes of request bodies that may be held at a time, however much memory there is: 1,000 ordinary orders need one or two
/// MiB; a crowd of slow five-MiB bodies is refused with 503 before it does harm.
const MAX_BODY_BYTES: u64 = 32 * MIB;
/// What the hub needs beside bodies and connections: 46 MB at rest with a million events in its tables, and 28 MB more
/// under full load (measured by `make bench`); half of that load comes with what the limit leaves for bodies.
const BASE_BYTES: u64 = 64 * MIB;
/// A limit below which the hub says that it is too small.
const ENOUGH_MEMORY: u64 = 128 * MIB;
/// Memory of a connection while its headers arrive: the buffer of 32 KB and its task; TLS has 32 KB of its own.
const PLAIN_CONNECTION_BYTES: u64 = 48 * 1024;
const TLS_CONNECTION_BYTES: u64 = 80 * 1024;

/// The limits that follow from memory and descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Budget {
    /// Connections of the public port at a time.
    pub connections: usize,
    /// Bytes of request bodies at a time.
    pub body_bytes: usize,
    /// The limit of descriptors that it follows from.
    descriptors: Option<u64>,
    /// Descriptors that are kept for everything but the public port.
    reserved: u64,
    /// The limit of memory that it follows from.
    memory: Option<u64>,
}

impl Budget {
    /// For this process with these settings.
    pub(super) fn find(config: &Config) -> Self {
        Self::of(config, descriptors::limit(), memory::limit())
    }

    fn of(config: &Config, descriptors: Option<u64>, memory: Option<u64>) -> Self {
        let reserved = reserved(config);
        let by_descriptors = descriptors.map_or(MAX_CONNECTIONS, |limit| limit.saturating_sub(reserved));
        let rest = memory.map(|limit| limit.saturating_sub(BASE_BYTES));
        let each = if config.http.tls.is_some() {
            TLS_CONNECTION_BYTES
        } else {
            PLAIN_CONNECTION_BYTES
        };
        let by_memory = rest.map_or(MAX_CONNECTIONS, |rest| rest / 4 / each);
        let connections = by_descriptors.min(by_memory).clamp(LEAST_CONNECTIONS, MAX_CONNECTIONS);
        // One body must fit, both packed and unpacked, even a stranger's; strangers may hold half of the memory.
        let least = 4 * config.http.max_payload_bytes as u64;
        let bodies = rest
            .map_or(MAX_BODY_BYTES, |rest| (rest / 2).min(MAX_BODY_BYTES))
            .max(least);
        Self {
            connections: usize::try_from(connections).unwrap_or(usize::MAX),
            body_bytes: usize::try_from(bodies).unwrap_or(usize::MAX),
            descriptors,
            reserved,
            memory,
        }
    }

    /// Says in the log what was found, and what is too little.
    pub(super) fn tell(&self) {
        tracing::info!(
            descriptors = self.descriptors,
            descriptors_reserved = self.reserved,
            memory_limit_bytes = self.memory,
            connections = self.connections,
            body_bytes = self.body_bytes,
            "limits of this process"
        );
        let wanted = self.reserved + MAX_CONNECTIONS;
        if let Some(limit) = self.descriptors.filter(|limit| *limit < wanted) {
            tracing::warn!(
                limit,
                wanted,
                connections = self.connections,
                "the limit of file descriptors is low: the public port takes fewer connections at a time; raise LimitNOFILE \
                 or ulimit -n"
            );
        }
        if let Some(limit) = self.memory.filter(|limit| *limit < ENOUGH_MEMORY) {
            tracing::warn!(
                limit_bytes = limit,
                wanted_bytes = ENOUGH_MEMORY,
                connections = self.connections,
                body_bytes = self.body_bytes,
                "the memory limit is low: the hub takes fewer connections and bodies at a time, and may still be killed"
            );
        }
    }
}

/// Descriptors that the hub needs for everything but the public port, when all of it is busy.
fn reserved(config: &Config) -> u64 {
    let with_outbound = config.providers.iter().filter(|provider| provider.outbound.is_some());
    // The pool, and the connection of the tables' writer.
    let database = config.database.pool_size + 1;
    let connections =
        config.backend.max_requests + with_outbound.count() * MAX_REQUESTS + database + PRIVATE_CONNECTIONS;
    connections as u64 + NATS_DESCRIPTORS + OWN_DESCRIPTORS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Environment;

    fn config() -> Config {
        let env: Environment = [
            ("SERVICE_TOKEN", "token"),
            ("CAREEM_ENABLED", "true"),
            ("CAREEM_WEBHOOK_SECRET", "secret"),
        ]
        .into_iter()
        .collect();
        Config::from_environment(&env).unwrap()
    }

    #[test]
    fn the_intake_gets_the_rest() {
        let config = config();
        let of = |descriptors, memory| {
            let budget = Budget::of(&config, descriptors, memory);
            (budget.connections as u64, budget.body_bytes as u64)
        };
        assert_eq!(of(None, None), (4096, 32 * MIB));
        assert_eq!(of(Some(1 << 20), Some(1 << 40)), (4096, 32 * MIB));
        // 128 for the backend, 11 for PostgreSQL, 64 for metrics, 2 for NATS, 64 of its own.
        let reserved = 128 + 11 + 64 + 2 + 64;
        assert_eq!(of(Some(1024), None).0, 1024 - reserved);
        assert_eq!(of(Some(reserved + 20), None).0, 20);
        assert_eq!(of(Some(10), None).0, 16);
        // 192 MiB beyond the base: a quarter for connections, and for bodies half, but no more than they can use.
        assert_eq!(of(None, Some(256 * MIB)), (1024, 32 * MIB));
        assert_eq!(of(None, Some(96 * MIB)), (170, 20 * MIB));
        assert_eq!(of(Some(300), Some(96 * MIB)), (300 - reserved, 20 * MIB));
        assert_eq!(
            of(None, Some(MIB)),
            (16, 20 * MIB),
            "one body fits, as it comes and unpacked"
        );
    }
}
