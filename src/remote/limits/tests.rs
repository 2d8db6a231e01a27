use std::{cmp::Reverse, collections::BinaryHeap};

use proptest::prelude::*;
use uuid::Uuid;

use super::*;

mod fair;

fn event(number: usize) -> EventId {
    EventId(Uuid::from_u128(number as u128))
}

fn ask(limits: &ProviderLimits, now: Instant, number: usize) -> Result<(), Wait> {
    ask_for(limits, now, number, "b-1")
}

fn ask_for(limits: &ProviderLimits, now: Instant, number: usize, branch: &str) -> Result<(), Wait> {
    limits.turn(now, event(number), branch)?;
    limits.take(now, event(number), branch)
}

#[test]
fn a_seconds_worth_at_once_then_each_its_own_time() {
    let (limits, now) = (ProviderLimits::new(Some(4)), Instant::now());
    assert_eq!((0..4).filter(|number| ask(&limits, now, *number).is_ok()).count(), 4);
    let quarter = Duration::from_millis(250);
    for number in 4..10 {
        let wait = quarter * (number as u32 - 3);
        assert_eq!(ask(&limits, now, number), Err(Wait::Turn(wait)), "{number}");
        // An event that comes back too early keeps its reserved time.
        let early = now + quarter / 2;
        assert_eq!(ask(&limits, early, number), Err(Wait::Turn(wait - quarter / 2)));
    }
    for number in 4..10 {
        assert_eq!(ask(&limits, now + quarter * (number as u32 - 3), number), Ok(()));
    }
    let unlimited = ProviderLimits::new(None);
    assert!((0..10_000).all(|number| ask(&unlimited, now, number).is_ok()));
}

#[test]
fn a_requested_pause_is_kept() {
    let (limits, now) = (ProviderLimits::new(None), Instant::now());
    limits.pause(now, Duration::from_secs(30));
    limits.pause(now, Duration::from_secs(5));
    let later = now + Duration::from_secs(10);
    assert_eq!(ask(&limits, later, 1), Err(Wait::LeftAlone(Duration::from_secs(20))));
    assert_eq!(ask(&limits, now + Duration::from_secs(30), 1), Ok(()));
    // With a rate, waiting events get their times after the pause.
    let limits = ProviderLimits::new(Some(1));
    limits.pause(now, Duration::from_secs(30));
    for number in 0..3 {
        let wait = Duration::from_secs(30 + number as u64);
        assert_eq!(ask(&limits, now, number), Err(Wait::Turn(wait)));
    }
}

/// The stage was lost with a queue of an hour, which another instance has worked off meanwhile.
#[test]
fn reservations_are_forgotten_at_a_takeover() {
    let (limits, now) = (ProviderLimits::new(Some(1)), Instant::now());
    assert_eq!((0..3600).filter(|number| ask(&limits, now, *number).is_ok()).count(), 1);
    let back = now + Duration::from_secs(60);
    limits.begin();
    assert_eq!(ask(&limits, back, 9999), Ok(()));
    assert_eq!(ask(&limits, back, 10_000), Err(Wait::Turn(Duration::from_secs(1))));
}

#[test]
fn one_menu_of_a_branch_in_a_while() {
    let (limits, now, every) = (ProviderLimits::new(None), Instant::now(), Duration::from_secs(120));
    assert_eq!(limits.menu_wait(now, "b-1", every), None);
    limits.menu_sent(now, "b-1");
    assert_eq!(limits.menu_wait(now, "b-1", every), Some(every));
    assert_eq!(limits.menu_wait(now, "b-2", every), None);
    assert_eq!(limits.menu_wait(now + every, "b-1", every), None);
    for number in 0..MAX_BRANCHES {
        limits.menu_sent(now + Duration::from_secs(1), &number.to_string());
    }
    assert_eq!(limits.state().menus.len(), MAX_BRANCHES);
    assert_eq!(limits.menu_wait(now, "b-1", every), None, "the oldest is forgotten");
}

#[test]
fn reservations_are_limited() {
    let (limits, now) = (ProviderLimits::new(Some(10)), Instant::now());
    for number in 0..MAX_RESERVED + 20 {
        let _ = ask(&limits, now, number);
    }
    assert_eq!(limits.state().reserved.len(), MAX_RESERVED);
    // Events without a reservation still wait, and expired reservations make room.
    assert!(ask(&limits, now, MAX_RESERVED + 15).is_err());
    let much_later = now + Duration::from_secs(100_000);
    limits.pause(much_later, BURST * 10);
    assert!(ask(&limits, much_later, MAX_RESERVED + 99).is_err());
    assert!(limits.state().reserved.len() < 10);
}

proptest! {
    /// A crowd arrives, some of it over time, each comes back when it is told to or late, and the provider is away for a
    /// while: in no second are there more requests than a second's worth at once and a second's; each is made in the end;
    /// punctual ones of one branch come back once, in their order.
    #[test]
    fn the_rate_holds_and_events_come_back_once(
        rate in 1u32..20, arrivals in prop::collection::vec(0u64..400, 1..150),
        late in prop::collection::vec(0u64..30, 150), away in 0u64..20_000,
        (branches, of) in (1usize..5, prop::collection::vec(0usize..100, 150)),
    ) {
        let (limits, start) = (ProviderLimits::new(Some(rate)), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        let mut queue = BinaryHeap::new();
        let mut time = 0;
        for (number, gap) in arrivals.iter().enumerate() {
            time += gap;
            queue.push(Reverse((time, number)));
        }
        let (mut made, mut asked) = (Vec::new(), 0usize);
        while let Some(Reverse((millis, number))) = queue.pop() {
            asked += 1;
            prop_assert!(asked < arrivals.len() * 6, "{asked} questions");
            // The provider's breaker is open.
            if millis > 1000 && millis < 1000 + away {
                queue.push(Reverse((1000 + away + number as u64 % 5, number)));
                continue;
            }
            let branch = (of[number] % branches).to_string();
            match ask_for(&limits, at(millis), number, &branch) {
                Ok(()) => made.push((millis, number)),
                Err(Wait::Turn(wait)) => {
                    let wait = wait.as_millis() as u64 + 1 + late[number];
                    queue.push(Reverse((millis + wait, number)));
                }
                Err(other) => prop_assert!(false, "{other:?}"),
            }
        }
        prop_assert_eq!(made.len(), arrivals.len());
        for (index, (from, _)) in made.iter().enumerate() {
            let within = made[index..].iter().take_while(|(millis, _)| *millis < from + 1000).count();
            prop_assert!(within <= 2 * rate as usize + 1, "{within} in a second at {rate}");
        }
        let is_punctual = away == 0 && late.iter().all(|late| *late == 0);
        if is_punctual && branches == 1 {
            prop_assert!(made.windows(2).all(|pair| pair[0].1 < pair[1].1), "{made:?}");
        }
    }
}
