//! What an answer means where every answer is 2xx and a code in its body says the rest. Pure.

use serde_json::Value;

use super::AnswerTable;

/// The HTTP status that says the same as a refusal of the hub's credentials.
const UNAUTHORISED: u16 = 401;
/// The HTTP status that says the same as a refusal of the request.
const REFUSED: u16 = 422;
/// The HTTP status that says the same as a failure that may pass.
const UNAVAILABLE: u16 = 503;
/// The HTTP status that says the same as an answer without a code.
const NO_ANSWER: u16 = 502;

impl AnswerTable {
    /// The HTTP status that says what the code in the body says. Other statuses than 2xx stay as they are.
    pub fn status(&self, status: u16, body: &[u8]) -> u16 {
        if !(200..300).contains(&status) {
            return status;
        }
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let code = match body.pointer(&self.code) {
            Some(Value::String(code)) => code.clone(),
            Some(Value::Number(code)) => code.to_string(),
            _ => return NO_ANSWER,
        };
        let is_in = |codes: &[String]| codes.iter().any(|one| is_meant(one, &code));
        if is_in(&self.ok) {
            status
        } else if is_in(&self.credentials) {
            UNAUTHORISED
        } else if is_in(&self.retry) {
            UNAVAILABLE
        } else {
            REFUSED
        }
    }
}

/// Whether a code of the file, perhaps with `*` at its end, stands for this one.
fn is_meant(listed: &str, code: &str) -> bool {
    match listed.strip_suffix('*') {
        Some(begin) => code.starts_with(begin),
        None => listed == code,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_says_what_an_answer_means() {
        let table: AnswerTable =
            toml::from_str("code = '/code'\nok = ['0']\ncredentials = ['1150001*']\nretry = ['3150001*', '429']")
                .unwrap();
        for (status, body, meaning) in [
            (200, r#"{"code":0,"message":"Success"}"#, 200),
            (204, r#"{"code":"0"}"#, 204),
            (200, r#"{"code":115000103}"#, 401),
            (200, r#"{"code":315000100}"#, 503),
            (200, r#"{"code":429}"#, 503),
            (200, r#"{"code":4290}"#, 422),
            (200, r#"{"code":115000201}"#, 422),
            (200, r#"{"data":{}}"#, 502),
            (200, "<html>", 502),
            (500, r#"{"code":0}"#, 500),
        ] {
            assert_eq!(table.status(status, body.as_bytes()), meaning, "{body}");
        }
    }
}
