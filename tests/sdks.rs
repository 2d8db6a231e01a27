//! What the official SDKs sign, and what becomes of it when it is tampered with: `make sdks`. Each preset runs on a hub of
//! its own, in place of Careem's scheme and with Careem's body; the SDKs sign in programs of their own (`tests/sdks`).

use std::{
    path::PathBuf,
    process::Stdio,
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use crate::harness::{
    World,
    at_end::Ends,
    careem::{Answer, MERCHANT, http, order},
    hub::Hub,
    outside::CAREEM,
};

/// Where a provider believes the hub to be.
const PUBLIC_URL: &str = "https://hooks.example.com";
/// Further away from the hub's clock than every preset tolerates, in seconds.
const TOO_FAR: i64 = 3600;

/// A program that signs.
struct Sdk {
    _child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

/// A request as an SDK signed it.
#[derive(Clone)]
struct Signed {
    path: String,
    headers: Vec<(String, String)>,
    body: String,
}

fn tools() -> PathBuf {
    let tools = std::env::var_os("WEBHOOK_HUB_TOOLS").map(PathBuf::from);
    let tools = tools.unwrap_or_else(|| [env!("CARGO_MANIFEST_DIR"), ".dev", "tools"].iter().collect());
    tools.join("sdks")
}

impl Sdk {
    fn python() -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sdks/sign.py");
        let mut command = Command::new("python3");
        Self::start(command.arg(script).env("PYTHONPATH", tools().join("python")))
    }

    fn node() -> Self {
        Self::start(Command::new("node").arg(tools().join("node/sign.mjs")))
    }

    fn start(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("run `make sdks`, which installs the SDKs");
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self {
            _child: child,
            stdin,
            lines: BufReader::new(stdout).lines(),
        }
    }

    async fn sign(&mut self, case: &Case, secret: &str, id: &str, body: &str, time: i64) -> Signed {
        let url = format!("{PUBLIC_URL}/api/webhooks/careem");
        let work = json!({
            "sdk": case.sdk, "secret": secret, "url": url, "id": id, "body": body, "time": time,
            "claims": { "service": "middleware" },
        });
        self.stdin.write_all(format!("{work}\n").as_bytes()).await.unwrap();
        let line = self
            .lines
            .next_line()
            .await
            .unwrap()
            .expect("the SDK signs; its error is above");
        let signed: Value = serde_json::from_str(&line).unwrap();
        let headers = signed["headers"].as_object().unwrap();
        Signed {
            path: signed["url"].as_str().unwrap()[PUBLIC_URL.len()..].to_owned(),
            headers: headers
                .iter()
                .map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()))
                .collect(),
            body: signed["body"].as_str().unwrap().to_owned(),
        }
    }
}

impl Signed {
    async fn post(&self, hub: &Hub) -> Answer {
        let mut request = http()
            .post(format!("{}{}", hub.url(), self.path))
            .body(self.body.clone());
        request = request
            .header("x-merchant-id", MERCHANT)
            .header("content-type", "application/json");
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let response = request.send().await.unwrap();
        Answer {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            text: response.text().await.unwrap(),
        }
    }

    fn with(mut self, name: &str, change: impl Fn(&str) -> String) -> Self {
        let header = self.headers.iter_mut().find(|(known, _)| known == name);
        let header = header.unwrap_or_else(|| panic!("{name} is not sent"));
        header.1 = change(&header.1);
        self
    }

    fn with_body(self, body: String) -> Self {
        Self { body, ..self }
    }
}

/// A preset, its SDK, and the part that its signature covers.
struct Case {
    preset: &'static str,
    sdk: &'static str,
    /// Secret, and another one of the same form.
    secrets: [&'static str; 2],
    /// Variable that the secret is given in.
    variable: &'static str,
    /// Header of the signature; none if it stands in the body.
    signature: Option<&'static str>,
    /// Header of the signed time, and of the signed id.
    time: Option<&'static str>,
    id: Option<&'static str>,
    /// Whether each byte of the body is signed.
    covers_body: bool,
    /// Whether the letters' case counts: in base64 it does, in hex not.
    case_counts: bool,
}

const SIMPLE: Case = Case {
    preset: "",
    sdk: "",
    secrets: ["first-secret-of-the-tests", "other-secret-of-the-tests"],
    variable: "CAREEM_WEBHOOK_SECRET",
    signature: None,
    time: None,
    id: None,
    covers_body: true,
    case_counts: false,
};
const STANDARD_WEBHOOKS: Case = Case {
    preset: "standard-webhooks",
    sdk: "standardwebhooks",
    secrets: [
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
    ],
    signature: Some("webhook-signature"),
    time: Some("webhook-timestamp"),
    id: Some("webhook-id"),
    case_counts: true,
    ..SIMPLE
};
const STRIPE: Case = Case {
    preset: "stripe",
    sdk: "stripe",
    signature: Some("stripe-signature"),
    ..SIMPLE
};
const GITHUB: Case = Case {
    preset: "github",
    sdk: "github",
    signature: Some("x-hub-signature-256"),
    ..SIMPLE
};
const SLACK: Case = Case {
    preset: "slack",
    sdk: "slack",
    signature: Some("x-slack-signature"),
    time: Some("x-slack-request-timestamp"),
    ..SIMPLE
};
const SQUARE: Case = Case {
    preset: "square",
    sdk: "square",
    signature: Some("x-square-hmacsha256-signature"),
    case_counts: true,
    ..SIMPLE
};
const TWILIO: Case = Case {
    preset: "twilio",
    sdk: "twilio",
    signature: Some("x-twilio-signature"),
    case_counts: true,
    ..SIMPLE
};
const ADYEN: Case = Case {
    preset: "adyen",
    sdk: "adyen",
    secrets: [
        "44782DEF547AAA06C910C43932B1EB0C71FC68D9D0C057550C48EC2ACF6BA056",
        "00782DEF547AAA06C910C43932B1EB0C71FC68D9D0C057550C48EC2ACF6BA056",
    ],
    covers_body: false,
    ..SIMPLE
};
const JWT: Case = Case {
    preset: "delivery-hero",
    sdk: "jwt",
    secrets: [
        "secret-of-sixty-four-bytes-that-nobody-uses-outside-of-tests-0001",
        "secret-of-sixty-four-bytes-that-nobody-uses-outside-of-tests-0002",
    ],
    variable: "CAREEM_JWT_SECRET",
    signature: Some("authorization"),
    covers_body: false,
    case_counts: true,
    ..SIMPLE
};

fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

/// Careem's file, for webhooks of which only Adyen's fields are signed: they name the order and what became of it.
fn file_of_adyen() -> String {
    let item = "/notificationItems/0/NotificationRequestItem";
    CAREEM
        .replace("order_id = \"/id\"", &format!("order_id = \"{item}/pspReference\""))
        .replace("type = \"/status\"", &format!("type = \"{item}/eventCode\""))
        .replace(
            "types = { created",
            "types = { AUTHORISATION = \"order_created\", created",
        )
}

/// Careem's order with what Adyen signs beside it.
fn body(case: &Case, id: &str) -> String {
    let mut body: Value = serde_json::from_str(&order(id)).unwrap();
    if case.preset == "adyen" {
        body["notificationItems"] = json!([{ "NotificationRequestItem": {
            "pspReference": id, "merchantAccountCode": "restaurant", "merchantReference": "order-1",
            "amount": { "value": 1624, "currency": "EUR" }, "eventCode": "AUTHORISATION", "success": "true",
        } }]);
    }
    body.to_string()
}

/// The last letter of a text with its case changed.
fn other_case(text: &str) -> String {
    let at = text.rfind(|c: char| c.is_ascii_alphabetic()).unwrap();
    let letter = text[at..].chars().next().unwrap();
    let other = if letter.is_ascii_lowercase() {
        letter.to_ascii_uppercase()
    } else {
        letter.to_ascii_lowercase()
    };
    format!("{}{other}{}", &text[..at], &text[at + 1..])
}

/// What must not pass, by name.
async fn tampered(sdk: &mut Sdk, case: &Case, good: &Signed) -> Vec<(&'static str, Signed)> {
    let mut all = Vec::new();
    let with_body = |body: String| good.clone().with_body(body);
    if case.covers_body {
        all.push(("another body", with_body(good.body.replacen("Ahmed", "Ahmad", 1))));
        all.push(("one byte more", with_body(format!("{} ", good.body))));
        all.push(("one byte less", with_body(good.body[..good.body.len() - 1].to_owned())));
        let again: Value = serde_json::from_str(&good.body).unwrap();
        all.push(("written anew", with_body(serde_json::to_string_pretty(&again).unwrap())));
    }
    if case.preset == "adyen" {
        all.push(("another amount", with_body(good.body.replacen("1624", "1625", 1))));
        all.push((
            "no signature",
            with_body(good.body.replacen("hmacSignature", "hmac", 1)),
        ));
    }
    if let Some(name) = case.signature {
        // Two characters: base64 without its padding says the same.
        let cut = |text: &str| text[..text.len() - 2].to_owned();
        all.push(("a signature cut short", good.clone().with(name, cut)));
        all.push(("an empty signature", good.clone().with(name, |_| String::new())));
        all.push((
            "a signature of nothing but its prefix",
            good.clone().with(name, |text| text[..4].to_owned()),
        ));
        if case.case_counts {
            all.push(("another case", good.clone().with(name, other_case)));
        }
        let mut without = good.clone();
        without.headers.retain(|(known, _)| known != name);
        all.push(("no signature", without));
    }
    if let Some(name) = case.time {
        all.push((
            "another time",
            good.clone()
                .with(name, |time| format!("{}", time.parse::<i64>().unwrap() + 1)),
        ));
    }
    if let Some(name) = case.id {
        all.push(("another id", good.clone().with(name, |id| format!("{id}x"))));
    }
    let other = sdk
        .sign(case, case.secrets[1], "id-other", &body(case, "CR-other"), now())
        .await;
    all.push(("another secret", other));
    all
}

async fn as_its_sdk_signs(sdk: &mut Sdk, case: &Case) {
    let world = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    if case.preset == "adyen" {
        std::fs::write(folder.path().join("careem.toml"), file_of_adyen()).unwrap();
    }
    let settings = world
        .settings()
        .set("PROVIDERS_DIR", folder.path().display())
        .set("CAREEM_VERIFICATION", case.preset)
        .set(case.variable, case.secrets[0])
        .set("PUBLIC_URL", PUBLIC_URL);
    let hub = Hub::start(&settings).await;
    let good = sdk
        .sign(case, case.secrets[0], "id-1", &body(case, "CR-1"), now())
        .await;
    for (what, request) in tampered(sdk, case, &good).await {
        let answer = request.post(&hub).await;
        assert_eq!(answer.status, 401, "{}, {what}: {answer:?}", case.preset);
    }
    if case.time.is_some() || case.preset == "stripe" {
        for off in [-TOO_FAR, TOO_FAR] {
            let late = sdk
                .sign(case, case.secrets[0], "id-2", &body(case, "CR-2"), now() + off)
                .await;
            let answer = late.post(&hub).await;
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (401, "SIGNATURE_EXPIRED"),
                "{}",
                case.preset
            );
        }
    }
    let answer = good.post(&hub).await;
    assert_eq!(answer.status, 200, "{}: {answer:?}", case.preset);
    let again = good.post(&hub).await;
    assert_eq!(again.json()["data"]["duplicate"], true, "{}: {again:?}", case.preset);
    world.at_end(Ends::forwarded(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the SDKs: make sdks"]
async fn python() {
    let mut sdk = Sdk::python();
    for case in [STANDARD_WEBHOOKS, STRIPE, SLACK, SQUARE, TWILIO, ADYEN, JWT] {
        as_its_sdk_signs(&mut sdk, &case).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the SDKs: make sdks"]
async fn node() {
    let mut sdk = Sdk::node();
    for case in [STANDARD_WEBHOOKS, STRIPE, GITHUB, JWT] {
        as_its_sdk_signs(&mut sdk, &case).await;
    }
}
