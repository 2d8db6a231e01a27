//! The list of metrics against the code that uses them and the documents that name them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use super::{
    declared::{METRICS, Metric, Values},
    from_start::series,
};
use crate::event::EventType;

fn in_project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn sources(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push((path.clone(), fs::read_to_string(&path).unwrap()));
        }
    }
}

/// Every name that follows one of the macros, and the label names in that call.
fn used() -> BTreeMap<String, BTreeSet<String>> {
    let mut files = Vec::new();
    sources(&in_project("src"), &mut files);
    let mut used: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (path, text) in files.iter().filter(|(path, _)| !path.ends_with("telemetry/metrics.rs")) {
        for kind in ["counter", "gauge", "histogram"] {
            for (at, start) in text.match_indices(&format!("metrics::{kind}!(")) {
                let call = &text[at + start.len()..];
                let call = &call[..call.find(';').unwrap_or(call.len())];
                let arguments = call.trim_start();
                let Some(rest) = arguments.strip_prefix('"') else {
                    assert!(
                        path.ends_with("from_start.rs"),
                        "{path:?}: a metric's name is a literal"
                    );
                    continue;
                };
                let (name, rest) = rest.split_once('"').unwrap();
                let labels = used.entry(name.to_owned()).or_default();
                labels.extend(
                    rest.split("\" =>")
                        .filter_map(|before| Some(before.rsplit_once('"')?.1.to_owned()))
                        .filter(|label| !label.is_empty() && rest.contains(&format!("\"{label}\" =>"))),
                );
            }
        }
    }
    used
}

fn declared(name: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|metric| metric.name == name)
}

#[test]
fn every_metric_that_is_used_is_declared_and_the_other_way_round() {
    let used = used();
    assert!(used.len() > 40, "the code is searched: {used:?}");
    for (name, labels) in &used {
        let metric = declared(name).unwrap_or_else(|| panic!("{name} is not in telemetry::metrics::declared"));
        for label in labels {
            let known = metric.labels.iter().any(|one| one.name == label);
            assert!(known, "{name} has no label {label} in telemetry::metrics::declared");
        }
    }
    for metric in METRICS {
        assert!(used.contains_key(metric.name), "nothing sets {}", metric.name);
        let same = METRICS.iter().filter(|one| one.name == metric.name).count();
        assert_eq!(same, 1, "{} is declared twice", metric.name);
        let is_total = metric.name.ends_with("_total");
        assert_eq!(is_total, metric.kind == super::Kind::Counter, "{}", metric.name);
    }
}

/// A row of the table: the name, and the labels in braces.
#[test]
fn every_metric_is_documented_with_its_labels() {
    let text = fs::read_to_string(in_project("docs/metrics.md")).unwrap();
    let rows: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(row, _)| row)
        .collect();
    let wanted: BTreeSet<String> = METRICS.iter().map(row).collect();
    let missing: Vec<_> = wanted.iter().filter(|row| !rows.contains(row.as_str())).collect();
    let unknown: Vec<_> = rows.iter().filter(|row| !wanted.contains(**row)).collect();
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "docs/metrics.md lacks {missing:?} and has {unknown:?}"
    );
}

fn row(metric: &Metric) -> String {
    if metric.labels.is_empty() {
        return metric.name.to_owned();
    }
    let labels: Vec<_> = metric.labels.iter().map(|label| label.name).collect();
    format!("{}{{{}}}", metric.name, labels.join(","))
}

#[test]
fn series_are_every_combination_of_labels() {
    let providers = ["careem".to_owned(), "talabat".to_owned()];
    let of = |name: &str| series(declared(name).unwrap(), &providers);
    assert_eq!(of("refusals_lost_total"), [Vec::<(&str, String)>::new()]);
    assert_eq!(of("events_appended_total").len(), EventType::ALL.len());
    assert_eq!(of("webhooks_processed_total").len(), 6);
    assert_eq!(
        of("webhooks_processed_total")[0],
        [("provider", "careem".to_owned()), ("status", "success".to_owned())]
    );
    assert!(of("webhook_secret_used_total").is_empty());
}

/// Values that are listed by hand are those of the code.
#[test]
fn label_values_are_those_of_the_code() {
    let openapi: serde_json::Value = serde_json::from_str(crate::intake::OPENAPI).unwrap();
    let codes = openapi.to_string();
    for name in ["webhooks_rejected_total", "integration_requests_total"] {
        let label = declared(name).unwrap().labels.last().unwrap();
        let Values::Of(values) = label.values else {
            panic!("{name}")
        };
        for value in values.iter().filter(|value| **value != "ACCEPTED") {
            assert!(codes.contains(&format!("\"{value}\"")), "{name}: {value}");
        }
    }
}
