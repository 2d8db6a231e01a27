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
                let call = &call[..end_of_call(call)];
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

/// Where the parenthesis closes that is open before this text.
fn end_of_call(text: &str) -> usize {
    let mut depth = 1;
    for (at, c) in text.char_indices() {
        depth += match c {
            '(' => 1,
            ')' => -1,
            _ => 0,
        };
        if depth == 0 {
            return at;
        }
    }
    text.len()
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

/// Words of PromQL that are no metric, as far as the rules use them.
const PROMQL: [&str; 12] = [
    "absent",
    "and",
    "by",
    "count",
    "increase",
    "max",
    "min",
    "or",
    "predict_linear",
    "sum",
    "time",
    "up",
];

/// The names in an expression outside of braces, quotes and lists of labels; and each metric's selectors, `metric` and `label`.
fn names(expression: &str) -> (Vec<String>, Vec<(String, String)>) {
    let (mut names, mut labels): (Vec<String>, Vec<(String, String)>) = (Vec::new(), Vec::new());
    let (mut word, mut in_braces, mut in_quotes, mut in_by) = (String::new(), false, false, false);
    for c in expression.chars().chain([' ']) {
        if in_quotes {
            in_quotes = c != '"';
        } else if c.is_ascii_alphanumeric() || c == '_' {
            word.push(c);
        } else {
            let done = std::mem::take(&mut word);
            let is_name = done.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
            if is_name && in_braces {
                labels.push((names.last().cloned().unwrap_or_default(), done));
            } else if is_name && !in_by && !PROMQL.contains(&done.as_str()) {
                names.push(done);
            } else if done == "by" {
                in_by = true;
            } else if done == "up" && c == '{' {
                names.push(done);
            }
            match c {
                '{' => in_braces = true,
                '}' => in_braces = false,
                '"' => in_quotes = true,
                ')' => in_by = false,
                _ => {}
            }
        }
    }
    (names, labels)
}

#[test]
fn every_metric_of_the_alert_rules_is_declared_with_its_labels() {
    let rules = fs::read_to_string(in_project("deploy/prometheus-alerts.yml")).unwrap();
    let expressions: Vec<_> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("expr: "))
        .collect();
    let alerts = rules
        .lines()
        .filter(|line| line.trim().starts_with("- alert: "))
        .count();
    assert!(
        expressions.len() == alerts && alerts > 20,
        "an alert has one expression, on one line"
    );
    for part in ["labels: { severity: ", "summary: \""] {
        assert_eq!(rules.matches(part).count(), alerts, "{part}");
    }
    for expression in expressions {
        let (names, labels) = names(expression);
        assert!(!names.is_empty(), "{expression}");
        for name in names.iter().filter(|name| *name != "up") {
            assert!(
                declared(name).is_some(),
                "{name} is in an alert and not declared: {expression}"
            );
        }
        // `job` is Prometheus' own.
        for (name, label) in labels.iter().filter(|(_, label)| label != "job") {
            let known = declared(name).is_some_and(|metric| metric.labels.iter().any(|one| one.name == label));
            assert!(known, "{name} has no label {label}: {expression}");
        }
    }
    let (names, labels) = names("max by (stage) (a_total{job=\"x\",stage=~\"b|c\"}) > 600 and time() - free[6h] > 1");
    assert_eq!(names, ["a_total", "free"]);
    assert_eq!(
        labels,
        [
            ("a_total".to_owned(), "job".to_owned()),
            ("a_total".to_owned(), "stage".to_owned())
        ]
    );
}
