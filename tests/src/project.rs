//! Real projects: cargo fetches them as crates (`projects/Cargo.toml` names them), a test gets a fresh copy.
//!
//! It knows where sources are and how to copy them, not how they are built.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

static METADATA: OnceLock<serde_json::Value> = OnceLock::new();

/// Copies `part` of the crate `package` to `to`, which must not exist. All files get one time long past: a tree in
/// which `configure` seems older than `configure.ac` would want to be made anew.
pub fn unpack(package: &str, part: &str, to: &Path) {
    let from = root_of(package).join(part);
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_704_110_400);
    for entry in walkdir::WalkDir::new(&from) {
        let entry = entry.unwrap();
        let target = to.join(entry.path().strip_prefix(&from).unwrap());
        if entry.file_type().is_dir() {
            std::fs::create_dir_all(&target).unwrap();
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
            std::fs::File::options().append(true).open(&target).unwrap().set_modified(time).unwrap();
        }
    }
}

/// Where cargo keeps the sources of `package`; fetches them first if need be.
fn root_of(package: &str) -> PathBuf {
    let metadata = METADATA.get_or_init(metadata);
    let packages = metadata["packages"].as_array().unwrap();
    let found = packages.iter().find(|found| found["name"] == package);
    let manifest =
        found.unwrap_or_else(|| panic!("{package} is not in projects/Cargo.toml"))["manifest_path"].as_str();
    Path::new(manifest.unwrap()).parent().unwrap().to_owned()
}

fn metadata() -> serde_json::Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--format-version", "1", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/projects/Cargo.toml"))
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo starts");
    assert!(output.status.success(), "cargo could not fetch the projects");
    serde_json::from_slice(&output.stdout).unwrap()
}
