//! Compiles the stand-in compiler and the exec interceptor (`shims/`), which the `dbuild` binary carries inside
//! itself, with one `rustc` call each.
//!
//! They cannot be ordinary members of the build: one is static, the other a library without `std`, and both are
//! optimised for size whatever the profile says. Gives the crate three variables: `DBUILD_SHIM_BIN` and
//! `DBUILD_INTERCEPT_LIB`, paths for `include_bytes!`, and `DBUILD_BUILD_ID`, which changes whenever their bytes or
//! the package's version do. The tests of `shims/` compile through the same functions.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the sources are, and what compiles them.
pub struct Recipe {
    /// The directory `shims/`.
    pub sources: PathBuf,
    pub rustc: OsString,
    /// A target triple; the compiler's own without.
    pub target: Option<String>,
    pub linker: Option<OsString>,
}

/// What was made.
pub struct Artefacts {
    pub shim: PathBuf,
    pub intercept: PathBuf,
    /// Whether the shim is static. It works without, but starts slower and loads the interceptor.
    pub is_static: bool,
}

#[allow(dead_code)] // not called by the tests, which have their own main
fn main() {
    let required = |name: &str| env::var_os(name).unwrap_or_else(|| panic!("cargo sets {name}"));
    let sources = Path::new(&required("CARGO_MANIFEST_DIR")).join("../shims");
    for part in ["src", "shim", "intercept"] {
        println!("cargo:rerun-if-changed={}", sources.join(part).display());
    }
    println!("cargo:rerun-if-changed=build.rs");
    let recipe = Recipe {
        sources,
        rustc: required("RUSTC"),
        target: env::var("TARGET").ok(),
        linker: env::var_os("RUSTC_LINKER"),
    };
    let made = compile(&recipe, Path::new(&required("OUT_DIR"))).unwrap_or_else(|error| panic!("{error}"));
    if !made.is_static {
        println!(
            "cargo:warning=no static C library for this target: the stand-in compiler is dynamic, and slower"
        );
    }
    let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let id = build_id(&made, &version).unwrap_or_else(|error| panic!("{error}"));
    println!("cargo:rustc-env=DBUILD_SHIM_BIN={}", made.shim.display());
    println!("cargo:rustc-env=DBUILD_INTERCEPT_LIB={}", made.intercept.display());
    println!("cargo:rustc-env=DBUILD_BUILD_ID={id}");
}

/// Compiles both into the directory `out`. An error is the compiler's output.
pub fn compile(recipe: &Recipe, out: &Path) -> Result<Artefacts, String> {
    let (shim, intercept) = (out.join("dbuild-shim"), out.join("libdbuild_intercept.so"));
    let library = ["--crate-type=cdylib", "--crate-name=dbuild_intercept"];
    rustc(recipe, "intercept/lib.rs", &intercept, &library)?;
    let program = ["--crate-type=bin", "--crate-name=dbuild_shim"];
    let with_static = [&program[..], &["-Ctarget-feature=+crt-static"]].concat();
    let is_static = rustc(recipe, "shim/main.rs", &shim, &with_static).is_ok();
    if !is_static {
        rustc(recipe, "shim/main.rs", &shim, &program)?;
    }
    Ok(Artefacts { shim, intercept, is_static })
}

fn rustc(recipe: &Recipe, source: &str, output: &Path, options: &[&str]) -> Result<(), String> {
    let mut command = Command::new(&recipe.rustc);
    command.arg("--edition=2024").args(options);
    command.args(["-Copt-level=s", "-Cpanic=abort", "-Cstrip=symbols", "-Clto=fat", "-Ccodegen-units=1"]);
    if let Some(target) = &recipe.target {
        command.arg("--target").arg(target);
    }
    if let Some(linker) = &recipe.linker {
        let mut option = OsString::from("-Clinker=");
        option.push(linker);
        command.arg(option);
    }
    command.arg("-o").arg(output).arg(recipe.sources.join(source));
    // flags meant for the workspace (coverage, sanitizers) do not fit a library without std
    command.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    let done = command.output().map_err(|error| format!("failed to start rustc: {error}"))?;
    if done.status.success() {
        Ok(())
    } else {
        Err(format!("failed to compile {source}:\n{}", String::from_utf8_lossy(&done.stderr)))
    }
}

/// Names this build: 16 hexadecimal digits.
#[allow(dead_code)] // as main
fn build_id(made: &Artefacts, version: &str) -> Result<String, String> {
    let mut hasher = DefaultHasher::new();
    version.hash(&mut hasher);
    for path in [&made.shim, &made.intercept] {
        let bytes = fs::read(path).map_err(|error| format!("failed to read {}: {error}", path.display()))?;
        bytes.hash(&mut hasher);
    }
    Ok(format!("{:016x}", hasher.finish()))
}
