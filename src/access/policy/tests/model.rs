//! The compiled policy against a model that knows nothing of tables and caches: for every binding, whoever it applies
//! to, the rules of its role, one by one over the objects as they are written.

use std::collections::BTreeSet;

use proptest::{collection::vec, prelude::*, sample::select};

use super::*;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

fn some(words: &'static [&'static str], least: usize) -> impl Strategy<Value = Vec<&'static str>> {
    vec(select(words), least..3)
}

fn rule() -> impl Strategy<Value = Value> {
    let resources = (
        some(&["get", "create", "*"], 1),
        some(&["", "g", "*"], 1),
        some(&["r", "r/s", "*/s", "r/*", "*", "q"], 1),
        some(&["x", "y", ""], 0),
    )
        .prop_map(|(verbs, groups, resources, names)| {
            json!({"verbs": verbs, "apiGroups": groups, "resources": resources, "resourceNames": names})
        });
    let paths = (some(&["get", "post", "*"], 1), some(&["/p", "/p/*", "/p*", "*", "/q*r"], 1))
        .prop_map(|(verbs, paths)| json!({"verbs": verbs, "nonResourceURLs": paths}));
    prop_oneof![3 => resources, 1 => paths]
}

fn labels() -> impl Strategy<Value = BTreeMap<&'static str, &'static str>> {
    proptest::collection::btree_map(select(&["k", "l"][..]), select(&["1", "2"][..]), 0..3)
}

fn selector() -> impl Strategy<Value = Value> {
    let expression = prop_oneof![
        (select(&["k", "l"][..]), select(&["In", "NotIn"][..]), some(&["1", "2"], 1))
            .prop_map(|(key, operator, values)| json!({"key": key, "operator": operator, "values": values})),
        (select(&["k", "l"][..]), select(&["Exists", "DoesNotExist"][..]))
            .prop_map(|(key, operator)| json!({"key": key, "operator": operator})),
    ];
    (labels(), vec(expression, 0..2))
        .prop_map(|(labels, expressions)| json!({"matchLabels": labels, "matchExpressions": expressions}))
}

fn roles() -> impl Strategy<Value = Vec<Value>> {
    let role = (labels(), vec(rule(), 0..3), proptest::option::weighted(0.4, vec(selector(), 1..3)));
    vec(role, NAMES.len()).prop_map(|roles| {
        let named = |(name, (labels, rules, selectors)): (&str, (_, _, Option<Vec<Value>>))| {
            let labels: BTreeMap<&str, &str> = labels;
            let mut role = json!({"kind": "ClusterRole", "metadata": {"name": name, "labels": labels}});
            role["rules"] = Value::Array(rules);
            if let Some(selectors) = selectors {
                role["aggregationRule"] = json!({"clusterRoleSelectors": selectors});
            }
            role
        };
        NAMES.into_iter().zip(roles).map(named).collect()
    })
}

fn bindings() -> impl Strategy<Value = Vec<Value>> {
    let subject = prop_oneof![
        select(&["u", "v", "system:serviceaccount:n:u"][..])
            .prop_map(|name| json!({"kind": "User", "name": name})),
        select(&["u", "v", "w"][..]).prop_map(|name| json!({"kind": "Group", "name": name})),
        select(&["u", "v"][..])
            .prop_map(|name| json!({"kind": "ServiceAccount", "name": name, "namespace": "n"})),
    ];
    vec((select(&["a", "b", "c", "d", "gone"][..]), vec(subject, 0..3)), 0..4).prop_map(|bindings| {
        let named = |(index, (role, subjects)): (usize, (&str, Vec<Value>))| {
            let name = format!("binding-{index}");
            let role = json!({"apiGroup": RBAC, "kind": "ClusterRole", "name": role});
            json!({"kind": "ClusterRoleBinding", "metadata": {"name": name}, "roleRef": role, "subjects": subjects})
        };
        bindings.into_iter().enumerate().map(named).collect()
    })
}

fn callers() -> Vec<Caller> {
    let caller = |name: &str, groups: &[&str]| Caller {
        name: name.into(),
        groups: groups.iter().map(ToString::to_string).collect(),
        ..Caller::default()
    };
    vec![
        caller("u", &[]),
        caller("x", &["u", "w"]),
        caller("v", &["v"]),
        caller("system:serviceaccount:n:u", &["system:serviceaccounts", "system:masters"]),
    ]
}

fn requests() -> Vec<Attributes<'static>> {
    let mut requests = Vec::new();
    for verb in ["get", "create", "post"] {
        for path in ["/p", "/p/x", "/q*r"] {
            requests.push(Attributes::NonResource { verb, path });
        }
        for (group, resource) in [("", "r"), ("g", "r"), ("g", "q"), ("h", "r")] {
            for (subresource, name) in [("", "x"), ("s", "x"), ("s", ""), ("t", "y"), ("*", "z")] {
                requests.push(Attributes::Resource { verb, group, resource, subresource, name });
            }
        }
    }
    requests
}

fn has(list: &Value, wanted: &str) -> bool {
    list.as_array().into_iter().flatten().any(|entry| entry == wanted)
}

fn rule_allows(rule: &Value, attributes: &Attributes<'_>) -> bool {
    let is_about = |key: &str| rule[key].as_array().is_some_and(|list| !list.is_empty());
    match *attributes {
        Attributes::Resource { verb, group, resource, subresource, name } => {
            let combined = if subresource.is_empty() {
                resource.to_owned()
            } else {
                format!("{resource}/{subresource}")
            };
            (has(&rule["verbs"], "*") || has(&rule["verbs"], verb))
                && (has(&rule["apiGroups"], "*") || has(&rule["apiGroups"], group))
                && (has(&rule["resources"], "*")
                    || has(&rule["resources"], &combined)
                    || !subresource.is_empty() && has(&rule["resources"], &format!("*/{subresource}")))
                && (!is_about("resourceNames") || has(&rule["resourceNames"], name))
        }
        Attributes::NonResource { verb, path } => {
            let mut paths =
                rule["nonResourceURLs"].as_array().into_iter().flatten().filter_map(Value::as_str);
            (has(&rule["verbs"], "*") || has(&rule["verbs"], verb))
                && paths.any(|entry| {
                    entry == path || entry.ends_with('*') && path.starts_with(entry.trim_end_matches('*'))
                })
        }
    }
}

/// The controller: every aggregated role is emptied and then filled from what it selects, until nothing changes.
fn aggregated(roles: &[Value]) -> BTreeMap<&str, Vec<&Value>> {
    let name = |role: &Value| NAMES.into_iter().find(|name| role["metadata"]["name"] == *name).unwrap();
    let aggregates = |role: &Value| !role["aggregationRule"].is_null();
    let mut rules: BTreeMap<&str, BTreeSet<(usize, usize)>> = BTreeMap::new();
    for (index, role) in roles.iter().enumerate() {
        let own = if aggregates(role) { 0 } else { role["rules"].as_array().unwrap().len() };
        rules.insert(name(role), (0..own).map(|rule| (index, rule)).collect());
    }
    loop {
        let before = rules.clone();
        for role in roles.iter().filter(|role| aggregates(role)) {
            let selectors = role["aggregationRule"]["clusterRoleSelectors"].as_array().unwrap();
            let selected = roles.iter().filter(|other| {
                selectors.iter().any(|selector| model_selects(selector, &other["metadata"]["labels"]))
            });
            let filled: BTreeSet<_> = selected.flat_map(|other| before[name(other)].clone()).collect();
            rules.insert(name(role), filled);
        }
        if rules == before {
            let value = |(role, rule): &(usize, usize)| &roles[*role]["rules"][*rule];
            return rules.iter().map(|(name, rules)| (*name, rules.iter().map(value).collect())).collect();
        }
    }
}

fn model_selects(selector: &Value, labels: &Value) -> bool {
    selector["matchLabels"].as_object().unwrap().iter().all(|(key, value)| &labels[key] == value)
        && selector["matchExpressions"].as_array().unwrap().iter().all(|expression| {
            let label = &labels[expression["key"].as_str().unwrap()];
            let listed = label.as_str().is_some_and(|label| has(&expression["values"], label));
            match expression["operator"].as_str().unwrap() {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => label.is_string(),
                _ => label.is_null(),
            }
        })
}

fn applies(subject: &Value, caller: &Caller) -> bool {
    let name = subject["name"].as_str().unwrap();
    match subject["kind"].as_str().unwrap() {
        "User" => caller.name == name,
        "Group" => caller.groups.iter().any(|group| group == name),
        _ => caller.name == format!("system:serviceaccount:n:{name}"),
    }
}

fn model_allows(
    rules: &BTreeMap<&str, Vec<&Value>>,
    bindings: &[Value],
    caller: &Caller,
    attributes: &Attributes<'_>,
) -> bool {
    let mine = |binding: &&Value| {
        binding["subjects"].as_array().unwrap().iter().any(|subject| applies(subject, caller))
    };
    bindings
        .iter()
        .filter(mine)
        .filter_map(|binding| rules.get(binding["roleRef"]["name"].as_str().unwrap()))
        .flatten()
        .any(|rule| rule_allows(rule, attributes))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn decisions_are_those_of_the_written_rules(roles in roles(), bindings in bindings()) {
        let (policy, _) = compile(&[roles.clone(), bindings.clone()].concat());
        let rules = aggregated(&roles);
        for caller in callers() {
            for attributes in requests() {
                prop_assert_eq!(
                    policy.decide(&caller, &attributes).is_allowed(),
                    model_allows(&rules, &bindings, &caller, &attributes),
                    "{:?} {:?}", caller, attributes
                );
            }
        }
    }
}
