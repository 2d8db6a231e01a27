//! The text of `replay` for people.

use std::fmt;

use serde_json::Value;

use crate::operator::{
    commands::{
        replay_elsewhere::Sent,
        replay_forward::{Planned, SentAgain},
    },
    output::{Table, counted},
    queries::replay::Replayed,
};

/// Most characters of a value that are shown.
const MAX_VALUE_CHARS: usize = 60;

/// What `--diff` found.
pub(super) struct DiffText<'a>(pub(super) &'a Replayed);

impl fmt::Display for DiffText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = self.0;
        let mut places = Table::new(["PROVIDER", "EVENTS", "PLACE", "FOR EXAMPLE", "LOGGED", "NOW"]);
        for group in &found.places {
            let example = &group.example;
            places.push([
                group.provider.clone(),
                group.count.to_string(),
                group.pointer.clone(),
                format!("{} {}", example.sequence, example.external_order_id),
                value(example.before.as_ref()),
                value(example.after.as_ref()),
            ]);
        }
        let mut outcomes = Table::new(["PROVIDER", "EVENTS", "LOGGED AS", "NOW", "FOR EXAMPLE"]);
        for group in &found.outcomes {
            outcomes.push([
                group.provider.clone(),
                group.count.to_string(),
                group.logged.clone(),
                group.now.clone(),
                format!("{} {}", group.sequence, group.external_order_id),
            ]);
        }
        let mut events = Table::new(["SEQUENCE", "PROVIDER", "ORDER", "TYPE", "WHERE"]);
        for event in &found.first {
            let place = match &event.outcome {
                Some([logged, now]) => format!("{logged}, now {now}"),
                None => event.pointers.join(" "),
            };
            events.push([
                event.sequence.to_string(),
                event.provider.clone(),
                event.external_order_id.clone(),
                event.webhook_type.clone(),
                place,
            ]);
        }
        write!(f, "{places}{outcomes}{events}")?;
        let unnamed = found.different - found.first.len() as u64;
        if unnamed > 0 {
            writeln!(f, "{unnamed} more; --limit names them")?;
        }
        let compared = counted(found.compared as i64, "event", "events");
        write!(
            f,
            "{compared} from {} to {} compared, {} would come out differently",
            found.first_sequence, found.last_sequence, found.different
        )?;
        for (count, what) in [
            (found.ungrouped, "differences are at more places than are listed"),
            (found.waiting, "have no outcome yet"),
            (
                found.not_compared,
                "were not compared: they ended for a reason outside of the transformation",
            ),
            (found.unreadable, "messages are no events of this version"),
        ] {
            if count > 0 {
                write!(f, "\n{count} {what}")?;
            }
        }
        Ok(())
    }
}

/// What `--to` sent.
pub(super) struct SentText<'a>(pub(super) &'a Sent);

impl fmt::Display for SentText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sent = self.0;
        let verb = if sent.dry_run { "would send" } else { "sent" };
        write!(
            f,
            "{verb} {} from {} to {}: {} new orders, {} changes of status, {} amendments",
            counted(sent.requests() as i64, "request", "requests"),
            sent.first_sequence,
            sent.last_sequence,
            sent.new_orders,
            sent.status_changes,
            sent.amendments
        )?;
        for (class, count) in &sent.answers {
            write!(f, "\n{count} answered as {class}")?;
        }
        for (count, what) in [
            (sent.not_sent_then, "were not sent to the hub's own backend either"),
            (sent.sent_as_news, "later announcements were left out"),
            (sent.without_body, "have no body by the current files"),
            (sent.waiting, "have no end on the log yet"),
        ] {
            if count > 0 {
                write!(f, "\n{count} {what}")?;
            }
        }
        if sent.stopped {
            write!(f, "\nstopped: too many requests failed")?;
        }
        Ok(())
    }
}

/// What `--forward` would send.
pub(super) struct PlannedText<'a>(pub(super) &'a Planned);

impl fmt::Display for PlannedText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let planned = self.0;
        let events = counted(planned.count as i64, "event", "events");
        write!(
            f,
            "{events} from {} to {} would be sent again",
            planned.first_sequence, planned.last_sequence
        )?;
        left_out(f, planned)
    }
}

fn left_out(f: &mut fmt::Formatter<'_>, planned: &Planned) -> fmt::Result {
    for (count, what) in [
        (planned.lost, "of them have no outcome, and no stage has them"),
        (planned.forwarded, "left out: the backend has them; --again sends them"),
        (
            planned.given_up,
            "left out: given up; `webhook-hub dead-letters retry` or --again sends them",
        ),
        (planned.ignored, "left out: nothing was left to do"),
        (planned.waiting, "left out: a stage has them"),
        (planned.expired, "left out: expired"),
        (
            planned.duplicates,
            "of them end without a request: the order exists already (DUPLICATE_ORDER)",
        ),
        (
            planned.overtaken,
            "left out: something newer about the order superseded them",
        ),
    ] {
        if count > 0 {
            write!(f, "\n{count} {what}")?;
        }
    }
    Ok(())
}

/// What `--forward` sent.
pub(super) struct SentAgainText<'a>(pub(super) &'a SentAgain);

impl fmt::Display for SentAgainText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sent = self.0;
        let requested = counted(sent.requested as i64, "event", "events");
        write!(f, "{requested} of {} handed to the hub", sent.planned.count)?;
        left_out(f, &sent.planned)?;
        for (event_type, count) in &sent.results {
            write!(f, "\n{count} ended as {event_type}")?;
        }
        if sent.under_way > 0 {
            write!(f, "\n{} still under way; the hub goes on with them", sent.under_way)?;
        }
        if sent.stopped {
            write!(f, "\nstopped: {} failed", sent.failed)?;
        }
        Ok(())
    }
}

/// A value on one line, cut where it is long.
fn value(value: Option<&Value>) -> String {
    let text = value.map_or_else(|| "-".to_owned(), Value::to_string);
    let mut shown: String = text.chars().take(MAX_VALUE_CHARS).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}
