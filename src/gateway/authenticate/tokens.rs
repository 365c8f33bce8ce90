//! Static bearer tokens from a file in kube-apiserver's format.
//!
//! Tokens are kept as SHA-256 digests only: a lookup by digest tells nothing by its timing, and there is nothing to
//! leak afterwards.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use clusterway_certs::{Reload, read_file};
use csv::{ReaderBuilder, StringRecord, Trim};

use super::authenticated;
use crate::identity::Caller;

type Digest = [u8; SHA256_OUTPUT_LEN];

/// The callers of a token file: lines of `token,user,uid,"group1,group2"`, the groups being optional.
///
/// Blank lines and lines that start with `#` are passed over. Where a kube-apiserver warns and goes on (double
/// tokens, empty tokens) or quietly drops what it does not expect (groups without quotes), this refuses the file:
/// with credentials, half of what was meant is worse than what there was before.
pub struct StaticTokens {
    path: PathBuf,
    loaded: ArcSwap<Loaded>,
}

struct Loaded {
    digest: Digest,
    callers: HashMap<Digest, Arc<Caller>>,
}

/// What is wrong with a token file. Never shows a token. Messages are complete: there is no `source()`.
#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    /// It cannot be read.
    #[error("cannot read the token file {}: {cause}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// Some of its lines cannot be used.
    #[error("token file {}: {}", .path.display(), list(.problems))]
    Lines {
        /// The file.
        path: PathBuf,
        /// Line numbers, counted from 1, and what is wrong there.
        problems: Vec<(u64, String)>,
    },
}

impl StaticTokens {
    /// Reads the file.
    ///
    /// # Errors
    /// [`TokenFileError`], naming the file and every line that cannot be used.
    pub fn from_file(path: impl Into<PathBuf>) -> Result<Self, TokenFileError> {
        let path = path.into();
        let content = read(&path)?;
        let loaded = ArcSwap::from_pointee(Loaded::parse(&path, &content)?);
        Ok(Self { path, loaded })
    }

    /// Reads the file again. With an error everything stays as it was.
    ///
    /// # Errors
    /// [`TokenFileError`], naming the file and every line that cannot be used.
    pub fn reload(&self) -> Result<Reload, TokenFileError> {
        let content = read(&self.path)?;
        if sha256(&content) == self.loaded.load().digest {
            return Ok(Reload::Unchanged);
        }
        self.loaded.store(Arc::new(Loaded::parse(&self.path, &content)?));
        Ok(Reload::Changed)
    }

    /// Whose token this is.
    pub fn caller(&self, token: &str) -> Option<Arc<Caller>> {
        self.loaded.load().callers.get(&sha256(token.as_bytes())).cloned()
    }

    /// How many tokens there are.
    pub fn len(&self) -> usize {
        self.loaded.load().callers.len()
    }

    /// Whether there is no token at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Debug for StaticTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StaticTokens").field("path", &self.path).field("tokens", &self.len()).finish()
    }
}

impl Loaded {
    fn parse(path: &Path, content: &[u8]) -> Result<Self, TokenFileError> {
        let mut callers = HashMap::new();
        let mut first_lines = HashMap::new();
        let mut problems = Vec::new();
        let mut reader = ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .comment(Some(b'#'))
            .trim(Trim::All)
            .from_reader(content);
        for record in reader.records() {
            let record = match record {
                Ok(record) => record,
                Err(error) => {
                    problems.push((error.position().map_or(0, csv::Position::line), "not UTF-8".to_owned()));
                    continue;
                }
            };
            let line = record.position().map_or(0, csv::Position::line);
            if record.iter().eq([""]) {
                continue;
            }
            match caller(&record) {
                Err(problem) => problems.push((line, problem.to_owned())),
                Ok((digest, caller)) => match first_lines.entry(digest) {
                    Entry::Occupied(first) => {
                        problems.push((line, format!("the same token as in line {}", first.get())));
                    }
                    Entry::Vacant(first) => {
                        first.insert(line);
                        callers.insert(digest, Arc::new(caller));
                    }
                },
            }
        }
        if problems.is_empty() {
            Ok(Self { digest: sha256(content), callers })
        } else {
            Err(TokenFileError::Lines { path: path.to_owned(), problems })
        }
    }
}

/// One line.
fn caller(record: &StringRecord) -> Result<(Digest, Caller), &'static str> {
    if record.iter().any(|field| field.contains('\n')) {
        return Err("a quote is opened and not closed on the line");
    }
    let (token, user, uid, groups) = match record.iter().collect::<Vec<_>>()[..] {
        [token, user, uid] => (token, user, uid, ""),
        [token, user, uid, groups] => (token, user, uid, groups),
        [] | [_] | [_, _] => return Err("at least three columns are needed: token, user name, user uid"),
        _ => {
            return Err(
                "more than four columns; put the groups in double quotes: token,user,uid,\"group1,group2\"",
            );
        }
    };
    if token.is_empty() {
        return Err("the token is empty");
    }
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("the token holds characters that an Authorization header cannot carry");
    }
    if user.is_empty() {
        return Err("the user name is empty");
    }
    let groups = groups.split(',').map(str::trim).filter(|group| !group.is_empty());
    let caller = Caller {
        name: user.to_owned(),
        uid: (!uid.is_empty()).then(|| uid.to_owned()),
        groups: groups.map(str::to_owned).collect(),
        ..Caller::default()
    };
    Ok((sha256(token.as_bytes()), authenticated(caller)))
}

fn read(path: &Path) -> Result<Vec<u8>, TokenFileError> {
    read_file(path).map_err(|cause| TokenFileError::Read { path: path.to_owned(), cause })
}

fn sha256(bytes: &[u8]) -> Digest {
    let mut out = [0; SHA256_OUTPUT_LEN];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}

fn list(problems: &[(u64, String)]) -> String {
    let lines: Vec<_> = problems.iter().map(|(line, problem)| format!("line {line}: {problem}")).collect();
    lines.join("; ")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn parse(content: &str) -> Result<Loaded, String> {
        Loaded::parse(Path::new("tokens.csv"), content.as_bytes()).map_err(|error| error.to_string())
    }

    fn caller_of(content: &str, token: &str) -> Arc<Caller> {
        Arc::clone(
            &parse(content).unwrap_or_else(|error| panic!("{error}")).callers[&sha256(token.as_bytes())],
        )
    }

    #[test]
    fn lines_as_a_kube_apiserver_reads_them() {
        let caller = caller_of("t0ken,jane,42,\"dev,ops\"\n", "t0ken");
        assert_eq!(caller.name, "jane");
        assert_eq!(caller.uid.as_deref(), Some("42"));
        assert_eq!(caller.groups, ["dev", "ops", "system:authenticated"]);
        assert!(caller.extra.is_empty());
    }

    #[test]
    fn uid_and_groups_may_be_missing() {
        let caller = caller_of("t,jane,", "t");
        assert_eq!(caller.uid, None);
        assert_eq!(caller.groups, ["system:authenticated"]);
        assert_eq!(caller_of("t,jane,1,dev", "t").groups, ["dev", "system:authenticated"]);
        assert_eq!(caller_of("t,jane,1,\"\"", "t").groups, ["system:authenticated"]);
    }

    #[test]
    fn comments_blank_lines_and_blanks_do_not_matter() {
        let content = "# people\n\n  \n t1 , jane , 1\r\n#t2,joe,2\nt3,jim,3,\"a, b,,\"\n";
        assert_eq!(caller_of(content, "t1").name, "jane");
        assert_eq!(caller_of(content, "t3").groups, ["a", "b", "system:authenticated"]);
        assert_eq!(parse(content).map_or(0, |loaded| loaded.callers.len()), 2);
    }

    #[test]
    fn quoted_quotes_are_part_of_the_name() {
        assert_eq!(caller_of("t,\"the \"\"boss\"\"\",1", "t").name, "the \"boss\"");
    }

    #[test]
    fn every_unusable_line_is_named_and_no_token_shown() {
        let content = "s3cret,jane\n,joe,1\ngood,jim,2\ngood,tim,3\nt1,,4\nt2,a,5,g1,g2\nsp ace,b,6\n";
        let error = parse(content).err().unwrap();
        for expected in [
            "token file tokens.csv: line 1: at least three columns",
            "line 2: the token is empty",
            "line 4: the same token as in line 3",
            "line 5: the user name is empty",
            "line 6: more than four columns",
            "line 7: the token holds characters",
        ] {
            assert!(error.contains(expected), "{expected:?} is not in {error:?}");
        }
        for secret in ["s3cret", "good", "sp ace"] {
            assert!(!error.contains(secret), "{error}");
        }
    }

    #[test]
    fn an_open_quote_does_not_swallow_the_lines_below() {
        let error = parse("t1,jane,1,\"dev\nt2,joe,2,\"ops\"\nt3,jim,3\n").err().unwrap();
        assert!(error.contains("line 1: a quote is opened"), "{error}");
    }

    #[test]
    fn bytes_that_are_not_text_are_named_by_line() {
        let content = b"t1,jane,1\nt2,\xff,2\n";
        let error = Loaded::parse(Path::new("tokens.csv"), content).err().unwrap().to_string();
        assert!(error.contains("line 2: not UTF-8"), "{error}");
    }

    #[test]
    fn a_changed_file_is_taken_up_and_a_broken_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.csv");
        fs::write(&path, "old,jane,1\n").unwrap();
        let tokens = StaticTokens::from_file(&path).unwrap();
        assert_eq!(tokens.reload().unwrap(), Reload::Unchanged);

        fs::write(&path, "new,jane,1\nbroken\n").unwrap();
        assert!(tokens.reload().unwrap_err().to_string().contains("line 2"));
        assert!(tokens.caller("old").is_some());
        assert!(tokens.caller("new").is_none());

        fs::write(&path, "new,jane,1\n").unwrap();
        assert_eq!(tokens.reload().unwrap(), Reload::Changed);
        assert!(tokens.caller("old").is_none());
        assert!(tokens.caller("new").is_some());
        fs::remove_file(&path).unwrap();
        assert!(tokens.reload().unwrap_err().to_string().contains("tokens.csv"));
        assert!(tokens.caller("new").is_some());
    }

    #[test]
    fn debug_output_holds_no_token() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.csv");
        fs::write(&path, "s3cret,jane,1\n").unwrap();
        assert!(!format!("{:?}", StaticTokens::from_file(&path).unwrap()).contains("s3cret"));
    }
}
