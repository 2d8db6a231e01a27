//! What the loads of a run share: the numbers of orders, the times of each, and the backend that they come to.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64},
    },
    time::Duration,
};

use anyhow::{Result, ensure};

use crate::{
    backend,
    load::{Load, Pace, Report},
    setup::{MERCHANT, SECRET},
    times::{EndToEnd, Times},
};

/// Time before the measured time of a run.
pub(crate) const WARM_UP: Duration = Duration::from_secs(2);
/// The rate of the latency figures.
const STEADY_PER_SECOND: f64 = 500.0;
/// Orders with recorded times.
const ROOM: usize = 4_000_000;

/// The sender and the receiver of all orders.
pub(crate) struct Traffic {
    next_order: Arc<AtomicU64>,
    /// The same, on the logs of the intake alone and of the bare handler, of which no order comes to the backend.
    next_apart: Arc<AtomicU64>,
    pub(crate) times: Arc<Times>,
    backend: SocketAddr,
    pub(crate) backend_is_away: Arc<AtomicBool>,
    /// Measured time of one run.
    pub(crate) duration: Duration,
}

impl Traffic {
    /// Starts the backend, for as long as the process lives.
    pub(crate) fn start(duration: Duration) -> Result<Self> {
        let times = Arc::new(Times::new(1, ROOM));
        let backend_is_away = Arc::new(AtomicBool::new(false));
        let backend = backend::start(Arc::clone(&times), Arc::clone(&backend_is_away))?;
        Ok(Self {
            next_order: Arc::new(AtomicU64::new(1)),
            next_apart: Arc::new(AtomicU64::new(1)),
            times,
            backend,
            backend_is_away,
            duration,
        })
    }

    /// The backend's address, as a URL.
    pub(crate) fn backend(&self) -> String {
        format!("http://{}", self.backend)
    }

    /// Load for what forwards to the backend.
    pub(crate) fn load(&self, port: u16, connections: usize, pace: Pace) -> Load {
        Load {
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            path: "/api/webhooks/careem".into(),
            merchant: MERCHANT.into(),
            secret: SECRET.into(),
            connections,
            from: None,
            one_each: false,
            warm_up: WARM_UP,
            duration: self.duration,
            pace,
            next_order: Arc::clone(&self.next_order),
            times: Some(Arc::clone(&self.times)),
        }
    }

    /// Load for the intake alone, or the bare handler.
    pub(crate) fn apart(&self, port: u16, connections: usize, pace: Pace) -> Load {
        Load {
            next_order: Arc::clone(&self.next_apart),
            times: None,
            ..self.load(port, connections, pace)
        }
    }

    /// How the orders of a run fared until the backend had them, for which all must have arrived.
    pub(crate) fn fared(&self, run: &Report) -> Result<EndToEnd> {
        let fared = self.times.summary(run.orders.clone());
        ensure!(
            fared.accepted == run.accepted_200,
            "the times of {} of {} orders were noted: is ROOM too small?",
            fared.accepted,
            run.accepted_200
        );
        ensure!(
            fared.arrived == fared.accepted,
            "{} of {} orders did not arrive",
            fared.accepted - fared.arrived,
            fared.accepted
        );
        Ok(fared)
    }
}

/// The pace of the latency figures: 500 a second.
pub(crate) const fn steady() -> Pace {
    Pace::Open {
        per_second: STEADY_PER_SECOND,
    }
}
