use proptest::prelude::*;

use super::*;

fn lane(due_at: DateTime<Utc>) -> Lane {
    Lane {
        provider: "careem".into(),
        head: 7,
        requests: 4,
        due_at,
        waiting: vec![(9, 0), (12, 0)],
        for_creation: true,
        creations: None,
        retried: Vec::new(),
        branch: None,
        tried: Vec::new(),
        is_mixed: false,
    }
}

/// A request for a retry needs the event that it takes up again, as long as the request is in the lane.
fn tried(sequence: u64, due_at: DateTime<Utc>, for_creation: bool) -> TriedEvent {
    TriedEvent {
        sequence,
        due_at,
        for_creation,
    }
}

#[test]
fn a_lane_needs_the_events_that_are_retried() {
    let now = Utc::now();
    let mut lane = Lane::new("careem".into(), 70, 0, now, false);
    assert_eq!((lane.needs(70), lane.needs_from()), (70, 70));
    lane.note_retried(70, Some(30));
    for (sequence, original) in [(90, None), (95, Some(3)), (97, Some(40))] {
        lane.join(sequence, 1, false);
        lane.note_retried(sequence, original);
        lane.note_retried(sequence, original);
    }
    let written = serde_json::to_vec(&lane).unwrap();
    let lane: Lane = serde_json::from_slice(&written).unwrap();
    assert_eq!(lane.retried, [(70, 30), (95, 3), (97, 40)]);
    assert_eq!([70, 90, 95].map(|event| lane.needs(event)), [30, 90, 3]);
    assert_eq!(lane.needs_from(), 3);
    assert_eq!(
        (lane.first_that_needs(2), lane.first_that_needs(50)),
        (None, Some((95, 1)))
    );
    let rest = lane.clone().without(95);
    assert_eq!((rest.needs_from(), &*rest.waiting), (30, &[(90, 1), (97, 1)][..]));
    let rest = rest.advance(now).unwrap();
    assert_eq!((rest.head, rest.needs_from()), (90, 40));
    let lost = lane.clone().mended(|event| event == 95, Some(rest), now).unwrap();
    assert_eq!(lost.needs_from(), 30);
    // An earlier version writes the lane without this field.
    let mut older: serde_json::Value = serde_json::to_value(&lane).unwrap();
    older.as_object_mut().unwrap().remove("retried");
    let mut older: Lane = serde_json::from_value(older).unwrap();
    assert_eq!(older.needs_from(), 70);
    older.note_retried(70, Some(30));
    assert_eq!(older.needs_from(), 30);
    // Without retries the message is as it was.
    let plain = serde_json::to_string(&Lane::new("careem".into(), 7, 0, now, false)).unwrap();
    assert!(!plain.contains("retried"), "{plain}");
}

#[test]
fn a_lane_is_due_by_the_clock() {
    let (now, hour) = (Utc::now(), TimeDelta::hours(1));
    assert!(lane(now).is_due(now));
    assert!(!lane(now + hour).is_due(now));
    let written = serde_json::to_vec(&lane(now + hour)).unwrap();
    let read: Lane = serde_json::from_slice(&written).unwrap();
    assert!(read.is_due(now + hour));
}

#[test]
fn a_head_that_let_its_creation_pass_keeps_its_place_and_count() {
    let now = Utc::now();
    let led = lane(now).led_by(20, now);
    assert_eq!((led.head, led.requests, led.for_creation), (20, 0, false));
    let next = led.advance(now).unwrap();
    assert_eq!((next.head, next.requests), (7, 4));
    let rest = next.advance(now).unwrap().advance(now).unwrap();
    assert_eq!((rest.head, rest.advance(now)), (12, None));
}

/// A refused order takes nothing from the news that let it pass: their time is as it was, and the next order passes them.
#[test]
fn news_that_let_another_order_pass_wait_on() {
    let (now, later) = (Utc::now(), Utc::now() + TimeDelta::hours(1));
    let mut lane = Lane::new("careem".into(), 7, 4, later, true);
    lane.join(9, 0, false);
    let led = lane.led_by(20, now);
    assert_eq!(led.next_for_creation(), Some(tried(7, later, true)));
    let mut led: Lane = serde_json::from_slice(&serde_json::to_vec(&led).unwrap()).unwrap();
    led.join(25, 0, true);
    let due_at = led.next_for_creation().unwrap().due_at;
    let next = led.clone().advance(now).unwrap();
    assert_eq!((next.head, &*next.tried, next.due_at), (7, &[][..], now));
    let next = next.waits_on(due_at, Some(1), now);
    assert_eq!(
        (next.head, next.due_at, &*next.tried),
        (25, now, &[tried(7, later, true)][..])
    );
    let next = next.advance(now).unwrap().waits_on(due_at, None, now);
    assert_eq!(
        (next.head, next.requests, next.due_at, next.for_creation),
        (7, 4, later, true)
    );
    // The news have ended meanwhile.
    let rest = led.mended(|event| event == 20, None, now).unwrap();
    assert_eq!((rest.head, rest.tried), (7, Vec::new()));
}

/// The order of the news is there, so they come before the order that they let pass.
#[test]
fn news_get_their_place_back() {
    let (now, later) = (Utc::now(), Utc::now() + TimeDelta::hours(1));
    let mut lane = Lane::new("careem".into(), 7, 4, later, true);
    assert_eq!(lane.clone().led_back(20, now), None);
    lane.join(9, 0, false);
    let mut led = Lane {
        requests: 2,
        ..lane.led_by(20, now)
    };
    led.join(25, 0, false);
    let back = led.led_back(7, now).unwrap();
    assert_eq!(
        (back.head, back.requests, back.due_at, back.for_creation),
        (7, 4, now, true)
    );
    assert_eq!(back.tried, [tried(20, now, false)], "and it keeps its own time");
    assert_eq!(back.waiting, [(9, 0), (20, 2), (25, 0)]);
    // If they wait for their order all the same, the next order passes them again.
    assert_eq!(back.creation(), Some(Some(1)));
}

#[test]
fn a_lane_knows_which_of_those_that_wait_creates_the_order() {
    let now = Utc::now();
    assert_eq!(lane(now).creation(), None, "an earlier version did not say");
    let mut lane = Lane::new("careem".into(), 7, 0, now, false);
    assert_eq!(lane.creation(), Some(None));
    for (sequence, creates) in [(9, false), (12, true), (15, false), (20, true)] {
        lane.join(sequence, 0, creates);
    }
    let written = serde_json::to_vec(&lane).unwrap();
    let lane: Lane = serde_json::from_slice(&written).unwrap();
    assert_eq!(lane.creation(), Some(Some(1)));
    let led = lane.clone().led_by_waiting(1, now);
    assert_eq!(
        (led.head, led.creation()),
        (12, Some(Some(3))),
        "the other one is behind 7, 9 and 15"
    );
    let rest = lane.clone().mended(|event| event == 12, None, now).unwrap();
    assert_eq!(rest.creation(), Some(Some(2)));
    let rest = lane.mended(|event| event >= 12, None, now).unwrap();
    assert_eq!(rest.creation(), Some(None));
    // An earlier version writes the lane without this field.
    let mut older: serde_json::Value = serde_json::to_value(&rest).unwrap();
    older.as_object_mut().unwrap().remove("creations");
    assert_eq!(serde_json::from_value::<Lane>(older).unwrap().creation(), None);
}

/// Each event that joins writes the lane anew. That grows with what waits, which has a limit.
#[test]
fn joining_events_write_no_more_than_the_limit() {
    let mut lane = Lane::new("careem".into(), 1_000_000_000, 0, Utc::now(), false);
    let (mut largest, mut all) = (0, 0);
    for number in 1..=super::super::MAX_WAITING as u64 {
        lane.join(1_000_000_000 + number, 0, false);
        largest = serde_json::to_vec(&lane).unwrap().len();
        all += largest;
        if number == 5 {
            assert!(all < 1250, "an honest order: {all} bytes for five");
        }
    }
    assert!(largest < 16_000 && all < 8_000_000, "{largest}, {all}");
}

#[test]
fn ended_events_leave_a_lane_and_missing_ones_join_it() {
    let now = Utc::now();
    let mended = |ended: &[u64], missing| lane(now).mended(|event| ended.contains(&event), missing, now);
    assert_eq!(mended(&[], None), Some(lane(now)));
    assert_eq!(mended(&[7, 9, 12], None), None);
    let rest = mended(&[7, 9], None).unwrap();
    assert_eq!((rest.head, rest.requests, rest.for_creation), (12, 0, false));
    let rest = mended(&[9], None).unwrap();
    assert_eq!((rest.head, rest.requests, rest.for_creation), (7, 4, true));
    assert_eq!(rest.waiting, [(12, 0)]);

    let later = now + TimeDelta::minutes(1);
    let missing = Lane {
        head: 8,
        requests: 2,
        waiting: vec![(20, 0)],
        ..lane(later)
    };
    assert_eq!(mended(&[7, 9, 12], Some(missing.clone())), Some(missing.clone()));
    let all = mended(&[9], Some(missing.clone())).unwrap();
    assert_eq!((all.head, all.due_at), (7, now));
    assert_eq!(all.waiting, [(8, 2), (12, 0), (20, 0)]);
    let missing = Lane {
        for_creation: false,
        ..missing
    };
    let all = mended(&[7], Some(missing)).unwrap();
    assert_eq!((all.head, all.requests, all.due_at), (8, 2, later));
    assert_eq!(all.waiting, [(9, 0), (12, 0), (20, 0)]);
}

/// A head that waits for the event that creates its order is tried at once where that event may be in the other lane. Any
/// other keeps its time.
#[test]
fn a_head_that_waits_for_its_order_is_tried_when_lanes_are_put_together() {
    let now = Utc::now();
    let later = now + TimeDelta::minutes(1);
    let of = |head, for_creation| Lane::new("careem".into(), head, 3, later, for_creation);
    for (is_lost, for_creation) in [(true, true), (true, false), (false, true), (false, false)] {
        let (news, order) = (of(7, for_creation), of(20, false));
        let (found, missing) = if is_lost { (order, news) } else { (news, order) };
        let all = found.mended(|_| false, Some(missing), now).unwrap();
        assert_eq!((all.head, &*all.waiting), (7, &[(20, 3)][..]));
        assert_eq!(all.due_at, if for_creation { now } else { later }, "lost: {is_lost}");
        assert!(!all.for_creation);
    }
}

/// What happens to a lane with orders of several branches.
#[derive(Debug, Clone)]
enum Step {
    /// An event of this branch joins; it was tried beside the lane and is due then, or waits behind one of its branch.
    Join(u8, i64),
    /// The head is tried, and is due again then.
    Park(i64),
    /// The head has ended.
    End,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0u8..3, 0i64..60).prop_map(|(branch, due)| Step::Join(branch, due)),
        3 => (0i64..60).prop_map(Step::Park),
        2 => Just(Step::End),
    ]
}

proptest! {
    /// Whatever happens, the events of one branch lead in the order in which they joined, and no event sleeps behind another branch's that is due later.
    #[test]
    fn branches_in_a_lane_do_not_wait_for_each_other(steps in prop::collection::vec(step(), 1..60)) {
        let start = DateTime::UNIX_EPOCH;
        // For each event, by its sequence: its branch, and when it is due. The first is branch 0's.
        let mut events = vec![(0u8, 0i64)];
        let mut left: Vec<u64> = vec![0];
        let mut lane = Some(Lane::new("careem".into(), 0, 0, start, false));
        for (now, step) in steps.into_iter().enumerate() {
            let (mut current, now) = match lane.take() {
                Some(lane) => (lane, now as i64),
                None => break,
            };
            let time = |second: i64| start + TimeDelta::seconds(second);
            match step {
                Step::Join(branch, due) => {
                    let sequence = events.len() as u64;
                    let is_apart = left.iter().all(|one| events[*one as usize].0 != branch);
                    let due = if is_apart { now + due } else { 0 };
                    events.push((branch, due));
                    left.push(sequence);
                    current.join(sequence, 0, false);
                    if is_apart {
                        current.tried.push(tried(sequence, time(due), false));
                    }
                }
                Step::Park(due) => {
                    events[current.head as usize].1 = now + due;
                    current.due_at = time(now + due);
                }
                Step::End => {
                    left.retain(|one| *one != current.head);
                    let Some(next) = current.advance(time(now)) else { break };
                    current = next;
                }
            }
            let places: Vec<_> = current.sequences().collect();
            let are_apart = |one: usize, other: usize| events[places[one] as usize].0 != events[places[other] as usize].0;
            let current = current.led_by_first_due(are_apart, time(now));
            prop_assert_eq!(current.sequences().count(), left.len());
            // The first of each branch, and when it may be tried.
            let firsts = (0u8..3).filter_map(|branch| left.iter().find(|one| events[**one as usize].0 == branch));
            let due = |one: &u64| events[*one as usize].1;
            let firsts: Vec<_> = firsts.copied().collect();
            prop_assert!(firsts.contains(&current.head), "{:?} of {:?}", current, firsts);
            let head_due = due(&current.head);
            prop_assert!(firsts.iter().all(|one| head_due <= due(one).max(now)), "{:?}: {:?}", current, events);
            if due(&current.head) > now {
                prop_assert_eq!(current.due_at, time(head_due));
            }
            lane = Some(current);
        }
    }
}
