//! The first process of an action: makes the sandbox, starts the program, waits for it, and leaves only when no
//! process of the action is left. In a pid namespace it is process 1; without one it is a subreaper.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use dbuild_proto::JOBSERVER_FDS;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, Signal, WaitOptions, WaitStatus};

use super::spec::{self, Failure, INSIDE_ID, OUTSIDE_ID, Report, Spec, mode};
use super::{mounts, sys};

/// How often orphans are reaped while the program runs.
const REAP: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// Tries that follow a program that is "busy": somebody still has it open for writing.
const BUSY_TRIES: u32 = 50;

/// What the program of an action is given.
pub struct Streams {
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
    /// The two ends of its jobserver's pipe, where it has one.
    pub jobserver: Option<[OwnedFd; 2]>,
}

/// Runs one action; `control` speaks as in `spec`.
pub fn run(control: &UnixStream, streams: &Streams) -> ! {
    // The parent ignores SIGCHLD, which would make waiting impossible here.
    sys::default_signals();
    let report = match spec::read_frame::<Spec>(control) {
        Ok(spec) => Some(act(&spec, control, streams)),
        Err(_) => None,
    };
    if let Some(report) = report {
        let report = report.unwrap_or_else(|failure| Report { failure: Some(failure), ..Report::default() });
        let _ = spec::write_frame(control, &report);
    }
    sys::leave(0)
}

fn act(spec: &Spec, control: &UnixStream, streams: &Streams) -> Result<Report, Failure> {
    let null = open_null().map_err(|error| Failure::new("open /dev/null", &error))?;
    // The launcher's socket is descriptor 0 here; its stdout and stderr are of no use either.
    for fd in 0..=2 {
        sys::duplicate(null.as_fd(), fd).map_err(|error| Failure::new("replace stdin", &error))?;
    }
    let namespaces = spec.mode & u32::from(mode::NAMESPACES) != 0;
    let reach = Reach::new(namespaces);
    let mut base = PathBuf::from("/");
    if namespaces {
        let named = rustix::system::sethostname(b"dbuild");
        named.map_err(|error| Failure::new("set the host name", &error.into()))?;
        mounts::enter(spec)?;
        if !spec.root_is_root {
            base = mounts::EXEC_ROOT.into();
        }
    } else {
        let own = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
        own.map_err(|error| Failure::new("become a subreaper", &error.into()))?;
        let root = Path::new(std::ffi::OsStr::from_bytes(&spec.root));
        if spec.root_is_root {
            make_devices(&root.join("dev"));
            rustix::process::chroot(root).map_err(|error| Failure::new("change the root", &error.into()))?;
        } else {
            base = root.to_owned();
        }
    }
    let cwd = base.join(std::ffi::OsStr::from_bytes(&spec.cwd));
    let (mut failed, fails) = io::pipe().map_err(|error| Failure::new("make a pipe", &error))?;
    // SAFETY: this process was forked from the launcher, which has one thread, and has started none.
    let child = unsafe { sys::fork_into(0) }.map_err(|error| Failure::new("fork", &error))?;
    let Some(child) = child else {
        drop(failed);
        let failure = become_program(spec, &cwd, streams);
        let _ = spec::write_frame(&fails, &failure);
        sys::leave(127)
    };
    drop(fails);
    let mut message = Vec::new();
    // End of file without a byte: exec closed the pipe.
    let _ = failed.read_to_end(&mut message);
    if !message.is_empty() {
        let unread = |error: io::Error| Failure::new("start the program", &error);
        return Err(spec::read_frame(message.as_slice()).map_err(unread)?);
    }
    let status = wait(child, control, &reach);
    end_all(&reach);
    let (user_us, system_us, max_rss_kib) = sys::children_usage();
    let (exit_code, signal) = match status {
        Some(status) => (status.exit_status().unwrap_or(0), status.terminating_signal().unwrap_or(0)),
        None => (0, Signal::KILL.as_raw()),
    };
    Ok(Report { failure: None, exit_code, signal, user_us, system_us, max_rss_kib })
}

/// Without mounts, devices are made. Where that is forbidden (in a container) programs do without.
fn make_devices(dev: &Path) {
    rustix::process::umask(Mode::empty());
    for (name, minor) in [("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9)] {
        let (kind, mode) = (FileType::CharacterDevice, Mode::from_raw_mode(0o666));
        let _ = mknodat(CWD, dev.join(name), kind, mode, makedev(1, minor));
    }
}

fn open_null() -> io::Result<OwnedFd> {
    let file = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    Ok(file.into())
}

/// Waits for the program; `None` when the helper wants it killed.
fn wait(child: Pid, control: &UnixStream, reach: &Reach) -> Option<WaitStatus> {
    let pidfd = rustix::process::pidfd_open(child, PidfdFlags::empty()).ok();
    loop {
        // Any child: orphans of the action become ours, and must not pile up.
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if pid == child {
                return Some(status);
            }
        }
        let mut watched = vec![PollFd::new(control, PollFlags::IN)];
        watched.extend(pidfd.as_ref().map(|pidfd| PollFd::new(pidfd, PollFlags::IN)));
        let _ = poll(&mut watched, Some(&REAP));
        if !watched[0].revents().is_empty() {
            // A byte or end of file: both say that nobody wants the rest.
            reach.kill();
            return None;
        }
    }
}

/// Ends whatever the program left running, and reaps it: afterwards nobody writes to the action's directories.
fn end_all(reach: &Reach) {
    loop {
        reach.kill();
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => {}
            // ECHILD: none left.
            Err(_) => return,
        }
    }
}

/// How to reach every process of the action.
enum Reach {
    /// In a pid namespace `kill(-1)` reaches all of it but process 1.
    Namespace,
    /// Without one the children are asked for; theirs become ours when they die. The list was opened before the
    /// root was changed, for there is no proc in there.
    Children(Option<File>),
}

impl Reach {
    fn new(namespaces: bool) -> Reach {
        if namespaces {
            return Reach::Namespace;
        }
        let own = rustix::process::getpid().as_raw_nonzero();
        Reach::Children(File::open(format!("/proc/self/task/{own}/children")).ok())
    }

    fn kill(&self) {
        let children = match self {
            Reach::Namespace => return sys::kill_everyone(),
            Reach::Children(children) => children,
        };
        let mut text = String::new();
        if let Some(mut list) = children.as_ref() {
            let _ = list.seek(SeekFrom::Start(0)).and_then(|_| list.read_to_string(&mut text));
        }
        for pid in text.split_ascii_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)) {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }
}

/// In the program's process: everything up to exec. Returns why it did not come to that.
fn become_program(spec: &Spec, cwd: &Path, streams: &Streams) -> Failure {
    match prepare(spec, cwd, streams) {
        Ok(()) => execute(spec),
        Err(failure) => failure,
    }
}

fn prepare(spec: &Spec, cwd: &Path, streams: &Streams) -> Result<(), Failure> {
    let failed = |attempt: &str| {
        let attempt = attempt.to_owned();
        move |error: rustix::io::Errno| Failure::new(attempt, &error.into())
    };
    sys::duplicate(streams.stdout.as_fd(), 1).map_err(|error| Failure::new("set stdout", &error))?;
    sys::duplicate(streams.stderr.as_fd(), 2).map_err(|error| Failure::new("set stderr", &error))?;
    sys::close_others_on_exec();
    for (end, fd) in streams.jobserver.iter().flatten().zip(JOBSERVER_FDS) {
        sys::duplicate(end.as_fd(), fd).map_err(|error| Failure::new("pass on the jobserver", &error))?;
    }
    rustix::process::setsid().map_err(failed("make a session"))?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let limits = [
        (Resource::Core, 0),
        (Resource::Data, spec.data_bytes),
        (Resource::Nproc, spec.processes),
        (Resource::Fsize, spec.file_bytes),
    ];
    for (resource, value) in limits {
        if value == 0 && resource != Resource::Core {
            continue;
        }
        let limit = Some(rustix::process::getrlimit(resource).maximum.unwrap_or(u64::MAX).min(value));
        rustix::process::setrlimit(resource, Rlimit { current: limit, maximum: limit })
            .map_err(failed("set a resource limit"))?;
    }
    if spec.mode & u32::from(mode::OTHER_UID) != 0 {
        let namespaces = spec.mode & u32::from(mode::NAMESPACES) != 0;
        let id = if namespaces { INSIDE_ID } else { OUTSIDE_ID };
        let (uid, gid) = (rustix::process::Uid::from_raw(id), rustix::process::Gid::from_raw(id));
        rustix::thread::set_thread_groups(&[]).map_err(failed("drop groups"))?;
        rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(failed("change the group"))?;
        rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(failed("change the user"))?;
    }
    rustix::thread::set_no_new_privs(true).map_err(failed("give up new privileges"))?;
    rustix::process::chdir(cwd).map_err(failed("enter the working directory"))?;
    sys::default_signals();
    Ok(())
}

/// Finds the program as execvp(3) does, with the PATH of the action's own environment: a name with a slash is a
/// path (relative to the working directory), any other is looked for. argv[0] stays as the client wrote it.
fn execute(spec: &Spec) -> Failure {
    let strings = |list: &[Vec<u8>]| list.iter().map(|bytes| CString::new(bytes.as_slice())).collect();
    let strings = |list| -> Result<Vec<CString>, _> { strings(list) };
    let (Ok(argv), Ok(env)) = (strings(&spec.argv), strings(&spec.env)) else {
        return Failure::new("pass on arguments with a NUL", &io::Error::from_raw_os_error(libc::EINVAL));
    };
    let name = spec.argv.first().map_or(&[][..], Vec::as_slice);
    let mut worst = io::Error::from_raw_os_error(libc::ENOENT);
    for candidate in candidates(name, &spec.env) {
        let Ok(program) = CString::new(candidate) else { continue };
        let mut error = sys::exec(&program, &argv, &env);
        for _ in 0..BUSY_TRIES {
            if error.raw_os_error() != Some(libc::ETXTBSY) {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
            error = sys::exec(&program, &argv, &env);
        }
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => {}
            // A later directory may still have one that can be executed.
            Some(libc::EACCES) => worst = error,
            _ => {
                worst = error;
                break;
            }
        }
    }
    // What depends on the moment or on this machine is not the action's fault.
    let passing = [libc::ENOMEM, libc::EAGAIN, libc::EMFILE, libc::ENFILE, libc::ETXTBSY, libc::EIO];
    let program = !worst.raw_os_error().is_some_and(|errno| passing.contains(&errno));
    Failure { program, ..Failure::new(format!("run {:?}", String::from_utf8_lossy(name)), &worst) }
}

/// The paths to try for a program name, in order.
fn candidates(name: &[u8], env: &[Vec<u8>]) -> Vec<Vec<u8>> {
    if name.contains(&b'/') {
        return vec![name.to_owned()];
    }
    // As getenv(3): the first of a name counts.
    let Some(path) = env.iter().find_map(|variable| variable.strip_prefix(b"PATH=")) else {
        return Vec::new();
    };
    path.split(|byte| *byte == b':')
        .map(|dir| match dir {
            b"" => [b"./", name].concat(),
            dir => [dir, b"/", name].concat(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_as_by_execvp() {
        let env = |path: &str| vec![b"A=B".to_vec(), format!("PATH={path}").into_bytes()];
        let found = |name: &str, env: &[Vec<u8>]| {
            let list = candidates(name.as_bytes(), env);
            list.into_iter().map(|path| String::from_utf8(path).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(found("cc", &env("/usr/bin:/bin")), ["/usr/bin/cc", "/bin/cc"]);
        assert_eq!(found("cc", &env(":/bin")), ["./cc", "/bin/cc"]);
        assert_eq!(found("bin/cc", &env("/bin")), ["bin/cc"]);
        assert!(found("cc", &[]).is_empty());
    }
}
