//! `tar`, as far as `kubectl cp` and its friends use it: create, extract and list, streaming.
//!
//! Names in an archive come from the client: an extracted file can only land below the directory that was asked for.

use bytes::Bytes;
use tar::{EntryType, Header, PaxExtensions};

use super::{
    super::{
        files::{FileError, Kind, Metadata, resolve},
        pipe::{Input, Output, WriteError},
    },
    Shell, Stdio,
    commands::Ended,
};

const BLOCK: usize = 512;
/// The longest name or extended header, in bytes.
const LONGEST_EXTENSION: u64 = 64 << 10;

/// What was asked for.
#[derive(Default)]
struct Job {
    operation: Option<Operation>,
    file: Option<String>,
    directory: String,
    verbose: bool,
    keep_time: bool,
    /// Each with the directory from which it is seen.
    members: Vec<(String, String)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    Create,
    Extract,
    List,
}

/// Why an archive cannot be read on.
#[derive(Debug, thiserror::Error)]
enum Broken {
    /// A header that is none.
    #[error("This does not look like a tar archive")]
    NotTar,
    /// It ends in the middle.
    #[error("Unexpected EOF in archive")]
    Truncated,
    /// An extended header longer than [`LONGEST_EXTENSION`].
    #[error("{0}: Name or header too long")]
    LongExtension(String),
    /// A member cannot be written.
    #[error("{0}: Cannot write: {1}")]
    Write(String, FileError),
    /// Nobody reads what is said about it.
    #[error(transparent)]
    Output(#[from] WriteError),
}

/// `tar`
pub(super) async fn tar(shell: &Shell, arguments: &[String], stdio: &Stdio) -> Ended {
    let job = match parse(shell, arguments) {
        Ok(job) => job,
        Err(message) => return stdio.complain(2, format!("tar: {message}")).await,
    };
    let file = job.file.as_deref().unwrap_or("-");
    match job.operation {
        None => stdio.complain(2, "tar: one of c, x and t is needed").await,
        Some(Operation::Create) => {
            let opened = if file == "-" { Ok(stdio.output.clone()) } else { shell.create(file, true) };
            match opened {
                Ok(output) => create(shell, &job, &output, stdio).await,
                Err(message) => stdio.complain(2, format!("tar: {message}")).await,
            }
        }
        Some(operation) => {
            let read = if file == "-" {
                let mut input = stdio.input.lock().await;
                read(shell, &job, operation, &mut input, stdio).await
            } else {
                match shell.open(file) {
                    Ok(mut input) => read(shell, &job, operation, &mut input, stdio).await,
                    Err(message) => return stdio.complain(2, format!("tar: {message}")).await,
                }
            };
            match read {
                Ok(status) => Ok(status),
                Err(Broken::Output(error)) => Err(error),
                Err(error) => stdio.complain(2, format!("tar: {error}")).await,
            }
        }
    }
}

fn parse(shell: &Shell, arguments: &[String]) -> Result<Job, String> {
    let mut job = Job { directory: shell.directory.clone(), keep_time: true, ..Job::default() };
    let mut arguments = arguments.iter().enumerate();
    while let Some((index, argument)) = arguments.next() {
        let letters = match argument.strip_prefix('-') {
            Some("-no-same-permissions" | "-no-same-owner" | "-overwrite") => continue,
            Some(long) if long.starts_with('-') => return Err(format!("unrecognized option: {argument}")),
            Some(letters) if !letters.is_empty() => letters,
            // The old style: the first word is options without a dash.
            None if index == 0 => argument.as_str(),
            _ => {
                job.members.push((job.directory.clone(), argument.clone()));
                continue;
            }
        };
        let mut rest = letters.chars();
        while let Some(letter) = rest.next() {
            let mut value = || {
                let attached: String = rest.by_ref().collect();
                if attached.is_empty() {
                    arguments.next().map(|(_, value)| value.clone())
                } else {
                    Some(attached)
                }
                .ok_or_else(|| format!("option requires an argument: {letter}"))
            };
            match letter {
                'c' => job.operation = Some(Operation::Create),
                'x' => job.operation = Some(Operation::Extract),
                't' => job.operation = Some(Operation::List),
                'f' => job.file = Some(value()?),
                'C' => job.directory = resolve(&job.directory, &value()?),
                'v' => job.verbose = true,
                'm' => job.keep_time = false,
                'p' | 'o' | 'h' | 'k' => {}
                'z' | 'j' | 'J' => return Err("compression is not supported in a demo container".to_owned()),
                other => return Err(format!("unrecognized option: {other}")),
            }
        }
    }
    Ok(job)
}

async fn create(shell: &Shell, job: &Job, output: &Output, stdio: &Stdio) -> Ended {
    if job.members.is_empty() {
        return stdio.complain(2, "tar: Cowardly refusing to create an empty archive").await;
    }
    let mut status = 0;
    let mut told = false;
    for (directory, member) in &job.members {
        let root = resolve(directory, member);
        let found = shell.container.files().walk(&root);
        let entries = match found {
            Ok(entries) => entries,
            Err(error) => {
                status = stdio.complain(2, format!("tar: {member}: Cannot stat: {error}")).await?;
                continue;
            }
        };
        let mut shown = member.trim_start_matches('/').trim_end_matches('/');
        if shown.len() < member.trim_end_matches('/').len() && !told {
            told = true;
            stdio.error.write("tar: Removing leading `/' from member names\n").await?;
        }
        if shown.is_empty() {
            shown = ".";
        }
        for (path, metadata) in entries {
            let below = path.strip_prefix(root.as_str()).unwrap_or_default().trim_start_matches('/');
            let mut name = if below.is_empty() { shown.to_owned() } else { format!("{shown}/{below}") };
            if metadata.kind == Kind::Directory {
                name.push('/');
            }
            if job.verbose {
                stdio.error.write(format!("{name}\n")).await?;
            }
            let content = match metadata.kind {
                Kind::Directory => None,
                Kind::File => match shell.container.files().read(&path) {
                    Ok(content) => Some(content),
                    // Removed since: as if it had never been there.
                    Err(_) => continue,
                },
            };
            let content =
                content.map_or_else(Bytes::new, |content| Bytes::from_owner(super::Snapshot(content)));
            output.write(head(&name, metadata, content.len() as u64)).await?;
            let padding = content.len().next_multiple_of(BLOCK) - content.len();
            output.write(content).await?;
            output.write(vec![0; padding]).await?;
        }
    }
    output.write(vec![0; 2 * BLOCK]).await?;
    Ok(status)
}

/// The header of one member, with GNU's extra entry in front of it for a long name.
fn head(name: &str, metadata: Metadata, length: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    if name.len() > 100 {
        let mut long = Header::new_gnu();
        long.set_entry_type(EntryType::GNULongName);
        put_name(&mut long, "././@LongLink");
        long.set_size(name.len() as u64 + 1);
        long.set_mode(0o644);
        long.set_cksum();
        bytes.extend_from_slice(long.as_bytes());
        bytes.extend_from_slice(name.as_bytes());
        bytes.resize((bytes.len() + 1).next_multiple_of(BLOCK), 0);
    }
    let mut header = Header::new_gnu();
    header.set_entry_type(if metadata.kind == Kind::Directory {
        EntryType::Directory
    } else {
        EntryType::Regular
    });
    put_name(&mut header, name);
    header.set_size(length);
    header.set_mode(metadata.mode);
    header.set_mtime(metadata.modified);
    header.set_uid(0);
    header.set_gid(0);
    header.set_cksum();
    bytes.extend_from_slice(header.as_bytes());
    bytes
}

fn put_name(header: &mut Header, name: &str) {
    let field = &mut header.as_old_mut().name;
    let length = name.len().min(field.len());
    field[..length].copy_from_slice(&name.as_bytes()[..length]);
}

async fn read(
    shell: &Shell,
    job: &Job,
    operation: Operation,
    input: &mut Input,
    stdio: &Stdio,
) -> Result<i32, Broken> {
    let mut status = 0;
    let mut long_name: Option<String> = None;
    loop {
        let block = input.exactly(BLOCK).await;
        if block.is_empty() || block.iter().all(|byte| *byte == 0) {
            // The second of the two blocks that end an archive.
            input.exactly(BLOCK).await;
            return Ok(status);
        }
        if block.len() < BLOCK {
            return Err(Broken::Truncated);
        }
        let header = Header::from_byte_slice(&block);
        let size = header.entry_size().map_err(|_| Broken::NotTar)?;
        if header.cksum().ok() != Some(checksum(&block)) {
            return Err(Broken::NotTar);
        }
        let kind = header.entry_type();
        if matches!(kind, EntryType::GNULongName | EntryType::XHeader | EntryType::XGlobalHeader) {
            let extension = extension(input, size).await?;
            long_name = match kind {
                EntryType::GNULongName => Some(
                    String::from_utf8_lossy(extension.split(|byte| *byte == 0).next().unwrap_or_default())
                        .into(),
                ),
                EntryType::XHeader => pax_path(&extension),
                _ => long_name,
            };
            continue;
        }
        let name =
            long_name.take().unwrap_or_else(|| String::from_utf8_lossy(&header.path_bytes()).into_owned());
        if operation == Operation::List {
            stdio.say(&name).await?;
            skip(input, size).await?;
            continue;
        }
        if job.verbose {
            stdio.say(&name).await?;
        }
        let wanted = match kind {
            EntryType::Directory => Ok(None),
            EntryType::Regular | EntryType::Continuous => Ok(Some(size)),
            EntryType::Symlink | EntryType::Link => Err("links are not supported in a demo container"),
            _ => Err("this kind of entry is not supported in a demo container"),
        };
        let wanted = if name.split('/').any(|part| part == "..") {
            Err("Member name contains '..', skipping")
        } else {
            wanted
        };
        match wanted {
            Err(why) => {
                stdio.error.write(format!("tar: {name}: {why}\n")).await?;
                status = 2;
                skip(input, size).await?;
            }
            Ok(length) => {
                let path = resolve(&job.directory, name.trim_start_matches('/'));
                let mode = header.mode().unwrap_or(0o644);
                let modified = header.mtime().ok().filter(|_| job.keep_time);
                extract(shell, &path, length, input)
                    .await
                    .and_then(|()| {
                        shell
                            .container
                            .files()
                            .set(&path, mode, modified)
                            .map_err(|error| Broken::Write(name.clone(), error))
                    })
                    .map_err(|error| match error {
                        Broken::Write(_, error) => Broken::Write(name.clone(), error),
                        other => other,
                    })?;
                if length.is_none() {
                    skip(input, size).await?;
                }
            }
        }
    }
}

/// Makes a directory (`length` is `None`) or reads a file of `length` bytes and its padding.
async fn extract(shell: &Shell, path: &str, length: Option<u64>, input: &mut Input) -> Result<(), Broken> {
    let broken = |error| Broken::Write(path.to_owned(), error);
    {
        let mut files = shell.container.files();
        match (length, path.rsplit_once('/')) {
            (None, _) => return files.make_directory(path, true).map_err(broken),
            (Some(_), Some((parent, _))) if !parent.is_empty() => {
                files.make_directory(parent, true).map_err(broken)?;
            }
            _ => {}
        }
        files.create(path, 0o644).map_err(broken)?;
    }
    let mut left = length.unwrap_or_default();
    let padding = padding(left);
    while left > 0 {
        let mut chunk = input.next().await.ok_or(Broken::Truncated)?;
        let wanted = chunk.split_to(chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
        input.unread(chunk);
        left -= wanted.len() as u64;
        shell.container.files().append(path, &wanted).map_err(broken)?;
    }
    skip_exactly(input, padding).await
}

async fn extension(input: &mut Input, size: u64) -> Result<Vec<u8>, Broken> {
    let length = usize::try_from(size)
        .ok()
        .filter(|_| size <= LONGEST_EXTENSION)
        .ok_or_else(|| Broken::LongExtension(format!("{size} bytes")))?;
    let bytes = input.exactly(length).await;
    if bytes.len() < length {
        return Err(Broken::Truncated);
    }
    skip_exactly(input, padding(size)).await?;
    Ok(bytes)
}

fn pax_path(extension: &[u8]) -> Option<String> {
    PaxExtensions::new(extension)
        .flatten()
        .filter(|entry| entry.key_bytes() == b"path")
        .map(|entry| String::from_utf8_lossy(entry.value_bytes()).into_owned())
        .last()
}

/// Skips the content of a member and its padding.
async fn skip(input: &mut Input, size: u64) -> Result<(), Broken> {
    skip_exactly(input, size.saturating_add(padding(size))).await
}

async fn skip_exactly(input: &mut Input, mut left: u64) -> Result<(), Broken> {
    while left > 0 {
        let mut chunk = input.next().await.ok_or(Broken::Truncated)?;
        let skipped = chunk.split_to(chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
        left -= skipped.len() as u64;
        input.unread(chunk);
    }
    Ok(())
}

fn padding(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}

/// The sum of all bytes, those of the checksum field (148..156) taken as spaces.
fn checksum(block: &[u8]) -> u32 {
    let field = 148..156;
    block
        .iter()
        .enumerate()
        .map(|(index, byte)| if field.contains(&index) { u32::from(b' ') } else { u32::from(*byte) })
        .sum()
}
