//! The directive scanner against real compilers: over trees of headers that are made up at random, and over cases that
//! are known to be hard. What the compiler's own preprocessor reads under observation is the truth.
//!
//! `DBUILD_SCAN_ROUNDS` or `DBUILD_SCAN_SECONDS` asks for more, `DBUILD_SCAN_SEED` begins with another tree.

#![allow(clippy::unwrap_used)] // what fails here fails the test

mod cases;
mod generate;
mod random;
mod recalled;
mod verified;
#[path = "../staged/world.rs"]
#[allow(dead_code)] // the other suite needs all of it
mod world;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dbuild_intake::recall::Earlier;
use dbuild_intake::{
    DirTable, FindError, FindRequest, InputFinder, Inputs, NotSure, ScanLimits, ScannedInputs, TracedDepends,
};

use self::world::World;

/// A world with a scanner in it.
pub struct Scanned {
    pub world: World,
    pub directories: Arc<DirTable>,
    pub scanner: ScannedInputs,
}

/// What both said.
pub struct Both {
    pub scanned: Result<Inputs, NotSure>,
    pub traced: Result<Inputs, FindError>,
}

impl Scanned {
    pub(crate) fn new() -> Scanned {
        let world = World::new();
        let traced = TracedDepends {
            interceptor: world.finder.interceptor.clone(),
            scratch: world.finder.scratch.clone(),
            own: Vec::new(),
            files: world.files.clone(),
            limit: Duration::from_secs(300),
        };
        let directories = Arc::new(DirTable::new(1000, world::late));
        let scanner = ScannedInputs::new(traced, directories.clone(), ScanLimits::default());
        Scanned { world, directories, scanner }
    }

    pub fn both(&self, compiler: &Path, flags: &[&str]) -> Both {
        self.request(compiler, flags, None, |request| Both {
            scanned: self.scanner.scan(request),
            traced: self.world.finder.find(request),
        })
    }

    /// Has `ask` look for the inputs of a compile.
    pub fn request<T>(
        &self,
        compiler: &Path,
        flags: &[&str],
        earlier: Option<&Earlier>,
        ask: impl FnOnce(&FindRequest) -> T,
    ) -> T {
        let toolchain = self.world.toolchain(compiler).unwrap();
        let mut command: Vec<OsString> = vec![compiler.into()];
        command.extend(flags.iter().map(OsString::from));
        let task = self.world.task(&toolchain, &command);
        let cwd = self.world.cwd();
        let request = FindRequest {
            toolchain: &toolchain,
            argv0: compiler.as_os_str(),
            task: &task,
            cwd: &cwd,
            env: &self.world.env,
            earlier,
        };
        ask(&request)
    }
}

/// Real paths: clang names a file as it met it first.
pub fn files(inputs: &Inputs) -> BTreeSet<PathBuf> {
    inputs.files.iter().map(|input| input.path.canonicalize().unwrap()).collect()
}

/// What `scanned` lacks of `traced`, or has beyond its files; empty if they agree.
pub fn differences(scanned: &Inputs, traced: &Inputs, exact: bool) -> Vec<String> {
    let mut all = Vec::new();
    let (ours, theirs) = (files(scanned), files(traced));
    all.extend(theirs.difference(&ours).map(|path| format!("missing {}", path.display())));
    if exact {
        all.extend(ours.difference(&theirs).map(|path| format!("surplus {}", path.display())));
    }
    let names = |inputs: &Inputs| -> BTreeSet<PathBuf> {
        let each = inputs
            .absent
            .iter()
            .flat_map(|absent| absent.names.iter().map(|name| absent.directory.join(name)));
        each.map(|path| path.components().collect()).collect()
    };
    let (ours, theirs) = (names(scanned), names(traced));
    all.extend(theirs.difference(&ours).map(|path| format!("not known to be absent: {}", path.display())));
    for directory in &traced.directories {
        if !scanned.directories.contains(directory) {
            all.push(format!("directory not known: {}", directory.display()));
        }
    }
    if scanned.mentions != traced.mentions {
        all.push(format!("mentions {:?}, not {:?}", scanned.mentions, traced.mentions));
    }
    all
}
