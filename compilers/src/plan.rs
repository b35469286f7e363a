//! The words this crate shares with its callers: the call that comes in, the plan that goes out.
//!
//! Knows no flag and no compiler; `split` fills these types, the initiator reads them.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use crate::Reason;

/// Whose command line it is. Names such as `cc` say nothing; the caller asked the binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    Gcc,
    Clang,
    /// rustc, and clippy-driver, which is one.
    Rustc,
}

/// What the caller found out about a compiler binary, once per binary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompilerInfo {
    pub family: Family,
    /// Major, minor, patch.
    pub version: (u32, u32, u32),
    /// What `-dumpmachine` prints, for example `x86_64-linux-gnu`.
    pub target: String,
}

/// One compiler call, as the build wrote it.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// With `argv[0]`.
    pub argv: &'a [OsString],
    /// Absolute.
    pub cwd: &'a Path,
    pub env: &'a [(OsString, OsString)],
    pub umask: u32,
    /// Whether the compiler's stderr would be a terminal: colours depend on it.
    pub stderr_tty: bool,
}

/// What a path leads to, symbolic links followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    File,
    Directory,
    /// A device, a pipe, a socket: never to be replaced by a rename, never to be read ahead of the compiler.
    Other,
}

/// The little that must be known of the file system. All paths given to it are absolute.
pub trait Files {
    /// The whole content; asked for response files only.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// `None` where nothing is (or nothing may be seen).
    fn kind(&self, path: &Path) -> Option<FileKind>;
}

/// What is to be done with a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// Run the real compiler with its own argv; nothing is cached, nothing leaves this machine.
    Local(Reason),
    /// The tasks are independent of each other; their stderr is to be printed in this order. All of them run even
    /// when one fails, and the exit code is 1 if one failed (so do both drivers). `then` runs when all succeeded.
    ///
    /// If a task or link of a call that was really split (more than one run) prints something for which
    /// [`driver_spoke`](crate::driver_spoke) is true, the whole call should be run as it is, here: the driver would
    /// have said it once, not once per run.
    Tasks { tasks: Vec<Task>, then: Option<Link> },
}

/// The compile of one source file, or of one crate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// As written in the call: relative to its cwd, or absolute.
    pub source: PathBuf,
    pub language: Language,
    /// Everything after `argv[0]`, for exactly this source: response files expanded, other sources and link-only
    /// arguments removed, colour made explicit. Where the object is [`Place::Intermediate`], the argument after
    /// `-o` is a fixed placeholder, so that these are good for a key; run [`Task::args_with_object`].
    pub args: Vec<OsString>,
    /// The task is the whole call: a run that is not captured may use the call's own argv.
    pub same_as_call: bool,
    /// The first one is the main output (object, assembly, precompiled header). Paths as the compiler names them.
    pub outputs: Vec<Output>,
    /// Arguments after `argv[0]` for a run that writes nothing and opens exactly the files which the compile opens.
    /// `None`: the source is not preprocessed; it reads only itself (and what `scan` finds: `.incbin`, `.include`), or it
    /// is Rust, where only a compile tells.
    pub depend_args: Option<Vec<OsString>>,
    /// Files named by flags that the run with `depend_args` need not open: sanitizer lists, profiles, plug-ins.
    pub extra_inputs: Vec<PathBuf>,
    /// `Err`: the task must run on this machine (it may still be cached), and why.
    pub distribute: Result<(), Reason>,
    /// `Err`: the result must not be cached, and why.
    pub cache: Result<(), Reason>,
    /// The arguments say `native`: the result depends on this machine's CPU, which so belongs in the key.
    pub needs_cpu_identity: bool,
    /// Where in `args` the placeholder of an intermediate object stands.
    pub(crate) object_slot: Option<usize>,
    /// What is known of the call if it is rustc's.
    pub unit: Option<CrateUnit>,
}

/// A rustc call, as far as it is unlike a C compile. Paths as in the call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CrateUnit {
    /// Directories that rustc lists in search of crates that others name exactly (`-L dependency=`), which it then opens.
    /// What else appears in them says nothing.
    pub searched: Vec<PathBuf>,
    /// Directories of `-L` in which libraries are looked for by name.
    pub libraries: Vec<PathBuf>,
    /// What it makes holds the way from there to the standard library (`-C rpath`).
    pub rpath: bool,
    /// Where it writes.
    pub out_dir: PathBuf,
    /// How the names of the files begin that it writes there: which there are depends on the target and on flags, and
    /// is seen afterwards.
    pub stems: Vec<OsString>,
    /// The linker that it runs, if it links and the call says which.
    pub linker: Option<PathBuf>,
    /// Width of the terminal that messages are broken to. In no key: it says nothing where nothing was printed.
    pub width: Option<OsString>,
    /// Files that the arguments came from.
    pub argument_files: Vec<PathBuf>,
    /// The crates that `--extern` names by a path.
    pub externs: Vec<PathBuf>,
    /// What it makes holds the code of all crates that it needs; most often a linker makes it.
    pub links: bool,
}

impl CrateUnit {
    /// Whether a file of this name in [`CrateUnit::out_dir`] is the crate's.
    pub fn owns(&self, name: &OsStr) -> bool {
        let name = name.as_encoded_bytes();
        self.stems.iter().any(|stem| {
            let rest = name.strip_prefix(stem.as_encoded_bytes());
            rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'.')))
        })
    }
}

/// What a source is written in, as far as inputs and cost differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Language {
    C,
    Cxx,
    ObjC,
    ObjCxx,
    /// `.S`, `.sx`: assembly that is preprocessed.
    AssemblyWithCpp,
    /// `.s`
    Assembly,
    /// `.i`
    PreprocessedC,
    /// `.ii`
    PreprocessedCxx,
    /// `.mi`, `.mii`
    PreprocessedObjC,
    PreprocessedObjCxx,
    Rust,
    /// A header by itself: the result is a precompiled header.
    CHeader,
    CxxHeader,
}

/// A file that a task writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    pub place: Place,
    pub kind: OutputKind,
    /// `false`: written only if the compile has something to put there; its absence is a result, too.
    pub certain: bool,
}

/// Where an output goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// As the compiler names it: relative to the call's cwd, or absolute.
    Named(PathBuf),
    /// An object between compile and link: the caller chooses a path outside the build's own tree.
    Intermediate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutputKind {
    Object,
    Assembly,
    PrecompiledHeader,
    /// `-MD`, `-MMD`, `-Wp,-MD,…`
    Depfile,
    /// `.dwo` of `-gsplit-dwarf`
    SplitDwarf,
    /// `.gcno` of `-ftest-coverage`
    CoverageNotes,
    /// `.su` of `-fstack-usage`
    StackUsage,
    /// `.ci` of `-fcallgraph-info`
    CallGraph,
    /// `.i`, `.ii`, `.s`, `.bc` of `-save-temps`
    Temporary,
    /// What rustc makes of a crate: metadata, a library, a program.
    Crate,
    /// `.opt.yaml` and `.opt-record.json.gz` of `-fsave-optimization-record`
    OptimizationRecord,
}

/// The link that follows when a call compiled and linked at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Everything after `argv[0]`, in the call's order, a placeholder for each task's object.
    pub args: Vec<OsString>,
    /// Where the object of task i stands in `args`; as long as the list of tasks.
    pub(crate) object_slots: Vec<usize>,
}

impl Task {
    /// Whether the caller must choose where the object goes.
    pub fn needs_object_path(&self) -> bool {
        self.object_slot.is_some()
    }

    /// `args` with the object at `object`; plain `args` if the task names its own output.
    pub fn args_with_object(&self, object: &Path) -> Vec<OsString> {
        let mut args = self.args.clone();
        if let Some(slot) = self.object_slot {
            args[slot] = object.as_os_str().to_os_string();
        }
        args
    }
}

impl Link {
    /// `args` with the objects in place: one per task, in the order of the tasks.
    pub fn args_with_objects(&self, objects: &[PathBuf]) -> Vec<OsString> {
        let mut args = self.args.clone();
        for (&slot, object) in self.object_slots.iter().zip(objects) {
            args[slot] = object.as_os_str().to_os_string();
        }
        args
    }
}

impl Output {
    /// The path, unless the caller chooses it.
    pub fn path(&self) -> Option<&Path> {
        match &self.place {
            Place::Named(path) => Some(path),
            Place::Intermediate => None,
        }
    }
}
