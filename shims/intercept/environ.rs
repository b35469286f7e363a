//! A child's environment: what is in it, and a copy with the few variables changed that matter to us.
//!
//! Runs between `vfork` and `exec`: the copy is an array of pointers and a few strings on the stack, all other
//! strings are shared. Only a huge environment goes to mapped memory, which a successful `exec` out of a
//! `vfork` child leaves mapped in the parent.

use core::ffi::c_char;
use core::mem::MaybeUninit;

use crate::config::{self, Config, Mode};
use crate::{lists, sys, vars};

/// A list of variables as `execve` takes it: C strings, then null.
pub type List = *const *const c_char;

/// The value of the first variable called `name`.
///
/// # Safety
/// `list` is null or a list of C strings, ended by null, that lives for `'a`.
pub unsafe fn get<'a>(list: List, name: &[u8]) -> Option<&'a [u8]> {
    // SAFETY: by the caller's promise.
    unsafe { variables(list) }.find_map(|(_, text)| value_of(text, name))
}

/// # Safety
/// As for [`get`].
unsafe fn variables<'a>(list: List) -> impl Iterator<Item = (*const c_char, &'a [u8])> {
    let mut next = list;
    core::iter::from_fn(move || {
        if next.is_null() {
            return None;
        }
        // SAFETY: `next` has not passed the null that ends the list.
        unsafe {
            let text = *next;
            let bytes = sys::bytes(text)?;
            next = next.add(1);
            Some((text, bytes))
        }
    })
}

/// What a program is told of a variable's value: not that it is traced, and not that this library is preloaded, as far as
/// the value then still ends where it ended. Programs compile such values in, and cargo compares them.
pub fn without_us<'a>(name: &[u8], value: &'a [u8]) -> Option<&'a [u8]> {
    if name == vars::TRACE.as_bytes() {
        return None;
    }
    let ours = match config::mode() {
        Mode::Off => return Some(value),
        Mode::Intercept(config) | Mode::Trace(config) => config.intercept(),
    };
    if name != vars::LD_PRELOAD.as_bytes() || ours.is_empty() {
        return Some(value);
    }
    match value.strip_prefix(ours) {
        Some(b"") => None,
        Some([b':' | b' ', rest @ ..]) => Some(rest),
        _ => Some(value),
    }
}

fn value_of<'a>(text: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    text.strip_prefix(name)?.strip_prefix(b"=")
}

/// What became of our library in `LD_PRELOAD`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Preload {
    AsIs,
    /// In the list, first if it was not there.
    With,
    /// Out of the list.
    Without,
}

/// What became of the shims directory on `PATH`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Shims {
    AsIs,
    First,
    Absent,
}

/// How a child's environment has to be. A child without `PATH` gets none.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    pub preload: Preload,
    pub shims: Shims,
    /// The value of [`vars::EXEC_PATH`], if it is to be set.
    pub exec_path: Option<&'a [u8]>,
}

/// What one pass over a child's environment found.
pub struct Seen {
    count: usize,
    /// Bytes of the variables that may have to be written anew, each with room for what may be added.
    rewritten: usize,
    has_preload: bool,
    preloads_us: bool,
    has_path: bool,
    shims_on_path: bool,
    shims_first: bool,
    kept: [bool; vars::KEPT.len()],
    /// [`vars::DISABLE`] is 1.
    pub disabled: bool,
    /// The child belongs to another dbuild, whose shims are elsewhere.
    pub elsewhere: bool,
}

/// Looks through a child's environment.
///
/// # Safety
/// As for [`get`].
pub unsafe fn look(list: List, config: &Config) -> Seen {
    let mut seen = Seen {
        count: 0,
        rewritten: 0,
        has_preload: false,
        preloads_us: false,
        has_path: false,
        shims_on_path: false,
        shims_first: false,
        kept: [false; vars::KEPT.len()],
        disabled: false,
        elsewhere: false,
    };
    let room = config.shims().len() + config.intercept().len() + 4;
    // SAFETY: by the caller's promise.
    for (_, text) in unsafe { variables(list) } {
        seen.count += 1;
        if let Some(value) = value_of(text, vars::LD_PRELOAD.as_bytes()) {
            seen.has_preload = true;
            seen.preloads_us |= lists::has(value, lists::PRELOAD_SEPARATORS, config.intercept());
            seen.rewritten += text.len() + room;
        } else if let Some(value) = value_of(text, vars::PATH.as_bytes()) {
            let mut entries = lists::entries(value, lists::PATH_SEPARATORS);
            seen.has_path = true;
            seen.shims_first = entries.next().is_some_and(|first| lists::same(first, config.shims()));
            seen.shims_on_path |= lists::has(value, lists::PATH_SEPARATORS, config.shims());
            seen.rewritten += text.len() + room;
        } else if text.starts_with(b"DBUILD_") {
            seen.disabled |= value_of(text, vars::DISABLE.as_bytes()) == Some(b"1");
            let shims = value_of(text, vars::SHIMS.as_bytes());
            seen.elsewhere |= shims.is_some_and(|shims| !lists::same(shims, config.shims()));
            for (name, kept) in vars::KEPT.iter().zip(&mut seen.kept) {
                *kept |= value_of(text, name.as_bytes()).is_some();
            }
        }
    }
    seen
}

impl Seen {
    fn is_already(&self, wanted: &Wanted, config: &Config) -> bool {
        let preload = match wanted.preload {
            Preload::AsIs => true,
            Preload::With => self.preloads_us,
            Preload::Without => !self.preloads_us,
        };
        let path = match wanted.shims {
            Shims::AsIs => true,
            Shims::First => self.shims_first || !self.has_path,
            Shims::Absent => !self.shims_on_path,
        };
        let kept = self.kept.iter().enumerate().all(|(index, kept)| *kept || config.kept(index).is_none());
        preload && path && kept && wanted.exec_path.is_none()
    }
}

/// Words of the stack that a copy may take; a usual environment needs about a third.
const ON_STACK: usize = 2048;
const WORD: usize = size_of::<usize>();

/// Calls `then` with `list` changed as wanted: with `list` itself if it is so already, or if there is no
/// memory for a copy.
///
/// # Safety
/// As for [`get`]; `seen` is what [`look`] found in this very list.
pub unsafe fn with<R>(
    list: List,
    seen: &Seen,
    wanted: &Wanted,
    config: &Config,
    then: impl FnOnce(List) -> R,
) -> R {
    if seen.is_already(wanted, config) {
        return then(list);
    }
    // what may be added: LD_PRELOAD, the kept ones, EXEC_PATH, and the null
    let slots = seen.count + vars::KEPT.len() + 3;
    let added = config.intercept().len() + wanted.exec_path.map_or(0, <[u8]>::len) + 64;
    let words = slots + (seen.rewritten + added).div_ceil(WORD);
    if words <= ON_STACK {
        // SAFETY: as promised to this function.
        return unsafe { on_stack(list, slots, wanted, config, then) };
    }
    let Some(memory) = sys::map_private(words * WORD) else { return then(list) };
    // SAFETY: the mapping is `words` long, aligned to a page, and zeroed.
    let copy = unsafe { core::slice::from_raw_parts_mut(memory.cast::<MaybeUninit<usize>>(), words) };
    // SAFETY: as promised to this function.
    let result = then(unsafe { copied(list, copy, slots, wanted, config) }.unwrap_or(list));
    // SAFETY: the copy is not used any more.
    unsafe { sys::unmap(memory, words * WORD) };
    result
}

/// Apart from [`with`], so that only calls that need the space take it.
#[inline(never)]
unsafe fn on_stack<R>(
    list: List,
    slots: usize,
    wanted: &Wanted,
    config: &Config,
    then: impl FnOnce(List) -> R,
) -> R {
    let mut memory = [MaybeUninit::uninit(); ON_STACK];
    // SAFETY: as promised to `with`.
    then(unsafe { copied(list, &mut memory, slots, wanted, config) }.unwrap_or(list))
}

/// Writes the changed copy: `slots` pointers, then the strings that are new. `None` if the space was misjudged.
unsafe fn copied(
    list: List,
    memory: &mut [MaybeUninit<usize>],
    slots: usize,
    wanted: &Wanted,
    config: &Config,
) -> Option<List> {
    let (pointers, strings) = memory.split_at_mut_checked(slots)?;
    let size = strings.len() * WORD;
    let mut copy = Copy {
        pointers,
        count: 0,
        // SAFETY: the same memory, seen as bytes; it is only written to before it is read.
        strings: unsafe { core::slice::from_raw_parts_mut(strings.as_mut_ptr().cast(), size) },
    };
    let (mut preloaded, mut kept) = (false, [false; vars::KEPT.len()]);
    // SAFETY: as promised to `with`.
    for (pointer, text) in unsafe { variables(list) } {
        if let Some(value) = value_of(text, vars::LD_PRELOAD.as_bytes()) {
            preloaded = true;
            copy.preload(pointer, value, wanted.preload, config)?;
        } else if let Some(value) = value_of(text, vars::PATH.as_bytes()) {
            copy.path(pointer, value, wanted.shims, config)?;
        } else if wanted.exec_path.is_some() && value_of(text, vars::EXEC_PATH.as_bytes()).is_some() {
            // replaced below
        } else {
            for (name, kept) in vars::KEPT.iter().zip(&mut kept) {
                *kept |= value_of(text, name.as_bytes()).is_some();
            }
            copy.push(pointer)?;
        }
    }
    if !preloaded && wanted.preload == Preload::With {
        copy.write(&[vars::LD_PRELOAD.as_bytes(), b"=", config.intercept()])?;
    }
    for (index, _) in kept.iter().enumerate().filter(|(_, kept)| !**kept) {
        if let Some(text) = config.kept(index) {
            copy.push(text.as_ptr())?;
        }
    }
    if let Some(path) = wanted.exec_path {
        copy.write(&[vars::EXEC_PATH.as_bytes(), b"=", path])?;
    }
    copy.push(core::ptr::null())?;
    Some(copy.pointers.as_ptr().cast())
}

/// An environment in the making.
struct Copy<'a> {
    pointers: &'a mut [MaybeUninit<usize>],
    count: usize,
    /// What is left of the space for strings.
    strings: &'a mut [MaybeUninit<u8>],
}

impl Copy<'_> {
    fn push(&mut self, text: *const c_char) -> Option<()> {
        self.pointers.get_mut(self.count)?.write(text as usize);
        self.count += 1;
        Some(())
    }

    fn byte(&mut self, byte: u8) -> Option<()> {
        let (place, rest) = core::mem::take(&mut self.strings).split_first_mut()?;
        place.write(byte);
        self.strings = rest;
        Some(())
    }

    fn bytes(&mut self, text: &[u8]) -> Option<()> {
        text.iter().try_for_each(|&byte| self.byte(byte))
    }

    /// Pushes a new variable made of `parts`.
    fn write(&mut self, parts: &[&[u8]]) -> Option<()> {
        let start = self.strings.as_ptr();
        parts.iter().try_for_each(|part| self.bytes(part))?;
        self.byte(0)?;
        self.push(start.cast())
    }

    /// Pushes `NAME=`, `first` (if any), and the entries of `list` but for `gone`.
    fn list(
        &mut self,
        name: &str,
        first: Option<&[u8]>,
        list: &[u8],
        separators: &'static [u8],
        gone: &[u8],
    ) -> Option<()> {
        let start = self.strings.as_ptr();
        self.bytes(name.as_bytes())?;
        self.byte(b'=')?;
        self.bytes(first.unwrap_or_default())?;
        let mut any = first.is_some();
        for entry in lists::entries(list, separators).filter(|entry| !lists::same(entry, gone)) {
            if any {
                self.byte(b':')?;
            }
            self.bytes(entry)?;
            any = true;
        }
        self.byte(0)?;
        self.push(start.cast())
    }

    fn preload(
        &mut self,
        pointer: *const c_char,
        value: &[u8],
        wanted: Preload,
        config: &Config,
    ) -> Option<()> {
        let ours = config.intercept();
        let separators = lists::PRELOAD_SEPARATORS;
        let has = lists::has(value, separators, ours);
        match wanted {
            Preload::With if value.is_empty() => self.write(&[vars::LD_PRELOAD.as_bytes(), b"=", ours]),
            Preload::With if !has => self.list(vars::LD_PRELOAD, Some(ours), value, separators, ours),
            Preload::Without if has => self.list(vars::LD_PRELOAD, None, value, separators, ours),
            _ => self.push(pointer),
        }
    }

    fn path(&mut self, pointer: *const c_char, value: &[u8], wanted: Shims, config: &Config) -> Option<()> {
        let ours = config.shims();
        let separators = lists::PATH_SEPARATORS;
        match wanted {
            Shims::First => self.list(vars::PATH, Some(ours), value, separators, ours),
            Shims::Absent if lists::has(value, separators, ours) => {
                self.list(vars::PATH, None, value, separators, ours)
            }
            _ => self.push(pointer),
        }
    }
}
