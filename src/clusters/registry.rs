//! Name → cluster, for every request.
//!
//! Readers take a snapshot without a lock; writers (the sources, seldom) build the next one. What has not changed
//! keeps its `Cluster` and with it its connections. It must never guess between two definitions of one name.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use upgrade_aware_proxy::Upstream;

use super::{Cluster, ClusterName, ClusterSpec, Reach};
use crate::files::{Change, Watched};

/// All clusters of all sources.
pub struct Registry {
    reach: Reach,
    snapshot: ArcSwap<Entries>,
    /// Held only while the next snapshot is built.
    state: Mutex<State>,
}

type Entries = HashMap<ClusterName, Entry>;

#[derive(Default)]
struct State {
    /// What each source last said.
    sources: BTreeMap<String, Found>,
    token_files: Watched,
    /// What is wrong with token files whose last good version is in use.
    token_problems: BTreeMap<PathBuf, String>,
}

/// What a source has to say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// Under which names it has found something.
    pub definitions: Vec<Definition>,
    /// What it could not read, so that nobody knows whether there is a cluster in it; or what has changed for the
    /// worse, so that an older version is in use. Where, what and why.
    pub problems: Vec<String>,
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
        Arc::new(Self { reach, snapshot: ArcSwap::default(), state: Mutex::default() })
    }

    /// What is known under `name`. Lock-free.
    pub fn get(&self, name: &str) -> Lookup {
        self.snapshot.load().get(name).map_or(Lookup::Unknown, Entry::lookup)
    }

    /// Every cluster, by name.
    pub fn list(&self) -> Vec<(ClusterName, Lookup)> {
        let snapshot = self.snapshot.load();
        let mut all: Vec<_> = snapshot.iter().map(|(name, entry)| (name.clone(), entry.lookup())).collect();
        all.sort_by(|(left, _), (right, _)| left.cmp(right));
        all
    }

    /// What is wrong and does not show in [`list`](Self::list): files that cannot be read, and those whose last good
    /// version is in use.
    pub fn problems(&self) -> Vec<String> {
        let state = self.state();
        let found = state.sources.values().flat_map(|found| &found.problems);
        found.chain(state.token_problems.values()).cloned().collect()
    }

    /// Replaces everything that `source` has said before. Blocks, since clusters may have their token in a file.
    pub fn replace(&self, source: &str, found: Found) {
        let mut state = self.state();
        state.sources.insert(source.to_owned(), found);
        self.rebuild(&state);
    }

    /// Looks again at the tokens that live in files. Blocks.
    pub fn refresh_tokens(&self) {
        let mut state = self.state();
        let paths = state.token_paths();
        let Ok(changes) = state.token_files.look(|| Ok(paths.clone())) else { return };
        if changes.is_empty() {
            return;
        }
        for (path, change) in changes {
            state.token_problems.remove(&path);
            if let Err(problem) = self.renew_tokens(&path, &change) {
                tracing::warn!(%problem, "token file: the last good token stays in use");
                state.token_problems.insert(path, problem);
            }
        }
        // Clusters that could not be used for want of their token perhaps can now.
        self.rebuild(&state);
    }

    fn renew_tokens(&self, path: &Path, change: &Change) -> Result<(), String> {
        let snapshot = self.snapshot.load();
        let clusters = snapshot.values().filter_map(Entry::cluster);
        let mut outcome = Ok(());
        for cluster in clusters.filter(|cluster| cluster.token_file() == Some(path)) {
            let renewed = match change {
                Change::Content(token) => cluster.renew_token(token).map_err(|error| error.to_string()),
                Change::Unreadable(why) => Err(why.clone()),
                Change::Gone => Ok(()),
            };
            if let Err(why) = renewed {
                let defined_in = &cluster.spec.defined_in;
                outcome = Err(format!("{defined_in}: token file {}: {why}", path.display()));
            }
        }
        outcome
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // What is in it is replaced as a whole, so it is good even if its last holder panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rebuild(&self, state: &State) {
        let before = self.snapshot.load_full();
        let next = self.build(&state.sources, &before);
        log_changes(&before, &next);
        let in_use: HashSet<*const Upstream> =
            next.values().filter_map(Entry::upstream).map(Arc::as_ptr).collect();
        self.snapshot.store(Arc::new(next));
        for upstream in before.values().filter_map(Entry::upstream) {
            if !in_use.contains(&Arc::as_ptr(upstream)) {
                upstream.close();
            }
        }
    }

    fn build(&self, sources: &BTreeMap<String, Found>, before: &Entries) -> Entries {
        let mut by_name: BTreeMap<&ClusterName, Vec<&Definition>> = BTreeMap::new();
        for definition in sources.values().flat_map(|found| &found.definitions) {
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
        let made = match before.and_then(Entry::cluster) {
            Some(cluster) if cluster.spec == *spec => return Entry::Ready(Arc::clone(cluster)),
            Some(cluster) => Cluster::succeeding(cluster, spec.clone(), &self.reach),
            None => Cluster::new(spec.clone(), &self.reach),
        };
        match made {
            Ok(cluster) => Entry::Ready(Arc::new(cluster)),
            Err(error) => Entry::Unusable(Arc::new(Unusable {
                name: spec.name.clone(),
                defined_in: spec.defined_in.clone(),
                reason: format!("{}: {error}", spec.defined_in),
            })),
        }
    }
}

impl State {
    fn token_paths(&self) -> BTreeSet<PathBuf> {
        let definitions = self.sources.values().flat_map(|found| &found.definitions);
        let path = |definition: &Definition| match definition {
            Definition::Cluster(spec) => spec.token_file().map(ToOwned::to_owned),
            Definition::Unusable(_) => None,
        };
        definitions.filter_map(path).collect()
    }
}

impl Entry {
    fn lookup(&self) -> Lookup {
        match self {
            Self::Ready(cluster) => Lookup::Ready(Arc::clone(cluster)),
            Self::Unusable(unusable) => Lookup::Unusable(Arc::clone(unusable)),
        }
    }

    fn cluster(&self) -> Option<&Arc<Cluster>> {
        match self {
            Self::Ready(cluster) => Some(cluster),
            Self::Unusable(_) => None,
        }
    }

    fn upstream(&self) -> Option<&Arc<Upstream>> {
        self.cluster().map(|cluster| &cluster.upstream)
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
mod tests;
