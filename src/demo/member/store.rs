//! The member's objects, in memory, with one counter for resource versions and a bounded history for watches.
//!
//! Objects are shared and never changed in place. Nothing is ever awaited while the lock is held.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde_json::{Value, json};
use tokio::sync::watch;

use super::{failure::Failure, resources::Resource};

/// How many changes watches can look back to.
const HISTORY: usize = 10_000;

/// Namespace (empty for cluster-scoped objects) and name.
pub(super) type Key = (String, String);

/// All objects of one member.
pub struct Store {
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct Inner {
    version: u64,
    objects: HashMap<&'static str, BTreeMap<Key, Arc<Value>>>,
    history: VecDeque<Change>,
    /// Everything up to here has been forgotten.
    forgotten: u64,
}

/// What happened to one object.
#[derive(Clone, Debug)]
pub struct Change {
    /// The resource version that it led to.
    pub version: u64,
    /// Which kind of object.
    pub resource: &'static str,
    /// The object before; absent if it was created.
    pub before: Option<Arc<Value>>,
    /// The object after; absent if it was deleted.
    pub after: Option<Arc<Value>>,
}

/// What [`Store::change`] makes of an object.
pub enum Outcome {
    /// Write this.
    Put(Value),
    /// Delete it.
    Delete,
    /// Leave everything as it is.
    Keep,
}

impl Default for Store {
    fn default() -> Self {
        // Versions start above zero: "0" means "any version" to clients.
        Self { inner: Mutex::new(Inner { version: 1, ..Inner::default() }), changed: watch::Sender::new(1) }
    }
}

impl Store {
    /// One object.
    pub fn get(&self, resource: &Resource, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let inner = self.lock();
        inner.objects.get(resource.plural)?.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// All objects of a kind in order of namespace and name, with the version that the list is of.
    pub fn list(&self, resource: &Resource, namespace: Option<&str>) -> (Vec<Arc<Value>>, u64) {
        let inner = self.lock();
        let objects = inner.objects.get(resource.plural).into_iter().flatten();
        let objects = objects.filter(|((of, _), _)| namespace.is_none_or(|namespace| namespace == of));
        (objects.map(|(_, object)| Arc::clone(object)).collect(), inner.version)
    }

    /// The newest resource version.
    pub fn version(&self) -> u64 {
        self.lock().version
    }

    /// Decides and writes in one step: `decide` sees the object as it is, and nothing can come in between. The answer is
    /// the object as it is afterwards; for a deletion, as it was last.
    ///
    /// # Errors
    /// What `decide` refuses.
    pub fn change<E>(
        &self,
        resource: &'static Resource,
        namespace: &str,
        name: &str,
        decide: impl FnOnce(Option<&Value>) -> Result<Outcome, E>,
    ) -> Result<Option<Arc<Value>>, E> {
        let mut inner = self.lock();
        let key = (namespace.to_owned(), name.to_owned());
        let before = inner.objects.get(resource.plural).and_then(|objects| objects.get(&key)).cloned();
        let after = match decide(before.as_deref())? {
            Outcome::Keep => return Ok(before),
            Outcome::Delete if before.is_none() => return Ok(None),
            Outcome::Delete => None,
            Outcome::Put(object) => Some(object),
        };
        if after.is_some() && after.as_ref() == before.as_deref() {
            return Ok(before);
        }
        inner.version += 1;
        let version = inner.version;
        let objects = inner.objects.entry(resource.plural).or_default();
        let after = after.map(|mut object| {
            object["metadata"]["resourceVersion"] = json!(version.to_string());
            Arc::new(object)
        });
        let last = match &after {
            Some(object) => {
                objects.insert(key, Arc::clone(object));
                Some(Arc::clone(object))
            }
            None => objects.remove(&key),
        };
        inner.remember(Change { version, resource: resource.plural, before, after });
        drop(inner);
        self.changed.send_replace(version);
        Ok(last)
    }

    /// What happened to a kind of object after `version`.
    ///
    /// # Errors
    /// 410 when the history does not go back that far.
    pub(crate) fn since(&self, resource: &Resource, version: u64) -> Result<(Vec<Change>, u64), Failure> {
        let inner = self.lock();
        if version < inner.forgotten {
            return Err(Failure::expired(version, inner.forgotten));
        }
        let start = inner.history.partition_point(|change| change.version <= version);
        let changes = inner.history.range(start..).filter(|change| change.resource == resource.plural);
        Ok((changes.cloned().collect(), inner.version))
    }

    /// Whether the history goes back to `version`.
    ///
    /// # Errors
    /// 410 when it does not.
    pub(crate) fn reaches(&self, version: u64) -> Result<(), Failure> {
        let forgotten = self.lock().forgotten;
        if version < forgotten { Err(Failure::expired(version, forgotten)) } else { Ok(()) }
    }

    /// Forgets all history, so that every watch has to begin again.
    pub fn compact(&self) {
        let mut inner = self.lock();
        inner.forgotten = inner.version;
        inner.history.clear();
    }

    /// Tells of new versions.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A decision that panicked has not written anything yet.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn remember(&mut self, change: Change) {
        self.history.push_back(change);
        while self.history.len() > HISTORY {
            if let Some(oldest) = self.history.pop_front() {
                self.forgotten = oldest.version;
            }
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("version", &self.version()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::demo::member::resources::CONFIG_MAPS;

    fn put(store: &Store, name: &str, data: &str) {
        let object = json!({"metadata": {"namespace": "default", "name": name}, "data": {"k": data}});
        let Ok(_) =
            store.change(&CONFIG_MAPS, "default", name, |_| Ok::<_, Infallible>(Outcome::Put(object)));
    }

    #[test]
    fn a_version_before_the_history_has_expired() {
        let store = Store::default();
        put(&store, "a", "1");
        let before = store.version();
        put(&store, "a", "2");
        assert!(store.reaches(before).is_ok());
        assert_eq!(store.since(&CONFIG_MAPS, before).unwrap().0.len(), 1);
        store.compact();
        assert_eq!(store.reaches(before).unwrap_err().code, 410);
        assert_eq!(store.since(&CONFIG_MAPS, before).unwrap_err().code, 410);
        assert!(store.reaches(store.version()).is_ok());
    }

    #[test]
    fn the_history_is_bounded() {
        let store = Store::default();
        let first = store.version();
        for number in 0..=HISTORY {
            put(&store, "a", &number.to_string());
        }
        assert!(store.reaches(first).is_err());
        assert!(store.reaches(first + 1).is_ok());
    }

    #[test]
    fn a_deletion_has_a_version_of_its_own() {
        let store = Store::default();
        put(&store, "a", "1");
        let before = store.version();
        let Ok(_) = store.change(&CONFIG_MAPS, "default", "a", |_| Ok::<_, Infallible>(Outcome::Delete));
        let (changes, version) = store.since(&CONFIG_MAPS, before).unwrap();
        assert_eq!((changes.len(), version), (1, before + 1));
        assert!(changes[0].after.is_none());
    }
}
