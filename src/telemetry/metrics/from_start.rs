//! Metrics that are shown from the start: `increase` over a counter sees its first event only if the counter was there at 0
//! before.

use super::declared::{Kind, METRICS, Metric, Values};
use crate::{event::EventType, order::flag::Flag};

/// Shows every metric that is known from the start, at 0, and who this instance is.
pub fn from_start(service: &str, instance_id: &str, providers: &[String]) {
    for metric in METRICS.iter().filter(|metric| metric.is_from_start()) {
        for labels in series(metric, providers) {
            match metric.kind {
                Kind::Counter => metrics::counter!(metric.name, &labels).increment(0),
                // Keeps a value that was set before.
                Kind::Gauge => metrics::gauge!(metric.name, &labels).increment(0.0),
                // A histogram needs no value before its first sample: `increase` loses nothing without it.
                Kind::Histogram => {}
            }
        }
    }
    let labels = [
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("service", service.to_owned()),
        ("instance_id", instance_id.to_owned()),
    ];
    metrics::gauge!("hub_info", &labels).set(1.0);
}

/// The labels of each series that a metric has whatever happens: every combination of their values.
pub(super) fn series(metric: &Metric, providers: &[String]) -> Vec<Vec<(&'static str, String)>> {
    let mut all = vec![Vec::new()];
    for label in metric.labels {
        let values = values(label.values, providers);
        all = all
            .into_iter()
            .flat_map(|labels: Vec<_>| {
                values.iter().map(move |value| {
                    let mut labels = labels.clone();
                    labels.push((label.name, value.clone()));
                    labels
                })
            })
            .collect();
    }
    all
}

fn values(values: Values, providers: &[String]) -> Vec<String> {
    match values {
        Values::Of(values) => values.iter().map(|value| (*value).to_owned()).collect(),
        Values::Providers => providers.to_vec(),
        Values::EventTypes => EventType::ALL.iter().map(|one| one.as_str().to_owned()).collect(),
        Values::Flags => {
            let flags = Flag::ALL.iter().map(|flag| flag.as_str());
            flags.chain(["unknown_event"]).map(str::to_owned).collect()
        }
        Values::Open => Vec::new(),
    }
}
