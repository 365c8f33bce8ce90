//! Name → cluster, for every request.
//!
//! Readers take a snapshot without a lock; writers (the sources, seldom) build the next one. What has not changed
//! keeps its `Cluster` and with it its connections. It must never guess between two definitions of one name.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;

use super::{Cluster, ClusterName, ClusterSpec, Reach};

/// All clusters of all sources.
pub struct Registry {
    reach: Reach,
    snapshot: ArcSwap<HashMap<ClusterName, Entry>>,
    /// What each source last said. Held only while the next snapshot is built.
    sources: Mutex<BTreeMap<String, Vec<Definition>>>,
}

/// What a source found under one name.
#[derive(Clone, Debug, PartialEq)]
pub enum Definition {
    /// A cluster.
    Cluster(Box<ClusterSpec>),
    /// Something that is meant to be a cluster and cannot be used.
    Unusable(Unusable),
}

/// A cluster that is listed and cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    /// Its name.
    pub name: ClusterName,
    /// Where it is defined.
    pub defined_in: String,
    /// What is wrong, and what to do.
    pub reason: String,
}

/// What is known under a name.
#[derive(Clone, Debug)]
pub enum Lookup {
    /// A cluster.
    Ready(Arc<Cluster>),
    /// A cluster that cannot be used.
    Unusable(Arc<Unusable>),
    /// Nothing.
    Unknown,
}

#[derive(Clone, Debug)]
enum Entry {
    Ready(Arc<Cluster>),
    Unusable(Arc<Unusable>),
}

impl Definition {
    fn name(&self) -> &ClusterName {
        match self {
            Self::Cluster(spec) => &spec.name,
            Self::Unusable(unusable) => &unusable.name,
        }
    }

    fn defined_in(&self) -> &str {
        match self {
            Self::Cluster(spec) => &spec.defined_in,
            Self::Unusable(unusable) => &unusable.defined_in,
        }
    }
}

impl Registry {
    /// An empty one, whose clusters will be reached as `reach` says.
    pub fn new(reach: Reach) -> Arc<Self> {
        Arc::new(Self { reach, snapshot: ArcSwap::default(), sources: Mutex::default() })
    }

    /// What is known under `name`. Lock-free.
    pub fn get(&self, name: &str) -> Lookup {
        match self.snapshot.load().get(name) {
            Some(Entry::Ready(cluster)) => Lookup::Ready(Arc::clone(cluster)),
            Some(Entry::Unusable(unusable)) => Lookup::Unusable(Arc::clone(unusable)),
            None => Lookup::Unknown,
        }
    }

    /// Every cluster, by name.
    pub fn list(&self) -> Vec<(ClusterName, Lookup)> {
        let snapshot = self.snapshot.load();
        let mut all: Vec<_> = snapshot.keys().map(|name| (name.clone(), self.get(name.as_str()))).collect();
        all.sort_by(|(left, _), (right, _)| left.cmp(right));
        all
    }

    /// Replaces everything that `source` has said before.
    pub fn replace(&self, source: &str, definitions: Vec<Definition>) {
        // Nothing in here can panic half-way; a poisoned lock would only mean that a reader of the map did.
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.insert(source.to_owned(), definitions);
        let before = self.snapshot.load_full();
        let next = self.build(&sources, &before);
        log_changes(&before, &next);
        let kept: HashSet<*const Cluster> = next.values().filter_map(Entry::address).collect();
        self.snapshot.store(Arc::new(next));
        for entry in before.values() {
            if let Entry::Ready(cluster) = entry
                && !kept.contains(&Arc::as_ptr(cluster))
            {
                cluster.upstream.close();
            }
        }
    }

    /// Reads tokens that live in files again. Blocks; for the task that follows files.
    pub fn refresh_tokens(&self) {
        for entry in self.snapshot.load().values() {
            if let Entry::Ready(cluster) = entry
                && let Err(error) = cluster.refresh()
            {
                tracing::debug!(cluster = %cluster.spec.name, %error, "the last good token stays in use");
            }
        }
    }

    fn build(
        &self,
        sources: &BTreeMap<String, Vec<Definition>>,
        before: &HashMap<ClusterName, Entry>,
    ) -> HashMap<ClusterName, Entry> {
        let mut by_name: BTreeMap<&ClusterName, Vec<&Definition>> = BTreeMap::new();
        for definition in sources.values().flatten() {
            by_name.entry(definition.name()).or_default().push(definition);
        }
        let entry = |(name, definitions): (&ClusterName, Vec<&Definition>)| {
            let entry = match definitions.as_slice() {
                [Definition::Cluster(spec)] => self.ready(spec, before.get(name)),
                [Definition::Unusable(unusable)] => Entry::Unusable(Arc::new(unusable.clone())),
                several => Entry::Unusable(Arc::new(defined_twice(name, several))),
            };
            (name.clone(), entry)
        };
        by_name.into_iter().map(entry).collect()
    }

    fn ready(&self, spec: &ClusterSpec, before: Option<&Entry>) -> Entry {
        if let Some(Entry::Ready(cluster)) = before
            && cluster.spec == *spec
        {
            return Entry::Ready(Arc::clone(cluster));
        }
        match Cluster::new(spec.clone(), &self.reach) {
            Ok(cluster) => Entry::Ready(Arc::new(cluster)),
            Err(error) => Entry::Unusable(Arc::new(Unusable {
                name: spec.name.clone(),
                defined_in: spec.defined_in.clone(),
                reason: format!("{}: {error}", spec.defined_in),
            })),
        }
    }
}

impl Entry {
    fn address(&self) -> Option<*const Cluster> {
        match self {
            Self::Ready(cluster) => Some(Arc::as_ptr(cluster)),
            Self::Unusable(_) => None,
        }
    }
}

fn defined_twice(name: &ClusterName, definitions: &[&Definition]) -> Unusable {
    let mut places: Vec<&str> = definitions.iter().map(|definition| definition.defined_in()).collect();
    places.sort_unstable();
    let places = places.join(" and in ");
    Unusable {
        name: name.clone(),
        reason: format!("it is defined in {places}; which one counts is not guessed: remove or rename one"),
        defined_in: places,
    }
}

fn log_changes(before: &HashMap<ClusterName, Entry>, next: &HashMap<ClusterName, Entry>) {
    for (name, entry) in next {
        match (before.get(name), entry) {
            (Some(Entry::Ready(old)), Entry::Ready(new)) if Arc::ptr_eq(old, new) => {}
            (Some(Entry::Unusable(old)), Entry::Unusable(new)) if old == new => {}
            (old, Entry::Ready(cluster)) => {
                let what = if old.is_some() { "changed" } else { "added" };
                tracing::info!(cluster = %name, defined_in = %cluster.spec.defined_in, "cluster {what}");
            }
            (_, Entry::Unusable(unusable)) => {
                tracing::warn!(cluster = %name, reason = %unusable.reason, "cluster cannot be used");
            }
        }
    }
    for name in before.keys().filter(|name| !next.contains_key(*name)) {
        tracing::info!(cluster = %name, "cluster removed");
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("clusters", &self.snapshot.load().len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use secrecy::SecretString;

    use super::*;
    use crate::clusters::{Credential, IdentityMode, TokenSource, Trust, sources};

    fn cluster(name: &str, token: &str, defined_in: &str) -> Definition {
        Definition::Cluster(Box::new(ClusterSpec {
            name: ClusterName::new(name).unwrap(),
            endpoint: sources::endpoint("http://127.0.0.1:1").unwrap(),
            server_name: None,
            trust: Trust::SystemRoots,
            credential: Credential {
                token: Some(TokenSource::Inline(SecretString::from(token))),
                certificate: None,
            },
            identity: IdentityMode::default(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            defined_in: defined_in.to_owned(),
        }))
    }

    fn ready(registry: &Registry, name: &str) -> Arc<Cluster> {
        match registry.get(name) {
            Lookup::Ready(cluster) => cluster,
            other => panic!("{other:?}"),
        }
    }

    fn reason(registry: &Registry, name: &str) -> String {
        match registry.get(name) {
            Lookup::Unusable(unusable) => unusable.reason.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_did_not_change_keeps_its_connections() {
        let registry = Registry::new(Reach::default());
        registry.replace("a", vec![cluster("east", "1", "a"), cluster("west", "1", "a")]);
        let (east, west) = (ready(&registry, "east"), ready(&registry, "west"));
        registry.replace("a", vec![cluster("east", "1", "a"), cluster("west", "2", "a")]);
        assert!(Arc::ptr_eq(&east, &ready(&registry, "east")));
        assert!(!Arc::ptr_eq(&west, &ready(&registry, "west")));
        assert_eq!(ready(&registry, "west").authorization().unwrap(), "Bearer 2");
        registry.replace("a", vec![]);
        assert!(matches!(registry.get("east"), Lookup::Unknown));
    }

    #[test]
    fn two_definitions_of_one_name_are_refused_by_naming_both_and_come_back_when_one_goes() {
        let registry = Registry::new(Reach::default());
        registry.replace("a", vec![cluster("east", "1", "a.yaml, document 1")]);
        registry.replace("b", vec![cluster("east", "1", "config, context \"east\"")]);
        let reason = reason(&registry, "east");
        assert!(reason.contains("a.yaml, document 1 and in config, context \"east\""), "{reason}");
        registry.replace("b", vec![]);
        ready(&registry, "east");
    }

    #[test]
    fn a_definition_that_makes_no_cluster_is_listed_with_the_reason_and_without_the_token() {
        let registry = Registry::new(Reach::default());
        registry.replace("a", vec![cluster("east", "s3 cret", "a.yaml"), cluster("west", "1", "a.yaml")]);
        let reason = reason(&registry, "east");
        assert!(reason.starts_with("a.yaml: the token") && !reason.contains("cret"), "{reason}");
        let names: Vec<_> = registry.list().into_iter().map(|(name, _)| name.to_string()).collect();
        assert_eq!(names, ["east", "west"]);
    }

    #[test]
    fn a_token_file_is_read_again() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "one\n").unwrap();
        let registry = Registry::new(Reach::default());
        let Definition::Cluster(mut spec) = cluster("east", "", "a") else { unreachable!() };
        spec.credential.token = Some(TokenSource::File(file.path().to_owned()));
        registry.replace("a", vec![Definition::Cluster(spec)]);
        let east = ready(&registry, "east");
        assert_eq!(east.authorization().unwrap(), "Bearer one");
        std::fs::write(&file, "two\n").unwrap();
        registry.refresh_tokens();
        assert_eq!(east.authorization().unwrap(), "Bearer two");
        std::fs::remove_file(&file).unwrap();
        registry.refresh_tokens();
        assert_eq!(east.authorization().unwrap(), "Bearer two");
    }
}
