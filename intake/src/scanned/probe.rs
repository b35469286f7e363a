//! What a compiler says of itself under one set of flags: predefined macros, search directories, and the answers to
//! `__has_builtin` and its like. Asked from the compiler itself, observed like any compile, so that all that the
//! driver looked at or missed on the way is known, too.

use std::collections::{BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use dbuild_compilers::Family;
use dbuild_scanner::{Content, Dialect, Mode, Names, Question, Special, Symbol, Unsure, parse};

use super::flags::Flags;
use crate::files::{FileTable, lock};
use crate::finder::{FindRequest, TracedDepends};
use crate::inputs::{Input, Role};
use crate::listings::DirTable;
use crate::observe::Absent;

/// Questions that are asked in one run at most.
const AT_ONCE: usize = 2000;

/// More answers than any project needs.
const ANSWERS: usize = 20_000;

/// What was asked, of anybody.
pub(super) type Asked = BTreeSet<Operator>;

/// A question and its operand.
pub(super) type Operator = (Question, Vec<u8>);

type Paths = Vec<Vec<u8>>;

pub(super) struct Probe {
    pub mode: Mode,
    pub predefined: Arc<Content>,
    pub specials: Vec<(Symbol, Special)>,
    pub quote: Vec<Vec<u8>>,
    pub angled: Vec<Vec<u8>>,
    pub own: Vec<bool>,
    /// gcc includes its `stdc-predef.h`.
    pub preincludes: bool,
    /// What the driver and the compiler proper looked at besides headers.
    pub files: Vec<Input>,
    pub absent: Vec<Absent>,
    pub directories: Vec<PathBuf>,
    pub programs: Vec<PathBuf>,
    /// (device, inode) of `directories`.
    identities: Vec<(u64, u64)>,
    answers: Mutex<HashMap<Operator, Option<i64>>>,
    /// The command that asks, up to the source.
    args: Vec<OsString>,
}

/// The header that gcc includes by itself, where it is found (`glibc-c.cc`).
pub(super) const PREINCLUDED: &[u8] = b"stdc-predef.h";

impl Probe {
    /// Asks the compiler. `asked`: questions that others had; their answers come along.
    pub fn make(
        request: &FindRequest,
        flags: &Flags,
        language: &str,
        names: &Names,
        asked: &Asked,
        traced: &TracedDepends,
    ) -> Result<Probe, Unsure> {
        let family = request.toolchain.info.family;
        let mut args = flags.probed.clone();
        args.extend(["-E", "-x", language].map(OsString::from));
        let place = source(traced)?;
        let mut text = Vec::new();
        for (index, (name, _)) in Special::ALL.iter().enumerate() {
            text.extend_from_slice(format!("#ifdef {name}\ndbuild_special {index}\n#endif\n").as_bytes());
        }
        let file = place.path().join("probe.c");
        fs_err::write(&file, text).map_err(|_| Unsure::Probe)?;
        let mut run = args.clone();
        run.extend(["-v", "-dD"].map(OsString::from));
        run.push(file.into_os_string());
        let (mut observed, ran) = traced.watch(request, &run, true).map_err(|_| Unsure::Probe)?;
        // Where it happened to be asked is nothing to the units of other directories.
        observed.directories.retain(|directory| directory != request.cwd);

        let said = Said::read(&ran.stdout);
        let find = |name: &str| said.number(name);
        let strict = said.defines(b"__STRICT_ANSI__");
        let clang = family == Family::Clang;
        let dialect = Dialect {
            clang,
            major: request.toolchain.info.version.0,
            asm: language == "assembler-with-cpp",
            cplusplus: find("__cplusplus"),
            stdc_version: find("__STDC_VERSION__"),
            strict,
            signed_wide: matches!(said.value(b"__WCHAR_TYPE__"), Some(b"int" | b"long int" | b"long")),
            trigraphs: flags.trigraphs,
            mapped_names: flags.mapped_names,
        };
        if !said.defines(b"__STDC__") && !flags.probed.iter().any(|word| word == "-undef") {
            return Err(Unsure::Probe);
        }
        let (quote, angled) = directories(&ran.stderr)?;
        // The compiler's own headers test macros that its pragmas have changed; they know what they do.
        let own = quote
            .iter()
            .chain(&angled)
            .map(|path| {
                let path = String::from_utf8_lossy(path);
                path.contains("/lib/gcc/") && !path.contains("..") || path.contains("/lib/clang/")
            })
            .collect();
        let mut files = Vec::with_capacity(observed.files.len());
        for path in &observed.files {
            if path.file_name().is_some_and(|name| name.as_bytes() == PREINCLUDED) {
                continue;
            }
            let facts = traced.files.facts(path).map_err(|_| Unsure::Disk)?;
            files.push(Input {
                path: path.clone(),
                digest: facts.digest,
                executable: facts.executable,
                role: Role::Other,
            });
        }
        let mode = dialect.mode();
        let probe = Probe {
            mode,
            predefined: Arc::new(parse(&said.defines, mode, names)),
            specials: said
                .specials
                .iter()
                .filter_map(|&index| Special::ALL.get(index))
                .filter(|(name, _)| !said.defines(name.as_bytes()))
                .map(|&(name, special)| (names.intern(name.as_bytes()), special))
                .collect(),
            quote,
            angled,
            own,
            preincludes: !clang
                && (said.preincluded
                    || find("__STDC_HOSTED__") == 1 && !flags.probed.iter().any(|word| word == "-nostdinc")),
            files,
            identities: observed
                .directories
                .iter()
                .map(|path| identity(path))
                .collect::<Option<_>>()
                .ok_or(Unsure::Disk)?,
            absent: observed.absent,
            directories: observed.directories,
            programs: observed.programs,
            answers: Mutex::default(),
            args,
        };
        probe.learn(request, traced, &Asked::new(), asked);
        Ok(probe)
    }

    /// Whether the compiler would still say the same: all that it looked at is as it was.
    pub fn holds(&self, files: &FileTable, directories: &DirTable) -> bool {
        let absent = |absent: &Absent| {
            let names = absent.names.iter().map(OsString::as_os_str);
            directories.first_present(&absent.directory, names).is_ok_and(|present| present.is_none())
        };
        let same = |(path, &known): (&PathBuf, &(u64, u64))| identity(path) == Some(known);
        let unchanged = |input: &Input| {
            files
                .facts(&input.path)
                .is_ok_and(|facts| facts.digest == input.digest && facts.executable == input.executable)
        };
        self.absent.iter().all(absent)
            && self.directories.iter().zip(&self.identities).all(same)
            && self.files.iter().all(unchanged)
    }

    fn has(&self, question: Question) -> bool {
        self.specials.iter().any(|(_, special)| *special == Special::Asks(question))
    }

    /// The answer to a question, if it was ever asked. `Some(None)`: the compiler gave none.
    pub fn answer(&self, question: Question, operand: &[u8]) -> Option<Option<i64>> {
        lock(&self.answers).get(&(question, operand.to_vec())).copied()
    }

    /// Asks what is `open`; `likely` comes along, as every run costs a start of the compiler.
    pub fn learn(&self, request: &FindRequest, traced: &TracedDepends, open: &Asked, likely: &Asked) {
        let all: Vec<_> = open.union(likely).filter(|(question, _)| self.has(*question)).cloned().collect();
        let new = |asked: &Operator| !lock(&self.answers).contains_key(asked);
        let mut batch: Vec<_> = all.into_iter().filter(new).take(AT_ONCE).collect();
        if lock(&self.answers).len() >= ANSWERS {
            batch.clear();
        }
        self.question(request, traced, &batch);
        // Nearer words may have got in the way of an answer.
        for asked in open.iter().filter(|asked| new(asked)) {
            self.question(request, traced, std::slice::from_ref(asked));
            lock(&self.answers).entry(asked.clone()).or_insert(None);
        }
    }

    fn question(&self, request: &FindRequest, traced: &TracedDepends, open: &[Operator]) {
        if open.is_empty() {
            return;
        }
        let Some(answers) = self.try_question(request, traced, open) else { return };
        lock(&self.answers).extend(answers.into_iter().map(|(key, value)| (key, Some(value))));
    }

    fn try_question(
        &self,
        request: &FindRequest,
        traced: &TracedDepends,
        open: &[Operator],
    ) -> Option<Vec<(Operator, i64)>> {
        let mut text = Vec::new();
        for (index, (question, operand)) in open.iter().enumerate() {
            // An operand is the macro's business only if it is none itself.
            if operand.iter().all(|&byte| byte.is_ascii_alphanumeric() || byte == b'_') {
                text.extend_from_slice(b"#undef ");
                text.extend_from_slice(operand);
                text.push(b'\n');
            }
            text.extend_from_slice(format!("dbuild_answer {index} {}(", question.name()).as_bytes());
            text.extend_from_slice(operand);
            text.extend_from_slice(b")\n");
        }
        let place = source(traced).ok()?;
        let file = place.path().join("probe.c");
        fs_err::write(&file, text).ok()?;
        let mut args = self.args.clone();
        args.extend(["-P", "-w"].map(OsString::from));
        args.push(file.into_os_string());
        // Whatever the status: what is no question here is an error there, and the others are answered all the same.
        let ran = traced.run_unobserved(request, &args).ok()?;
        let mut answers = Vec::new();
        for line in ran.stdout.split(|&byte| byte == b'\n') {
            let Some(rest) = line.strip_prefix(b"dbuild_answer ") else { continue };
            let rest = std::str::from_utf8(rest).ok()?;
            let mut words = rest.split_ascii_whitespace();
            let index: usize = words.next()?.parse().ok()?;
            let value = words.next()?.trim_end_matches(['L', 'l', 'U', 'u']).parse().ok();
            if let (Some(key), Some(value), None) = (open.get(index), value, words.next()) {
                answers.push((key.clone(), value));
            }
        }
        Some(answers)
    }
}

fn source(traced: &TracedDepends) -> Result<tempfile::TempDir, Unsure> {
    tempfile::Builder::new().prefix("probe-").tempdir_in(&traced.scratch).map_err(|_| Unsure::Probe)
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let meta = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_dir)?;
    Some((meta.dev(), meta.ino()))
}

/// The output of `-E -dD`, with only what the compiler itself defines.
#[derive(Default)]
struct Said {
    /// `#define` lines.
    defines: Vec<u8>,
    specials: Vec<usize>,
    preincluded: bool,
}

impl Said {
    fn read(output: &[u8]) -> Said {
        let mut said = Said::default();
        let mut by_compiler = false;
        for line in output.split(|&byte| byte == b'\n') {
            if let Some(marker) = line.strip_prefix(b"# ") {
                let name = marker.split(|&byte| byte == b'"').nth(1).unwrap_or_default();
                by_compiler = matches!(name, b"<built-in>" | b"<command-line>" | b"<command line>");
                said.preincluded |= name.ends_with(PREINCLUDED);
            } else if let Some(index) = line.strip_prefix(b"dbuild_special ") {
                said.specials
                    .extend(std::str::from_utf8(index).ok().and_then(|index| index.parse::<usize>().ok()));
            } else if by_compiler && (line.starts_with(b"#define ") || line.starts_with(b"#undef ")) {
                said.defines.extend_from_slice(line);
                said.defines.push(b'\n');
            }
        }
        said
    }

    fn value(&self, name: &[u8]) -> Option<&[u8]> {
        let mut lines = self.defines.split(|&byte| byte == b'\n');
        lines.find_map(|line| {
            let rest = line.strip_prefix(b"#define ")?.strip_prefix(name)?;
            rest.first().is_none_or(|&byte| byte == b' ' || byte == b'(').then_some(rest.trim_ascii())
        })
    }

    fn defines(&self, name: &[u8]) -> bool {
        self.value(name).is_some()
    }

    fn number(&self, name: &str) -> u64 {
        let digits = self.value(name.as_bytes()).and_then(|value| std::str::from_utf8(value).ok());
        digits.and_then(|value| value.trim_end_matches(['L', 'l', 'U', 'u']).parse().ok()).unwrap_or(0)
    }
}

/// The lists of search directories that `-v` prints.
fn directories(stderr: &[u8]) -> Result<(Paths, Paths), Unsure> {
    let (mut quote, mut angled) = (Vec::new(), Vec::new());
    let mut list: Option<&mut Vec<Vec<u8>>> = None;
    let mut ended = false;
    for line in stderr.split(|&byte| byte == b'\n') {
        if line.starts_with(b"#include \"...\" search starts here:") {
            list = Some(&mut quote);
        } else if line.starts_with(b"#include <...> search starts here:") {
            list = Some(&mut angled);
        } else if line.starts_with(b"End of search list.") {
            list = None;
            ended = true;
        } else if let Some(list) = &mut list {
            let path = line.strip_prefix(b" ").ok_or(Unsure::Probe)?;
            if path.ends_with(b" (framework directory)") || path.ends_with(b" (headermap)") {
                return Err(Unsure::Flag);
            }
            list.push(path.to_vec());
        }
    }
    if ended { Ok((quote, angled)) } else { Err(Unsure::Probe) }
}

/// What decides what a probe says.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    toolchain: dbuild_proto::Digest,
    compiler: PathBuf,
    argv0: OsString,
    language: &'static str,
    flags: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    /// Where it was asked, if that matters.
    cwd: Option<PathBuf>,
}

impl Key {
    pub fn of(request: &FindRequest, flags: &Flags, language: &'static str) -> Key {
        let env = dbuild_compilers::relevant_env(request.toolchain.info.family, request.env);
        let relative = env.iter().any(|(name, value)| {
            name.as_bytes().ends_with(b"PATH") && std::env::split_paths(value).any(|path| !path.is_absolute())
        });
        let env = env.into_iter().filter(|(name, _)| name != "PWD").collect();
        Key {
            toolchain: request.toolchain.id,
            compiler: request.toolchain.compiler.clone(),
            argv0: request.argv0.to_os_string(),
            language,
            flags: flags.probed.clone(),
            env,
            cwd: (flags.relative || relative).then(|| request.cwd.to_path_buf()),
        }
    }
}

/// Absolute, as the kernel would follow it from `cwd`.
pub(super) fn absolute(cwd: &Path, path: &[u8]) -> PathBuf {
    if path.is_empty() {
        return cwd.to_path_buf();
    }
    let joined = cwd.join(OsStr::from_bytes(path));
    PathBuf::from(OsString::from_vec(crate::observe::tidy(&joined).as_bytes().to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn search_lists_are_read() {
        let text = b"ignoring nonexistent directory \"/x\"\n#include \"...\" search starts here:\n q\n\
                     #include <...> search starts here:\n /a b\n /c\nEnd of search list.\n";
        let (quote, angled) = directories(text).unwrap();
        assert_eq!((quote, angled), (vec![b"q".to_vec()], vec![b"/a b".to_vec(), b"/c".to_vec()]));
        assert!(directories(b"").is_err());
    }

    #[test]
    fn only_the_compilers_own_definitions_count() {
        let said = Said::read(
            b"# 0 \"<built-in>\"\n#define __STDC__ 1\n#define __cplusplus 201703L\n\
              # 1 \"/usr/include/stdc-predef.h\" 1 3 4\n#define A 1\n# 0 \"<command-line>\" 2\n\
              # 1 \"p.c\"\ndbuild_special 3\n",
        );
        assert_eq!(said.specials, [3]);
        assert!(
            said.defines(b"__STDC__") && !said.defines(b"A") && !said.defines(b"__STD") && said.preincluded
        );
        assert_eq!(said.number("__cplusplus"), 201_703);
    }
}
