//! Which kinds of objects the member serves.

/// One kind and how it is served.
#[derive(Debug, PartialEq, Eq)]
pub struct Resource {
    /// The API group; empty for the core group.
    pub group: &'static str,
    /// The version.
    pub version: &'static str,
    /// The name in paths.
    pub plural: &'static str,
    /// The name kubectl also takes.
    pub singular: &'static str,
    /// `kind`.
    pub kind: &'static str,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// What people type.
    pub short_names: &'static [&'static str],
    /// `all`.
    pub categories: &'static [&'static str],
    /// Whether it has a `scale` subresource.
    pub scale: bool,
    /// Whether it has a `status` subresource.
    pub status: bool,
}

const CORE: Resource = Resource {
    group: "",
    version: "v1",
    plural: "",
    singular: "",
    kind: "",
    namespaced: true,
    short_names: &[],
    categories: &[],
    scale: false,
    status: false,
};
const APPS: Resource = Resource { group: "apps", scale: true, status: true, categories: &["all"], ..CORE };

/// `Namespace`
pub static NAMESPACES: Resource = Resource {
    plural: "namespaces",
    singular: "namespace",
    kind: "Namespace",
    namespaced: false,
    short_names: &["ns"],
    status: true,
    ..CORE
};
/// `Node`
pub static NODES: Resource = Resource {
    plural: "nodes",
    singular: "node",
    kind: "Node",
    namespaced: false,
    short_names: &["no"],
    status: true,
    ..CORE
};
/// `Pod`
pub static PODS: Resource = Resource {
    plural: "pods",
    singular: "pod",
    kind: "Pod",
    short_names: &["po"],
    categories: &["all"],
    status: true,
    ..CORE
};
/// `ConfigMap`
pub static CONFIG_MAPS: Resource =
    Resource { plural: "configmaps", singular: "configmap", kind: "ConfigMap", short_names: &["cm"], ..CORE };
/// `Secret`
pub static SECRETS: Resource = Resource { plural: "secrets", singular: "secret", kind: "Secret", ..CORE };
/// `Service`
pub static SERVICES: Resource = Resource {
    plural: "services",
    singular: "service",
    kind: "Service",
    short_names: &["svc"],
    categories: &["all"],
    status: true,
    ..CORE
};
/// `ServiceAccount`
pub static SERVICE_ACCOUNTS: Resource = Resource {
    plural: "serviceaccounts",
    singular: "serviceaccount",
    kind: "ServiceAccount",
    short_names: &["sa"],
    ..CORE
};
/// `Event`
pub static EVENTS: Resource =
    Resource { plural: "events", singular: "event", kind: "Event", short_names: &["ev"], ..CORE };
/// `Endpoints`
pub static ENDPOINTS: Resource =
    Resource { plural: "endpoints", singular: "endpoints", kind: "Endpoints", short_names: &["ep"], ..CORE };
/// `Deployment`
pub static DEPLOYMENTS: Resource = Resource {
    plural: "deployments",
    singular: "deployment",
    kind: "Deployment",
    short_names: &["deploy"],
    ..APPS
};
/// `ReplicaSet`
pub static REPLICA_SETS: Resource = Resource {
    plural: "replicasets",
    singular: "replicaset",
    kind: "ReplicaSet",
    short_names: &["rs"],
    ..APPS
};
/// `StatefulSet`
pub static STATEFUL_SETS: Resource = Resource {
    plural: "statefulsets",
    singular: "statefulset",
    kind: "StatefulSet",
    short_names: &["sts"],
    ..APPS
};
/// `DaemonSet`
pub static DAEMON_SETS: Resource = Resource {
    plural: "daemonsets",
    singular: "daemonset",
    kind: "DaemonSet",
    short_names: &["ds"],
    scale: false,
    ..APPS
};

/// All of them.
pub static ALL: [&Resource; 13] = [
    &NAMESPACES,
    &NODES,
    &PODS,
    &CONFIG_MAPS,
    &SECRETS,
    &SERVICES,
    &SERVICE_ACCOUNTS,
    &EVENTS,
    &ENDPOINTS,
    &DEPLOYMENTS,
    &REPLICA_SETS,
    &STATEFUL_SETS,
    &DAEMON_SETS,
];

impl Resource {
    /// The one at `/apis/{group}/{version}/{plural}`.
    pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Self> {
        ALL.into_iter().find(|resource| {
            resource.group == group && resource.version == version && resource.plural == plural
        })
    }

    /// `apiVersion` of its objects.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `deployments.apps`, `pods`: how errors name it.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }
}
