//! The servers: the listening ports, and the tasks that serve them.

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use axum::Router;
use metrics_exporter_prometheus::PrometheusHandle;
use socket2::{Domain, Protocol, Socket, Type};

use super::{Phase, Tasks, budget::PRIVATE_CONNECTIONS, stopping};
use crate::{
    config::Config,
    intake,
    observer::health::{self, Health},
    serving::{certificate::Certificate, connections::Connections, server, server::Serving},
    telemetry,
};

/// Connections that may wait to be accepted: a crowd of providers that come back at once after an outage must not run
/// into a full queue, which costs each of them a second.
const LISTEN_BACKLOG: i32 = 4096;
/// Part of the grace that requests under way get to end, before their connections are closed.
const INTAKE_SHARE: f64 = 0.5;

pub(super) fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    Ok(socket.into())
}

/// The parts of the servers.
pub(super) struct Ports {
    pub(super) listener: TcpListener,
    pub(super) metrics: Option<(TcpListener, PrometheusHandle)>,
    pub(super) certificate: Option<Certificate>,
    /// Of the public port.
    pub(super) router: Router,
    /// Which of its connections stay open.
    pub(super) connections: Arc<Connections>,
}

/// Spawns the servers of the public and of the private port, and what belongs to them.
pub(super) fn spawn(tasks: &mut Tasks, config: &Config, health: Arc<Health>, ports: Ports) {
    let Ports {
        listener,
        metrics,
        certificate,
        router,
        connections,
    } = ports;
    let header_timeout = config.http.request_timeout;
    let serving = Serving {
        header_timeout,
        linger: stopping::linger(config.stopping.delay),
        grace: config.stopping.grace.mul_f64(INTAKE_SHARE),
        tls: certificate.as_ref().map(Certificate::current),
        connections,
    };
    if let Some(certificate) = certificate {
        tasks.spawn("certificate", Phase::Intake, |stop| certificate.run(stop));
    }
    tasks.spawn("intake", Phase::Intake, move |stop| async move {
        Ok(server::serve(listener, router, serving, stop).await?)
    });
    let Some((listener, handle)) = metrics else { return };
    let rendering = handle.clone();
    tasks.spawn("metrics", Phase::Log, move |stop| async move {
        let router = intake::private_router(move || rendering.render(), health::private_router(health));
        let serving = Serving::privately(header_timeout, Duration::ZERO, PRIVATE_CONNECTIONS);
        Ok(server::serve(listener, router, serving, stop).await?)
    });
    tasks.spawn("metrics upkeep", Phase::Log, move |stop| {
        telemetry::metrics::keep_up(handle, stop)
    });
}
