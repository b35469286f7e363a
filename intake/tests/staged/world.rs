//! A build directory with everything that intake needs around it.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use dbuild_compilers::{Call, Plan, Task, analyse, relevant_env};
use dbuild_intake::action::{self, logical_directory};
use dbuild_intake::{
    ActionRequest, BuiltAction, DirTable, FileTable, FindError, FindRequest, InputFinder, Inputs,
    IntakeError, OnDisk, Toolchain, ToolchainRequest, Toolchains, TracedDepends, Watch,
};

/// A time at which all that a test writes is old: nothing here waits for time stamps to settle.
pub fn late() -> SystemTime {
    SystemTime::now() + Duration::from_secs(60)
}

/// The interceptor, made as `cli/build.rs` makes it.
pub fn interceptor() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join("intake").join("libdbuild_intercept.so");
        fs_err::create_dir_all(library.parent().unwrap()).unwrap();
        // Made beside and renamed: another run of these tests may have it mapped.
        let fresh = library.with_extension(std::process::id().to_string());
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shims/intercept/lib.rs");
        let done = Command::new(std::env::var_os("RUSTC").unwrap_or("rustc".into()))
            .args(["--edition=2024", "--crate-type=cdylib", "--crate-name=dbuild_intercept"])
            .args(["-Copt-level=s", "-Cpanic=abort", "-Cstrip=symbols", "-Clto=fat", "-Ccodegen-units=1"])
            .arg("-o")
            .arg(&fresh)
            .arg(source)
            .output()
            .unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        fs_err::rename(&fresh, &library).unwrap();
        library
    })
}

/// `compiler` on the usual directories, if it is installed.
pub fn installed(compiler: &str) -> Option<PathBuf> {
    let found = ["/usr/bin", "/usr/local/bin"]
        .iter()
        .map(|dir| Path::new(dir).join(compiler))
        .find(|path| path.exists());
    if found.is_none() {
        eprintln!("SKIPPED: {compiler} is not installed");
    }
    found
}

impl World {
    /// What manifests of C compiles are held against.
    pub fn held(&self) -> dbuild_intake::World<'_> {
        dbuild_intake::World {
            files: &self.files,
            directories: &self.directories,
            variables: &|_| None,
            preprocessed: true,
            roots: dbuild_intake::Roots::none(),
        }
    }
}

pub struct World {
    place: tempfile::TempDir,
    pub files: Arc<FileTable>,
    pub directories: Arc<DirTable>,
    pub toolchains: Toolchains,
    pub finder: TracedDepends,
    pub env: Vec<(OsString, OsString)>,
}

impl World {
    pub fn new() -> World {
        let place = tempfile::tempdir().unwrap();
        for name in ["b", "scratch"] {
            fs_err::create_dir(place.path().join(name)).unwrap();
        }
        // All worlds of this process share what they know of the compilers.
        static WARM: OnceLock<(Arc<FileTable>, Arc<DirTable>)> = OnceLock::new();
        let (files, directories) = WARM
            .get_or_init(|| {
                let watch = Arc::new(Watch::start(100_000));
                let files = FileTable::new(100_000, late).watched(watch.clone());
                (Arc::new(files), Arc::new(DirTable::new(1000, late).watched(watch)))
            })
            .clone();
        let finder = TracedDepends {
            interceptor: interceptor().to_path_buf(),
            scratch: place.path().join("scratch"),
            own: Vec::new(),
            files: files.clone(),
            limit: Duration::from_secs(300),
        };
        World {
            toolchains: Toolchains::new(files.clone(), directories.clone(), late),
            directories,
            files,
            finder,
            env: vec![("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into())],
            place,
        }
    }

    /// The working directory of the build.
    pub fn cwd(&self) -> PathBuf {
        self.place.path().join("b").canonicalize().unwrap()
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.cwd().join(name);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, text).unwrap();
    }

    pub fn link(&self, name: &str, target: &str) {
        std::os::unix::fs::symlink(target, self.cwd().join(name)).unwrap();
    }

    pub fn toolchain(&self, compiler: &Path) -> Result<Arc<Toolchain>, IntakeError> {
        self.toolchains.get(ToolchainRequest { compiler, env: &self.env })
    }

    /// The one task of `command`, whose first word is the compiler as the build would write it.
    pub fn task(&self, toolchain: &Toolchain, command: &[OsString]) -> Task {
        let cwd = self.cwd();
        let call = Call { argv: command, cwd: &cwd, env: &self.env, umask: 0o022, stderr_tty: false };
        match analyse(&call, &toolchain.info, &OnDisk) {
            Plan::Tasks { mut tasks, then: None } if tasks.len() == 1 => tasks.remove(0),
            other => panic!("{command:?}: {other:?}"),
        }
    }

    pub fn find(&self, toolchain: &Toolchain, argv0: &OsStr, task: &Task) -> Result<Inputs, FindError> {
        let (cwd, env, earlier) = (&*self.cwd(), &*self.env, None);
        self.finder.find(&FindRequest { toolchain, argv0, task, cwd, env, earlier })
    }

    pub fn action(
        &self,
        toolchain: &Toolchain,
        argv0: &OsStr,
        task: &Task,
        inputs: &Inputs,
    ) -> Result<BuiltAction, IntakeError> {
        let cwd = self.cwd();
        let outputs = outputs(task);
        action::build(&ActionRequest {
            files: &self.files,
            toolchain,
            inputs,
            argv0,
            args: &task.args,
            outputs: &outputs,
            cwd: &cwd,
            env: &relevant_env(toolchain.info.family, &self.env),
            logical_cwd: logical_directory(&cwd, &self.env),
            own: &[],
            timeout: Duration::from_secs(600),
            jobserver: None,
            do_not_cache: false,
        })
    }
}

/// Those that the compiler names.
pub fn outputs(task: &Task) -> Vec<PathBuf> {
    task.outputs.iter().filter_map(|output| output.path().map(Path::to_path_buf)).collect()
}

/// Words, split at blanks.
pub fn words(command: &str) -> Vec<OsString> {
    command.split_whitespace().map(OsString::from).collect()
}
