//! `dbuild map -- <command with {}>`: a job for each line of stdin. What they print is printed in the order of the lines;
//! exit codes are those of GNU parallel: how many failed, 101 for more than a hundred, 255 for other faults.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};

use futures_util::{StreamExt, stream};

use super::submit;
use crate::args::{Map, Needs};
use crate::config::{Config, processors};
use crate::error::{CliError, Context, Result};
use crate::jobs::{Job, Runner, Tally};

/// More failures than this are not counted.
const MOST_FAILURES: usize = 100;
const TOO_MANY_FAILURES: u8 = 101;
/// An error that is none of a job's.
const OTHER_ERROR: u8 = 255;
/// The most jobs at a time that a pool's slots stand for.
const MOST_JOBS: u32 = 1024;

pub fn run(args: Map, config: &Config) -> Result<ExitCode> {
    go(&args, config).map_err(|error| error.code(OTHER_ERROR))
}

fn go(args: &Map, config: &Config) -> Result<ExitCode> {
    let cwd = std::env::current_dir().context("find the current directory")?;
    let mut text = String::new();
    std::io::stdin().lock().read_to_string(&mut text).context("read the lines")?;
    let jobs = text.lines().map(|line| job(args, line, &cwd)).collect::<Result<Vec<_>>>()?;
    let url = super::up::coordinator_of(config);
    let mut sink = Sink::open(args.reduce.as_deref())?;
    let (failed, tally) = super::server_runtime()?.block_on(async {
        let width = match (args.jobs, &url) {
            (Some(jobs), _) => jobs,
            (None, Some(url)) => width(url).await,
            (None, None) => processors(),
        };
        let runner = Runner::new(config, url.as_deref())?;
        let mut done = stream::iter(&jobs).map(|job| runner.run(job)).buffered(width as usize);
        let (mut failed, mut tally) = (0, Tally::default());
        while let Some(done) = done.next().await {
            let code = match done {
                Ok(done) => {
                    submit::show(&done, sink.stdin())?;
                    tally.add(&done.place, done.code);
                    done.code
                }
                Err(error) => {
                    error.report();
                    OTHER_ERROR
                }
            };
            failed += usize::from(code != 0);
        }
        Ok::<_, CliError>((failed, tally))
    })?;
    let reduced = sink.close()?;
    submit::say(&tally, config);
    Ok(match failed {
        0 => reduced,
        failed if failed > MOST_FAILURES => ExitCode::from(TOO_MANY_FAILURES),
        failed => ExitCode::from(failed as u8),
    })
}

/// The slots of the pool's helpers, or of this machine if it does not say.
async fn width(url: &str) -> u32 {
    let helpers = super::helpers::list(url).await.unwrap_or_default();
    let slots: u32 = helpers.iter().filter(|helper| helper.online).map(|helper| helper.slots).sum();
    if slots == 0 { processors() } else { slots.min(MOST_JOBS) }
}

/// The job for one line.
fn job(args: &Map, line: &str, cwd: &Path) -> Result<Job> {
    let fill = |word: &str| word.replace("{}", line);
    let mut argv = match &args.command[..] {
        // As a person would type it: pipes, quotes and all.
        [single] => {
            let quoted = quote(line);
            let text = if single.contains("{}") {
                single.replace("{}", &quoted)
            } else {
                format!("{single} {quoted}")
            };
            vec!["/bin/sh".to_owned(), "-c".to_owned(), text]
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

/// A word as the shell takes it for itself. One that means nothing to it stays as it is, so that it can stand in `$((…))`.
fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
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
    fn one_word_is_the_shells_and_lines_are_quoted_for_it() {
        assert_eq!(argv(&["wc {} | sort"], "it's $HOME")[2], r"wc 'it'\''s $HOME' | sort");
        assert_eq!(argv(&["true"], ""), ["/bin/sh", "-c", "true ''"]);
        assert_eq!(argv(&["true"], "x"), ["/bin/sh", "-c", "true x"]);
    }
}
