//! The wire to NATS, to PostgreSQL or to the backend breaks after so many bytes, again and again, each time a bit later in
//! an order's way: in the middle of a handshake, of a publish, of an acknowledgement, of a transaction, of an answer.

use std::{
    net::SocketAddr,
    ops::Range,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use tokio::time::sleep;

use crate::harness::{
    World,
    at_end::Ends,
    careem::order,
    hub::Hub,
    proxy::{Break, Direction, Proxy},
    wait::{PATIENCE, eventually},
};

/// How long a stalled wire stays so: longer than these tests' `BACKEND_TIMEOUT`, shorter than a lease.
const STALL: Duration = Duration::from_millis(400);
/// Every so many points the wire stalls, at the others it is cut.
const STALL_EVERY: usize = 4;

/// Where a wire breaks: bytes from one place up to another, in steps.
struct Points {
    direction: Direction,
    bytes: Range<usize>,
    step: usize,
}

impl Points {
    fn new(direction: Direction, bytes: Range<usize>, step: usize) -> Self {
        Self { direction, bytes, step }
    }
}

/// Orders, one after the other, and a break of the wire at each point.
struct Series<'a> {
    world: &'a World,
    hub: &'a Hub,
    wire: &'a Proxy,
    posted: AtomicUsize,
}

impl Series<'_> {
    async fn run(&self, points: &Points) {
        for (number, bytes) in points.bytes.clone().step_by(points.step).enumerate() {
            let how = if number % STALL_EVERY == STALL_EVERY - 1 {
                Break::Stall
            } else {
                Break::Cut
            };
            let healed = AtomicBool::new(false);
            self.wire.break_after(points.direction, bytes, how);
            let healing = async {
                let what = format!("the wire breaks after {bytes} bytes {:?}", points.direction);
                eventually(&what, PATIENCE, async || {
                    (!self.wire.is_whole()).then_some(()).ok_or(self.posted())
                })
                .await;
                if how == Break::Stall {
                    sleep(STALL).await;
                }
                self.wire.heal();
                healed.store(true, Ordering::Relaxed);
            };
            tokio::join!(healing, self.post_until(&healed));
        }
    }

    /// One order after the other, each when the one before is at the backend, or held up by the break.
    async fn post_until(&self, healed: &AtomicBool) {
        while !healed.load(Ordering::Relaxed) {
            let number = self.posted.fetch_add(1, Ordering::Relaxed);
            let (before, body) = (self.world.backend.count(), order(&format!("CR-wire-{number}")));
            self.world.careem.deliver(&self.hub.url(), &body).await;
            eventually("an order is through, or the wire breaks", PATIENCE, async || {
                let there = self.world.backend.count() > before || healed.load(Ordering::Relaxed);
                there.then_some(()).ok_or(number)
            })
            .await;
        }
    }

    fn posted(&self) -> usize {
        self.posted.load(Ordering::Relaxed)
    }
}

/// Breaks a hub's wire at all these points; `(variable, value)` makes the hub use the wire.
async fn breaks(
    world: &World,
    to: SocketAddr,
    setting: impl Fn(SocketAddr) -> (&'static str, String),
    points: &[Points],
) {
    let wire = Proxy::to(to);
    let (variable, value) = setting(wire.address());
    let settings = world
        .settings()
        .set("BACKEND_TIMEOUT", "250ms")
        .set("RETRY_DELAYS", "1s")
        .set(variable, value);
    let hub = Hub::start(&settings).await;
    let series = Series {
        world,
        hub: &hub,
        wire: &wire,
        posted: AtomicUsize::new(0),
    };
    for points in points {
        series.run(points).await;
    }
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(series.posted())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wire_to_nats_is_cut() {
    let world = World::new().await;
    let nats = SocketAddr::from(([127, 0, 0, 1], world.nats.server.port()));
    let points = [
        Points::new(Direction::FromHub, 1..14_000, 950),
        Points::new(Direction::ToHub, 1..6_000, 450),
    ];
    breaks(&world, nats, |wire| ("NATS_URL", format!("nats://{wire}")), &points).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wire_to_postgres_is_cut() {
    let world = World::new().await;
    let postgres = SocketAddr::from(([127, 0, 0, 1], world.cluster.server.port()));
    let points = [
        Points::new(Direction::FromHub, 1..12_000, 850),
        Points::new(Direction::ToHub, 1..1_200, 85),
    ];
    let url = |wire| ("DATABASE_URL", world.database.url_through(wire));
    breaks(&world, postgres, url, &points).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wire_to_the_backend_is_cut() {
    let world = World::new().await;
    let points = [
        Points::new(Direction::FromHub, 1..5_000, 350),
        Points::new(Direction::ToHub, 1..200, 14),
    ];
    let url = |wire| ("BACKEND_URL", format!("http://{wire}"));
    breaks(&world, world.backend.address(), url, &points).await;
}
