//! Which lists are merged, and by which keys.
//!
//! From the `patchMergeKey` and `listMapKeys` of the Kubernetes API. Lists that are not named here are replaced as a
//! whole.

/// How the elements of a list are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ListKind {
    /// Replaced as a whole.
    Atomic,
    /// Merged by these fields; strategic merge patches know just the first.
    Map(&'static [&'static str]),
    /// A set of plain values.
    Set,
}

/// How list `field` of an object at `parent` (the name of the field it stands in; empty at the top) is merged.
pub(super) fn list(parent: &str, field: &str) -> ListKind {
    match (parent, field) {
        ("metadata", "ownerReferences") => ListKind::Map(&["uid"]),
        ("metadata", "finalizers") => ListKind::Set,
        (
            _,
            "containers" | "initContainers" | "ephemeralContainers" | "volumes" | "env" | "imagePullSecrets",
        ) => ListKind::Map(&["name"]),
        ("containers" | "initContainers" | "ephemeralContainers", "ports") => {
            ListKind::Map(&["containerPort", "protocol"])
        }
        ("spec", "ports") => ListKind::Map(&["port", "protocol"]),
        (_, "volumeMounts") => ListKind::Map(&["mountPath"]),
        (_, "volumeDevices") => ListKind::Map(&["devicePath"]),
        (_, "hostAliases") => ListKind::Map(&["ip"]),
        (_, "topologySpreadConstraints") => ListKind::Map(&["topologyKey", "whenUnsatisfiable"]),
        ("status", "conditions") => ListKind::Map(&["type"]),
        ("status", "addresses") => ListKind::Map(&["type"]),
        ("spec", "taints") => ListKind::Map(&["key", "effect"]),
        ("", "secrets") => ListKind::Map(&["name"]),
        _ => ListKind::Atomic,
    }
}
