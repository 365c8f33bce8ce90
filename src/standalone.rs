//! Clusters and rules from files: folders of manifests and kubeconfigs, followed while the gateway runs.
//!
//! Looks at contents, not at modification times, since projected volumes swap symlinks. What cannot be read is
//! reported once, and its last good version stays in force.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    access::{self, Access, Policy},
    clusters::{
        Found, Registry,
        sources::{kubeconfig::Kubeconfigs, secret},
    },
    config::Config,
    manifests::{Document, Folder},
};

/// Follows files into a registry and a policy.
#[derive(Debug)]
pub struct Files {
    folders: Vec<Folder>,
    kubeconfigs: Kubeconfigs,
    registry: Arc<Registry>,
    access: Arc<Access>,
    reported: BTreeSet<String>,
}

impl Files {
    /// The files of `config`. Nothing is read yet.
    pub fn new(config: &Config, registry: Arc<Registry>, access: Arc<Access>) -> Self {
        Self {
            folders: config.manifests.iter().map(|path| Folder::new(path, check)).collect(),
            kubeconfigs: Kubeconfigs::new(config.kubeconfigs.iter().cloned()),
            registry,
            access,
            reported: BTreeSet::new(),
        }
    }

    /// Looks at everything again and puts what has changed in force. Blocks.
    pub fn poll(&mut self) {
        // Every one is looked at: `any` would stop at the first that has changed.
        let folders = self.folders.iter_mut().map(Folder::poll).filter(|changed| *changed).count();
        let kubeconfigs = self.kubeconfigs.poll();
        self.registry.refresh_tokens();
        if folders > 0 || kubeconfigs {
            let mut problems = BTreeSet::new();
            self.publish_clusters(&mut problems);
            self.publish_policy(&mut problems);
            self.report(problems);
        }
    }

    fn publish_clusters(&self, problems: &mut BTreeSet<String>) {
        let mut found = Found::default();
        for folder in &self.folders {
            found.problems.extend(folder.problems().map(ToString::to_string));
            for document in folder.documents() {
                match secret::definition(document) {
                    Some(Ok(definition)) => found.definitions.push(definition),
                    Some(Err(problem)) => found.problems.push(problem.to_string()),
                    None if access::is_rbac(document) => {}
                    None => {
                        let Document { origin, api_version, kind, .. } = document;
                        tracing::debug!("{origin}: {api_version} {kind} is not used");
                    }
                }
            }
        }
        found.problems.extend(self.kubeconfigs.problems().iter().map(ToString::to_string));
        found.definitions.extend_from_slice(self.kubeconfigs.definitions());
        problems.extend(found.problems.iter().cloned());
        self.registry.replace("files", found);
    }

    fn publish_policy(&self, problems: &mut BTreeSet<String>) {
        let (policy, found) = Policy::compile(self.folders.iter().flat_map(Folder::documents));
        problems.extend(found.iter().map(ToString::to_string));
        self.access.replace(policy);
    }

    fn report(&mut self, problems: BTreeSet<String>) {
        for problem in problems.difference(&self.reported) {
            tracing::error!("{problem}");
        }
        for solved in self.reported.difference(&problems) {
            tracing::info!("solved: {solved}");
        }
        self.reported = problems;
    }
}

/// Whether a document can be used on its own.
fn check(document: &Document) -> Result<(), String> {
    access::check(document).map_err(|problem| problem.to_string())?;
    secret::check(document).map_err(|error| error.to_string())
}
