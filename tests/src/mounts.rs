//! Directories that cannot be written, or are full: mounts, where the test may make them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// A mount; undone when dropped.
#[derive(Debug)]
pub struct Mount(PathBuf);

impl Mount {
    /// `dir` as it is, but read-only.
    pub fn read_only(dir: &Path) -> Mount {
        run(Command::new("mount").arg("--bind").arg(dir).arg(dir));
        let mount = Mount(dir.to_owned());
        run(Command::new("mount").args(["-o", "remount,ro,bind"]).arg(dir));
        mount
    }

    /// A file system of `kib` KiB over `dir`, which `fill` fills to the last byte.
    pub fn small(dir: &Path, kib: u32, fill: bool) -> Mount {
        let size = format!("size={kib}k,mode=0755");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "none"]).arg(dir));
        let mount = Mount(dir.to_owned());
        if fill {
            // Ends with "no space left", which is the purpose.
            let _ = std::fs::write(dir.join("filler"), vec![0; kib as usize * 1024]);
        }
        mount
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazy: somebody may still have a file open there.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).stderr(Stdio::null()).status();
    }
}

/// Whether this process may mount.
pub fn can_mount() -> bool {
    static CAN: OnceLock<bool> = OnceLock::new();
    *CAN.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=4k", "none"]).arg(dir.path()).stderr(Stdio::null());
        let can = mount.status().is_ok_and(|status| status.success());
        if can {
            drop(Mount(dir.path().to_owned()));
        }
        can
    })
}

fn run(command: &mut Command) {
    assert!(command.status().unwrap().success(), "failed: {command:?}");
}
