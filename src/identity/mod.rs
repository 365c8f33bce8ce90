//! Who is calling, and who the member sees.
//!
//! Outgoing identity headers are assembled here and nowhere else; nothing in here may fall back to the gateway's own
//! power when it cannot tell who a caller is.

mod caller;
mod outgoing;

pub use caller::Caller;
pub use outgoing::{IdentityError, WEBSOCKET_BEARER_PREFIX, header_edits};
