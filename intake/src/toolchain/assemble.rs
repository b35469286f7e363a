//! From the names of a compiler's files to a [`Toolchain`]: hash them, lay them out, name the whole.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use dbuild_compilers::Family;
use dbuild_proto::Hasher;

use super::probe::Parts;
use super::{Key, Seen, Toolchain, inode};
use crate::error::IntakeError;
use crate::files::{FileFacts, FileTable, Signature};
use crate::layout::{Disk, InputRoot};

/// Changes when the meaning of the identity does.
const IDENTITY: &[u8] = b"dbuild toolchain 1";

pub(super) fn assemble(
    key: &Key,
    parts: Parts,
    table: &FileTable,
    now: SystemTime,
) -> Result<Toolchain, IntakeError> {
    let mut files = parts.files;
    files.sort();
    files.dedup();
    let mut tree = InputRoot::builder(table.function());
    let mut by_real_path = BTreeMap::new();
    let mut seen = Vec::with_capacity(files.len());
    let mut inodes = HashSet::new();
    let mut settled = true;
    for (path, facts) in files.iter().zip(hashed(&files, table)) {
        let facts = facts?;
        let (real, _) = tree.add_path(path, &Disk)?;
        tree.add_file(&real, facts.digest, facts.executable)?;
        by_real_path.insert(real, (facts.digest, facts.executable));
        inodes.insert(inode(&facts.signature));
        settled &= facts.signature.settled(now);
        seen.push(Seen { path: path.clone(), signature: facts.signature, digest: facts.digest });
    }
    let mut listings = Vec::with_capacity(parts.listed.len());
    for path in parts.listed {
        let signature = Signature::of(&fs_err::metadata(&path)?);
        settled &= signature.settled(now);
        tree.add_path(&path, &Disk)?;
        listings.push((path, signature));
    }
    for path in &parts.directories {
        tree.add_path(path, &Disk)?;
    }
    let search_path = search_path(key);
    for path in &search_path {
        tree.add_path(path, &Disk)?;
    }

    let mut identity = Hasher::new(table.function());
    let mut field = |bytes: &[u8]| {
        identity.update(&(bytes.len() as u64).to_le_bytes());
        identity.update(bytes);
    };
    field(IDENTITY);
    let family = match parts.info.family {
        Family::Gcc => "gcc",
        Family::Clang => "clang",
        Family::Rustc => "rustc",
    };
    let (major, minor, patch) = parts.info.version;
    field(format!("{family} {major}.{minor}.{patch} {}", parts.info.target).as_bytes());
    for (real, (digest, executable)) in &by_real_path {
        field(real.as_os_str().as_encoded_bytes());
        field(&digest.hash);
        field(&[u8::from(*executable)]);
    }
    let id = identity.finish();

    let library_path = key.steered_by("LD_LIBRARY_PATH").filter(|_| parts.library_path);
    Ok(Toolchain {
        info: parts.info,
        compiler: key.compiler.clone(),
        id,
        files,
        root: tree.finish(),
        traceable: parts.traceable,
        search_path,
        sysroot: parts.sysroot,
        environment: library_path
            .map(|path| ("LD_LIBRARY_PATH".into(), path.to_os_string()))
            .into_iter()
            .collect(),
        inodes,
        seen,
        listings,
        settled,
    })
}

/// The facts of all files, in their order. rustc has half a gigabyte of them, and a build waits: every processor hashes.
fn hashed(files: &[PathBuf], table: &FileTable) -> Vec<io::Result<FileFacts>> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut mine = Vec::new();
        while let Some((at, path)) =
            Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|at| Some((at, files.get(at)?)))
        {
            mine.push((at, table.unscanned(path)));
        }
        mine
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(files.len());
    let mut all: Vec<(usize, io::Result<FileFacts>)> = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut all = work();
        // A thread that panicked has left a place that is missing below.
        all.extend(others.into_iter().flat_map(|other| other.join().unwrap_or_default()));
        all
    });
    all.sort_unstable_by_key(|(at, _)| *at);
    if all.len() != files.len() {
        return vec![Err(io::Error::other("a thread that hashed the compiler's files failed"))];
    }
    all.into_iter().map(|(_, facts)| facts).collect()
}

/// The driver's directory first: a bare `argv[0]` must lead to it and to nothing else of that name.
fn search_path(key: &Key) -> Vec<PathBuf> {
    let mut dirs: Vec<PathBuf> = Vec::new();
    for program in std::iter::once(&key.compiler).chain(&key.programs) {
        if let Some(dir) = program.parent().map(Path::to_path_buf)
            && !dirs.contains(&dir)
        {
            dirs.push(dir);
        }
    }
    dirs
}
