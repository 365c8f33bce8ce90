//! The file system of one demo container: a small tree that lives and dies in memory.
//!
//! It must never touch a file of the user's machine, and it must never grow past its limits: every byte and every
//! entry is accounted for, and whoever asks for more gets [`FileError::Full`].

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

/// How many bytes of content, names and bookkeeping one container may hold.
pub(super) const CAPACITY: usize = 32 << 20;

/// What an entry costs besides its path and content, in bytes.
const ENTRY_COST: usize = 256;
/// The longest path, as Linux has it.
const LONGEST_PATH: usize = 4096;

/// Why a file operation failed; the text is what a shell prints after the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FileError {
    /// There is nothing of that name.
    #[error("No such file or directory")]
    NotFound,
    /// A parent, or the entry itself, is a file where a directory is needed.
    #[error("Not a directory")]
    NotADirectory,
    /// The entry is a directory where a file is needed.
    #[error("Is a directory")]
    IsADirectory,
    /// The name is taken.
    #[error("File exists")]
    Exists,
    /// A directory that is not empty, or the root, was to be removed without `-r`.
    #[error("Directory not empty")]
    NotEmpty,
    /// The path is longer than Linux allows.
    #[error("File name too long")]
    NameTooLong,
    /// The container's [`CAPACITY`] is used up.
    #[error("No space left on device (a demo container holds {} MiB)", CAPACITY >> 20)]
    Full,
}

/// What kind of entry it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
}

/// What `ls -l` and `tar` want to know of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Metadata {
    /// Directory or file.
    pub(super) kind: Kind,
    /// Length of the content in bytes; 0 for a directory.
    pub(super) length: usize,
    /// Permission bits. They are kept and shown, not enforced: everybody is root here.
    pub(super) mode: u32,
    /// Seconds since 1970.
    pub(super) modified: u64,
}

#[derive(Clone, Debug)]
struct Node {
    /// `None` is a directory.
    content: Option<Arc<Vec<u8>>>,
    mode: u32,
    modified: u64,
}

impl Node {
    fn directory() -> Self {
        Self { content: None, mode: 0o755, modified: now() }
    }

    fn metadata(&self) -> Metadata {
        Metadata {
            kind: if self.content.is_some() { Kind::File } else { Kind::Directory },
            length: self.content.as_ref().map_or(0, |content| content.len()),
            mode: self.mode,
            modified: self.modified,
        }
    }
}

/// The tree. Paths are absolute and normalised, as [`resolve`] makes them.
#[derive(Debug)]
pub(super) struct Files {
    nodes: BTreeMap<String, Node>,
    used: usize,
    capacity: usize,
}

impl Files {
    /// A fresh container's tree; `hostname` is the pod's name.
    pub(super) fn new(hostname: &str) -> Self {
        Self::with_capacity(hostname, CAPACITY)
    }

    /// With room for `capacity` bytes besides what every container starts with.
    fn with_capacity(hostname: &str, capacity: usize) -> Self {
        let mut files = Self { nodes: BTreeMap::new(), used: 0, capacity };
        files.nodes.insert("/".to_owned(), Node::directory());
        for directory in ["/bin", "/dev", "/etc", "/home", "/root", "/tmp", "/var", "/var/log"] {
            files.nodes.insert(directory.to_owned(), Node::directory());
        }
        let release =
            "NAME=\"Clusterway demo\"\nID=clusterway-demo\nPRETTY_NAME=\"Clusterway demo container\"\n";
        for (path, text) in
            [("/etc/hostname", format!("{hostname}\n")), ("/etc/os-release", release.to_owned())]
        {
            let node = Node { content: Some(Arc::new(text.into_bytes())), mode: 0o644, modified: now() };
            files.nodes.insert(path.to_owned(), node);
        }
        files.used = files.nodes.iter().map(|(path, node)| cost(path, node)).sum();
        files.capacity = capacity + files.used;
        files
    }

    /// Kind, size and times of `path`.
    pub(super) fn stat(&self, path: &str) -> Result<Metadata, FileError> {
        self.node(path).map(Node::metadata)
    }

    /// The content of `path` as it is now; later writes do not change what was returned.
    pub(super) fn read(&self, path: &str) -> Result<Arc<Vec<u8>>, FileError> {
        self.node(path)?.content.clone().ok_or(FileError::IsADirectory)
    }

    /// Names and metadata of what is directly in directory `path`, sorted.
    pub(super) fn list(&self, path: &str) -> Result<Vec<(String, Metadata)>, FileError> {
        if self.node(path)?.content.is_some() {
            return Err(FileError::NotADirectory);
        }
        let prefix = directory_prefix(path);
        Ok(self
            .below(path)
            .filter_map(|(child, node)| {
                let name = child.strip_prefix(&prefix)?;
                (!name.is_empty() && !name.contains('/')).then(|| (name.to_owned(), node.metadata()))
            })
            .collect())
    }

    /// `path` and everything below it, parents first.
    pub(super) fn walk(&self, path: &str) -> Result<Vec<(String, Metadata)>, FileError> {
        let root = (path.to_owned(), self.node(path)?.metadata());
        let below = self.below(path).filter(|(child, _)| *child != "/");
        Ok(std::iter::once(root).chain(below.map(|(child, node)| (child.clone(), node.metadata()))).collect())
    }

    /// Makes `path` an empty file, whether or not it was one.
    pub(super) fn create(&mut self, path: &str, mode: u32) -> Result<(), FileError> {
        match self.nodes.get_mut(path) {
            Some(Node { content: None, .. }) => Err(FileError::IsADirectory),
            Some(Node { content: Some(content), modified, .. }) => {
                self.used -= content.len();
                *content = Arc::default();
                *modified = now();
                Ok(())
            }
            None => self
                .insert(path, Node { content: Some(Arc::default()), mode: mode & 0o7777, modified: now() }),
        }
    }

    /// Adds `bytes` to the end of the file `path`.
    pub(super) fn append(&mut self, path: &str, bytes: &[u8]) -> Result<(), FileError> {
        let node = self.nodes.get_mut(path).ok_or(FileError::NotFound)?;
        let content = node.content.as_mut().ok_or(FileError::IsADirectory)?;
        if self.used + bytes.len() > self.capacity {
            return Err(FileError::Full);
        }
        self.used += bytes.len();
        Arc::make_mut(content).extend_from_slice(bytes);
        node.modified = now();
        Ok(())
    }

    /// Sets permission bits and, if given, the modification time in seconds since 1970.
    pub(super) fn set(&mut self, path: &str, mode: u32, modified: Option<u64>) -> Result<(), FileError> {
        let node = self.nodes.get_mut(path).ok_or(FileError::NotFound)?;
        node.mode = mode & 0o7777;
        node.modified = modified.unwrap_or(node.modified);
        Ok(())
    }

    /// Makes directory `path`; with `parents` also what is missing above it, and an existing one is fine.
    pub(super) fn make_directory(&mut self, path: &str, parents: bool) -> Result<(), FileError> {
        match self.nodes.get(path) {
            Some(Node { content: None, .. }) if parents => return Ok(()),
            Some(_) => return Err(FileError::Exists),
            None => {}
        }
        if parents
            && let Some((parent, _)) = path.rsplit_once('/')
            && !parent.is_empty()
            && self.nodes.get(parent).is_none_or(|node| node.content.is_some())
        {
            self.make_directory(parent, true).map_err(|error| match error {
                FileError::Exists => FileError::NotADirectory,
                other => other,
            })?;
        }
        self.insert(path, Node::directory())
    }

    /// Removes `path`; a directory only with `recursive`. The root always stays.
    pub(super) fn remove(&mut self, path: &str, recursive: bool) -> Result<(), FileError> {
        if self.node(path)?.content.is_none() && !recursive {
            return Err(FileError::IsADirectory);
        }
        if path == "/" {
            return Err(FileError::NotEmpty);
        }
        let doomed: Vec<String> =
            std::iter::once(path.to_owned()).chain(self.below(path).map(|(path, _)| path.clone())).collect();
        for path in doomed {
            if let Some(node) = self.nodes.remove(&path) {
                self.used = self.used.saturating_sub(cost(&path, &node));
            }
        }
        Ok(())
    }

    fn insert(&mut self, path: &str, node: Node) -> Result<(), FileError> {
        if path.len() > LONGEST_PATH {
            return Err(FileError::NameTooLong);
        }
        let parent =
            path.rsplit_once('/').map_or("/", |(parent, _)| if parent.is_empty() { "/" } else { parent });
        if self.node(parent)?.content.is_some() {
            return Err(FileError::NotADirectory);
        }
        let cost = cost(path, &node);
        if self.used + cost > self.capacity {
            return Err(FileError::Full);
        }
        self.used += cost;
        self.nodes.insert(path.to_owned(), node);
        Ok(())
    }

    fn node(&self, path: &str) -> Result<&Node, FileError> {
        self.nodes.get(path).ok_or_else(|| {
            let below_a_file = path
                .match_indices('/')
                .filter(|(at, _)| *at > 0)
                .any(|(at, _)| self.nodes.get(&path[..at]).is_some_and(|node| node.content.is_some()));
            if below_a_file { FileError::NotADirectory } else { FileError::NotFound }
        })
    }

    /// Everything below directory `path`, sorted; for the root that includes the root itself.
    fn below(&self, path: &str) -> impl Iterator<Item = (&String, &Node)> {
        let prefix = directory_prefix(path);
        self.nodes.range(prefix.clone()..).take_while(move |(path, _)| path.starts_with(&prefix))
    }
}

/// `path`, seen from directory `from`, as an absolute path without `.`, `..`, doubled or trailing slashes.
pub(super) fn resolve(from: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let start = if path.starts_with('/') { "" } else { from };
    for part in start.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    format!("/{}", parts.join("/"))
}

fn directory_prefix(path: &str) -> String {
    if path == "/" { "/".to_owned() } else { format!("{path}/") }
}

fn cost(path: &str, node: &Node) -> usize {
    ENTRY_COST + path.len() + node.content.as_ref().map_or(0, |content| content.len())
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(files: &Files, path: &str) -> Vec<String> {
        files.list(path).unwrap().into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn paths_resolve_like_a_shell_resolves_them() {
        for (from, path, expected) in [
            ("/", "tmp", "/tmp"),
            ("/tmp", "a//b/./c/", "/tmp/a/b/c"),
            ("/tmp/a", "../b", "/tmp/b"),
            ("/tmp", "/etc", "/etc"),
            ("/", "../../..", "/"),
            ("/tmp", "", "/tmp"),
        ] {
            assert_eq!(resolve(from, path), expected, "{path} from {from}");
        }
    }

    #[test]
    fn what_is_written_is_read_back_and_listed() {
        let mut files = Files::new("web-0");
        files.make_directory("/tmp/a/b", true).unwrap();
        files.create("/tmp/a/b/file", 0o600).unwrap();
        files.append("/tmp/a/b/file", b"one").unwrap();
        let snapshot = files.read("/tmp/a/b/file").unwrap();
        files.append("/tmp/a/b/file", b" two").unwrap();
        assert_eq!(*snapshot, b"one");
        assert_eq!(*files.read("/tmp/a/b/file").unwrap(), b"one two");
        assert_eq!(files.stat("/tmp/a/b/file").unwrap().mode, 0o600);
        assert_eq!(names(&files, "/tmp"), ["a"]);
        let walked: Vec<String> = files.walk("/tmp/a").unwrap().into_iter().map(|(path, _)| path).collect();
        assert_eq!(walked, ["/tmp/a", "/tmp/a/b", "/tmp/a/b/file"]);
        assert_eq!(*files.read("/etc/hostname").unwrap(), b"web-0\n");
    }

    #[test]
    fn a_neighbour_with_a_longer_name_is_not_below_a_directory() {
        let mut files = Files::new("web-0");
        files.make_directory("/tmp/a", false).unwrap();
        files.make_directory("/tmp/a-b", false).unwrap();
        files.create("/tmp/a/x", 0o644).unwrap();
        assert_eq!(names(&files, "/tmp/a"), ["x"]);
        files.remove("/tmp/a", true).unwrap();
        assert_eq!(names(&files, "/tmp"), ["a-b"]);
    }

    #[test]
    fn a_full_container_says_so_and_removing_frees_it() {
        let mut files = Files::with_capacity("web-0", 2000);
        let at_first = files.used;
        files.create("/tmp/big", 0o644).unwrap();
        assert_eq!(files.append("/tmp/big", &[0; 2000]), Err(FileError::Full));
        files.append("/tmp/big", &[0; 1500]).unwrap();
        assert_eq!(files.create("/tmp/other", 0o644), Err(FileError::Full));
        files.remove("/tmp/big", false).unwrap();
        assert_eq!(files.used, at_first);
        files.create("/tmp/big", 0o644).unwrap();
        files.append("/tmp/big", &[0; 1500]).unwrap();
        files.create("/tmp/big", 0o644).unwrap();
        assert_eq!(files.read("/tmp/big").unwrap().len(), 0);
        files.append("/tmp/big", &[0; 1500]).unwrap();
    }

    #[test]
    fn errors_are_those_of_linux() {
        let mut files = Files::new("web-0");
        assert_eq!(files.read("/nothing").unwrap_err(), FileError::NotFound);
        assert_eq!(files.read("/etc/hostname/x").unwrap_err(), FileError::NotADirectory);
        assert_eq!(files.read("/etc").unwrap_err(), FileError::IsADirectory);
        assert_eq!(files.create("/etc", 0o644), Err(FileError::IsADirectory));
        assert_eq!(files.create("/no/where", 0o644), Err(FileError::NotFound));
        assert_eq!(files.make_directory("/etc", false), Err(FileError::Exists));
        assert_eq!(files.make_directory("/etc/hostname/x", true), Err(FileError::NotADirectory));
        assert_eq!(files.remove("/etc", false), Err(FileError::IsADirectory));
        assert_eq!(files.remove("/", true), Err(FileError::NotEmpty));
        assert_eq!(files.create(&format!("/tmp/{}", "x".repeat(5000)), 0o644), Err(FileError::NameTooLong));
    }
}
