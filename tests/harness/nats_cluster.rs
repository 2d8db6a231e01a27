//! Three NATS servers that keep every stream three times, on the loopback, with the cluster block that `nats.conf` ends with.
//!
//! Each server reaches each other one through a wire of its own, so that one can be cut off from the others while clients
//! still reach it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use async_nats::jetstream::{self, stream};
use futures_util::future::try_join_all;
use webhook_hub::dev::servers::{NatsOptions, NatsPasswords, NatsServer, Programs};

use super::{
    port::Port,
    proxy::Proxy,
    servers::Nats,
    wait::{PATIENCE, eventually},
};

/// Servers of a cluster.
pub(crate) const NODES: usize = 3;
/// The password among the servers.
const ROUTE_PASSWORD: &str = "route-password-of-the-tests";

/// How the servers reach each other.
pub(crate) struct Routes {
    /// From which server to which, and the wire.
    wires: Vec<(usize, usize, Proxy)>,
    /// Where the servers listen for each other.
    ports: Vec<Port>,
    /// The address that the servers advertise to each other: nothing listens there, so they connect only through the wires.
    nowhere: Port,
}

impl Routes {
    pub(crate) fn lay() -> Self {
        let ports: Vec<_> = (0..NODES).map(|_| Port::reserve()).collect();
        let pairs = (0..NODES).flat_map(|from| (0..NODES).map(move |to| (from, to)));
        let wires = pairs.filter(|(from, to)| from != to);
        let wires = wires.map(|(from, to)| (from, to, Proxy::to(ports[to].address())));
        Self {
            wires: wires.collect(),
            ports,
            nowhere: Port::reserve(),
        }
    }

    /// Cuts one server off from the others.
    pub(crate) fn cut_off(&self, node: usize) {
        self.of(node).for_each(Proxy::cut);
    }

    /// Lets it come back.
    pub(crate) fn rejoin(&self, node: usize) {
        self.of(node).for_each(Proxy::heal);
    }

    fn of(&self, node: usize) -> impl Iterator<Item = &Proxy> {
        let of_node = self
            .wires
            .iter()
            .filter(move |(from, to, _)| *from == node || *to == node);
        of_node.map(|(_, _, wire)| wire)
    }

    /// Writes the project's configuration, with the cluster, into a server's folder.
    fn write_config(&self, node: usize, project: &Path, dir: &Path) -> PathBuf {
        let config = fs::read_to_string(project).unwrap();
        let (alone, block) = config
            .split_once("# cluster {\n")
            .expect("nats.conf ends with a cluster");
        let block: Vec<_> = block
            .lines()
            .map(|line| line.strip_prefix("# ").unwrap_or(line))
            .collect();
        let block = block.join("\n");
        let (everywhere, password) = ("0.0.0.0:6222", "$NATS_ROUTE_PASSWORD");
        assert!(block.contains(everywhere) && block.contains(password), "{block}");
        let block = block
            .replace(everywhere, &self.ports[node].address().to_string())
            .replace(password, ROUTE_PASSWORD);
        let file = dir.join("nats.conf");
        fs::write(&file, format!("{alone}\ncluster {{\n{block}\n")).unwrap();
        let wires = self.wires.iter().filter(|(from, _, _)| *from == node);
        let routes: Vec<_> = wires
            .map(|(_, _, wire)| format!("\"nats-route://route:{ROUTE_PASSWORD}@{}\"", wire.address()))
            .collect();
        fs::write(dir.join("routes.conf"), format!("routes: [{}]\n", routes.join(", "))).unwrap();
        file
    }

    /// Starts the servers, each in its folder.
    pub(crate) async fn start(
        &self,
        programs: &Programs,
        project: &Path,
        passwords: &NatsPasswords,
        dirs: &[PathBuf],
    ) -> Vec<NatsServer> {
        let starting = dirs.iter().enumerate().map(async |(node, dir)| {
            let config = self.write_config(node, project, dir);
            let args = [
                "--server_name",
                &name(node),
                "--cluster_advertise",
                &self.nowhere.address().to_string(),
            ];
            let options = NatsOptions {
                extra_args: args.map(Into::into).into(),
                remove_dir_on_exit: true,
            };
            NatsServer::start_with(programs, &config, dir, passwords, options).await
        });
        try_join_all(starting).await.unwrap()
    }
}

fn name(node: usize) -> String {
    format!("nats-{node}")
}

impl Nats {
    /// One of the cluster's servers.
    pub(crate) fn node(&self, node: usize) -> &NatsServer {
        match node.checked_sub(1) {
            None => &self.server,
            Some(other) => &self.others[other],
        }
    }

    /// How its servers reach each other.
    pub(crate) fn routes(&self) -> &Routes {
        self.routes.as_ref().expect("a cluster")
    }

    /// Waits until some server leads this stream, and all others have what it has.
    pub(crate) async fn leader_with_all(&self, context: &jetstream::Context, name: &str) -> usize {
        let what = format!("{name} has a leader and {} followers that have it all", NODES - 1);
        eventually(&what, PATIENCE * 2, async || {
            let info = info(context, name).await?;
            let cluster = info.cluster.clone().ok_or("no cluster")?;
            let current = cluster
                .replicas
                .iter()
                .filter(|peer| peer.current && !peer.offline)
                .count();
            match cluster.leader.as_deref().and_then(number) {
                Some(leader) if current == NODES - 1 => Ok(leader),
                _ => Err(format!("{cluster:?}")),
            }
        })
        .await
    }

    /// Waits until another server leads this stream.
    pub(crate) async fn another_leader(&self, context: &jetstream::Context, name: &str, than: usize) -> usize {
        eventually(&format!("{name} has another leader"), PATIENCE * 2, async || {
            let info = info(context, name).await?;
            let leader = info
                .cluster
                .as_ref()
                .and_then(|cluster| cluster.leader.as_deref())
                .and_then(number);
            leader.filter(|leader| *leader != than).ok_or(format!("{leader:?}"))
        })
        .await
    }
}

/// The number of a server by its name.
fn number(name: &str) -> Option<usize> {
    (0..NODES).find(|node| self::name(*node) == name)
}

async fn info(context: &jetstream::Context, name: &str) -> Result<stream::Info, String> {
    let stream = context.get_stream(name).await.map_err(|error| error.to_string())?;
    Ok(stream.cached_info().clone())
}
