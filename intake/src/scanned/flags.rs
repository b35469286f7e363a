//! The preprocessor's part of a command: what the scanner does itself, what the compiler is asked about, and what
//! neither follows. It does not look at files.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use dbuild_compilers::{Family, Language, Task};
use dbuild_scanner::{Set, Unsure};

/// A task's flags, sorted by who deals with them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Flags {
    /// For the probe: all that may change predefined macros or search directories.
    pub probed: Vec<OsString>,
    /// `-D` (`true`) and `-U`, in the order in which they hold.
    pub sets: Vec<(bool, Vec<u8>)>,
    pub imacros: Vec<Vec<u8>>,
    pub includes: Vec<Vec<u8>>,
    /// `-trigraphs`, `-fno-trigraphs`.
    pub trigraphs: Option<bool>,
    /// `__FILE__` is not the path.
    pub mapped_names: bool,
    /// Search directories are named relative to the working directory.
    pub relative: bool,
}

/// Flags whose value is the next word, if it is not joined to them.
const DIRECTORIES: [&str; 12] = [
    "-I",
    "-isystem",
    "-iquote",
    "-idirafter",
    "-isysroot",
    "-iprefix",
    "-iwithprefix",
    "-iwithprefixbefore",
    "-B",
    "--sysroot",
    "-imultilib",
    "-cxx-isystem",
];

const SEPARATE: [&str; 8] = ["-x", "--param", "-specs", "-Xclang", "-mllvm", "-target", "-arch", "-A"];

/// Flags under which preprocessing follows other rules.
const STRANGE: [&str; 26] = [
    "-I-",
    "-remap",
    "-traditional",
    "-traditional-cpp",
    "-fdirectives-only",
    "-fpreprocessed",
    "-fno-operator-names",
    "-fms-compatibility",
    "-fms-extensions",
    "-fmodules",
    "-fmodules-ts",
    "-fno-dollars-in-identifiers",
    "-no-integrated-cpp",
    "-wrapper",
    "-include-pch",
    "-ivfsoverlay",
    "-iframework",
    "-F",
    "-Xpreprocessor",
    "-fraw-string-literals",
    "-fno-raw-string-literals",
    "-Xarch_host",
    "-Xarch_device",
    "-fsearch-include-path",
    "-frewrite-includes",
    "-dM",
];

const STRANGE_BEGINNINGS: [&str; 9] = [
    "-finput-charset",
    "-F/",
    "-fmodule",
    "-fms-",
    "-fplugin",
    "-Xarch",
    "-fmax-include-depth",
    "-fdepfile",
    "-fembed",
];

impl Flags {
    /// Sorts the arguments of the task's `-M` run.
    pub fn of(task: &Task, args: &[OsString], family: Family) -> Result<Flags, Unsure> {
        // What `reading_args` put behind the task's own.
        let ours: &[&str] = match family {
            Family::Gcc => &["-M", "-MF", "/dev/null", "-o", "/dev/null", "-fpch-preprocess"],
            Family::Clang => &["-M", "-MF", "/dev/null", "-o", "/dev/null", "-Qunused-arguments"],
            Family::Rustc => return Err(Unsure::Flag),
        };
        let own = args.len().checked_sub(ours.len()).ok_or(Unsure::Flag)?;
        let (args, tail) = args.split_at(own);
        if tail.iter().zip(ours).any(|(word, ours)| word != ours) {
            return Err(Unsure::Flag);
        }
        let mut flags = Flags::default();
        let mut late = Vec::new();
        let mut words = args.iter();
        let mut sources = 0;
        while let Some(word) = words.next() {
            let bytes = word.as_bytes();
            let mut value_of = |spelling: &str| -> Result<Option<OsString>, Unsure> {
                match bytes.strip_prefix(spelling.as_bytes()) {
                    Some(b"") => words.next().cloned().map(Some).ok_or(Unsure::Flag),
                    Some(joined) => Ok(Some(OsStr::from_bytes(joined).to_os_string())),
                    None => Ok(None),
                }
            };
            if bytes == b"-include" || bytes == b"-imacros" {
                let value = words.next().ok_or(Unsure::Flag)?.as_bytes().to_vec();
                let list = if bytes == b"-include" { &mut flags.includes } else { &mut flags.imacros };
                list.push(value);
            } else if let Some(definition) = value_of("-D")? {
                flags.sets.push((true, definition.into_encoded_bytes()));
            } else if let Some(name) = value_of("-U")? {
                flags.sets.push((false, name.into_encoded_bytes()));
            } else if let Some(list) = bytes.strip_prefix(b"-Wp,") {
                for item in list.split(|&byte| byte == b',') {
                    match item {
                        [b'-', b'D', rest @ ..] => late.push((true, rest.to_vec())),
                        [b'-', b'U', rest @ ..] => late.push((false, rest.to_vec())),
                        _ => return Err(Unsure::Flag),
                    }
                }
            } else if is_strange(bytes) {
                return Err(Unsure::Flag);
            } else if let Some(spelling) =
                DIRECTORIES.iter().find(|spelling| names_directory(bytes, spelling))
            {
                flags.probed.push(word.clone());
                let value = match &bytes[spelling.len()..] {
                    b"" => {
                        let value = words.next().ok_or(Unsure::Flag)?;
                        flags.probed.push(value.clone());
                        value.as_bytes()
                    }
                    joined => joined.strip_prefix(b"=").unwrap_or(joined),
                };
                flags.relative |= !value.starts_with(b"/");
            } else if SEPARATE.iter().any(|spelling| bytes == spelling.as_bytes()) {
                flags.probed.push(word.clone());
                flags.probed.push(words.next().ok_or(Unsure::Flag)?.clone());
            } else if bytes.first() != Some(&b'-') {
                sources += 1;
                if *word != *task.source.as_os_str() {
                    return Err(Unsure::Flag);
                }
            } else {
                match bytes {
                    b"-trigraphs" | b"-ftrigraphs" => flags.trigraphs = Some(true),
                    b"-fno-trigraphs" => flags.trigraphs = Some(false),
                    _ => {}
                }
                flags.mapped_names |= ["-ffile-prefix-map", "-fmacro-prefix-map", "-ffile-reproducible"]
                    .iter()
                    .any(|beginning| bytes.starts_with(beginning.as_bytes()));
                flags.relative |= bytes.starts_with(b"-specs") || bytes.starts_with(b"--specs");
                flags.probed.push(word.clone());
            }
        }
        if sources != 1 {
            return Err(Unsure::Flag);
        }
        flags.sets.append(&mut late);
        Ok(flags)
    }

    pub fn sets(&self) -> impl Iterator<Item = Set<'_>> {
        self.sets.iter().map(|(define, text)| if *define { Set::Define(text) } else { Set::Undefine(text) })
    }
}

fn is_strange(word: &[u8]) -> bool {
    STRANGE.iter().any(|flag| word == flag.as_bytes())
        || STRANGE_BEGINNINGS.iter().any(|beginning| word.starts_with(beginning.as_bytes()))
}

/// Whether the word is this flag, with its value joined or not.
fn names_directory(word: &[u8], spelling: &str) -> bool {
    let Some(rest) = word.strip_prefix(spelling.as_bytes()) else { return false };
    match spelling {
        "--sysroot" => rest.is_empty() || rest.starts_with(b"="),
        // `-iwithprefixbefore` is another flag.
        "-iwithprefix" => !rest.starts_with(b"before"),
        "-imultilib" | "-cxx-isystem" => rest.is_empty(),
        _ => true,
    }
}

/// The name that `-x` takes, if the scanner knows the language.
pub(super) fn language(language: Language) -> Result<&'static str, Unsure> {
    Ok(match language {
        Language::C => "c",
        Language::Cxx => "c++",
        Language::AssemblyWithCpp => "assembler-with-cpp",
        Language::CHeader => "c-header",
        Language::CxxHeader => "c++-header",
        _ => return Err(Unsure::Language),
    })
}
