//! The principal: on behalf of which provider or branch a webhook was proven, and for which branch it may act.
//!
//! Verification determines the principal by the secret that matched. It is part of
//! [`Verified`](crate::verification::Verified), of the envelope and of every event that follows. Code that resolves a branch
//! later asks [`Principal::may_act_for`]; a claim in a header, a body or a fetched document grants no more than the secret
//! did.

use std::{fmt, sync::Arc};

/// Begin of the recorded form of a branch's principal.
const BRANCH: &str = "branch:";
/// The recorded form of a principal that is bound to no branch. It is not written: events of earlier versions do not have it.
const UNBOUND: &str = "provider";

/// The provider or branch that something is done for. None of its constructors is public.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Principal(Option<Arc<str>>);

/// A principal tried to act for another branch than its own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{principal} may not act for {claimed}")]
pub struct NotYours {
    /// The owner of the secret that proved the webhook.
    pub principal: Principal,
    /// What it tried to act for: `branch branch-2`, or something that it could not prove to be its own.
    pub claimed: String,
}

impl Principal {
    /// Of a secret that is the provider's, for all branches. Only verification makes it.
    pub(crate) const fn provider() -> Self {
        Self(None)
    }

    /// Of a secret that is one branch's. Only verification makes it.
    pub(crate) fn branch_alone(branch: &str) -> Self {
        Self(Some(Arc::from(branch)))
    }

    /// Of the backend, which names the branch itself and is believed, and of what the hub records of its own accord.
    pub(crate) const fn of_backend() -> Self {
        Self(None)
    }

    /// As it stands on an event; `None` is what events of the provider, and those of earlier versions, have. None if it is
    /// the form of a later version: that event is left to that version, for to read it as the provider's would give it more.
    pub(crate) fn recorded(text: Option<&str>) -> Option<Self> {
        match text {
            None | Some(UNBOUND) => Some(Self(None)),
            Some(text) => {
                let branch = text.strip_prefix(BRANCH).filter(|branch| !branch.is_empty())?;
                Some(Self::branch_alone(branch))
            }
        }
    }

    /// As it is recorded; none if it is not bound to a branch.
    pub(crate) fn to_record(&self) -> Option<String> {
        self.0.as_ref().map(|branch| format!("{BRANCH}{branch}"))
    }

    /// The branch that it is bound to; none if it speaks for all of the provider's.
    pub fn branch(&self) -> Option<&Arc<str>> {
        self.0.as_ref()
    }

    /// The narrower of two that proved one request together; none if they are two branches.
    pub(crate) fn and(self, other: Self) -> Option<Self> {
        match (self.0, other.0) {
            (Some(one), Some(other)) => (one == other).then_some(Self(Some(one))),
            (one, other) => Some(Self(one.or(other))),
        }
    }

    /// Whether it may act for a branch.
    ///
    /// # Errors
    /// If it is bound to another one.
    pub fn may_act_for(&self, branch: &str) -> Result<(), NotYours> {
        match &self.0 {
            Some(own) if **own != *branch => Err(self.refused(format!("branch {branch}"))),
            _ => Ok(()),
        }
    }

    /// It may not act for this, which cannot be shown to be its own.
    pub fn refused(&self, claimed: String) -> NotYours {
        NotYours {
            principal: self.clone(),
            claimed,
        }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(branch) => write!(f, "{BRANCH}{branch}"),
            None => f.write_str(UNBOUND),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_branch_acts_for_itself_and_the_provider_for_all() {
        let (provider, a, b) = (
            Principal::provider(),
            Principal::branch_alone("a"),
            Principal::branch_alone("b"),
        );
        assert!(provider.may_act_for("a").is_ok() && provider.may_act_for("b").is_ok());
        assert!(a.may_act_for("a").is_ok());
        let refused = a.may_act_for("b").unwrap_err();
        assert_eq!(refused.to_string(), "branch:a may not act for branch b");
        assert_eq!(provider.clone().and(a.clone()), Some(a.clone()));
        assert_eq!(a.clone().and(provider.clone()), Some(a.clone()));
        assert_eq!(a.clone().and(a.clone()), Some(a.clone()));
        assert_eq!(a.and(b), None);
        assert_eq!(provider.clone().and(provider.clone()), Some(provider));
    }

    #[test]
    fn an_unknown_principal_is_not_the_provider() {
        for unknown in ["", "branch:", "company:c-1", "Provider", "branch"] {
            assert_eq!(Principal::recorded(Some(unknown)), None, "{unknown}");
        }
        assert_eq!(Principal::recorded(None), Some(Principal::provider()));
        assert_eq!(Principal::recorded(Some("provider")), Some(Principal::provider()));
    }

    proptest! {
        #[test]
        fn reads_back(branch in "\\PC{1,40}") {
            let principal = Principal::branch_alone(&branch);
            prop_assert_eq!(Principal::recorded(principal.to_record().as_deref()), Some(principal));
        }
    }
}
