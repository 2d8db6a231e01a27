//! The rule by examples; [`model`] tries it on random histories.

use chrono::{DateTime, TimeDelta};
use serde_json::json;

use super::{super::news::Accepted, *};
use crate::{event::EventId, order::body};

mod model;

fn content_of(total: u8, hour: u8) -> AnnouncedContent {
    let body = json!({
        "originalWebhook": {},
        "transformedOrder": {
            "items": [],
            "pricing": { "currency": "GBP", "total": total },
            "placedAt": format!("2025-10-01T{hour:02}:00:00Z"),
        },
        "metadata": {},
    });
    body::announced(body.to_string().as_bytes()).unwrap()
}

/// A word of the webhook with this number; webhooks are accepted in that order.
fn said(number: u8, says: Says, status: Option<Status>, end: End) -> Said {
    Said {
        word: Word {
            webhook: EventId::of_webhook("just-eat", &[&[number]]),
            accepted: Accepted {
                first: Some(u64::from(number)),
                received_at: DateTime::UNIX_EPOCH + TimeDelta::seconds(i64::from(number)),
            },
            status,
        },
        says,
        end,
        ended_at: Some(u64::from(number)),
    }
}

/// Words as `2 order £3 Same @7`: the webhook, what it says, its end, and the place of that, which is the webhook's number otherwise.
fn words(text: &str) -> Vec<Said> {
    let word = |text: &str| {
        let mut parts = text.split_whitespace();
        let number = parts.next().unwrap().parse().unwrap();
        let (says, status) = match parts.next().unwrap() {
            kind @ ("order" | "another") => {
                let total = parts.next().unwrap().trim_start_matches('£').parse().unwrap();
                let content = content_of(total, if kind == "order" { 12 } else { 19 });
                (Says::Order(Some(Box::new(content))), Some(Status::Received))
            }
            "lines" => (Says::Lines, None),
            "refund" => (Says::LinesAndRefund, None),
            status => (Says::Status, Some(Status::from_word(status).unwrap())),
        };
        let end = parts.next().map_or(End::LeftOut, |word| {
            let known = [
                End::Created,
                End::OfItsOwn,
                End::Told,
                End::Amended,
                End::OutOfTurn,
                End::Same,
                End::Differs,
                End::NothingToCancel,
                End::HalfTold,
                End::HalfUncertain,
                End::Refused,
                End::Uncertain,
            ];
            known.into_iter().find(|end| format!("{end:?}") == word).unwrap()
        });
        let place = parts.next().map(|place| place.trim_start_matches('@').parse().unwrap());
        Said {
            ended_at: place.or(Some(u64::from(number))),
            ..said(number, says, status, end)
        }
    };
    text.split(", ").filter(|text| !text.is_empty()).map(word).collect()
}

/// Each row: the word that is handled, the others, and what supersedes it.
#[test]
fn a_later_word_supersedes_an_older_one() {
    use Newer::{AnnouncedAnew, CalledOff, Cancelled, Lines, LinesOfRefund, News};
    let rows = [
        ("2 order £2", "1 order £3 Created, 3 order £3 Same", Some(Lines)),
        ("2 order £2", "1 order £3 Created, 3 order £4 Amended", Some(Lines)),
        ("2 order £2", "1 order £3 Created, 3 order £4 Uncertain", Some(Lines)),
        ("2 order £2", "1 order £3 Created, 3 order £2 Uncertain", Some(Lines)),
        ("2 order £2", "1 order £3 Created, 3 order £4 HalfTold", Some(Lines)),
        ("2 order £2", "1 order £3 Created, 3 lines Told", Some(Lines)),
        ("2 order £2", "1 order £3 Created, 3 order £4 Refused", None),
        ("2 order £2", "1 order £3 Created, 3 order £4 OfItsOwn", None),
        ("2 order £2", "1 order £3 Created, 3 cancelled Told", Some(Cancelled)),
        ("2 order £2", "1 another £3 Created, 3 cancelled Told", None),
        ("2 order £2", "1 order £3 Created", None),
        ("2 order £2", "2 order £2 Created, 3 order £4 Amended", None),
        ("1 order £3", "2 order £2 Created", None),
        ("1 order £2", "2 order £2 Created", None),
        ("1 order £2", "2 another £3 Created", None),
        ("1 lines", "2 order £2 Created", None),
        ("2 lines", "1 order £2 Refused, 3 order £2 Created", Some(Lines)),
        ("2 lines", "1 order £2 Created, 3 order £2 Same", Some(Lines)),
        ("2 lines", "1 order £2 Created, 3 lines Told", Some(Lines)),
        ("2 lines", "1 order £2 Created, 3 lines Refused", None),
        ("2 lines", "1 order £2 Created, 3 cancelled Refused", Some(Cancelled)),
        ("2 refund", "1 order £2 Created, 3 lines Told", Some(LinesOfRefund)),
        (
            "2 refund",
            "1 order £2 Created, 3 refund Uncertain",
            Some(LinesOfRefund),
        ),
        ("2 refund", "1 order £2 Created, 3 cancelled Told", None),
        ("1 refund", "2 order £2 Created", None),
        ("1 order £2", "2 cancelled Told", Some(CalledOff)),
        ("1 order £2", "2 cancelled Refused", Some(CalledOff)),
        ("1 order £2", "2 cancelled NothingToCancel", Some(CalledOff)),
        ("2 order £2", "1 cancelled Told", None),
        ("1 order £2", "2 another £3 Refused, 3 cancelled Refused", None),
        ("1 order £2", "2 cancelled Told, 3 another £3 Refused", Some(CalledOff)),
        (
            "1 order £2",
            "2 another £3 Refused, 3 order £2 Refused, 4 cancelled Told",
            Some(CalledOff),
        ),
        (
            "2 order £2",
            "1 order £3 Created, 3 another £4 Differs, 4 cancelled Told",
            None,
        ),
        ("1 order £2", "2 ready Refused", None),
        (
            "2 cancelled",
            "1 order £2 Refused, 3 order £3 Created",
            Some(AnnouncedAnew),
        ),
        (
            "2 cancelled",
            "1 order £2 Refused, 3 order £3 Uncertain",
            Some(AnnouncedAnew),
        ),
        (
            "2 cancelled",
            "1 order £2 Uncertain, 3 order £3 Created",
            Some(AnnouncedAnew),
        ),
        ("2 cancelled", "1 order £2 Refused, 3 order £3 Refused", None),
        ("2 cancelled", "1 order £2 Created, 3 order £3 Amended", None),
        ("2 cancelled", "1 order £2 Created, 3 order £3 OfItsOwn", None),
        ("2 ready", "1 order £2 Refused, 3 order £3 Created", None),
        (
            "2 refund",
            "1 order £2 Refused, 3 cancelled Told, 4 order £3 Created",
            Some(LinesOfRefund),
        ),
        ("1 accepted", "2 ready Told", Some(News)),
        ("1 accepted", "2 ready Uncertain", Some(News)),
        ("1 ready", "2 accepted Uncertain", Some(News)),
        ("1 accepted", "2 cancelled Uncertain", Some(News)),
        ("2 ready", "1 order £2 Created, 3 order £3 Amended", None),
        ("2 ready", "1 order £2 Created, 3 order £2 Told", Some(News)),
        ("2 ready", "1 order £2 Created, 3 order £2 Uncertain", None),
        ("2 ready", "1 order £2 Created, 3 order £3 HalfTold", None),
        ("2 ready", "1 order £2 Created, 3 order £3 HalfUncertain", Some(News)),
    ];
    for (own, history, expected) in rows {
        let newer = newer(&words(own)[0], &words(history));
        assert_eq!(newer.map(|(_, newer)| newer), expected, "{own} in {history}");
    }
}

/// An older announcement amends no order that a later one created; of a provider that does not amend so, it is shown to a person.
#[test]
fn an_older_announcement_amends_nothing() {
    let base = &words("2 order £2 Created")[0];
    let again = |own: &str, amends| again(&words(own)[0], base, &[], amends);
    assert!(again("1 order £3", true).is_superseded);
    let shown = again("1 order £3", false);
    assert_eq!(
        (shown.is_superseded, shown.difference),
        (false, Some(Difference::Content))
    );
    assert!(!again("1 order £2", true).is_superseded && !again("3 order £3", true).is_superseded);
    assert!(!again("1 another £3", true).is_superseded);
}

/// What is perhaps another order with the number tells this one no status, and has told it none.
#[test]
fn another_order_is_no_news() {
    let ready = |text: &str| {
        let mut said = words(text).remove(0);
        said.word.status = Some(Status::Ready);
        said
    };
    let base = &words("1 order £2 Created")[0];
    assert!(again(&ready("3 order £2"), base, &[], false).is_news);
    assert!(!again(&ready("3 another £3"), base, &[], false).is_news);
    assert_eq!(status(base, &[ready("2 order £3 Differs")]), Some(Status::Ready));
    assert_eq!(status(base, &[ready("2 another £3 Differs")]), Some(Status::Received));
    // Neither does it supersede a status of this order.
    let accepted = &words("2 accepted")[0];
    let newer = |differs: &str| newer(accepted, &[base.clone(), ready(differs)]).map(|(_, newer)| newer);
    assert_eq!(newer("3 order £3 Differs"), Some(Newer::News));
    assert_eq!(newer("3 another £3 Differs"), None);
}

/// Each row: what was said after the order was created, and the total that the backend has, if that is certain.
#[test]
fn what_the_backend_has_is_known_or_not() {
    let base = &words("1 order £3 Created")[0];
    let rows = [
        ("", Some(3)),
        ("2 order £2 Amended", Some(2)),
        ("2 order £2 HalfTold", Some(2)),
        ("2 order £2 Refused", Some(3)),
        ("2 order £2 Uncertain", None),
        ("2 order £3 Uncertain", Some(3)),
        ("2 another £4 Uncertain", Some(3)),
        ("3 order £4 Told, 2 order £2 Uncertain", Some(4)),
        ("2 lines Told", None),
        ("0 lines Told", None),
        ("2 lines Refused", Some(3)),
        ("2 order £2 OutOfTurn @5, 3 order £4 Told", Some(2)),
        ("2 order £2 OutOfTurn @5, 3 order £4 Told, 6 order £2 Same", Some(2)),
        ("2 order £2 OutOfTurn @5, 3 order £4 Told, 6 order £3 Told", Some(3)),
        (
            "2 order £2 OutOfTurn @5, 3 order £4 Told, 4 order £1 OutOfTurn @7",
            Some(1),
        ),
        ("2 order £2 OutOfTurn @5, 3 order £4 Uncertain @6", None),
        ("2 order £2 OutOfTurn @5, 3 lines Told @6", None),
        ("2 order £2 OutOfTurn @5, 3 lines Told", Some(2)),
    ];
    for (said, expected) in rows {
        let history = words(said);
        let has = content(base, &history).cloned();
        assert_eq!(has, expected.map(|total| content_of(total, 12)), "{said}");
    }
}
