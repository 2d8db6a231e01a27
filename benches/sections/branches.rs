//! (f) What a large platform costs: many providers and branches in its tables, beside ten.

use anyhow::Result;

use super::Bench;
use crate::{
    results::row::{Goal, Samples},
    setup::{PATIENCE, postgres},
};

/// Rows of `branch_delivery_configs` and `delivery_providers`, beside those of the bench's own branch.
const FEW: (usize, usize) = (10, 10);
const MANY: (usize, usize) = (50_000, 1_000);

impl Bench {
    pub(crate) async fn branches(&mut self) -> Result<()> {
        let mut samples = Samples::new("branches");
        let url = self.servers.new_database("branches").await?;
        for _ in 0..self.rounds {
            let few = self.completed_with(&url, FEW, &mut samples).await?;
            let many = self.completed_with(&url, MANY, &mut samples).await?;
            let share = samples.add("share that is kept", many / few, "");
            share.wants(Goal::AtLeast(0.97));
        }
        self.push(samples);
        Ok(())
    }

    async fn completed_with(&self, url: &str, rows: (usize, usize), samples: &mut Samples) -> Result<f64> {
        fill(url, rows).await?;
        let child = self.servers.hub(url, &self.traffic.backend())?;
        // What an earlier run left on the log is worked off first, and the table is read.
        self.completed_per_second(&child, url).await?;
        let rate = self.completed_per_second(&child, url).await?;
        child.stop(PATIENCE)?;
        let (branches, providers) = rows;
        let what = format!("completed, {branches} branches of {providers} providers");
        samples.add(what, rate, "orders/s");
        Ok(rate)
    }
}

/// Makes the platform's tables hold so many branches of so many providers beside the bench's own.
async fn fill(url: &str, (branches, providers): (usize, usize)) -> Result<()> {
    let fill = format!(
        "DELETE FROM branch_delivery_configs WHERE id LIKE 'many-%';
        DELETE FROM delivery_providers WHERE id LIKE 'many-%';
        INSERT INTO delivery_providers (id, code, name)
            SELECT 'many-' || n, 'many-' || n, 'Many' FROM generate_series(1, {providers}) n;
        INSERT INTO branch_delivery_configs (id, branch_id, provider_id, company_id, merchant_id, store_id, settings)
            SELECT 'many-' || n, 'branch-' || n, 'many-' || (n % {providers} + 1), 'company-' || n % 500, 'merchant-' || n,
                'store-' || n, '{{\"menu\": \"main\"}}'
            FROM generate_series(1, {branches}) n"
    );
    Ok(postgres(url).await?.batch_execute(&fill).await?)
}
