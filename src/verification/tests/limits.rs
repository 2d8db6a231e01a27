//! How much is looked at: several signatures, several secrets, and no more than that.

use super::*;

/// RFC 4231, test case 2.
#[test]
fn the_example_of_the_rfc() {
    let careem = preset("careem");
    let request = |signature: &str| {
        let mut request = Outgoing::post(URL, "what do ya want for nothing?");
        request.headers.insert("x-careem-signature", signature.parse().unwrap());
        request
    };
    let signature = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
    let keys = keys(&[(WEBHOOK_SECRET, &["new", "Jefe"])]);
    let proof = check(&careem, &request(signature), &keys, now()).unwrap();
    assert_eq!(proof.secrets()[0].index, 1);
    assert_eq!(proof.signature(), Some(signature));
    assert!(check(&careem, &request(&signature.to_uppercase()), &keys, now()).is_ok());
    let sha512 = scheme(json!({ "preset": "careem", "algorithm": "sha512", "encoding": "base64url" }));
    let hex = "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737";
    let expected = digest::Encoding::Base64url.encode(&digest::Encoding::Hex.decode(hex).unwrap());
    assert!(check(&sha512, &request(&expected), &keys, now()).is_ok());
    assert!(check(&sha512, &request(&format!("{expected}==")), &keys, now()).is_ok());
    assert!(check(&sha512, &request(&expected[1..]), &keys, now()).is_err());
}

#[test]
fn several_signatures_and_several_secrets() {
    let scheme = preset("standard-webhooks");
    let (old, new) = ("whsec_b2xk", "whsec_bmV3");
    let by = |secret: &str| {
        let mut request = Outgoing::post(URL, "{}");
        request.headers.insert("webhook-id", "m-1".parse().unwrap());
        sign(&scheme, &keys(&[(WEBHOOK_SECRET, &[secret])]), request, now()).unwrap()
    };
    let signature = |request: &Outgoing| request.headers["webhook-signature"].to_str().unwrap().to_owned();
    let (of_old, of_new) = (signature(&by(old)), signature(&by(new)));
    let sent = |text: &str| {
        let mut request = by(old);
        request.headers.insert("webhook-signature", text.parse().unwrap());
        request
    };
    let index = |text: &str, secrets: &[&str]| {
        let proof = check(&scheme, &sent(text), &keys(&[(WEBHOOK_SECRET, secrets)]), now());
        proof.ok().map(|proof| proof.secrets()[0].index)
    };
    let both = format!("{of_new} {of_old}");
    assert_eq!(index(&both, &[old]), Some(0));
    assert_eq!(index(&both, &[new, old]), Some(0), "the newest counts");
    assert_eq!(index(&of_old, &[new, old]), Some(1));
    assert_eq!(
        index(&format!("v1a,x {of_old} v2,y"), &[old]),
        Some(0),
        "other versions are passed over"
    );
    assert_eq!(index(&of_old, &[new]), None);
    assert_eq!(
        index(&format!("v1,! {of_old}"), &[old]),
        Some(0),
        "one that is no signature spoils none"
    );
    // At most sixteen signatures are tried.
    let wrong = "v1,AAAA ";
    assert_eq!(index(&format!("{}{of_old}", wrong.repeat(15)), &[old]), Some(0));
    assert_eq!(index(&format!("{}{of_old}", wrong.repeat(16)), &[old]), None);
}

#[test]
fn overlong_values_are_not_checked() {
    let scheme = preset("standard-webhooks");
    let mut request = signed(&scheme, "{}");
    let keys = fitting(&scheme);
    let signature = request.headers["webhook-signature"].to_str().unwrap().to_owned();
    for (chars, fits) in [(4096, true), (4097, false)] {
        let padding = "x".repeat(chars - signature.len() - 1);
        let text = format!("{signature} {padding}");
        request.headers.insert("webhook-signature", text.parse().unwrap());
        assert_eq!(check(&scheme, &request, &keys, now()).is_ok(), fits, "{chars}");
    }
    // At most eight secrets of one origin are tried.
    let secrets: Vec<_> = (0..9)
        .map(|number| SecretString::from(format!("secret-{number}")))
        .collect();
    let ring = Keys::new().with(WEBHOOK_SECRET, OwnSecretOrigin::Env, &secrets);
    for (number, fits) in [(7, true), (8, false)] {
        let only = Keys::new().with(WEBHOOK_SECRET, OwnSecretOrigin::Env, &secrets[number..=number]);
        let careem = preset("careem");
        let request = sign(&careem, &only, Outgoing::post(URL, "{}"), now()).unwrap();
        assert_eq!(check(&careem, &request, &ring, now()).is_ok(), fits, "{number}");
    }
}

#[test]
fn empty_secrets_admit_no_request() {
    for name in preset::names() {
        let scheme = preset(name);
        let names: Vec<String> = scheme.secrets().into_iter().map(str::to_owned).collect();
        let empty = names.iter().fold(Keys::new(), |keys, name| {
            keys.with(name, OwnSecretOrigin::Env, &[SecretString::from("")])
        });
        let request = signed(&scheme, body_for(name));
        assert!(check(&scheme, &request, &empty, now()).is_err(), "{name}");
    }
    // Anyone can sign with an empty key.
    let scheme = preset("standard-webhooks");
    let mut request = Outgoing::post(URL, "{}");
    request.headers.insert("webhook-id", "m".parse().unwrap());
    request
        .headers
        .insert("webhook-timestamp", "1700000000".parse().unwrap());
    let signature = digest::Algorithm::Sha256.mac(b"", &["m.1700000000.{}"]);
    let header = format!("v1,{}", digest::Encoding::Base64.encode(&signature));
    request.headers.insert("webhook-signature", header.parse().unwrap());
    assert!(check(&scheme, &request, &keys(&[(WEBHOOK_SECRET, &["whsec_"])]), now()).is_err());
}

#[test]
fn secrets_are_never_shown() {
    let keys = keys(&[(WEBHOOK_SECRET, &["hunter2", "hunter3"])]);
    assert_eq!(format!("{keys:?}"), r#"{"webhook_secret": 2}"#);
    assert!(!format!("{:?}", Keyring::new(keys)).contains("hunter"));
    let headers = HeaderMap::new();
    let uri = Uri::from_static("/");
    let request = Unverified::new(&Method::POST, None, &uri, &headers, b"");
    assert!(verify(&preset("careem"), request, &Keys::new(), now()).is_err());
}

/// Fields beyond any that a provider sends are not sorted for a stranger.
#[test]
fn an_objects_fields_are_limited() {
    let keeta = preset("keeta");
    let object = |count: usize| {
        let fields: String = (4..count).map(|number| format!(",\"f{number}\":1")).collect();
        let request = Outgoing::post(
            URL,
            format!(r#"{{"sig":"","eventId":1,"message":"{{}}","messageId":"m"{fields}}}"#),
        );
        sign(&keeta, &fitting(&keeta), request, now())
    };
    let signed_object = object(1000).unwrap();
    assert!(check(&keeta, &signed_object, &fitting(&keeta), now()).is_ok());
    assert!(object(1001).is_err());
}

/// An id that is too long to be kept tells no repeat; the body does.
#[test]
fn a_message_ids_length_is_limited() {
    let scheme = preset("standard-webhooks");
    let key = |bytes: usize| {
        let mut request = Outgoing::post(URL, "{}");
        request.headers.insert("webhook-id", "i".repeat(bytes).parse().unwrap());
        let request = sign(&scheme, &fitting(&scheme), request, now()).unwrap();
        let proof = check(&scheme, &request, &fitting(&scheme), now()).unwrap();
        proof.replay_key().map(str::len)
    };
    assert_eq!((key(256), key(257)), (Some(256), None));
}
