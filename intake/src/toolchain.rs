//! What a compiler *is*: the files that make it run, found, hashed and laid out once per compiler, and checked by
//! one `stat` per file at every use.
//!
//! A toolchain is driver, compiler proper, assembler and what they load; headers are not part of it, they are
//! inputs. Its identity is its content: the same Debian package on two machines has the same [`Toolchain::id`].
//! How gcc and clang tell where their parts are is in `probe`; this file keeps what was found.

mod assemble;
mod probe;
mod rust;

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use dbuild_compilers::CompilerInfo;
use dbuild_proto::Digest;

use crate::error::IntakeError;
use crate::files::{Clock, FileTable, Signature, lock};
use crate::layout::InputRoot;
use crate::listings::{DirTable, Presence};
use crate::locale;

/// Programs that gcc and clang look up on `PATH`: the assembler, and what `-gsplit-dwarf` needs.
const ON_PATH: [&str; 3] = ["as", "objcopy", "ld"];

/// More compilers than any build uses; beyond, what was known longest is found anew.
const KEPT: usize = 64;

/// Whose toolchain is wanted.
#[derive(Clone, Copy, Debug)]
pub struct ToolchainRequest<'a> {
    /// Absolute path as the build would execute it: links not followed.
    pub compiler: &'a Path,
    /// The caller's whole environment: `PATH` decides about the assembler, `LANG` about messages.
    pub env: &'a [(OsString, OsString)],
}

/// A compiler with all that it needs.
#[derive(Debug)]
pub struct Toolchain {
    pub info: CompilerInfo,
    /// As the build spelled it.
    pub compiler: PathBuf,
    /// Identity of the content: family, version, and each file's real path and digest. Two spellings of one driver
    /// (`cc`, `gcc-12`) have one.
    pub id: Digest,
    /// Its files, as they are opened (absolute; links and `..` still in them), sorted.
    pub files: Vec<PathBuf>,
    /// The tree that every action of this compiler starts from.
    pub root: InputRoot,
    /// The interceptor can follow the driver: it has a loader. What a static one reads cannot be observed.
    pub traceable: bool,
    /// Directories that the action's `PATH` needs: the driver's, and those of programs found on the caller's.
    pub search_path: Vec<PathBuf>,
    /// Variables without which it would not run as it does here (`LD_LIBRARY_PATH`, if libraries come from there).
    pub environment: Vec<(OsString, OsString)>,
    /// Where rustc's own crates are, below this.
    pub sysroot: Option<PathBuf>,
    /// (device, inode) of its files.
    inodes: HashSet<(u64, u64)>,
    /// What each file was when it was hashed.
    seen: Vec<Seen>,
    /// Directories whose *listing* the driver reads, as they were.
    listings: Vec<(PathBuf, Signature)>,
    /// Nothing of it was so young that a later change might not show.
    settled: bool,
}

#[derive(Clone, Debug)]
struct Seen {
    path: PathBuf,
    signature: Signature,
    digest: Digest,
}

impl Toolchain {
    /// Whether the file with this device and inode is one of the toolchain's.
    pub fn owns(&self, device: u64, inode: u64) -> bool {
        self.inodes.contains(&(device, inode))
    }

    /// Whether a path is one under which the toolchain itself knows a file.
    pub fn names(&self, path: &Path) -> bool {
        let below = |directory: &Path| path.starts_with(directory);
        self.sysroot.as_deref().is_some_and(below)
            || self.files.binary_search_by(|file| (**file).cmp(path)).is_ok()
    }

    /// The shared libraries that its programs load, by the names under which the loader looks for them.
    pub fn libraries(&self) -> impl Iterator<Item = &Path> {
        let is_library = |path: &&Path| {
            path.file_name()
                .is_some_and(|name| name.as_encoded_bytes().windows(3).any(|three| three == b".so"))
        };
        self.files.iter().map(PathBuf::as_path).filter(is_library)
    }

    /// Whether everything is still as it was hashed.
    fn holds(&self, files: &FileTable) -> bool {
        let unchanged = |seen: &Seen| {
            let facts = files.unscanned(&seen.path);
            facts.is_ok_and(|facts| facts.signature == seen.signature && facts.digest == seen.digest)
        };
        let listed = |(path, signature): &(PathBuf, Signature)| {
            std::fs::metadata(path).is_ok_and(|meta| Signature::of(&meta) == *signature)
        };
        self.settled && self.seen.iter().all(unchanged) && self.listings.iter().all(listed)
    }
}

/// All toolchains that this initiator has met.
pub struct Toolchains {
    files: Arc<FileTable>,
    directories: Arc<DirTable>,
    clock: Clock,
    known: Mutex<HashMap<Arc<Key>, Arc<Mutex<Slot>>>>,
}

/// What decides which files a compiler consists of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    compiler: PathBuf,
    /// What [`ON_PATH`] leads to; absent ones left out.
    programs: Vec<PathBuf>,
    locale: Vec<(OsString, OsString)>,
    /// `COMPILER_PATH`, `GCC_EXEC_PREFIX`, `LD_LIBRARY_PATH`.
    steering: Vec<(OsString, OsString)>,
}

#[derive(Default)]
enum Slot {
    #[default]
    Unknown,
    Known(Arc<Toolchain>),
    /// It was not understood; asking again is of no use until the file changes.
    Refused {
        signature: Signature,
        reason: String,
    },
}

impl Toolchains {
    /// `files` keeps the digests, and says by its function in what the trees are made.
    pub fn new(files: Arc<FileTable>, directories: Arc<DirTable>, clock: Clock) -> Toolchains {
        Toolchains { files, directories, clock, known: Mutex::default() }
    }

    /// The toolchain of `request`, as it is on disk now. The first call per compiler takes some tens of milliseconds
    /// (longer if its files were never read); callers that come meanwhile wait for it.
    ///
    /// # Errors
    /// [`IntakeError::Compiler`] for what is no gcc, clang or rustc, or not complete.
    pub fn get(&self, request: ToolchainRequest) -> Result<Arc<Toolchain>, IntakeError> {
        self.files.settle();
        let key = Arc::new(Key::of(&request, &self.directories));
        let slot = {
            let mut known = lock(&self.known);
            if known.len() >= KEPT && !known.contains_key(&key) {
                known.clear();
            }
            known.entry(key.clone()).or_default().clone()
        };
        let mut slot = lock(&slot);
        if let Slot::Known(toolchain) = &*slot
            && toolchain.holds(&self.files)
        {
            return Ok(toolchain.clone());
        }
        let signature = Signature::of(&fs_err::metadata(request.compiler)?);
        match &*slot {
            Slot::Refused { signature: before, reason } if *before == signature => {
                return Err(refusal(request.compiler, reason.clone()));
            }
            _ => {}
        }
        match self.discover(&key) {
            Ok(toolchain) => {
                let toolchain = Arc::new(toolchain);
                *slot = Slot::Known(toolchain.clone());
                Ok(toolchain)
            }
            Err(IntakeError::Compiler { compiler, reason }) => {
                *slot = Slot::Refused { signature, reason: reason.clone() };
                Err(IntakeError::Compiler { compiler, reason })
            }
            Err(error) => Err(error),
        }
    }

    /// Whether the program at this path is rustc or clippy-driver, as its name says it.
    pub fn is_rustc(compiler: &Path) -> bool {
        rust::is_rustc(compiler)
    }

    /// Whether this compiler was met before; if not, it is from now on, and whoever is told so should ask for it.
    pub fn is_met(&self, request: ToolchainRequest) -> bool {
        let key = Arc::new(Key::of(&request, &self.directories));
        let mut known = lock(&self.known);
        let met = known.contains_key(&key);
        known.entry(key).or_default();
        met
    }

    fn discover(&self, key: &Key) -> Result<Toolchain, IntakeError> {
        let now: SystemTime = (self.clock)();
        let parts = probe::probe(key)?;
        assemble::assemble(key, parts, &self.files, now)
    }
}

impl Key {
    fn of(request: &ToolchainRequest, directories: &DirTable) -> Key {
        let get = |wanted: &str| {
            request.env.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_os_str())
        };
        if rust::is_rustc(request.compiler) {
            let compiler = request.compiler.to_path_buf();
            return Key { compiler, programs: Vec::new(), locale: Vec::new(), steering: Vec::new() };
        }
        let path = get("PATH").unwrap_or_default();
        let steering = ["COMPILER_PATH", "GCC_EXEC_PREFIX", "LD_LIBRARY_PATH"];
        let steering = steering.into_iter().filter_map(|name| {
            let value = get(name).filter(|value| !value.is_empty())?;
            Some((OsString::from(name), value.to_os_string()))
        });
        Key {
            compiler: request.compiler.to_path_buf(),
            programs: ON_PATH.into_iter().filter_map(|name| on_path(path, name, directories)).collect(),
            locale: locale::variables(request.env),
            steering: steering.collect(),
        }
    }

    fn steered_by(&self, wanted: &str) -> Option<&OsStr> {
        self.steering.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_os_str())
    }

    /// What `name` on the caller's `PATH` leads to.
    fn program(&self, name: &str) -> Option<&Path> {
        self.programs.iter().map(PathBuf::as_path).find(|path| path.file_name() == Some(OsStr::new(name)))
    }
}

/// The first executable `name` in the absolute directories of `path`, as execvp(3) would find it.
fn on_path(path: &OsStr, name: &str, directories: &DirTable) -> Option<PathBuf> {
    let runs = |file: &PathBuf| {
        std::fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    // The listings know where it is not worth looking.
    let absent = |dir: &PathBuf| matches!(directories.presence(dir, OsStr::new(name)), Ok(Presence::Absent));
    let dirs = std::env::split_paths(path).filter(|dir| dir.is_absolute() && !absent(dir));
    dirs.map(|dir| dir.join(name)).find(runs)
}

fn refusal(compiler: &Path, reason: impl Into<String>) -> IntakeError {
    IntakeError::Compiler { compiler: compiler.to_path_buf(), reason: reason.into() }
}

/// (device, inode) of a signature.
fn inode(signature: &Signature) -> (u64, u64) {
    (signature.device, signature.inode)
}
