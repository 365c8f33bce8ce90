//! Which members exist and how to reach them.

mod spec;

pub use spec::{
    ClientCertificate, ClusterName, ClusterSpec, Credential, Endpoint, IdentityMode, InvalidName,
    TokenSource, Trust,
};
