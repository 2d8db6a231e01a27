//! Signatures that others made: the official SDKs, each named with its version beside what it computed, or a provider's
//! own document. And that nothing of such a request can be changed.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::*;

const ANSWERS: &str = include_str!("known_answers.json");
/// Schemes that say who calls and nothing about what.
const NOT_OF_THE_BODY: [&str; 4] = ["careem-pos", "doordash", "delivery-hero", "delivery-hero without exp"];

/// A change to a body.
type Change = fn(&mut Vec<u8>);

#[derive(Deserialize)]
struct Answer {
    name: String,
    computed_by: String,
    preset: String,
    /// Fields of an example that is no webhook.
    #[serde(default)]
    fields: Option<serde_json::Value>,
    secrets: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
    body: String,
    url: String,
    at: i64,
}

impl Answer {
    fn all() -> Vec<Self> {
        serde_json::from_str(ANSWERS).unwrap()
    }

    fn scheme(&self) -> Scheme {
        match &self.fields {
            Some(fields) => scheme(json!({ "preset": self.preset, "fields": fields })),
            None => preset(&self.preset),
        }
    }

    fn keys(&self) -> Keys {
        let one = |keys: Keys, (name, value): (&String, &String)| {
            keys.with(name, OwnSecretOrigin::Env, &[SecretString::from(value.as_str())])
        };
        self.secrets.iter().fold(Keys::new(), one)
    }

    fn request(&self) -> Outgoing {
        let mut request = Outgoing::post(&self.url, self.body.as_str());
        for (name, value) in &self.headers {
            request
                .headers
                .insert(HeaderName::try_from(name).unwrap(), value.parse().unwrap());
        }
        request
    }

    fn check(&self, change: impl FnOnce(&mut Outgoing)) -> Result<Proof, Refusal> {
        let mut request = self.request();
        change(&mut request);
        let at = DateTime::from_timestamp(self.at, 0).unwrap();
        check(&self.scheme(), &request, &self.keys(), at)
    }

    fn is_of_the_body(&self) -> bool {
        !NOT_OF_THE_BODY.contains(&self.name.as_str())
    }
}

#[test]
fn all_known_answers_are_accepted() {
    let answers = Answer::all();
    for answer in &answers {
        let outcome = answer.check(|_| {});
        let proof = outcome.unwrap_or_else(|error| panic!("{} by {}: {error}", answer.name, answer.computed_by));
        assert_eq!(proof.signature().is_some(), answer.is_of_the_body(), "{}", answer.name);
        let scheme = answer.scheme();
        for (name, value) in &answer.secrets {
            scheme.check_secret(name, &SecretString::from(value.as_str())).unwrap();
        }
    }
    let answered: BTreeSet<_> = answers.iter().map(|answer| answer.preset.as_str()).collect();
    let unanswered: Vec<_> = preset::names().filter(|name| !answered.contains(name)).collect();
    // This is Standard Webhooks with other header names.
    assert_eq!(unanswered, ["svix"]);
}

#[test]
fn another_body_is_refused() {
    for answer in Answer::all() {
        let changes: [(&str, Change); 4] = [
            ("one byte more", |body| body.push(b'x')),
            ("one byte less", |body| body.truncate(body.len() - 1)),
            ("one letter changed", |body| {
                let text = String::from_utf8(body.clone()).unwrap();
                *body = text
                    .replacen("CR-1", "CR-2", 1)
                    .replacen("TestMerchant", "TestMerchanT", 1)
                    .into_bytes();
                *body = String::from_utf8(body.clone())
                    .unwrap()
                    .replacen("1234567890", "1234567891", 1)
                    .into_bytes();
                *body = String::from_utf8(body.clone())
                    .unwrap()
                    .replacen("\"appId\": 123", "\"appId\": 124", 1)
                    .into_bytes();
            }),
            ("nothing", Vec::clear),
        ];
        for (what, change) in changes {
            let outcome = answer.check(|request| {
                change(&mut request.body);
                assert_ne!(
                    request.body,
                    answer.body.as_bytes(),
                    "{}: {what} changes nothing",
                    answer.name
                );
            });
            let expected = answer.is_of_the_body().then_some(Refusal::InvalidSignature);
            assert_eq!(outcome.err(), expected, "{}: {what}", answer.name);
        }
        // The same JSON in another form is another body, unless fields are signed one by one.
        let by_field = ["adyen", "keeta"].contains(&answer.name.as_str());
        if answer.is_of_the_body() && !by_field {
            let same: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
            let outcome = answer.check(|request| request.body = same.to_string().into_bytes());
            assert_eq!(
                outcome.err(),
                Some(Refusal::InvalidSignature),
                "{} written anew",
                answer.name
            );
        }
    }
}

#[test]
fn another_header_is_refused() {
    for answer in Answer::all() {
        for (name, value) in answer.headers.iter().filter(|(name, _)| *name != "content-type") {
            let name = HeaderName::try_from(name).unwrap();
            let with = |text: String| {
                answer.check(|request| drop(request.headers.insert(name.clone(), text.parse().unwrap())))
            };
            let middle = value.len() / 2;
            let other = if value.as_bytes()[middle] == b'7' { "8" } else { "7" };
            let refused = [
                ("missing", answer.check(|request| drop(request.headers.remove(&name)))),
                (
                    "twice",
                    answer.check(|request| assert!(request.headers.append(name.clone(), value.parse().unwrap()))),
                ),
                ("empty", with(String::new())),
                ("cut", with(value[..middle].to_owned())),
                (
                    "changed",
                    with(format!("{}{other}{}", &value[..middle], &value[middle + 1..])),
                ),
                ("more", with(format!("{value}x"))),
            ];
            for (what, outcome) in refused {
                // Stripe's header ends with a signature of an obsolete scheme.
                let ignored = what == "more" && answer.name == "stripe";
                assert_eq!(outcome.is_err(), !ignored, "{}: {name} {what}", answer.name);
            }
        }
    }
}

#[test]
fn another_secret_url_method_or_time_is_refused() {
    for answer in Answer::all() {
        let scheme = answer.scheme();
        for name in answer.secrets.keys() {
            let at = DateTime::from_timestamp(answer.at, 0).unwrap();
            let mut secrets = answer.secrets.clone();
            let secret = secrets.get_mut(name).unwrap();
            let last = secret.pop().unwrap();
            secret.push(if last == 'A' { 'B' } else { 'A' });
            let other = Answer {
                secrets,
                ..Answer::all().into_iter().find(|one| one.name == answer.name).unwrap()
            };
            assert!(
                check(&scheme, &answer.request(), &other.keys(), at).is_err(),
                "{}: {name}",
                answer.name
            );
        }
        for (what, url) in [
            ("host", answer.url.replacen("https://", "https://x", 1)),
            ("query", format!("{}&x=1", answer.url)),
        ] {
            let outcome = answer.check(|request| request.url = url);
            assert_eq!(outcome.is_err(), scheme.needs_url(), "{}: {what}", answer.name);
        }
        for seconds in [-301, -300, 300, 301] {
            let at = DateTime::from_timestamp(answer.at + seconds, 0).unwrap();
            let outcome = check(&scheme, &answer.request(), &answer.keys(), at);
            let expected = match answer.name.as_str() {
                "standard-webhooks" | "stripe" | "slack" if seconds.abs() > 300 => Some(Refusal::SignatureExpired),
                _ => None,
            };
            assert_eq!(outcome.err(), expected, "{} after {seconds} s", answer.name);
        }
    }
}

#[test]
fn case_matters_where_it_is_significant() {
    for answer in Answer::all() {
        for (name, value) in answer
            .headers
            .iter()
            .filter(|(name, _)| !name.contains("timestamp") && *name != "content-type")
        {
            let other = if value.chars().any(char::is_lowercase) {
                value.to_uppercase()
            } else {
                value.to_lowercase()
            };
            let outcome = answer.check(|request| {
                drop(
                    request
                        .headers
                        .insert(HeaderName::try_from(name).unwrap(), other.parse().unwrap()),
                )
            });
            let hex = ["careem", "uber-eats"].contains(&answer.name.as_str())
                || ["x-talabat-signature", "x-deliveroo-hmac-sha256"].contains(&name.as_str());
            assert_eq!(outcome.is_ok(), hex, "{}: {name}", answer.name);
        }
    }
}
