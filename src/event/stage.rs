//! The stages and the other durable consumers of `EVENTS`, for all code that lists them: the set-up of NATS, metrics, operators' commands.
//!
//! [`ALL`] is the list of stages. `crate::delivery::stage::Stage` is what a stage does. The consumers of a stage derive from its entry here
//! (`crate::journal::streams`).

use super::EventType;

/// What other modules know of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageInfo {
    /// The name of its durable consumer and of its lease, and its name in metrics and on dead letters.
    pub name: &'static str,
    /// The event types that it handles. No other stage handles one of these: at a takeover, an outcome that names an event as its cause
    /// shows that the event has ended, whichever stage recorded it.
    pub takes: &'static [EventType],
    /// What these are, for the description of its consumer.
    pub events: &'static str,
    /// Whether it parks events, in lanes of its own.
    pub parks: bool,
}

impl StageInfo {
    /// The subjects that its consumer brings: events that it handles, and requests to retry one.
    pub fn subjects(&self) -> Vec<String> {
        let types = self.takes.iter().chain([&EventType::OrderRetryRequested]);
        types.map(|one| format!("{}.>", one.subject_root())).collect()
    }

    /// Its part of the stream `LANES`; none for a stage that parks none.
    pub fn lanes(&self) -> Option<LaneNamespace> {
        self.parks.then_some(LaneNamespace(self.name))
    }
}

/// The part of the stream `LANES` of a stage, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneNamespace(&'static str);

impl LaneNamespace {
    /// Its subjects before the partition: `lane.` and, for every stage but the first one that had lanes, its name.
    pub fn prefix(self) -> String {
        if self.0 == FORWARD.name {
            "lane.".to_owned()
        } else {
            format!("lane.{}.", self.0)
        }
    }

    /// The subject of its marker.
    pub fn marker(self) -> String {
        format!("{}marker", self.prefix())
    }

    /// The subject of the fence: a message written before the lanes are read, which shows when everything before it was read.
    pub fn fence(self) -> String {
        format!("lane.{}.fence", self.0)
    }

    /// All of its lanes, and its fence; other subjects that match end with no order key.
    pub fn all(self) -> String {
        if self.0 == FORWARD.name {
            "lane.*.*".to_owned()
        } else {
            format!("{}>", self.prefix())
        }
    }

    /// The durable consumer by which they are read.
    pub fn reader(self) -> String {
        format!("read-{}", self.0)
    }
}

/// Transforms webhooks, and documents that were fetched for them.
pub const TRANSFORM: StageInfo = StageInfo {
    name: "transform",
    takes: &[EventType::WebhookReceived, EventType::OrderFetched],
    events: "Events",
    parks: true,
};
/// Sends orders to the backend.
pub const FORWARD: StageInfo = StageInfo {
    name: "forward",
    takes: &[EventType::OrderTransformed],
    events: "Events",
    parks: true,
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
    events: "What is to be said to providers or fetched from them,",
    parks: true,
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
        assert_eq!(of(EventType::OperatorActed), None);
        assert_eq!(READERS.last(), Some(&PROJECTION));
    }

    #[test]
    fn lanes_have_the_subjects_of_earlier_versions() {
        let subjects = |stage: StageInfo| {
            let lanes = stage.lanes().unwrap();
            [
                lanes.prefix(),
                lanes.marker(),
                lanes.fence(),
                lanes.all(),
                lanes.reader(),
            ]
            .join(" ")
        };
        let of_forward = "lane. lane.marker lane.forward.fence lane.*.* read-forward";
        assert_eq!(subjects(FORWARD), of_forward);
        let of_push = "lane.push. lane.push.marker lane.push.fence lane.push.> read-push";
        assert_eq!(subjects(PUSH), of_push);
    }
}
