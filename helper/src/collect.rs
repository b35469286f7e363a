//! Finds what an action made, names it by digest, and describes it as an `ActionResult`. What the action left is as
//! hostile as what came in: every path is resolved by the kernel inside the root (`openat2`, Linux 5.6), so that no
//! symlink leads out of it, and every file is opened by descriptor after its kind is known.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use dbuild_proto::reapi::build::bazel::remote::execution::v2 as re;
use dbuild_proto::{Digest, DigestFunction, Hasher};
use rustix::fs::{FileType, Mode, OFlags, RawMode, ResolveFlags};

use crate::command::{Kind, Output};
use crate::fault::Trouble;
use crate::remote::Payload;

/// Files up to this size are kept in memory between hashing and uploading.
const IN_MEMORY: u64 = 1024 * 1024;
/// Bytes of one action's outputs that are kept in memory.
const KEPT: u64 = 64 << 20;
/// stdout and stderr up to this size travel inside the result.
pub const INLINE: usize = 64 * 1024;
/// Entries of output directories, all together.
const MAX_ENTRIES: usize = 200_000;
/// Directories one in another.
const MAX_DEPTH: u32 = 256;
/// How often a path may be tried that others raced with.
const RACES: u32 = 10_000;

/// The result, and what must be uploaded before it is told.
#[derive(Debug, Default)]
pub struct Collected {
    pub result: re::ActionResult,
    pub blobs: HashMap<Digest, Payload>,
}

/// Collects the outputs that are there; one that is missing is left out. `cwd` is relative to `root`. Blocks.
/// The payloads name files under `root`, which must stay until they are uploaded.
pub fn collect(
    root: &Path,
    cwd: &Path,
    outputs: &[Output],
    function: DigestFunction,
    max_bytes: u64,
) -> Result<Collected, Trouble> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, flags, Mode::empty())
        .map_err(|error| Trouble::here("open the action's root", error))?;
    let mut collector =
        Collector { function, left: max_bytes, kept: 0, entries: 0, found: Collected::default() };
    for output in outputs {
        let path = cwd.join(&output.path);
        // A trailing slash would follow a symlink; an empty path is the root.
        let path = path.components().collect::<PathBuf>();
        let path = if path.as_os_str().is_empty() { PathBuf::from(".") } else { path };
        match open_in(&root, &path) {
            Ok(fd) => collector.output(output, &fd)?,
            // Nothing there; or a way that leads nowhere, which is the same.
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {}
            Err(error) => return Err(Trouble::here(&format!("open output {:?}", output.path), error)),
        }
    }
    Ok(collector.found)
}

/// Opens what is there, seen from the action's root. On a way with `..` the kernel gives up with EAGAIN when anybody on this
/// machine renames or mounts meanwhile (openat2(2)), and other actions do all the time.
fn open_in(root: &OwnedFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut tries = 0;
    loop {
        match rustix::fs::openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
            Err(rustix::io::Errno::AGAIN) if tries < RACES => tries += 1,
            opened => return opened,
        }
    }
}

/// Adds stdout or stderr: inline when small. Returns what goes into the result's two fields.
pub fn add_stream(
    found: &mut Collected,
    function: DigestFunction,
    bytes: Vec<u8>,
) -> (Vec<u8>, Option<re::Digest>) {
    if bytes.len() <= INLINE {
        return (bytes, None);
    }
    let digest = function.digest(&bytes);
    found.blobs.insert(digest, Payload::Bytes(bytes));
    (Vec::new(), Some(digest.to_wire()))
}

struct Collector {
    function: DigestFunction,
    /// Bytes that outputs may still have.
    left: u64,
    /// Bytes of files in memory so far.
    kept: u64,
    entries: usize,
    found: Collected,
}

impl Collector {
    /// The deprecated fields are for clients that asked by the deprecated ones.
    #[allow(deprecated)]
    fn output(&mut self, output: &Output, fd: &OwnedFd) -> Result<(), Trouble> {
        let path = output.path.clone();
        let stat = rustix::fs::fstat(fd).map_err(|error| Trouble::here("look at an output", error))?;
        match FileType::from_raw_mode(stat.st_mode as RawMode) {
            FileType::RegularFile => {
                let digest = self.file(fd, &path)?;
                let is_executable = stat.st_mode & 0o111 != 0;
                let digest = Some(digest.to_wire());
                self.found.result.output_files.push(re::OutputFile {
                    path,
                    digest,
                    is_executable,
                    ..Default::default()
                });
            }
            FileType::Symlink => {
                let target = target(fd, &path)?;
                let link = re::OutputSymlink { path, target, node_properties: None };
                let result = &mut self.found.result;
                match output.kind {
                    Kind::Any => {}
                    Kind::File => result.output_file_symlinks.push(link.clone()),
                    Kind::Directory => result.output_directory_symlinks.push(link.clone()),
                }
                result.output_symlinks.push(link);
            }
            FileType::Directory => {
                let mut children = BTreeMap::new();
                let (root_digest, root) = self.directory(fd, &path, MAX_DEPTH, &mut children)?;
                children.remove(&root_digest);
                let tree = re::Tree { root: Some(root), children: children.into_values().collect() };
                let tree_digest = Some(self.bytes(prost::Message::encode_to_vec(&tree))?.to_wire());
                let root_directory_digest = Some(root_digest.to_wire());
                let directory = re::OutputDirectory {
                    path,
                    tree_digest,
                    is_topologically_sorted: false,
                    root_directory_digest,
                };
                self.found.result.output_directories.push(directory);
            }
            _ => {
                return Err(Trouble::Bad(format!(
                    "collect output {path:?}: it is neither file, directory nor link"
                )));
            }
        }
        Ok(())
    }

    /// Describes a directory and, in `children`, all beneath it. Names are sorted, as the REAPI demands.
    fn directory(
        &mut self,
        fd: &OwnedFd,
        path: &str,
        depth: u32,
        children: &mut BTreeMap<Digest, re::Directory>,
    ) -> Result<(Digest, re::Directory), Trouble> {
        let depth = depth.checked_sub(1).ok_or_else(|| {
            Trouble::Bad(format!("collect output {path:?}: more than {MAX_DEPTH} directories deep"))
        })?;
        let mut directory = re::Directory::default();
        for name in self.names(fd, path)? {
            let inner = format!("{path}/{name}");
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let entry = rustix::fs::openat(fd, &name, flags, Mode::empty())
                .map_err(|error| Trouble::here(&format!("open output {inner:?}"), error))?;
            let stat =
                rustix::fs::fstat(&entry).map_err(|error| Trouble::here("look at an output", error))?;
            match FileType::from_raw_mode(stat.st_mode as RawMode) {
                FileType::RegularFile => {
                    let digest = Some(self.file(&entry, &inner)?.to_wire());
                    let is_executable = stat.st_mode & 0o111 != 0;
                    directory.files.push(re::FileNode { name, digest, is_executable, node_properties: None });
                }
                FileType::Symlink => {
                    let target = target(&entry, &inner)?;
                    directory.symlinks.push(re::SymlinkNode { name, target, node_properties: None });
                }
                FileType::Directory => {
                    let (digest, _) = self.directory(&entry, &inner, depth, children)?;
                    directory.directories.push(re::DirectoryNode { name, digest: Some(digest.to_wire()) });
                }
                _ => {
                    let what = "it is neither file, directory nor link";
                    return Err(Trouble::Bad(format!("collect output {inner:?}: {what}")));
                }
            }
        }
        let bytes = prost::Message::encode_to_vec(&directory);
        let digest = self.bytes(bytes)?;
        children.insert(digest, directory.clone());
        Ok((digest, directory))
    }

    /// Entries in order. Names that are not text cannot be told in the REAPI.
    fn names(&mut self, fd: &OwnedFd, path: &str) -> Result<Vec<String>, Trouble> {
        let listed = std::fs::read_dir(through(fd))
            .map_err(|error| Trouble::here(&format!("list {path:?}"), error))?;
        let mut names = Vec::new();
        for entry in listed {
            let name = entry.map_err(|error| Trouble::here(&format!("list {path:?}"), error))?.file_name();
            let name = name.into_string().map_err(|name| {
                Trouble::Bad(format!("collect output {path:?}: the name {name:?} is not UTF-8"))
            })?;
            names.push(name);
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                return Err(Trouble::Bad(format!("collect outputs: more than {MAX_ENTRIES} entries")));
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn bytes(&mut self, bytes: Vec<u8>) -> Result<Digest, Trouble> {
        self.spend(bytes.len() as u64)?;
        let digest = self.function.digest(&bytes);
        self.found.blobs.insert(digest, Payload::Bytes(bytes));
        Ok(digest)
    }

    /// Hashes a file; a small one is kept, a large one is read again for the upload.
    fn file(&mut self, fd: &OwnedFd, path: &str) -> Result<Digest, Trouble> {
        let failed = |error: std::io::Error| Trouble::here(&format!("read output {path:?}"), error);
        let named = through(fd);
        let mut file = File::open(&named).map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        if size <= IN_MEMORY && self.kept < KEPT {
            self.kept += size;
            let mut bytes = Vec::with_capacity(size as usize);
            file.read_to_end(&mut bytes).map_err(failed)?;
            return self.bytes(bytes);
        }
        self.spend(size)?;
        let mut hasher = Hasher::new(self.function);
        let mut buffer = vec![0; 256 * 1024];
        loop {
            match file.read(&mut buffer).map_err(failed)? {
                0 => break,
                read => hasher.update(&buffer[..read]),
            }
        }
        let digest = hasher.finish();
        // The descriptor is closed soon; the name it has is inside the root, and nobody is left to change it.
        let place = std::fs::read_link(&named).map_err(failed)?;
        self.found.blobs.insert(digest, Payload::File(place));
        Ok(digest)
    }

    fn spend(&mut self, bytes: u64) -> Result<(), Trouble> {
        self.left = self.left.checked_sub(bytes).ok_or_else(|| {
            Trouble::Bad("collect outputs: together they are larger than this helper's limit".to_owned())
        })?;
        Ok(())
    }
}

/// A way to the very file that a descriptor is open for.
fn through(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
}

fn target(fd: &OwnedFd, path: &str) -> Result<String, Trouble> {
    let target = rustix::fs::readlinkat(fd, "", Vec::new())
        .map_err(|error| Trouble::here(&format!("read output link {path:?}"), error))?;
    let target = std::ffi::OsStr::from_bytes(target.as_bytes());
    let text = target.to_str().map(str::to_owned);
    text.ok_or_else(|| Trouble::Bad(format!("collect output link {path:?}: its target is not UTF-8")))
}

#[cfg(test)]
#[path = "collect_tests.rs"]
mod tests;
