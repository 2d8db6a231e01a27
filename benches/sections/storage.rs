//! How much an order takes on the event log and in the tables.

use super::*;

impl Bench {
    /// The same figures without those of speed, at whatever rate this machine has.
    pub(crate) async fn storage_alone(&mut self) -> Result<()> {
        let url = self.servers.new_database("storage").await?;
        let child = self.servers.hub(&url, &format!("http://{}", self.backend))?;
        good(self.load(child.port(), FEW_CONNECTIONS, Pace::Closed).run().await?)?;
        self.wait_completed(&url).await?;
        self.storage(&url).await?;
        child.stop(PATIENCE)
    }

    /// What an order leaves on the disks, after all of (b): the event log on one replica, and the tables with their indexes.
    pub(super) async fn storage(&mut self, url: &str) -> Result<()> {
        const SECTION: &str = "storage";
        const TABLES: &str = "SELECT sum(pg_total_relation_size(c.oid))::bigint FROM pg_class AS c \
            JOIN pg_namespace AS n ON n.oid = c.relnamespace \
            WHERE c.relkind = 'r' AND n.nspname IN ('public', 'hub')";
        let client = postgres(url).await?;
        let orders = completed(url).await? as f64;
        self.push(Row::number(SECTION, "orders", orders, ""));
        let tables: i64 = client.query_one(TABLES, &[]).await?.try_get(0)?;
        let log = self.servers.log_bytes()? as f64;
        self.push(Row::number(
            SECTION,
            "bytes an order on the event log",
            log / orders,
            "bytes",
        ));
        self.push(Row::number(
            SECTION,
            "bytes an order in the tables, with indexes",
            tables as f64 / orders,
            "bytes",
        ));
        Ok(())
    }
}
