//! The schedule of retries: `RETRY_DELAYS`, `RETRY_MAX_ATTEMPTS`.

use std::time::Duration;

use super::{Bounds, ConfigError, Environment, bounds::DurationText};
use crate::{retry::Schedule, text::parse_duration};

/// The contract's schedule.
const DEFAULT_DELAYS: &str = "1m,5m,15m,30m,1h,2h,6h,12h,24h";
/// Most delays of a schedule.
const MAX_DELAYS: usize = 100;
const DELAY: Bounds<Duration> = Bounds {
    least: Duration::from_millis(100),
    most: Duration::from_secs(7 * 24 * 3600),
    why: "a shorter delay repeats requests as fast as a backend can fail, and no order is worth a retry after more than a week",
};
const RETRIES: Bounds<u32> = Bounds {
    least: 1,
    most: 100,
    why: "with 0 an order is given up at its first failure, and more attempts only delay the dead letter",
};
/// Longest time from the first request to the last. An event that has left the log (`max_age` of `EVENTS`, 90 days) can no longer
/// be sent.
const LONGEST: Duration = Duration::from_secs(60 * 24 * 3600);

/// `RETRY_DELAYS` and `RETRY_MAX_ATTEMPTS`.
pub(super) fn schedule(env: &Environment) -> Result<Schedule, ConfigError> {
    const DELAYS: &str = "RETRY_DELAYS";
    let text = env.text_or(DELAYS, DEFAULT_DELAYS)?;
    let refuse = |what: String| ConfigError::new(DELAYS, format_args!("{what}; an example: {DEFAULT_DELAYS}"));
    let delays = text.split(',').map(|part| match parse_duration(part) {
        Ok(delay) if !DELAY.hold(&delay) => Err(refuse(format!(
            "expected delays from {} to {}, found {:?}: {}",
            DurationText(DELAY.least),
            DurationText(DELAY.most),
            part.trim(),
            DELAY.why
        ))),
        Ok(delay) => Ok(delay),
        Err(error) => Err(refuse(format!("{:?}: {error}", part.trim()))),
    });
    let delays = delays.collect::<Result<Vec<_>, _>>()?;
    if delays.len() > MAX_DELAYS {
        return Err(refuse(format!("more than {MAX_DELAYS} delays")));
    }
    let max_retries = env.whole("RETRY_MAX_ATTEMPTS", 10, &RETRIES)?;
    let schedule = Schedule { delays, max_retries };
    let all = schedule.longest();
    if all > LONGEST {
        return Err(refuse(format!(
            "with RETRY_MAX_ATTEMPTS={max_retries} the last retry would come after {} days; at most {} are allowed, for the \
             log keeps its events for 90",
            all.as_secs() / 86_400,
            LONGEST.as_secs() / 86_400,
        )));
    }
    Ok(schedule)
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
    fn invalid_values_are_named() {
        for (variable, value, says) in [
            ("RETRY_DELAYS", "1m,,5m", "\"\""),
            ("RETRY_DELAYS", "1m,soon", "\"soon\""),
            ("RETRY_DELAYS", "0s", "from 100ms to 7d"),
            ("RETRY_DELAYS", "8d", "from 100ms to 7d"),
            ("RETRY_DELAYS", "7d", "after 70 days"),
            ("RETRY_DELAYS", "1m,30", "\"30\""),
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
