//! Which zone a time has that names none.

use chrono::FixedOffset;

use super::{
    clock::{self, Zone},
    pick::Sources,
    reader::{Accepts, Need, OrderReader},
};
use crate::order::flag::Flag;

impl OrderReader<'_> {
    /// The zone of a time that names none: the document's, else the branch's, else the file's.
    pub(super) fn zone(&self) -> Option<FixedOffset> {
        let of_file = match self.habits.zone {
            Some(Zone::Minutes(sources)) => {
                if let Some(offset) = self.zone_of_document(sources) {
                    return Some(offset);
                }
                None
            }
            Some(Zone::Fixed(offset)) => Some(*offset),
            None => None,
        };
        self.has_local_times.set(true);
        self.habits.branch_zone.or(of_file)
    }

    fn zone_of_document(&self, sources: &Sources) -> Option<FixedOffset> {
        let on_fault = (Need::Optional, Flag::TimeUnreadable);
        let found = self
            .first((&sources.0, &[]), self.root(), Accepts::Text, on_fault)
            .found()?;
        let offset = clock::offset(&found.text);
        match offset {
            Some(_) => self.take(&found),
            None => self.unread(&found, on_fault, "expected minutes from UTC"),
        }
        offset
    }
}
