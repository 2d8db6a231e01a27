//! The schema of the platform's tables: every statement names it.
//!
//! A name without a schema depends on the session's `search_path`: for a role named `hub` the schema `hub` comes first. So
//! statements are written as `{platform}.webhook_logs`, and each [`Connection`](super::Connection) inserts the schema of
//! `DATABASE_SCHEMA`. Sessions have that schema as their `search_path` as well, for triggers of the platform that name its
//! tables without a schema.
//!
//! The statements that write rows name three schemas, because a rebuild makes the rows of all tables in another one:
//! `{platform}` and `{own}` are where the rows go, `{types}` is where the types of the platform's columns are.

use std::borrow::Cow;

use tokio_postgres::Statement;

/// The placeholder of the schema of the platform's tables in a statement.
const PLATFORM: &str = "{platform}";
/// The placeholder of the schema with the types of their columns.
const TYPES: &str = "{types}";
/// The placeholder of the schema of the hub's own tables that a projection writes.
const OWN: &str = "{own}";
/// The schema of those tables.
const HUB: &str = "hub";

/// The names of this installation.
#[derive(Debug, Clone)]
pub struct Names {
    schema: String,
    platform: String,
    types: String,
    own: String,
}

impl Names {
    /// With the platform's tables in this schema.
    pub fn new(schema: &str) -> Self {
        Self {
            schema: schema.to_owned(),
            platform: identifier(schema),
            types: identifier(schema),
            own: identifier(HUB),
        }
    }

    /// With all tables that projections write in `beside`, and the types of the platform's columns where they are.
    #[must_use]
    pub fn beside(&self, beside: &str) -> Self {
        Self {
            platform: identifier(beside),
            own: identifier(beside),
            ..self.clone()
        }
    }

    /// The platform's schema, as `DATABASE_SCHEMA` has it.
    pub fn schema(&self) -> &str {
        &self.schema
    }

    /// The text of a statement with the schema's name in it.
    pub fn fill<'a>(&self, sql: &'a str) -> Cow<'a, str> {
        let mut text = Cow::Borrowed(sql);
        for (place, schema) in [(PLATFORM, &self.platform), (TYPES, &self.types), (OWN, &self.own)] {
            if text.contains(place) {
                text = Cow::Owned(text.replace(place, schema));
            }
        }
        text
    }
}

/// A name as SQL takes it, whatever it consists of.
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// What a connection runs: a text, or a statement prepared from one.
pub trait Runs {
    /// With the names of the installation.
    fn with<'a>(&'a self, names: &Names) -> Run<'a>;
}

/// See [`Runs`].
pub enum Run<'a> {
    /// A text.
    Text(Cow<'a, str>),
    /// A statement.
    Prepared(&'a Statement),
}

impl Runs for str {
    fn with<'a>(&'a self, names: &Names) -> Run<'a> {
        Run::Text(names.fill(self))
    }
}

impl Runs for String {
    fn with<'a>(&'a self, names: &Names) -> Run<'a> {
        Run::Text(names.fill(self))
    }
}

impl Runs for Statement {
    fn with<'a>(&'a self, _: &Names) -> Run<'a> {
        Run::Prepared(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_placeholder_gets_the_schema() {
        let names = Names::new("Shop.1");
        let sql = "SELECT 1 FROM {platform}.a JOIN {platform}.b ON true";
        assert_eq!(names.fill(sql), "SELECT 1 FROM \"Shop.1\".a JOIN \"Shop.1\".b ON true");
        assert!(matches!(names.fill("SELECT 1 FROM hub.cursors"), Cow::Borrowed(_)));
        assert_eq!(identifier("a\"b"), "\"a\"\"b\"");
        let rows = "INSERT INTO {platform}.a SELECT 'x'::{types}.t FROM {own}.orders";
        assert_eq!(
            names.fill(rows),
            "INSERT INTO \"Shop.1\".a SELECT 'x'::\"Shop.1\".t FROM \"hub\".orders"
        );
        assert_eq!(
            names.beside("other").fill(rows),
            "INSERT INTO \"other\".a SELECT 'x'::\"Shop.1\".t FROM \"other\".orders"
        );
    }
}
