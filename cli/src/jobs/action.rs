//! From a job to an action: its inputs hashed and laid out, its command, what is to be uploaded. Reads files, sends
//! nothing.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dbuild_intake::{Blob, BlobSource};
use dbuild_proto::reapi::build::bazel::remote::execution::v2 as re;
use dbuild_proto::reapi::google::protobuf::Duration;
use dbuild_proto::{Digest, DigestFunction, Hasher, isa};
use prost::Message;
use walkdir::WalkDir;

use super::{Job, PATH, STAGING};
use crate::error::{CliError, Context, Result};

const FUNCTION: DigestFunction = DigestFunction::Blake3;

/// How long a job may run: what coordinators allow at most.
const LONGEST_SECONDS: i64 = 24 * 3600;

/// An action, and the blobs that a server needs for it.
pub struct Described {
    pub digest: Digest,
    pub blobs: Vec<Blob>,
}

/// Hashes what the job reads, as it is now, and describes it.
///
/// # Errors
/// An input that is not there, cannot be read, or is neither file, directory nor link; a name that is not UTF-8.
pub fn describe(job: &Job, cwd: &Path) -> Result<Described> {
    let mut blobs = Vec::new();
    let root = lay_out(job, cwd, &mut blobs)?;
    let root = root.seal(&mut blobs);
    let command = own(&command(job), &mut blobs);
    let action = re::Action {
        command_digest: Some(command.to_wire()),
        input_root_digest: Some(root.to_wire()),
        do_not_cache: job.uncached,
        salt: job.salt.clone(),
        timeout: Some(Duration { seconds: LONGEST_SECONDS, nanos: 0 }),
        platform: Some(platform()),
    };
    let digest = own(&action, &mut blobs);
    Ok(Described { digest, blobs })
}

fn command(job: &Job) -> re::Command {
    let mut env: BTreeMap<&str, &str> = BTreeMap::from([("PATH", PATH)]);
    env.extend(job.env.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    let variable = |(name, value): (&str, &str)| re::command::EnvironmentVariable {
        name: name.to_owned(),
        value: value.to_owned(),
    };
    let mut outputs: Vec<String> = job.outputs.iter().map(|path| text(path).to_owned()).collect();
    outputs.sort();
    outputs.dedup();
    re::Command {
        arguments: job.argv.clone(),
        environment_variables: env.into_iter().map(variable).collect(),
        output_paths: outputs,
        ..Default::default()
    }
}

/// A job needs a machine of this kind (REAPI `platform.md`): its programs are the helper's.
fn platform() -> re::Platform {
    let property =
        |(name, value): (&str, &str)| re::platform::Property { name: name.into(), value: value.into() };
    re::Platform { properties: [("ISA", isa()), ("OSFamily", "linux")].map(property).to_vec() }
}

fn own(message: &impl Message, blobs: &mut Vec<Blob>) -> Digest {
    let bytes: Arc<[u8]> = message.encode_to_vec().into();
    let digest = FUNCTION.digest(&bytes);
    blobs.push(Blob { digest, source: BlobSource::Bytes(bytes) });
    digest
}

/// A directory of the tree; names are sorted, which is the REAPI's canonical order.
#[derive(Default)]
struct Dir {
    directories: BTreeMap<String, Dir>,
    files: BTreeMap<String, (Digest, bool)>,
    links: BTreeMap<String, String>,
}

impl Dir {
    fn at(&mut self, path: &Path) -> &mut Dir {
        path.iter()
            .fold(self, |dir, name| dir.directories.entry(text(Path::new(name)).to_owned()).or_default())
    }

    fn seal(&self, blobs: &mut Vec<Blob>) -> Digest {
        let directories = self.directories.iter().map(|(name, dir)| {
            let digest = dir.seal(blobs);
            re::DirectoryNode { name: name.clone(), digest: Some(digest.to_wire()) }
        });
        let directory = re::Directory {
            directories: directories.collect(),
            files: self
                .files
                .iter()
                .map(|(name, (digest, executable))| re::FileNode {
                    name: name.clone(),
                    digest: Some(digest.to_wire()),
                    is_executable: *executable,
                    ..Default::default()
                })
                .collect(),
            symlinks: self
                .links
                .iter()
                .map(|(name, target)| re::SymlinkNode {
                    name: name.clone(),
                    target: target.clone(),
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        };
        own(&directory, blobs)
    }
}

/// What stands at a path below the current directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    Directory,
    File,
    Symlink(String),
}

/// The inputs with all that is below them, each once, parents first. Links stay links, but for an input itself.
pub fn items(inputs: &[PathBuf], cwd: &Path) -> Result<BTreeMap<PathBuf, Item>> {
    let mut items = BTreeMap::new();
    for input in inputs {
        let top = cwd.join(input);
        let own = |name: &std::ffi::OsStr| name.as_encoded_bytes().starts_with(STAGING.as_bytes());
        let walk = WalkDir::new(&top).follow_root_links(true).into_iter();
        for entry in walk.filter_entry(|entry| !own(entry.file_name())) {
            let entry = entry.map_err(|error| unread(error.path().unwrap_or(&top), &error))?;
            let path = entry.path().strip_prefix(cwd).unwrap_or(entry.path());
            if path.to_str().is_none() {
                return Err(CliError::new(format!(
                    "{} is not UTF-8, and inputs have only such names",
                    path.display()
                )));
            }
            let item = item(&entry, path)?;
            // Who names a link as an input means what it leads to, whatever else it is found by.
            if matches!(item, Item::Symlink(_)) && items.contains_key(path) {
                continue;
            }
            items.insert(path.to_owned(), item);
        }
    }
    Ok(items)
}

fn unread(path: &Path, error: &dyn std::fmt::Display) -> CliError {
    CliError::new(format!("failed to read the input {}: {error}", path.display()))
}

fn item(entry: &walkdir::DirEntry, path: &Path) -> Result<Item> {
    let kind = match entry.depth() {
        0 => std::fs::metadata(entry.path()).map_err(|error| unread(entry.path(), &error))?.file_type(),
        _ => entry.file_type(),
    };
    if kind.is_dir() {
        return Ok(Item::Directory);
    }
    if kind.is_file() {
        return Ok(Item::File);
    }
    if !kind.is_symlink() {
        return Err(CliError::new(format!("{} is neither a file nor a directory", path.display())));
    }
    let target = fs_err::read_link(entry.path()).context("read an input")?;
    match target.to_str().filter(|target| !target.starts_with('/')) {
        Some(target) => Ok(Item::Symlink(target.to_owned())),
        None => {
            let error =
                format!("{} is a link to {}, which is not on helpers", path.display(), target.display());
            Err(CliError::new(error).hint("Name what it leads to as an input, or make the link relative."))
        }
    }
}

/// Lays the inputs out in a tree.
fn lay_out(job: &Job, cwd: &Path, blobs: &mut Vec<Blob>) -> Result<Dir> {
    let mut root = Dir::default();
    for (path, item) in items(&job.inputs, cwd)? {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { continue };
        let name = text(Path::new(name)).to_owned();
        match item {
            Item::Directory => drop(root.at(&path)),
            Item::Symlink(target) => drop(root.at(parent).links.insert(name, target)),
            Item::File => {
                let path = cwd.join(&path);
                let (digest, executable) = hash(&path).context("read an input")?;
                root.at(parent).files.insert(name, (digest, executable));
                blobs.push(Blob { digest, source: BlobSource::File(path) });
            }
        }
    }
    Ok(root)
}

fn hash(path: &Path) -> std::io::Result<(Digest, bool)> {
    let mut file = fs_err::File::open(path)?;
    let executable = file.metadata()?.mode() & 0o111 != 0;
    let (mut hasher, mut buffer) = (Hasher::new(FUNCTION), vec![0; 256 * 1024]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((hasher.finish(), executable)),
            count => hasher.update(&buffer[..count]),
        }
    }
}

/// Paths of jobs are UTF-8: `below` and `add` have seen to it.
fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(inputs: &[&str]) -> Job {
        Job { argv: vec!["cat".into()], inputs: inputs.iter().map(PathBuf::from).collect(), ..Job::default() }
    }

    #[test]
    fn what_is_read_decides_and_nothing_else_does() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path();
        std::fs::create_dir_all(place.join("d/e")).unwrap();
        std::fs::write(place.join("d/e/a"), "a").unwrap();
        std::fs::write(place.join("other"), "o").unwrap();
        std::os::unix::fs::symlink("e/a", place.join("d/link")).unwrap();
        let before = describe(&job(&["d"]), place).unwrap();
        // The directory, with its link, in the order of the API.
        let digests: Vec<_> = before.blobs.iter().map(|blob| blob.digest).collect();
        assert!(digests.contains(&FUNCTION.digest(b"a")) && !digests.contains(&FUNCTION.digest(b"o")));
        std::fs::write(place.join("other"), "changed").unwrap();
        assert_eq!(describe(&job(&["d"]), place).unwrap().digest, before.digest);
        assert_ne!(describe(&job(&["d/e"]), place).unwrap().digest, before.digest, "no link");
        std::fs::write(place.join("d/e/a"), "b").unwrap();
        assert_ne!(describe(&job(&["d"]), place).unwrap().digest, before.digest);
        let env = BTreeMap::from([("A".to_owned(), "1".to_owned())]);
        assert_ne!(
            describe(&Job { env, ..job(&["other"]) }, place).unwrap().digest,
            describe(&job(&["other"]), place).unwrap().digest
        );
    }

    #[test]
    fn inputs_that_cannot_be_had_are_named() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link")).unwrap();
        std::fs::create_dir(dir.path().join("d")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("d/link")).unwrap();
        for (input, word) in [("none", "none"), ("d", "d/link is a link to /etc/passwd")] {
            let error = describe(&job(&[input]), dir.path()).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        // The input itself may be a link: it is what it leads to.
        assert!(describe(&job(&["link"]), dir.path()).is_ok());
    }
}
