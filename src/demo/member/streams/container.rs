//! One demo container: its name, its environment and its files.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::files::Files;

/// How many shells may run in a container at once; what a script can multiply itself into ends here.
pub(super) const MOST_PROCESSES: usize = 128;

/// What runs in a demo pod. It lives as long as the pod.
#[derive(Debug)]
pub(super) struct Container {
    /// The pod's name, which is also its host name.
    pub(super) pod: String,
    /// The container's name.
    pub(super) name: String,
    /// Environment variables, in the order in which they were set.
    pub(super) environment: Vec<(String, String)>,
    /// What `attach` finds: the command of a container that keeps its stdin open, else nothing but its log.
    pub(super) interactive: Option<Vec<String>>,
    files: Mutex<Files>,
    processes: Arc<Semaphore>,
}

impl Container {
    /// The container that `spec` (an entry of a pod's `spec.containers`) describes in `pod`.
    pub(super) fn new(pod: &Value, spec: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let pod_name = text(&pod["metadata"]["name"]);
        let mut environment = vec![
            ("PATH".to_owned(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
            ("HOSTNAME".to_owned(), pod_name.clone()),
            ("HOME".to_owned(), "/root".to_owned()),
        ];
        for variable in spec["env"].as_array().into_iter().flatten() {
            let value = match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
                Some("metadata.name") => pod_name.clone(),
                Some("metadata.namespace") => text(&pod["metadata"]["namespace"]),
                Some("metadata.uid") => text(&pod["metadata"]["uid"]),
                Some("spec.nodeName") => text(&pod["spec"]["nodeName"]),
                Some("status.podIP") => text(&pod["status"]["podIP"]),
                _ => text(&variable["value"]),
            };
            environment.push((text(&variable["name"]), value));
        }
        let words =
            |value: &Value| -> Vec<String> { value.as_array().into_iter().flatten().map(text).collect() };
        let interactive = (spec["stdin"] == true).then(|| {
            let command = [words(&spec["command"]), words(&spec["args"])].concat();
            if command.is_empty() { vec!["sh".to_owned()] } else { command }
        });
        Self {
            files: Mutex::new(Files::new(&pod_name)),
            pod: pod_name,
            name: text(&spec["name"]),
            environment,
            interactive,
            processes: Arc::new(Semaphore::new(MOST_PROCESSES)),
        }
    }

    /// Room for one more shell, for as long as what is returned lives; `None` if there are [`MOST_PROCESSES`].
    pub(super) fn process(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.processes).try_acquire_owned().ok()
    }

    /// Its files, for one quick operation.
    pub(super) fn files(&self) -> MutexGuard<'_, Files> {
        // A panic elsewhere leaves the tree usable: every operation on it is complete in itself.
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
