//! The state directory: an authority of our own, made once and kept.
//!
//! Whoever starts first makes it; a lock on a file in the directory keeps two processes that start at once from
//! making two. Files with keys have mode 0600 from their first byte and appear whole, by a rename.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use x509_parser::extensions::GeneralName;

use crate::{Authority, CertError, authority, pem, subject};

const LOCK: &str = "lock";
const AUTHORITY: &str = "ca.pem";
const AUTHORITY_CERTIFICATE: &str = "ca.crt";
const SERVING: &str = "serving.pem";

/// A serving certificate is made anew when this much of its time is left: a third, so that a gateway which is
/// stopped for weeks still comes back with a good one.
const RENEW_BEFORE: Duration = Duration::from_secs(authority::LEAF_LIFETIME.as_secs() / 3);

/// A directory that holds a certificate authority and what it has issued for a listener.
#[derive(Debug)]
pub struct StateDirectory {
    path: PathBuf,
    authority: Authority,
}

impl StateDirectory {
    /// Opens the directory, and makes it (mode 0700) and the authority in it if they are not there.
    ///
    /// # Errors
    /// [`CertError`], naming the file.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, CertError> {
        let path = path.into();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(|cause| CertError::Write { path: path.clone(), cause })?;
        let _lock = lock(&path)?;
        let file = path.join(AUTHORITY);
        let authority = match fs::read(&file) {
            Ok(pem) => Authority::from_pem(&pem, &file.display().to_string())?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let authority = Authority::new("Clusterway authority")?;
                write_whole(&file, authority.to_pem().as_bytes(), 0o600)?;
                authority
            }
            Err(cause) => return Err(CertError::Read { path: file, cause }),
        };
        // The copy for clients is written again whenever it is not what it should be.
        let for_clients = path.join(AUTHORITY_CERTIFICATE);
        let certificate = authority.certificate_pem();
        if fs::read(&for_clients).ok().as_deref() != Some(certificate.as_bytes()) {
            write_whole(&for_clients, certificate.as_bytes(), 0o644)?;
        }
        Ok(Self { path, authority })
    }

    /// The authority.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The authority's certificate as a file to hand to clients (`certificate-authority` in a kubeconfig).
    pub fn authority_file(&self) -> PathBuf {
        self.path.join(AUTHORITY_CERTIFICATE)
    }

    /// The file with the serving certificate and its key.
    pub(crate) fn serving_file(&self) -> PathBuf {
        self.path.join(SERVING)
    }

    /// The serving certificate for `names` and its key as PEM: the kept one while it is good, else a new one.
    ///
    /// # Errors
    /// [`CertError`], naming the file.
    pub(crate) fn serving(&self, names: &[String]) -> Result<Vec<u8>, CertError> {
        let file = self.serving_file();
        if let Ok(kept) = fs::read(&file)
            && self.still_good(&kept, names)
        {
            return Ok(kept);
        }
        let _lock = lock(&self.path)?;
        // Somebody else may have made it while we waited.
        if let Ok(kept) = fs::read(&file)
            && self.still_good(&kept, names)
        {
            return Ok(kept);
        }
        if self.authority.not_after() < SystemTime::now() + authority::LEAF_LIFETIME {
            return Err(CertError::AuthorityExpired { path: self.path.join(AUTHORITY) });
        }
        let issued = self.authority.issue_server(names)?;
        let fresh = format!("{}{}", issued.certificate_pem(), issued.key_pem());
        write_whole(&file, fresh.as_bytes(), 0o600)?;
        Ok(fresh.into_bytes())
    }

    /// Whether a kept certificate is ours, for exactly these names, and far from its end.
    fn still_good(&self, kept: &[u8], names: &[String]) -> bool {
        let origin = "the kept serving certificate";
        let Ok(chain) = pem::certificates(kept, origin) else { return false };
        let Some(leaf) = chain.first() else { return false };
        let far_from_end = subject::not_after(leaf).is_ok_and(|end| end > SystemTime::now() + RENEW_BEFORE);
        far_from_end
            && pem::private_key(kept, origin).is_ok()
            && self.has_issued(leaf)
            && alternative_names(leaf).is_some_and(|kept| same_names(&kept, names))
    }

    fn has_issued(&self, leaf: &[u8]) -> bool {
        let (Ok(leaf), Ok(authority)) = (subject::parse(leaf), subject::parse(self.authority.certificate()))
        else {
            return false;
        };
        // The key identifier tells two authorities of the same name apart.
        let issuer_key = leaf.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            x509_parser::extensions::ParsedExtension::AuthorityKeyIdentifier(key) => {
                key.key_identifier.as_ref().map(|id| id.0)
            }
            _ => None,
        });
        let own_key =
            authority.extensions().iter().find_map(|extension| match extension.parsed_extension() {
                x509_parser::extensions::ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
                _ => None,
            });
        issuer_key.is_some() && issuer_key == own_key
    }
}

/// The subject alternative names, as they would be asked for.
fn alternative_names(leaf: &[u8]) -> Option<Vec<String>> {
    let leaf = subject::parse(leaf).ok()?;
    let names = leaf.subject_alternative_name().ok().flatten()?;
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match <[u8; 4]>::try_from(*bytes) {
            Ok(four) => Some(std::net::Ipv4Addr::from(four).to_string()),
            Err(_) => <[u8; 16]>::try_from(*bytes).ok().map(|all| std::net::Ipv6Addr::from(all).to_string()),
        },
        _ => None,
    };
    names.value.general_names.iter().map(text).collect()
}

/// Whether both lists name the same, in any order and however an address is written.
fn same_names(kept: &[String], wanted: &[String]) -> bool {
    let normal = |name: &String| {
        name.parse::<std::net::IpAddr>().map_or_else(|_| name.clone(), |address| address.to_string())
    };
    let sorted = |names: &[String]| {
        let mut names: Vec<String> = names.iter().map(normal).collect();
        names.sort_unstable();
        names.dedup();
        names
    };
    sorted(kept) == sorted(wanted)
}

/// Locks the directory against other processes, and other openings in this one, until dropped.
fn lock(directory: &Path) -> Result<File, CertError> {
    let path = directory.join(LOCK);
    let failed = |cause| CertError::Write { path: path.clone(), cause };
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    file.lock().map_err(failed)?;
    Ok(file)
}

/// Writes a file so that it is never seen half written, nor with any other mode. Only under the lock.
fn write_whole(path: &Path, content: &[u8], mode: u32) -> Result<(), CertError> {
    let temporary = path.with_extension("tmp");
    let write = || {
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().create_new(true).write(true).mode(mode).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|cause| CertError::Write { path: path.to_owned(), cause })
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt as _, sync::Barrier, thread};

    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn keys_are_for_the_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new").join("state");
        let state = StateDirectory::open(&path).unwrap();
        state.serving(&names(&["localhost"])).unwrap();
        assert_eq!(mode(&path), 0o700);
        assert_eq!(mode(&path.join(AUTHORITY)), 0o600);
        assert_eq!(mode(&path.join(SERVING)), 0o600);
        assert_eq!(fs::read_to_string(state.authority_file()).unwrap(), state.authority().certificate_pem());
    }

    #[test]
    fn the_authority_and_its_certificate_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let first = StateDirectory::open(folder.path()).unwrap();
        let serving = first.serving(&names(&["localhost", "::1"])).unwrap();
        let second = StateDirectory::open(folder.path()).unwrap();
        assert_eq!(first.authority().certificate(), second.authority().certificate());
        assert_eq!(serving, second.serving(&names(&["0:0::1", "localhost"])).unwrap());
    }

    #[test]
    fn changed_names_get_a_new_certificate() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(folder.path()).unwrap();
        let one = state.serving(&names(&["localhost"])).unwrap();
        let two = state.serving(&names(&["localhost", "gateway.example.org"])).unwrap();
        assert_ne!(one, two);
        assert_eq!(two, state.serving(&names(&["localhost", "gateway.example.org"])).unwrap());
    }

    #[test]
    fn a_certificate_of_another_authority_is_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let wanted = names(&["localhost"]);
        let old = StateDirectory::open(folder.path()).unwrap().serving(&wanted).unwrap();
        fs::remove_file(folder.path().join(AUTHORITY)).unwrap();
        assert_ne!(old, StateDirectory::open(folder.path()).unwrap().serving(&wanted).unwrap());
    }

    #[test]
    fn a_broken_serving_certificate_is_replaced_and_a_broken_authority_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(folder.path()).unwrap();
        fs::write(folder.path().join(SERVING), "broken").unwrap();
        state.serving(&names(&["localhost"])).unwrap();
        fs::write(folder.path().join(AUTHORITY), "broken").unwrap();
        let error = StateDirectory::open(folder.path()).unwrap_err();
        assert!(error.to_string().contains("ca.pem"), "{error}");
    }

    #[test]
    fn those_who_start_at_once_end_with_one_authority() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let together = Barrier::new(8);
        let found: Vec<_> = thread::scope(|scope| {
            let starts: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        together.wait();
                        let state = StateDirectory::open(&path).unwrap();
                        let serving = state.serving(&names(&["localhost"])).unwrap();
                        (state.authority().certificate().clone(), serving)
                    })
                })
                .collect();
            starts.into_iter().map(|start| start.join().unwrap()).collect()
        });
        assert!(found.iter().all(|one| one == &found[0]));
    }
}
