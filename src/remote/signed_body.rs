//! Requests that show who the hub is by fields of their JSON body and a signature over all of them. Pure.

use chrono::{DateTime, Utc};
use secrecy::ExposeSecret;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::provider::outbound::{Auth, ClientCredentials};

/// The body with the fields of `auth`, for a request to this URL at a time. A body that is no object becomes one.
pub(super) fn sign(url: &str, body: Value, auth: &Auth, client: &ClientCredentials, now: DateTime<Utc>) -> Value {
    let Auth::SignedBody {
        id,
        token,
        time,
        signature,
    } = auth
    else {
        return body;
    };
    let mut fields = match body {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    let name = client.id.as_deref().unwrap_or_default();
    let number = name.parse::<i64>().map(Value::from);
    fields.insert(id.clone(), number.unwrap_or_else(|_| name.into()));
    if let Some(secret) = &client.access_token {
        fields.insert(token.clone(), secret.expose_secret().into());
    }
    fields.insert(time.clone(), now.timestamp().into());
    fields.remove(signature);
    let secret = client.secret.as_ref().map_or("", |secret| secret.expose_secret());
    let signed = signed_text(url, &fields);
    let digest = Sha256::new().chain_update(signed).chain_update(secret).finalize();
    fields.insert(signature.clone(), hex::encode(digest).into());
    Value::Object(fields)
}

/// What is signed, without the secret: the URL, `?`, and the fields sorted by their names (a JSON object of this library is).
fn signed_text(url: &str, fields: &Map<String, Value>) -> String {
    let mut names: Vec<_> = fields.keys().collect();
    names.sort();
    let pairs = names.into_iter().map(|name| match &fields[name] {
        Value::String(text) => format!("{name}={text}"),
        other => format!("{name}={other}"),
    });
    format!("{url}?{}", pairs.collect::<Vec<_>>().join("&"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn keeta() -> Auth {
        toml::from_str(
            "kind = 'signed_body'\nid = 'appId'\ntoken = 'accessToken'\ntime = 'timestamp'\nsignature = 'sig'",
        )
        .unwrap()
    }

    /// The example of Keeta's Authorization Guide.
    #[test]
    fn the_published_example_is_reproduced() {
        let client = ClientCredentials {
            id: Some("123".into()),
            secret: Some("abc".into()),
            access_token: Some("abc".into()),
            key_id: None,
        };
        // The guide sends the category as a text, which the library would sort otherwise.
        let category = r#"{"id":123,"name":"test","type":0,"description":null}"#;
        let url = "https://open.mykeeta.com/api/open/product/shopcategory/update";
        let now = DateTime::from_timestamp(1_682_566_749, 0).unwrap();
        let body = json!({ "shopId": 123, "shopCategory": category });
        let signed = sign(url, body, &keeta(), &client, now);
        assert_eq!(
            signed,
            json!({
                "appId": 123, "accessToken": "abc", "timestamp": 1_682_566_749, "shopId": 123, "shopCategory": category,
                "sig": "48eb6d562bb0673e3db753831f032be237fc19d1e5c33fcb5386d89c0eebca86",
            })
        );
        let another = sign(url, json!({ "sig": "x" }), &keeta(), &client, now);
        assert_ne!(another["sig"], signed["sig"]);
        assert_eq!(another["sig"].as_str().unwrap().len(), 64);
    }
}
