use proptest::prelude::*;

use super::*;

/// Of twelve connections strangers may have eight; 10.x.x.x is known.
fn connections(most: usize, most_strangers: usize) -> Arc<Connections> {
    let is_known = |peer: IpAddr| peer.to_string().starts_with("10.");
    Arc::new(Connections::new(most, most_strangers, Box::new(is_known), None))
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn ended(place: &Place) -> bool {
    place.connection.state.load(Ordering::Relaxed) == ENDED
}

#[test]
fn one_address_gets_half_of_what_strangers_may_have() {
    let connections = connections(150, 100);
    let flood: Vec<_> = (0..200).map(|_| connections.open(ip("203.0.113.9")).unwrap()).collect();
    let open = flood.iter().filter(|place| !ended(place)).count();
    assert_eq!(open, 50);
    assert!(
        flood[150..].iter().all(|place| !ended(place)),
        "the newest have the places"
    );
    assert_eq!(connections.lock().strangers.len(), 50);
    // Another one has room, and those that are known even more.
    let other: Vec<_> = (0..25).map(|_| connections.open(ip("203.0.113.10")).unwrap()).collect();
    let known: Vec<_> = (0..75).map(|_| connections.open(ip("10.0.0.1")).unwrap()).collect();
    assert!(other.iter().chain(&known).all(|place| !ended(place)));
    drop((flood, other, known));
    let table = connections.lock();
    assert!(table.strangers.is_empty() && table.known.is_empty() && table.by_address.is_empty());
}

#[test]
fn who_is_busy_or_verified_keeps_its_place() {
    let connections = connections(40, 20);
    let all: Vec<_> = (0..10).map(|_| connections.open(ip("203.0.113.9")).unwrap()).collect();
    let guests: Vec<_> = all.iter().map(Place::guest).collect();
    let busy: Vec<_> = guests.iter().map(Guest::busy).collect();
    assert_eq!(connections.open(ip("203.0.113.9")).err(), Some(Refused::Share));
    drop(busy);
    guests[0].note_verified();
    // It counts no longer among the strangers, and what waits for a request makes room.
    let more: Vec<_> = (0..12).map(|_| connections.open(ip("203.0.113.9")).unwrap()).collect();
    assert!(!ended(&all[0]) && all[1..].iter().any(ended));
    let crowd: Vec<_> = (0..100)
        .map(|number| connections.open(ip(&format!("203.0.{number}.1"))).unwrap())
        .collect();
    assert!(!ended(&all[0]) && more.iter().all(ended));
    assert_eq!(crowd.iter().filter(|place| !ended(place)).count(), 20);
    let known: Vec<_> = (0..60).map(|_| connections.open(ip("10.0.0.1")).unwrap()).collect();
    assert!(!ended(&all[0]), "not for known addresses, either");
    assert_eq!(known.iter().filter(|place| !ended(place)).count(), 39);
}

#[test]
fn a_full_table_of_busy_ones_refuses() {
    let connections = connections(4, 2);
    let open = |peer: &str| {
        let place = connections.open(ip(peer))?;
        let busy = place.guest().busy();
        Ok::<_, Refused>((place, busy))
    };
    let strangers = [open("203.0.113.1").unwrap(), open("203.0.113.2").unwrap()];
    assert_eq!(open("203.0.113.3").err(), Some(Refused::Strangers));
    let known = [open("10.0.0.1").unwrap(), open("10.0.0.2").unwrap()];
    assert_eq!(open("10.0.0.3").err(), Some(Refused::Full));
    drop(strangers);
    assert!(open("10.0.0.3").is_ok());
    drop(known);
}

proptest! {
    /// Whatever comes and goes, the limits hold and the table has what is there, and nothing else.
    #[test]
    fn the_table_is_what_is_open(steps in prop::collection::vec((0u8..12, 0u8..6), 1..300)) {
        let connections = connections(30, 20);
        let mut open: Vec<(Place, Option<Busy>)> = Vec::new();
        for (address, what) in steps {
            let network = if address < 4 { 10 } else { 203 };
            match what {
                0 if !open.is_empty() => drop(open.remove(usize::from(address) % open.len())),
                1 => if let Some((place, _)) = open.first() { place.guest().note_verified() },
                _ => if let Ok(place) = connections.open(ip(&format!("{network}.0.0.{address}"))) {
                    let busy = (what == 2).then(|| place.guest().busy());
                    open.push((place, busy));
                },
            }
            let table = connections.lock();
            let standing = open.iter().filter(|(place, _)| !ended(place)).count();
            prop_assert_eq!(table.strangers.len() + table.known.len(), standing);
            prop_assert_eq!(table.by_address.values().map(BTreeMap::len).sum::<usize>(), table.strangers.len());
            prop_assert!(standing <= 30 && table.strangers.len() <= 20);
        }
    }
}
