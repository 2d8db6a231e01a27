//! How much an order takes on the event log and in the tables.

use anyhow::Result;

use super::{Bench, FEW_CONNECTIONS, completed};
use crate::{
    load::Pace,
    results::row::Samples,
    setup::{PATIENCE, postgres},
};

impl Bench {
    /// The same figures without those of speed, at whatever rate this machine has.
    pub(crate) async fn storage_alone(&mut self) -> Result<()> {
        let url = self.servers.new_database("storage").await?;
        let child = self.servers.hub(&url, &self.traffic.backend())?;
        let load = self.traffic.load(child.port(), FEW_CONNECTIONS, Pace::Closed);
        load.run().await?.good()?;
        self.wait_completed(&url).await?;
        self.storage(&url).await?;
        child.stop(PATIENCE)
    }

    /// What an order leaves on the disks, after all of (b): the event log on one replica, and the tables with their indexes. Taken
    /// once, for it is a mean of all orders and the load does not change it.
    pub(super) async fn storage(&mut self, url: &str) -> Result<()> {
        const TABLES: &str = "SELECT sum(pg_total_relation_size(c.oid))::bigint FROM pg_class AS c \
            JOIN pg_namespace AS n ON n.oid = c.relnamespace \
            WHERE c.relkind = 'r' AND n.nspname IN ('public', 'hub')";
        let mut samples = Samples::new("storage");
        let client = postgres(url).await?;
        let orders = completed(url).await? as f64;
        samples.add("orders", orders, "");
        let tables: i64 = client.query_one(TABLES, &[]).await?.try_get(0)?;
        let log = self.servers.log_bytes()? as f64;
        samples.add("bytes an order on the event log", log / orders, "bytes");
        let tables = tables as f64 / orders;
        samples.add("bytes an order in the tables, with indexes", tables, "bytes");
        self.push(samples);
        Ok(())
    }
}
