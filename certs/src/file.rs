//! Reading the files that are followed while a listener runs.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::Path,
};

/// Far above any bundle, token file or manifest; keeps a log that somebody put among them out of memory.
const MAX_BYTES: u64 = 32 << 20;

/// All of a regular file, at most 32 MiB of it.
///
/// Files are looked at again every second, one after the other. A FIFO or a device among them would hold up all the
/// others for ever, and with them every token and authority that is being withdrawn; so anything else than a regular
/// file, symlinks followed, is an error.
///
/// # Errors
/// What the system says, or that it is no regular file, or too large.
pub fn read_file(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    let path = path.as_ref();
    // Before it is opened: opening a FIFO waits for a writer.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut content = Vec::new();
    let read = File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut content)?;
    if read as u64 > MAX_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it is larger than {} MiB", MAX_BYTES >> 20),
        ));
    }
    Ok(content)
}

/// The same as text.
///
/// # Errors
/// As [`read_file`], or that it is not UTF-8.
pub fn read_text_file(path: impl AsRef<Path>) -> io::Result<String> {
    String::from_utf8(read_file(path)?)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, process::Command};

    use super::*;

    #[test]
    fn only_regular_files_of_a_sane_size_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("real"), "content").unwrap();
        symlink("real", path("link")).unwrap();
        assert_eq!(read_text_file(path("link")).unwrap(), "content");

        assert!(Command::new("mkfifo").arg(path("fifo")).status().unwrap().success());
        symlink("/dev/null", path("device")).unwrap();
        for odd in ["fifo", "device", "."] {
            let error = read_file(path(odd)).unwrap_err().to_string();
            assert!(error.contains("not a regular file"), "{odd}: {error}");
        }
        assert_eq!(read_file(path("nothing")).unwrap_err().kind(), io::ErrorKind::NotFound);

        File::create(path("sparse")).unwrap().set_len(MAX_BYTES + 1).unwrap();
        assert_eq!(read_file(path("sparse")).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        File::create(path("binary")).unwrap().set_len(1).unwrap();
        assert_eq!(read_file(path("binary")).unwrap(), [0]);
        fs::write(path("latin"), b"\xe4").unwrap();
        assert_eq!(read_text_file(path("latin")).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
