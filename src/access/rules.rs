//! One PolicyRule against one request (the semantics of `pkg/apis/rbac/v1/evaluation_helpers.go` in Kubernetes).

use k8s_openapi::api::rbac::v1::PolicyRule;

use super::Attributes;

/// A rule, ready to be asked. It is about resources or about other paths, never both.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Rule {
    Resources {
        verbs: Words,
        groups: Words,
        resources: Vec<Resource>,
        /// None means every name, and the request without one.
        names: Vec<String>,
    },
    Paths {
        verbs: Words,
        paths: Vec<Path>,
    },
}

/// A list of words in which `*` stands for all.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Words {
    All,
    Only(Vec<String>),
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Resource {
    /// `*`: every resource and every subresource.
    All,
    /// `*/proxy`: that subresource of every resource.
    Subresource(String),
    /// `clustergateways` or `clustergateways/proxy`: just that. `clustergateways/*` is no wildcard.
    Exactly { resource: String, subresource: String },
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Path {
    Exactly(String),
    /// `/healthz/*`, and `*` with nothing in front.
    Prefix(String),
}

impl Rule {
    pub(super) fn new(rule: &PolicyRule) -> Self {
        let verbs = Words::new(&rule.verbs);
        let paths = list(&rule.non_resource_urls);
        if !paths.is_empty() {
            return Self::Paths { verbs, paths: paths.iter().map(|path| Path::new(path)).collect() };
        }
        Self::Resources {
            verbs,
            groups: Words::new(list(&rule.api_groups)),
            resources: list(&rule.resources).iter().map(|resource| Resource::new(resource)).collect(),
            names: list(&rule.resource_names).to_vec(),
        }
    }

    pub(super) fn covers(&self, attributes: &Attributes<'_>) -> bool {
        match (self, *attributes) {
            (
                Self::Resources { verbs, groups, resources, names },
                Attributes::Resource { verb, group, resource, subresource, name },
            ) => {
                verbs.contain(verb)
                    && groups.contain(group)
                    && resources.iter().any(|entry| entry.covers(resource, subresource))
                    && (names.is_empty() || names.iter().any(|entry| entry == name))
            }
            (Self::Paths { verbs, paths }, Attributes::NonResource { verb, path }) => {
                verbs.contain(verb) && paths.iter().any(|entry| entry.covers(path))
            }
            _ => false,
        }
    }
}

impl Words {
    fn new(words: &[String]) -> Self {
        if words.iter().any(|word| word == "*") { Self::All } else { Self::Only(words.to_vec()) }
    }

    fn contain(&self, wanted: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(words) => words.iter().any(|word| word == wanted),
        }
    }
}

impl Resource {
    fn new(resource: &str) -> Self {
        match resource.split_once('/') {
            _ if resource == "*" => Self::All,
            Some(("*", subresource)) => Self::Subresource(subresource.to_owned()),
            Some((resource, subresource)) => {
                Self::Exactly { resource: resource.to_owned(), subresource: subresource.to_owned() }
            }
            None => Self::Exactly { resource: resource.to_owned(), subresource: String::new() },
        }
    }

    fn covers(&self, wanted: &str, wanted_subresource: &str) -> bool {
        match self {
            Self::All => true,
            Self::Subresource(subresource) => {
                !wanted_subresource.is_empty() && subresource == wanted_subresource
            }
            Self::Exactly { resource, subresource } => {
                resource == wanted && subresource == wanted_subresource
            }
        }
    }
}

impl Path {
    fn new(path: &str) -> Self {
        if path.ends_with('*') {
            Self::Prefix(path.trim_end_matches('*').to_owned())
        } else {
            Self::Exactly(path.to_owned())
        }
    }

    fn covers(&self, wanted: &str) -> bool {
        match self {
            Self::Exactly(path) => path == wanted,
            Self::Prefix(prefix) => wanted.starts_with(prefix),
        }
    }
}

pub(super) fn list(list: &Option<Vec<String>>) -> &[String] {
    list.as_deref().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(items: &[&str]) -> Vec<String> {
        items.iter().map(ToString::to_string).collect()
    }

    fn rule(verbs: &[&str], groups: &[&str], resources: &[&str], names: &[&str]) -> Rule {
        Rule::new(&PolicyRule {
            verbs: words(verbs),
            api_groups: Some(words(groups)),
            resources: Some(words(resources)),
            resource_names: Some(words(names)),
            non_resource_urls: None,
        })
    }

    const GROUP: &str = "cluster.core.oam.dev";

    fn get(subresource: &'static str, name: &'static str) -> Attributes<'static> {
        Attributes::Resource { verb: "get", group: GROUP, resource: "clustergateways", subresource, name }
    }

    #[test]
    fn every_part_must_be_covered() {
        let groups = [GROUP];
        let resources = ["clustergateways/proxy"];
        for (rule, expected) in [
            (rule(&["get"], &groups, &resources, &[]), true),
            (rule(&["get"], &groups, &resources, &["west", "east"]), true),
            (rule(&["*"], &["*"], &["*"], &[]), true),
            (rule(&["list", "*"], &["", "*"], &["pods", "*"], &[]), true),
            (rule(&["get"], &groups, &["*/proxy"], &[]), true),
            (rule(&["list"], &groups, &resources, &[]), false),
            (rule(&["GET"], &groups, &resources, &[]), false),
            (rule(&["get"], &[""], &resources, &[]), false),
            (rule(&["get"], &["*.oam.dev"], &resources, &[]), false),
            (rule(&["get"], &groups, &["clustergateways"], &[]), false),
            (rule(&["get"], &groups, &["clustergateways/*"], &[]), false),
            (rule(&["get"], &groups, &["*/*"], &[]), false),
            (rule(&["get"], &groups, &["*/"], &[]), false),
            (rule(&["get"], &groups, &["clustergateways/health"], &[]), false),
            (rule(&["get"], &groups, &["pods/proxy"], &[]), false),
            (rule(&["get"], &groups, &resources, &["west"]), false),
            (rule(&["get"], &groups, &resources, &["*"]), false),
            (rule(&["get"], &groups, &resources, &[""]), false),
        ] {
            assert_eq!(rule.covers(&get("proxy", "east")), expected, "{rule:?}");
        }
    }

    #[test]
    fn a_request_without_a_name_needs_a_rule_without_names() {
        assert!(rule(&["get"], &["*"], &["*"], &[]).covers(&get("proxy", "")));
        assert!(!rule(&["get"], &["*"], &["*"], &["east"]).covers(&get("proxy", "")));
    }

    #[test]
    fn a_resource_rule_does_not_reach_its_subresources_nor_the_other_way_round() {
        let parent = get("", "east");
        assert!(rule(&["get"], &["*"], &["clustergateways"], &[]).covers(&parent));
        assert!(!rule(&["get"], &["*"], &["clustergateways/proxy"], &[]).covers(&parent));
        assert!(!rule(&["get"], &["*"], &["*/proxy"], &[]).covers(&parent));
        assert!(!rule(&["get"], &["*"], &["*/"], &[]).covers(&parent));
    }

    #[test]
    fn paths_match_exactly_or_up_to_a_trailing_star() {
        for (paths, path, expected) in [
            (&["/metrics"][..], "/metrics", true),
            (&["/metrics"], "/metrics/", false),
            (&["/healthz", "/metrics"], "/metrics", true),
            (&["/healthz/*"], "/healthz/etcd", true),
            (&["/healthz/*"], "/healthz", false),
            (&["/health*"], "/healthz/etcd", true),
            (&["/health**"], "/healthz", true),
            (&["*"], "/anything", true),
            (&["/a/*/b"], "/a/x/b", false),
            (&["/a/*/b"], "/a/*/b", true),
        ] {
            let rule = Rule::new(&PolicyRule {
                verbs: words(&["get"]),
                non_resource_urls: Some(words(paths)),
                ..PolicyRule::default()
            });
            assert_eq!(
                rule.covers(&Attributes::NonResource { verb: "get", path }),
                expected,
                "{paths:?} {path}"
            );
            assert!(!rule.covers(&Attributes::NonResource { verb: "post", path }));
            assert!(!rule.covers(&get("proxy", "east")));
        }
    }

    #[test]
    fn a_rule_for_all_resources_is_not_one_for_other_paths() {
        let everything = rule(&["*"], &["*"], &["*"], &[]);
        assert!(!everything.covers(&Attributes::NonResource { verb: "get", path: "/metrics" }));
    }
}
