//! Logs in the layout that the platform's other services write: one JSON object a line, with `timestamp`, `level`,
//! `context`, `message`, the request's `requestId`, `provider`, `orderId` and `processingTime` (ms) where they are
//! known, and everything else under `metadata`.

use std::{fmt, io::IsTerminal as _, sync::OnceLock, time::Duration};

use chrono::{SecondsFormat, Utc};
use serde_json::{Map, Value};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    EnvFilter,
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

use super::sink::{Lost, Sink, Stdout};
use crate::config;

/// The queue of this process's log; set by [`init`].
static SINK: OnceLock<Sink> = OnceLock::new();
/// How long the end of the process waits for its last lines to be written.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Fields that stand beside the message, by their name in the code and in the line.
const TOP_LEVEL: [(&str, &str); 4] = [
    ("request_id", "requestId"),
    ("provider", "provider"),
    ("order_id", "orderId"),
    ("processing_time", "processingTime"),
];

/// Sends the process's logs to standard output from now on. Logging neither blocks nor fails; see [`Sink`].
///
/// # Errors
/// If that was done before, or no thread can be started.
pub fn init(settings: &config::Logs) -> anyhow::Result<()> {
    // Only warnings and errors of libraries are of interest.
    // `journal::unreachable` replaces the connector's message of every attempt by clearer and rarer ones.
    let filter = format!(
        "warn,webhook_hub={},async_nats=error,async_nats::connector=off",
        settings.level
    );
    let sink = Sink::start(Stdout)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_new(filter)?)
        // Otherwise a refused line would be reported on standard error, which panics if that refuses it, too.
        .log_internal_errors(false)
        .with_writer(sink.clone());
    let set = if settings.json {
        builder.event_format(Json).try_init()
    } else {
        builder
            .with_target(false)
            .with_ansi(std::io::stdout().is_terminal())
            .try_init()
    };
    set.map_err(|error| anyhow::anyhow!("logs: {error}"))?;
    // Set once, like the subscriber.
    let _ = SINK.set(sink);
    super::panics::install_hook();
    Ok(())
}

/// Waits, a second at most, until the last lines are written. Blocks; for the end of the process.
pub fn flush() {
    if let Some(sink) = SINK.get() {
        sink.flush(LAST_LINES);
    }
}

/// How many lines of this process were lost; none if it does not log.
pub fn lost() -> Option<&'static Lost> {
    SINK.get().map(Sink::lost)
}

struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let metadata = event.metadata();
        let context = metadata
            .target()
            .strip_prefix("webhook_hub::")
            .unwrap_or(metadata.target());
        let mut line = Map::new();
        line.insert(
            "timestamp".into(),
            Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true).into(),
        );
        line.insert("level".into(), metadata.level().as_str().to_ascii_lowercase().into());
        line.insert("context".into(), context.into());
        line.insert("message".into(), fields.message.into());
        line.extend(fields.top_level);
        if !fields.rest.is_empty() {
            line.insert("metadata".into(), Value::Object(fields.rest));
        }
        writeln!(writer, "{}", Value::Object(line))
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    top_level: Map<String, Value>,
    rest: Map<String, Value>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        match TOP_LEVEL.iter().find(|(name, _)| *name == field.name()) {
            Some((_, shown)) => self.top_level.insert((*shown).to_owned(), value),
            None => self.rest.insert(field.name().to_owned(), value),
        };
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" {
            self.message = text
        } else {
            self.put(field, text.into())
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message = value.to_owned()
        } else {
            self.put(field, value.into())
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const SECRET: &str = "hunter2 of an order";

    struct AtEnd;

    impl Drop for AtEnd {
        fn drop(&mut self) {
            flush();
        }
    }

    /// Not a test of its own: the next one runs it in a process where the hook is set.
    #[test]
    #[ignore = "panics; run by a_panics_location_is_logged_without_its_message"]
    fn a_panic() {
        let logs = config::Logs {
            level: "trace".into(),
            json: true,
        };
        init(&logs).unwrap();
        // The panic drops this value.
        let _flush = AtEnd;
        panic!("cannot handle {SECRET}");
    }

    #[test]
    fn a_panics_location_is_logged_without_its_message() {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--ignored", "--exact", "--nocapture", "telemetry::logs::tests::a_panic"]);
        let output = child.env("RUST_BACKTRACE", "full").output().unwrap();
        let said = format!("{output:?}");
        assert!(!output.status.success(), "it did not panic: {said}");
        let line = String::from_utf8_lossy(&output.stdout);
        let line = line
            .lines()
            .find(|line| line.contains("\"panic\""))
            .unwrap_or_else(|| panic!("no line: {said}"));
        assert!(
            line.contains("\"level\":\"error\"") && line.contains("src/telemetry/logs.rs:"),
            "{line}"
        );
        assert!(!said.contains(SECRET), "{said}");
    }
}
