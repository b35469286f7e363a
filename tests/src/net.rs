//! Two hosts and a cable between them, as network namespaces: what loopback cannot show, a cable that is cut, a line that
//! is slow, can be made there.
//!
//! Nothing of it is in this machine's own network: each namespace lives as long as a process in it. The one that holds
//! it ends with the test's end of a pipe, however the test ends, and the kernel takes namespace and cable away.

use std::ffi::OsString;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::Skips;

const NEAR: &str = "10.99.0.1";
const FAR: &str = "10.99.0.2";

/// A namespace's holder.
#[derive(Debug)]
struct Host {
    holder: Child,
    /// Closing it ends the holder.
    _pipe: Option<ChildStdin>,
}

/// The near host (coordinator, users) and the far one (helpers).
#[derive(Debug)]
pub struct Net {
    near: Host,
    far: Host,
}

impl Net {
    /// The two hosts; `None`, and a skip of `what`, where they cannot be made.
    pub fn connect(skips: &Skips, what: &str) -> Option<Net> {
        if ["ip", "nsenter", "unshare"].iter().any(|tool| !skips.need(tool, what)) {
            return None;
        }
        let made = Net::make();
        if made.is_none() {
            skips.skip(what, "this process may not make network namespaces (root may)");
        }
        made
    }

    fn make() -> Option<Net> {
        let net = Net { near: Host::start()?, far: Host::start()? };
        let far = net.far.holder.id().to_string();
        let cable = ["link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", &far];
        let steps: [(&Host, &[&str]); 7] = [
            (&net.near, &cable),
            (&net.near, &["link", "set", "lo", "up"]),
            (&net.far, &["link", "set", "lo", "up"]),
            (&net.near, &["address", "add", &format!("{NEAR}/24"), "dev", "cable"]),
            (&net.far, &["address", "add", &format!("{FAR}/24"), "dev", "cable"]),
            (&net.near, &["link", "set", "cable", "up"]),
            (&net.far, &["link", "set", "cable", "up"]),
        ];
        steps.iter().all(|(host, words)| host.run("ip", words)).then_some(net)
    }

    /// Words before a command that is to run on the near host.
    pub fn near(&self) -> Vec<OsString> {
        self.near.enter()
    }

    /// Words before a command that is to run on the far host.
    pub fn far(&self) -> Vec<OsString> {
        self.far.enter()
    }

    pub fn near_address(&self) -> &'static str {
        NEAR
    }

    /// Cuts the cable: no packet arrives, and nobody is told.
    pub fn cut(&self) {
        assert!(self.far.run("ip", &["link", "set", "cable", "down"]));
    }

    /// Puts the cable back.
    pub fn mend(&self) {
        assert!(self.far.run("ip", &["link", "set", "cable", "up"]));
    }

    /// Makes both directions as a queueing discipline of tc(8) says, for example `netem delay 50ms`; false where the
    /// kernel does not have it.
    pub fn shape(&self, discipline: &[&str]) -> bool {
        let words: Vec<&str> =
            ["qdisc", "replace", "dev", "cable", "root"].iter().chain(discipline).copied().collect();
        self.near.run("tc", &words) && self.far.run("tc", &words)
    }
}

impl Host {
    fn start() -> Option<Host> {
        // `echo` says that the namespace is there.
        let mut command = Command::new(path_of("unshare"));
        command.args(["--net", "sh", "-c", "echo; exec cat"]).stderr(Stdio::null());
        let mut holder = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()?;
        let mut ready = [0];
        let begun = holder.stdout.as_mut().map(|out| out.read_exact(&mut ready));
        let host = Host { _pipe: holder.stdin.take(), holder };
        matches!(begun, Some(Ok(()))).then_some(host)
    }

    fn enter(&self) -> Vec<OsString> {
        let namespace = format!("--net=/proc/{}/ns/net", self.holder.id());
        vec![path_of("nsenter").into(), namespace.into(), "--".into()]
    }

    fn run(&self, tool: &str, args: &[&str]) -> bool {
        let enter = self.enter();
        let mut command = Command::new(&enter[0]);
        command.args(&enter[1..]).arg(path_of(tool)).args(args).stdin(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// A program on the fixed `PATH` of the tests, for environments that have another.
pub(crate) fn path_of(tool: &str) -> PathBuf {
    let dirs = crate::sandbox::PATH.split(':').map(PathBuf::from);
    dirs.map(|dir| dir.join(tool)).find(|path| path.is_file()).unwrap_or_else(|| tool.into())
}
