use proptest::prelude::*;

use super::*;

/// 10.x.x.x is known, 172.x.x.x trusted, 192.x.x.x a proxy. Nothing is in reserve.
fn connections(most: usize, most_strangers: usize) -> Arc<Connections> {
    of([most_strangers, most, most])
}

fn of(most: [usize; 3]) -> Arc<Connections> {
    let who_is = |peer: IpAddr| match peer.to_string().split_once('.') {
        Some(("10", _)) => Peer::Known,
        Some(("172", _)) => Peer::Trusted,
        Some(("192", _)) => Peer::Proxy,
        _ => Peer::Stranger,
    };
    Arc::new(Connections::new(most, Box::new(who_is), None))
}

fn open(connections: &Arc<Connections>, peer: &str, times: usize) -> Vec<ConnectionSlot> {
    (0..times).map(|_| connections.open(ip(peer)).unwrap()).collect()
}

fn standing(places: &[ConnectionSlot]) -> usize {
    places.iter().filter(|place| !ended(place)).count()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn ended(place: &ConnectionSlot) -> bool {
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
    assert_eq!(connections.lock().classes[STRANGERS].all.len(), 50);
    // Another address still gets slots, and known addresses even more.
    let other: Vec<_> = (0..25).map(|_| connections.open(ip("203.0.113.10")).unwrap()).collect();
    let known: Vec<_> = (0..37).map(|_| connections.open(ip("10.0.0.1")).unwrap()).collect();
    assert!(other.iter().chain(&known).all(|place| !ended(place)));
    drop((flood, other, known));
    let table = connections.lock();
    let is_empty = |class: &PeerClass| class.all.is_empty() && class.by_address.is_empty();
    assert!(table.classes.iter().all(is_empty));
}

#[test]
fn a_known_address_has_a_share_and_trusted_ones_a_reserve() {
    let connections = of([75, 100, 110]);
    let flood = open(&connections, "10.0.0.1", 200);
    assert_eq!(standing(&flood), 50);
    // Also if each connection carried a verified request.
    flood.iter().for_each(|place| place.guest().note_verified());
    let more = open(&connections, "10.0.0.1", 200);
    assert_eq!((standing(&flood), standing(&more)), (0, 50));
    let other = open(&connections, "10.0.0.2", 25);
    assert_eq!(standing(&other), 25);
    // A crowd takes the rest; of verified connections an address keeps its minimum share.
    other
        .iter()
        .chain(&more)
        .for_each(|place| place.guest().note_verified());
    let crowd: Vec<_> = (0..100)
        .flat_map(|number| open(&connections, &format!("10.1.{number}.1"), 1))
        .collect();
    assert_eq!((standing(&crowd), standing(&other), standing(&more)), (84, 8, 8));
    let mut backend = open(&connections, "172.16.0.1", LEAST_SHARE);
    backend.extend(open(&connections, "172.16.0.2", 2));
    assert_eq!(standing(&backend), 10);
    // A proxy has no share, and less trusted connections are replaced for it.
    let proxy = open(&connections, "192.0.2.1", 84);
    assert_eq!((standing(&proxy), standing(&backend)), (84, 10));
}

#[test]
fn a_busy_gateway_takes_the_places_of_idle_strangers() {
    let connections = connections(100, 75);
    let strangers: Vec<_> = (0..75)
        .flat_map(|number| open(&connections, &format!("203.0.{number}.1"), 1))
        .collect();
    let busy: Vec<_> = (0..50)
        .map(|_| {
            let place = connections.open(ip("10.0.0.1")).unwrap();
            (place.guest().busy(), place)
        })
        .collect();
    assert!(connections.open(ip("10.0.0.1")).is_err(), "half of all is the most");
    assert!(busy.iter().all(|(_, place)| !ended(place)) && standing(&strangers) >= 35);
}

#[test]
fn verified_connections_beyond_the_share_stay_strangers() {
    let connections = connections(100, 75);
    let all = open(&connections, "203.0.113.9", 37);
    all.iter().for_each(|place| place.guest().note_verified());
    let known = connections.lock().classes[KNOWN].all.len();
    assert_eq!(known, 37, "within it all are known");
    let busy: Vec<_> = (0..60)
        .flat_map(|number| open(&connections, &format!("198.51.{number}.1"), 1))
        .collect();
    let more = open(&connections, "203.0.113.9", 3);
    more.iter().for_each(|place| place.guest().note_verified());
    assert_eq!(connections.lock().classes[KNOWN].all.len(), 37);
    drop(busy);
}

#[test]
fn busy_and_verified_connections_are_kept() {
    let connections = connections(40, 20);
    let all: Vec<_> = (0..10).map(|_| connections.open(ip("203.0.113.9")).unwrap()).collect();
    let guests: Vec<_> = all.iter().map(ConnectionSlot::guest).collect();
    let busy: Vec<_> = guests.iter().map(Guest::busy).collect();
    assert_eq!(
        connections.open(ip("203.0.113.9")).err(),
        Some(ConnectionRefused::Share)
    );
    drop(busy);
    guests[0].note_verified();
    // It no longer counts as a stranger, and a connection that waits for a request is replaced.
    let more: Vec<_> = (0..12).map(|_| connections.open(ip("203.0.113.9")).unwrap()).collect();
    assert!(!ended(&all[0]) && all[1..].iter().any(ended));
    let crowd: Vec<_> = (0..100)
        .map(|number| connections.open(ip(&format!("203.0.{number}.1"))).unwrap())
        .collect();
    assert!(!ended(&all[0]) && more.iter().all(ended));
    assert_eq!(crowd.iter().filter(|place| !ended(place)).count(), 20);
    let known: Vec<_> = (0..60)
        .map(|number| connections.open(ip(&format!("10.0.{number}.1"))).unwrap())
        .collect();
    assert!(!ended(&all[0]), "not for known addresses, either");
    assert_eq!(known.iter().filter(|place| !ended(place)).count(), 39);
}

#[test]
fn a_table_full_of_busy_connections_refuses() {
    let connections = connections(4, 2);
    let open = |peer: &str| {
        let place = connections.open(ip(peer))?;
        let busy = place.guest().busy();
        Ok::<_, ConnectionRefused>((place, busy))
    };
    let strangers = [open("203.0.113.1").unwrap(), open("203.0.113.2").unwrap()];
    assert_eq!(open("203.0.113.3").err(), Some(ConnectionRefused::Strangers));
    let known = [open("10.0.0.1").unwrap(), open("10.0.0.2").unwrap()];
    assert_eq!(open("10.0.0.3").err(), Some(ConnectionRefused::Full));
    drop(strangers);
    assert!(open("10.0.0.3").is_ok());
    drop(known);
}

proptest! {
    /// Whatever comes and goes, the limits hold and the table has what is there, and nothing else.
    #[test]
    fn the_table_is_what_is_open(steps in prop::collection::vec((0u8..12, 0u8..6), 1..300)) {
        let connections = of([20, 28, 30]);
        let mut open: Vec<(ConnectionSlot, Option<BusyGuard>)> = Vec::new();
        for (address, what) in steps {
            let network = [10, 172, 192, 203, 203, 203][usize::from(address) / 2];
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
            let [strangers, known, trusted] = table.classes.each_ref().map(|class| class.all.len());
            prop_assert_eq!(strangers + known + trusted, standing);
            for class in &table.classes {
                prop_assert_eq!(class.by_address.values().map(BTreeMap::len).sum::<usize>(), class.all.len());
            }
            prop_assert!(standing <= 30 && strangers + known <= 28 && strangers <= 20);
        }
    }
}
