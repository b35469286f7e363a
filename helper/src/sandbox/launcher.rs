//! The launcher: a small process of one thread that the helper starts once and that forks the first process of
//! every action. It knows nothing of actions: it passes descriptors on.
//!
//! Why a process of its own: forking a large process of many threads is slow (its page tables are copied) and
//! unsound without exec; and a fork of the helper would, until its exec, hold open for writing whatever another
//! thread is just storing, so that running that file fails with ETXTBSY, and hold the pipes of other actions.
//! The launcher has no files open but its socket.
//!
//! Requests come over a `SOCK_SEQPACKET` socket, which is its stdin: one byte of [`super::spec::mode`] and three
//! descriptors, control socket, stdout and stderr, or five, with the two ends of a jobserver's pipe. End of file ends it; running actions are not its concern, each
//! has its own control socket to the helper.

use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::Pid;

use super::init::{self, Streams};
use super::spec::{self, Failure, INSIDE_ID, OUTSIDE_ID, Report, mode};
use super::sys;

/// Serves the helper that started this process, until it closes the socket. `dbuild sandbox-exec` is this and
/// nothing else; it must be called before any thread is started and any file is opened.
pub fn sandbox_init() -> ExitCode {
    sys::close_inherited();
    sys::ignore_children();
    let stdin = io::stdin();
    loop {
        match receive(stdin.as_fd()) {
            Ok(Some(request)) => start(request),
            Ok(None) => return ExitCode::SUCCESS,
            Err(_) => return ExitCode::FAILURE,
        }
    }
}

struct Request {
    mode: u8,
    control: UnixStream,
    streams: Streams,
}

/// The next request; `None` at the end. A message that is not one of ours is passed over.
fn receive(socket: impl AsFd) -> io::Result<Option<Request>> {
    loop {
        let mut byte = [0];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(5))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = {
            let buffers = &mut [io::IoSliceMut::new(&mut byte)];
            recvmsg(&socket, buffers, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
        };
        match received {
            Ok(message) if message.bytes == 0 => return Ok(None),
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let mut fds = ancillary.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        });
        let Some(mut fds) = fds.next() else { continue };
        if let (Some(control), Some(stdout), Some(stderr)) = (fds.next(), fds.next(), fds.next()) {
            let jobserver = fds.next().zip(fds.next()).map(Into::into);
            let streams = Streams { stdout, stderr, jobserver };
            return Ok(Some(Request { mode: byte[0], control: control.into(), streams }));
        }
    }
}

/// Forks the first process of an action. What fails before it exists is reported in its place.
fn start(request: Request) {
    if let Err(failure) = launch(&request) {
        let report = Report { failure: Some(failure), ..Report::default() };
        // If the helper is gone there is nobody to tell.
        let _ = spec::write_frame(&request.control, &report);
    }
}

fn launch(request: &Request) -> Result<(), Failure> {
    let namespaces = request.mode & mode::NAMESPACES != 0;
    let (mut go, mut ready) = io::pipe().map_err(|error| Failure::new("make a pipe", &error))?;
    // SAFETY: the launcher never starts a thread.
    let forked = unsafe { sys::fork_into(if namespaces { sys::NAMESPACES } else { 0 }) };
    match forked.map_err(|error| Failure::new("make namespaces for an action", &error))? {
        None => {
            drop(ready);
            let mut byte = [0];
            if go.read_exact(&mut byte).is_err() {
                sys::leave(1);
            }
            init::run(&request.control, &request.streams)
        }
        Some(pid) => {
            if namespaces {
                // On failure `ready` is dropped, and the process leaves when it reads end of file.
                map_ids(pid, request.mode & mode::OTHER_UID != 0)?;
            }
            ready.write_all(&[1]).map_err(|error| Failure::new("start an action", &error))
        }
    }
}

/// Writes the id maps of a new user namespace (user_namespaces(7)). An ordinary user may map only itself, and only
/// after giving up setgroups; root maps itself, for the mounts, and an id that owns nothing, for the action.
fn map_ids(pid: Pid, other_uid: bool) -> Result<(), Failure> {
    let proc = format!("/proc/{}", pid.as_raw_nonzero());
    let write = |file: &str, text: &str| {
        let path = format!("{proc}/{file}");
        std::fs::write(&path, text).map_err(|error| Failure::new(format!("write {text:?} to {path}"), &error))
    };
    if other_uid {
        let map = format!("0 0 1\n{INSIDE_ID} {OUTSIDE_ID} 1\n");
        write("uid_map", &map)?;
        return write("gid_map", &map);
    }
    write("setgroups", "deny")?;
    write("uid_map", &format!("{INSIDE_ID} {} 1\n", rustix::process::geteuid().as_raw()))?;
    write("gid_map", &format!("{INSIDE_ID} {} 1\n", rustix::process::getegid().as_raw()))
}
