//! The shape of the flag tables: one row says how a flag is written and what it does to a task.
//!
//! Knows no flag itself; the rows stand in `gcc_style`, `gcc/flags` and `clang/flags`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use crate::Reason;

/// One flag.
#[derive(Debug)]
pub(crate) struct Row {
    pub spelling: &'static str,
    pub kind: Kind,
    pub effect: Effect,
}

/// How a flag takes its argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `-c`
    Alone,
    /// `-std=c11`, `-Wl,-x`: the rest of the word, possibly empty.
    Joined,
    /// `-Xlinker x`: always the next word.
    Separate,
    /// `-Ix` or `-I x`
    Either,
    /// A family such as `-f…` whose members are too many to list and only switch something. A member that looks as
    /// if it named a file (see `names_file`) is unknown, unless a longer row knows it.
    Family,
}

/// What a flag does, as far as planning goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Changes the object or the diagnostics, reads at most what the preprocessor or driver opens in a `-M` run, too.
    Pass,
    /// `-c`
    Compile,
    /// `-S`
    Assemble,
    /// `-o`
    Output,
    /// `-x`
    Language,
    /// The `-M…` family that goes along with a compile.
    Depend(Depend),
    /// Only the link looks at it. Not given to tasks of a call that is split.
    Link,
    /// `-l`: an input of the link.
    LinkerInput,
    /// Reads a file that a `-M` run need not open.
    ExtraInput,
    /// `-fprofile-use[=…]`: reads a profile, found by a name or in a directory.
    Profile,
    /// A CPU name, which may be `native`.
    Cpu,
    /// `-B`: where to look for tools.
    ToolPrefix,
    /// `-include`: clang takes a precompiled header beside it.
    Include,
    /// Says whether diagnostics are coloured; `true` for `…=auto`, which says nothing.
    Colour { auto: bool },
    /// Says whether diagnostics have hyperlinks.
    Urls,
    /// Puts the options into the object or assembly. `all`: with file names, and outputs (clang).
    RecordsOptions { all: bool },
    /// `-gsplit-dwarf`, `-gno-split-dwarf`
    SplitDwarf(bool),
    /// `-ftest-coverage`, `--coverage`
    Coverage,
    /// `-fprofile-arcs`, `-fprofile-generate`: the object holds the name of a file to be written when it runs,
    /// which is derived from the output's name.
    ProfileName,
    /// `-fstack-usage`
    StackUsage,
    /// `-fcallgraph-info`
    CallGraph,
    /// `-fsave-optimization-record`
    OptimizationRecord,
    /// `-save-temps…`
    SaveTemps(SaveTemps),
    /// `-flto…`
    Lto(bool),
    /// `-emit-llvm`
    EmitLlvm,
    /// `-Wa,…`, `-Xassembler …`: judged item by item.
    ToAssembler,
    /// `-Wp,…`
    ToPreprocessor,
    /// `-Xclang …`
    ToFrontend,
    /// `-mllvm …`
    ToLlvm,
    /// Fine alone; with `=value` it writes a file.
    ValueNamesOutput,
    /// Known to exist, not followed: as good as unknown.
    Unknown,
    /// Keeps the whole call here.
    Local(Reason),
}

/// The members of the `-M` family that are allowed beside `-c` and `-S`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depend {
    /// `-MD`, `-MMD`
    Write,
    /// `-MF`
    File,
    /// `-MT`, `-MQ`, `-MP`: only the text of the depfile.
    Text,
}

/// Where `-save-temps` leaves them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SaveTemps {
    Default,
    Cwd,
    Object,
}

pub(crate) const fn row(spelling: &'static str, kind: Kind, effect: Effect) -> Row {
    Row { spelling, kind, effect }
}

/// A family's rows, findable by a flag's second byte.
pub(crate) struct Table {
    by_second_byte: Vec<Vec<&'static Row>>,
}

impl Table {
    /// Later lists win over earlier ones where the spelling is the same.
    pub fn new(lists: &[&'static [Row]]) -> Table {
        let mut by_second_byte: Vec<Vec<&'static Row>> = vec![Vec::new(); 256];
        for row in lists.iter().rev().flat_map(|list| list.iter()) {
            let second = row.spelling.as_bytes().get(1).copied().unwrap_or(0);
            let bucket = &mut by_second_byte[usize::from(second)];
            if !bucket.iter().any(|known| known.spelling == row.spelling && known.kind == row.kind) {
                bucket.push(row);
            }
        }
        for bucket in &mut by_second_byte {
            bucket.sort_by_key(|row| std::cmp::Reverse(row.spelling.len()));
        }
        Table { by_second_byte }
    }

    /// The row with the longest spelling that fits `word`, as both drivers choose. `None`: unknown.
    pub fn find(&self, word: &OsStr) -> Option<&'static Row> {
        let bytes = word.as_bytes();
        let bucket = &self.by_second_byte[usize::from(*bytes.get(1)?)];
        let row = bucket.iter().find(|row| match row.kind {
            Kind::Alone | Kind::Separate => bytes == row.spelling.as_bytes(),
            Kind::Joined | Kind::Either | Kind::Family => bytes.starts_with(row.spelling.as_bytes()),
        })?;
        if row.kind == Kind::Family && names_file(&bytes[row.spelling.len()..]) {
            return None;
        }
        Some(row)
    }
}

/// Whether the rest of a family's member could be meant as a file: it has a slash, or a value (after `=`) with a dot
/// that a letter follows (`=foo.list`, not `=4.2` or `=c++17`), or anything outside of plain printable ASCII.
fn names_file(rest: &[u8]) -> bool {
    if rest.iter().any(|&byte| byte == b'/' || byte == b'@' || !byte.is_ascii_graphic()) {
        return true;
    }
    let Some(equals) = rest.iter().position(|&byte| byte == b'=') else { return false };
    rest[equals..].windows(2).any(|pair| pair[0] == b'.' && pair[1].is_ascii_alphabetic())
}

/// One argument of a call with everything that belongs to it.
#[derive(Debug, Clone)]
pub(crate) struct Arg {
    /// As written: one word, or two.
    pub words: Vec<OsString>,
    /// `None`: an input file.
    pub row: Option<&'static Row>,
}

impl Arg {
    /// The flag's argument, or the input's name.
    pub fn value(&self) -> &OsStr {
        match (self.row, self.words.as_slice()) {
            (None, [word, ..]) => word,
            (Some(_), [_, value]) => value,
            (Some(row), [word, ..]) => OsStr::from_bytes(&word.as_bytes()[row.spelling.len()..]),
            (_, []) => OsStr::new(""),
        }
    }

    pub fn effect(&self) -> Option<&'static Effect> {
        self.row.map(|row| &row.effect)
    }
}

/// Cuts an argv (without `argv[0]`, response files expanded) into arguments.
pub(crate) fn cut(words: Vec<OsString>, table: &Table) -> Result<Vec<Arg>, Reason> {
    let mut args = Vec::with_capacity(words.len());
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let bytes = word.as_bytes();
        if bytes == b"-" {
            return Err(Reason::ReadsStdin);
        }
        if bytes.first() != Some(&b'-') {
            args.push(Arg { words: vec![word], row: None });
            continue;
        }
        let row = table.find(&word).ok_or_else(|| Reason::unknown(&word))?;
        let takes_next = match row.kind {
            Kind::Separate => true,
            Kind::Either => bytes.len() == row.spelling.len(),
            Kind::Alone | Kind::Joined | Kind::Family => false,
        };
        let words =
            if takes_next { vec![word, words.next().ok_or(Reason::MissingArgument)?] } else { vec![word] };
        args.push(Arg { words, row: Some(row) });
    }
    Ok(args)
}

#[cfg(test)]
mod tests {
    use super::*;

    static ROWS: &[Row] = &[
        row("-c", Kind::Alone, Effect::Compile),
        row("-I", Kind::Either, Effect::Pass),
        row("-f", Kind::Family, Effect::Pass),
        row("-fdump-", Kind::Joined, Effect::Local(Reason::Dumps)),
        row("-include", Kind::Separate, Effect::Include),
    ];

    fn cut_strs(words: &[&str]) -> Result<Vec<(Option<&'static str>, String)>, Reason> {
        let args = cut(words.iter().map(OsString::from).collect(), &Table::new(&[ROWS]))?;
        Ok(args
            .iter()
            .map(|a| (a.row.map(|r| r.spelling), a.value().to_string_lossy().into_owned()))
            .collect())
    }

    #[test]
    fn takes_arguments_as_the_row_says() {
        let args = cut_strs(&["-c", "-Ix", "-I", "y", "-include", "z", "a.c", "-fno-common"]).unwrap();
        let want = [
            (Some("-c"), ""),
            (Some("-I"), "x"),
            (Some("-I"), "y"),
            (Some("-include"), "z"),
            (None, "a.c"),
            (Some("-f"), "no-common"),
        ];
        assert_eq!(args, want.map(|(row, value)| (row, value.to_string())));
    }

    #[test]
    fn longest_spelling_wins_and_the_rest_is_unknown() {
        assert_eq!(cut_strs(&["-fdump-tree-all"]).unwrap()[0].0, Some("-fdump-"));
        for word in ["-cc", "-fnew=some.list", "-fnew=/x", "-fx\u{e9}", "-zzz"] {
            assert!(matches!(cut_strs(&[word]), Err(Reason::UnknownFlag(_))), "{word}");
        }
        assert!(cut_strs(&["-fgnuc-version=4.2.1"]).is_ok());
        assert_eq!(cut_strs(&["-I"]), Err(Reason::MissingArgument));
        assert_eq!(cut_strs(&["-"]), Err(Reason::ReadsStdin));
    }
}
