//! Kubeconfig files: every context is a cluster.
//!
//! These files are the operator's own, so paths in them are read (unlike in a Secret). What runs commands or needs a
//! browser is listed with the reason and not used. Values of credentials must never reach an error.

mod context;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use kube::config::Kubeconfig;

pub use self::context::cluster_name;
use self::context::{Configs, Context, NoCluster};
use crate::{
    clusters::{ClusterSpec, Definition, Unusable},
    files::{Change, Watched},
};

/// The annotation with a context's own name, where that is not a cluster name.
pub const CONTEXT: &str = "clusterway.dev/kubeconfig-context";

/// A kubeconfig that cannot be read at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KubeconfigError {
    /// The file cannot be read.
    #[error("{}: cannot read the file: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// It is no kubeconfig.
    #[error("{}: not a kubeconfig: {why}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What, and where.
        why: String,
    },
    /// A context name of which nothing is left that could name a cluster.
    #[error("{}: context {context:?} cannot name a cluster; rename it (kubectl config rename-context)", path.display())]
    Name {
        /// The file.
        path: PathBuf,
        /// The context.
        context: String,
    },
    /// A context that cannot be used any more, for instance while a certificate beside it is being replaced.
    #[error("{reason}; its last good version stays in use")]
    Broken {
        /// File, context, key and reason.
        reason: String,
    },
}

/// Kubeconfig files and what they held when they were last looked at.
#[derive(Debug)]
pub struct Kubeconfigs {
    /// In the order given, each once.
    paths: Vec<PathBuf>,
    watched: Watched,
    /// The last good version of each.
    good: Configs,
    unreadable: BTreeMap<PathBuf, KubeconfigError>,
    /// The certificates and keys that they name.
    named: Watched,
    contents: Contents,
    definitions: Vec<Definition>,
    problems: Vec<KubeconfigError>,
}

/// What stands in the files that kubeconfigs name, or why they cannot be read.
type Contents = BTreeMap<PathBuf, Result<Vec<u8>, String>>;

impl Kubeconfigs {
    /// Files that have not been looked at yet.
    pub fn new(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        let mut unique = Vec::new();
        for path in paths {
            if !unique.contains(&path) {
                unique.push(path);
            }
        }
        Self {
            paths: unique,
            watched: Watched::new(),
            good: Configs::default(),
            unreadable: BTreeMap::new(),
            named: Watched::new(),
            contents: Contents::new(),
            definitions: Vec::new(),
            problems: Vec::new(),
        }
    }

    /// Looks again, also at the files they name, so that a rotated certificate counts as a change. True if anything
    /// is different, for better or worse. Blocks.
    pub fn poll(&mut self) -> bool {
        let paths: BTreeSet<PathBuf> = self.paths.iter().cloned().collect();
        let changes = self.watched.look(|| Ok(paths.clone())).unwrap_or_default();
        let mut changed = !changes.is_empty();
        for (path, change) in changes {
            self.take(path, change);
        }
        let named = self.good.named_files();
        let changes = self.named.look(|| Ok(named.clone())).unwrap_or_default();
        changed |= !changes.is_empty();
        for (path, change) in changes {
            match change {
                Change::Content(content) => drop(self.contents.insert(path, Ok(content))),
                Change::Unreadable(why) => drop(self.contents.insert(path, Err(why))),
                Change::Gone => drop(self.contents.remove(&path)),
            }
        }
        changed && self.translate()
    }

    fn take(&mut self, path: PathBuf, change: Change) {
        let parsed = match change {
            // They are looked at whether they are there or not.
            Change::Gone => return,
            Change::Unreadable(why) => Err(KubeconfigError::File { path: path.clone(), why }),
            Change::Content(content) => parse(&path, &content),
        };
        match parsed {
            Ok(config) => {
                self.unreadable.remove(&path);
                self.good.insert(path, config);
            }
            Err(problem) => drop(self.unreadable.insert(path, problem)),
        }
    }

    fn translate(&mut self) -> bool {
        let mut problems: Vec<KubeconfigError> = self.unreadable.values().cloned().collect();
        let mut definitions = Vec::new();
        for path in &self.paths {
            for found in contexts(path, &self.good, &self.contents) {
                match found {
                    Ok(Found::Definition(definition)) => definitions.push(definition),
                    Ok(Found::Broken(unusable)) => match self.last_good(&unusable) {
                        Some(spec) => {
                            definitions.push(Definition::Cluster(spec));
                            problems.push(KubeconfigError::Broken { reason: unusable.reason });
                        }
                        None => definitions.push(Definition::Unusable(unusable)),
                    },
                    Err(problem) => problems.push(problem),
                }
            }
        }
        if definitions == self.definitions && problems == self.problems {
            return false;
        }
        (self.definitions, self.problems) = (definitions, problems);
        true
    }

    fn last_good(&self, now: &Unusable) -> Option<Box<ClusterSpec>> {
        self.definitions.iter().find_map(|definition| match definition {
            Definition::Cluster(spec) if spec.defined_in == now.defined_in => Some(spec.clone()),
            _ => None,
        })
    }

    /// What they define; where one cannot be read, what its last good version did.
    pub fn definitions(&self) -> &[Definition] {
        &self.definitions
    }

    /// What cannot be read.
    pub fn problems(&self) -> &[KubeconfigError] {
        &self.problems
    }
}

fn parse(path: &Path, content: &[u8]) -> Result<Kubeconfig, KubeconfigError> {
    let syntax = |why| KubeconfigError::Syntax { path: path.to_owned(), why };
    let text = std::str::from_utf8(content).map_err(|_| syntax("it is not UTF-8".to_owned()))?;
    serde_saphyr::from_str(text).map_err(|error| {
        // What is wrong with YAML can be told, without the lines around it; what is wrong with a value shows the
        // value, and that may be a credential.
        let as_yaml = serde_saphyr::from_str::<serde_json::Value>(text);
        syntax(match (as_yaml, error.location()) {
            (Err(malformed), _) => malformed.without_snippet().to_string(),
            (Ok(_), Some(at)) => {
                format!("line {}, column {}: not what belongs there", at.line(), at.column())
            }
            (Ok(_), None) => "something in it is not what belongs there".to_owned(),
        })
    })
}

enum Found {
    Definition(Definition),
    Broken(Unusable),
}

fn contexts<'a>(
    path: &'a Path,
    configs: &'a Configs,
    contents: &'a Contents,
) -> impl Iterator<Item = Result<Found, KubeconfigError>> + 'a {
    let contexts = configs.get(path).into_iter().flat_map(|config| &config.contexts);
    contexts.map(move |context| {
        let name = cluster_name(&context.name)
            .ok_or_else(|| KubeconfigError::Name { path: path.to_owned(), context: context.name.clone() })?;
        let defined_in = format!("{}, context {:?}", path.display(), context.name);
        let unusable = |why| Unusable {
            name: name.clone(),
            reason: format!("{defined_in}: {why}"),
            defined_in: defined_in.clone(),
        };
        Ok(match (Context { path, configs, contents, context }).spec(&name, &defined_in) {
            Ok(spec) => Found::Definition(Definition::Cluster(Box::new(spec))),
            Err(NoCluster::Broken(why)) => Found::Broken(unusable(why)),
            Err(NoCluster::Unsupported(why)) => Found::Definition(Definition::Unusable(unusable(why))),
        })
    })
}

#[cfg(test)]
mod tests;
