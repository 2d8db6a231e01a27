//! Classes of PostgreSQL errors: few, each with a different remedy. Pure.

use super::Error;
use crate::text::words;

words! {
    /// A class of errors; label `class` of `database_trouble` and `database_errors_total`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    pub enum Class {
        /// No connection: it is away, starts or goes down, or the connection broke.
        NoConnection = "no_connection",
        /// It refused user, password or certificate.
        RefusedLogin = "refused_login",
        /// It takes no writes: a standby, or `default_transaction_read_only`.
        ReadOnly = "read_only",
        /// Its disk is full.
        NoSpace = "no_space",
        /// A statement took too long: the server is overloaded, or another session holds a lock.
        TimeLimit = "time_limit",
        /// A lock could not be had, or two transactions waited for each other.
        Lock = "lock",
        /// It has no connection left for the hub.
        TooManyConnections = "too_many_connections",
        /// The hub's role may not do something.
        MissingRight = "missing_right",
        /// A table or a column is missing, or is another than expected.
        Schema = "schema",
        /// A pooler hands sessions to several clients.
        Pooler = "pooler",
        /// It is not PostgreSQL: the event log could not be read.
        Log = "log",
        /// Anything else.
        Other = "other",
    }
}

impl Class {
    /// Of an error on the way from the log into the tables.
    pub fn of(error: &anyhow::Error) -> Self {
        match error.downcast_ref::<Error>() {
            None => Self::Log,
            Some(Error::Pooled) => Self::Pooler,
            Some(Error::Deadline(_)) => Self::TimeLimit,
            Some(Error::Schema(_)) => Self::Schema,
            Some(known) => known.code().map_or(Self::NoConnection, Self::of_code),
        }
    }

    /// Of PostgreSQL's code for what is wrong (SQLSTATE; its manual, appendix A).
    fn of_code(code: &str) -> Self {
        match code {
            "25006" => Self::ReadOnly,
            // disk_full, and io_error, which a failing disk causes.
            "53100" | "58030" => Self::NoSpace,
            // query_canceled: the statement's time limit; 25P03: the time limit of an idle transaction.
            "57014" | "25P03" => Self::TimeLimit,
            "55P03" | "40P01" | "40001" => Self::Lock,
            "53300" => Self::TooManyConnections,
            "42501" => Self::MissingRight,
            "3D000" => Self::Schema,
            code => match code.get(..2) {
                Some("08" | "57") => Self::NoConnection,
                Some("28") => Self::RefusedLogin,
                Some("42" | "3F") => Self::Schema,
                _ => Self::Other,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::telemetry::metrics::declared::{METRICS, Values};

    #[test]
    fn classes_by_code() {
        for (code, class) in [
            ("25006", Class::ReadOnly),
            ("53100", Class::NoSpace),
            ("57014", Class::TimeLimit),
            ("40P01", Class::Lock),
            ("53300", Class::TooManyConnections),
            ("42501", Class::MissingRight),
            ("42P01", Class::Schema),
            ("57P03", Class::NoConnection),
            ("28P01", Class::RefusedLogin),
            ("XX000", Class::Other),
            ("", Class::Other),
        ] {
            assert_eq!(Class::of_code(code), class, "{code}");
        }
    }

    #[test]
    fn errors_outside_postgresql_have_a_class() {
        let of = |error: anyhow::Error| Class::of(&error.context("the tables"));
        assert_eq!(of(Error::Deadline(Duration::from_secs(12)).into()), Class::TimeLimit);
        assert_eq!(of(Error::Pooled.into()), Class::Pooler);
        assert_eq!(of(Error::unreachable("refused", None).into()), Class::NoConnection);
        assert_eq!(
            of(Error::unreachable("no room", Some("53300")).into()),
            Class::TooManyConnections
        );
        assert_eq!(of(Error::Schema("no tables".to_owned()).into()), Class::Schema);
        assert_eq!(of(anyhow::anyhow!("cannot look up EVENTS")), Class::Log);
    }

    #[test]
    fn every_class_is_a_declared_label() {
        let metric = METRICS.iter().find(|metric| metric.name == "database_trouble").unwrap();
        let Values::Of(values) = metric.labels[0].values else {
            panic!("{metric:?}")
        };
        assert_eq!(values, Class::ALL.map(Class::as_str));
    }
}
