//! The stages and the other durable consumers of `EVENTS`, for all code that lists them: the set-up of NATS, metrics, operators' commands.
//!
//! [`ALL`] is the list of stages. `crate::delivery::stage::Stage` is what a stage does.

use super::EventType;

/// What other modules know of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageInfo {
    /// The name of its durable consumer (`streams/EVENTS.{name}.json`) and of its lease, and its name in metrics and on dead letters.
    pub name: &'static str,
    /// The event types that it handles. No other stage handles one of these: at a takeover, an outcome that names an event as its cause
    /// shows that the event has ended, whichever stage recorded it.
    pub takes: &'static [EventType],
}

/// Transforms webhooks, and documents that were fetched for them.
pub const TRANSFORM: StageInfo = StageInfo {
    name: "transform",
    takes: &[EventType::WebhookReceived, EventType::OrderFetched],
};
/// Sends orders to the backend.
pub const FORWARD: StageInfo = StageInfo {
    name: "forward",
    takes: &[EventType::OrderTransformed],
};
/// Sends requests to providers.
pub const PUSH: StageInfo = StageInfo {
    name: "push",
    takes: &[
        EventType::OrderFetchRequested,
        EventType::OrderStatusRequested,
        EventType::MenuSyncRequested,
        EventType::MenuSyncReported,
        EventType::ItemsRequested,
        EventType::StoreRequested,
    ],
};

/// The stages, in the order in which an order passes them.
pub const ALL: [StageInfo; 3] = [TRANSFORM, FORWARD, PUSH];

/// Their names.
pub const NAMES: [&str; ALL.len()] = names_and([]);

/// The durable consumer of the tables.
pub const PROJECTION: &str = "projection";

/// The durable consumers of `EVENTS`.
pub const READERS: [&str; ALL.len() + 1] = names_and([PROJECTION]);

/// The names of the stages, and others behind them. `COUNT` is the number of all.
pub const fn names_and<const OTHERS: usize, const COUNT: usize>(
    others: [&'static str; OTHERS],
) -> [&'static str; COUNT] {
    assert!(COUNT == ALL.len() + OTHERS, "COUNT is another number");
    let (mut names, mut at) = ([""; COUNT], 0);
    while at < COUNT {
        names[at] = if at < ALL.len() {
            ALL[at].name
        } else {
            others[at - ALL.len()]
        };
        at += 1;
    }
    names
}

/// The stage that handles events of a type; none for types that no stage handles.
pub fn of(event_type: EventType) -> Option<StageInfo> {
    ALL.into_iter().find(|stage| stage.takes.contains(&event_type))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_event_type_has_one_stage_at_most() {
        for event_type in EventType::ALL {
            let takers = ALL.iter().filter(|stage| stage.takes.contains(&event_type));
            assert!(takers.count() <= 1, "{event_type}");
        }
        assert_eq!(of(EventType::OrderFetched), Some(TRANSFORM));
        assert_eq!(of(EventType::OrderForwarded), None);
        assert_eq!(READERS, ["transform", "forward", "push", "projection"]);
    }
}
