//! The servers: the ports that are listened on, and the tasks that serve them.

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use axum::Router;
use metrics_exporter_prometheus::PrometheusHandle;
use socket2::{Domain, Protocol, Socket, Type};

use super::{Phase, Tasks};
use crate::{
    config::Config,
    intake::{
        self,
        certificate::Certificate,
        connections::Connections,
        server::{self, Serving},
    },
    telemetry::{self, health::Health},
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

/// Spawns the servers of the public and of the private port, and what belongs to them.
pub(super) fn spawn(
    tasks: &mut Tasks,
    config: &Config,
    (router, connections): (Router, Arc<Connections>),
    health: Arc<Health>,
    certificate: Option<Certificate>,
    listener: TcpListener,
    metrics: Option<(TcpListener, PrometheusHandle)>,
) {
    let header_timeout = config.http.request_timeout;
    let grace = config.shutdown_grace.mul_f64(INTAKE_SHARE);
    let tls = certificate.as_ref().map(Certificate::current);
    if let Some(certificate) = certificate {
        tasks.spawn("certificate", Phase::Intake, |stop| certificate.run(stop));
    }
    let serving = Serving {
        header_timeout,
        grace,
        tls,
        connections,
    };
    tasks.spawn("intake", Phase::Intake, move |stop| async move {
        Ok(server::serve(listener, router, serving, stop).await?)
    });
    let Some((listener, handle)) = metrics else { return };
    let rendering = handle.clone();
    tasks.spawn("metrics", Phase::Log, move |stop| async move {
        let router = intake::private_router(move || rendering.render(), health);
        let serving = Serving::privately(header_timeout, Duration::ZERO);
        Ok(server::serve(listener, router, serving, stop).await?)
    });
    tasks.spawn("metrics upkeep", Phase::Log, move |stop| {
        telemetry::metrics::keep_up(handle, stop)
    });
}
