//! Whether another machine's clock agrees with this one's. Pure.

use chrono::{DateTime, TimeDelta, Utc};

use super::Finding;

/// Most that the clocks may differ. Ages of orders, deadlines and the times in signatures are compared across machines.
const MOST_SKEW: TimeDelta = TimeDelta::seconds(5);

/// Judges the clock of a server that was read between two moments here. What the request took is uncertain, and counts in the server's
/// favour.
pub(super) fn judge(
    area: &'static str,
    server: DateTime<Utc>,
    (asked, answered): (DateTime<Utc>, DateTime<Utc>),
) -> Finding {
    let ahead = (server - answered).max(TimeDelta::zero());
    let behind = (asked - server).max(TimeDelta::zero());
    let (skew, word) = if ahead > behind {
        (ahead, "ahead of")
    } else {
        (behind, "behind")
    };
    let seconds = skew.num_milliseconds() as f64 / 1000.0;
    if skew > MOST_SKEW {
        let message = format!("the clock of {area} is {seconds:.1} s {word} this machine's");
        return Finding::problem(
            area,
            "clock_skew",
            message,
            "synchronise the clocks of all machines (chrony, systemd-timesyncd)",
        );
    }
    Finding::fine(
        area,
        "clock",
        format!("its clock agrees with this machine's, within {:.1} s", seconds.max(0.1)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::queries::doctor::Grade;

    #[test]
    fn the_time_of_the_request_is_no_skew() {
        let asked = Utc::now();
        let answered = asked + TimeDelta::seconds(20);
        let grade = |server| judge("NATS", server, (asked, answered)).grade;
        for fine in [
            asked,
            answered,
            asked - TimeDelta::seconds(5),
            answered + TimeDelta::seconds(5),
        ] {
            assert_eq!(grade(fine), Grade::Fine);
        }
        let behind = judge("NATS", asked - TimeDelta::seconds(6), (asked, answered));
        assert_eq!(behind.message, "the clock of NATS is 6.0 s behind this machine's");
        assert_eq!(grade(answered + TimeDelta::seconds(6)), Grade::Problem);
    }
}
