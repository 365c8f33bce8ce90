//! Roles and bindings, compiled once: subject → rules.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    sync::Arc,
};

use k8s_openapi::{
    api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Subject},
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};

use super::{Attributes, rules};
use crate::identity::Caller;

const RBAC_GROUP: &str = "rbac.authorization.k8s.io";

/// Who may do what. Deny is the default.
#[derive(Default)]
pub struct Policy {
    users: HashMap<String, Vec<Rules>>,
    groups: HashMap<String, Vec<Rules>>,
}

type Rules = Arc<[PolicyRule]>;

/// A role or binding that has no effect, or less than it seems to have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Its role does not exist.
    #[error(
        "ClusterRoleBinding {binding:?} refers to ClusterRole {role:?}, which does not exist: it grants nothing"
    )]
    NoSuchRole {
        /// The binding.
        binding: String,
        /// The role.
        role: String,
    },
    /// It refers to something that is no ClusterRole.
    #[error(
        "ClusterRoleBinding {binding:?}: roleRef must be a ClusterRole of {RBAC_GROUP}: it grants nothing"
    )]
    NotAClusterRole {
        /// The binding.
        binding: String,
    },
    /// A subject that nobody can be.
    #[error("ClusterRoleBinding {binding:?}: subject {subject} means nobody ({why})")]
    NoSuchSubject {
        /// The binding.
        binding: String,
        /// Kind and name.
        subject: String,
        /// Why.
        why: &'static str,
    },
}

impl Policy {
    /// Compiles roles and bindings. What is wrong with them is in the list; the rest is in force.
    pub fn compile(roles: &[ClusterRole], bindings: &[ClusterRoleBinding]) -> (Self, Vec<Problem>) {
        let roles = resolve(roles);
        let mut policy = Self::default();
        let mut problems = Vec::new();
        for binding in bindings {
            let name = binding.metadata.name.clone().unwrap_or_default();
            if binding.role_ref.kind != "ClusterRole" || binding.role_ref.api_group != RBAC_GROUP {
                problems.push(Problem::NotAClusterRole { binding: name });
                continue;
            }
            let Some(rules) = roles.get(&binding.role_ref.name) else {
                problems.push(Problem::NoSuchRole { binding: name, role: binding.role_ref.name.clone() });
                continue;
            };
            for subject in binding.subjects.iter().flatten() {
                match policy.grantee(subject) {
                    Ok(granted) => granted.push(Arc::clone(rules)),
                    Err(why) => problems.push(Problem::NoSuchSubject {
                        binding: name.clone(),
                        subject: format!("{} {:?}", subject.kind, subject.name),
                        why,
                    }),
                }
            }
        }
        (policy, problems)
    }

    /// The list of what a subject was granted.
    fn grantee(&mut self, subject: &Subject) -> Result<&mut Vec<Rules>, &'static str> {
        let group = subject.api_group.as_deref();
        match subject.kind.as_str() {
            "User" | "Group" if !matches!(group, None | Some(RBAC_GROUP)) => {
                Err("its apiGroup must be rbac.authorization.k8s.io")
            }
            "User" => Ok(self.users.entry(subject.name.clone()).or_default()),
            "Group" => Ok(self.groups.entry(subject.name.clone()).or_default()),
            "ServiceAccount" if !matches!(group, None | Some("")) => Err("a ServiceAccount has no apiGroup"),
            "ServiceAccount" => match subject.namespace.as_deref() {
                None | Some("") => Err("a ServiceAccount needs a namespace"),
                Some(namespace) => {
                    let user = format!("system:serviceaccount:{namespace}:{}", subject.name);
                    Ok(self.users.entry(user).or_default())
                }
            },
            _ => Err("its kind must be User, Group or ServiceAccount"),
        }
    }

    /// Whether some binding allows `caller` to do this. Allocates nothing.
    pub fn allows(&self, caller: &Caller, attributes: &Attributes<'_>) -> bool {
        let granted = |rules: &Vec<Rules>| {
            rules.iter().flat_map(|rules| rules.iter()).any(|rule| rules::covers(rule, attributes))
        };
        self.users.get(&caller.name).is_some_and(granted)
            || caller.groups.iter().any(|group| self.groups.get(group).is_some_and(granted))
    }
}

/// Every role with its rules, aggregated ones filled in.
///
/// The rules of a role with an aggregationRule are those of the roles it selects, whatever it says itself: the
/// controller overwrites them. Selected roles may aggregate in turn; a role does not aggregate itself.
fn resolve(roles: &[ClusterRole]) -> BTreeMap<String, Rules> {
    let by_name: BTreeMap<&str, &ClusterRole> =
        roles.iter().filter_map(|role| Some((role.metadata.name.as_deref()?, role))).collect();
    by_name
        .keys()
        .map(|name| {
            let mut rules = Vec::new();
            collect(name, &by_name, &mut HashSet::new(), &mut rules);
            ((*name).to_owned(), rules.into())
        })
        .collect()
}

fn collect<'a>(
    name: &'a str,
    roles: &BTreeMap<&'a str, &'a ClusterRole>,
    seen: &mut HashSet<&'a str>,
    rules: &mut Vec<PolicyRule>,
) {
    let Some(role) = roles.get(name).filter(|_| seen.insert(name)) else { return };
    let Some(aggregation) = &role.aggregation_rule else {
        rules.extend(role.rules.iter().flatten().cloned());
        return;
    };
    let selectors = aggregation.cluster_role_selectors.as_deref().unwrap_or_default();
    let none = BTreeMap::new();
    for (name, candidate) in roles {
        let labels = candidate.metadata.labels.as_ref().unwrap_or(&none);
        if selectors.iter().any(|selector| selects(selector, labels)) {
            collect(name, roles, seen, rules);
        }
    }
}

/// `metav1.LabelSelector`: every requirement must hold; an unknown operator holds for nothing. An empty selector
/// selects everything.
fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let equal = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    equal
        && selector.match_expressions.iter().flatten().all(|requirement| {
            let label = labels.get(&requirement.key);
            let values = requirement.values.as_deref().unwrap_or_default();
            match requirement.operator.as_str() {
                "In" => label.is_some_and(|label| values.contains(label)),
                "NotIn" => label.is_none_or(|label| !values.contains(label)),
                "Exists" => label.is_some(),
                "DoesNotExist" => label.is_none(),
                _ => false,
            }
        })
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy")
            .field("users", &self.users.len())
            .field("groups", &self.groups.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parse<T: serde::de::DeserializeOwned>(objects: Value) -> Vec<T> {
        serde_json::from_value(objects).unwrap()
    }

    fn role(name: &str, labels: Value, cluster: &str) -> Value {
        json!({"metadata": {"name": name, "labels": labels}, "rules": [{
            "verbs": ["get"], "apiGroups": ["cluster.core.oam.dev"],
            "resources": ["clustergateways/proxy"], "resourceNames": [cluster]}]})
    }

    fn binding(role: &str, subject: Value) -> Value {
        json!({"metadata": {"name": format!("{role}-binding")}, "subjects": [subject],
            "roleRef": {"apiGroup": RBAC_GROUP, "kind": "ClusterRole", "name": role}})
    }

    fn may_get(policy: &Policy, user: &str, groups: &[&str], cluster: &str) -> bool {
        let groups = groups.iter().map(ToString::to_string).collect();
        let caller = Caller { name: user.into(), groups, ..Caller::default() };
        let attributes = Attributes {
            verb: "get",
            group: "cluster.core.oam.dev",
            resource: "clustergateways",
            subresource: "proxy",
            name: cluster,
        };
        policy.allows(&caller, &attributes)
    }

    #[test]
    fn nobody_may_do_anything_by_default_not_even_masters() {
        let (policy, _) = Policy::compile(&parse(json!([role("east", json!({}), "east")])), &[]);
        assert!(!may_get(&policy, "admin", &["system:masters"], "east"));
    }

    #[test]
    fn users_groups_and_service_accounts_are_bound_by_name() {
        let roles =
            parse(json!([role("a", json!({}), "a"), role("b", json!({}), "b"), role("c", json!({}), "c")]));
        let bindings = parse(json!([
            binding("a", json!({"kind": "User", "name": "tom", "apiGroup": RBAC_GROUP})),
            binding("b", json!({"kind": "Group", "name": "dev"})),
            binding("c", json!({"kind": "ServiceAccount", "name": "ci", "namespace": "build"})),
        ]));
        let (policy, problems) = Policy::compile(&roles, &bindings);
        assert_eq!(problems, []);
        assert!(may_get(&policy, "tom", &[], "a"));
        assert!(!may_get(&policy, "tom", &[], "b"));
        assert!(!may_get(&policy, "dev", &[], "b"));
        assert!(may_get(&policy, "ann", &["ops", "dev"], "b"));
        assert!(may_get(&policy, "system:serviceaccount:build:ci", &[], "c"));
        assert!(!may_get(&policy, "ci", &[], "c"));
    }

    #[test]
    fn aggregated_roles_have_the_rules_of_those_they_select_and_not_their_own() {
        let aggregating = json!({"metadata": {"name": "all"},
            "aggregationRule": {"clusterRoleSelectors": [
                {"matchLabels": {"tier": "prod"}},
                {"matchExpressions": [{"key": "nested", "operator": "Exists"}]}]},
            "rules": [{"verbs": ["get"], "apiGroups": ["*"], "resources": ["*"]}]});
        let nested = json!({"metadata": {"name": "nested", "labels": {"nested": "yes"}},
            "aggregationRule": {"clusterRoleSelectors": [
                {"matchExpressions": [{"key": "tier", "operator": "In", "values": ["test"]}]},
                {"matchExpressions": [{"key": "nested", "operator": "Exists"}]}]}});
        let roles = parse(json!([
            aggregating,
            nested,
            role("prod", json!({"tier": "prod"}), "prod"),
            role("test", json!({"tier": "test"}), "test"),
            role("other", json!({"tier": "dev"}), "other"),
        ]));
        let bindings = parse(json!([binding("all", json!({"kind": "User", "name": "tom"}))]));
        let (policy, _) = Policy::compile(&roles, &bindings);
        assert!(may_get(&policy, "tom", &[], "prod"));
        assert!(may_get(&policy, "tom", &[], "test"));
        assert!(!may_get(&policy, "tom", &[], "other"));
        assert!(!may_get(&policy, "tom", &[], "anything"));
    }

    #[test]
    fn what_grants_nothing_is_reported() {
        let roles = parse(json!([role("east", json!({}), "east")]));
        let mut namespaced = binding("east", json!({"kind": "User", "name": "tom"}));
        namespaced["roleRef"]["kind"] = json!("Role");
        let bindings = parse(json!([
            binding("gone", json!({"kind": "User", "name": "tom"})),
            namespaced,
            binding("east", json!({"kind": "ServiceAccount", "name": "ci"})),
            binding("east", json!({"kind": "Group", "name": "dev", "apiGroup": "example.com"})),
            binding("east", json!({"kind": "Robot", "name": "r2"})),
        ]));
        let (policy, problems) = Policy::compile(&roles, &bindings);
        assert_eq!(problems.len(), 5, "{problems:?}");
        assert!(!may_get(&policy, "tom", &["dev"], "east"));
    }
}
