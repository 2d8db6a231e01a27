//! Which rights the NATS user of the hub lacks, by name. `nats.conf` is both the configuration and the list of the required rights. Pure.

use serde::Deserialize;

/// The configuration that grants them.
const CONFIGURATION: &str = include_str!("../../../../nats.conf");
/// Rights that only instances of earlier versions use, during an upgrade.
const OF_EARLIER_VERSIONS: [&str; 2] = ["sch.>", "due.>"];

/// The answer to `$SYS.REQ.USER.INFO`, as far as it matters here.
#[derive(Debug, Default, Deserialize)]
pub(super) struct UserInfo {
    data: User,
}

#[derive(Debug, Default, Deserialize)]
struct User {
    /// Absent where the user may do everything.
    permissions: Option<Permissions>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Permissions {
    publish: Permission,
    subscribe: Permission,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Permission {
    /// Absent where everything is allowed that is not denied.
    allow: Option<Vec<String>>,
    deny: Option<Vec<String>>,
}

/// A right of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Right {
    /// `publish` or `subscribe`.
    pub(super) what: &'static str,
    pub(super) subject: &'static str,
}

/// What the hub's user must be allowed.
pub(super) fn required() -> Vec<Right> {
    let block = CONFIGURATION.split_once("user: hub\n").map_or("", |(_, rest)| rest);
    let of = |what: &'static str| {
        let (_, list) = block.split_once(&format!("{what}: [")).unwrap_or_default();
        let (list, _) = list.split_once("]\n").unwrap_or_default();
        let lines = list.lines().filter(|line| !line.trim_start().starts_with('#'));
        let subjects = lines.flat_map(|line| line.split('"').skip(1).step_by(2));
        subjects.map(move |subject| Right { what, subject })
    };
    of("publish")
        .chain(of("subscribe"))
        .filter(|right| !OF_EARLIER_VERSIONS.contains(&right.subject))
        .collect()
}

impl UserInfo {
    /// The required rights that this user lacks.
    pub(super) fn lacking(&self) -> Vec<Right> {
        let Some(permissions) = &self.data.permissions else {
            return Vec::new();
        };
        let mut required = required();
        required.retain(|right| {
            let permission = if right.what == "publish" {
                &permissions.publish
            } else {
                &permissions.subscribe
            };
            !permission.grants(right.subject)
        });
        required
    }
}

impl Permission {
    fn grants(&self, subject: &str) -> bool {
        let is_allowed = self
            .allow
            .as_ref()
            .is_none_or(|allowed| allowed.iter().any(|pattern| covers(pattern, subject)));
        let denied = self.deny.iter().flatten();
        is_allowed && !denied.into_iter().any(|pattern| meet(pattern, subject))
    }
}

/// Whether a pattern matches everything that another one matches.
fn covers(pattern: &str, other: &str) -> bool {
    let (mut pattern, mut other) = (pattern.split('.'), other.split('.'));
    loop {
        match (pattern.next(), other.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(token)) if token != ">" => {}
            (Some(one), Some(token)) if one == token => {}
            _ => return false,
        }
    }
}

/// Whether two patterns match a common subject.
fn meet(one: &str, other: &str) -> bool {
    let (mut one, mut other) = (one.split('.'), other.split('.'));
    loop {
        match (one.next(), other.next()) {
            (Some(">"), Some(_)) | (Some(_), Some(">")) | (None, None) => return true,
            (Some(one), Some(other)) if one == other || one == "*" || other == "*" => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_required_rights_are_those_of_the_configuration() {
        let required = required();
        let has = |what, subject| required.contains(&Right { what, subject });
        assert!(has("publish", "orders.>") && has("publish", "$JS.API.STREAM.INFO.EVENTS"));
        assert!(has("publish", "$SYS.REQ.USER.INFO") && has("publish", "$JS.API.STREAM.MSG.GET.KEYS"));
        assert!(has("subscribe", "_INBOX_hub.>") && has("subscribe", "hub.>"));
        let listens = required.iter().filter(|right| right.what == "subscribe");
        assert!(listens.count() == 2 && required.len() > 30, "{required:?}");
    }

    #[test]
    fn each_missing_right_is_named() {
        let lacking = |permissions: serde_json::Value| {
            let info: UserInfo = serde_json::from_value(json!({ "data": { "permissions": permissions } })).unwrap();
            info.lacking()
        };
        assert_eq!(lacking(json!(null)), []);
        let all: Vec<_> = required().iter().map(|right| right.subject).collect();
        assert_eq!(
            lacking(json!({ "publish": { "allow": all }, "subscribe": { "allow": [">"] } })),
            []
        );
        assert_eq!(
            lacking(json!({ "publish": { "allow": ["$JS.>", "$SYS.>", "*.>"] } })),
            []
        );
        let without = |subject: &str| all.iter().filter(|one| **one != subject).copied().collect::<Vec<_>>();
        let keys = "$JS.API.STREAM.MSG.GET.KEYS";
        let missing = lacking(json!({ "publish": { "allow": without(keys) }, "subscribe": { "allow": ["hub.*"] } }));
        assert_eq!(
            missing
                .iter()
                .map(|right| (right.what, right.subject))
                .collect::<Vec<_>>(),
            [("publish", keys), ("subscribe", "_INBOX_hub.>"), ("subscribe", "hub.>")]
        );
        let denied = lacking(json!({ "publish": { "deny": ["menus.*.careem.>"] } }));
        assert_eq!(
            denied,
            [Right {
                what: "publish",
                subject: "menus.>"
            }]
        );
    }
}
