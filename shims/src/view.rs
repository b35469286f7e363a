//! How a process sees the file system: in which mount namespace, from which root directory. A build may run compilers in
//! a namespace or a chroot of its own; a path then means one thing there and another one to the initiator.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Mount namespace and root directory, as device and inode each. Zeros where there is no `/proc` to tell.
pub type View = [u64; 4];

/// This process's.
pub fn own() -> View {
    let at = |path: &str| std::fs::metadata(Path::new(path)).map_or((0, 0), |meta| (meta.dev(), meta.ino()));
    let (namespace, root) = (at("/proc/self/ns/mnt"), at("/"));
    [namespace.0, namespace.1, root.0, root.1]
}

/// Whether paths mean the same in both views, as far as that can be told.
pub fn same(one: View, other: View) -> bool {
    one == other && one[1] != 0 && one[3] != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_told_is_not_the_same() {
        assert!(same(own(), own()));
        assert!(!same([0; 4], [0; 4]));
        assert!(!same(own(), [0, 0, own()[2], own()[3]]));
    }
}
