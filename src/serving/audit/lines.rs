//! Limits the log lines of refusals: some of each kind are written, the rest is counted. Pure; time is passed in.

use std::time::Instant;

/// Lines at once of one kind, after a quiet time.
const BURST: f64 = 20.0;
/// Lines a second of one kind for long: some 25 MB a day, which every rotation of logs bears.
const PER_SECOND: f64 = 1.0;

/// Lines by kind: as many kinds as there are providers and codes, and requests of the backend; a hundred perhaps.
#[derive(Debug, Default)]
pub struct Lines(Vec<Kind>);

/// Lines that were not written.
#[derive(Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// The kind of request.
    pub kind: &'static str,
    /// The provider.
    pub provider: String,
    /// `error.code` of the answer.
    pub code: &'static str,
    /// How many.
    pub count: u64,
}

#[derive(Debug)]
struct Kind {
    kind: &'static str,
    provider: String,
    code: &'static str,
    lines: f64,
    filled: Instant,
    left_out: u64,
}

impl Lines {
    /// Whether a line of this kind is written; it is counted where not.
    pub fn takes(&mut self, kind: &'static str, provider: &str, code: &'static str, now: Instant) -> bool {
        let known = self
            .0
            .iter()
            .position(|one| one.kind == kind && one.code == code && one.provider == provider);
        let at = known.unwrap_or_else(|| {
            self.0.push(Kind {
                kind,
                provider: provider.to_owned(),
                code,
                lines: BURST,
                filled: now,
                left_out: 0,
            });
            self.0.len() - 1
        });
        let kind = &mut self.0[at];
        let elapsed = now.saturating_duration_since(kind.filled);
        kind.lines = elapsed.as_secs_f64().mul_add(PER_SECOND, kind.lines).min(BURST);
        kind.filled = now;
        if kind.lines < 1.0 {
            kind.left_out += 1;
            return false;
        }
        kind.lines -= 1.0;
        true
    }

    /// How many of each kind were left out since the last call.
    pub fn left_out(&mut self) -> Vec<LeftOut> {
        let some = self.0.iter_mut().filter(|kind| kind.left_out > 0);
        let left_out = some.map(|kind| LeftOut {
            kind: kind.kind,
            provider: kind.provider.clone(),
            code: kind.code,
            count: std::mem::take(&mut kind.left_out),
        });
        left_out.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_flood_becomes_a_few_lines_and_a_count() {
        let began = Instant::now();
        let mut lines = Lines::default();
        let at = |ms: u64| began + Duration::from_millis(ms);
        let written = (0..20_000)
            .filter(|ms| lines.takes("webhook", "careem", "INVALID_SIGNATURE", at(*ms)))
            .count();
        assert!((38..=40).contains(&written), "{written}");
        // Each kind has its own number of lines.
        assert!(lines.takes("webhook", "_", "INVALID_SIGNATURE", at(20_000)));
        assert!(lines.takes("webhook", "careem", "IP_NOT_ALLOWED", at(20_000)));
        assert!(lines.takes("menu_sync", "careem", "INVALID_SIGNATURE", at(20_000)));
        let left_out = LeftOut {
            kind: "webhook",
            provider: "careem".into(),
            code: "INVALID_SIGNATURE",
            count: 20_000 - written as u64,
        };
        assert_eq!(lines.left_out(), [left_out]);
        assert_eq!(lines.left_out(), []);
        assert_eq!(lines.0.len(), 4);
        // A quiet time does not raise the number above its maximum.
        let night = began + Duration::from_secs(8 * 3600);
        let written = (0..1000).filter(|_| lines.takes("webhook", "careem", "INVALID_SIGNATURE", night));
        assert_eq!(written.count(), 20);
    }
}
