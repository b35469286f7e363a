//! Trust, then verify: the depfile that a compile wrote, held against what the scan of its directives had found.
//!
//! A scan that was wrong would show in one of two ways. The compiler read a file that the scan does not know; or the scan
//! followed an include that the compiler did not follow, which says that it took another branch somewhere. In both
//! cases the answer is not to be believed.

use std::collections::HashSet;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use dbuild_compilers::{DependStyle, Depfile};

use crate::files::FileTable;
use crate::inputs::{Input, Inputs, Role};
use crate::toolchain::Toolchain;

/// How a depfile and a scan differ; the first difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// The compiler read it, and the scan did not find it.
    NotFound(PathBuf),
    /// The scan found it included, and the compiler did not read it.
    NotRead(PathBuf),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Difference::NotFound(path) => write!(f, "the compiler read {}", path.display()),
            Difference::NotRead(path) => write!(f, "the compiler did not read {}", path.display()),
        }
    }
}

/// The first difference between `depfile`, written by a compile in `cwd`, and `inputs`. Inputs that were not scanned
/// differ from nothing: the compiler itself named them.
pub fn difference(
    inputs: &Inputs,
    depfile: &Depfile,
    style: DependStyle,
    cwd: &Path,
    toolchain: &Toolchain,
    files: &FileTable,
) -> Option<Difference> {
    // clang turns a backslash into a slash in depfiles (`llvm::sys::path::native` on POSIX): such names cannot be compared.
    let odd = |input: &Input| input.path.as_os_str().as_bytes().contains(&b'\\');
    if !inputs.are_scanned() || inputs.files.iter().any(odd) {
        return None;
    }
    // Components: gcc leaves out a leading `./`.
    let known: HashSet<PathBuf> = inputs.files.iter().map(|input| plain(&input.path)).collect();
    let inode = |path: &Path| {
        let signature = files.facts(path).ok()?.signature;
        Some((signature.device, signature.inode))
    };
    // gcc writes a system header's path as the shortest that leads there (`maybe_shorter_path`), so what is not found
    // by name is looked for by inode.
    let mut listed = HashSet::new();
    let mut others = HashSet::new();
    for path in depfile.inputs() {
        let path = plain(&cwd.join(path));
        match known.contains(&path) {
            true => drop(listed.insert(path)),
            false => drop(others.insert(path)),
        }
    }
    let known_inodes: HashSet<_> = match others.is_empty() {
        true => HashSet::new(),
        false => inputs.files.iter().filter_map(|input| inode(&input.path)).collect(),
    };
    let mut other_inodes = HashSet::new();
    for path in others {
        match inode(&path) {
            Some(inode) if known_inodes.contains(&inode) || toolchain.owns(inode.0, inode.1) => {
                other_inodes.insert(inode);
            }
            _ => return Some(Difference::NotFound(path)),
        }
    }
    if style == DependStyle::User {
        // Whether a header is the system's only the compiler knows.
        return None;
    }
    let unread = |input: &&Input| {
        matches!(input.role, Role::Included(_))
            && !listed.contains(&plain(&input.path))
            && !inode(&input.path).is_some_and(|inode| other_inodes.contains(&inode))
    };
    inputs.files.iter().find(unread).map(|input| Difference::NotRead(input.path.clone()))
}

/// Without `.` and doubled slashes; `..` stays.
fn plain(path: &Path) -> PathBuf {
    path.components().collect()
}
