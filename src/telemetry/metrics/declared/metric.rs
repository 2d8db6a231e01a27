//! The declaration of a metric.

/// The kind of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts what was measured by size; seconds where the name says so.
    Histogram,
}

/// Values that a label can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Values {
    /// These.
    Of(&'static [&'static str]),
    /// The providers that are switched on.
    Providers,
    /// The types of events.
    EventTypes,
    /// The flags of orders.
    Flags,
    /// Not known before they come.
    Open,
}

/// A label.
#[derive(Debug, Clone, Copy)]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// Its possible values.
    pub values: Values,
}

/// A metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name; the unit is its last word but for `_total`.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// Its labels.
    pub labels: &'static [Label],
    /// Its help text, with the instance that reports it if not every one does.
    pub help: &'static str,
    /// Shown only when its value is known: a 0 from the start would be wrong.
    is_late: bool,
}

impl Metric {
    /// Whether it is there from the start, at 0: all of its labels' values are known then.
    pub fn is_from_start(&self) -> bool {
        !self.is_late && self.labels.iter().all(|label| label.values != Values::Open)
    }
}

const fn metric(name: &'static str, kind: Kind, labels: &'static [Label], help: &'static str) -> Metric {
    Metric {
        name,
        kind,
        labels,
        help,
        is_late: false,
    }
}

pub(super) const fn counter(name: &'static str, labels: &'static [Label], help: &'static str) -> Metric {
    metric(name, Kind::Counter, labels, help)
}

pub(super) const fn gauge(name: &'static str, labels: &'static [Label], help: &'static str) -> Metric {
    metric(name, Kind::Gauge, labels, help)
}

/// A gauge that is shown when its value is known.
pub(super) const fn late(name: &'static str, labels: &'static [Label], help: &'static str) -> Metric {
    Metric {
        is_late: true,
        ..gauge(name, labels, help)
    }
}

pub(super) const fn histogram(name: &'static str, labels: &'static [Label], help: &'static str) -> Metric {
    metric(name, Kind::Histogram, labels, help)
}
