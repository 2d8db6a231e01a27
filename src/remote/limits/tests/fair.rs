//! The rate is shared by the branches that ask.

use super::*;

/// Requests that come at a time, of a branch, and how late each comes back the first time.
type Asked = (u64, &'static str, u64);

/// Lets all of them come, and come back when they are told; the branches in the order in which their requests were made.
fn made(limits: &ProviderLimits, start: Instant, requests: &[Asked]) -> Vec<&'static str> {
    let coming = requests.iter().enumerate();
    let mut queue: BinaryHeap<_> = coming.map(|(number, one)| Reverse((one.0, number))).collect();
    let mut late: Vec<u64> = requests.iter().map(|one| one.2).collect();
    let mut made = Vec::new();
    while let Some(Reverse((millis, number))) = queue.pop() {
        let branch = requests[number].1;
        let now = start + Duration::from_millis(millis);
        let asked = limits.turn(now, event(number), branch);
        match asked.and_then(|()| limits.take(now, event(number), branch)) {
            Ok(()) => made.push(branch),
            Err(Wait::Turn(wait)) => {
                let late = std::mem::take(&mut late[number]);
                queue.push(Reverse((millis + wait.as_millis() as u64 + 1 + late, number)));
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    made
}

/// How many requests of others were made before each one of this branch, from the first that was made after the crowd's `before`.
fn others_before(made: &[&str], branch: &str) -> Vec<usize> {
    let at = made.iter().enumerate().filter(|(_, one)| **one == branch);
    at.enumerate().map(|(own, (at, _))| at - own).collect()
}

#[test]
fn a_crowd_of_one_branch_delays_another_by_its_turn() {
    let (limits, start) = (ProviderLimits::new(Some(10)), Instant::now());
    let crowd = std::iter::repeat_n((0, "crowd", 0), 200);
    // Ten of the crowd go at once, and ten until these come.
    let requests: Vec<_> = crowd.chain(std::iter::repeat_n((1_000, "other", 0), 5)).collect();
    let made = made(&limits, start, &requests);
    assert_eq!(made.len(), 205);
    let before = others_before(&made, "other");
    for (own, before) in before.iter().enumerate() {
        assert!(
            *before <= 20 + 2 * (own + 1),
            "{before} before its request {own}: {made:?}"
        );
    }
}

/// The crowd comes back late and at once, as after an open breaker, and asks for time again.
#[test]
fn a_crowd_that_comes_back_late_delays_another_by_its_turn() {
    let (limits, start) = (ProviderLimits::new(Some(10)), Instant::now());
    let crowd = (0..100).map(|number| (0, "crowd", 20_000 - number * 100));
    let requests: Vec<_> = crowd.chain(std::iter::repeat_n((21_000, "other", 0), 3)).collect();
    let made = made(&limits, start, &requests);
    let before = others_before(&made, "other");
    for (own, before) in before.iter().enumerate() {
        assert!(
            *before <= 60 + 2 * (own + 1),
            "{before} before its request {own}: {made:?}"
        );
    }
}
