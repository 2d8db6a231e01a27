//! Reads texts for people: the first of several, several joined, and words of the provider as the file translates them.

use std::borrow::Cow;

use super::{
    pick::{Joined, Pick, Source, Sources},
    reader::{Accepts, MAX_ELEMENTS, Need, OrderReader, SourceValue},
};
use crate::{json::tree::ValueId, order::flag::Flag};

/// Between the texts of several elements.
const BETWEEN: &str = ", ";

impl OrderReader<'_> {
    /// The first text for people.
    fn first_text(&self, sources: &[Source], skip: &[String], at: ValueId) -> Option<String> {
        let found = self.first(
            (sources, skip),
            at,
            Accepts::Text,
            (Need::Optional, Flag::TextUnreadable),
        );
        let found = found.found()?;
        self.take(&found);
        Some(found.text.into_owned())
    }

    /// The first text by those sources of a pick that count. Nothing is taken of it and nothing flagged: who looks only wants to
    /// know what is claimed.
    pub(super) fn glimpse(&self, pick: &Pick, counts: impl Fn(&Source) -> bool) -> Option<String> {
        let text = |source: &Source| match self.find(source, self.root())? {
            SourceValue::Text(text) => Some(Cow::Borrowed(text)),
            SourceValue::Value(tree, place) => self.text_of((tree, place), Accepts::Text).ok().flatten(),
        };
        let is_one = |text: &Cow<'_, str>| {
            let text = text.trim();
            !text.is_empty() && !pick.skip.iter().any(|skipped| skipped == text)
        };
        let sources = pick.from.iter().filter(|source| counts(source));
        sources.filter_map(text).find(is_one).map(Cow::into_owned)
    }

    /// A text.
    pub(super) fn text(&self, pick: &Pick, at: ValueId) -> Option<String> {
        let found = if pick.join.is_empty() {
            self.first_text(&pick.from, &pick.skip, at)
        } else {
            let mut parts: Vec<String> = Vec::new();
            for part in &pick.join {
                let said = self.part(part, &pick.skip, at);
                // The same wish in two places is one wish.
                let said = said.map(|text| format!("{}{text}", part.label));
                let new = said.filter(|said| !parts.contains(said));
                parts.extend(new);
            }
            let joined = parts.join(&pick.with);
            (!joined.is_empty()).then_some(joined)
        };
        found.or_else(|| pick.fallback.clone())
    }

    /// The same, where the file says where it is at all.
    pub(super) fn optional(&self, pick: &Option<Pick>, at: ValueId) -> Option<String> {
        self.text(pick.as_ref()?, at)
    }

    /// The first text that is at one of these places.
    pub(super) fn text_at(&self, sources: &Sources, at: ValueId) -> Option<String> {
        self.first_text(&sources.0, &[], at)
    }

    /// A text that must be there.
    pub(super) fn required(&self, pick: &Pick, at: ValueId) -> String {
        self.text(pick, at).unwrap_or_else(|| {
            let source = pick.from.first().or(pick.join.first().map(|part| &part.from));
            let place = source.map_or_else(|| self.document.pointer(at), |source| self.place_of(source, at));
            self.missing(&place, "missing");
            String::new()
        })
    }

    /// One of the texts that are put together.
    fn part(&self, part: &Joined, skip: &[String], at: ValueId) -> Option<String> {
        if !part.words.is_empty() {
            return self.said(part, at);
        }
        match self.way(&part.from, at) {
            Some((tree, from, pointer)) if pointer.has_each() => {
                let mut texts = Vec::new();
                for place in tree.find_each(from, pointer, MAX_ELEMENTS) {
                    match self.text_of((tree, place), Accepts::Text) {
                        Ok(Some(text)) if !skip.iter().any(|skipped| skipped == text.trim()) => {
                            tree.take(place);
                            texts.push(text);
                        }
                        Ok(_) => {}
                        Err(expected) => self.unfit((tree, place), Need::Optional, Flag::TextUnreadable, expected),
                    }
                }
                (!texts.is_empty()).then(|| texts.join(BETWEEN))
            }
            _ => self.first_text(std::slice::from_ref(&part.from), skip, at),
        }
    }

    /// What is said for a word of the provider's; nothing for a word that the file does not know.
    fn said(&self, part: &Joined, at: ValueId) -> Option<String> {
        let found = self.first(
            (std::slice::from_ref(&part.from), &[]),
            at,
            Accepts::Word,
            (Need::Optional, Flag::TextUnreadable),
        );
        let found = found.found()?;
        let said = part.words.get(&found.text)?;
        self.take(&found);
        Some(said.clone()).filter(|said| !said.is_empty())
    }
}
