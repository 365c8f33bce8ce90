//! One PolicyRule against one request (`rbac/v1`, evaluation of k8s.io/component-helpers/auth/rbac/validation).

use k8s_openapi::api::rbac::v1::PolicyRule;

use super::Attributes;

/// Whether `rule` covers `attributes`: verb, group, resource and name must each be covered.
pub(super) fn covers(rule: &PolicyRule, attributes: &Attributes<'_>) -> bool {
    contains_or_all(&rule.verbs, attributes.verb)
        && contains_or_all(list(&rule.api_groups), attributes.group)
        && covers_resource(list(&rule.resources), attributes)
        && covers_name(list(&rule.resource_names), attributes.name)
}

fn list(list: &Option<Vec<String>>) -> &[String] {
    list.as_deref().unwrap_or_default()
}

fn contains_or_all(list: &[String], wanted: &str) -> bool {
    list.iter().any(|entry| entry == "*" || entry == wanted)
}

/// `*` is every resource and subresource, `*/proxy` that subresource of every resource, `clustergateways/proxy` just
/// that. `clustergateways/*` means nothing, as in Kubernetes.
fn covers_resource(list: &[String], attributes: &Attributes<'_>) -> bool {
    let Attributes { resource, subresource, .. } = *attributes;
    list.iter().any(|entry| {
        if entry == "*" {
            return true;
        }
        match entry.split_once('/') {
            None => subresource.is_empty() && entry == resource,
            Some((of, sub)) => !subresource.is_empty() && sub == subresource && (of == "*" || of == resource),
        }
    })
}

/// No names are all names, and also the request without one; a list of names covers just these.
fn covers_name(names: &[String], wanted: &str) -> bool {
    names.is_empty() || names.iter().any(|name| name == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(verbs: &[&str], groups: &[&str], resources: &[&str], names: &[&str]) -> PolicyRule {
        let list = |items: &[&str]| items.iter().map(ToString::to_string).collect::<Vec<_>>();
        PolicyRule {
            verbs: list(verbs),
            api_groups: Some(list(groups)),
            resources: Some(list(resources)),
            resource_names: Some(list(names)),
            non_resource_urls: None,
        }
    }

    const GET_EAST: Attributes<'static> = Attributes {
        verb: "get",
        group: "cluster.core.oam.dev",
        resource: "clustergateways",
        subresource: "proxy",
        name: "east",
    };

    #[test]
    fn every_part_must_be_covered() {
        let groups = ["cluster.core.oam.dev"];
        let resources = ["clustergateways/proxy"];
        for (rule, expected) in [
            (rule(&["get"], &groups, &resources, &[]), true),
            (rule(&["get"], &groups, &resources, &["west", "east"]), true),
            (rule(&["*"], &["*"], &["*"], &[]), true),
            (rule(&["get"], &groups, &["*/proxy"], &[]), true),
            (rule(&["list"], &groups, &resources, &[]), false),
            (rule(&["GET"], &groups, &resources, &[]), false),
            (rule(&["get"], &[""], &resources, &[]), false),
            (rule(&["get"], &[], &resources, &[]), false),
            (rule(&["get"], &groups, &["clustergateways"], &[]), false),
            (rule(&["get"], &groups, &["clustergateways/*"], &[]), false),
            (rule(&["get"], &groups, &["clustergateways/health"], &[]), false),
            (rule(&["get"], &groups, &["pods/proxy"], &[]), false),
            (rule(&["get"], &groups, &resources, &["west"]), false),
            (rule(&["get"], &groups, &resources, &["*"]), false),
            (rule(&["get"], &groups, &resources, &[""]), false),
            (rule(&[], &groups, &resources, &[]), false),
        ] {
            assert_eq!(covers(&rule, &GET_EAST), expected, "{rule:?}");
        }
    }

    #[test]
    fn a_request_without_a_name_needs_a_rule_without_names() {
        let unnamed = Attributes { name: "", ..GET_EAST };
        assert!(covers(&rule(&["get"], &["*"], &["*"], &[]), &unnamed));
        assert!(!covers(&rule(&["get"], &["*"], &["*"], &["east"]), &unnamed));
    }

    #[test]
    fn a_resource_rule_does_not_reach_its_subresources() {
        let parent = Attributes { subresource: "", ..GET_EAST };
        assert!(covers(&rule(&["get"], &["*"], &["clustergateways"], &[]), &parent));
        assert!(!covers(&rule(&["get"], &["*"], &["clustergateways/proxy"], &[]), &parent));
        assert!(!covers(&rule(&["get"], &["*"], &["*/proxy"], &[]), &parent));
    }
}
