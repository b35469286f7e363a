//! From a job to an action: its inputs hashed and laid out, its command, what is to be uploaded. Reads files, sends
//! nothing.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use dbuild_intake::{Blob, BlobSource};
use dbuild_proto::reapi::build::bazel::remote::execution::v2 as re;
use dbuild_proto::{Digest, DigestFunction, Hasher};
use prost::Message;
use walkdir::WalkDir;

use super::{Job, PATH};
use crate::error::{CliError, Context, Result};

const FUNCTION: DigestFunction = DigestFunction::Blake3;

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
    let mut root = Dir::default();
    for input in &job.inputs {
        add(&mut root, cwd, input, &mut blobs)?;
    }
    let root = root.seal(&mut blobs);
    let command = own(&command(job), &mut blobs);
    let action = re::Action {
        command_digest: Some(command.to_wire()),
        input_root_digest: Some(root.to_wire()),
        do_not_cache: job.uncached,
        platform: Some(platform()),
        ..Default::default()
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
    let isa = match std::env::consts::ARCH {
        "x86_64" => "x86-64",
        "aarch64" => "arm-a64",
        other => other,
    };
    let property =
        |(name, value): (&str, &str)| re::platform::Property { name: name.into(), value: value.into() };
    re::Platform { properties: [("ISA", isa), ("OSFamily", "linux")].map(property).to_vec() }
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

/// Adds a file, or a directory with all that is below it. Links stay links, but for the input itself.
fn add(root: &mut Dir, cwd: &Path, input: &Path, blobs: &mut Vec<Blob>) -> Result<()> {
    let top = cwd.join(input);
    fs_err::metadata(&top).context("read an input")?;
    for entry in WalkDir::new(&top).follow_root_links(true) {
        let entry = entry.context("read an input")?;
        let path = entry.path().strip_prefix(cwd).unwrap_or(entry.path());
        if path.to_str().is_none() {
            return Err(CliError::new(format!(
                "{} is not UTF-8, and inputs have only such names",
                path.display()
            )));
        }
        let kind = if entry.depth() == 0 {
            fs_err::metadata(&top).context("read an input")?.file_type()
        } else {
            entry.file_type()
        };
        let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str()))
        else {
            continue;
        };
        if kind.is_dir() {
            root.at(path);
        } else if kind.is_symlink() {
            let target = fs_err::read_link(entry.path()).context("read an input")?;
            let target = target.to_str().filter(|target| !target.starts_with('/')).ok_or_else(|| {
                CliError::new(format!(
                    "{} is a link to {}, which is not on helpers",
                    path.display(),
                    target.display()
                ))
                .hint("Name what it leads to as an input, or make the link relative.")
            })?;
            root.at(parent).links.insert(name.to_owned(), target.to_owned());
        } else if kind.is_file() {
            let (digest, executable) = hash(&cwd.join(path)).context("read an input")?;
            root.at(parent).files.insert(name.to_owned(), (digest, executable));
            blobs.push(Blob { digest, source: BlobSource::File(cwd.join(path)) });
        } else {
            return Err(CliError::new(format!("{} is neither a file nor a directory", path.display())));
        }
    }
    Ok(())
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
    use std::path::PathBuf;

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
