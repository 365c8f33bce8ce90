//! ClusterRoles and ClusterRoleBindings as they stand in manifests, taken as an API server would take them.
//!
//! An API server refuses an object with a mistake as a whole. So does this: half of what somebody wrote may grant more
//! than all of it, as a rule does whose `resourceNames` is misspelt.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Subject},
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::rules::list;
use crate::{clusters::ClusterName, manifests::Document};

const GROUP: &str = "rbac.authorization.k8s.io";
const VERSION: &str = "v1";

/// An RBAC object that counts for nothing, or a binding that leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Roles and bindings of a namespace.
    #[error(
        "{origin}: a {kind} has no effect, since clusters are not namespaced: write a Cluster{kind} instead"
    )]
    Namespaced {
        /// File and document.
        origin: String,
        /// `Role` or `RoleBinding`.
        kind: String,
    },
    /// A version or kind that is not evaluated.
    #[error(
        "{origin}: {api_version} {kind} is not understood and grants nothing: write a ClusterRole or \
         ClusterRoleBinding of {GROUP}/{VERSION}"
    )]
    Kind {
        /// File and document.
        origin: String,
        /// Its `apiVersion`.
        api_version: String,
        /// Its `kind`.
        kind: String,
    },
    /// It does not have the shape of its kind.
    #[error("{origin}: {kind} cannot be understood and grants nothing: {why}")]
    Shape {
        /// File and document.
        origin: String,
        /// Its `kind`.
        kind: String,
        /// What does not fit.
        why: String,
    },
    /// A field has a value that an API server would refuse.
    #[error("{origin}: {object} grants nothing: {field}: {why}")]
    Field {
        /// File and document.
        origin: String,
        /// Kind and name.
        object: String,
        /// Which field.
        field: String,
        /// What is wrong with it.
        why: String,
    },
    /// Several objects of one kind and name.
    #[error(
        "{object} is defined in {places}; which one counts is not guessed, and none grants anything: remove or \
         rename one"
    )]
    Duplicate {
        /// Kind and name.
        object: String,
        /// Everywhere it is defined.
        places: String,
    },
    /// A binding to a role that does not exist.
    #[error("{origin}: ClusterRoleBinding {binding:?} grants nothing: there is no ClusterRole {role:?}")]
    NoSuchRole {
        /// File and document.
        origin: String,
        /// The binding.
        binding: String,
        /// The role.
        role: String,
    },
}

/// The valid objects of a set of manifests.
#[derive(Debug, Default)]
pub(super) struct Objects {
    pub(super) roles: BTreeMap<String, Placed<ClusterRole>>,
    pub(super) bindings: BTreeMap<String, Placed<ClusterRoleBinding>>,
}

#[derive(Debug)]
pub(super) struct Placed<T> {
    pub(super) origin: String,
    pub(super) object: T,
}

impl Objects {
    /// Takes every RBAC object among `documents`; what is wrong with the others is in the list.
    pub(super) fn read<'a>(documents: impl IntoIterator<Item = &'a Document>) -> (Self, Vec<Problem>) {
        let (mut roles, mut bindings, mut problems) = (Vec::new(), Vec::new(), Vec::new());
        for document in documents.into_iter().filter(|document| is_rbac(document)) {
            let origin = document.origin.clone();
            let is_current = is_current(document);
            let read = match document.kind.as_str() {
                "ClusterRole" if is_current => role(document).map(|role| roles.push(role)),
                "ClusterRoleBinding" if is_current => binding(document).map(|binding| bindings.push(binding)),
                "Role" | "RoleBinding" => Err(Problem::Namespaced { origin, kind: document.kind.clone() }),
                kind => Err(Problem::Kind {
                    origin,
                    api_version: document.api_version.clone(),
                    kind: kind.to_owned(),
                }),
            };
            problems.extend(read.err());
        }
        let roles = unique("ClusterRole", roles, &mut problems);
        let bindings = unique("ClusterRoleBinding", bindings, &mut problems);
        (Self { roles, bindings }, problems)
    }
}

/// Whether `document`, if it is a role or binding at all, is one that an API server would take.
///
/// # Errors
/// What is wrong with it. That an object has no effect here is not wrong with it.
pub fn check(document: &Document) -> Result<(), Problem> {
    match document.kind.as_str() {
        "ClusterRole" if is_current(document) => role(document).map(drop),
        "ClusterRoleBinding" if is_current(document) => binding(document).map(drop),
        _ => Ok(()),
    }
}

fn is_current(document: &Document) -> bool {
    document.api_version.split_once('/') == Some((GROUP, VERSION))
}

/// Whether `document` is of the API group that says who may do what.
pub fn is_rbac(document: &Document) -> bool {
    document.api_version.split_once('/').is_some_and(|(group, _)| group == GROUP)
}

type Named<T> = (String, Placed<T>);

fn role(document: &Document) -> Result<Named<ClusterRole>, Problem> {
    let role: ClusterRole = typed(document)?;
    let name = role.metadata.name.clone().unwrap_or_default();
    let mut check = Check::new(document, &name);
    check.segment("metadata.name", &name)?;
    check.labels(role.metadata.labels.as_ref())?;
    for (index, rule) in role.rules.iter().flatten().enumerate() {
        check.at(format!("rules[{index}]")).rule(rule)?;
    }
    if let Some(aggregation) = &role.aggregation_rule {
        let selectors = aggregation.cluster_role_selectors.as_deref().unwrap_or_default();
        check.at("aggregationRule.clusterRoleSelectors").must(!selectors.is_empty(), "", "it is empty")?;
        for (index, selector) in selectors.iter().enumerate() {
            check.at(format!("aggregationRule.clusterRoleSelectors[{index}]")).selector(selector)?;
        }
    }
    Ok((name, Placed { origin: document.origin.clone(), object: role }))
}

fn binding(document: &Document) -> Result<Named<ClusterRoleBinding>, Problem> {
    let binding: ClusterRoleBinding = typed(document)?;
    let name = binding.metadata.name.clone().unwrap_or_default();
    let mut check = Check::new(document, &name);
    check.segment("metadata.name", &name)?;
    check.labels(binding.metadata.labels.as_ref())?;
    // An API server fills in the group where it is left out.
    let group = binding.role_ref.api_group.as_str();
    check.must(matches!(group, "" | GROUP), "roleRef.apiGroup", format!("write {GROUP}"))?;
    check.must(binding.role_ref.kind == "ClusterRole", "roleRef.kind", "write ClusterRole")?;
    check.segment("roleRef.name", &binding.role_ref.name)?;
    for (index, subject) in binding.subjects.iter().flatten().enumerate() {
        check.at(format!("subjects[{index}]")).subject(subject)?;
    }
    Ok((name, Placed { origin: document.origin.clone(), object: binding }))
}

fn typed<T: DeserializeOwned + Serialize>(document: &Document) -> Result<T, Problem> {
    let shape = |why| Problem::Shape { origin: document.origin.clone(), kind: document.kind.clone(), why };
    let object: T =
        serde_json::from_value(document.value.clone()).map_err(|error| shape(error.to_string()))?;
    let understood = serde_json::to_value(&object).map_err(|error| shape(error.to_string()))?;
    match unknown_field(&document.value, &understood) {
        None => Ok(object),
        Some(field) => Err(shape(format!("there is no field {field:?}"))),
    }
}

/// The path of a field in `given` that is lost in `understood`.
fn unknown_field(given: &Value, understood: &Value) -> Option<String> {
    match (given, understood) {
        (Value::Object(given), Value::Object(understood)) => given
            .iter()
            .filter(|(_, value)| !value.is_null())
            .find_map(|(key, value)| match understood.get(key) {
                None => Some(key.clone()),
                Some(kept) => unknown_field(value, kept).map(|rest| format!("{key}.{rest}")),
            }),
        (Value::Array(given), Value::Array(understood)) => {
            let mut pairs = given.iter().zip(understood).enumerate();
            pairs.find_map(|(index, (given, understood))| {
                unknown_field(given, understood).map(|rest| format!("{index}.{rest}"))
            })
        }
        _ => None,
    }
}

fn unique<T>(kind: &str, objects: Vec<Named<T>>, problems: &mut Vec<Problem>) -> BTreeMap<String, Placed<T>> {
    let mut by_name: BTreeMap<String, Vec<Placed<T>>> = BTreeMap::new();
    for (name, placed) in objects {
        by_name.entry(name).or_default().push(placed);
    }
    let only = |(name, mut placed): (String, Vec<Placed<T>>)| {
        if placed.len() > 1 {
            let places: Vec<&str> = placed.iter().map(|placed| placed.origin.as_str()).collect();
            problems.push(Problem::Duplicate {
                object: format!("{kind} {name:?}"),
                places: places.join(" and in "),
            });
            return None;
        }
        Some((name, placed.pop()?))
    };
    by_name.into_iter().filter_map(only).collect()
}

/// The checks of `pkg/apis/rbac/validation` that decide about rights.
struct Check<'a> {
    document: &'a Document,
    name: &'a str,
    /// Which part of the object is looked at.
    part: String,
}

impl<'a> Check<'a> {
    fn new(document: &'a Document, name: &'a str) -> Self {
        Self { document, name, part: String::new() }
    }

    fn at(&mut self, part: impl Into<String>) -> &Self {
        self.part = part.into();
        self
    }

    fn must(&self, holds: bool, field: &str, why: impl Into<String>) -> Result<(), Problem> {
        if holds {
            return Ok(());
        }
        let separator = if self.part.is_empty() || field.is_empty() { "" } else { "." };
        Err(Problem::Field {
            origin: self.document.origin.clone(),
            object: format!("{} {:?}", self.document.kind, self.name),
            field: format!("{}{separator}{field}", self.part),
            why: why.into(),
        })
    }

    fn segment(&self, field: &str, name: &str) -> Result<(), Problem> {
        self.must(!name.is_empty(), field, "it is missing or empty")?;
        let is_segment = !matches!(name, "." | "..") && !name.contains(['/', '%']);
        self.must(is_segment, field, "it may not be '.' or '..', nor hold '/' or '%'")
    }

    fn labels(&self, labels: Option<&BTreeMap<String, String>>) -> Result<(), Problem> {
        let valid =
            labels.into_iter().flatten().all(|(key, value)| is_label_key(key) && is_label_value(value));
        self.must(valid, "metadata.labels", "a label's key or value is none")
    }

    fn rule(&self, rule: &PolicyRule) -> Result<(), Problem> {
        let (groups, resources) = (list(&rule.api_groups), list(&rule.resources));
        self.must(!rule.verbs.is_empty(), "verbs", "it is missing or empty")?;
        if list(&rule.non_resource_urls).is_empty() {
            self.must(!groups.is_empty(), "apiGroups", "it is missing or empty")?;
            return self.must(!resources.is_empty(), "resources", "it is missing or empty");
        }
        let alone = groups.is_empty() && resources.is_empty() && list(&rule.resource_names).is_empty();
        self.must(alone, "nonResourceURLs", "a rule is about resources or about other paths, not both")
    }

    fn subject(&self, subject: &Subject) -> Result<(), Problem> {
        self.must(!subject.name.is_empty(), "name", "it is missing or empty")?;
        let group = subject.api_group.as_deref().unwrap_or_default();
        match subject.kind.as_str() {
            "User" | "Group" => {
                self.must(matches!(group, "" | GROUP), "apiGroup", format!("write {GROUP}, or leave it out"))
            }
            "ServiceAccount" => {
                self.must(group.is_empty(), "apiGroup", "leave it out for a ServiceAccount")?;
                self.must(ClusterName::is_valid(&subject.name), "name", "it is no ServiceAccount's name")?;
                let namespace = subject.namespace.as_deref().unwrap_or_default();
                self.must(!namespace.is_empty(), "namespace", "a ServiceAccount needs one")
            }
            _ => self.must(false, "kind", "write User, Group or ServiceAccount"),
        }
    }

    fn selector(&self, selector: &LabelSelector) -> Result<(), Problem> {
        let labels = selector.match_labels.iter().flatten();
        let valid = labels.clone().all(|(key, value)| is_label_key(key) && is_label_value(value));
        self.must(valid, "matchLabels", "a label's key or value is none")?;
        for requirement in selector.match_expressions.iter().flatten() {
            let values = requirement.values.as_deref().unwrap_or_default();
            let valid = is_label_key(&requirement.key)
                && match requirement.operator.as_str() {
                    "In" | "NotIn" => !values.is_empty() && values.iter().all(|value| is_label_value(value)),
                    "Exists" | "DoesNotExist" => values.is_empty(),
                    _ => false,
                };
            let why = format!(
                "{:?} needs a label key, and In or NotIn with values, or Exists or DoesNotExist without",
                requirement.key
            );
            self.must(valid, "matchExpressions", why)?;
        }
        Ok(())
    }
}

/// `[prefix/]name` as Kubernetes' `IsQualifiedName` has it.
fn is_label_key(key: &str) -> bool {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    prefix.is_none_or(ClusterName::is_valid) && !name.is_empty() && is_label_value(name)
}

fn is_label_value(value: &str) -> bool {
    let bytes = value.as_bytes();
    let alphanumeric = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_alphanumeric);
    bytes.len() <= 63
        && alphanumeric(bytes.first())
        && alphanumeric(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}
