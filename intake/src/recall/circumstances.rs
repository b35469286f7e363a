//! What decides a compile beside names and contents: which directory a name really is (both compilers drop a search
//! directory that they have met under another name), and which of several equal files are one for `#pragma once` (clang
//! goes by inode, gcc by size, content and the second of the last change).

use std::borrow::Cow;
use std::collections::HashMap;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use dbuild_proto::{Digest, DigestFunction, Hasher};

use super::World;

/// A digest of the circumstances. The files' contents are known to be those.
pub(super) fn digest<'p>(
    contents: impl Iterator<Item = (Cow<'p, Path>, Digest)>,
    present: impl Iterator<Item = Cow<'p, Path>>,
    world: &World,
) -> io::Result<[u8; 32]> {
    let mut hasher = Hasher::new(DigestFunction::Blake3);
    for path in present {
        let real = world.directories.real(&path)?;
        let real = world.roots.mask(real.as_os_str().as_bytes());
        hasher.update(&(real.len() as u64).to_le_bytes());
        hasher.update(&real);
    }
    if !world.preprocessed {
        return Ok(hasher.finish().hash);
    }
    let mut firsts: HashMap<Digest, Cow<Path>, foldhash::fast::RandomState> = HashMap::default();
    for (path, digest) in contents {
        let Some(first) = firsts.get(&digest) else {
            firsts.insert(digest, path);
            continue;
        };
        let (one, other) = (world.files.facts(first)?.signature, world.files.facts(&path)?.signature);
        let second = |nanos: i128| nanos.div_euclid(1_000_000_000);
        let same_inode = (one.device, one.inode) == (other.device, other.inode);
        hasher.update(&[u8::from(same_inode), u8::from(second(one.mtime) == second(other.mtime))]);
    }
    Ok(hasher.finish().hash)
}
