//! The content of events about a branch: its menus, its items and its state.

use super::{StepDetail, of_event::read};
use crate::event::{
    EventType, Recorded,
    branch::{ItemsProgressed, ItemsPushed, ItemsRequested, StorePushed, StoreRequested},
    push::{SyncAccepted, SyncReported, Synced},
};

impl StepDetail {
    /// Of an event about a branch.
    pub(super) fn of_branch(event: &Recorded) -> serde_json::Result<Self> {
        Ok(match event.envelope.event_type {
            EventType::MenuSyncAccepted => {
                let accepted: SyncAccepted = read(event)?;
                Self::MenuAccepted {
                    provider_status: accepted.provider_status,
                    result_due_at: accepted.result_due_at,
                }
            }
            EventType::MenuSyncReported => Self::MenuReported {
                ok: read::<SyncReported>(event)?.ok,
            },
            EventType::MenuSynced => Self::MenuSynced {
                attempts: read::<Synced>(event)?.attempts,
            },
            EventType::ItemsRequested => Self::ItemsRequested {
                entries: read::<ItemsRequested>(event)?.entries().count(),
            },
            EventType::ItemsProgressed => {
                let so_far: ItemsProgressed = read(event)?;
                Self::ItemsPushed {
                    taken: so_far.taken.len(),
                    refused: so_far.refused.len(),
                    is_part: true,
                }
            }
            EventType::ItemsPushed => {
                let pushed: ItemsPushed = read(event)?;
                Self::ItemsPushed {
                    taken: pushed.taken,
                    refused: pushed.refused.len(),
                    is_part: false,
                }
            }
            EventType::StoreRequested => Self::StoreRequested {
                state: read::<StoreRequested>(event)?.state.as_str(),
            },
            EventType::StorePushed => {
                let pushed: StorePushed = read(event)?;
                Self::StorePushed {
                    state: pushed.state.as_str(),
                    attempts: pushed.attempts,
                    provider_status: pushed.provider_status,
                }
            }
            _ => Self::MenuRequested,
        })
    }
}
