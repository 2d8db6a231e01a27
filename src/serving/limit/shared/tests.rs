use serde_json::json;

use super::*;

fn read_json(message: &serde_json::Value) -> Option<QuotaMessage> {
    read(message.to_string().as_bytes(), "me")
}

#[test]
fn reads_reports_of_other_instances() {
    let counted = json!({ "provider": "careem", "windowMs": 60_000, "window": 7, "total": 12, "later": "more" });
    let message = read_json(&json!({ "instance": "you", "counted": [counted], "later": "more" })).unwrap();
    assert!(!message.leaving);
    let [
        Counted {
            provider,
            window_ms,
            window,
            total,
        },
    ] = &message.counted[..]
    else {
        panic!("{message:?}");
    };
    assert_eq!(
        (provider.as_str(), *window_ms, *window, *total),
        ("careem", 60_000, 7, 12)
    );
    assert!(
        read_json(&json!({ "instance": "you", "leaving": true }))
            .unwrap()
            .leaving
    );
}

#[test]
fn ignores_its_own_reports_and_garbage() {
    assert!(read_json(&json!({ "instance": "me" })).is_none());
    assert!(read_json(&json!({ "instance": "x".repeat(MAX_NAME_BYTES + 1) })).is_none());
    assert!(read_json(&json!({ "counted": [] })).is_none());
    assert!(read_json(&json!({ "instance": "you", "counted": [{ "total": -1 }] })).is_none());
    assert!(read_json(&json!({ "instance": "you", "more": "x".repeat(MAX_MESSAGE_BYTES) })).is_none());
    assert!(read(b"\xff", "me").is_none());
}
