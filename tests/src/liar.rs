//! A helper that lies: it speaks the pool's protocol as a helper does, runs nothing, and answers what a test tells it to.
//! It is the one thing here that knows the protocol.

use std::collections::HashMap;
use std::thread::JoinHandle;
use std::time::Duration;

use dbuild_proto::pool::lease_result::Outcome;
use dbuild_proto::pool::{Fault, fault, pool_client::PoolClient};
use dbuild_proto::pool::{FromHelper, Hello, Lease, LeaseResult, State, from_helper, to_helper};
use dbuild_proto::reapi::build::bazel::remote::execution::v2 as re;
use dbuild_proto::{Digest, DigestFunction, PROTOCOL, isa};
use prost::Message;
use re::content_addressable_storage_client::ContentAddressableStorageClient;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Channel;

const FUNCTION: DigestFunction = DigestFunction::Blake3;

/// What it answers to each lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// Success, without outputs.
    NoOutputs,
    /// Success, and digests of blobs that nobody has.
    NotStored,
    /// Success; a stored blob's hash with another size.
    WrongSize,
    /// Success; contents that are not those of their digest.
    OtherBytes,
    /// Success, and an output somewhere else.
    Absolute,
    ClimbsOut,
    /// Success, each output twice.
    Twice,
    /// Success, a hundred thousand outputs.
    Flood,
    /// Success, every output empty.
    Empty,
    /// Success that does not parse.
    Garbage,
    NoOutcome,
    /// A failure without a word.
    Silent,
    /// A failure as of a compiler that was killed.
    Killed,
    /// A failure in words that a compiler could have used.
    CompileError,
    /// It could not run it.
    Broken,
    /// It misses what is there.
    MissesInputs,
    /// It goes away with the lease.
    Leaves,
    /// It says how it is, and never answers.
    Never,
}

/// A lying helper in a thread of this process; gone when dropped.
#[derive(Debug)]
pub struct Liar {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<u32>>,
}

impl Liar {
    /// Joins the pool at `url` under a name, with two slots.
    pub fn join(url: &str, name: &str, lie: Lie) -> Liar {
        let (url, name) = (url.to_owned(), name.to_owned());
        let (stop, mut stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut told = 0;
                tokio::select! {
                    () = serve(&url, &name, lie, &mut told) => {}
                    _ = &mut stopped => {}
                }
                told
            })
        });
        Liar { stop: Some(stop), thread: Some(thread) }
    }

    /// Leaves the pool; says how often it lied.
    pub fn leave(mut self) -> u32 {
        self.end()
    }

    fn end(&mut self) -> u32 {
        drop(self.stop.take());
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.end();
    }
}

/// For ever: whoever is thrown out joins again.
async fn serve(url: &str, name: &str, lie: Lie, told: &mut u32) {
    loop {
        let channel = Channel::from_shared(url.to_owned()).unwrap().connect().await;
        if let Ok(channel) = channel {
            attach(channel, name, lie, told).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// One stream, to its end.
async fn attach(channel: Channel, name: &str, lie: Lie, told: &mut u32) {
    let (out, outgoing) = mpsc::unbounded_channel();
    let say = |message| drop(out.send(FromHelper { message: Some(message) }));
    let properties = HashMap::from([("OSFamily".into(), "linux".into()), ("ISA".into(), isa().into())]);
    let version = "0.0.liar".into();
    say(from_helper::Message::Hello(Hello {
        protocol: PROTOCOL,
        version,
        name: name.into(),
        slots: 2,
        properties,
    }));
    let answer = PoolClient::new(channel.clone()).attach(UnboundedReceiverStream::new(outgoing)).await;
    let Ok(mut incoming) = answer.map(tonic::Response::into_inner) else { return };
    let mut states = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            message = incoming.message() => match message {
                Ok(Some(message)) => {
                    let Some(to_helper::Message::Lease(lease)) = message.message else { continue };
                    *told += 1;
                    match lie {
                        Lie::Leaves => return,
                        Lie::Never => continue,
                        _ => {}
                    }
                    let outcome = outcome(&channel, &lease, lie).await;
                    say(from_helper::Message::Result(LeaseResult { lease_id: lease.lease_id, outcome }));
                }
                _ => return,
            },
            _ = states.tick() => say(from_helper::Message::State(State::default())),
        }
    }
}

async fn outcome(channel: &Channel, lease: &Lease, lie: Lie) -> Option<Outcome> {
    let fault = |kind: fault::Kind, missing| {
        let message = "failed to be honest".into();
        Some(Outcome::Fault(Fault { kind: kind.into(), message, missing }))
    };
    let action_digest = Digest::from_hex(&lease.action_hash, lease.action_size as u64).unwrap();
    match lie {
        Lie::NoOutcome => return None,
        Lie::Garbage => return Some(Outcome::ActionResult(vec![0xff; 64])),
        Lie::Broken => return fault(fault::Kind::Infrastructure, Vec::new()),
        Lie::MissesInputs => return fault(fault::Kind::MissingInputs, vec![action_digest.to_string()]),
        _ => {}
    }
    let action = re::Action::decode(read(channel, action_digest.to_wire()).await.as_slice()).unwrap();
    let command = read(channel, action.command_digest.unwrap()).await;
    let command = re::Command::decode(command.as_slice()).unwrap();
    let some = b"these bytes are no object".to_vec();
    let stored = write(channel, some.clone()).await;
    let file = |path: &str, digest: Digest, contents: &[u8]| re::OutputFile {
        path: path.into(),
        digest: Some(digest.to_wire()),
        contents: contents.to_vec(),
        ..Default::default()
    };
    let all = |digest: Digest, contents: &[u8]| -> Vec<_> {
        command.output_paths.iter().map(|path| file(path, digest, contents)).collect()
    };
    let mut result = re::ActionResult::default();
    match lie {
        Lie::NotStored => result.output_files = all(FUNCTION.digest(b"never stored"), b""),
        Lie::WrongSize => {
            result.output_files = all(Digest::from_hex(&stored.hex(), stored.size + 1).unwrap(), b"");
        }
        Lie::OtherBytes => result.output_files = all(FUNCTION.digest(b"one thing"), b"another"),
        Lie::Absolute => result.output_files = vec![file("/tmp/dbuild-lie", stored, b"")],
        Lie::ClimbsOut => result.output_files = vec![file("../../../../tmp/dbuild-lie", stored, b"")],
        Lie::Twice => result.output_files = [all(stored, b""), all(stored, b"")].concat(),
        Lie::Flood => {
            result.output_files = (0..100_000).map(|n| file(&format!("flood-{n}"), stored, b"")).collect();
        }
        Lie::Empty => result.output_files = all(FUNCTION.digest(b""), b""),
        Lie::Silent => result.exit_code = 1,
        Lie::Killed => {
            result.exit_code = 1;
            result.stderr_raw = b"gcc: fatal error: Killed signal terminated program cc1\n".to_vec();
        }
        Lie::CompileError => {
            result.exit_code = 1;
            result.stderr_raw = b"a.c:1:1: error: a lie\n".to_vec();
        }
        _ => {}
    }
    Some(Outcome::ActionResult(result.encode_to_vec()))
}

async fn read(channel: &Channel, digest: re::Digest) -> Vec<u8> {
    let request = re::BatchReadBlobsRequest {
        digests: vec![digest],
        digest_function: FUNCTION.to_wire(),
        ..Default::default()
    };
    let answer = ContentAddressableStorageClient::new(channel.clone()).batch_read_blobs(request).await;
    answer.unwrap().into_inner().responses.remove(0).data
}

async fn write(channel: &Channel, data: Vec<u8>) -> Digest {
    let digest = FUNCTION.digest(&data);
    let request = re::batch_update_blobs_request::Request {
        digest: Some(digest.to_wire()),
        data,
        ..Default::default()
    };
    let request = re::BatchUpdateBlobsRequest {
        requests: vec![request],
        digest_function: FUNCTION.to_wire(),
        ..Default::default()
    };
    ContentAddressableStorageClient::new(channel.clone()).batch_update_blobs(request).await.unwrap();
    digest
}
