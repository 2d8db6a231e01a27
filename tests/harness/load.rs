//! Providers that post until told to stop, each webhook until it is accepted.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use futures_util::future::join_all;

use super::{
    World,
    careem::{change, order},
    random::Random,
    wait::{PATIENCE, eventually},
};

/// Providers that post side by side, each one order after the other.
pub(crate) const PROVIDERS: usize = 16;
/// What each order goes through, in this order.
const CHANGES: [&str; 2] = ["ready", "cancelled"];

/// The providers.
pub(crate) struct Load {
    /// Accepted webhooks that may be on their way at a time; a provider waits while there are more.
    max_on_the_way: usize,
    /// How long nothing may move.
    patience: Duration,
    accepted: AtomicUsize,
    enough: AtomicBool,
}

impl Load {
    pub(crate) fn new(max_on_the_way: usize) -> Self {
        Self::with_patience(max_on_the_way, PATIENCE)
    }

    /// For hazards that take longer to get over.
    pub(crate) fn with_patience(max_on_the_way: usize, patience: Duration) -> Self {
        Self {
            max_on_the_way,
            patience,
            accepted: AtomicUsize::new(0),
            enough: AtomicBool::new(false),
        }
    }

    /// Posts to these hubs, each webhook of an order to another one than the one before.
    pub(crate) async fn run(&self, world: &World, hubs: &[String]) {
        join_all((0..PROVIDERS).map(async |provider| {
            for number in 0.. {
                if self.enough.load(Ordering::Relaxed) {
                    break;
                }
                let id = format!("CR-{provider}-{number}");
                let words = CHANGES.iter().map(|status| change(&id, status));
                for (step, body) in std::iter::once(order(&id)).chain(words).enumerate() {
                    self.room(world).await;
                    world.careem.deliver_to_any(hubs, provider + step, &body).await;
                    self.accepted.fetch_add(1, Ordering::Relaxed);
                }
            }
        }))
        .await;
    }

    /// Waits until there is room for one more on the way.
    async fn room(&self, world: &World) {
        eventually("orders are forwarded", self.patience, async || {
            let on_the_way = self.accepted().saturating_sub(world.backend.count());
            if on_the_way < self.max_on_the_way {
                Ok(())
            } else {
                Err(on_the_way)
            }
        })
        .await;
    }

    /// Waits for a random moment: so many more webhooks accepted, or so many more requests at the backend, which is a
    /// moment when that one is not answered yet.
    pub(crate) async fn random_moment(&self, world: &World, random: &mut Random) {
        let (at_backend, more) = (random.below(2) == 0, 1 + random.below(40));
        self.more(world, at_backend, more).await;
    }

    /// Waits until so many more were accepted, or came to the backend.
    pub(crate) async fn more(&self, world: &World, at_backend: bool, more: usize) {
        let count = || {
            if at_backend {
                world.backend.count()
            } else {
                self.accepted()
            }
        };
        let until = count() + more;
        eventually("the load goes on", self.patience, async || {
            let now = count();
            if now >= until {
                Ok(())
            } else {
                Err(format!("{now} of {until}, at the backend: {at_backend}"))
            }
        })
        .await;
    }

    /// How many webhooks were accepted.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    pub(crate) fn end(&self) {
        self.enough.store(true, Ordering::Relaxed);
    }
}
