//! What the environment said when the process started, kept for good.
//!
//! A build may unset or rewrite anything later; what was told at the start stays true. The values are copied
//! into static memory, because programs overwrite the place where the kernel put them.

use core::cell::UnsafeCell;
use core::ffi::{CStr, c_char};
use core::sync::atomic::{AtomicU8, Ordering};

use crate::{lists, sys, vars};

/// Room for all that is kept; values that do not fit switch the interceptor off.
const ROOM: usize = 24 << 10;

/// A piece of [`Config::text`], followed there by a NUL.
#[derive(Clone, Copy, Default)]
struct Piece {
    start: usize,
    length: usize,
}

/// The settings of this process.
pub struct Config {
    text: [u8; ROOM],
    used: usize,
    /// `NAME=value` of each of [`vars::KEPT`].
    kept: [Option<Piece>; vars::KEPT.len()],
    shims: Piece,
    shim: Piece,
    intercept: Piece,
    trace: Piece,
}

impl Config {
    /// The shims directory.
    pub fn shims(&self) -> &[u8] {
        self.piece(self.shims).to_bytes()
    }

    /// The stand-in's path.
    pub fn shim(&self) -> &CStr {
        self.piece(self.shim)
    }

    /// This library's path, as `LD_PRELOAD` has it.
    pub fn intercept(&self) -> &[u8] {
        self.piece(self.intercept).to_bytes()
    }

    /// Whether the loader can still find this library: its directory may have been removed under the build.
    pub fn is_laid_out(&self) -> bool {
        sys::is_readable(self.piece(self.intercept))
    }

    /// The trace file's path.
    pub fn trace(&self) -> &CStr {
        let text = self.piece(self.trace).to_bytes_with_nul();
        let path = text.strip_prefix(&[vars::MAKES_TRACE]).unwrap_or(text);
        CStr::from_bytes_with_nul(path).unwrap_or(c"")
    }

    /// What names the trace file in the environment.
    pub fn trace_setting(&self) -> &[u8] {
        self.piece(self.trace).to_bytes()
    }

    /// Whether the first process makes the trace file.
    fn makes_trace(&self) -> bool {
        self.trace_setting().first() == Some(&vars::MAKES_TRACE)
    }

    /// `NAME=value` of the variable at `index` in [`vars::KEPT`], if this process had it.
    pub fn kept(&self, index: usize) -> Option<&CStr> {
        self.kept.get(index).copied().flatten().map(|piece| self.piece(piece))
    }

    fn piece(&self, piece: Piece) -> &CStr {
        self.text
            .get(piece.start..piece.start + piece.length + 1)
            .and_then(|bytes| CStr::from_bytes_with_nul(bytes).ok())
            .unwrap_or(c"")
    }

    fn keep(&mut self, parts: [&[u8]; 3]) -> Option<Piece> {
        let start = self.used;
        for part in parts {
            self.text.get_mut(self.used..self.used + part.len())?.copy_from_slice(part);
            self.used += part.len();
        }
        let length = self.used - start;
        *self.text.get_mut(self.used)? = 0;
        self.used += 1;
        Some(Piece { start, length })
    }
}

/// What the interceptor does in this process.
pub enum Mode {
    Off,
    Intercept(&'static Config),
    Trace(&'static Config),
}

const OFF: u8 = 0;
const INTERCEPT: u8 = 1;
const TRACE: u8 = 2;

static MODE: AtomicU8 = AtomicU8::new(OFF);
static CONFIG: Slot = Slot(UnsafeCell::new(Config {
    text: [0; ROOM],
    used: 0,
    kept: [None; vars::KEPT.len()],
    shims: Piece { start: 0, length: 0 },
    shim: Piece { start: 0, length: 0 },
    intercept: Piece { start: 0, length: 0 },
    trace: Piece { start: 0, length: 0 },
}));

struct Slot(UnsafeCell<Config>);

// SAFETY: written once by `load`, before the process has threads; read only after `MODE` was published.
unsafe impl Sync for Slot {}

/// The mode; [`Mode::Off`] until [`load`] has run.
pub fn mode() -> Mode {
    match MODE.load(Ordering::Acquire) {
        OFF => Mode::Off,
        // SAFETY: MODE is published after the last write to CONFIG.
        mode => match (mode, unsafe { &*CONFIG.0.get() }) {
            (TRACE, config) => Mode::Trace(config),
            (_, config) => Mode::Intercept(config),
        },
    }
}

/// The settings, if this process is traced.
#[inline]
pub fn tracing() -> Option<&'static Config> {
    match mode() {
        Mode::Trace(config) => Some(config),
        _ => None,
    }
}

/// Reads the environment; called once, at load.
pub fn load() {
    // SAFETY: called once, from the library's constructor, before anything reads CONFIG.
    let config = unsafe { &mut *CONFIG.0.get() };
    // SAFETY: the environment of a process that is just starting is a valid, terminated list.
    if let Some(mode) = unsafe { read(config, sys::environment()) } {
        if mode == TRACE && config.makes_trace() {
            crate::record::make(config.trace());
        }
        MODE.store(mode, Ordering::Release);
    }
}

/// # Safety
/// `environment` is null or a list of C strings that ends in null.
unsafe fn read(config: &mut Config, environment: *const *const c_char) -> Option<u8> {
    // SAFETY: by the caller's promise.
    let get = |name: &str| unsafe { crate::environ::get(environment, name.as_bytes()) };
    if let Some(trace) = get(vars::TRACE) {
        config.trace = config.keep([trace, b"", b""])?;
        // who traces puts this library first
        let preloaded = get(vars::LD_PRELOAD).unwrap_or_default();
        let first = lists::entries(preloaded, lists::PRELOAD_SEPARATORS).next().unwrap_or_default();
        if first.ends_with(vars::INTERCEPT_FILE.as_bytes()) {
            config.intercept = config.keep([first, b"", b""])?;
        }
        return Some(TRACE);
    }
    // without a socket the stand-in could only run the compiler: leave that out
    get(vars::SOCKET).filter(|socket| !socket.is_empty())?;
    let shims = get(vars::SHIMS).filter(|shims| shims.starts_with(b"/"))?;
    config.shims = config.keep([shims, b"", b""])?;
    config.shim = config.keep([shims, b"/", vars::SHIM_FILE.as_bytes()])?;
    config.intercept = config.keep([shims, b"/", vars::INTERCEPT_FILE.as_bytes()])?;
    for (index, name) in vars::KEPT.iter().enumerate() {
        if let Some(value) = get(name) {
            let piece = config.keep([name.as_bytes(), b"=", value])?;
            *config.kept.get_mut(index)? = Some(piece);
        }
    }
    // SAFETY: as above; the strings are the process' own memory.
    unsafe { take_off_path(environment, shims) };
    Some(INTERCEPT)
}

/// Takes the shims directory off this process' own `PATH`. A parent without interceptor (a static program)
/// passes it on, but a dynamic program must never find a stand-in there and remember its path, as `configure`
/// and CMake do. Shortens the string in place.
///
/// # Safety
/// `environment` is null or a list of writable C strings that ends in null; no other thread runs.
unsafe fn take_off_path(environment: *const *const c_char, shims: &[u8]) {
    // SAFETY: by the caller's promise.
    let Some(path) = (unsafe { crate::environ::get(environment, vars::PATH.as_bytes()) }) else { return };
    // a PATH of nothing else stays: an empty one would mean the working directory
    if lists::entries(path, lists::PATH_SEPARATORS).all(|entry| lists::same(entry, shims)) {
        return;
    }
    // SAFETY: the string is writable, and `path` is not used again.
    unsafe {
        let text = core::slice::from_raw_parts_mut(path.as_ptr().cast_mut(), path.len());
        let length = lists::remove(text, shims);
        if let Some(end) = text.get_mut(length) {
            *end = 0;
        }
    }
}
