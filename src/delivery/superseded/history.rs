//! The history of an order: what each webhook says about it, and what became of that. Decides which word is a later one, and what the
//! backend has. Pure.
//!
//! Each question about later words is answered here, for a retry by a person, a repeat by the provider and an announcement that is
//! compared with the ones before. A word is as old as the first acceptance of its webhook ([`super::news`]).
//!
//! | what is handled | is superseded by a later word of another webhook |
//! |---|---|
//! | an announcement of an order that does not exist at the backend yet | that calls the order off, however that word ended: told, nothing to cancel, or given up |
//! | an announcement of an order that another one created | that calls the order off, in the same way; or about its lines, that the backend has or may have, if the lines differ: an amendment, an announcement that was found equal, and, if the provider amends so, the announcement that created the order |
//! | an amendment | the same, and any announcement, if the order was announced before the amendment; one that asks for money back by later lines only |
//! | a status | a status that the backend has or may have; or that calls the order off, however that word ended |
//! | a cancellation, or what was said before one | an announcement that came after the cancellation and created an order, or may have, unless the backend had the order before, or nothing was announced before the cancellation. It is a new order |

use super::{
    Newer,
    end::End,
    news::{self, ToldAs, Verdict, Word},
};
use crate::order::{
    body::{AnnouncedContent, Difference},
    status::Status,
};

/// What a webhook is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Says {
    /// The whole order; none if its content cannot be read.
    Order(Option<Box<AnnouncedContent>>),
    /// Other lines of the order.
    Lines,
    /// Other lines of the order, and that money is asked back, which a later word may not say.
    LinesAndRefund,
    /// Its status.
    Status,
    /// Something that no later word replaces: the courier, or money that is asked back.
    Other,
}

/// A word about an order, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Its webhook, age and status.
    pub word: Word,
    /// What it is about.
    pub says: Says,
    /// What became of it. Of the word that is handled it does not count.
    pub end: End,
    /// Place on the log of the outcome that says so; none where it does not matter, or is not known.
    pub ended_at: Option<u64>,
}

impl Said {
    fn is_after(&self, other: &Self) -> bool {
        self.word.webhook != other.word.webhook && self.word.accepted.is_after(other.word.accepted)
    }

    /// Whether it says that the order is not to be made.
    pub fn calls_off(&self) -> bool {
        self.word.status.is_some_and(Status::is_called_off)
    }

    /// Whether the backend has the lines of this word, or may have them. What only tells a status has the lines that the backend has.
    fn has_lines(&self) -> bool {
        let is_about_lines = matches!(self.says, Says::Order(_) | Says::Lines | Says::LinesAndRefund);
        is_about_lines && (self.end.is_told() || self.end == End::Uncertain)
    }

    fn difference(&self, other: &Self) -> Option<Option<Difference>> {
        match (&self.says, &other.says) {
            (Says::Order(Some(one)), Says::Order(Some(other))) => Some(one.difference(other)),
            _ => None,
        }
    }

    fn is_of_another_order(&self, other: &Self) -> bool {
        self.difference(other) == Some(Some(Difference::Order))
    }

    /// Whether the backend has an order by this announcement, or may have one.
    fn may_be_created(&self) -> bool {
        matches!(self.says, Says::Order(_)) && (self.end.is_created() || self.end == End::Uncertain)
    }

    /// Whether this word calls off an announcement, which is not sent any more then. It does not if the number was used again between the two:
    /// it calls off the order that was announced last before it. `history` holds the announcements in between, as far as they are known.
    pub fn calls_off_announcement(&self, announcement: &Self, history: &[Self]) -> bool {
        if !self.calls_off() || !self.is_after(announcement) {
            return false;
        }
        let is_between = |said: &&Self| {
            let is_announcement = matches!(said.says, Says::Order(_));
            is_announcement && said.is_after(announcement) && self.is_after(said)
        };
        let between = history.iter().filter(is_between);
        let last = between.reduce(|last, said| if said.is_after(last) { said } else { last });
        last.is_none_or(|last| !last.is_of_another_order(announcement))
    }

    /// Whether it replaces an older status.
    fn replaces_status(&self, older: &Self) -> bool {
        if self.calls_off() && matches!(self.says, Says::Status) {
            return true;
        }
        let told_as = match (&self.says, self.end) {
            (Says::Status | Says::Order(_), End::Told | End::OutOfTurn)
            | (Says::Status, End::Uncertain)
            | (Says::Order(_), End::HalfUncertain) => ToldAs::News,
            (Says::Order(_), End::Created | End::Differs | End::Uncertain) => ToldAs::Announcement,
            _ => return false,
        };
        news::judge(&older.word, &self.word, told_as) == Verdict::Superseded
    }
}

/// The word that supersedes this one, by its place in the history; none if this one still holds.
pub fn newer(own: &Said, history: &[Said]) -> Option<(usize, Newer)> {
    let newer = newer_word(own, history);
    if newer.is_some() || matches!(own.says, Says::Order(_)) {
        return newer;
    }
    announced_anew(own, history).map(|at| (at, Newer::AnnouncedAnew))
}

fn newer_word(own: &Said, history: &[Said]) -> Option<(usize, Newer)> {
    let mut later = (0..history.len()).filter(|at| history[*at].is_after(own));
    match own.says {
        Says::Order(_) => {
            let is_own = |said: &Said| said.word.webhook == own.word.webhook;
            let mut created = history.iter().filter(|said| said.end.is_created());
            match created.clone().find(|said| said.end == End::Created) {
                _ if created.any(is_own) => None,
                None => called_off(own, history).map(|at| (at, Newer::CalledOff)),
                // Neither says anything about the other one.
                Some(created) if created.is_of_another_order(own) => None,
                // Which of the two announcements holds depends on the provider (`again`).
                Some(_) => newer_lines(own, history, |said| said.end != End::Created),
            }
        }
        // An amendment may come before its order; then the order's announcements say nothing of it.
        Says::Lines | Says::LinesAndRefund => {
            let is_before = |said: &Said| matches!(said.says, Says::Order(_)) && own.is_after(said);
            let is_announced = history.iter().any(is_before);
            let counts = |said: &Said| is_announced || !matches!(said.says, Says::Order(_));
            match own.says {
                Says::Lines => newer_lines(own, history, counts),
                // No cancellation says that the money is not asked back.
                _ => later_lines(own, history, counts).map(|at| (at, Newer::LinesOfRefund)),
            }
        }
        // One that says no known status is never superseded.
        Says::Status if own.word.status.is_some() => {
            let told = |said: &Said| said.replaces_status(own) && !has_told_nothing(said, history);
            let newer = later.rfind(|at| told(&history[*at]));
            newer.map(|at| (at, Newer::News))
        }
        Says::Status | Says::Other => None,
    }
}

/// An announcement after the order was called off, by which the backend has or may have a new order. What was said before the cancellation,
/// and the cancellation itself, would change that one. None if the backend had the order before the cancellation, or if no announcement
/// came before it: such a cancellation overtook its order.
fn announced_anew(own: &Said, history: &[Said]) -> Option<usize> {
    let is_new = |at: &usize| {
        let said = &history[*at];
        let is_after = |off: &Said| off.calls_off() && said.is_after(off);
        let is_there = |off: &Said| history.iter().any(|one| one.end.is_created() && !one.is_after(off));
        let was_announced = |off: &Said| {
            let is_before = |one: &Said| matches!(one.says, Says::Order(_)) && off.is_after(one);
            history.iter().any(is_before)
        };
        let mut off = history.iter().filter(|off| off.is_after(own)).chain([own]);
        said.may_be_created() && off.any(|off| is_after(off) && was_announced(off) && !is_there(off))
    };
    (0..history.len()).rfind(is_new)
}

/// Whether an announcement ended as a duplicate of perhaps another order: no status of it was told.
fn has_told_nothing(said: &Said, history: &[Said]) -> bool {
    let created = history.iter().find(|said| said.end == End::Created);
    said.end == End::Differs && created.is_some_and(|created| created.is_of_another_order(said))
}

/// A later word that calls the order off.
fn called_off(own: &Said, history: &[Said]) -> Option<usize> {
    (0..history.len()).rfind(|at| history[*at].calls_off_announcement(own, history))
}

/// A later word about the order's lines, or that there is nothing to make any more.
fn newer_lines(own: &Said, history: &[Said], counts: impl Fn(&Said) -> bool) -> Option<(usize, Newer)> {
    if let Some(cancelled) = called_off(own, history) {
        return Some((cancelled, Newer::Cancelled));
    }
    later_lines(own, history, counts).map(|at| (at, Newer::Lines))
}

fn later_lines(own: &Said, history: &[Said], counts: impl Fn(&Said) -> bool) -> Option<usize> {
    let is_later = |at: &usize| {
        let said = &history[*at];
        said.is_after(own) && said.has_lines() && counts(said) && !said.is_of_another_order(own)
    };
    let last = (0..history.len())
        .filter(is_later)
        .reduce(|last, at| if history[at].is_after(&history[last]) { at } else { last })?;
    // One with the same content is compared with what the backend has, if that is certain.
    let is_same = history[last].end.is_told() && own.difference(&history[last]) == Some(None);
    (!is_same).then_some(last)
}

/// What an announcement says about an order that another one created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Again {
    /// How it differs from what the backend has. Where that is not known, its content is another one.
    pub difference: Option<Difference>,
    /// Whether its status is further than the one that the backend has.
    pub is_news: bool,
    /// Whether it would be an amendment, and a later word holds.
    pub is_superseded: bool,
    /// Whether it names another address than the announcement that created the order. No amendment says that.
    pub has_other_address: bool,
}

/// Compares an announcement with what the backend has. `base`: the announcement that created the order. `amends`: the provider changes
/// orders by announcing them again; of other providers no content but the first one's is ever sent.
pub fn again(own: &Said, base: &Said, history: &[Said], amends: bool) -> Again {
    let (Says::Order(Some(new)), Says::Order(Some(old))) = (&own.says, &base.says) else {
        return Again {
            difference: None,
            is_news: false,
            is_superseded: false,
            has_other_address: false,
        };
    };
    let has = if amends { content(base, history) } else { Some(&**old) };
    let difference = match has {
        Some(has) => new.difference(has),
        None if new.difference(old) == Some(Difference::Order) => Some(Difference::Order),
        None => Some(Difference::Content),
    };
    let status = status(base, history);
    let is_further = own
        .word
        .status
        .is_some_and(|new| status.is_none_or(|status| new.follows(status)));
    let is_replaced = |said: &Said| matches!(said.says, Says::Status) && said.replaces_status(own);
    let is_amendment = amends && difference == Some(Difference::Content);
    let is_superseded = || {
        let said: Vec<Said> = history.iter().chain([base]).cloned().collect();
        newer_lines(own, &said, |_| true).is_some()
    };
    Again {
        difference,
        is_superseded: is_amendment && is_superseded(),
        has_other_address: new.has_other_address(old),
        // What is perhaps another order says nothing of this one.
        is_news: difference != Some(Difference::Order)
            && is_further
            && !history.iter().any(|said| said.is_after(own) && is_replaced(said)),
    }
}

/// The content that the backend has of an order, for certain; none if that is not known. `base` is the announcement that created the
/// order. The hub sends words in the order of their acceptance, unless a person asks for another order.
fn content<'a>(base: &'a Said, history: &'a [Said]) -> Option<&'a AnnouncedContent> {
    let of = |said: &'a Said| match &said.says {
        Says::Order(content) => content.as_deref(),
        _ => None,
    };
    if history.iter().any(|said| said.end == End::OutOfTurn) {
        return content_since_override(base, history);
    }
    // An amendment that came before its order was told after it.
    let is_amended = |said: &Said| {
        let is_told = matches!(said.end, End::Told | End::Uncertain);
        is_told && matches!(said.says, Says::Lines | Says::LinesAndRefund) && base.is_after(said)
    };
    let mut has = of(base).filter(|_| !history.iter().any(is_amended));
    for said in in_order(history).filter(|said| said.is_after(base) && !said.is_of_another_order(base)) {
        match (&said.says, said.end) {
            (Says::Order(_), End::Told | End::Amended | End::HalfTold | End::HalfUncertain | End::Same) => {
                has = of(said);
            }
            // What asked for the content that the backend had has not changed it.
            (Says::Order(_), End::Uncertain) => {
                has = has.filter(|has| of(said).is_some_and(|content| content.is_same_content(has)));
            }
            (Says::Lines | Says::LinesAndRefund, End::Told | End::Uncertain) => has = None,
            _ => {}
        }
    }
    has
}

/// The same, where a person had something told out of turn: since then the places of the outcomes say what was told last.
fn content_since_override<'a>(base: &'a Said, history: &'a [Said]) -> Option<&'a AnnouncedContent> {
    let is_override = |said: &&Said| said.end == End::OutOfTurn && !said.is_of_another_order(base);
    let last = history.iter().filter(is_override).max_by_key(|said| said.ended_at)?;
    let overridden_at = last.ended_at?;
    let mut since = Vec::new();
    for said in history.iter().filter(|said| !said.is_of_another_order(base)) {
        let changes = match said.says {
            Says::Order(_) => matches!(
                said.end,
                End::Told | End::Amended | End::HalfTold | End::HalfUncertain | End::Uncertain
            ),
            Says::Lines | Says::LinesAndRefund => matches!(said.end, End::Told | End::Uncertain),
            Says::Status | Says::Other => false,
        };
        if changes && said.ended_at? > overridden_at {
            since.push(said);
        }
    }
    since.sort_by_key(|said| said.ended_at);
    let of = |said: &'a Said| match &said.says {
        Says::Order(content) => content.as_deref(),
        _ => None,
    };
    let mut has = of(last);
    for said in since {
        has = match said.end {
            End::Uncertain => has.filter(|has| of(said).is_some_and(|content| content.is_same_content(has))),
            _ => of(said),
        };
    }
    has
}

/// The status that the backend has of an order. An announcement told its own only if that was further.
fn status(base: &Said, history: &[Said]) -> Option<Status> {
    let mut has = base.word.status;
    for said in
        in_order(history).filter(|said| said.word.webhook != base.word.webhook && !said.is_of_another_order(base))
    {
        match (&said.says, said.end) {
            (Says::Status, End::Told) if said.word.status.is_some() => has = said.word.status,
            (Says::Order(_), End::Told | End::OutOfTurn | End::Differs) => {
                let is_further = said.word.status.zip(has).is_none_or(|(new, has)| new.follows(has));
                has = if is_further { said.word.status.or(has) } else { has };
            }
            _ => {}
        }
    }
    has
}

/// In the order of acceptance.
fn in_order(history: &[Said]) -> impl Iterator<Item = &Said> {
    let mut history: Vec<&Said> = history.iter().collect();
    history.sort_by_key(|said| (said.word.accepted.first, said.word.accepted.received_at));
    history.into_iter()
}

#[cfg(test)]
mod tests;
