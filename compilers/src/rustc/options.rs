//! The options of one call, read as rustc reads them (`rustc_session::config::optgroups`, in the manner of getopts: a
//! value stands behind `=`, directly behind a short option, or in the next word).

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::{FileKind, Files, Reason};

/// The option that is in no key.
pub(super) const WIDTH: &str = "--diagnostic-width";

/// Long options that take a value, and are of no further interest here.
const VALUED: [&str; 15] = [
    "edition",
    "allow",
    "warn",
    "force-warn",
    "deny",
    "forbid",
    "cap-lints",
    "cfg",
    "check-cfg",
    "sysroot",
    "json",
    "color",
    "remap-path-prefix",
    "remap-path-scope",
    "env-set",
];

/// `-Z` options that load or run what no trace shows.
const LOADING: [&str; 3] = ["codegen-backend", "llvm-plugins", "autodiff"];

/// What a call asks for.
#[derive(Debug, Default)]
pub(super) struct Options {
    pub inputs: Vec<OsString>,
    pub crate_name: Option<OsString>,
    pub extra_filename: OsString,
    pub out_dir: Option<PathBuf>,
    /// `-o`
    pub output: Option<PathBuf>,
    pub emits: Vec<Emit>,
    /// `--crate-type`
    crate_types: Vec<Made>,
    /// `--test`
    test: bool,
    /// Files of code generation are kept.
    pub keeps_more: bool,
    pub externs: Vec<PathBuf>,
    /// `--target`, if it is not the compiler's own.
    pub target: Option<OsString>,
    pub searched: Vec<PathBuf>,
    pub libraries: Vec<PathBuf>,
    pub rpath: bool,
    pub linker: Option<PathBuf>,
    pub width: Option<OsString>,
    /// Messages are for a program.
    pub json: bool,
    /// Code for the very processor of this machine.
    pub native: bool,
}

/// What a crate is made into (rust reference, "Linkage").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Made {
    /// For other crates.
    Library,
    /// `staticlib`
    Archive,
    /// `dylib`, `cdylib`, `proc-macro`
    Shared,
    /// `bin`, `--test`
    Program,
    Unknown,
}

impl Made {
    /// How its file is called where programs are ELF files, behind what [`CrateUnit::stems`](crate::CrateUnit::stems)
    /// begins with: that of programs, or that of libraries.
    pub fn elf_suffix(self) -> Option<(bool, &'static str)> {
        match self {
            Made::Library => Some((true, ".rlib")),
            Made::Archive => Some((true, ".a")),
            Made::Shared => Some((true, ".so")),
            Made::Program => Some((false, "")),
            Made::Unknown => None,
        }
    }
}

/// One kind of output, and where it goes if the call says that.
#[derive(Debug)]
pub(super) struct Emit {
    pub kind: OsString,
    pub path: Option<PathBuf>,
}

impl Options {
    pub fn read(words: &[OsString]) -> Result<Options, Reason> {
        let mut options = Options::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let bytes = word.as_bytes();
            let mut next = || words.next().map(OsString::as_os_str).ok_or(Reason::MissingArgument);
            if let Some(long) = bytes.strip_prefix(b"--") {
                if long.is_empty() {
                    options.inputs.extend(words.cloned());
                    break;
                }
                let (name, value) = halves(long, b'=');
                options.long(name, value, &mut next)?;
            } else if let [b'-', letters @ ..] = bytes
                && !letters.is_empty()
            {
                options.short(letters, &mut next)?;
            } else {
                options.inputs.push(word.clone());
            }
        }
        Ok(options)
    }

    /// Whether something is linked, or put into a library: the default.
    pub fn links(&self) -> bool {
        self.emits.is_empty() || self.emits.iter().any(|emit| emit.kind == "link")
    }

    /// What comes of the crate if it is linked.
    pub fn made(&self) -> &[Made] {
        match self.test || self.crate_types.is_empty() {
            true => &[Made::Program],
            false => &self.crate_types,
        }
    }

    /// Whether the target is described by a file.
    pub fn is_described(&self) -> bool {
        self.target.as_ref().is_some_and(|target| target.as_bytes().ends_with(b".json"))
    }

    /// Whether programs for the target are ELF files. dbuild itself runs where they are.
    pub fn is_elf(&self) -> bool {
        self.target.as_ref().is_none_or(|target| target.to_string_lossy().contains("-linux-"))
    }

    fn long<'w>(
        &mut self,
        name: &[u8],
        value: Option<&'w [u8]>,
        next: &mut dyn FnMut() -> Result<&'w OsStr, Reason>,
    ) -> Result<(), Reason> {
        let mut value = || match value {
            Some(value) => Ok(OsStr::from_bytes(value)),
            None => next(),
        };
        match name {
            b"test" => self.test = true,
            b"verbose" => {}
            b"extern" => self.external(value()?),
            b"target" => self.target = Some(value()?.to_owned()),
            b"help" | b"version" | b"explain" | b"print" => return Err(Reason::Query),
            b"crate-name" => self.crate_name = Some(value()?.to_owned()),
            b"crate-type" => self.crate_type(value()?),
            b"emit" => self.emit(value()?)?,
            b"out-dir" => self.out_dir = Some(value()?.into()),
            b"codegen" => self.codegen(value()?)?,
            b"error-format" => self.json = value()? == "json",
            b"diagnostic-width" => self.width = Some(value()?.to_owned()),
            name if VALUED.iter().any(|known| known.as_bytes() == name) => drop(value()?),
            _ => return Err(unknown(b"--", name)),
        }
        Ok(())
    }

    /// Letters behind one dash: flags, until one takes what is left.
    fn short<'w>(
        &mut self,
        letters: &'w [u8],
        next: &mut dyn FnMut() -> Result<&'w OsStr, Reason>,
    ) -> Result<(), Reason> {
        for (at, letter) in letters.iter().enumerate() {
            let rest = &letters[at + 1..];
            let mut value = || match rest.is_empty() {
                false => Ok(OsStr::from_bytes(rest)),
                true => next(),
            };
            match letter {
                b'g' | b'O' | b'v' => continue,
                b'h' | b'V' => return Err(Reason::Query),
                b'o' => self.output = Some(value()?.into()),
                b'L' => self.search(value()?),
                b'C' => self.codegen(value()?)?,
                b'Z' => self.unstable(value()?)?,
                b'W' | b'A' | b'D' | b'F' => {
                    if value()? == "help" {
                        return Err(Reason::Query);
                    }
                }
                b'l' => drop(value()?),
                letter => return Err(unknown(b"-", &[*letter])),
            }
            return Ok(());
        }
        Ok(())
    }

    fn crate_type(&mut self, types: &OsStr) {
        for one in types.as_bytes().split(|&byte| byte == b',') {
            self.crate_types.push(match one {
                b"lib" | b"rlib" => Made::Library,
                b"staticlib" => Made::Archive,
                b"dylib" | b"cdylib" | b"proc-macro" => Made::Shared,
                b"bin" => Made::Program,
                _ => Made::Unknown,
            });
        }
    }

    /// `--extern [OPTIONS:]NAME[=PATH]`
    fn external(&mut self, text: &OsStr) {
        let (_, path) = halves(text.as_bytes(), b'=');
        self.externs.extend(path.map(|path| PathBuf::from(OsStr::from_bytes(path))));
    }

    fn emit(&mut self, kinds: &OsStr) -> Result<(), Reason> {
        for kind in kinds.as_bytes().split(|&byte| byte == b',') {
            let (kind, path) = halves(kind, b'=');
            if path == Some(b"-") {
                return Err(Reason::WritesStdout);
            }
            let path = path.map(|path| PathBuf::from(OsStr::from_bytes(path)));
            self.emits.push(Emit { kind: OsStr::from_bytes(kind).to_owned(), path });
        }
        Ok(())
    }

    /// `-L [KIND=]PATH`. Crates that crates depend on are known by their hash; of all others found by listing, a second
    /// candidate is an error.
    fn search(&mut self, place: &OsStr) {
        let bytes = place.as_bytes();
        match halves(bytes, b'=') {
            (b"dependency", Some(path)) => self.searched.push(OsStr::from_bytes(path).into()),
            // Crates are not looked for there, libraries by their names (`rustc_session::search_paths`, `PathKind::matches`).
            (b"native" | b"framework", Some(path)) => {
                self.searched.push(OsStr::from_bytes(path).into());
                self.libraries.push(OsStr::from_bytes(path).into());
            }
            (b"crate" | b"all", Some(path)) => self.libraries.push(OsStr::from_bytes(path).into()),
            _ => self.libraries.push(place.into()),
        }
    }

    fn unstable(&mut self, option: &OsStr) -> Result<(), Reason> {
        let (name, value) = halves(option.as_bytes(), b'=');
        let name = String::from_utf8_lossy(name).replace('_', "-");
        self.native |= name == "tune-cpu" && value == Some(b"native");
        match LOADING.contains(&name.as_str()) {
            true => Err(Reason::LoadsCode),
            false if name == "help" => Err(Reason::Query),
            false => Ok(()),
        }
    }

    fn codegen(&mut self, option: &OsStr) -> Result<(), Reason> {
        let (name, value) = halves(option.as_bytes(), b'=');
        let value = OsStr::from_bytes(value.unwrap_or_default());
        // Both spellings are one to rustc.
        let name: Vec<u8> = name.iter().map(|byte| if *byte == b'_' { b'-' } else { *byte }).collect();
        match name.as_slice() {
            b"help" => return Err(Reason::Query),
            b"rpath" => self.rpath = true,
            b"save-temps" | b"split-debuginfo" => self.keeps_more = true,
            b"incremental" => return Err(Reason::Incremental),
            b"extra-filename" => self.extra_filename = value.to_owned(),
            b"linker" => self.linker = Some(value.into()),
            b"target-cpu" => self.native |= value == "native",
            b"link-arg" | b"link-args" if loads_plugins(value.as_bytes()) => return Err(Reason::LoadsCode),
            b"passes" | b"llvm-args" if value.as_bytes().windows(4).any(|four| four == b"load") => {
                return Err(Reason::LoadsCode);
            }
            _ => {}
        }
        Ok(())
    }
}

/// Whether words for a linker or its driver name code that it is to load (ld's manual, `-plugin`; lld's, `--load-pass-plugin`).
fn loads_plugins(words: &[u8]) -> bool {
    const LOADING: [&[u8]; 3] = [b"fplugin", b"load-pass-plugin", b"plugin"];
    let mut words = words.split(|byte| matches!(byte, b' ' | b',' | b'='));
    words.any(|word| {
        let bare = word.strip_prefix(b"-").map(|word| word.strip_prefix(b"-").unwrap_or(word));
        bare.is_some_and(|bare| LOADING.contains(&bare))
    })
}

fn unknown(dashes: &[u8], name: &[u8]) -> Reason {
    Reason::unknown(OsStr::from_bytes(&[dashes, name].concat()))
}

/// The text before and behind the first `separator`.
fn halves(text: &[u8], separator: u8) -> (&[u8], Option<&[u8]>) {
    match text.iter().position(|&byte| byte == separator) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    }
}

/// The words of a call without `argv[0]`, each `@path` replaced by the lines of that file, and those files. They do not
/// nest ("Command-line Arguments", `@path`).
pub(super) fn expand(
    argv: &[OsString],
    cwd: &Path,
    files: &dyn Files,
) -> Result<(Vec<OsString>, Vec<PathBuf>), Reason> {
    let (mut words, mut read) = (Vec::with_capacity(argv.len()), Vec::new());
    for word in argv {
        let Some(name) = word.as_bytes().strip_prefix(b"@") else {
            words.push(word.clone());
            continue;
        };
        let path = cwd.join(OsStr::from_bytes(name));
        if files.kind(&path) != Some(FileKind::File) {
            return Err(Reason::ResponseFile);
        }
        let text = files.read(&path).map_err(|_| Reason::ResponseFile)?;
        if std::str::from_utf8(&text).is_err() || text.contains(&0) {
            return Err(Reason::ResponseFile);
        }
        let mut lines: Vec<&[u8]> = text.split(|&byte| byte == b'\n').collect();
        // The last line's end is not the beginning of another.
        lines.pop_if(|last| last.is_empty());
        let line = |line: &[u8]| OsString::from_vec(line.strip_suffix(b"\r").unwrap_or(line).to_vec());
        words.extend(lines.into_iter().map(line));
        read.push(path);
    }
    Ok((words, read))
}
