//! Real projects: cargo fetches them as crates (`projects/Cargo.toml` names them), a test gets a fresh copy.
//!
//! It knows where sources are and how to copy them, not how they are built.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

static METADATA: OnceLock<serde_json::Value> = OnceLock::new();
static PROGRAMS: OnceLock<serde_json::Value> = OnceLock::new();

/// Copies `part` of the crate `package` to `to`, which must not exist. All files get one time long past: a tree in
/// which `configure` seems older than `configure.ac` would want to be made anew.
pub fn unpack(package: &str, part: &str, to: &Path) {
    copy(&root_of(package).join(part), to);
}

fn copy(from: &Path, to: &Path) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_704_110_400);
    for entry in walkdir::WalkDir::new(from) {
        let entry = entry.unwrap();
        let target = to.join(entry.path().strip_prefix(from).unwrap());
        if entry.file_type().is_dir() {
            std::fs::create_dir_all(&target).unwrap();
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
            std::fs::File::options().append(true).open(&target).unwrap().set_modified(time).unwrap();
        }
    }
}

/// Copies the Rust program `name` (`programs/Cargo.toml`) to `to`, which must not exist, and fetches what it needs.
pub fn unpack_program(name: &str, to: &Path) {
    let metadata = PROGRAMS.get_or_init(|| metadata("programs"));
    // A program without a library is fetched, and no package to cargo: it lies beside the others.
    let lock: toml::Table =
        std::fs::read_to_string(manifest("programs").with_file_name("Cargo.lock")).unwrap().parse().unwrap();
    let packages = lock["package"].as_array().unwrap();
    let locked = packages.iter().find(|package| package["name"].as_str() == Some(name));
    let version =
        locked.unwrap_or_else(|| panic!("{name} is not in programs/Cargo.toml"))["version"].as_str();
    let fetched =
        metadata["packages"].as_array().unwrap().iter().find(|package| !package["source"].is_null());
    let beside = Path::new(fetched.unwrap()["manifest_path"].as_str().unwrap()).parent().unwrap();
    copy(&beside.with_file_name(format!("{name}-{}", version.unwrap())), to);
    for mark in [".cargo-ok", ".cargo_vcs_info.json"] {
        let _ = std::fs::remove_file(to.join(mark));
    }
    let fetched = Command::new(env!("CARGO"))
        .args(["fetch", "--locked", "--quiet", "--manifest-path"])
        .arg(to.join("Cargo.toml"))
        .status()
        .expect("cargo starts");
    assert!(fetched.success(), "cargo could not fetch what {name} needs");
}

/// Where cargo keeps the sources of `package`; fetches them first if need be.
fn root_of(package: &str) -> PathBuf {
    let metadata = METADATA.get_or_init(|| metadata("projects"));
    let packages = metadata["packages"].as_array().unwrap();
    let found = packages.iter().find(|found| found["name"] == package);
    let manifest =
        found.unwrap_or_else(|| panic!("{package} is not in projects/Cargo.toml"))["manifest_path"].as_str();
    Path::new(manifest.unwrap()).parent().unwrap().to_owned()
}

fn manifest(directory: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(directory).join("Cargo.toml")
}

fn metadata(directory: &str) -> serde_json::Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--format-version", "1", "--manifest-path"])
        .arg(manifest(directory))
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo starts");
    assert!(output.status.success(), "cargo could not fetch the projects");
    serde_json::from_slice(&output.stdout).unwrap()
}
