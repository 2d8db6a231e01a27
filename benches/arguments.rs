//! The arguments of the bench.

use std::{path::PathBuf, time::Duration};

use anyhow::{Result, ensure};
use clap::Parser;

use crate::{
    sections::Section,
    turns::{self, Pair},
    world::Build,
};

/// How fast, how late and how large the hub is, measured on this machine.
#[derive(Debug, Parser)]
#[command(name = "make bench", override_usage = "make bench ARGS='[OPTIONS] [SECTIONS]...'")]
pub(crate) struct Arguments {
    /// What is measured; all where none is named
    #[arg(value_enum)]
    pub(crate) sections: Vec<Section>,
    /// How often each figure is taken; the median counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    rounds: u8,
    /// Measured time of one run of the load, in seconds
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..))]
    seconds: u16,
    /// Section `projection`: makes the log so long first, of copies of its orders
    #[arg(long, value_name = "EVENTS")]
    pub(crate) events: Option<u64>,
    /// Compares with an earlier run, saved in this file; refuses one of another machine
    #[arg(long, value_name = "FILE", conflicts_with = "against")]
    pub(crate) compare: Option<PathBuf>,
    /// Compares the run saved in this file instead of measuring anew
    #[arg(long, value_name = "FILE", requires = "compare")]
    pub(crate) with: Option<PathBuf>,
    /// Saves the run in this file, too
    #[arg(long, value_name = "FILE")]
    pub(crate) save: Option<PathBuf>,
    /// Build A: the hub's program; measured in turns with build B
    #[arg(long, value_name = "PROGRAM", requires = "against")]
    hub: Option<PathBuf>,
    /// Build B: the hub's program that A is measured against
    #[arg(long, value_name = "PROGRAM")]
    against: Option<PathBuf>,
    /// The folder of A's source, of which nats.conf is read
    #[arg(long, value_name = "FOLDER", requires = "against", default_value = ".")]
    tree_a: PathBuf,
    /// The folder of B's source
    #[arg(long, value_name = "FOLDER", requires = "against", default_value = ".")]
    tree_b: PathBuf,
}

impl Arguments {
    /// How often each figure is taken.
    pub(crate) fn rounds(&self) -> usize {
        usize::from(self.rounds)
    }

    /// Measured time of one run of the load.
    pub(crate) fn duration(&self) -> Duration {
        Duration::from_secs(self.seconds.into())
    }

    /// The builds that take turns, if two are to; A is the one of this bench where none is named.
    ///
    /// # Errors
    /// If a section is named that says nothing about a program from outside.
    pub(crate) fn pair(&self) -> Result<Option<Pair>> {
        let Some(against) = &self.against else { return Ok(None) };
        for section in &self.sections {
            ensure!(
                turns::SECTIONS.contains(section),
                "section {section:?} uses the library that is linked into the bench, so it says nothing about two builds; there are \
                 end-to-end and accept"
            );
        }
        let own = Build::own();
        Ok(Some(Pair {
            a: Build {
                binary: self.hub.clone().unwrap_or(own.binary),
                tree: self.tree_a.clone(),
            },
            b: Build {
                binary: against.clone(),
                tree: self.tree_b.clone(),
            },
        }))
    }
}
