//! The schedule of retries.

use std::time::Duration;

use super::{ConfigError, Environment, parse_duration};
use crate::journal::settle::Schedule;

/// The contract's schedule.
const DEFAULT_DELAYS: &str = "1m,5m,15m,30m,1h,2h,6h,12h,24h";
/// Most delays of a schedule, and most retries.
const MAX_DELAYS: usize = 100;
/// Shortest delay: a schedule of nothing would ask a failing backend as fast as it can fail.
const SHORTEST: Duration = Duration::from_millis(100);

/// `RETRY_DELAYS` and `RETRY_MAX_ATTEMPTS`.
pub(super) fn schedule(env: &Environment) -> Result<Schedule, ConfigError> {
    const DELAYS: &str = "RETRY_DELAYS";
    let text = env.text_or(DELAYS, DEFAULT_DELAYS)?;
    let refuse = |what: String| ConfigError::new(DELAYS, format_args!("{what}; an example: {DEFAULT_DELAYS}"));
    let delays = text.split(',').map(|part| match parse_duration(part) {
        Ok(delay) if delay < SHORTEST => Err(refuse(format!("{:?} is less than 100ms", part.trim()))),
        Ok(delay) => Ok(delay),
        Err(error) => Err(refuse(format!("{:?}: {error}", part.trim()))),
    });
    let delays = delays.collect::<Result<Vec<_>, _>>()?;
    if delays.len() > MAX_DELAYS {
        return Err(refuse(format!("more than {MAX_DELAYS} delays")));
    }
    const RETRIES: &str = "RETRY_MAX_ATTEMPTS";
    const EXPECTED: &str = "a whole number from 1 to 100";
    let max_retries = env.parse(RETRIES, 10u32, EXPECTED)?;
    if max_retries == 0 || max_retries as usize > MAX_DELAYS {
        return Err(ConfigError::new(RETRIES, format_args!("expected {EXPECTED}")));
    }
    Ok(Schedule { delays, max_retries })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Result<Schedule, ConfigError> {
        schedule(&pairs.iter().copied().collect())
    }

    #[test]
    fn the_contracts_schedule_is_the_default() {
        let default = of(&[]).unwrap();
        let minutes: Vec<_> = default.delays.iter().map(|delay| delay.as_secs() / 60).collect();
        assert_eq!(minutes, [1, 5, 15, 30, 60, 120, 360, 720, 1440]);
        assert_eq!(default.max_retries, 10);
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        for (variable, value, says) in [
            ("RETRY_DELAYS", "1m,,5m", "\"\""),
            ("RETRY_DELAYS", "1m,soon", "\"soon\""),
            ("RETRY_DELAYS", "0s", "less than 100ms"),
            ("RETRY_MAX_ATTEMPTS", "0", "from 1 to 100"),
            ("RETRY_MAX_ATTEMPTS", "101", "from 1 to 100"),
        ] {
            let error = of(&[(variable, value)]).unwrap_err();
            assert_eq!(error.variable, variable);
            assert!(error.message.contains(says), "{error}");
        }
        assert_eq!(of(&[("RETRY_DELAYS", "1s, 2s")]).unwrap().delays.len(), 2);
    }
}
