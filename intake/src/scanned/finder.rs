//! [`ScannedInputs`]: the scanner as an [`InputFinder`].

use std::collections::{BTreeMap, HashMap};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use dbuild_compilers::Family;
use dbuild_proto::Digest;
use dbuild_scanner::{Mode, Scratch, Unit, Unsure, command_line, scan};

use super::contents::Contents;
use super::disk::Disk;
use super::flags::{Flags, language};
use super::probe::{Asked, Key, PREINCLUDED, Probe};
use crate::files::{FileFacts, FileTable, lock};
use crate::finder::{FindError, FindRequest, InputFinder, TracedDepends};
use crate::inputs::Inputs;
use crate::listings::DirTable;

/// More sets of flags than a build uses at a time; beyond, all are asked anew.
const PROBES: usize = 512;

/// Questions that are remembered for compilers and flags to come.
const ASKED: usize = 4096;

/// How often an answer may lead to more questions.
const ROUNDS: usize = 10;

/// What the scanner may keep.
#[derive(Clone, Copy, Debug)]
pub struct ScanLimits {
    /// Bytes of parsed files and names.
    pub bytes: usize,
}

impl Default for ScanLimits {
    fn default() -> Self {
        ScanLimits { bytes: 96 << 20 }
    }
}

/// How the scanner did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanCounts {
    /// Tasks whose inputs an earlier scan knew, as no directive had changed.
    pub recalled: u64,
    /// Tasks whose inputs the scan knew.
    pub scanned: u64,
    /// Tasks that the compiler's own preprocessor had to decide, by reason.
    pub unsure: BTreeMap<Unsure, u64>,
    /// Files parsed, and their bytes.
    pub parsed: u64,
    pub parsed_bytes: u64,
    /// Runs of compilers to ask for predefined macros and search directories.
    pub probes: u64,
    /// Memory in use, about.
    pub bytes: u64,
}

/// A scan that does not know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotSure {
    pub reason: Unsure,
    /// The file, and the operand of the directive there, if it is about one.
    pub at: Option<(PathBuf, String)>,
}

impl From<Unsure> for NotSure {
    fn from(reason: Unsure) -> Self {
        NotSure { reason, at: None }
    }
}

/// Scans directives; where that is unsure, `TracedDepends` decides. One per initiator: it keeps what it learned.
pub struct ScannedInputs {
    traced: TracedDepends,
    directories: Arc<DirTable>,
    limits: ScanLimits,
    library: RwLock<Arc<Library>>,
    scratch: Mutex<Vec<Scratch>>,
    asked: Mutex<Asked>,
    recalled: AtomicU64,
    scanned: AtomicU64,
    probes: AtomicU64,
    unsure: Mutex<BTreeMap<Unsure, u64>>,
}

/// What a compiler said; whoever comes meanwhile waits.
type Slot = Arc<Mutex<Option<Arc<Probe>>>>;

/// All that depends on one set of names.
struct Library {
    contents: Contents,
    probes: Mutex<HashMap<Key, Slot>>,
}

impl Library {
    fn new(limits: ScanLimits) -> Arc<Library> {
        Arc::new(Library { contents: Contents::new(limits.bytes), probes: Mutex::default() })
    }
}

impl InputFinder for ScannedInputs {
    fn find(&self, request: &FindRequest) -> Result<Inputs, FindError> {
        if request.task.depend_args.is_none() {
            return self.traced.find(request);
        }
        if let Some(inputs) = self.recall(request) {
            return Ok(inputs);
        }
        match self.scan(request) {
            Ok(inputs) => Ok(inputs),
            Err(NotSure { reason, at }) => {
                *lock(&self.unsure).entry(reason).or_default() += 1;
                tracing::debug!(source = %request.task.source.display(), %reason, ?at, "the scanner is not sure");
                self.traced.find(request)
            }
        }
    }
}

impl ScannedInputs {
    /// `directories` may be shared with recall; `traced.files` is where digests come from.
    pub fn new(traced: TracedDepends, directories: Arc<DirTable>, limits: ScanLimits) -> ScannedInputs {
        ScannedInputs {
            traced,
            directories,
            limits,
            library: RwLock::new(Library::new(limits)),
            scratch: Mutex::default(),
            asked: Mutex::default(),
            recalled: AtomicU64::new(0),
            scanned: AtomicU64::new(0),
            probes: AtomicU64::new(0),
            unsure: Mutex::default(),
        }
    }

    /// The inputs of a task, if an earlier scan of the same command stands.
    pub fn recall(&self, request: &FindRequest) -> Option<Inputs> {
        let earlier = request.earlier?;
        let files = &self.traced.files;
        files.settle();
        // How contents are read depends on the flags; what they are is asked only if a content has changed.
        let mut reader = None;
        let mut directives = |path: &Path, facts: &FileFacts| {
            if reader.is_none() {
                reader = Some(self.reader(request).ok()?);
            }
            let (library, mode) = reader.as_ref()?;
            let read = || read_as(path, facts.digest, files);
            let content = library.contents.get(facts.digest, *mode, read).ok()?;
            content.unsure().is_none().then(|| content.fingerprint(&library.contents.names))
        };
        let inputs = earlier.revive(files, &self.directories, &mut directives)?;
        self.recalled.fetch_add(1, Ordering::Relaxed);
        Some(inputs)
    }

    fn reader(&self, request: &FindRequest) -> Result<(Arc<Library>, Mode), NotSure> {
        let args = request.task.depend_args.as_ref().ok_or(Unsure::Language)?;
        let flags = Flags::of(request.task, args, request.toolchain.info.family)?;
        let name = language(request.task.language)?;
        let library = self.library();
        let mode = self.probe(&library, Key::of(request, &flags, name), request, &flags, name)?.mode;
        Ok((library, mode))
    }

    /// The inputs of a task, if the scan is sure of them.
    ///
    /// # Errors
    /// Why it is not. Nothing is counted then.
    pub fn scan(&self, request: &FindRequest) -> Result<Inputs, NotSure> {
        let args = request.task.depend_args.as_ref().ok_or(Unsure::Language)?;
        self.traced.files.settle();
        let info = &request.toolchain.info;
        let flags = Flags::of(request.task, args, info.family)?;
        let name = language(request.task.language)?;
        if !request.toolchain.traceable {
            return Err(Unsure::Probe.into());
        }
        let library = self.library();
        let key = Key::of(request, &flags, name);
        let probe = self.probe(&library, key, request, &flags, name)?;
        let names = &library.contents.names;
        let line = Arc::new(command_line(flags.sets(), probe.mode, names)?);
        let clang = info.family == Family::Clang;
        let unit = Unit {
            mode: probe.mode,
            predefined: &probe.predefined,
            specials: &probe.specials,
            command_line: &line,
            quote: &probe.quote,
            angled: &probe.angled,
            own: &probe.own,
            preinclude: probe.preincludes.then_some(PREINCLUDED),
            imacros: &flags.imacros,
            includes: &flags.includes,
            main: request.task.source.as_os_str().as_bytes(),
        };
        if clang {
            forced_precompiled(&flags, request)?;
        }
        let mut scratch = lock(&self.scratch).pop().unwrap_or_default();
        let scanned = self.rounds(&unit, &library.contents, &probe, request, &mut scratch);
        lock(&self.scratch).push(scratch);
        let disk = scanned?;
        let mut inputs = disk.finish();
        if clang {
            add_precompiled(&mut inputs, &flags, request);
        }
        for path in &request.task.extra_inputs {
            let path = request.cwd.join(path);
            let facts = self.traced.files.facts(&path).map_err(|_| Unsure::Disk)?;
            inputs.put(&path, facts);
        }
        self.scanned.fetch_add(1, Ordering::Relaxed);
        Ok(inputs)
    }

    /// Scans until no question to the compiler is open.
    fn rounds<'r>(
        &'r self,
        unit: &Unit,
        contents: &'r Contents,
        probe: &'r Probe,
        request: &'r FindRequest<'r>,
        scratch: &mut Scratch,
    ) -> Result<Disk<'r>, NotSure> {
        for _ in 0..ROUNDS {
            let mut disk =
                Disk::new(request, &self.traced.files, &self.directories, contents, probe, unit.mode.clang);
            let scanned = scan(unit, &contents.names, &mut disk, scratch);
            if disk.open.is_empty() {
                let at = scratch.unsure_at().map(|(file, text)| disk.told(file, text));
                return scanned.map(|()| disk).map_err(|reason| NotSure { reason, at });
            }
            probe.learn(request, &self.traced, &disk.open, &disk.likely);
            let mut asked = lock(&self.asked);
            if asked.len() < ASKED {
                asked.append(&mut disk.open);
            }
        }
        Err(Unsure::Question.into())
    }

    /// What was counted since it was made.
    pub fn counts(&self) -> ScanCounts {
        let library = self.library.read().unwrap_or_else(PoisonError::into_inner).clone();
        let (parsed, parsed_bytes) = library.contents.parsed();
        ScanCounts {
            recalled: self.recalled.load(Ordering::Relaxed),
            scanned: self.scanned.load(Ordering::Relaxed),
            unsure: lock(&self.unsure).clone(),
            parsed,
            parsed_bytes,
            probes: self.probes.load(Ordering::Relaxed),
            bytes: library.contents.bytes() as u64,
        }
    }

    fn library(&self) -> Arc<Library> {
        let library = self.library.read().unwrap_or_else(PoisonError::into_inner).clone();
        if !library.contents.names.is_full() {
            return library;
        }
        let mut slot = self.library.write().unwrap_or_else(PoisonError::into_inner);
        if slot.contents.names.is_full() {
            *slot = Library::new(self.limits);
        }
        slot.clone()
    }

    fn probe(
        &self,
        library: &Library,
        key: Key,
        request: &FindRequest,
        flags: &Flags,
        language: &str,
    ) -> Result<Arc<Probe>, Unsure> {
        let slot = {
            let mut probes = lock(&library.probes);
            if probes.len() >= PROBES && !probes.contains_key(&key) {
                probes.clear();
            }
            probes.entry(key).or_default().clone()
        };
        // Others with the same flags wait for the answer.
        let mut slot = lock(&slot);
        if let Some(probe) = slot.as_ref().filter(|probe| probe.holds(&self.traced.files, &self.directories))
        {
            return Ok(probe.clone());
        }
        self.probes.fetch_add(1, Ordering::Relaxed);
        let asked = lock(&self.asked).clone();
        let probe =
            Arc::new(Probe::make(request, flags, language, &library.contents.names, &asked, &self.traced)?);
        *slot = Some(probe.clone());
        Ok(probe)
    }
}

/// The bytes of a file, if they are still those that the digest says.
pub(super) fn read_as(path: &Path, digest: Digest, files: &FileTable) -> Result<Vec<u8>, Unsure> {
    let bytes = fs_err::read(path).map_err(|_| Unsure::Disk)?;
    if files.function().digest(&bytes) == digest { Ok(bytes) } else { Err(Unsure::Disk) }
}

/// The names beside a forced header where clang's driver looks for a precompiled one.
const PRECOMPILED: [&str; 2] = [".pch", ".gch"];

fn forced_precompiled(flags: &Flags, request: &FindRequest) -> Result<(), Unsure> {
    let there = |path: &[u8], suffix: &str| {
        let mut name = path.to_vec();
        name.extend_from_slice(suffix.as_bytes());
        super::probe::absolute(request.cwd, &name).symlink_metadata().is_ok()
    };
    let any = flags.includes.iter().any(|path| PRECOMPILED.iter().any(|suffix| there(path, suffix)));
    if any { Err(Unsure::PrecompiledHeader) } else { Ok(()) }
}

fn add_precompiled(inputs: &mut Inputs, flags: &Flags, request: &FindRequest) {
    for path in &flags.includes {
        for suffix in PRECOMPILED {
            let mut name = path.clone();
            name.extend_from_slice(suffix.as_bytes());
            let path = super::probe::absolute(request.cwd, &name);
            if let (Some(directory), Some(name)) = (path.parent(), path.file_name())
                && directory.is_dir()
            {
                inputs.missed(directory, name);
            }
        }
    }
}
