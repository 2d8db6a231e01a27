//! Rate limits: `RATE_LIMIT_ENABLED`, `RATE_LIMIT_<PROVIDER>`, `RATE_LIMIT_DEFAULT`, `RATE_LIMIT_BYTES`, `RATE_LIMIT_ADDRESS`,
//! `<PROVIDER>_BRANCH_RATE_LIMIT`.
//!
//! Each limit is one value, `POINTS`, `POINTS/WINDOW` or `POINTS/WINDOW/BLOCK`: `1000`, `1000/60s`, `1000/60s/300s`. Omitted
//! parts have their default.

use std::{sync::Arc, time::Duration};

use super::{Bounds, ConfigError, Environment, prefix};
use crate::{provider::Catalogue, text::parse_duration};

/// Defaults of the contract: the points of single providers, then those of all others, in 60 s.
const PROVIDER_POINTS: [(&str, u64); 2] = [("careem", 1000), ("talabat", 500)];
const DEFAULT_POINTS: u64 = 100;
const DEFAULT_WINDOW: Duration = Duration::from_secs(60);
/// The contract's block for all others.
const ADDRESS_BLOCK: Duration = Duration::from_secs(600);
/// Most points of a limit: ten times what a machine could accept in the longest window.
const MAX_POINTS: u64 = 1_000_000_000;
/// Shortest and longest window: a counter stays in the stream `LIMITS` for two hours (`max_age`).
const SHORTEST_WINDOW: Duration = Duration::from_secs(1);
const LONGEST_WINDOW: Duration = Duration::from_secs(3600);
/// Longest block: a record stays in the stream `BLOCKS` for two days (`max_age`).
const LONGEST_BLOCK: Duration = Duration::from_secs(24 * 3600);

/// A branch may take one part in this many of its provider's quota by default. At a peak no branch of a chain sends a quarter of
/// all orders; with fewer branches, raise the quota instead.
const PARTS_OF_QUOTA: u64 = 4;
const BRANCH_POINTS: Bounds<u64> = Bounds {
    least: 1,
    most: MAX_POINTS,
    why: "with 0 the branches' secrets have no use; with the provider's whole quota one branch may use it up",
};

const ENABLED: &str = "RATE_LIMIT_ENABLED";
const DEFAULT: &str = "RATE_LIMIT_DEFAULT";
const ADDRESS: &str = "RATE_LIMIT_ADDRESS";
const BYTES: &str = "RATE_LIMIT_BYTES";
/// More than ten times the size of an order. With 1000 of them in a minute, a log of 56 GB lasts for more than half a day.
const DEFAULT_BYTES: usize = 64 * 1024;
const BYTES_A_POINT: Bounds<usize> = Bounds {
    least: 1024,
    most: 7 * 1024 * 1024,
    why: "no order is smaller, and no webhook is larger (MAX_PAYLOAD_SIZE)",
};
const EXPECTED: &str = "POINTS, POINTS/WINDOW or POINTS/WINDOW/BLOCK, such as 1000, 1000/60s or 1000/60s/300s";

/// A limit: points in a window, and the block that follows when they are exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Requests in a window, at least 1.
    pub points: u64,
    /// Length of a window, 1 s to 1 h.
    pub window: Duration,
    /// How long everything is refused after more than that; zero: until the window ends.
    pub block: Duration,
}

/// Rate limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimits {
    /// `RATE_LIMIT_ENABLED`.
    pub enabled: bool,
    /// `RATE_LIMIT_BYTES`: average size in bytes of a provider's webhooks when it uses its whole quota.
    pub bytes_a_point: u64,
    /// `RATE_LIMIT_ADDRESS`: refused requests of one address.
    pub address: Rule,
    /// `RATE_LIMIT_<PROVIDER>`, else `RATE_LIMIT_DEFAULT`: verified requests, for each known provider.
    pub providers: Vec<(Arc<str>, Rule)>,
    /// `<PROVIDER>_BRANCH_RATE_LIMIT`: the part of these that one branch's own secret proved, in the provider's window. In the order
    /// of `providers`.
    pub branch_points: Vec<u64>,
}

/// Reads all rate limits.
pub(super) fn rate_limits(env: &Environment, catalogue: &Catalogue) -> Result<RateLimits, ConfigError> {
    let of = |points, block| Rule {
        points,
        window: DEFAULT_WINDOW,
        block,
    };
    let default = rule(env, DEFAULT, of(DEFAULT_POINTS, Duration::ZERO))?;
    let providers = catalogue.names().map(|name| {
        let own = PROVIDER_POINTS.iter().find(|(known, _)| *known == name);
        let default = own.map_or(default, |(_, points)| of(*points, Duration::ZERO));
        Ok((Arc::from(name), rule(env, &variable(name), default)?))
    });
    let providers: Vec<(Arc<str>, Rule)> = providers.collect::<Result<_, ConfigError>>()?;
    let of_branch = |(name, rule): &(Arc<str>, Rule)| {
        let variable = format!("{}_BRANCH_RATE_LIMIT", prefix(name));
        env.whole(&variable, rule.points.div_ceil(PARTS_OF_QUOTA), &BRANCH_POINTS)
    };
    Ok(RateLimits {
        enabled: env.flag(ENABLED, true)?,
        bytes_a_point: env.bytes(BYTES, DEFAULT_BYTES, &BYTES_A_POINT)? as u64,
        address: rule(env, ADDRESS, of(DEFAULT_POINTS, ADDRESS_BLOCK))?,
        branch_points: providers.iter().map(of_branch).collect::<Result<_, ConfigError>>()?,
        providers,
    })
}

/// Whether a variable `RATE_LIMIT_…` is one that [`rate_limits`] reads.
pub(super) fn is_read(name: &str, catalogue: &Catalogue) -> bool {
    [ENABLED, DEFAULT, ADDRESS, BYTES].contains(&name) || catalogue.names().any(|known| variable(known) == name)
}

fn variable(provider: &str) -> String {
    format!("RATE_LIMIT_{}", prefix(provider))
}

fn rule(env: &Environment, name: &str, default: Rule) -> Result<Rule, ConfigError> {
    let Some(text) = env.text(name)? else {
        return Ok(default);
    };
    let refuse = |what: String| ConfigError::new(name, format_args!("{what}, found {text:?}"));
    let mut parts = text.split('/').map(str::trim);
    let points = parts
        .next()
        .and_then(|points| points.parse().ok())
        .ok_or_else(|| refuse(format!("expected {EXPECTED}")))?;
    if !(1..=MAX_POINTS).contains(&points) {
        return Err(refuse(format!("expected from 1 to {MAX_POINTS} points")));
    }
    let mut duration = |default, range: std::ops::RangeInclusive<Duration>, what: &str| match parts.next() {
        None => Ok(default),
        Some(part) => match parse_duration(part) {
            Ok(duration) if range.contains(&duration) => Ok(duration),
            Ok(_) => Err(refuse(what.to_owned())),
            Err(error) => Err(refuse(format!("expected {EXPECTED}: {error}"))),
        },
    };
    let window = duration(
        default.window,
        SHORTEST_WINDOW..=LONGEST_WINDOW,
        "expected a window from 1s to 1h",
    )?;
    let block = duration(
        default.block,
        Duration::ZERO..=LONGEST_BLOCK,
        "expected a block of at most 24h",
    )?;
    if parts.next().is_some() {
        return Err(refuse(format!("expected {EXPECTED}")));
    }
    Ok(Rule { points, window, block })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Result<RateLimits, ConfigError> {
        rate_limits(&pairs.iter().copied().collect(), &Catalogue::shipped())
    }

    fn seconds(points: u64, window: u64, block: u64) -> Rule {
        Rule {
            points,
            window: Duration::from_secs(window),
            block: Duration::from_secs(block),
        }
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let limits = of(&[]).unwrap();
        assert!(limits.enabled);
        let careem = limits.providers.iter().position(|(name, _)| &**name == "careem");
        assert_eq!(limits.branch_points[careem.unwrap()], 250, "a quarter");
        assert_eq!(limits.address, seconds(100, 60, 600));
        for (name, points) in [("careem", 1000), ("talabat", 500), ("deliveroo", 100)] {
            assert!(
                limits.providers.contains(&(name.into(), seconds(points, 60, 0))),
                "{name}"
            );
        }
    }

    #[test]
    fn parts_of_a_value_may_be_omitted() {
        for (value, expected) in [
            ("5", seconds(5, 60, 0)),
            ("5/2s", seconds(5, 2, 0)),
            (" 5 / 2m / 300s ", seconds(5, 120, 300)),
            ("1/1h/24h", seconds(1, 3600, 86_400)),
        ] {
            let limits = of(&[("RATE_LIMIT_CAREEM", value)]).unwrap();
            assert!(limits.providers.contains(&("careem".into(), expected)), "{value}");
        }
        assert_eq!(of(&[("RATE_LIMIT_ADDRESS", "7")]).unwrap().address, seconds(7, 60, 600));
        assert!(!of(&[("RATE_LIMIT_ENABLED", "false")]).unwrap().enabled);
    }

    #[test]
    fn invalid_values_are_named() {
        for (value, says) in [
            ("0", "from 1 to"),
            ("-1", "POINTS"),
            ("many", "POINTS"),
            ("5/", "duration"),
            ("5/60", "duration"),
            ("5/1s/1s/1s", "POINTS"),
            ("5/500ms", "1s to 1h"),
            ("5/2h", "1s to 1h"),
            ("5/1s/25h", "24h"),
            ("1000000001", "from 1 to"),
        ] {
            for name in ["RATE_LIMIT_CAREEM", "RATE_LIMIT_DEFAULT", "RATE_LIMIT_ADDRESS"] {
                let error = of(&[(name, value)]).unwrap_err();
                assert_eq!(error.variable, name);
                assert!(error.message.contains(says), "{error}");
            }
        }
        assert!(of(&[("RATE_LIMIT_ENABLED", "perhaps")]).is_err());
    }

    #[test]
    fn only_known_limits_are_read() {
        let is_read = |name| is_read(name, &Catalogue::shipped());
        assert!(is_read("RATE_LIMIT_CAREEM_POS") && is_read("RATE_LIMIT_ADDRESS"));
        assert!(!is_read("RATE_LIMIT_CARREM") && !is_read("RATE_LIMIT_POINTS"));
    }
}
