use std::collections::HashMap;

use chrono::TimeDelta;
use proptest::prelude::*;

use super::*;

fn at(second: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::seconds(second)
}

fn key(number: u8) -> OrderKey {
    OrderKey::new("careem", &number.to_string())
}

fn open(revision: u64, due_at: DateTime<Utc>) -> OpenLane {
    let lane = Lane::new("careem".into(), 10 + revision, 4, due_at, false);
    OpenLane::new(revision, LanePast::default(), &lane)
}

#[test]
fn a_head_waits_for_the_other_lane_until_it_is_tried_or_another_leads() {
    let mut table = LaneTable::default();
    let lane = |head: u64, waiting: &[u64]| {
        let mut lane = Lane::new("careem".into(), head, 0, at(5), false);
        waiting.iter().for_each(|event| lane.join(*event, 0, false));
        OpenLane::new(1, LanePast::default(), &lane)
    };
    table.put(key(1), lane(7, &[]));
    assert!(!table.is_behind(key(1)));
    table.note_behind(key(1), true);
    table.put(key(1), lane(7, &[9]));
    assert!(table.is_behind(key(1)), "an event joined");
    table.note_behind(key(1), false);
    assert!(!table.is_behind(key(1)));
    table.note_behind(key(1), true);
    table.put(key(1), lane(9, &[]));
    assert!(!table.is_behind(key(1)), "another head");
}

#[test]
fn lanes_with_old_heads_are_taken_before_they_are_due() {
    let mut table = LaneTable::default();
    for revision in 1..=4 {
        table.put(key(revision as u8), open(revision, at(100)));
    }
    assert_eq!(table.take_due(at(5)), None);
    assert_eq!(table.take_older(13, 2), [key(1), key(2)]);
    assert_eq!(table.take_older(13, 2), [key(3)], "what has a task is not taken again");
    table.release(key(1));
    assert_eq!(table.take_older(13, 9), [key(1)]);
    assert_eq!(table.take_due(at(100)), Some(key(4)));
}

#[test]
fn a_lane_is_looked_at_before_it_is_due() {
    let mut table = LaneTable::default();
    table.put(key(1), open(1, at(100)));
    table.look_at(key(1));
    table.look_at(key(1));
    table.look_at(key(2));
    assert_eq!((table.first_due(), table.take_due(at(5))), (Some(at(0)), Some(key(1))));
    assert_eq!((table.take_look(key(1)), table.take_look(key(1))), (true, false));
    // While it is worked on, and written.
    table.look_at(key(1));
    table.put(key(1), open(2, at(100)));
    assert_eq!(table.take_due(at(5)), None);
    table.release(key(1));
    assert_eq!(table.take_due(at(5)), Some(key(1)));
    assert!(table.take_look(key(1)));
    table.release(key(1));
    assert_eq!((table.take_due(at(5)), table.take_due(at(100))), (None, Some(key(1))));
    table.look_at(key(1));
    table.remove(key(1));
    table.release(key(1));
    assert_eq!((table.first_due(), table.take_look(key(1))), (None, false));
}

/// A lane with a request for a retry counts by the event that is retried, wherever the request is in it. A rebuild reads the
/// log from the events in lanes on, so the checksum counts by these.
#[test]
fn lanes_are_as_old_as_the_events_that_they_take_up_again() {
    let mut table = LaneTable::default();
    let lane = |retried: &[(u64, u64)]| {
        let mut lane = Lane::new("careem".into(), 50, 0, at(100), false);
        lane.join(60, 0, false);
        retried
            .iter()
            .for_each(|(request, of)| lane.note_retried(*request, Some(*of)));
        lane
    };
    let put = |table: &mut LaneTable, number, lane: &Lane| {
        table.put(key(number), OpenLane::new(1, LanePast::default(), lane));
    };
    put(&mut table, 1, &lane(&[]));
    put(&mut table, 2, &lane(&[(50, 20)]));
    put(&mut table, 3, &lane(&[(60, 30)]));
    assert_eq!((table.parked(), table.checksum().oldest), ((6, Some(20)), Some(50)));
    assert!(table.take_older(19, 9).is_empty());
    assert_eq!(table.take_older(25, 9), [key(2)]);
    assert_eq!(table.take_older(40, 9), [key(3)]);
    [2, 3].into_iter().for_each(|number| table.release(key(number)));
    let mut all = table.take_older(50, 9);
    all.sort_unstable();
    let mut expected = [1, 2, 3].map(key);
    expected.sort_unstable();
    assert_eq!(all, expected, "each once");
    // The request has ended.
    put(&mut table, 2, &lane(&[]));
    assert_eq!(table.parked(), (6, Some(30)));
    table.remove(key(3));
    assert_eq!(table.parked(), (4, Some(50)));
}

#[test]
fn counts_are_of_open_lanes() {
    let mut table = LaneTable::default();
    table.put(key(1), open(1, at(5)));
    let first = table.checksum();
    assert_eq!((first.newest, first.open, first.oldest), (1, 1, Some(11)));
    table.put(key(2), open(2, at(5)));
    table.put(key(1), open(3, at(6)));
    let both = table.checksum();
    assert_eq!((both.newest, both.open, both.oldest), (3, 2, Some(12)));
    table.remove(key(2));
    table.seen(4);
    table.remove(key(1));
    assert_eq!(
        table.checksum(),
        LanesChecksum {
            newest: 4,
            ..LanesChecksum::default()
        }
    );
}

#[test]
fn a_lane_that_is_worked_on_is_not_due_until_it_is_released() {
    let mut table = LaneTable::default();
    table.put(key(1), open(1, at(5)));
    table.put(key(2), open(2, at(3)));
    assert_eq!((table.take_due(at(2)), table.first_due()), (None, Some(at(3))));
    assert_eq!(table.take_due(at(9)), Some(key(2)));
    // A lane may be written several times while a task works on it.
    table.put(key(2), open(3, at(4)));
    assert_eq!((table.take_due(at(9)), table.take_due(at(9))), (Some(key(1)), None));
    table.release(key(2));
    table.release(key(2));
    assert_eq!((table.take_due(at(9)), table.take_due(at(9))), (Some(key(2)), None));
    table.remove(key(2));
    table.release(key(2));
    assert_eq!((table.take_due(at(9)), table.first_due()), (None, None));
}

#[test]
fn events_in_lanes_are_counted() {
    let mut table = LaneTable::default();
    let lane = |waiting: &[u64]| {
        let mut lane = Lane::new("careem".into(), 7, 4, at(5), false);
        waiting.iter().for_each(|event| lane.join(*event, 0, false));
        lane
    };
    assert_eq!(table.parked(), (0, None));
    table.put(key(1), OpenLane::new(1, LanePast::default(), &lane(&[9, 12])));
    table.put(key(2), OpenLane::new(2, LanePast::default(), &lane(&[])));
    assert_eq!(table.parked(), (4, Some(7)));
    table.put(key(1), OpenLane::new(3, LanePast::default(), &lane(&[9])));
    table.remove(key(2));
    table.remove(key(2));
    assert_eq!(table.parked(), (2, Some(7)));
}

#[derive(Debug, Clone)]
enum Step {
    Put(u8, i64),
    Remove(u8),
    Take(i64),
    Release(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0u8..6, 0i64..10).prop_map(|(lane, due)| Step::Put(lane, due)),
        (0u8..6).prop_map(Step::Remove),
        (0i64..10).prop_map(Step::Take),
        (0u8..6).prop_map(Step::Release),
    ]
}

proptest! {
    /// Whatever happens to lanes, each that is open and not worked on is taken up when it is due, the earliest first.
    #[test]
    fn no_lane_is_forgotten(steps in prop::collection::vec(step(), 0..60)) {
        let mut table = LaneTable::default();
        // For each lane: its due time, and whether a task works on it.
        let mut model: HashMap<u8, (i64, bool)> = HashMap::new();
        for step in steps {
            match step {
                Step::Put(lane, due) => {
                    table.put(key(lane), open(1, at(due)));
                    let taken = model.get(&lane).is_some_and(|(_, taken)| *taken);
                    model.insert(lane, (due, taken));
                }
                Step::Remove(lane) => {
                    table.remove(key(lane));
                    model.remove(&lane);
                }
                Step::Take(by) => {
                    let waiting = model.iter().filter(|(_, (_, taken))| !taken);
                    let first = waiting.map(|(_, (due, _))| *due).min().filter(|due| *due <= by);
                    let taken = table.take_due(at(by));
                    prop_assert_eq!(taken.is_some(), first.is_some());
                    if let Some((_, (due, taken))) = model.iter_mut().find(|(lane, _)| Some(key(**lane)) == taken) {
                        prop_assert_eq!((Some(*due), *taken), (first, false));
                        *taken = true;
                    }
                }
                Step::Release(lane) => {
                    table.release(key(lane));
                    model.entry(lane).and_modify(|(_, taken)| *taken = false);
                }
            }
        }
        let left = std::iter::from_fn(|| table.take_due(at(10))).count();
        prop_assert_eq!(left, model.values().filter(|(_, taken)| !taken).count());
    }
}
