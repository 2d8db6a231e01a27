//! Accepted and refused bodies that differ as little as possible, and a comparison with serde_json.

use proptest::prelude::*;
use serde::de::IgnoredAny;

use super::*;

const SAMPLE: &str = include_str!("../../dev/sample_order.json");

fn refused(body: &str) -> String {
    match check(body.as_bytes()) {
        Err(Malformed(message)) => message,
        other => panic!("{other:?}: {}", &body[..body.len().min(200)]),
    }
}

fn nested(depth: usize) -> String {
    format!(r#"{{"a":{}1{}}}"#, "[".repeat(depth - 1), "]".repeat(depth - 1))
}

fn object(keys: usize) -> String {
    let keys: Vec<_> = (0..keys).map(|key| format!(r#""{key}":1"#)).collect();
    format!("{{{}}}", keys.join(","))
}

fn array(elements: usize) -> String {
    format!(r#"{{"items":[{}]}}"#, vec!["0"; elements].join(","))
}

#[test]
fn limits_and_their_neighbours() {
    let text = |length: usize| format!(r#"{{"a":{{"note":"{}"}}}}"#, "x".repeat(length));
    let key = |length: usize| format!(r#"{{"a":{{"{}":1}}}}"#, "k".repeat(length));
    let number = |digits: usize| format!(r#"{{"a":[1,{}]}}"#, "9".repeat(digits));
    let in_all = |objects: usize| {
        let object = object(MAX_KEYS_OF_OBJECT);
        format!(r#"{{"a":[{}]}}"#, vec![object.as_str(); objects].join(","))
    };
    for (fits, too_much, said) in [
        (
            nested(MAX_DEPTH),
            nested(MAX_DEPTH + 1),
            "nested deeper than 64, at /a/0/0",
        ),
        (object(1000), object(1001), "more than 1000 keys, at the top"),
        (array(10_000), array(10_001), "more than 10000 elements, at /items"),
        (
            text((1 << 20) - 2),
            text((1 << 20) - 1),
            "a text of more than 1048576 bytes, at /a/note",
        ),
        (key(256), key(257), "a key of more than 256 bytes, at /a"),
        (
            number(128),
            number(129),
            "a number of more than 128 characters, at /a/1",
        ),
        (in_all(99), in_all(100), "more than 100000 keys in all"),
        (
            r#"{"a":1e308}"#.into(),
            r#"{"a":1e400}"#.into(),
            "a number out of range, at /a",
        ),
        (
            r#"{"a":-1e308}"#.into(),
            r#"{"a":-1e309}"#.into(),
            "a number out of range, at /a",
        ),
    ] {
        assert_eq!(check(fits.as_bytes()), Ok(()), "{said}");
        assert!(refused(&too_much).starts_with(said), "{}", refused(&too_much));
    }
}

#[test]
fn keys_that_are_there_twice() {
    let many = |last: &str| object(500).replace(r#""499":1"#, last);
    for (body, place) in [
        (r#"{"id":1,"id":2}"#.to_owned(), "/id"),
        (r#"{"id":1,"\u0069d":2}"#.to_owned(), "/id"),
        (r#"{"a":[{},{"b/c":{"x":1,"y":2,"x":3}}]}"#.to_owned(), "/a/1/b~1c/x"),
        (r#"{"ok":{"é":1,"\u00e9":1}}"#.to_owned(), "/ok/é"),
        (many(r#""7":1"#), "/7"),
    ] {
        assert_eq!(refused(&body), format!("the same key twice, at {place}"));
    }
    for body in [
        r#"{"a":{"a":{"a":1}},"b":[{"a":1},{"a":2}],"A":1}"#.to_owned(),
        many(r#""500":1"#),
    ] {
        assert_eq!(check(body.as_bytes()), Ok(()), "{body}");
    }
}

#[test]
fn only_objects_are_accepted() {
    for (body, said) in [
        ("", "the body is empty"),
        (" \n", "the body is empty"),
        ("\u{feff}{}", "begins with a byte order mark"),
        ("null", "expected a JSON object"),
        ("[]", "expected a JSON object"),
        ("\"{}\"", "expected a JSON object"),
        ("{} {}", "not JSON, at line 1 column 4"),
        ("{}\0", "not JSON, at line 1 column 3"),
        ("{\n\"a\":1,}", "not JSON, at line 2 column 7"),
        ("{'a':1}", "not JSON"),
        ("{\"a\":NaN}", "not JSON"),
        ("{\"a\":01}", "not JSON"),
        ("{\"a\":\"\n\"}", "not JSON"),
        ("{\"\\ud800\":1}", "a key that is not text, at the top"),
        ("{", "not JSON"),
        ("{\"a\":\"", "not JSON"),
        ("{\"a\":\"\\", "not JSON"),
    ] {
        assert!(refused(body).starts_with(said), "{body:?}: {}", refused(body));
    }
    let latin = check(b"{\"a\":\"caf\xe9\"}").unwrap_err();
    assert_eq!(latin.to_string(), "not UTF-8 from byte 9 on");
}

/// A place is never longer than an answer can bear, and holds nothing that a terminal obeys.
#[test]
fn places_are_bounded_and_clean() {
    let body = r#"{"KEY":"#.replace("KEY", &"\u{9b}k".repeat(60)).repeat(30) + r#"{"x":1,"x":1}"# + &"}".repeat(30);
    let said = refused(&body);
    assert!(
        said.starts_with("the same key twice, at /?k?k") && said.ends_with('…'),
        "{said}"
    );
    assert!(said.chars().count() < 200 && !said.contains('\u{9b}'), "{said}");
}

#[test]
fn provider_samples_are_accepted() {
    for body in [
        SAMPLE,
        "{}",
        " {\"a\" : [ ] }\r\n",
        r#"{"note":"Pizza \ud83c","a":[true,false,null,-0.0,1E-400,"\/"]}"#,
    ] {
        assert_eq!(check(body.as_bytes()), Ok(()), "{body}");
    }
}

/// Serde_json passes over everything here, whatever it means.
fn is_json_object(body: &str) -> bool {
    body.trim_start_matches([' ', '\n', '\r', '\t']).starts_with('{')
        && serde_json::from_str::<IgnoredAny>(body).is_ok()
}

fn json_pieces() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "{", "}", "[", "]", ",", ":", "\"", "\"a\":", "\"b\"", "{}", "[]", "1", "0", "-", ".", "e", "E+", "12", "true",
        "null", "fals", "\\", "\\n", "\\u", "\\u00e9", "\\ud83c", " ", "\n", "\0", "é", "\u{feff}",
    ]);
    prop::collection::vec(piece, 0..16).prop_map(|pieces| format!("{{\"x\":{}}}", pieces.concat()))
}

fn agrees(body: &str) -> Result<(), TestCaseError> {
    match check(body.as_bytes()) {
        Ok(()) => prop_assert!(is_json_object(body), "let through: {:?}", body),
        Err(Malformed(message)) => {
            let ours = ["same key twice", "no text", "out of range"]
                .iter()
                .any(|own| message.contains(own));
            prop_assert!(ours || !is_json_object(body), "{}: {:?}", message, body);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn it_accepts_what_serde_json_accepts(body in json_pieces()) {
        agrees(&body)?;
    }

    #[test]
    fn samples_with_a_changed_byte_agree_with_serde_json(at in any::<prop::sample::Index>(), to in any::<char>()) {
        let at = SAMPLE.char_indices().nth(at.index(SAMPLE.chars().count())).unwrap().0;
        let (before, after) = SAMPLE.split_at(at);
        agrees(&format!("{before}{to}{}", &after[after.chars().next().unwrap().len_utf8()..]))?;
    }
}
