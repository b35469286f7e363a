//! Colours and hyperlinks: what a compiler would do by itself on a terminal, said in flags, because a captured run has
//! no terminal.
//!
//! Sources: gcc 12 `diagnostic-color.cc` (`should_colorize`, `auto_enable_urls`) and GCC manual, "Diagnostic Message
//! Formatting Options"; LLVM `Unix/Process.inc` (`terminalHasColors`). Knows nothing of terminals that are not there:
//! without one, nothing is added.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use crate::environment::get;
use crate::request::Request;
use crate::width::number;
use crate::{Call, CompilerInfo, Family, FileKind, Files, Reason};

/// Arguments to be added so that diagnostics come out as on the caller's terminal.
pub(crate) fn terminal_args(
    call: &Call<'_>,
    info: &CompilerInfo,
    request: &Request,
    files: &dyn Files,
) -> Result<Vec<OsString>, Reason> {
    if !call.stderr_tty {
        return Ok(Vec::new());
    }
    match info.family {
        Family::Gcc => Ok(gcc_args(call, info, request)),
        Family::Rustc => Ok(Vec::new()),
        Family::Clang => {
            let mut args = Vec::new();
            if !request.colour_said && clang_terminal_has_colours(call, info, files) {
                args.push(OsString::from("-fcolor-diagnostics"));
            }
            // Line breaking: without COLUMNS only the terminal itself could tell.
            if !request.width_said
                && let Some(columns) = get(call.env, "COLUMNS").and_then(number)
            {
                args.push(format!("-fmessage-length={columns}").into());
            }
            // These flags would be seen in the object.
            if !args.is_empty() && request.records_command_line {
                return Err(Reason::RecordsCommandLine);
            }
            Ok(args)
        }
    }
}

fn gcc_args(call: &Call<'_>, info: &CompilerInfo, request: &Request) -> Vec<OsString> {
    let mut args = Vec::new();
    let Some(term) = get(call.env, "TERM").filter(|term| *term != "dumb") else { return args };
    let colours_off = get(call.env, "GCC_COLORS").is_some_and(OsStr::is_empty);
    if info.version >= (4, 9, 0) && !request.colour_said && !colours_off {
        args.push("-fdiagnostics-color=always".into());
    }
    // -fdiagnostics-urls=always gets into DW_AT_producer and its like (gcc 12; -fdiagnostics-color does not). The object
    // comes before the looks: no hyperlinks where options are recorded.
    let urls_possible = info.version >= (10, 0, 0) && !request.urls_said && !request.records_options;
    if urls_possible && !colours_off && gcc_enables_urls(call, term) {
        args.push("-fdiagnostics-urls=always".into());
    }
    args
}

/// Terminals that gcc believes to know hyperlinks, when asked to decide by itself.
fn gcc_enables_urls(call: &Call<'_>, term: &OsStr) -> bool {
    let says_no = |name| get(call.env, name).is_some_and(|value| value == "no");
    let colorterm = get(call.env, "COLORTERM");
    !says_no("GCC_URLS")
        && !says_no("TERM_URLS")
        && colorterm.is_none_or(|value| value != "xfce4-terminal" && value != "gnome-terminal")
        && term != "linux"
        && (term != "xterm" || colorterm.is_some())
}

/// LLVM up to 18 asks terminfo how many colours there are; from 19 on it goes by the name of the terminal alone.
fn clang_terminal_has_colours(call: &Call<'_>, info: &CompilerInfo, files: &dyn Files) -> bool {
    let Some(term) = get(call.env, "TERM").and_then(OsStr::to_str).filter(|term| !term.is_empty()) else {
        return false;
    };
    if info.version >= (19, 0, 0) {
        let by_start = ["screen", "xterm", "vt100", "rxvt"].iter().any(|start| term.starts_with(start));
        return matches!(term, "ansi" | "cygwin" | "linux") || by_start || term.ends_with("color");
    }
    if term.contains('/') {
        return false;
    }
    let directories = ["/etc/terminfo", "/lib/terminfo", "/usr/share/terminfo"].map(Path::new);
    let own = ["TERMINFO"].iter().filter_map(|name| get(call.env, name)).map(Path::new);
    let entry = own
        .chain(directories)
        .map(|directory| directory.join(&term[..term.chars().next().map_or(0, char::len_utf8)]).join(term))
        .find(|entry| files.kind(entry) == Some(FileKind::File));
    entry.and_then(|entry| files.read(&entry).ok()).is_some_and(|bytes| max_colours(&bytes) > 0)
}

/// `max_colors` of a compiled terminfo entry (term(5)): the 14th number. 0 if there is none.
fn max_colours(entry: &[u8]) -> i32 {
    const MAX_COLORS: usize = 13;
    let short = |at: usize| entry.get(at..at + 2).map(|b| i16::from_le_bytes([b[0], b[1]]));
    let header = |index: usize| short(index * 2).and_then(|value| usize::try_from(value).ok());
    let (Some(magic), Some(names), Some(booleans), Some(numbers)) =
        (header(0), header(1), header(2), header(3))
    else {
        return 0;
    };
    if numbers <= MAX_COLORS {
        return 0;
    }
    // Numbers begin at an even offset.
    let start = (12 + names + booleans).next_multiple_of(2);
    let value = match magic {
        0o432 => short(start + 2 * MAX_COLORS).map(i32::from),
        0o1036 => {
            let at = start + 4 * MAX_COLORS;
            entry.get(at..at + 4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        }
        _ => None,
    };
    value.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{gcc_style, row};
    use crate::request::Setting;
    use crate::testing::FakeFiles;

    fn args(
        family: Family,
        major: u32,
        env: &[(&str, &str)],
        words: &[&str],
        files: &FakeFiles,
    ) -> Vec<String> {
        let own = match family {
            Family::Gcc => crate::gcc::ROWS,
            Family::Clang => crate::clang::ROWS,
            Family::Rustc => &[],
        };
        let table = row::Table::new(&[gcc_style::ROWS, own]);
        let cut = row::cut(words.iter().map(OsString::from).collect(), &table).unwrap();
        let setting = Setting { family, argv0: "cc".as_ref(), cwd: Path::new("/w"), files };
        let request = Request::read(cut, &setting).unwrap();
        let env: Vec<_> =
            env.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect();
        let call = Call { argv: &[], cwd: Path::new("/w"), env: &env, umask: 0o22, stderr_tty: true };
        let info = CompilerInfo { family, version: (major, 0, 0), target: "x86_64-linux-gnu".into() };
        let args = terminal_args(&call, &info, &request, files).unwrap();
        args.into_iter().map(|arg| arg.into_string().unwrap()).collect()
    }

    #[test]
    fn gcc_by_its_own_rule() {
        let files = FakeFiles::new(&[]);
        let gcc = |env: &[(&str, &str)], words: &[&str]| args(Family::Gcc, 12, env, words, &files);
        let colour = "-fdiagnostics-color=always";
        let urls = "-fdiagnostics-urls=always";
        assert_eq!(gcc(&[("TERM", "xterm")], &[]), [colour]);
        assert_eq!(gcc(&[("TERM", "xterm-256color")], &[]), [colour, urls]);
        assert_eq!(gcc(&[("TERM", "xterm-256color")], &["-g"]), [colour]);
        assert_eq!(gcc(&[("TERM", "xterm-256color")], &["-fdiagnostics-urls=never"]), [colour]);
        assert_eq!(gcc(&[("TERM", "xterm")], &["-fdiagnostics-color=auto"]), [colour]);
        for (env, words) in [
            (&[("TERM", "dumb")][..], &[][..]),
            (&[], &[]),
            (&[("TERM", "xterm"), ("GCC_COLORS", "")], &[]),
            (&[("TERM", "xterm")], &["-fno-diagnostics-color"]),
            (&[("TERM", "xterm")], &["-fdiagnostics-plain-output"]),
        ] {
            assert!(gcc(env, words).is_empty(), "{env:?} {words:?}");
        }
    }

    /// A terminfo entry with `colours` in it.
    fn terminfo(colours: i16) -> Vec<u8> {
        let mut entry = Vec::new();
        for number in [0o432i16, 4, 1, 14, 0, 0] {
            entry.extend(number.to_le_bytes());
        }
        entry.extend(b"abc\0\x01\0");
        entry.extend([0xff; 26]);
        entry.extend(colours.to_le_bytes());
        entry
    }

    #[test]
    fn clang_asks_terminfo_and_later_the_name() {
        let known = FakeFiles::with_bytes("/lib/terminfo/x/xyz", terminfo(8));
        let colourless = FakeFiles::with_bytes("/lib/terminfo/x/xyz", terminfo(-1));
        let env = [("TERM", "xyz")];
        assert_eq!(args(Family::Clang, 14, &env, &[], &known), ["-fcolor-diagnostics"]);
        assert!(args(Family::Clang, 14, &env, &[], &colourless).is_empty());
        assert!(args(Family::Clang, 14, &[("TERM", "xterm")], &[], &known).is_empty());
        assert!(args(Family::Clang, 19, &env, &[], &known).is_empty());
        assert_eq!(args(Family::Clang, 19, &[("TERM", "xterm")], &[], &known), ["-fcolor-diagnostics"]);
        let narrow = [("TERM", "xyz"), ("COLUMNS", "40")];
        assert_eq!(
            args(Family::Clang, 14, &narrow, &["-fno-color-diagnostics"], &known),
            ["-fmessage-length=40"]
        );
        assert!(
            args(Family::Clang, 14, &narrow, &["-fno-color-diagnostics", "-fmessage-length=60"], &known)
                .is_empty()
        );
        assert_eq!(max_colours(&[]), 0);
    }
}
