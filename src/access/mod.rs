//! What callers may do, decided here from ClusterRoles and ClusterRoleBindings with Kubernetes' own semantics.
//!
//! The same objects on a hub lead to the same decisions: what an API server would refuse to take counts for nothing
//! here, and is reported. The default is deny and there is no built-in administrator: `system:masters` is a group
//! like any other.

mod objects;
mod policy;
mod rules;

use std::{fmt, sync::Arc};

use arc_swap::ArcSwap;

pub use objects::{Problem, check, is_rbac};
pub use policy::Policy;

use crate::identity::Caller;

/// What is about to happen, as a SubjectAccessReview would say it. All resources here are cluster-scoped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attributes<'a> {
    /// Something is done to a resource.
    Resource {
        /// `get`, `create`, …
        verb: &'a str,
        /// The API group.
        group: &'a str,
        /// The resource, plural.
        resource: &'a str,
        /// The subresource, or nothing.
        subresource: &'a str,
        /// The object's name, or nothing.
        name: &'a str,
    },
    /// Something is done to a path that is no resource, such as `/metrics`.
    NonResource {
        /// The HTTP method in lower case.
        verb: &'a str,
        /// The path, without query.
        path: &'a str,
    },
}

/// Whether something may happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Yes.
    Allow {
        /// The name of a ClusterRoleBinding that allows it; there may be others.
        by: Arc<str>,
    },
    /// No binding allows it.
    Deny,
}

impl Decision {
    /// Whether it is a yes.
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow { .. })
    }
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

    /// Whether `caller` may do this. Allocates nothing.
    pub fn decide(&self, caller: &Caller, attributes: &Attributes<'_>) -> Decision {
        self.0.load().decide(caller, attributes)
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Access").field(&self.0.load()).finish()
    }
}
