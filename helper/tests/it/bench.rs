//! One helper at a stand-in coordinator, in a directory of its own.

use std::collections::HashSet;
use std::path::PathBuf;

use bytes::Bytes;
use dbuild_helper::{HelperConfig, HelperError, run};
use dbuild_proto::pool::{Fault, lease_result::Outcome};
use dbuild_proto::reapi::build::bazel::remote::execution::v2 as re;
use dbuild_proto::{Digest, PROPERTY_INPUT_ROOT, PROPERTY_JOBSERVER};
use prost::Message;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::pool::{self, Attached};
use crate::roots::Root;
use crate::store::Blobs;

pub const PATH: &str = "PATH=/usr/bin:/bin";

/// An action in the making.
#[derive(Clone, Debug)]
pub struct Order {
    pub root: Digest,
    pub argv: Vec<String>,
    pub env: Vec<String>,
    pub cwd: String,
    pub outputs: Vec<String>,
    pub root_is_root: bool,
    /// The variable that tells of a jobserver.
    pub jobserver: Option<String>,
    pub timeout_ms: u64,
}

impl Order {
    pub fn new(root: &Root, argv: &[&str]) -> Order {
        Order {
            root: root.put(),
            argv: argv.iter().map(|&argument| argument.into()).collect(),
            env: vec![PATH.into()],
            cwd: "work".into(),
            outputs: Vec::new(),
            root_is_root: true,
            jobserver: None,
            timeout_ms: 60_000,
        }
    }

    /// A shell script.
    pub fn script(root: &Root, script: &str) -> Order {
        Order::new(root, &["sh", "-c", script])
    }

    pub fn outputs(mut self, outputs: &[&str]) -> Order {
        self.outputs = outputs.iter().map(|&output| output.into()).collect();
        self
    }

    /// Puts action and command into the store.
    pub fn put(&self, blobs: &Blobs) -> Digest {
        let variable = |text: &String| {
            let (name, value) = text.split_once('=').unwrap();
            re::command::EnvironmentVariable { name: name.into(), value: value.into() }
        };
        let command = re::Command {
            arguments: self.argv.clone(),
            environment_variables: self.env.iter().map(variable).collect(),
            output_paths: self.outputs.clone(),
            working_directory: self.cwd.clone(),
            ..Default::default()
        };
        let value = self.root_is_root.to_string();
        let jobserver = self.jobserver.iter().map(|name| (PROPERTY_JOBSERVER, name.clone()));
        let properties = [(PROPERTY_INPUT_ROOT, value)].into_iter().chain(jobserver);
        let properties =
            properties.map(|(name, value)| re::platform::Property { name: name.into(), value }).collect();
        let action = re::Action {
            command_digest: Some(blobs.put_message(&command).to_wire()),
            input_root_digest: Some(self.root.to_wire()),
            platform: Some(re::Platform { properties }),
            ..Default::default()
        };
        blobs.put_message(&action)
    }
}

/// The action, its command and its directories, but for what was `sent` before: what a coordinator sends with a lease.
pub fn messages(blobs: &Blobs, action: Digest, sent: &mut HashSet<Digest>) -> Vec<Bytes> {
    let digest = |digest: &Option<re::Digest>| Digest::from_field(digest.as_ref()).unwrap();
    let bytes = blobs.get(&action).unwrap();
    let message = re::Action::decode(bytes.as_slice()).unwrap();
    let command = digest(&message.command_digest);
    let mut out = vec![bytes.into(), blobs.get(&command).unwrap().into()];
    let mut open = vec![digest(&message.input_root_digest)];
    while let Some(directory) = open.pop() {
        if sent.insert(directory) {
            let bytes = blobs.get(&directory).unwrap();
            let message = re::Directory::decode(bytes.as_slice()).unwrap();
            open.extend(message.directories.iter().map(|node| digest(&node.digest)));
            out.push(bytes.into());
        }
    }
    out
}

pub struct Bench {
    pub blobs: Blobs,
    pub helper: Attached,
    pub arrivals: mpsc::UnboundedReceiver<Attached>,
    pub data_dir: PathBuf,
    _home: tempfile::TempDir,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<Result<(), HelperError>>,
}

impl Bench {
    /// A helper with namespaces; `None`, and a line on stderr, where they are impossible.
    pub async fn start(change: impl FnOnce(&mut HelperConfig)) -> Option<Bench> {
        let home = tempfile::Builder::new().prefix("dbuild-helper-").tempdir().unwrap();
        let blobs = Blobs::default();
        let (address, mut arrivals) = pool::start(&blobs).await;
        let data_dir = home.path().join("data");
        let mut config = HelperConfig::new(format!("http://{address}"), "bench", &data_dir);
        let launcher = std::env::var_os("DBUILD_TEST_LAUNCHER");
        config.launcher = vec![launcher.unwrap_or_else(|| env!("CARGO_BIN_EXE_dbuild-sandbox-exec").into())];
        change(&mut config);
        let (stop, stopped) = oneshot::channel::<()>();
        let mut running = tokio::spawn(run(config, async {
            let _ = stopped.await;
        }));
        tokio::select! {
            ended = &mut running => match ended.unwrap() {
                Err(HelperError::Sandbox(reason)) => {
                    eprintln!("SKIPPED, NOTHING WAS TESTED: {reason}");
                    None
                }
                other => panic!("the helper ended: {other:?}"),
            },
            Some(helper) = arrivals.recv() => {
                Some(Bench { blobs, helper, arrivals, data_dir, _home: home, stop: Some(stop), running })
            }
        }
    }

    /// A root with a shell, a working directory, and nothing else.
    pub fn shell(&self) -> Root {
        Root::new(&self.blobs).with_shell().dir("work")
    }

    pub async fn outcome(&mut self, order: &Order) -> Outcome {
        let action = order.put(&self.blobs);
        self.helper.run(action, order.timeout_ms).await
    }

    pub async fn result(&mut self, order: &Order) -> re::ActionResult {
        match self.outcome(order).await {
            Outcome::ActionResult(bytes) => re::ActionResult::decode(bytes.as_slice()).unwrap(),
            Outcome::Fault(fault) => panic!("{fault:?}"),
        }
    }

    pub async fn fault(&mut self, order: &Order) -> Fault {
        match self.outcome(order).await {
            Outcome::Fault(fault) => fault,
            Outcome::ActionResult(bytes) => panic!("{:?}", re::ActionResult::decode(bytes.as_slice())),
        }
    }

    /// stdout of a script that must succeed.
    pub async fn says(&mut self, order: &Order) -> String {
        let result = self.result(order).await;
        let stderr = String::from_utf8_lossy(&result.stderr_raw).into_owned();
        assert_eq!(result.exit_code, 0, "{stderr}");
        String::from_utf8(result.stdout_raw).unwrap()
    }

    /// Content of one output file.
    pub fn file(&self, result: &re::ActionResult, path: &str) -> Vec<u8> {
        let file = result.output_files.iter().find(|file| file.path == path);
        self.blobs.wire(&file.unwrap_or_else(|| panic!("no {path} in {result:?}")).digest)
    }

    /// Ends the helper, and looks for what it should not leave.
    pub async fn stop(mut self) {
        let _ = self.stop.take().unwrap().send(());
        (&mut self.running).await.unwrap().unwrap();
        let runs: Vec<_> = std::fs::read_dir(self.data_dir.join("run-v1")).unwrap().collect();
        // The probe's directory stays.
        assert!(runs.len() <= 1, "{runs:?}");
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.data_dir.to_str().unwrap()), "{mounts}");
    }
}

/// Processes of this machine with `marker` in their arguments.
pub fn processes_with(marker: &str) -> usize {
    let list = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = list.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines.filter(|line| String::from_utf8_lossy(line).split('\0').any(|word| word == marker)).count()
}
