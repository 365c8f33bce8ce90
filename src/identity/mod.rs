//! Who is calling, and who the member sees.
//!
//! Outgoing identity headers are assembled here and nowhere else; nothing in here may fall back to the gateway's own
//! power when it cannot tell who a caller is.

mod caller;

pub use caller::Caller;
