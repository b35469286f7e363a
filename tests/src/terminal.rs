//! A terminal that a test holds the other end of.

use std::fs::File;
use std::io::Read;
use std::process::Command;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// Both ends of a new terminal: the test's and the programs'.
pub fn terminal() -> (File, File) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let line = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    (File::from(master), line)
}

/// Runs a command with a terminal of its own as stdin, stdout and stderr, and gives what was shown on it.
pub fn run_on_terminal(mut command: Command) -> String {
    let (mut shown, line) = terminal();
    command.stdin(line.try_clone().unwrap()).stdout(line.try_clone().unwrap()).stderr(line);
    let mut child = command.spawn().unwrap();
    // Its copies of the line would keep the terminal open.
    drop(command);
    let mut bytes = Vec::new();
    // Reading ends with an error when the last writer is gone.
    let _ = shown.read_to_end(&mut bytes);
    child.wait().unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}
