//! Webhooks that report the result of a menu. They are about no order; the stage `push` waits for the result.

use chrono::{DateTime, Utc};

use super::{
    LABEL, NotYet, Transform, branch_not_found, dead_letter, not_yours,
    tenants::{Allowed, Resolved, allow},
};
use crate::{
    event::{
        EventType, NewEvent, Recorded,
        outcome::Ignored,
        push::{SyncReported, menu_subject},
    },
    provider::declarative::menu_word::MenuWord,
};

/// The push stage, where the menu waits, has it next.
fn reported(received: &Recorded, now: DateTime<Utc>, word: &SyncReported, branch: Allowed) -> NewEvent {
    let branch = branch.into_branch();
    let mut envelope = received.follow(LABEL, EventType::MenuSyncReported, now);
    envelope.external_order_id = menu_subject(&branch.branch_id);
    envelope.branch = Some(branch.branch_id);
    NewEvent::new(envelope, word)
}

impl Transform {
    /// What the provider made of a menu, as its file reads the webhook.
    pub(super) async fn menu_result(
        &self,
        received: &Recorded,
        now: DateTime<Utc>,
        word: MenuWord,
    ) -> Result<NewEvent, NotYet> {
        let provider = &received.envelope.provider;
        let store = word.store.as_deref();
        // The authentication may have used another store: that of the merchant header, although the webhook names one as well.
        let claimed = self.branches.find(provider, store).await;
        let branch = match allow(&received.envelope.principal, claimed)? {
            Resolved::Allowed(branch) => branch,
            // A menu has no order number, so only its store identifies the branch.
            Resolved::NotFound | Resolved::Several => {
                return Ok(dead_letter(received, branch_not_found(provider, store)));
            }
            Resolved::NotYours(why) => return Ok(not_yours(received, &why)),
        };
        Ok(match word.result {
            Some(result) => reported(received, now, &result, branch),
            None => {
                let mut envelope = received.follow(LABEL, EventType::OrderIgnored, now);
                envelope.branch = Some(branch.into_branch().branch_id);
                let payload = Ignored {
                    sequence: None,
                    differs: false,
                    reason: "MENU_RESULT_PENDING".into(),
                    message: "the provider is still at the menu".into(),
                    internal_order_id: None,
                };
                NewEvent::new(envelope, &payload)
            }
        })
    }
}
