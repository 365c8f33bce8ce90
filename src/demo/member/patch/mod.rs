//! The four ways to patch an object. Pure functions: nothing here knows of a store.

mod apply;
mod managed;
mod schema;
mod strategic;

use serde_json::Value;

pub use apply::{ApplyError, apply};
pub use managed::record_update;
pub use strategic::strategic;

/// A patch that cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PatchError(pub(crate) String);

/// RFC 6902.
///
/// # Errors
/// [`PatchError`] when it is no JSON patch, or does not fit `current`.
pub fn json_patch(current: &Value, patch: &Value) -> Result<Value, PatchError> {
    let operations: json_patch::Patch = serde_json::from_value(patch.clone())
        .map_err(|error| PatchError(format!("not a JSON patch: {error}")))?;
    let mut patched = current.clone();
    json_patch::patch(&mut patched, &operations).map_err(|error| PatchError(error.to_string()))?;
    Ok(patched)
}

/// RFC 7396.
///
/// # Errors
/// [`PatchError`] when `patch` is no object.
pub fn merge_patch(current: &Value, patch: &Value) -> Result<Value, PatchError> {
    if !patch.is_object() {
        return Err(PatchError("a merge patch must be an object".to_owned()));
    }
    let mut patched = current.clone();
    json_patch::merge(&mut patched, patch);
    Ok(patched)
}
