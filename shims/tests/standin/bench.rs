//! A place for one test: a shims directory, a directory with a pretended compiler, and an initiator that is a
//! thread and answers as the test says.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use dbuild_shims::frame::{self, Done, FromShim, Invoke, Part, Ran, ToShim};
use dbuild_shims::vars;
use tempfile::TempDir;

use crate::artefacts::artefacts;

/// The place; gone when dropped.
pub struct Bench {
    dir: TempDir,
}

impl Bench {
    pub fn new() -> Bench {
        let made = artefacts();
        let bench = Bench { dir: tempfile::tempdir().unwrap() };
        for dir in ["shims", "bin", "socket", "work"] {
            fs::create_dir(bench.path(dir)).unwrap();
        }
        // links, not copies: a file that was just written cannot be executed while another thread forks
        link(&made.shim, &bench.path("shims/dbuild-shim"));
        link(&made.intercept, &bench.path("shims/libdbuild_intercept.so"));
        for name in ["cc", "gcc", "gcc-9"] {
            symlink("dbuild-shim", bench.path("shims").join(name)).unwrap();
        }
        link(&made.compiler, &bench.path("bin/gcc"));
        fs::write(bench.path("fallbacks"), "").unwrap();
        bench
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A path as text, to be put into scripts.
    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    /// An executable script, made by a shell so that no descriptor of ours ever was open for writing.
    pub fn script(&self, name: &str, text: &str) -> PathBuf {
        let source = self.write(&format!("{}.text", name.replace('/', "-")), text);
        let path = self.path(name);
        let copied = Command::new("cp").arg(source).arg(&path).status().unwrap();
        assert!(copied.success());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// `bin` with the pretended compiler before what the test itself has, without the shims.
    pub fn search_path(&self) -> OsString {
        let mut path = self.path("bin").into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap());
        path
    }

    /// A command as `dbuild` would start it: with the interceptor, and without the shims on `PATH`.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.path("work")).env("PATH", self.search_path());
        command.env(vars::SHIMS, self.path("shims")).env(vars::SOCKET, self.path("socket"));
        command.env(vars::SESSION, "session 1").env(vars::FALLBACKS, self.path("fallbacks"));
        command.env(vars::LD_PRELOAD, self.path("shims").join(vars::INTERCEPT_FILE));
        command
    }

    /// The stand-in called over `PATH` as `gcc`.
    pub fn gcc(&self) -> Command {
        let mut command = self.command(self.path("shims/gcc"));
        std::os::unix::process::CommandExt::arg0(&mut command, "gcc");
        command
    }

    /// The reasons noted so far.
    pub fn fallbacks(&self) -> String {
        fs::read_to_string(self.path("fallbacks")).unwrap()
    }

    pub fn listen(&self) -> UnixListener {
        UnixListener::bind(self.path("socket").join(vars::SOCKET_FILE)).unwrap()
    }

    /// Starts an initiator that answers each connection with `answer`.
    pub fn initiator(&self, answer: impl Fn(&mut Talk, &Invoke) + Send + 'static) -> Initiator {
        Initiator::start(self.listen(), answer)
    }

    /// Starts an initiator that does not run anything, and says so.
    pub fn catcher(&self) -> Initiator {
        self.initiator(|talk, _| talk.done("caught\n", 0))
    }
}

fn link(from: &Path, to: &Path) {
    if fs::hard_link(from, to).is_err() {
        // another file system: cp, for the reason given at `Bench::script`
        assert!(Command::new("cp").arg(from).arg(to).status().unwrap().success());
    }
}

/// The initiator's side of a connection.
pub struct Talk {
    pub stream: UnixStream,
}

impl Talk {
    pub fn send(&mut self, frame: &ToShim) {
        // a shim that is gone is seen by its exit code
        let _ = frame::write(&mut self.stream, &frame.encode());
    }

    pub fn done(&mut self, stdout: &str, code: u32) {
        let part = Part { stdout: stdout.into(), stderr: Vec::new() };
        self.send(&ToShim::Done(Done { parts: vec![part], code }));
    }

    pub fn hear(&mut self) -> Option<FromShim> {
        let body = frame::read(&mut self.stream).ok()??;
        Some(FromShim::decode(&body).unwrap())
    }

    pub fn ran(&mut self) -> Ran {
        match self.hear() {
            Some(FromShim::Ran(ran)) => ran,
            other => panic!("expected Ran, got {other:?}"),
        }
    }
}

/// A running initiator; it ends when dropped.
pub struct Initiator {
    calls: Arc<Mutex<Vec<Invoke>>>,
    ending: Arc<AtomicBool>,
    address: PathBuf,
    thread: Option<JoinHandle<()>>,
}

impl Initiator {
    pub fn start(listener: UnixListener, answer: impl Fn(&mut Talk, &Invoke) + Send + 'static) -> Initiator {
        let calls = Arc::new(Mutex::new(Vec::new()));
        let ending = Arc::new(AtomicBool::new(false));
        let address = listener.local_addr().unwrap().as_pathname().unwrap().to_owned();
        let (seen, end) = (calls.clone(), ending.clone());
        let thread = std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if end.load(Ordering::SeqCst) {
                    return;
                }
                let mut talk = Talk { stream };
                if let Some(FromShim::Invoke(invoke)) = talk.hear() {
                    seen.lock().unwrap().push(invoke.clone());
                    answer(&mut talk, &invoke);
                }
            }
        });
        Initiator { calls, ending, address, thread: Some(thread) }
    }

    /// All calls so far.
    pub fn calls(&self) -> Vec<Invoke> {
        self.calls.lock().unwrap().clone()
    }

    /// The only call.
    pub fn call(&self) -> Invoke {
        let [call] = self.calls().try_into().expect("one call was made");
        call
    }
}

impl Drop for Initiator {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::SeqCst);
        let _ = UnixStream::connect(&self.address);
        if let Some(Err(failure)) = self.thread.take().map(JoinHandle::join)
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(failure);
        }
    }
}

/// Runs a command; its stdout as text after checking that it succeeded.
pub fn stdout_of(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?} failed: {}", shown(&output));
    String::from_utf8(output.stdout).unwrap()
}

pub fn shown(output: &Output) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    format!("{}\nstdout: {}\nstderr: {}", output.status, text(&output.stdout), text(&output.stderr))
}

/// Whether a program that only some machines have is here; says loudly if it is not.
pub fn has(program: &str) -> bool {
    let found =
        std::env::split_paths(&std::env::var_os("PATH").unwrap()).any(|dir| dir.join(program).is_file());
    if !found {
        eprintln!("SKIPPED: {program} is not installed; install it to have this tested");
    }
    found
}

/// The value of a variable in an environment.
pub fn variable<'a>(env: &'a frame::Env, name: &str) -> Option<&'a [u8]> {
    env.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_bytes())
}
