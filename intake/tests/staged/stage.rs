//! Runs an action in a root that holds what its tree holds, plus `/tmp` and `/dev/null`, which every helper has.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use dbuild_intake::layout::Entry;
use dbuild_intake::{BlobSource, BuiltAction, InputRoot};

const UNSHARE: &str = "/usr/bin/unshare";

/// What a run gave: status, stdout, stderr, and the outputs that exist.
#[derive(Debug, PartialEq, Eq)]
pub struct Gave {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub outputs: BTreeMap<PathBuf, Vec<u8>>,
}

impl Gave {
    /// `outputs` are read from below `root`, each at `cwd`/its name.
    pub fn new(output: Output, root: &Path, cwd: &Path, outputs: &[PathBuf]) -> Gave {
        let below = |path: &Path| root.join(cwd.join(path).strip_prefix("/").unwrap());
        Gave {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            outputs: outputs
                .iter()
                .filter_map(|path| Some((path.clone(), fs_err::read(below(path)).ok()?)))
                .collect(),
        }
    }
}

/// Whether this machine lets us change the root; says so if not.
pub fn possible() -> bool {
    let tried = unshare(Path::new("/"), Path::new("/")).arg("true").output();
    let possible = tried.is_ok_and(|output| output.status.success());
    if !possible {
        eprintln!("SKIPPED: no permission to change the root (unshare)");
    }
    possible
}

fn unshare(root: &Path, cwd: &Path) -> Command {
    let mut command = Command::new(UNSHARE);
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.arg("--root").arg(root).arg("--wd").arg(cwd).arg("--");
    command
}

/// Materialises the action's tree and runs its command in it. `outputs` as the compiler names them.
pub fn run(action: &BuiltAction, outputs: &[PathBuf]) -> Gave {
    let place = tempfile::tempdir().unwrap();
    let root = place.path();
    materialise(&action.root, root);
    for dir in ["dev", "tmp"] {
        fs_err::create_dir_all(root.join(dir)).unwrap();
    }
    fs_err::write(root.join("dev/null"), "").unwrap();
    let cwd = Path::new("/").join(&action.command.working_directory);
    let mut command = unshare(root, &cwd);
    command.args(&action.command.arguments).env_clear();
    for variable in &action.command.environment_variables {
        command.env(&variable.name, &variable.value);
    }
    let gave = Gave::new(command.output().unwrap(), root, &cwd, outputs);
    let declared: Vec<_> = action.outputs.values().collect();
    for output in gave.outputs.keys() {
        assert!(declared.contains(&output), "{} is not declared", output.display());
    }
    // And the paths in the API's own form lead to the same files.
    for (wire, path) in &action.outputs {
        let read = fs_err::read(root.join(&action.command.working_directory).join(wire)).ok();
        assert_eq!(read.as_ref(), gave.outputs.get(path), "{wire}");
    }
    gave
}

fn materialise(tree: &InputRoot, root: &Path) {
    for (path, entry) in tree.entries() {
        let path = root.join(path.strip_prefix("/").unwrap());
        match entry {
            Entry::Directory => fs_err::create_dir(&path).unwrap(),
            Entry::Symlink(target) => std::os::unix::fs::symlink(target, &path).unwrap(),
            Entry::File { digest, executable, source } => {
                let bytes = match source {
                    BlobSource::File(from) => fs_err::read(from).unwrap(),
                    BlobSource::Bytes(bytes) => bytes.to_vec(),
                };
                assert_eq!(tree.function().digest(&bytes), digest);
                fs_err::write(&path, bytes).unwrap();
                let mode = if executable { 0o555 } else { 0o444 };
                fs_err::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            }
        }
    }
}
