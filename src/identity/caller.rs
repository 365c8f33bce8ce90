//! The authenticated user of a request.

use std::collections::BTreeMap;

/// The authenticated user of a request, as Kubernetes' `user.Info` describes one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Caller {
    /// The user name; never empty.
    pub name: String,
    /// The stable identifier, where the authenticator knows one.
    pub uid: Option<String>,
    /// The groups in the order the authenticator gave them.
    pub groups: Vec<String>,
    /// Further attributes; keys are lower case.
    pub extra: BTreeMap<String, Vec<String>>,
}
