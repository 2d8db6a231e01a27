//! Two builds in turns, A, B, B, A, A, B …, each time on empty servers with the configuration of its own source: what changed between them, whatever
//! the machine does meanwhile.

use anyhow::Result;

use crate::{
    results::{
        Results,
        compare::{self, Compared, Said},
        row::Samples,
        statistics::Verdict,
        steady::Rounds,
        yardstick::Yardstick,
    },
    sections::{Section, left_out},
    traffic::Traffic,
    world::{Build, World},
};

/// Where the last run's results are kept, from the project's root.
pub(crate) const LATEST: &str = "bench/turns.json";

/// Sections that run nothing but the hub's program. All others use the library that is linked into the bench, which is of one build.
pub(crate) const SECTIONS: [Section; 2] = [Section::EndToEnd, Section::Accept];

/// The two builds.
pub(crate) struct Pair {
    /// The one that is judged.
    pub(crate) a: Build,
    /// The one that it is measured against.
    pub(crate) b: Build,
}

/// The figures of one section, of either build.
struct Part {
    section: Section,
    a: Samples,
    b: Samples,
}

/// Measures the sections (all of [`SECTIONS`] where none is named) with both builds, so often in turns. Returns the figures of both, and the
/// ratios A / B as text.
pub(crate) async fn run(
    pair: &Pair,
    sections: &[Section],
    rounds: usize,
    traffic: &Traffic,
    mut results: Results,
) -> Result<(Results, String)> {
    let wanted = |section: &Section| sections.is_empty() || sections.contains(section);
    let mut parts: Vec<_> = SECTIONS.into_iter().filter(wanted).map(part_of).collect();
    let mut rounds = Rounds::new(rounds, Yardstick::take());
    while rounds.are_due() {
        let mut builds = [(&pair.a, true), (&pair.b, false)];
        // What the machine does between two rounds must not always meet the same build.
        if rounds.counted() % 2 == 1 {
            builds.reverse();
        }
        let mut of_round: Vec<_> = parts.iter().map(|part| part_of(part.section)).collect();
        for (turn, (build, is_a)) in builds.into_iter().enumerate() {
            if turn > 0 {
                rounds.look(Yardstick::take());
            }
            let world = World::start(build).await?;
            for Part { section, a, b } in &mut of_round {
                let samples = if is_a { a } else { b };
                match section {
                    Section::Accept => world.accept(traffic, samples).await?,
                    _ => Box::pin(world.end_to_end(traffic, samples)).await?,
                }
            }
            world.stop().await?;
        }
        if rounds.end(Yardstick::take()) {
            for (part, round) in parts.iter_mut().zip(of_round) {
                part.a.take_in(round.a);
                part.b.take_in(round.b);
            }
        } else {
            left_out("A and B");
        }
    }
    results.note_rounds("A and B", rounds);
    let ratios: Vec<_> = parts.iter().flat_map(|part| part.ratios(results.usable)).collect();
    for part in parts {
        let by_turn = part.by_turn();
        for samples in [part.a, part.b, by_turn] {
            results.rows.extend(samples.into_rows());
        }
    }
    results.normalise(0, 0);
    Ok((results, compare::table(&ratios, ["B", "A", "A / B"])))
}

impl Part {
    /// Each figure of A and of B, and the ratio of their medians.
    fn ratios(&self, usable: bool) -> Vec<Compared> {
        let pairs = self.a.rows().iter().zip(self.b.rows());
        let compared = pairs.filter_map(|(a, b)| {
            let (of_a, of_b) = (a.spread?, b.spread?);
            Some(Compared {
                names: [name(self.section, ""), a.what.clone(), a.unit.clone()],
                earlier: of_b,
                now: of_a,
                ratio: of_a.median / of_b.median,
                // They took turns, so the CPU's speed is in both.
                normalised: None,
                said: if usable {
                    Said::Judged(Verdict::of(&of_b, &of_a))
                } else {
                    Said::NotUsable
                },
            })
        });
        compared.collect()
    }

    /// The ratio of each turn of A to the turn of B in the same round: how steady the ratio is.
    fn by_turn(&self) -> Samples {
        let mut samples = Samples::new(name(self.section, "A / B by turn"));
        for (a, b) in self.a.rows().iter().zip(self.b.rows()) {
            for (of_a, of_b) in a.taken.iter().zip(&b.taken) {
                samples.add(&*a.what, of_a / of_b, "");
            }
        }
        samples
    }
}

fn part_of(section: Section) -> Part {
    Part {
        section,
        a: Samples::new(name(section, "A")),
        b: Samples::new(name(section, "B")),
    }
}

fn name(section: Section, of: &str) -> String {
    let name = match section {
        Section::Accept => "accept",
        _ => "end to end",
    };
    if of.is_empty() {
        name.to_owned()
    } else {
        format!("{name}, {of}")
    }
}
