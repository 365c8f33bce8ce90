//! What Clusterway itself says: its errors and its health.

pub mod health;
pub mod status;

pub use status::{Hop, Reason, Status};
