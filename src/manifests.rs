//! Folders of Kubernetes manifests, followed by content.
//!
//! A folder is read as `kubectl apply -f FOLDER` reads it: `*.yaml`, `*.yml` and `*.json`, not its subfolders; several
//! documents to a file, and `List`s of objects. Names that start with a dot are skipped, so that the symlinks of a
//! projected volume count once.
//!
//! A file that cannot be read, or that holds a document its reader refuses, keeps its last good version in force, as a
//! whole: a rule is not taken up without the cluster it stands beside. No error may show what stands in a file: it may
//! be a Secret.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use serde_json::Value;
use serde_saphyr::Spanned;

use crate::files::{Change, Watched};

/// One object and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// `folder/east.yaml, document 2`; for people.
    pub origin: String,
    /// `kind`.
    pub kind: String,
    /// `apiVersion`.
    pub api_version: String,
    /// All of it.
    pub value: Value,
}

/// A file or folder that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// The folder cannot be listed.
    #[error("{}: cannot read the folder: {why}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The file cannot be read.
    #[error("{}: cannot read the file: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// Not YAML, or not JSON.
    #[error("{}: {why}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What, and where.
        why: String,
    },
    /// YAML or JSON, but no Kubernetes object.
    #[error("{origin}: {key:?} is missing or not a string: every manifest needs apiVersion and kind")]
    NotAnObject {
        /// File and document.
        origin: String,
        /// Which key.
        key: &'static str,
    },
    /// A version of a file with a document that cannot be used, after one without.
    #[error("{why}; the last good version of this file stays in use")]
    Refused {
        /// File, document, key and reason.
        why: String,
    },
}

/// Says why a document cannot be used; the reason starts with its [`origin`](Document::origin).
pub type Check = fn(&Document) -> Result<(), String>;

/// A folder and what it held when it was last looked at.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    check: Check,
    watched: Watched,
    files: BTreeMap<PathBuf, File>,
    unreadable: Option<ManifestError>,
}

#[derive(Debug, Default)]
struct File {
    /// The last good version, or the only one there has been.
    documents: Vec<Document>,
    /// Whether `documents` could all be used.
    good: bool,
    problem: Option<ManifestError>,
}

impl Folder {
    /// A folder that has not been looked at yet. A file with a document that `check` refuses does not replace one
    /// without; where there is none, its documents are there for whoever says what is wrong with them.
    pub fn new(path: impl Into<PathBuf>, check: Check) -> Self {
        let (watched, files) = (Watched::new(), BTreeMap::new());
        Self { path: path.into(), check, watched, files, unreadable: None }
    }

    /// Looks again. True if anything is different, for better or worse. Blocks.
    pub fn poll(&mut self) -> bool {
        let changes = match self.watched.look(|| list(&self.path)) {
            Ok(changes) => changes,
            Err(error) => {
                let unreadable = ManifestError::Folder { path: self.path.clone(), why: error.to_string() };
                // What was in it stays: a folder that is gone for a moment is not the end of all clusters.
                return self.unreadable.replace(unreadable.clone()) != Some(unreadable);
            }
        };
        let changed = self.unreadable.take().is_some() || !changes.is_empty();
        for (path, change) in changes {
            self.take(path, change);
        }
        changed
    }

    fn take(&mut self, path: PathBuf, change: Change) {
        let parsed = match change {
            Change::Gone => return drop(self.files.remove(&path)),
            Change::Unreadable(why) => Err(ManifestError::File { path: path.clone(), why }),
            Change::Content(bytes) => parse(&path, &bytes),
        };
        let known = self.files.remove(&path).unwrap_or_default();
        let checked =
            parsed.and_then(|documents| match documents.iter().find_map(|each| (self.check)(each).err()) {
                None => Ok((documents, true)),
                Some(why) if known.good => Err(ManifestError::Refused { why }),
                Some(_) => Ok((documents, false)),
            });
        let file = match checked {
            Ok((documents, good)) => File { documents, good, problem: None },
            Err(problem) => File { problem: Some(problem), ..known },
        };
        self.files.insert(path, file);
    }

    /// Every object in it; of files that cannot be read, the last good version.
    pub fn documents(&self) -> impl Iterator<Item = &Document> {
        self.files.values().flat_map(|file| &file.documents)
    }

    /// What cannot be read.
    pub fn problems(&self) -> impl Iterator<Item = &ManifestError> {
        self.unreadable.iter().chain(self.files.values().filter_map(|file| file.problem.as_ref()))
    }
}

fn list(folder: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let mut paths = BTreeSet::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let extension = path.extension().and_then(|extension| extension.to_str());
        let is_manifest = !name.starts_with('.') && matches!(extension, Some("yaml" | "yml" | "json"));
        // Follows symlinks; one that leads nowhere is a file that cannot be read.
        if is_manifest && !path.is_dir() {
            paths.insert(path);
        }
    }
    Ok(paths)
}

/// Every object in a file; JSON is YAML enough.
fn parse(path: &Path, bytes: &[u8]) -> Result<Vec<Document>, ManifestError> {
    let syntax = |why: String| ManifestError::Syntax { path: path.to_owned(), why };
    let text = std::str::from_utf8(bytes).map_err(|error| syntax(format!("not UTF-8: {error}")))?;
    // Without its snippet: the lines around an error may be somebody's key.
    let values: Vec<Spanned<Value>> = serde_saphyr::from_multiple_with_options(text, options())
        .map_err(|error| syntax(error.without_snippet().to_string()))?;
    let mut documents = Vec::new();
    for (index, value) in values.into_iter().enumerate() {
        let line = value.referenced.line();
        let origin = format!("{}, document {} (line {line})", path.display(), index + 1);
        flatten(origin, value.value, &mut documents)?;
    }
    Ok(documents)
}

/// The library's limits are for strangers' documents. These files are the operator's own, and one file may well hold
/// some thousand clusters.
fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_documents: 100_000,
            max_nodes: 5_000_000,
            max_events: 20_000_000,
        },
    }
}

fn flatten(origin: String, value: Value, documents: &mut Vec<Document>) -> Result<(), ManifestError> {
    let text = |key: &'static str| match value.get(key) {
        Some(Value::String(text)) => Ok(text.clone()),
        _ => Err(ManifestError::NotAnObject { origin: origin.clone(), key }),
    };
    let (kind, api_version) = (text("kind")?, text("apiVersion")?);
    let is_list = kind.ends_with("List") && value.get("items").is_some_and(Value::is_array);
    if !is_list {
        documents.push(Document { origin, kind, api_version, value });
        return Ok(());
    }
    let Value::Object(mut list) = value else { return Ok(()) };
    let Some(Value::Array(items)) = list.remove("items") else { return Ok(()) };
    for (index, mut item) in items.into_iter().enumerate() {
        // The items of a typed list (`SecretList`) need not repeat what the list says.
        if let (Some(of), Value::Object(fields)) =
            (kind.strip_suffix("List").filter(|of| !of.is_empty()), &mut item)
        {
            fields.entry("kind").or_insert_with(|| of.into());
            fields.entry("apiVersion").or_insert_with(|| api_version.clone().into());
        }
        flatten(format!("{origin}, item {}", index + 1), item, documents)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Folder) -> Vec<String> {
        folder
            .documents()
            .map(|document| document.value["metadata"]["name"].as_str().unwrap_or_default().to_owned())
            .collect()
    }

    fn secret(name: &str) -> String {
        format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\n")
    }

    #[test]
    fn documents_lists_and_json_are_all_read() {
        let folder = tempfile::tempdir().unwrap();
        let several = format!("---\n{}---\n\n---\n{}", secret("a"), secret("b"));
        fs::write(folder.path().join("several.yaml"), several).unwrap();
        fs::write(
            folder.path().join("list.json"),
            r#"{"apiVersion": "v1", "kind": "SecretList", "items": [{"metadata": {"name": "c"}}]}"#,
        )
        .unwrap();
        fs::write(folder.path().join("notes.txt"), "nothing").unwrap();
        fs::write(folder.path().join(".hidden.yaml"), secret("hidden")).unwrap();
        let mut read = Folder::new(folder.path(), |_| Ok(()));
        assert!(read.poll());
        assert_eq!(names(&read), ["c", "a", "b"]);
        let origins: Vec<_> =
            read.documents().map(|document| document.origin.rsplit_once('/').unwrap().1).collect();
        assert_eq!(
            origins,
            [
                "list.json, document 1 (line 1), item 1",
                "several.yaml, document 1 (line 2)",
                "several.yaml, document 2 (line 8)"
            ]
        );
        assert!(!read.poll());
    }

    #[test]
    fn one_file_may_hold_more_clusters_than_anybody_has() {
        let folder = tempfile::tempdir().unwrap();
        let many: String = (0..2000).map(|index| format!("---\n{}", secret(&format!("c{index}")))).collect();
        fs::write(folder.path().join("many.yaml"), many).unwrap();
        let mut read = Folder::new(folder.path(), |_| Ok(()));
        read.poll();
        assert_eq!((read.documents().count(), read.problems().next()), (2000, None));
    }

    #[test]
    fn aliases_cannot_blow_a_file_up() {
        let folder = tempfile::tempdir().unwrap();
        let ten = |of: usize| vec![format!("*a{of}"); 10].join(", ");
        let levels: String =
            (1..12).map(|level| format!("a{level}: &a{level} [{}]\n", ten(level - 1))).collect();
        fs::write(folder.path().join("bomb.yaml"), format!("a0: &a0 [x, x]\n{levels}")).unwrap();
        let mut read = Folder::new(folder.path(), |_| Ok(()));
        read.poll();
        assert_eq!((read.documents().count(), read.problems().count()), (0, 1));
    }

    #[test]
    fn a_broken_file_is_reported_and_its_last_good_version_stays() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("east.yaml");
        fs::write(&file, secret("east")).unwrap();
        let mut read = Folder::new(folder.path(), |_| Ok(()));
        read.poll();
        fs::write(&file, "apiVersion: v1\nkind: Secret\nstringData: {token: \"s3cret\n").unwrap();
        assert!(read.poll());
        assert_eq!(names(&read), ["east"]);
        let problem = read.problems().next().unwrap().to_string();
        assert!(problem.contains("east.yaml") && !problem.contains("s3cret"), "{problem}");
        fs::write(&file, secret("west")).unwrap();
        assert!(read.poll());
        assert_eq!((names(&read), read.problems().count()), (vec!["west".to_owned()], 0));
        fs::remove_file(&file).unwrap();
        assert!(read.poll());
        assert_eq!(read.documents().count(), 0);
    }

    #[test]
    fn a_document_that_is_refused_does_not_replace_a_good_one() {
        let refuse_west = |document: &Document| match document.value["metadata"]["name"].as_str() {
            Some("west") => Err(format!("{}: not west", document.origin)),
            _ => Ok(()),
        };
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.yaml");
        let mut read = Folder::new(folder.path(), refuse_west);
        fs::write(&file, secret("west")).unwrap();
        assert!(read.poll());
        assert_eq!((names(&read), read.problems().count()), (vec!["west".to_owned()], 0), "the only version");
        fs::write(&file, secret("east")).unwrap();
        assert!(read.poll());
        for again in [format!("{}---\n{}", secret("north"), secret("west")), secret("west")] {
            fs::write(&file, again).unwrap();
            assert!(read.poll());
            assert_eq!(names(&read), ["east"]);
            let problem = read.problems().next().unwrap().to_string();
            assert!(problem.contains("not west; the last good version"), "{problem}");
        }
        fs::write(&file, secret("south")).unwrap();
        assert!(read.poll());
        assert_eq!((names(&read), read.problems().count()), (vec!["south".to_owned()], 0));
    }

    #[test]
    fn swapped_symlinks_of_a_projected_volume_are_followed() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        for version in ["1", "2"] {
            fs::create_dir(folder.path().join(format!("..{version}"))).unwrap();
            fs::write(folder.path().join(format!("..{version}/east.yaml")), secret(&format!("v{version}")))
                .unwrap();
        }
        symlink("..1", folder.path().join("..data")).unwrap();
        symlink("..data/east.yaml", folder.path().join("east.yaml")).unwrap();
        let mut read = Folder::new(folder.path(), |_| Ok(()));
        read.poll();
        assert_eq!(names(&read), ["v1"]);
        symlink("..2", folder.path().join("..tmp")).unwrap();
        fs::rename(folder.path().join("..tmp"), folder.path().join("..data")).unwrap();
        assert!(read.poll());
        assert_eq!(names(&read), ["v2"]);
    }

    #[test]
    fn a_folder_that_goes_away_is_reported_and_keeps_its_documents() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("manifests");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("east.yaml"), secret("east")).unwrap();
        let mut read = Folder::new(&path, |_| Ok(()));
        read.poll();
        fs::remove_dir_all(&path).unwrap();
        assert!(read.poll());
        assert!(!read.poll());
        assert_eq!((read.documents().count(), read.problems().count()), (1, 1));
    }

    #[test]
    fn what_is_no_kubernetes_object_says_which_key_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.yaml"), "kind: Secret\n").unwrap();
        let mut read = Folder::new(folder.path(), |_| Ok(()));
        read.poll();
        let problem = read.problems().next().unwrap().to_string();
        assert!(problem.contains("document 1 (line 1): \"apiVersion\" is missing"), "{problem}");
    }
}
