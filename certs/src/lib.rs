//! Certificates for Clusterway.
#![forbid(unsafe_code)]
