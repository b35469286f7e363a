//! Builds an action's view of the file system, inside its own mount namespace, and enters it.
//!
//! Every target is a directory that the layout made (never a symlink, see `layout`), below a directory that only
//! the helper writes to, so plain paths are safe here. Nothing that is mounted is ever seen outside.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, StatVfsMountFlags};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_bind,
    mount_change, mount_remount, move_mount, open_tree, unmount,
};

use super::spec::{Failure, Spec};

/// Where actions that bring no file system of their own find their execution root.
pub const EXEC_ROOT: &str = "/tmp/exec-root";

/// Devices that programs expect and that tell nothing of the machine.
const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];

/// The links of a usual `/dev`.
const DEVICE_LINKS: [(&str, &str); 4] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// A detached copy of a mount, to be attached elsewhere.
type Detached = OwnedFd;

/// Builds the view and makes it this process's root; the working directory is `/` afterwards.
pub fn enter(spec: &Spec) -> Result<(), Failure> {
    let root = path(&spec.root);
    // What we mount must not propagate to the machine, nor the machine's later mounts to us.
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(|error| failure("make mounts private", Path::new("/"), error))?;
    let devices = DEVICES
        .iter()
        .map(|name| Ok((*name, detach(&Path::new("/dev").join(name))?)))
        .collect::<Result<Vec<_>, Failure>>()?;
    if spec.root_is_root { tree_as_root(spec, &root, devices) } else { machine_as_root(spec, &root, devices) }
}

fn tree_as_root(spec: &Spec, root: &Path, devices: Vec<(&str, Detached)>) -> Result<(), Failure> {
    bind(root, root)?;
    let mut root_writable = false;
    for cover in &spec.covers {
        let target = root.join(path(&cover.target));
        if cover.target.is_empty() {
            root_writable = cover.writable;
            continue;
        }
        let source = if cover.source.is_empty() { target.clone() } else { path(&cover.source) };
        bind(&source, &target)?;
        set_access(&target, cover.writable)?;
    }
    mount_proc(&root.join("proc"))?;
    mount_dev(&root.join("dev"), devices)?;
    if spec.tmp_bytes > 0 {
        mount_tmpfs(&root.join("tmp"), spec.tmp_bytes, "1777")?;
    }
    set_access(root, root_writable)?;
    let enter = || -> rustix::io::Result<()> {
        rustix::process::chdir(root)?;
        // pivot_root(2): with both arguments the same, the old root lies over the new one and can be taken off.
        rustix::process::pivot_root(".", ".")?;
        unmount(".", UnmountFlags::DETACH)?;
        rustix::process::chdir("/")
    };
    enter().map_err(|error| failure("change the root to", root, error))
}

/// The machine's own file system, read-only, with the execution root at a fixed place. `/run` is hidden: a socket
/// can be written to whatever the mount says, and daemons listen there.
fn machine_as_root(spec: &Spec, root: &Path, devices: Vec<(&str, Detached)>) -> Result<(), Failure> {
    let tree = detach(root)?;
    let sealed = super::sys::seal_recursively(c"/");
    sealed.map_err(|error| {
        Failure::new("make the machine's file system read-only (Linux 5.12 or newer)", &error)
    })?;
    for hidden in spec.hidden.iter().map(|hidden| path(hidden)).chain([PathBuf::from("/run")]) {
        if hidden.is_dir() {
            mount_tmpfs(&hidden, 1 << 20, "755")?;
        }
    }
    mount_proc(Path::new("/proc"))?;
    mount_dev(Path::new("/dev"), devices)?;
    mount_tmpfs(Path::new("/tmp"), spec.tmp_bytes.max(1 << 20), "1777")?;
    let target = Path::new(EXEC_ROOT);
    std::fs::create_dir(target).map_err(|error| Failure::new(format!("make {EXEC_ROOT}"), &error))?;
    attach(&tree, target)?;
    rustix::process::chdir("/").map_err(|error| failure("enter", Path::new("/"), error))
}

/// A fresh proc of the action's own processes. Read-only: where the action's user is the machine's root in truth,
/// a writable one would let it set the machine's sysctls.
fn mount_proc(target: &Path) -> Result<(), Failure> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", target, "proc", flags, None).map_err(|error| failure("mount proc on", target, error))?;
    forbid_user_namespaces(target)?;
    set_access(target, false)
}

/// In a user namespace of its own an action could have a mount namespace of its own, where it would get at what lies under
/// the read-only mounts: directories that the next action sees, and links to the store. The limit counts for the
/// user namespace of whoever writes it and for those below (user_namespaces(7)); the action has no right to raise it.
fn forbid_user_namespaces(proc: &Path) -> Result<(), Failure> {
    let map = proc.join("self/uid_map");
    let failed = |path: &Path, error: &io::Error| Failure::new(format!("forbid {}", path.display()), error);
    let ids = std::fs::read_to_string(&map).map_err(|error| failed(&map, &error))?;
    // The machine's own namespace maps every number to itself: its limit is not ours to set.
    if ids.split_ascii_whitespace().eq(["0", "0", "4294967295"]) {
        return Err(failed(&map, &io::Error::other("it is the machine's own user namespace")));
    }
    let limit = proc.join("sys/user/max_user_namespaces");
    let opened = std::fs::OpenOptions::new().write(true).open(&limit);
    let written = opened.and_then(|mut file| io::Write::write_all(&mut file, b"0\n"));
    written.map_err(|error| failed(&limit, &error))
}

fn mount_dev(target: &Path, devices: Vec<(&str, Detached)>) -> Result<(), Failure> {
    mount_tmpfs(target, 1 << 16, "755")?;
    for (name, device) in devices {
        let place = target.join(name);
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
        rustix::fs::open(&place, flags, Mode::from_raw_mode(0o666))
            .map_err(|error| failure("make", &place, error))?;
        attach(&device, &place)?;
    }
    for (name, to) in DEVICE_LINKS {
        let place = target.join(name);
        rustix::fs::symlink(to, &place).map_err(|error| failure("make", &place, error))?;
    }
    set_access(target, false)
}

fn mount_tmpfs(target: &Path, bytes: u64, mode: &str) -> Result<(), Failure> {
    let options =
        CString::new(format!("size={bytes},mode={mode},nr_inodes=262144")).expect("numbers hold no NUL");
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("tmpfs", target, "tmpfs", flags, options.as_c_str())
        .map_err(|error| failure("mount a tmpfs on", target, error))
}

fn bind(source: &Path, target: &Path) -> Result<(), Failure> {
    mount_bind(source, target).map_err(|error| failure("bind", target, error))
}

/// Sets or lifts read-only on one mount. Flags that the machine's own mount has must be repeated: in a user
/// namespace they are locked, and leaving one out is refused (mount_namespaces(7)).
fn set_access(target: &Path, writable: bool) -> Result<(), Failure> {
    let now = rustix::fs::statvfs(target).map_err(|error| failure("look at", target, error))?.f_flag;
    let mut flags = MountFlags::BIND | MountFlags::NOSUID | MountFlags::NODEV;
    let kept = [
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
        (StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
    ];
    for (has, flag) in kept {
        if now.contains(has) {
            flags |= flag;
        }
    }
    if !writable {
        flags |= MountFlags::RDONLY;
    }
    let set = mount_remount(target, flags, "");
    set.map_err(|error| failure(if writable { "open" } else { "make read-only" }, target, error))
}

fn detach(source: &Path) -> Result<Detached, Failure> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    open_tree(CWD, source, flags).map_err(|error| failure("take", source, error))
}

fn attach(mount: &Detached, target: &Path) -> Result<(), Failure> {
    move_mount(mount, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(|error| failure("bind", target, error))
}

fn path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsStr::from_bytes(bytes))
}

fn failure(attempt: &str, path: &Path, error: rustix::io::Errno) -> Failure {
    Failure::new(format!("{attempt} {}", path.display()), &io::Error::from(error))
}
