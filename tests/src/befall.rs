//! What befalls coordinator and helpers of a [`TestCluster`]: they are killed, frozen, restarted, robbed.

use rustix::process::{Pid, Signal, kill_process_group};

use crate::{HelperLine, TestCluster, wait_until};

impl TestCluster {
    /// The coordinator's process, for a build that ends it by itself.
    pub fn coordinator_pid(&self) -> u32 {
        self.coordinator.as_ref().expect("a coordinator").id()
    }

    /// `kill -9` of helper `index`.
    pub fn kill_helper(&mut self, index: usize) {
        let mut child = self.helpers[index].take().expect("a helper that still runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// `kill -9` of the coordinator.
    pub fn kill_coordinator(&mut self) {
        let mut child = self.coordinator.take().expect("a coordinator that still runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// The coordinator loses its disk. It must not run.
    pub fn remove_coordinator_data(&self) {
        assert!(self.coordinator.is_none(), "its data is in use");
        std::fs::remove_dir_all(self.coordinator_data()).unwrap();
    }

    /// Stops every process of helper `index`, its actions included: it keeps its connections and says nothing.
    pub fn freeze_helper(&self, index: usize) {
        self.signal_helper(index, Signal::STOP);
    }

    /// Lets a frozen helper go on.
    pub fn thaw_helper(&self, index: usize) {
        self.signal_helper(index, Signal::CONT);
    }

    fn signal_helper(&self, index: usize, signal: Signal) {
        let child = self.helpers[index].as_ref().expect("a helper that still runs");
        // Its worker has a group of its own.
        let worker = self.worker_of(index).expect("a worker");
        for group in [Pid::from_child(child), worker.pid] {
            kill_process_group(group, signal).unwrap();
        }
    }

    /// What is known of helper `index`, if it was ever seen.
    pub fn helper(&self, index: usize) -> Option<HelperLine> {
        let name = format!("helper-{index}");
        self.list()?.into_iter().find(|line| line.name == name)
    }

    /// Until helper `index` is, or is not, online.
    pub fn wait_until_helper(&self, index: usize, online: bool) {
        let what = format!("helper-{index} is {}", if online { "online" } else { "gone" });
        wait_until(&what, || self.helper(index).is_some_and(|line| line.online == online));
    }

    /// The helper that runs something now.
    pub fn busy_helper(&self) -> usize {
        let mut busy = None;
        wait_until("a helper is busy", || {
            busy = self.list().into_iter().flatten().find(|line| line.online && line.running > 0);
            busy.is_some()
        });
        let name = busy.expect("found").name;
        name.trim_start_matches("helper-").parse().unwrap()
    }
}
