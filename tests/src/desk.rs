//! A user who submits jobs: a directory, a home, and perhaps a pool.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::{TestCluster, dbuild};

/// A user's directory, and the pool that they use.
pub struct Desk<'a> {
    place: tempfile::TempDir,
    cluster: Option<&'a TestCluster>,
}

pub struct Said {
    pub code: i32,
    pub out: String,
    /// Without the lines of dbuild's own.
    pub err: String,
    /// Those lines.
    pub own: String,
}

impl Desk<'_> {
    pub fn new(cluster: Option<&TestCluster>) -> Desk<'_> {
        Desk { place: tempfile::Builder::new().prefix("dbuild-test-").tempdir().unwrap(), cluster }
    }

    pub fn path(&self) -> &Path {
        self.place.path()
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub fn run(&self, args: &[&str]) -> Said {
        self.run_with(args, "")
    }

    /// dbuild with these arguments, as this user starts it.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(dbuild());
        command.args(args).env_clear().current_dir(self.path());
        command.env("PATH", "/usr/bin:/bin").env("HOME", self.path()).env("SECRET", "s3cret");
        command.env("DBUILD_DATA_DIR", self.path().join(".data"));
        if let Some(cluster) = self.cluster {
            command.env("DBUILD_COORDINATOR", cluster.url());
        }
        command
    }

    pub fn run_with(&self, args: &[&str], stdin: &str) -> Said {
        let mut command = self.command(args);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // It may end without having read it.
        let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
        Said::of(child)
    }
}

impl Said {
    /// What a process says until it ends; its stdout and stderr are pipes.
    pub fn of(child: Child) -> Said {
        let output = child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let stderr = text(output.stderr);
        let lines =
            |own: bool| stderr.split_inclusive('\n').filter(move |line| line.starts_with("dbuild: ") == own);
        let (err, own) = (lines(false).collect(), lines(true).collect());
        Said { code: output.status.code().unwrap(), out: text(output.stdout), err, own }
    }
}
