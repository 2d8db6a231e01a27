//! Durations as people write them: `30s`, `5m`, `1h`.

use std::time::Duration;

/// Longest duration that makes sense anywhere here.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// Reads `250ms`, `30s`, `5m`, `2h`, `1d`.
///
/// # Errors
/// What was expected, if it is none of these or longer than a year.
pub fn parse_duration(text: &str) -> Result<Duration, &'static str> {
    const EXPECTED: &str = "expected a duration such as 250ms, 30s, 5m, 2h or 1d";
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.trim().parse().map_err(|_| EXPECTED)?;
    let ms_per_unit = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(EXPECTED),
    };
    let duration = number
        .checked_mul(ms_per_unit)
        .map(Duration::from_millis)
        .filter(|one| *one <= LONGEST);
    duration.ok_or("expected a duration of at most a year")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        for (text, ms) in [
            ("250ms", 250),
            ("30s", 30_000),
            ("5m", 300_000),
            (" 1h ", 3_600_000),
            ("0s", 0),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in [
            "",
            "30",
            "s",
            "-1s",
            "1.5h",
            "5x",
            "99999999999999999999s",
            "999999d",
            "٣s",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
