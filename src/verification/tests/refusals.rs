//! One kind after the other: what is refused and its nearest neighbour that is not.

use super::*;

/// The request with a header set.
fn with(request: &Outgoing, name: &'static str, value: &str) -> Outgoing {
    let mut request = request.clone();
    request.headers.insert(name, value.parse().unwrap());
    request
}

#[test]
fn a_static_token_is_compared_whole() {
    let scheme = scheme(json!({ "kind": "static", "secret": "api_key", "token": { "header": "x-auth" } }));
    let keys = keys(&[("api_key", &["Key-1", "", "Key-2"])]);
    let request = Outgoing::post(URL, "{}");
    for (sent, index) in [("Key-1", Some(0)), ("Key-2", Some(2)), (" Key-1 ", Some(0))] {
        let proof = check(&scheme, &with(&request, "x-auth", sent), &keys, now()).unwrap();
        assert_eq!(proof.secrets().iter().map(|used| used.index).next(), index, "{sent}");
        assert_eq!(proof.signature(), None, "it is a credential");
    }
    for sent in ["", " ", "key-1", "Key-", "Key-11", "Key-1,Key-2", "Bearer Key-1"] {
        let outcome = check(&scheme, &with(&request, "x-auth", sent), &keys, now());
        assert_eq!(outcome.unwrap_err(), Refusal::InvalidToken, "{sent:?}");
    }
    assert_eq!(
        check(&scheme, &request, &keys, now()).unwrap_err(),
        Refusal::InvalidToken
    );
    // A secret with another name does not count.
    let other = super::keys(&[("webhook_secret", &["Key-1"])]);
    assert!(check(&scheme, &with(&request, "x-auth", "Key-1"), &other, now()).is_err());
}

#[test]
fn basic_is_decoded() {
    let scheme = scheme(json!({ "kind": "basic" }));
    let keys = keys(&[(WEBHOOK_SECRET, &["Aladdin:open sesame"])]);
    let request = Outgoing::post(URL, "{}");
    // The example of RFC 7617.
    for (sent, fits) in [
        ("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==", true),
        ("basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==", true),
        ("Basic QWxhZGRpbjpvcGVuIHNlc2FtZTE=", false),
        ("Basic Aladdin:open sesame", false),
        ("Bearer QWxhZGRpbjpvcGVuIHNlc2FtZQ==", false),
        ("Basic ", false),
    ] {
        let outcome = check(&scheme, &with(&request, "authorization", sent), &keys, now());
        assert_eq!(outcome.is_ok(), fits, "{sent}");
    }
}

#[test]
fn the_scheme_none_admits_every_request() {
    let scheme = scheme(json!({ "kind": "none" }));
    let proof = check(&scheme, &Outgoing::post(URL, "x"), &Keys::new(), now()).unwrap();
    assert_eq!((proof.scheme(), proof.secrets().len()), ("none", 0));
}

#[test]
fn all_of_needs_all_and_any_of_one() {
    let talabat = preset("talabat");
    let keys = keys(&[(WEBHOOK_SECRET, &["s"]), ("bearer_token", &["old", "t"])]);
    let whole = sign(&talabat, &keys, Outgoing::post(URL, "{}"), now()).unwrap();
    let proof = check(&talabat, &with(&whole, "authorization", "Bearer t"), &keys, now()).unwrap();
    let used: Vec<_> = proof
        .secrets()
        .iter()
        .map(|used| (used.name.as_str(), used.index))
        .collect();
    assert_eq!(used, [(WEBHOOK_SECRET, 0), ("bearer_token", 1)]);
    let wrong_token = check(&talabat, &with(&whole, "authorization", "Bearer x"), &keys, now());
    assert_eq!(wrong_token.unwrap_err(), Refusal::InvalidToken);
    let wrong_signature = check(&talabat, &with(&whole, "x-talabat-signature", "00"), &keys, now());
    assert_eq!(wrong_signature.unwrap_err(), Refusal::InvalidSignature);

    let either = scheme(json!({ "kind": "any_of", "steps": [
        { "kind": "static", "secret": "api_key", "token": { "header": "x-key" } }, { "preset": "slack" },
    ] }));
    let keys = super::keys(&[(WEBHOOK_SECRET, &["s"]), ("api_key", &["k"])]);
    let request = Outgoing::post(URL, "{}");
    assert_eq!(
        check(&either, &with(&request, "x-key", "k"), &keys, now())
            .unwrap()
            .scheme(),
        "static"
    );
    let slack = sign(&preset("slack"), &keys, request.clone(), now()).unwrap();
    assert_eq!(check(&either, &slack, &keys, now()).unwrap().scheme(), "hmac-sha256");
    // The most specific refusal is returned.
    assert_eq!(
        check(&either, &slack, &keys, later(301)).unwrap_err(),
        Refusal::SignatureExpired
    );
    assert_eq!(
        check(&either, &request, &keys, now()).unwrap_err(),
        Refusal::InvalidSignature
    );
}

#[test]
fn the_time_must_be_signed_to_count() {
    let slack = preset("slack");
    let request = signed(&slack, "{}");
    let keys = fitting(&slack);
    for (at, refusal) in [
        (later(300), None),
        (later(301), Some(Refusal::SignatureExpired)),
        (later(-300), None),
        (later(-301), Some(Refusal::SignatureExpired)),
    ] {
        assert_eq!(check(&slack, &request, &keys, at).err(), refusal, "{at}");
    }
    // A fresher time changes the signed content.
    let fresher = with(&request, "x-slack-request-timestamp", "1700000301");
    assert_eq!(
        check(&slack, &fresher, &keys, later(301)).unwrap_err(),
        Refusal::InvalidSignature
    );
    // just-eat's time is not signed, so it is ignored and protects nothing.
    let jet = preset("just-eat");
    let request = signed(&jet, "{}");
    let header = request.headers["x-jet-connect-hash"].to_str().unwrap();
    let (scheme, signature) = header.split_once(' ').unwrap();
    let dated = with(&request, "x-jet-connect-hash", &format!("{scheme} t=1,{signature}"));
    let proof = check(&jet, &dated, &fitting(&jet), now()).unwrap();
    assert_eq!(proof.signed_at(), None);
}

#[test]
fn units_of_time() {
    for (unit, written, at) in [
        ("s", "1700000000", Some(now())),
        ("ms", "1700000000000", Some(now())),
        ("iso", "2023-11-14T22:13:20.000Z", Some(now())),
        ("iso", "2023-11-15T00:13:20+02:00", Some(now())),
        ("iso", "2023-11-14 22:13:20", None),
        ("s", "+1700000000", None),
        ("s", "1700000000.0", None),
        ("s", "99999999999999999999", None),
        ("ms", "9223372036854775807", None),
        ("s", "", None),
    ] {
        let time: time::Timestamp =
            serde_json::from_value(json!({ "header": "x-time", "unit": unit, "tolerance": "5m" })).unwrap();
        assert_eq!(time.read(written), at, "{written}");
        assert_eq!(time.read(&time.write(now())), Some(now()), "{unit}");
    }
}

#[test]
fn a_body_is_signed_by_its_hash_in_the_url() {
    let twilio = preset("twilio");
    let keys = fitting(&twilio);
    let json = sign(&twilio, &keys, Outgoing::post(URL, "{}"), now()).unwrap();
    assert!(json.url.contains("?bodySHA256=") && check(&twilio, &json, &keys, now()).is_ok());
    let other = Outgoing {
        body: b"{ }".to_vec(),
        ..json.clone()
    };
    assert!(check(&twilio, &other, &keys, now()).is_err());
    let without_hash = match &twilio {
        Scheme::Hmac(one) => Scheme::Hmac(scheme::Signed {
            body_hash: None,
            ..one.clone()
        }),
        _ => panic!("not an HMAC"),
    };
    let bare = sign(&without_hash, &keys, Outgoing::post(URL, "{}"), now()).unwrap();
    assert!(check(&twilio, &bare, &keys, now()).is_err(), "a URL without the hash");
}

/// Of one capture of Keeta's three orders could be made: an `&` in one field forged another.
#[test]
fn a_capture_of_keeta_is_one_message() {
    let keeta = preset("keeta");
    let keys = fitting(&keeta);
    let note = |note: &str| {
        let message = json!({ "orderViewId": "1", "remark": note }).to_string();
        let body =
            json!({ "sig": "", "eventId": 1001, "message": message, "messageId": "m-1", "shopId": 1, "timestamp": 1 });
        sign(&keeta, &keys, Outgoing::post(URL, body.to_string()), now())
    };
    let honest = note("salt & pepper, a=b & 1 + 1 = 2").unwrap();
    assert!(check(&keeta, &honest, &keys, now()).is_ok());
    // A remark that looks like fields stays a remark: no part of it can become another message.
    let tail = note("x&messageId=m-2&shopId=2&timestamp=2&zz=").unwrap();
    assert!(check(&keeta, &tail, &keys, now()).is_ok());
    let taken_for_fields = json!({
        "sig": serde_json::from_slice::<serde_json::Value>(&tail.body).unwrap()["sig"], "eventId": 1001,
        "message": r#"{"orderViewId":"1","remark":"x"#, "messageId": "m-2", "shopId": 2, "timestamp": 2,
        "zz": "\"}&messageId=m-1&shopId=1&timestamp=1",
    });
    let taken_for_fields = Outgoing {
        body: taken_for_fields.to_string().into_bytes(),
        ..tail
    };
    let outcome = check(&keeta, &taken_for_fields, &keys, now());
    assert_eq!(outcome.unwrap_err(), Refusal::InvalidSignature);
    let sent: serde_json::Value = serde_json::from_slice(&honest.body).unwrap();
    let forged = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut body = sent.clone();
        change(&mut body);
        Outgoing {
            body: body.to_string().into_bytes(),
            ..honest.clone()
        }
    };
    let merged = |from: &str, into: &str, body: &mut serde_json::Value| {
        let moved = body.as_object_mut().unwrap().remove(from).unwrap();
        let moved = moved.as_str().map_or_else(|| moved.to_string(), str::to_owned);
        let text = body[into].as_str().unwrap_or_default().to_owned();
        body[into] = format!("{text}&{from}={moved}").into();
    };
    for (what, request) in [
        (
            "shopId inside of messageId",
            forged(&|body| merged("shopId", "messageId", body)),
        ),
        (
            "timestamp inside of shopId",
            forged(&|body| {
                body["shopId"] = "1".into();
                merged("timestamp", "shopId", body);
            }),
        ),
        (
            "messageId inside of message",
            forged(&|body| merged("messageId", "message", body)),
        ),
        (
            "message as an object",
            forged(&|body| body["message"] = serde_json::from_str(body["message"].as_str().unwrap()).unwrap()),
        ),
        (
            "the beginning in the query",
            Outgoing {
                url: format!("{URL}?eventId=1001"),
                ..forged(&|body| drop(body.as_object_mut().unwrap().remove("eventId")))
            },
        ),
    ] {
        let outcome = check(&keeta, &request, &keys, now());
        assert_eq!(outcome.unwrap_err(), Refusal::InvalidSignature, "{what}");
    }
    // The same message in another JSON form is the same event.
    let id = |request: &Outgoing| {
        let uri: Uri = "/api/webhooks/careem".parse().unwrap();
        let of = Unverified::new(
            &request.method,
            Some("https://hooks.example.com"),
            &uri,
            &request.headers,
            &request.body,
        );
        verify(&keeta, of, &keys, now())
            .unwrap()
            .event_id("keeta", "1", "order_created", None)
    };
    let rewritten = forged(&|body| {
        body["nobody"] = serde_json::Value::Null;
        body["eventId"] = "1001".into();
    });
    assert_eq!(id(&honest), id(&rewritten));
}

/// A capture of one form was another message in the other.
#[test]
fn a_capture_of_deliveroo_is_one_message() {
    let (new, legacy) = (preset("deliveroo"), preset("deliveroo-legacy"));
    let keys = fitting(&new);
    let mut request = Outgoing::post(URL, "{}");
    request
        .headers
        .insert("x-deliveroo-sequence-guid", "guid-1".parse().unwrap());
    let captured = sign(&legacy, &keys, request, now()).unwrap();
    assert!(check(&legacy, &captured, &keys, now()).is_ok());
    assert!(check(&new, &captured, &keys, now()).is_err());
    let both =
        scheme(json!({ "kind": "any_of", "steps": [{ "preset": "deliveroo" }, { "preset": "deliveroo-legacy" }] }));
    let moved = Outgoing {
        body: b"\n {}".to_vec(),
        ..captured
    };
    // A deployment that accepts both forms would accept it, so none may accept both.
    assert!(check(&both, &moved, &keys, now()).is_ok());
    assert!(both.check()[0].contains("keep the form"), "{:?}", both.check());
    assert!(check(&legacy, &moved, &keys, now()).is_err());
    // Nor can a part of the body be moved into the header.
    let mut request = Outgoing::post(URL, r#"{"a": "b"}"#);
    request
        .headers
        .insert("x-deliveroo-sequence-guid", "guid-1".parse().unwrap());
    let captured = sign(&new, &keys, request, now()).unwrap();
    let moved = Outgoing {
        body: br#""b"}"#.to_vec(),
        ..with(&captured, "x-deliveroo-sequence-guid", "guid-1 {\"a\":")
    };
    assert!(check(&new, &moved, &keys, now()).is_err());
}

/// Unsigned parts of a body do not change the event's id.
#[test]
fn the_event_id_covers_what_is_signed() {
    let adyen = preset("adyen");
    let keys = fitting(&adyen);
    let request = signed(&adyen, body_for("adyen"));
    let id = |text: String| {
        let uri: Uri = "/".parse().unwrap();
        let of = Unverified::new(&request.method, None, &uri, &request.headers, text.as_bytes());
        let verified = verify(&adyen, of, &keys, now()).unwrap();
        verified.event_id("x", "1", "order_created", Some("an id that is not signed"))
    };
    let text = String::from_utf8(request.body.clone()).unwrap();
    let first = id(text.clone());
    assert_eq!(first, id(text.replacen('{', r#"{"live":false, "#, 1)));
    assert_eq!(first, id(text.replace(r#""success":"true""#, r#""success":true"#)));
    let other = signed(&adyen, &body_for("adyen").replace(r#""p""#, r#""q""#));
    assert_ne!(first, id(String::from_utf8(other.body).unwrap()));
}

#[test]
fn signed_fields_must_be_unique() {
    let keeta = preset("keeta");
    let keys = fitting(&keeta);
    let request = signed(
        &keeta,
        r#"{"eventId":1,"message":"{}","messageId":"m","n":1,"none":null}"#,
    );
    let proof = check(&keeta, &request, &keys, now()).unwrap();
    assert_eq!(proof.replay_key(), Some("m"));
    let text = String::from_utf8(request.body.clone()).unwrap();
    for (what, body) in [
        ("a field more", text.replacen('{', r#"{"x":1,"#, 1)),
        ("a field twice", text.replacen('{', r#"{"n":1,"#, 1)),
        ("the signature twice", text.replacen('{', r#"{"sig":"00","#, 1)),
        ("another value", text.replace("\"n\":1", "\"n\":2")),
    ] {
        let outcome = check(
            &keeta,
            &Outgoing {
                body: body.into_bytes(),
                ..request.clone()
            },
            &keys,
            now(),
        );
        assert_eq!(outcome.unwrap_err(), Refusal::InvalidSignature, "{what}");
    }
    let adyen = preset("adyen");
    let keys = fitting(&adyen);
    let request = signed(&adyen, body_for("adyen"));
    assert!(check(&adyen, &request, &keys, now()).is_ok());
    let text = String::from_utf8(request.body.clone()).unwrap();
    let two = text.replace("}}]}", "}},{}]}");
    assert_ne!(two, text);
    let outcome = check(
        &adyen,
        &Outgoing {
            body: two.into_bytes(),
            ..request
        },
        &keys,
        now(),
    );
    assert_eq!(
        outcome.unwrap_err(),
        Refusal::InvalidSignature,
        "only the first item is signed"
    );
}

#[test]
fn an_unknown_public_url_matches_no_signature() {
    let square = preset("square");
    let request = signed(&square, "{}");
    let uri: Uri = "/api/webhooks/careem".parse().unwrap();
    let of = |base| Unverified::new(&request.method, base, &uri, &request.headers, &request.body);
    let keys = fitting(&square);
    assert!(verify(&square, of(Some("https://hooks.example.com")), &keys, now()).is_ok());
    assert!(verify(&square, of(None), &keys, now()).is_err());
}

#[test]
fn a_method_can_be_signed() {
    let scheme = scheme(json!({ "preset": "careem", "signed": "{method} {{{body}}}" }));
    let request = signed(&scheme, "x");
    let keys = fitting(&scheme);
    assert!(check(&scheme, &request, &keys, now()).is_ok());
    let put = Outgoing {
        method: Method::PUT,
        ..request
    };
    assert!(check(&scheme, &put, &keys, now()).is_err());
}
