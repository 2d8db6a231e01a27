//! (f) What a large platform costs: many providers and branches in its tables, beside ten.

use anyhow::Result;

use super::{Bench, ROUNDS, middle};
use crate::{
    report::{Goal, Row},
    setup::{PATIENCE, postgres},
};

const SECTION: &str = "branches";
/// Rows of `branch_delivery_configs` and `delivery_providers`, beside those of the bench's own branch.
const FEW: (usize, usize) = (10, 10);
const MANY: (usize, usize) = (50_000, 1_000);

impl Bench {
    pub(crate) async fn branches(&mut self) -> Result<()> {
        let url = self.servers.new_database("branches").await?;
        let (mut with_few, mut with_many) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            for (rows, rates) in [(FEW, &mut with_few), (MANY, &mut with_many)] {
                fill(&url, rows).await?;
                let child = self.servers.hub(&url, &format!("http://{}", self.backend))?;
                // What an earlier run left on the log is worked off first, and the table is read.
                self.completed_per_second(&child, &url).await?;
                rates.push(self.completed_per_second(&child, &url).await?);
                child.stop(PATIENCE)?;
            }
        }
        let (few, many) = (middle(with_few), middle(with_many));
        let of = |(branches, providers): (usize, usize)| format!("{branches} branches of {providers} providers");
        self.push(Row::number(SECTION, format!("completed, {}", of(FEW)), few, "orders/s"));
        self.push(Row::number(
            SECTION,
            format!("completed, {}", of(MANY)),
            many,
            "orders/s",
        ));
        self.push(Row::number(SECTION, "share that is kept", many / few, "").goal(Goal::AtLeast(0.97)));
        Ok(())
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
