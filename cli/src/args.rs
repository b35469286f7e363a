//! The command line. Words that are not dbuild's own begin a build command.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use dbuild_registry::is_registry;

use crate::error::EXIT_FAILURE;

/// Put one word before a build command and it gets faster.
///
/// `dbuild make -j8`, `dbuild ninja`, `dbuild cmake --build b`: compiler calls inside the command are answered from
/// a cache, run on helper machines, or run here. With a pool, make, ninja and `cmake --build` without -j run as many
/// jobs as there are slots (DBUILD_WIDEN=0: as many as without dbuild). The exit code is the command's own; 125, 126 and 127 are dbuild's,
/// as with env(1).
#[derive(Debug, Parser)]
#[command(
    name = "dbuild",
    version,
    override_usage = "dbuild [--trace FILE] <COMMAND…>\n       dbuild run -- <COMMAND…>\n       dbuild <SUBCOMMAND> [OPTIONS]"
)]
pub struct Cli {
    /// Draw the build into FILE, for about:tracing or Perfetto: each task on the machine where it ran
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a build command explicitly (for commands that are named like a subcommand)
    Run(Run),
    /// Serve a pool: cache, queue and leases, over the Remote Execution API
    Coordinator(Coordinator),
    /// Run actions for a coordinator on this machine
    Helper(Helper),
    /// Run any command on the pool, as a job whose result is kept
    Submit(Submit),
    /// Wait for a detached job, and end as it did: its words, its exit code
    Wait(Task),
    /// As `wait`, and bring the job's outputs to the current directory
    Fetch(Task),
    /// Run a command for each line of stdin, on the pool, and print in order what they print
    Map(Map),
    /// Start a coordinator and helpers on this machine, for a first look
    Up(Up),
    /// Stop what `dbuild up` started
    Down,
    /// Counters of this user's initiator and cache
    Stats(Stats),
    /// The pool: who is on, what they report; take helpers out of it and back in
    Helpers(Helpers),
    /// Look at or empty this user's cache
    #[command(subcommand)]
    Cache(Cache),
    /// Explain where an output came from, and why
    Why(Why),
    /// Check this machine and say what to mend
    Doctor,
    /// End this user's initiator (the next build starts a new one)
    Stop,
    /// The background process behind the builds of one user
    #[command(hide = true)]
    Initiator,
    /// The process of a helper that runs actions, for its supervisor
    #[command(hide = true)]
    HelperWorker(Worker),
    /// Becomes an action inside its sandbox
    #[command(hide = true)]
    SandboxExec,
    /// A build command
    #[command(external_subcommand)]
    Build(Vec<OsString>),
}

#[derive(Debug, Args)]
pub struct Run {
    /// The build command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub struct Coordinator {
    /// Address and port to listen on; port 0 takes a free one, which is printed
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8980")]
    pub listen: SocketAddr,
    /// Directory of the shared store
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Limit of the shared store
    #[arg(long, value_name = "BYTES", default_value = "50G", value_parser = parse_size)]
    pub max_size: u64,
    /// The digest function of clients that name none
    #[arg(long, value_enum, default_value = "sha256")]
    pub default_digest_function: DigestFunction,
    /// The database in which helpers write their state, and in which one of several coordinators takes the lead:
    /// redis://HOST:PORT/NUMBER (default: none, everything is in memory)
    #[arg(long, value_name = "URL")]
    pub state: Option<String>,
    /// With --state, how helpers and builds reach this coordinator (default: the address it listens on)
    #[arg(long, value_name = "URL", requires = "state")]
    pub announce: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum DigestFunction {
    Blake3,
    Sha256,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Helper {
    #[command(flatten)]
    pub serve: Option<Serve>,
    #[command(subcommand)]
    pub owner: Option<Owner>,
}

/// What the owner of a machine tells the helper on it.
#[derive(Debug, Subcommand)]
pub enum Owner {
    /// Let the helper on this machine take no more work; what runs is finished
    Pause(At),
    /// Let it work again
    Resume(At),
}

#[derive(Debug, Args)]
pub struct At {
    /// Directory of the helper's store
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
}

/// A helper, from its start to its end.
#[derive(Debug, Args)]
pub struct Serve {
    /// URL of the coordinator, for example http://10.0.0.1:8980; or of the database that knows who leads, redis://HOST:PORT/NUMBER
    /// (default: DBUILD_COORDINATOR, which other users of this machine cannot read)
    #[arg(long, value_name = "URL")]
    pub coordinator: Option<String>,
    /// Name in the pool (default: the host's name)
    #[arg(long)]
    pub name: Option<String>,
    /// Actions at a time: a number, a share of the processors such as 50%, or auto: one for each processor
    #[arg(long, value_name = "N", default_value = "auto", value_parser = parse_slots)]
    pub slots: Slots,
    /// Directory of the helper's store
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Limit of the helper's store
    #[arg(long, value_name = "BYTES", default_value = "20G", value_parser = parse_size)]
    pub max_size: u64,
    /// `auto` runs actions in namespaces without network; `none` trusts them
    #[arg(long, value_enum, default_value = "auto")]
    pub sandbox: Sandbox,
    /// Whose the machine is: `dedicated` to helping, `proportional` (others first, the rest helps), `idle` (only while nobody
    /// else uses it)
    #[arg(long, value_enum, default_value = "dedicated")]
    pub mode: Mode,
    /// How long running actions may go on when somebody else needs the machine; then they are handed back
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub grace: u64,
    /// How long nobody must have needed it before the helper works again
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub cool_off: u64,
    /// How its state gets to the coordinator: `shared` on the connection of its work, `separate` on one of its own, or by a
    /// database at redis://HOST:PORT/NUMBER (default: the one that --coordinator names, else shared)
    #[arg(long, value_name = "shared|separate|URL", value_parser = parse_state)]
    pub state: Option<StateBy>,
}

/// As its supervisor, and whose leases it takes.
#[derive(Debug, Args)]
pub struct Worker {
    #[command(flatten)]
    pub serve: Serve,
    pub leader: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    Dedicated,
    Proportional,
    Idle,
}

/// How a helper's state gets to coordinators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateBy {
    Shared,
    Separate,
    Registry(String),
}

fn parse_state(text: &str) -> Result<StateBy, String> {
    match text {
        "shared" => Ok(StateBy::Shared),
        "separate" => Ok(StateBy::Separate),
        _ if is_registry(text) => Ok(StateBy::Registry(text.to_owned())),
        _ => Err(
            "it is neither shared, nor separate, nor the address of a database (redis://HOST:PORT/NUMBER)"
                .into(),
        ),
    }
}

/// How many actions at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slots {
    Number(u32),
    /// Of the processors, in percent.
    Share(u32),
}

impl Slots {
    /// On a machine with so many processors.
    pub fn of(self, processors: u32) -> u32 {
        match self {
            Slots::Number(slots) => slots,
            Slots::Share(percent) => (processors * percent / 100).max(1),
        }
    }
}

/// The most slots that a helper may have.
const MAX_SLOTS: u32 = 4096;

fn parse_slots(text: &str) -> Result<Slots, String> {
    let number = |text: &str, most: u32| text.parse().ok().filter(|number| (1..=most).contains(number));
    let slots = match (text, text.strip_suffix('%')) {
        ("auto", _) => Some(Slots::Share(100)),
        (_, Some(share)) => number(share, 1000).map(Slots::Share),
        _ => number(text, MAX_SLOTS).map(Slots::Number),
    };
    slots.ok_or_else(|| {
        format!("{text:?} is not a number from 1 to {MAX_SLOTS}, a share such as 50%, or auto")
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Sandbox {
    Auto,
    None,
}

/// What a job reads, writes and knows.
#[derive(Debug, Args)]
pub struct Needs {
    /// A file or directory that the command reads, below the current directory; several times for several
    #[arg(long, value_name = "PATH")]
    pub input: Vec<PathBuf>,
    /// A file or directory that the command writes, below the current directory
    #[arg(long, value_name = "PATH")]
    pub output: Vec<PathBuf>,
    /// A variable that the command sees; it sees no others but PATH
    #[arg(long, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// Run it in any case, and do not keep the result for other jobs
    #[arg(long)]
    pub no_cache: bool,
}

#[derive(Debug, Args)]
pub struct Submit {
    #[command(flatten)]
    pub needs: Needs,
    /// Do not wait: print the job's id when the pool has accepted it (see `dbuild wait`, `dbuild fetch`)
    #[arg(long)]
    pub detach: bool,
    /// The command and its arguments
    #[arg(required = true, last = true)]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Task {
    /// What `dbuild submit --detach` printed
    pub id: String,
}

#[derive(Debug, Args)]
pub struct Map {
    #[command(flatten)]
    pub needs: Needs,
    /// Jobs at a time (default: the pool's slots)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub jobs: Option<u32>,
    /// A shell command here that reads all that the jobs print, and whose output is printed instead
    #[arg(long, value_name = "COMMAND")]
    pub reduce: Option<String>,
    /// The command; {} in it, and in the paths, is the line (without {} it comes last). One single word is run by a shell
    #[arg(required = true, last = true)]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Up {
    /// How many helpers
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub helpers: u32,
    /// Slots of each helper (default: the processors divided among them)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub slots: Option<u32>,
}

#[derive(Debug, Args)]
pub struct Stats {
    /// One JSON object
    #[arg(long)]
    pub json: bool,
    /// Set every counter to zero (after printing them)
    #[arg(long)]
    pub zero: bool,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Helpers {
    #[command(flatten)]
    pub json: Json,
    #[command(subcommand)]
    pub change: Option<ChangeHelper>,
}

#[derive(Debug, Subcommand)]
pub enum ChangeHelper {
    /// Give a helper no more work; what it runs is finished
    Drain { name: String },
    /// Give it work again
    Resume { name: String },
}

#[derive(Debug, Args)]
pub struct Json {
    /// One JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum Cache {
    /// Where the cache is and how full
    Info(Json),
    /// Remove the least recently used entries beyond the limit
    Gc {
        /// Keep at most this much (default: the configured limit)
        #[arg(long, value_name = "BYTES", value_parser = parse_size)]
        keep: Option<u64>,
    },
    /// Remove everything
    Clear,
}

#[derive(Debug, Args)]
pub struct Why {
    /// A file that a compiler wrote
    pub output: PathBuf,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
}

/// Reads a command line; usage errors and `--help` are printed here and give the exit code.
pub fn parse(argv: Vec<OsString>) -> Result<Cli, ExitCode> {
    Cli::try_parse_from(argv).map_err(|error| {
        // Help and version go to stdout with code 0; a closed stdout is nobody's error.
        let _ = error.print();
        if error.use_stderr() { ExitCode::from(EXIT_FAILURE) } else { ExitCode::SUCCESS }
    })
}

/// Bytes with an optional binary suffix K, M, G or T.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let bad = || format!("{text:?} is not a size: use bytes or a number with K, M, G or T");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KB" | "KIB" => 10,
        "M" | "MB" | "MIB" => 20,
        "G" | "GB" | "GIB" => 30,
        "T" | "TB" | "TIB" => 40,
        _ => return Err(bad()),
    };
    let number: u64 = digits.parse().map_err(|_| bad())?;
    number.checked_mul(1 << shift).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(parse_size("0"), Ok(0));
        assert_eq!(parse_size("5G"), Ok(5 << 30));
        assert_eq!(parse_size("10MiB"), Ok(10 << 20));
        for bad in ["", "G", "1.5G", "-1", "99999999999T", "1X"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn slots() {
        assert_eq!(parse_slots("7"), Ok(Slots::Number(7)));
        assert_eq!(parse_slots("auto").map(|slots| slots.of(6)), Ok(6));
        assert_eq!(parse_slots("50%").map(|slots| slots.of(6)), Ok(3));
        assert_eq!(parse_slots("10%").map(|slots| slots.of(2)), Ok(1));
        for bad in ["", "0", "0%", "%", "4097", "-1", "two", "1.5"] {
            assert!(parse_slots(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_helper_is_told_to_pause_without_what_it_needs_to_start() {
        let argv = |words: &str| words.split(' ').map(OsString::from).collect();
        match parse(argv("dbuild helper pause --data d")).map(|cli| cli.command) {
            Ok(Command::Helper(Helper { owner: Some(Owner::Pause(at)), .. })) => {
                assert_eq!(at.data, PathBuf::from("d"))
            }
            other => panic!("{other:?}"),
        }
        match parse(argv("dbuild helper --coordinator http://a:1 --data d --slots 50%"))
            .map(|cli| cli.command)
        {
            Ok(Command::Helper(Helper { serve: Some(serve), owner: None })) => {
                assert_eq!(serve.slots, Slots::Share(50))
            }
            other => panic!("{other:?}"),
        }
        assert!(parse(argv("dbuild helper --coordinator http://a:1")).is_err());
    }

    #[test]
    fn a_build_command_keeps_its_own_flags() {
        let argv = ["dbuild", "make", "-j8", "--", "-k"].map(OsString::from).to_vec();
        match parse(argv).map(|cli| cli.command) {
            Ok(Command::Build(words)) => assert_eq!(words, ["make", "-j8", "--", "-k"]),
            other => panic!("{other:?}"),
        }
        let argv = ["dbuild", "run", "--", "stop", "--json"].map(OsString::from).to_vec();
        match parse(argv).map(|cli| cli.command) {
            Ok(Command::Run(run)) => assert_eq!(run.command, ["stop", "--json"]),
            other => panic!("{other:?}"),
        }
    }
}
