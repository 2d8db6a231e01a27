//! `orders show`: shows the story of one order.

use std::fmt;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use super::Show;
use crate::{
    config::{self, Environment},
    journal::connection::{Connection, HUB_INBOX},
    operator::{
        acts,
        dead_letters::{printable, time_text},
        output::{Table, Verdict, show},
        queries::{
            mask::Masking,
            orders::{self, ListedOrder},
            steps::Step,
            story::{self, OrderSelection, Story, StoryOptions},
        },
        step_text, tell, with_rights,
    },
};

/// Shows the story of an order. It needs a person if something of it was given up or is past its deadline.
pub(super) async fn run(environment: &Environment, what: &Show, as_json: bool) -> anyhow::Result<Verdict> {
    let settings = config::Nats::from_environment(environment)?;
    let (which, others) = Box::pin(which(environment, what)).await?;
    let connection = Connection::open(&settings, "webhook-hub orders", HUB_INBOX).await?;
    connection.reach().await?;
    let with = StoryOptions {
        raw: what.raw,
        body: what.body,
        differences: what.diff,
        all: what.all,
        masking: if what.reveal { Masking::Off } else { Masking::On },
    };
    let reading = async {
        let story = story::read(&connection, &which, with).await?;
        if what.reveal && !story.steps.is_empty() {
            let arguments = json!({ "provider": which.provider, "order": which.external_order_id });
            acts::reveal(&connection, environment, &what.act, arguments).await?;
        }
        anyhow::Ok(story)
    };
    let mut story = with_rights(&connection, &settings, reading)
        .await
        .context("the stream EVENTS cannot be read; is NATS_USER the user hub, was `streams apply` run?")?;
    story.others = others;
    if story.steps.is_empty() {
        bail!(
            "the log has nothing about {} {}: it never came, or its events have left the log",
            printable(&which.provider),
            printable(&which.external_order_id)
        );
    }
    show(as_json, &story, StoryText(&story, with.masking))?;
    let needs_a_person = |order: &ListedOrder| order.given_up_at.is_some() || order.is_overdue;
    Ok(Verdict::needs_a_person(
        story.order.as_ref().is_some_and(needs_a_person),
    ))
}

/// The selected order, and the other orders with that id. Without `hub.orders` the id must be the provider's.
async fn which(environment: &Environment, what: &Show) -> anyhow::Result<(OrderSelection, Vec<String>)> {
    let by_log_alone = || OrderSelection {
        provider: what.provider.clone(),
        external_order_id: what.id.clone(),
        order: None,
        next_order_at: None,
    };
    let database = async { super::database(environment)?.connect().await };
    let found = async {
        let connection = database.await?;
        let found = orders::with_id(&connection, &what.provider, &what.id).await?;
        anyhow::Ok((connection, found))
    };
    let (connection, found) = match Box::pin(found).await {
        Ok(found) => found,
        Err(error) => {
            let error = printable(&format!("{error:#}"));
            tell(format!(
                "hub.orders cannot be read ({error}); {} is taken as the provider's id, and the whole log is searched",
                printable(&what.id)
            ));
            return Ok((by_log_alone(), Vec::new()));
        }
    };
    let chosen = match &what.order {
        Some(order) => match found.iter().find(|one| one.id == *order) {
            Some(one) => Some(one),
            None => {
                bail!("no order {order} has this id; `webhook-hub orders list --id ID --json` shows those that have")
            }
        },
        None => found.first(),
    };
    let Some(chosen) = chosen else {
        return Ok((by_log_alone(), Vec::new()));
    };
    let others = found.iter().filter(|one| one.id != chosen.id).map(|one| one.id.clone());
    let namesakes = orders::with_id(&connection, &what.provider, &chosen.external_order_id).await?;
    Ok((OrderSelection::among(chosen, &namesakes), others.collect()))
}

/// The story as text.
struct StoryText<'a>(&'a Story, Masking);

impl fmt::Display for StoryText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.head(f)?;
        let mut day = None;
        let mut last_webhook = None;
        let width = self
            .0
            .steps
            .iter()
            .map(|step| step_text::words(step).0.chars().count())
            .max();
        for step in &self.0.steps {
            let today = step.time.date_naive();
            if day.replace(today) != Some(today) {
                writeln!(f, "\n{today}")?;
                last_webhook = None;
            }
            if last_webhook.replace(step.webhook_id) != Some(step.webhook_id) {
                writeln!(f, "  {} {}", printable(&step.webhook_type), step.webhook_id)?;
            }
            self.step(f, step, width.unwrap_or_default())?;
        }
        self.end(f)
    }
}

impl StoryText<'_> {
    fn head(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let story = self.0;
        write!(
            f,
            "{} {}",
            printable(&story.provider),
            printable(&story.external_order_id)
        )?;
        let Some(order) = &story.order else { return writeln!(f) };
        for id in [&order.order_number, &order.display_id].into_iter().flatten() {
            write!(f, ", {}", printable(id))?;
        }
        if let Some(id) = &order.order_id {
            write!(f, ", in the backend {}", printable(id))?;
        }
        writeln!(f)?;
        let branch = order.branch_id.as_deref().unwrap_or("not known");
        write!(f, "branch {}: {}", printable(branch), printable(&order.state))?;
        if let Some(status) = &order.status {
            write!(f, ", the provider last said {}", printable(status))?;
        }
        if let Some(deadline) = order.deadline {
            let passed = if order.is_overdue { ", which has passed" } else { "" };
            write!(f, ", deadline {}{passed}", time_text(deadline))?;
        }
        if order.is_test {
            write!(f, ", a test order")?;
        }
        writeln!(f)
    }

    fn step(&self, f: &mut fmt::Formatter<'_>, step: &Step, width: usize) -> fmt::Result {
        let (head, text) = step_text::words(step);
        let time = step.time.format("%H:%M:%S%.3f");
        writeln!(f, "    {time}  {head:width$}  {text}")?;
        for change in &step.changes {
            let value = |value: &Option<Value>| value.as_ref().map_or_else(|| "nothing".into(), Value::to_string);
            let (before, after) = (value(&change.before), value(&change.after));
            let line = format!("{}: {before} -> {after}", change.pointer);
            writeln!(f, "        {}", printable(&line))?;
        }
        for (name, document) in [("as it came", &step.raw), ("for the backend", &step.body)] {
            if let Some(document) = document {
                writeln!(f, "        {name}:")?;
                let text = serde_json::to_string_pretty(document).map_err(|_| fmt::Error)?;
                for line in text.lines() {
                    writeln!(f, "          {}", printable(line))?;
                }
            }
        }
        Ok(())
    }

    fn end(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let story = self.0;
        if story.is_cut {
            writeln!(f, "\nonly the first {} events are shown", story::MOST_STEPS)?;
        }
        if !story.others.is_empty() {
            let mut table = Table::new(["\nother orders with this id; --order shows one of them"]);
            for other in &story.others {
                table.push([other.clone()]);
            }
            write!(f, "{table}")?;
        }
        let has_documents = story.steps.iter().any(|step| step.raw.is_some() || step.body.is_some());
        let masked = match self.1 {
            Masking::On if has_documents => "; personal data is masked",
            Masking::Off => "; personal data is shown, which is on the log",
            Masking::On => "",
        };
        let until = story.until.map_or_else(|| "the end of the log".into(), time_text);
        write!(f, "\n{} events until {until}{}", story.steps.len(), masked)
    }
}
