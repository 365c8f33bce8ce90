//! Roles and bindings, compiled once: subject → rules.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    sync::Arc,
};

use k8s_openapi::{
    api::rbac::v1::{ClusterRole, ClusterRoleBinding, Subject},
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};

use super::{
    Attributes, Decision, Problem,
    objects::{Objects, Placed},
    rules::Rule,
};
use crate::{identity::Caller, manifests::Document};

/// Who may do what. Deny is the default.
#[derive(Default)]
pub struct Policy {
    users: HashMap<String, Vec<Grant>>,
    groups: HashMap<String, Vec<Grant>>,
}

/// What one binding gives to one subject.
#[derive(Clone)]
struct Grant {
    by: Arc<str>,
    rules: Arc<[Rule]>,
}

impl Policy {
    /// Compiles the ClusterRoles and ClusterRoleBindings among `documents`. Those with mistakes are in the list and
    /// grant nothing; the others are in force.
    pub fn compile<'a>(documents: impl IntoIterator<Item = &'a Document>) -> (Self, Vec<Problem>) {
        let (objects, mut problems) = Objects::read(documents);
        let mut policy = Self::default();
        let mut compiled = HashMap::new();
        for (name, binding) in &objects.bindings {
            let role = &binding.object.role_ref.name;
            let Some(rules) = rules(role, &objects.roles, &mut compiled) else {
                let origin = binding.origin.clone();
                problems.push(Problem::NoSuchRole { origin, binding: name.clone(), role: role.clone() });
                continue;
            };
            policy.grant(&binding.object, &Grant { by: name.as_str().into(), rules });
        }
        (policy, problems)
    }

    fn grant(&mut self, binding: &ClusterRoleBinding, grant: &Grant) {
        let mut subjects = HashSet::new();
        for subject in binding.subjects.iter().flatten() {
            let (table, name) = match subject.kind.as_str() {
                "Group" => (&mut self.groups, subject.name.clone()),
                _ => (&mut self.users, user_name(subject)),
            };
            // One that is named twice in a binding is granted once.
            if subjects.insert((subject.kind == "Group", name.clone())) {
                table.entry(name).or_default().push(grant.clone());
            }
        }
    }

    /// Whether `caller` may do this. Allocates nothing.
    pub fn decide(&self, caller: &Caller, attributes: &Attributes<'_>) -> Decision {
        let as_user = self.users.get(&caller.name);
        let as_member = caller.groups.iter().filter_map(|group| self.groups.get(group));
        let allowing = as_user
            .into_iter()
            .chain(as_member)
            .flatten()
            .find(|grant| grant.rules.iter().any(|rule| rule.covers(attributes)));
        match allowing {
            Some(grant) => Decision::Allow { by: Arc::clone(&grant.by) },
            None => Decision::Deny,
        }
    }
}

/// The user that a subject of kind User or ServiceAccount means.
fn user_name(subject: &Subject) -> String {
    if subject.kind == "ServiceAccount" {
        let namespace = subject.namespace.as_deref().unwrap_or_default();
        format!("system:serviceaccount:{namespace}:{}", subject.name)
    } else {
        subject.name.clone()
    }
}

type Roles = BTreeMap<String, Placed<ClusterRole>>;

/// The rules of a role, or nothing if there is no such role.
fn rules(name: &str, roles: &Roles, compiled: &mut HashMap<String, Arc<[Rule]>>) -> Option<Arc<[Rule]>> {
    if let Some(rules) = compiled.get(name) {
        return Some(Arc::clone(rules));
    }
    let (name, _) = roles.get_key_value(name)?;
    let mut collected = Vec::new();
    collect(name, roles, &mut HashSet::new(), &mut collected);
    let rules: Arc<[Rule]> = collected.into();
    compiled.insert(name.clone(), Arc::clone(&rules));
    Some(rules)
}

/// The rules of a role with an aggregationRule are those of the roles it selects, whatever it says itself: the
/// controller overwrites them. Selected roles may aggregate in turn, even in circles.
fn collect<'a>(name: &'a str, roles: &'a Roles, seen: &mut HashSet<&'a str>, rules: &mut Vec<Rule>) {
    let Some(role) = roles.get(name).filter(|_| seen.insert(name)) else { return };
    let Some(aggregation) = &role.object.aggregation_rule else {
        rules.extend(role.object.rules.iter().flatten().map(Rule::new));
        return;
    };
    let selectors = aggregation.cluster_role_selectors.as_deref().unwrap_or_default();
    let none = BTreeMap::new();
    for (name, candidate) in roles {
        let labels = candidate.object.metadata.labels.as_ref().unwrap_or(&none);
        if selectors.iter().any(|selector| selects(selector, labels)) {
            collect(name, roles, seen, rules);
        }
    }
}

/// `metav1.LabelSelector`: every requirement must hold; an empty selector selects everything. `NotIn` holds for what
/// has no such label. Selectors that are not valid do not get here.
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
mod tests;
