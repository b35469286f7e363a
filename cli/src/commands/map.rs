//! `dbuild map -- <command with {}>`: a job for each line of stdin. What they print is printed in the order of the lines;
//! exit codes are those of GNU parallel: how many failed, 101 for more than a hundred, 255 for other faults.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};

use futures_util::{StreamExt, stream};
use tokio::sync::Semaphore;

use super::submit;
use crate::args::{Map, Needs};
use crate::config::{Config, processors};
use crate::error::{CliError, Context, Result};
use crate::jobs::{Job, Runner, Tally, overlap};

/// More failures than this are not counted.
const MOST_FAILURES: usize = 100;
const TOO_MANY_FAILURES: u8 = 101;
/// An error that is none of a job's.
const OTHER_ERROR: u8 = 255;
/// Jobs, for each at a time, that may be done before those of the lines before them.
const WAITING: usize = 16;
/// The most jobs at a time that a pool's slots stand for.
const MOST_JOBS: u32 = 1024;

pub fn run(args: Map, config: &Config) -> Result<ExitCode> {
    go(&args, config).map_err(|error| error.code(OTHER_ERROR))
}

fn go(args: &Map, config: &Config) -> Result<ExitCode> {
    let cwd = std::env::current_dir().context("find the current directory")?;
    let mut text = String::new();
    std::io::stdin().lock().read_to_string(&mut text).context("read the lines")?;
    let lines = text.strip_suffix('\n').unwrap_or(&text);
    let lines = lines.split('\n').filter(|_| !text.is_empty());
    let jobs = lines.map(|line| job(args, line, &cwd)).collect::<Result<Vec<_>>>()?;
    apart(&jobs)?;
    let url = super::up::coordinator_or_none(config);
    let mut sink = Sink::open(args.reduce.as_deref())?;
    let (failed, tally) = super::server_runtime()?.block_on(super::unless_stopped(async {
        let width = match (args.jobs, &url) {
            (Some(jobs), _) => jobs,
            (None, Some(url)) => width(url).await,
            (None, None) => processors(),
        } as usize;
        let runner = Runner::new(config, url.as_deref())?;
        let slots = Semaphore::new(width);
        // In the order of the lines; those that are done before their turn wait, up to a number.
        let one = async |job| {
            let _slot = slots.acquire().await.context("wait for a slot")?;
            runner.run(job).await
        };
        let mut done = std::pin::pin!(stream::iter(&jobs).map(one).buffered(width * WAITING));
        let (mut failed, mut tally) = (0, Tally::default());
        while let Some(done) = done.next().await {
            match done {
                Ok(done) => {
                    tally.add(&done.place, done.code);
                    failed += usize::from(done.code != 0);
                    if !submit::show(&done, sink.stdin())? {
                        break;
                    }
                }
                Err(error) => {
                    error.report();
                    tally.add_failed();
                    failed += 1;
                }
            }
        }
        Ok::<_, CliError>((failed, tally))
    }))?;
    let reduced = sink.close()?;
    submit::say(&tally, config);
    Ok(match failed {
        0 => reduced,
        failed if failed > MOST_FAILURES => ExitCode::from(TOO_MANY_FAILURES),
        failed => ExitCode::from(failed as u8),
    })
}

/// No two jobs write to the same place: whoever came last would win.
fn apart(jobs: &[Job]) -> Result<()> {
    let mut outputs: Vec<&Path> = jobs.iter().flat_map(|job| &job.outputs).map(PathBuf::as_path).collect();
    // What lies in a directory comes right behind it: paths compare name by name.
    outputs.sort();
    match outputs.windows(2).find(|pair| overlap(pair[0], pair[1])) {
        None => Ok(()),
        Some(pair) => Err(CliError::new(format!("two lines write to {}", pair[1].display()))
            .hint("Put {} into the name of each --output, so that every line has its own.")),
    }
}

/// The slots of the pool's helpers, or of this machine if it does not say.
async fn width(url: &str) -> u32 {
    let helpers = super::helpers::list(url).await.unwrap_or_default();
    let slots: u32 = helpers.iter().map(dbuild_proto::pool::HelperInfo::open_slots).sum();
    if slots == 0 { processors() } else { slots.min(MOST_JOBS) }
}

/// The job for one line.
fn job(args: &Map, line: &str, cwd: &Path) -> Result<Job> {
    let fill = |word: &str| word.replace("{}", line);
    let mut argv = match &args.command[..] {
        // As a person would type it: pipes, quotes and all.
        [single] => {
            let text = if single.contains("{}") { single.clone() } else { format!("{single} {{}}") };
            let words = ["/bin/sh".to_owned(), "-c".to_owned(), shell(&text, line)];
            let argument = ["sh".to_owned(), line.to_owned()];
            if plain(line) { words.to_vec() } else { words.into_iter().chain(argument).collect() }
        }
        words => words.iter().map(|word| fill(word)).collect(),
    };
    if args.command.len() > 1 && !args.command.iter().any(|word| word.contains("{}")) {
        argv.push(line.to_owned());
    }
    let paths = |paths: &[PathBuf]| {
        let text = |path: &PathBuf| PathBuf::from(fill(&path.to_string_lossy()));
        paths.iter().map(text).collect()
    };
    let needs = Needs {
        input: paths(&args.needs.input),
        output: paths(&args.needs.output),
        env: args.needs.env.iter().map(|pair| fill(pair)).collect(),
        no_cache: args.needs.no_cache,
    };
    submit::job(&needs, argv, cwd)
}

/// A line that means nothing to a shell, wherever it stands.
fn plain(line: &str) -> bool {
    !line.is_empty() && line.chars().all(|c| c.is_ascii_alphanumeric() || "_-./:@+,".contains(c))
}

/// The command with the line in it. A line that could mean something to the shell is never part of its text: it is the shell's
/// first argument, named so that it is one word where it stands (POSIX shell, 2.2 Quoting).
fn shell(command: &str, line: &str) -> String {
    if plain(line) {
        return command.replace("{}", line);
    }
    #[derive(PartialEq)]
    enum Quotes {
        None,
        Single,
        Double,
    }
    let (mut quotes, mut text, mut rest) = (Quotes::None, String::new(), command);
    while let Some(next) = rest.chars().next() {
        if let Some(behind) = rest.strip_prefix("{}") {
            text.push_str(match quotes {
                Quotes::None => "\"$1\"",
                Quotes::Double => "$1",
                Quotes::Single => "'\"$1\"'",
            });
            rest = behind;
            continue;
        }
        let mut taken = next.len_utf8();
        match (next, &quotes) {
            ('\\', Quotes::None | Quotes::Double) => {
                taken += rest[1..].chars().next().map_or(0, char::len_utf8)
            }
            ('\'', Quotes::None) => quotes = Quotes::Single,
            ('\'', Quotes::Single) => quotes = Quotes::None,
            ('"', Quotes::None) => quotes = Quotes::Double,
            ('"', Quotes::Double) => quotes = Quotes::None,
            _ => {}
        }
        text.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    text
}

/// Where what the jobs print goes: our stdout, or a command that makes one thing of it.
struct Sink {
    reducer: Option<(Child, Option<ChildStdin>)>,
    stdout: std::io::Stdout,
}

impl Sink {
    fn open(reduce: Option<&str>) -> Result<Sink> {
        let reducer = reduce.map(|command| {
            let mut child = Command::new("/bin/sh").args(["-c", command]).stdin(Stdio::piped()).spawn()?;
            let stdin = child.stdin.take();
            Ok::<_, std::io::Error>((child, stdin))
        });
        Ok(Sink {
            reducer: reducer.transpose().context("start the reducing command")?,
            stdout: std::io::stdout(),
        })
    }

    fn stdin(&mut self) -> &mut dyn Write {
        match &mut self.reducer {
            Some((_, Some(stdin))) => stdin,
            _ => &mut self.stdout,
        }
    }

    /// Waits for the reducing command; gives its exit code.
    fn close(self) -> Result<ExitCode> {
        let Some((mut child, stdin)) = self.reducer else { return Ok(ExitCode::SUCCESS) };
        drop(stdin);
        let status = child.wait().context("wait for the reducing command")?;
        let code = status.code().and_then(|code| u8::try_from(code).ok());
        Ok(ExitCode::from(code.unwrap_or(OTHER_ERROR)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(command: &[&str], input: &str) -> Map {
        let needs =
            Needs { input: vec![input.into()], output: vec![], env: vec!["NAME={}".into()], no_cache: false };
        let command = command.iter().map(ToString::to_string).collect();
        Map { needs, jobs: None, reduce: None, command }
    }

    fn argv(command: &[&str], line: &str) -> Vec<String> {
        job(&args(command, "in"), line, Path::new("/p")).unwrap().argv
    }

    #[test]
    fn the_line_stands_where_the_braces_are() {
        assert_eq!(argv(&["cp", "{}", "x{}y"], "a b"), ["cp", "a b", "xa by"]);
        assert_eq!(argv(&["wc", "-l"], "a b"), ["wc", "-l", "a b"]);
        let job = job(&args(&["wc", "-l"], "d/{}"), "f", Path::new("/p")).unwrap();
        assert_eq!((job.inputs, job.env["NAME"].as_str()), (vec![PathBuf::from("d/f")], "f"));
    }

    #[test]
    fn one_word_is_the_shells_and_a_line_is_never_part_of_its_text() {
        assert_eq!(argv(&["true"], "x"), ["/bin/sh", "-c", "true x"]);
        assert_eq!(argv(&["echo $((20 - {}))"], "7")[2], "echo $((20 - 7))");
        let cases = [
            ("wc {} | sort", r#"wc "$1" | sort"#),
            (r#"echo "got {}" {}"#, r#"echo "got $1" "$1""#),
            ("echo 'got {}'", r#"echo 'got '"$1"''"#),
            (r#"echo \" {}"#, r#"echo \" "$1""#),
            (r#"echo "\"{}" it\'s {}"#, r#"echo "\"$1" it\'s "$1""#),
            ("true", r#"true "$1""#),
        ];
        for line in ["it's $HOME", "$(touch pwned)", "; touch pwned", "", "A=b", "a b"] {
            for (command, want) in cases {
                assert_eq!(argv(&[command], line), ["/bin/sh", "-c", want, "sh", line]);
            }
        }
    }

    #[test]
    fn no_two_lines_write_to_the_same_place() {
        let jobs = |outputs: &[&str]| {
            let job = |path: &&str| Job { outputs: vec![path.into()], ..Job::default() };
            outputs.iter().map(job).collect::<Vec<_>>()
        };
        assert!(apart(&jobs(&["a", "b", "a-b", "ab", "c/a", "c/b"])).is_ok());
        for outputs in [&["a", "a"][..], &["a", "b", "a/c"], &["a/b/c", "a-b", "a"]] {
            assert!(apart(&jobs(outputs)).is_err(), "{outputs:?}");
        }
    }
}
