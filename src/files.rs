//! Files, followed by content.
//!
//! Modification times say nothing where projected volumes swap symlinks, and notifications nothing on network file
//! systems, so whoever follows files looks at them again and again; every look here blocks. A file that may be in the
//! middle of being written must never be taken for what it holds: half a manifest can grant more than all of it, and
//! an empty one takes its clusters away.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
    thread,
    time::Duration,
};

use aws_lc_rs::digest::{SHA256, digest};
use clusterway_certs::read_file;

/// How long a file has to stay the same before its content counts.
const SETTLE: Duration = Duration::from_millis(20);
/// How often one look waits for that. What is still being written then is left to the next look.
const PATIENCE: usize = 5;

/// What has become of a file since it was last looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It holds this now.
    Content(Vec<u8>),
    /// It is there and cannot be read.
    Unreadable(String),
    /// It is not there any more.
    Gone,
}

/// A set of files and what they held when they were last looked at. Keeps no contents.
#[derive(Debug, Default)]
pub struct Watched {
    known: BTreeMap<PathBuf, Known>,
    emptied: BTreeSet<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Known {
    Digest(Vec<u8>),
    Unreadable(String),
}

type Contents = BTreeMap<PathBuf, Result<Vec<u8>, String>>;

impl Watched {
    /// Nothing has been looked at yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Looks at the files that `list` names now and says which have changed. Where a change is not over yet, it is
    /// left to the next look. A file that has become empty counts as such with the look after: shells empty a file
    /// long before the command that is to fill it has anything to say.
    ///
    /// # Errors
    /// Those of `list`; nothing has changed then.
    pub fn look(
        &mut self,
        list: impl FnMut() -> io::Result<BTreeSet<PathBuf>>,
    ) -> io::Result<BTreeMap<PathBuf, Change>> {
        self.look_pausing(list, || thread::sleep(SETTLE))
    }

    fn look_pausing(
        &mut self,
        mut list: impl FnMut() -> io::Result<BTreeSet<PathBuf>>,
        mut pause: impl FnMut(),
    ) -> io::Result<BTreeMap<PathBuf, Change>> {
        let mut before = read_all(list()?);
        let mut changed = self.changed(&before);
        if changed.is_empty() {
            self.emptied.clear();
            return Ok(BTreeMap::new());
        }
        let mut unsettled = changed.clone();
        for _ in 0..PATIENCE {
            pause();
            let now = read_all(list()?);
            changed = self.changed(&now);
            unsettled = changed.iter().filter(|path| before.get(*path) != now.get(*path)).cloned().collect();
            before = now;
            if unsettled.is_empty() {
                break;
            }
        }
        let was_emptied = std::mem::take(&mut self.emptied);
        changed.retain(|path| !unsettled.contains(path));
        let mut changes = BTreeMap::new();
        for path in changed {
            let now = before.remove(&path);
            let is_emptied = now.as_ref().is_some_and(|now| now.as_ref().is_ok_and(Vec::is_empty));
            if is_emptied && self.known.contains_key(&path) && !was_emptied.contains(&path) {
                self.emptied.insert(path);
                continue;
            }
            changes.insert(path.clone(), self.take(path, now));
        }
        Ok(changes)
    }

    /// The files of `now`, and those that are not in it any more, that differ from what is known.
    fn changed(&self, now: &Contents) -> BTreeSet<PathBuf> {
        let differs = |(path, content): &(&PathBuf, &Result<Vec<u8>, String>)| {
            self.known.get(*path) != Some(&Known::of(content))
        };
        let gone = self.known.keys().filter(|path| !now.contains_key(*path));
        now.iter().filter(differs).map(|(path, _)| path).chain(gone).cloned().collect()
    }

    fn take(&mut self, path: PathBuf, now: Option<Result<Vec<u8>, String>>) -> Change {
        let Some(now) = now else {
            self.known.remove(&path);
            return Change::Gone;
        };
        self.known.insert(path, Known::of(&now));
        match now {
            Ok(content) => Change::Content(content),
            Err(why) => Change::Unreadable(why),
        }
    }
}

impl Known {
    fn of(content: &Result<Vec<u8>, String>) -> Self {
        match content {
            Ok(content) => Self::Digest(digest(&SHA256, content).as_ref().to_vec()),
            Err(why) => Self::Unreadable(why.clone()),
        }
    }
}

fn read_all(paths: BTreeSet<PathBuf>) -> Contents {
    let read = |path: PathBuf| {
        let content = read_file(&path).map_err(|error| error.to_string());
        (path, content)
    };
    paths.into_iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    struct Folder {
        folder: tempfile::TempDir,
        watched: Watched,
    }

    impl Folder {
        fn new() -> Self {
            Self { folder: tempfile::tempdir().unwrap(), watched: Watched::new() }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn write(&self, name: &str, content: &str) {
            fs::write(self.path(name), content).unwrap();
        }

        /// One look, with something happening each time it waits for files to settle.
        fn look_while(&mut self, mut happening: impl FnMut(&Path, usize)) -> Vec<(String, Change)> {
            let folder = self.folder.path();
            let list =
                || fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<BTreeSet<_>>>();
            let mut pauses = 0;
            let pause = || {
                happening(folder, pauses);
                pauses += 1;
            };
            let changes = self.watched.look_pausing(list, pause).unwrap();
            let name = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
            changes.into_iter().map(|(path, change)| (name(path), change)).collect()
        }

        fn look(&mut self) -> Vec<(String, Change)> {
            self.look_while(|_, _| {})
        }
    }

    fn content(name: &str, content: &str) -> (String, Change) {
        (name.to_owned(), Change::Content(content.into()))
    }

    #[test]
    fn only_what_has_changed_is_told_and_only_once() {
        let mut folder = Folder::new();
        folder.write("a", "1");
        folder.write("b", "1");
        assert_eq!(folder.look(), [content("a", "1"), content("b", "1")]);
        assert_eq!(folder.look(), []);
        folder.write("b", "1");
        assert_eq!(folder.look(), [], "written again, the same");
        folder.write("b", "2");
        assert_eq!(folder.look(), [content("b", "2")]);
        fs::remove_file(folder.path("a")).unwrap();
        assert_eq!(folder.look(), [("a".to_owned(), Change::Gone)]);
        assert_eq!(folder.look(), []);
    }

    #[test]
    fn a_file_that_is_being_written_counts_when_it_is_written() {
        let mut folder = Folder::new();
        folder.write("a", "old");
        folder.look();
        folder.write("a", "");
        let changes = folder.look_while(|folder, pause| match pause {
            0 => fs::write(folder.join("a"), "half").unwrap(),
            1 => fs::write(folder.join("a"), "half and half").unwrap(),
            _ => {}
        });
        assert_eq!(changes, [content("a", "half and half")]);
    }

    #[test]
    fn a_file_that_never_settles_is_left_out_and_holds_up_no_other() {
        let mut folder = Folder::new();
        folder.write("a", "old");
        folder.look();
        folder.write("a", "new");
        folder.write("b", "1");
        let changes =
            folder.look_while(|folder, pause| fs::write(folder.join("a"), pause.to_string()).unwrap());
        assert_eq!(changes, [content("b", "1")]);
        assert_eq!(folder.look(), [content("a", "4")]);
    }

    #[test]
    fn a_file_that_is_replaced_by_renaming_is_never_gone() {
        let mut folder = Folder::new();
        folder.write("a", "old");
        folder.look();
        fs::rename(folder.path("a"), folder.path("a~")).unwrap();
        let changes = folder.look_while(|folder, pause| {
            if pause == 0 {
                fs::remove_file(folder.join("a~")).unwrap();
                fs::write(folder.join("a"), "new").unwrap();
            }
        });
        assert_eq!(changes, [content("a", "new")]);
    }

    #[test]
    fn an_emptied_file_counts_when_it_is_still_empty_with_the_next_look() {
        let mut folder = Folder::new();
        folder.write("a", "old");
        folder.look();
        folder.write("a", "");
        assert_eq!(folder.look(), []);
        folder.write("a", "new");
        assert_eq!(folder.look(), [content("a", "new")]);
        folder.write("a", "");
        assert_eq!(folder.look(), []);
        assert_eq!(folder.look(), [content("a", "")]);
        assert_eq!(folder.look(), []);
    }

    #[test]
    fn a_file_that_was_empty_from_the_start_is_what_it_is() {
        let mut folder = Folder::new();
        folder.write("a", "");
        assert_eq!(folder.look(), [content("a", "")]);
    }

    #[test]
    fn what_is_no_file_is_unreadable_and_nobody_waits_for_it() {
        let mut folder = Folder::new();
        std::os::unix::net::UnixListener::bind(folder.path("socket")).unwrap();
        std::os::unix::fs::symlink("nowhere", folder.path("symlink")).unwrap();
        let changes = folder.look();
        assert!(
            matches!(&changes[0].1, Change::Unreadable(why) if why.contains("regular file")),
            "{changes:?}"
        );
        assert!(
            matches!(&changes[1].1, Change::Unreadable(why) if why.contains("No such file")),
            "{changes:?}"
        );
        assert_eq!(folder.look(), []);
    }

    #[test]
    fn a_list_that_fails_changes_nothing() {
        let mut folder = Folder::new();
        folder.write("a", "1");
        folder.look();
        let failed = folder.watched.look(|| Err(io::Error::other("gone")));
        assert_eq!(failed.unwrap_err().to_string(), "gone");
        assert_eq!(folder.look(), []);
    }
}
