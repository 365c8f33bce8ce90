//! Which members exist and how to reach them.

mod cluster;
mod dial;
mod registry;
pub mod sources;
mod spec;
mod tls;

pub use cluster::{Cluster, ClusterError, Reach};
pub use dial::{DialTimeouts, MemberDialer};
pub use registry::{Definition, Found, Lookup, Registry, Unusable};
pub use spec::{
    ClientCertificate, ClusterName, ClusterSpec, Credential, Endpoint, IdentityMode, InvalidName,
    TokenSource, Trust,
};
pub use tls::{MemberTls, TlsError, danger};
