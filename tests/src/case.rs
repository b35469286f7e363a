//! The table of cases as it is written in `cases/*.toml`: reading it, and laying a row's files out.
//!
//! A row is a set of files and one or more steps; a step may change something and then runs a command. Every row has
//! the files of `cases/files/` besides its own. In names, contents and `argv`, `%XX` is a byte. `$CC` and `$CXX` are the
//! compiler; `$DIR` in `env` is the row's directory.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Deserialize;

use crate::Mount;
use crate::expect::Kind;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    Gcc,
    Clang,
}

impl Family {
    /// The values of `$CC` and `$CXX`.
    pub fn compilers(self) -> (&'static str, &'static str) {
        match self {
            Family::Gcc => ("gcc", "g++"),
            Family::Clang => ("clang", "clang++"),
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    row: Vec<Row>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    pub name: String,
    /// Both, unless given.
    #[serde(default = "both")]
    pub families: Vec<Family>,
    /// Programs, or `mount` for the right to mount, `cc1obj` for gcc's Objective-C, or `profile-runtime` for
    /// what clang links with for coverage.
    #[serde(default)]
    pub needs: Vec<String>,
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    #[serde(default)]
    pub symlinks: BTreeMap<String, String>,
    #[serde(default)]
    pub dirs: Vec<String>,
    /// Directory → `read-only` or `full`.
    #[serde(default)]
    pub mounts: BTreeMap<String, String>,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Files whose bytes differ from run to run of the plain compiler; `stdout` and `stderr` mean the streams.
    #[serde(default)]
    pub unstable: Vec<String>,
    /// Why they do.
    #[serde(default)]
    pub note: String,
    /// One run of the command if there are no steps.
    #[serde(default)]
    pub steps: Vec<Step>,

    // What a step that does not say otherwise has.
    pub run: Option<String>,
    pub argv: Option<Vec<String>>,
    #[serde(default)]
    pub kind: Kind,
    #[serde(default = "one")]
    pub tasks: u64,
    pub reason: Option<String>,
    #[serde(default)]
    pub code: i32,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    #[serde(default)]
    pub write: BTreeMap<String, String>,
    #[serde(default)]
    pub remove: Vec<String>,
    /// A shell command that runs without dbuild, after `write` and `remove`.
    pub before: Option<String>,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    pub run: Option<String>,
    pub argv: Option<Vec<String>>,
    pub kind: Option<Kind>,
    pub tasks: Option<u64>,
    pub reason: Option<String>,
    pub code: Option<i32>,
}

fn both() -> Vec<Family> {
    vec![Family::Gcc, Family::Clang]
}

fn one() -> u64 {
    1
}

/// Every row of `cases/*.toml`, in the order of file names and lines. Names are unique.
pub fn rows() -> Vec<Row> {
    let dir = cases_dir();
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    let mut rows = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let table: Table =
            toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        rows.extend(table.row);
    }
    let names: std::collections::BTreeSet<&str> = rows.iter().map(|row: &Row| row.name.as_str()).collect();
    assert_eq!(names.len(), rows.len(), "two rows have one name");
    rows
}

fn cases_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cases")
}

/// Makes `dir` with the files that every row has.
pub fn standard_files(dir: &Path) {
    std::fs::create_dir_all(dir).unwrap();
    for entry in std::fs::read_dir(cases_dir().join("files")).unwrap() {
        let from = entry.unwrap().path();
        let to = dir.join(from.file_name().unwrap());
        std::fs::write(&to, std::fs::read(&from).unwrap()).unwrap();
        set_time(&to, 0);
    }
}

impl Row {
    /// The steps with every default filled in.
    pub fn steps(&self) -> Vec<Step> {
        let steps = if self.steps.is_empty() { vec![Step::default()] } else { self.steps.clone() };
        let fill = |step: Step| Step {
            env: self.env.clone().into_iter().chain(step.env).collect(),
            argv: if step.run.is_some() { None } else { step.argv.or_else(|| self.argv.clone()) },
            run: step.run.or_else(|| self.run.clone()),
            kind: step.kind.or(Some(self.kind)),
            tasks: step.tasks.or(Some(self.tasks)),
            reason: step.reason.or_else(|| self.reason.clone()),
            code: step.code.or(Some(self.code)),
            ..step
        };
        steps.into_iter().map(fill).collect()
    }

    /// Makes `dir` anew with the row's files. The mounts last as long as what is returned.
    pub fn lay_out(&self, dir: &Path) -> Vec<Mount> {
        standard_files(dir);
        for name in &self.dirs {
            std::fs::create_dir_all(dir.join(decode(name))).unwrap();
        }
        write_files(dir, &self.files, 0);
        for (name, target) in &self.symlinks {
            std::os::unix::fs::symlink(decode(target), dir.join(decode(name))).unwrap();
        }
        let mount = |(name, kind): (&String, &String)| {
            let at = dir.join(name);
            std::fs::create_dir_all(&at).unwrap();
            match kind.as_str() {
                "read-only" => Mount::read_only(&at),
                "full" => Mount::small(&at, 16, true),
                other => panic!("{}: no such mount: {other}", self.name),
            }
        };
        self.mounts.iter().map(mount).collect()
    }
}

impl Step {
    /// Makes the step's changes; `index` is its place in the row.
    pub fn change(&self, dir: &Path, index: u64) {
        for name in &self.remove {
            std::fs::remove_file(dir.join(decode(name))).unwrap();
        }
        write_files(dir, &self.write, index);
    }

    /// The command to run, as words.
    pub fn words(&self, family: Family) -> Vec<OsString> {
        match (&self.argv, &self.run) {
            (Some(argv), _) => argv.iter().map(|word| word_of(word, family)).collect(),
            (None, Some(run)) => vec!["sh".into(), "-c".into(), run.into()],
            (None, None) => panic!("a step without a command"),
        }
    }
}

fn word_of(word: &str, family: Family) -> OsString {
    match word {
        "$CC" => family.compilers().0.into(),
        "$CXX" => family.compilers().1.into(),
        other => decode(other),
    }
}

/// Inputs have times long past, the same in every pass, a day later in each step.
fn write_files(dir: &Path, files: &BTreeMap<String, String>, day: u64) {
    for (name, text) in files {
        let path = dir.join(decode(name));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, decode(text).into_vec()).unwrap();
        set_time(&path, day);
    }
}

fn set_time(path: &Path, day: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_704_110_400 + 86_400 * day);
    std::fs::File::options().append(true).open(path).unwrap().set_modified(time).unwrap();
}

/// `%XX` to a byte, everything else as it is.
fn decode(text: &str) -> OsString {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let byte = hex.filter(|_| *first == b'%').and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &tail[2..] } else { tail };
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_decoded_and_lone_percents_stay() {
        assert_eq!(decode("a%20b%FF%2").into_vec(), b"a b\xff%2");
        assert_eq!(decode("100% d").into_vec(), b"100% d");
    }

    #[test]
    fn the_table_is_as_long_as_it_should_be() {
        let rows = rows();
        assert!(rows.len() >= 120, "{} rows", rows.len());
        for row in &rows {
            assert!(
                row.unstable.is_empty() || !row.note.is_empty(),
                "{}: what is unstable needs a note",
                row.name
            );
            row.steps().iter().for_each(|step| drop(step.words(Family::Gcc)));
        }
    }
}
