//! Sandboxes, as the helper sees them: start one, read what it writes, wait or kill. How one is made stands in
//! `mounts` and `init`, by whom in `launcher`. This side knows neither trees nor blobs.
//!
//! Cost and choice: an action pays one fork of the launcher, six namespaces (the net namespace is more than half
//! of that) and about a dozen mounts. The library hakoniwa was measured in its place: it forks the process that
//! calls it, which for a helper means many threads and copying its page tables (3.4 ms per action from a small
//! process, 8.8 ms from one of 200 MB), and it has no way to set argv[0] or to end the whole pid namespace.

pub mod init;
pub mod launcher;
pub mod mounts;
pub mod spec;
mod sys;

use std::ffi::OsString;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sendmsg,
    socketpair,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe::Receiver;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::{HelperError, SandboxChoice};
use spec::{Failure, Report, Spec, mode};

/// Starts sandboxes through one launcher, which it starts again should it die.
#[derive(Debug)]
pub struct Sandbox {
    inner: Arc<Inner>,
    /// Bits of [`mode`] that actions are started with.
    mode: u8,
}

#[derive(Debug)]
struct Inner {
    command: Vec<OsString>,
    launcher: Mutex<Option<Launcher>>,
}

#[derive(Debug)]
struct Launcher {
    socket: Option<OwnedFd>,
    child: Child,
}

/// An action that runs. Dropping it ends the action, soon; [`Running::kill`] and then [`Running::wait`] tell when.
#[derive(Debug)]
pub struct Running {
    pub stdout: Receiver,
    pub stderr: Receiver,
    pub reports: Reports,
    pub kill: Kill,
}

/// Where the report of a running action arrives.
#[derive(Debug)]
pub struct Reports(OwnedReadHalf);

/// The way to end a running action; dropping it ends the action.
#[derive(Debug)]
pub struct Kill(OwnedWriteHalf);

impl Sandbox {
    /// Starts the launcher and tries one sandbox in `scratch`, an empty directory of ours. An error is a sentence
    /// that says what to do: a helper never runs unsandboxed by itself.
    pub async fn open(
        command: Vec<OsString>,
        choice: SandboxChoice,
        scratch: &Path,
    ) -> Result<Sandbox, HelperError> {
        let inner = Arc::new(Inner { command, launcher: Mutex::new(None) });
        let root = rustix::process::geteuid().is_root();
        if choice == SandboxChoice::None {
            return Ok(Sandbox { inner, mode: if root { mode::OTHER_UID } else { 0 } });
        }
        // Root without the right to map ids (in a container, say) is like an ordinary user.
        let other_uid = if root { Some(mode::NAMESPACES | mode::OTHER_UID) } else { None };
        let mut refused = None;
        for mode in other_uid.into_iter().chain([mode::NAMESPACES]) {
            let sandbox = Sandbox { inner: Arc::clone(&inner), mode };
            match sandbox.probe(scratch).await {
                Ok(None) => return Ok(sandbox),
                Ok(Some(failure)) => refused = refused.or(Some(failure)),
                Err(error) => {
                    return Err(HelperError::Sandbox(format!("the launcher does not answer: {error}")));
                }
            }
        }
        let failure = refused.expect("the loop ran at least once and did not return");
        Err(HelperError::Sandbox(advice(&failure)))
    }

    /// True where actions get namespaces, and with them mounts.
    pub fn namespaces(&self) -> bool {
        self.mode & mode::NAMESPACES != 0
    }

    /// The uid outside that an action of this kind runs under, where it is not the helper's own.
    pub fn other_uid(&self, root_is_root: bool) -> Option<u32> {
        // Without namespaces only a chroot can be entered by a user who may not read the helper's directories.
        let other = self.mode & mode::OTHER_UID != 0 && (root_is_root || self.namespaces());
        other.then_some(spec::OUTSIDE_ID)
    }

    /// Whether an action of this kind can run at all.
    pub fn can_run(&self, root_is_root: bool) -> bool {
        self.namespaces() || !root_is_root || self.mode & mode::OTHER_UID != 0
    }

    /// Runs a program that is not there: everything before that must work.
    async fn probe(&self, scratch: &Path) -> io::Result<Option<Failure>> {
        for name in ["proc", "dev", "tmp"] {
            fs_err::create_dir_all(scratch.join(name))?;
        }
        let spec = Spec {
            root: scratch.as_os_str().as_bytes().to_vec(),
            root_is_root: true,
            tmp_bytes: 1 << 20,
            argv: vec![b"/probe".to_vec()],
            ..Spec::default()
        };
        let Running { mut reports, kill: _kill, .. } = self.start(spec, None).await?;
        Ok(reports.wait().await?.failure.filter(|failure| !failure.program))
    }

    /// Starts an action, with the ends of a jobserver's pipe or without; the mode in `spec` is set here.
    pub async fn start(&self, mut spec: Spec, jobserver: Option<[OwnedFd; 2]>) -> io::Result<Running> {
        let mut mode = self.mode;
        if self.other_uid(spec.root_is_root).is_none() {
            mode &= !mode::OTHER_UID;
        }
        spec.mode = u32::from(mode);
        let (ours, theirs) = tokio::net::UnixStream::pair()?;
        let theirs = theirs.into_std()?;
        theirs.set_nonblocking(false)?;
        let (stdout, stdout_end) = io::pipe()?;
        let (stderr, stderr_end) = io::pipe()?;
        let mut fds = vec![OwnedFd::from(theirs), stdout_end.into(), stderr_end.into()];
        fds.extend(jobserver.into_iter().flatten());
        let inner = Arc::clone(&self.inner);
        tokio::task::spawn_blocking(move || inner.request(mode, &fds)).await.map_err(io::Error::other)??;
        let (reports, mut control) = ours.into_split();
        control.write_all(&spec::frame(&spec)).await?;
        Ok(Running {
            stdout: Receiver::from_owned_fd(stdout.into())?,
            stderr: Receiver::from_owned_fd(stderr.into())?,
            reports: Reports(reports),
            kill: Kill(control),
        })
    }
}

impl Reports {
    /// What became of the action. End of file without a report: its first process was killed from outside.
    pub async fn wait(&mut self) -> io::Result<Report> {
        let mut length = [0; 4];
        self.0.read_exact(&mut length).await?;
        let mut bytes = vec![0; spec::checked_length(length)?];
        self.0.read_exact(&mut bytes).await?;
        prost::Message::decode(bytes.as_slice()).map_err(io::Error::other)
    }
}

impl Kill {
    /// Asks for the end of every process of the action; the report follows when they are gone.
    pub async fn kill(&mut self) {
        // A broken connection means that it has ended already.
        let _ = self.0.write_all(&[spec::KILL]).await;
    }
}

impl Inner {
    fn request(&self, mode: u8, fds: &[OwnedFd]) -> io::Result<()> {
        let mut launcher = self.launcher.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = launcher.as_ref() {
            if running.send(mode, fds).is_ok() {
                return Ok(());
            }
            tracing::warn!("the sandbox launcher has died; starting another");
        }
        *launcher = None;
        launcher.insert(Launcher::start(&self.command)?).send(mode, fds)
    }
}

impl Launcher {
    fn start(command: &[OsString]) -> io::Result<Launcher> {
        let (program, arguments) =
            command.split_first().ok_or_else(|| io::Error::other("no launcher command is configured"))?;
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let child = std::process::Command::new(program)
            .args(arguments)
            .current_dir("/")
            // Ctrl-C is for the helper, which ends actions in order.
            .process_group(0)
            .stdin(theirs)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Launcher { socket: Some(ours), child })
    }

    fn send(&self, mode: u8, fds: &[OwnedFd]) -> io::Result<()> {
        let socket = self.socket.as_ref().expect("the socket is taken only by drop");
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(5))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
        sendmsg(socket, &[IoSlice::new(&[mode])], &mut ancillary, SendFlags::NOSIGNAL)?;
        Ok(())
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        // It ends when the socket does.
        drop(self.socket.take());
        let _ = self.child.wait();
    }
}

/// What the owner of a machine can do about a refusal.
fn advice(failure: &Failure) -> String {
    let sysctl = |name: &str| {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
    };
    let remedy = if sysctl("kernel.unprivileged_userns_clone").as_deref() == Some("0") {
        "allow them with `sysctl -w kernel.unprivileged_userns_clone=1`"
    } else if sysctl("user.max_user_namespaces").as_deref() == Some("0") {
        "allow them with `sysctl -w user.max_user_namespaces=65536`"
    } else if sysctl("kernel.apparmor_restrict_unprivileged_userns").as_deref() == Some("1") {
        "allow them with `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`"
    } else if failure.attempt.contains("proc") {
        "in a container, start it with an unmasked /proc (docker: --security-opt systempaths=unconfined)"
    } else {
        "in a container, start it with user namespaces allowed (docker: --security-opt seccomp=unconfined \
         --security-opt apparmor=unconfined)"
    };
    format!(
        "this system refuses the namespaces that keep actions apart (failed to {}); {remedy}, or start the helper \
         with `--sandbox none` if every client may do with this machine what it likes",
        failure.sentence()
    )
}
