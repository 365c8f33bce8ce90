//! Label and field selectors of lists and watches.

use serde_json::Value;

use super::{failure::Failure, resources::Resource};

/// Which objects a list or watch is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selector {
    labels: Vec<LabelTerm>,
    fields: Vec<FieldTerm>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum LabelTerm {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct FieldTerm {
    path: String,
    value: String,
    negated: bool,
}

impl Selector {
    /// Reads `labelSelector` and `fieldSelector`.
    ///
    /// # Errors
    /// 400 for what is no selector, and for fields that nothing can be selected by.
    pub(crate) fn parse(resource: &Resource, labels: &str, fields: &str) -> Result<Self, Failure> {
        Ok(Self { labels: label_terms(labels)?, fields: field_terms(resource, fields)? })
    }

    /// Whether `object` is selected.
    pub(crate) fn matches(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        self.labels.iter().all(|term| term.matches(labels))
            && self.fields.iter().all(|term| term.matches(object))
    }

    /// Whether everything is selected.
    pub(crate) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }
}

impl LabelTerm {
    fn matches(&self, labels: &Value) -> bool {
        let label = |key: &String| labels.get(key).and_then(Value::as_str);
        match self {
            Self::In(key, values) => {
                label(key).is_some_and(|label| values.iter().any(|value| value == label))
            }
            Self::NotIn(key, values) => {
                !label(key).is_some_and(|label| values.iter().any(|value| value == label))
            }
            Self::Exists(key) => label(key).is_some(),
            Self::Absent(key) => label(key).is_none(),
        }
    }
}

impl FieldTerm {
    fn matches(&self, object: &Value) -> bool {
        let value = self.path.split('.').fold(object, |value, step| &value[step]);
        let equal = match value {
            Value::String(text) => *text == self.value,
            Value::Null => self.value.is_empty(),
            // Numbers and booleans are selected by their text.
            other => serde_json::from_str::<Value>(&self.value).is_ok_and(|value| value == *other),
        };
        equal != self.negated
    }
}

fn label_terms(text: &str) -> Result<Vec<LabelTerm>, Failure> {
    split_outside_parentheses(text).map(|term| label_term(term.trim())).collect()
}

fn label_term(term: &str) -> Result<LabelTerm, Failure> {
    let bad = || Failure::bad_request(format!("unable to parse requirement: {term:?} is no label selector"));
    let set = |rest: &str| -> Option<Vec<String>> {
        let inner = rest.trim().strip_prefix('(')?.strip_suffix(')')?;
        Some(inner.split(',').map(|value| value.trim().to_owned()).collect())
    };
    if let Some((key, rest)) = term.split_once(" notin ").or_else(|| term.split_once(" notin(")) {
        let rest = if rest.trim_start().starts_with('(') { rest.to_owned() } else { format!("({rest}") };
        return Ok(LabelTerm::NotIn(label_key(key).ok_or_else(bad)?, set(&rest).ok_or_else(bad)?));
    }
    if let Some((key, rest)) = term.split_once(" in ").or_else(|| term.split_once(" in(")) {
        let rest = if rest.trim_start().starts_with('(') { rest.to_owned() } else { format!("({rest}") };
        return Ok(LabelTerm::In(label_key(key).ok_or_else(bad)?, set(&rest).ok_or_else(bad)?));
    }
    if let Some((key, value)) = term.split_once("!=") {
        return Ok(LabelTerm::NotIn(label_key(key).ok_or_else(bad)?, vec![value.trim().to_owned()]));
    }
    if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        return Ok(LabelTerm::In(label_key(key).ok_or_else(bad)?, vec![value.trim().to_owned()]));
    }
    match term.strip_prefix('!') {
        Some(key) => Ok(LabelTerm::Absent(label_key(key).ok_or_else(bad)?)),
        None => Ok(LabelTerm::Exists(label_key(term).ok_or_else(bad)?)),
    }
}

fn label_key(text: &str) -> Option<String> {
    let key = text.trim();
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
    (!key.is_empty() && key.bytes().all(allowed)).then(|| key.to_owned())
}

fn split_outside_parentheses(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_i32;
    text.split(move |character| {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        character == ',' && depth == 0
    })
    .filter(|term| !term.trim().is_empty())
}

fn field_terms(resource: &Resource, text: &str) -> Result<Vec<FieldTerm>, Failure> {
    text.split(',')
        .filter(|term| !term.is_empty())
        .map(|term| {
            let (path, value, negated) = term
                .split_once("!=")
                .map(|(path, value)| (path, value, true))
                .or_else(|| term.split_once("==").map(|(path, value)| (path, value, false)))
                .or_else(|| term.split_once('=').map(|(path, value)| (path, value, false)))
                .ok_or_else(|| {
                    Failure::bad_request(format!("invalid field selector {term:?}: can't understand it"))
                })?;
            let known =
                matches!(path, "metadata.name" | "metadata.namespace") || fields_of(resource).contains(&path);
            if !known {
                return Err(Failure::bad_request(format!("field label not supported: {path}")));
            }
            Ok(FieldTerm { path: path.to_owned(), value: value.to_owned(), negated })
        })
        .collect()
}

fn fields_of(resource: &Resource) -> &'static [&'static str] {
    match resource.kind {
        "Pod" => &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.serviceAccountName",
            "status.phase",
            "status.podIP",
        ],
        "Event" => &[
            "involvedObject.kind",
            "involvedObject.name",
            "involvedObject.namespace",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "source",
            "type",
            "reportingComponent",
        ],
        "Secret" => &["type"],
        "Namespace" => &["status.phase"],
        "Node" => &["spec.unschedulable"],
        "ReplicaSet" => &["status.replicas"],
        "Service" => &["spec.clusterIP", "spec.type"],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::demo::member::resources::PODS;

    fn selects(labels: &str, fields: &str) -> bool {
        let pod = json!({"metadata": {"name": "a", "labels": {"app": "web", "tier": "front"}},
            "spec": {"nodeName": "n1"}, "status": {"phase": "Running"}});
        Selector::parse(&PODS, labels, fields).unwrap().matches(&pod)
    }

    #[test]
    fn label_selectors_of_every_form_select() {
        for selector in [
            "",
            "app=web",
            "app==web",
            "app",
            "!gone",
            "app!=db",
            "gone!=x",
            "app in (web, db)",
            "app notin (db,x),tier",
            "gone notin (x)",
            "app in (web),tier=front",
        ] {
            assert!(selects(selector, ""), "{selector}");
        }
        for selector in
            ["app=db", "gone", "!app", "app!=web", "app in (db)", "app notin (web)", "app=web,tier=back"]
        {
            assert!(!selects(selector, ""), "{selector}");
        }
    }

    #[test]
    fn field_selectors_select() {
        assert!(selects("", "metadata.name=a,status.phase!=Pending,spec.nodeName==n1"));
        assert!(!selects("", "metadata.name=b"));
        assert!(selects("", "status.podIP="));
    }

    #[test]
    fn nonsense_is_a_bad_request() {
        for (labels, fields) in
            [("a b", ""), ("in (x)", ""), ("", "name"), ("", "spec.unknown=x"), ("a in x", "")]
        {
            assert!(Selector::parse(&PODS, labels, fields).is_err(), "{labels:?} {fields:?}");
        }
    }
}
