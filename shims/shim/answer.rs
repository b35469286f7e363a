//! The conversation with the initiator: tells it the call, obeys until it is over.
//!
//! Waits for answers without a limit, since compiles may be long; if the initiator dies, the kernel closes the
//! socket and the wait ends.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, FromRawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::call::{Call, Settings};
use crate::children;
use crate::frame::{self, Command, Done, FromShim, Part, Ran, Run, ToShim};
use crate::program::Program;
use crate::said::Said;
use crate::{fallback, system};

/// Obeys the initiator; returns the exit code, unless this process was replaced.
pub fn obey(socket: UnixStream, call: &Call, settings: &Settings) -> i32 {
    let mut talk = Talk { socket, call, settings, own_result: None, said: Said::default() };
    match talk.converse() {
        Ok(code) => code,
        Err(reason) => talk.give_up(&reason),
    }
}

struct Talk<'a> {
    socket: UnixStream,
    call: &'a Call,
    settings: &'a Settings,
    /// The result of the call's own command, if it was run already.
    own_result: Option<Ran>,
    /// What was printed before the end.
    said: Said,
}

impl Talk<'_> {
    /// An error's text is the reason for which dbuild could not help.
    fn converse(&mut self) -> Result<i32, String> {
        let invoke =
            self.call.invoke(self.settings).map_err(|error| format!("no working directory: {error}"))?;
        self.send(&FromShim::Invoke(invoke))?;
        loop {
            match self.hear()? {
                ToShim::Done(done) => return Ok(self.finish(&done)),
                ToShim::Run(run) => {
                    if !self.run(&run)? {
                        return Ok(fallback::replace(&self.call.program));
                    }
                }
                ToShim::Print(text) => {
                    if !print(2, &text) {
                        return Ok(fallback::replace(&self.call.program));
                    }
                    self.said.add(&text);
                }
                ToShim::Exec(exec) => {
                    if !self.said.is_empty() {
                        let program = Program { path: exec.program, argv: exec.argv, env: exec.env };
                        return Ok(self.run_on(program));
                    }
                    // its end of file will tell the initiator that the program ended
                    system::keep_across_exec(self.socket.as_fd()).map_err(|error| error.to_string())?;
                    let program = Program { path: exec.program, argv: exec.argv, env: exec.env };
                    let error = program.exec();
                    return Err(format!("{} could not be executed: {error}", program.path.display()));
                }
            }
        }
    }

    fn send(&mut self, frame: &FromShim) -> Result<(), String> {
        frame::write(&mut self.socket, &frame.encode())
            .map_err(|error| format!("the initiator does not listen: {error}"))
    }

    fn hear(&mut self) -> Result<ToShim, String> {
        match frame::read(&mut self.socket) {
            Ok(Some(body)) => ToShim::decode(&body).map_err(|error| format!("failed to {error}")),
            Ok(None) => Err("the initiator closed the connection".into()),
            Err(error) => Err(format!("the initiator's answer was lost: {error}")),
        }
    }

    /// Runs the commands to their ends, even if the initiator is lost on the way: the call's own result still
    /// counts. False: what they printed at length could not be passed on.
    fn run(&mut self, run: &Run) -> Result<bool, String> {
        let mut lost = None;
        let intercept = self.settings.preloadable();
        let taken = children::run(run, intercept.as_deref(), &self.said.clone(), |ran, command| {
            let own = self.is_own(command) && ran.spawn_errno == 0;
            if lost.is_none() {
                lost = self.send(&FromShim::Ran(ran.clone())).err();
            }
            if own {
                self.own_result = Some(ran);
            }
        });
        lost.map_or(Ok(taken), Err)
    }

    /// Whether running this command is the same as running the call.
    fn is_own(&self, command: &Command) -> bool {
        command.program == self.call.program.path
            && command.argv == self.call.program.argv
            && std::env::current_dir().is_ok_and(|here| here == Path::new(&command.cwd))
    }

    /// The end without the initiator.
    fn give_up(mut self, reason: &str) -> i32 {
        match self.own_result.take() {
            Some(ran) => {
                fallback::note(self.settings, reason);
                let parts = match ran.printed {
                    true => Vec::new(),
                    false => vec![Part { stdout: ran.stdout, stderr: ran.stderr }],
                };
                self.finish(&Done { parts, code: Done::code_of(ran.status) })
            }
            None if self.said.is_empty() => fallback::run(self.call, self.settings, reason),
            None => {
                fallback::note(self.settings, reason);
                let Program { path, argv, env } = &self.call.program;
                self.run_on(Program { path: path.clone(), argv: argv.clone(), env: env.clone() })
            }
        }
    }

    /// Runs a program as a child that says nothing again; the exit code.
    fn run_on(&mut self, program: Program) -> i32 {
        let Program { path: program, argv, env } = program;
        let Ok(cwd) = std::env::current_dir() else { return fallback::replace(&self.call.program) };
        let command = Command { program, argv, env, cwd, trace: None, pass_on: true };
        let run = Run { runs: vec![command], parallel: 1 };
        let mut status = None;
        children::run(&run, None, &self.said.clone(), |ran, _| {
            status = Some(ran.status).filter(|_| ran.spawn_errno == 0);
        });
        match status {
            Some(status) => self.finish(&Done { parts: Vec::new(), code: Done::code_of(status) }),
            None => fallback::replace(&self.call.program),
        }
    }

    /// Prints, then ends as the compiler ended.
    ///
    /// What a compiler does when nobody takes what it prints is its own affair: some fail, some are killed, some
    /// remove the object. So it is run to meet the same fate.
    fn finish(&self, done: &Done) -> i32 {
        let mut said = self.said.clone();
        let mut parts = done.parts.iter();
        let mut beyond = |text: &[u8]| [said.beyond(text), said.last()].concat();
        let printed = parts.all(|part| print(1, &part.stdout) && print(2, &beyond(&part.stderr)));
        if !printed {
            return fallback::replace(&self.call.program);
        }
        if done.code > 256 {
            system::die_of((done.code - 256) as i32);
            // blocked for good or harmless: what a shell reports
            return 128 + (done.code as i32 - 256);
        }
        done.code as i32
    }
}

/// Writes all of `bytes` to a descriptor that is not ours to close; false if it takes no more. One that does not
/// block is waited for.
pub fn print(fd: i32, bytes: &[u8]) -> bool {
    // SAFETY: never closed here; if the number is not open, writing fails.
    let mut out = ManuallyDrop::new(unsafe { std::fs::File::from_raw_fd(fd) });
    let mut left = bytes;
    while !left.is_empty() {
        match io::Write::write(&mut *out, left) {
            Ok(0) => return false,
            Ok(n) => left = left.get(n..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                system::poll(&mut [system::Poll { fd, events: system::POLLOUT, revents: 0 }], None);
            }
            Err(_) => return false,
        }
    }
    true
}
