//! What callers may do, decided here from ClusterRoles and ClusterRoleBindings with Kubernetes' own semantics.
//!
//! The same objects on a hub lead to the same decisions. The default is deny, there is no built-in administrator, and
//! what cannot be understood grants nothing.

mod policy;
mod rules;

use std::{fmt, sync::Arc};

use arc_swap::ArcSwap;

pub use policy::{Policy, Problem};

use crate::identity::Caller;

/// What is about to happen, as a SubjectAccessReview would say it. All resources here are cluster-scoped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes<'a> {
    /// `get`, `create`, …
    pub verb: &'a str,
    /// The API group.
    pub group: &'a str,
    /// The resource, plural.
    pub resource: &'a str,
    /// The subresource, or nothing.
    pub subresource: &'a str,
    /// The object's name, or nothing.
    pub name: &'a str,
}

/// The policy in force. Read without a lock with every request, replaced when manifests change.
#[derive(Default)]
pub struct Access(ArcSwap<Policy>);

impl Access {
    /// Nobody may do anything yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts `policy` in force.
    pub fn replace(&self, policy: Policy) {
        self.0.store(Arc::new(policy));
    }

    /// Whether some binding allows `caller` to do this.
    pub fn allows(&self, caller: &Caller, attributes: &Attributes<'_>) -> bool {
        self.0.load().allows(caller, attributes)
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Access").field(&self.0.load()).finish()
    }
}
