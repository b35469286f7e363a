//! Frames between shim and initiator.

use dbuild_shims::frame::{
    self, Command, Done, Exec, FromShim, Invoke, MAX_FRAME, Part, Ran, Run, ToShim, body_length,
};

pub fn from_shim(body: &[u8]) -> bool {
    stream(body);
    let Ok(frame) = FromShim::decode(body) else { return false };
    assert_eq!(&frame.encode()[4..], body, "there is one encoding for each frame");
    assert!(ToShim::decode(body).is_err(), "no frame goes both ways");
    true
}

pub fn to_shim(body: &[u8]) -> bool {
    stream(body);
    let Ok(frame) = ToShim::decode(body) else { return false };
    assert_eq!(&frame.encode()[4..], body, "there is one encoding for each frame");
    assert!(FromShim::decode(body).is_err(), "no frame goes both ways");
    true
}

/// The same bytes as a stream of frames.
fn stream(bytes: &[u8]) {
    let mut rest = bytes;
    while let Ok(Some(body)) = frame::read(&mut rest) {
        assert!(body.len() <= bytes.len());
    }
    if let Some(header) = bytes.first_chunk() {
        assert!(body_length(*header).is_ok_and(|length| length <= MAX_FRAME) || header[3] >= 4);
    }
}

pub fn from_shim_seeds() -> Vec<Vec<u8>> {
    let invoke = Invoke {
        session: "s1".into(),
        compiler_path: "/usr/bin/cc".into(),
        argv: ["cc", "-c", "a.c", "-o", "a.o"].map(Into::into).into(),
        cwd: "/work".into(),
        env: vec![("PATH".into(), "/bin".into()), ("=x".into(), "".into()), ("A".into(), "=".into())],
        umask: 0o22,
        stderr_tty: true,
        stdout_tty: false,
        streams_usable: true,
        columns: 80,
        view: [4, 4026531841, 1, 2],
    };
    let ran = Ran {
        index: 3,
        status: 256,
        stdout: b"out".into(),
        printed: true,
        truncated: true,
        wall_us: 9,
        ..Ran::default()
    };
    [FromShim::Invoke(invoke), FromShim::Ran(ran)].iter().map(|frame| frame.encode().split_off(4)).collect()
}

pub fn to_shim_seeds() -> Vec<Vec<u8>> {
    let argv: Vec<_> = ["cc", "-c", "a.c"].map(Into::into).into();
    let env = vec![("LANG".into(), "C".into())];
    let exec = Exec { program: "/usr/bin/cc".into(), argv: argv.clone(), env: env.clone() };
    let command = |trace: Option<&str>| Command {
        program: "/usr/bin/cc".into(),
        argv: argv.clone(),
        env: env.clone(),
        cwd: "/work".into(),
        trace: trace.map(Into::into),
        pass_on: trace.is_some(),
    };
    let run = Run { runs: vec![command(None), command(Some("/tmp/trace"))], parallel: 2 };
    let part = Part { stdout: b"o".into(), stderr: b"warning: x\n".into() };
    let done = Done { parts: vec![Part::default(), part], code: 256 + 11 };
    [ToShim::Exec(exec), ToShim::Run(run), ToShim::Print(b"line\n".into()), ToShim::Done(done)]
        .iter()
        .map(|frame| frame.encode().split_off(4))
        .collect()
}
