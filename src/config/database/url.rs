//! `DATABASE_URL`: PostgreSQL's own parameters, and those that Prisma adds.
//!
//! Prisma manages the platform's tables, and operators copy its URL. Each of its parameters is applied, reported as without
//! effect, or refused with the setting to use instead. Values are never quoted.

use super::{super::ConfigError, SCHEMA_EXPECTED, is_schema};

/// Values of `sslmode` that the client library does not know. The hub always verifies certificates, so they mean `require`.
const VERIFIED: [&str; 2] = ["verify-full", "verify-ca"];
/// Parameters that the client library knows.
const KNOWN: [&str; 19] = [
    "host",
    "port",
    "user",
    "password",
    "dbname",
    "sslmode",
    "sslnegotiation",
    "channel_binding",
    "application_name",
    "options",
    "connect_timeout",
    "tcp_user_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_retries",
    "target_session_attrs",
    "load_balance_hosts",
    "hostaddr",
];
/// Parameters of other clients' pools and drivers; they have no effect here.
const WITHOUT_EFFECT: [&str; 6] = [
    "pool_timeout",
    "socket_timeout",
    "statement_cache_size",
    "max_connection_lifetime",
    "max_idle_connection_lifetime",
    "single_use_connections",
];
/// Parameters of certificates, for which the hub has its own variables.
const CERTIFICATES: [&str; 6] = [
    "sslcert",
    "sslkey",
    "sslrootcert",
    "sslidentity",
    "sslpassword",
    "sslcrl",
];

/// The content of a URL.
pub(super) struct DatabaseUrl {
    pub(super) postgres: tokio_postgres::Config,
    /// `schema`: the schema of the platform's tables.
    pub(super) schema: Option<String>,
    /// `connection_limit`.
    pub(super) connection_limit: Option<usize>,
    pub(super) without_effect: Vec<String>,
}

impl DatabaseUrl {
    /// Settings that were given without a URL.
    pub(super) fn of(postgres: tokio_postgres::Config) -> Self {
        Self {
            postgres,
            schema: None,
            connection_limit: None,
            without_effect: Vec::new(),
        }
    }

    /// Parses a URL.
    ///
    /// # Errors
    /// If it is no such URL, or has a parameter that the hub must not ignore. The message does not quote the URL.
    pub(super) fn parse(url: &str) -> Result<Self, ConfigError> {
        // A password may contain a question mark.
        let from = url.find('@').unwrap_or(0);
        let end = url[from..].find('?').map_or(url.len(), |at| from + at);
        let (address, parameters) = url.split_at(end);
        let (mut kept, mut read) = (Vec::new(), Self::of(tokio_postgres::Config::new()));
        let parameters = parameters
            .trim_start_matches('?')
            .split('&')
            .filter(|one| !one.is_empty());
        for parameter in parameters {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            match name {
                "sslmode" if VERIFIED.contains(&value) => kept.push("sslmode=require".to_owned()),
                name if KNOWN.contains(&name) => kept.push(parameter.to_owned()),
                name => read.note(name, value)?,
            }
        }
        let separator = if kept.is_empty() { "" } else { "?" };
        // The parser's own message could quote the password, so it is dropped.
        read.postgres = format!("{address}{separator}{}", kept.join("&")).parse().map_err(|_| {
            refused(
                "expected postgres://user:password@host:port/database, perhaps with ?sslmode=require; certificates are \
                 named by DATABASE_TLS_CA, DATABASE_TLS_CERT and DATABASE_TLS_KEY",
            )
        })?;
        Ok(read)
    }

    /// Handles a parameter that the client library does not know.
    fn note(&mut self, name: &str, value: &str) -> Result<(), ConfigError> {
        match name {
            "schema" => {
                if !is_schema(value) {
                    return Err(refused(format!("schema: {SCHEMA_EXPECTED}")));
                }
                self.schema = Some(value.to_owned());
            }
            "connection_limit" => {
                let expected = |_| refused("connection_limit: expected a number");
                self.connection_limit = Some(value.parse().map_err(expected)?);
            }
            "pgbouncer" if value == "false" => {}
            "pgbouncer" => {
                return Err(refused(
                    "pgbouncer says that a pooler in transaction mode is there, which the hub cannot work with; name PostgreSQL \
                     itself (Prisma's directUrl) or a pool with pool_mode = session",
                ));
            }
            "sslaccept" if value == "strict" => {}
            "sslaccept" => {
                return Err(refused(
                    "sslaccept: a certificate is always verified; name its authority in DATABASE_TLS_CA",
                ));
            }
            name if CERTIFICATES.contains(&name) => {
                return Err(refused(format!(
                    "{name}: certificates are named by DATABASE_TLS_CA, DATABASE_TLS_CERT and DATABASE_TLS_KEY"
                )));
            }
            name if WITHOUT_EFFECT.contains(&name) => self.without_effect.push(name.to_owned()),
            name => {
                let name: String = name
                    .chars()
                    .filter(|c| c.is_ascii_alphanumeric() || *c == '_')
                    .take(40)
                    .collect();
                return Err(refused(format!("unknown parameter {name:?}")));
            }
        }
        Ok(())
    }
}

fn refused(message: impl std::fmt::Display) -> ConfigError {
    ConfigError::new("DATABASE_URL", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "postgres://hub:sec?ret@db.example:6000/platform";

    fn parse(parameters: &str) -> Result<DatabaseUrl, String> {
        DatabaseUrl::parse(&format!("{BASE}{parameters}")).map_err(|error| error.to_string())
    }

    #[test]
    fn prismas_parameters_are_understood_or_named() {
        let url = parse(
            "?schema=shop&connection_limit=3&pool_timeout=10&sslmode=verify-full&connect_timeout=7&pgbouncer=false",
        );
        let url = url.unwrap();
        assert_eq!((url.schema.as_deref(), url.connection_limit), (Some("shop"), Some(3)));
        assert_eq!(url.without_effect, ["pool_timeout"]);
        assert_eq!(url.postgres.get_dbname(), Some("platform"));
        assert_eq!(url.postgres.get_password(), Some(&b"sec?ret"[..]));
        assert_eq!(url.postgres.get_ssl_mode(), tokio_postgres::config::SslMode::Require);
        assert!(parse("").unwrap().without_effect.is_empty());
    }

    /// PostgreSQL's URLs may hold parts of the address, such as a socket, as parameters.
    #[test]
    fn parts_of_the_address_may_stand_among_the_parameters() {
        let url =
            DatabaseUrl::parse("postgres:///platform?host=/run/postgresql&port=6000&user=hub&password=word").unwrap();
        let socket = tokio_postgres::config::Host::Unix("/run/postgresql".into());
        assert_eq!(url.postgres.get_hosts(), [socket]);
        assert_eq!(
            (url.postgres.get_ports(), url.postgres.get_user()),
            (&[6000][..], Some("hub"))
        );
        assert_eq!(url.postgres.get_password(), Some(&b"word"[..]));
        let url = DatabaseUrl::parse("postgres://hub:word@localhost/platform?host=/cloudsql/p:r:i").unwrap();
        assert!(
            url.postgres
                .get_hosts()
                .contains(&tokio_postgres::config::Host::Unix("/cloudsql/p:r:i".into()))
        );
    }

    #[test]
    fn unsupported_parameters_are_refused_without_their_values() {
        for (parameters, named) in [
            ("?pgbouncer=true", "pool_mode = session"),
            ("?connection_limit=many", "connection_limit"),
            ("?schema=a%22b", "schema"),
            ("?schema=", "schema"),
            ("?sslaccept=accept_invalid_certs", "DATABASE_TLS_CA"),
            ("?sslcert=/secret/place", "DATABASE_TLS_CA"),
            ("?sslmode=require&whatever=secret", "\"whatever\""),
            ("?sslmode=secret", "expected postgres://"),
        ] {
            let error = parse(parameters)
                .err()
                .unwrap_or_else(|| panic!("{parameters} is taken"));
            assert!(
                error.contains("DATABASE_URL") && error.contains(named),
                "{parameters}: {error}"
            );
            assert!(
                !error.contains("secret") && !error.contains("sec?ret"),
                "{parameters}: {error}"
            );
        }
    }
}
