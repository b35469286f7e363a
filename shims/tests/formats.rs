//! The frames and the trace file under bytes of every kind: what is written comes back, and nothing that is
//! read breaks the reader.

// clippy's leave to unwrap in tests does not reach the helper functions of an integration test
#![allow(clippy::unwrap_used)]

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;

use dbuild_shims::elf::{self, Kind};
use dbuild_shims::frame::{
    self, Command, Done, Env, Exec, FrameError, FromShim, Invoke, MAX_FRAME, Part, Ran, Run, ToShim,
    body_length,
};
use dbuild_shims::trace::{self, Trace, TraceError, format};
use proptest::collection::vec;
use proptest::prelude::*;

fn text() -> impl Strategy<Value = OsString> {
    vec(1_u8.., 0..12).prop_map(OsString::from_vec)
}

fn texts() -> impl Strategy<Value = Vec<OsString>> {
    vec(text(), 0..5)
}

fn env() -> impl Strategy<Value = Env> {
    vec(("=?[A-Za-z_][^=\0]{0,6}".prop_map(OsString::from), text()), 0..5)
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..40)
}

fn from_shim() -> impl Strategy<Value = FromShim> {
    let flags = (any::<[u32; 2]>(), any::<[bool; 3]>(), any::<[u64; 4]>());
    let invoke = (text(), text(), texts(), text(), env(), flags).prop_map(
        |(
            session,
            compiler,
            argv,
            cwd,
            env,
            ([umask, columns], [stderr_tty, stdout_tty, streams_usable], view),
        )| {
            FromShim::Invoke(Invoke {
                session,
                compiler_path: compiler.into(),
                argv,
                cwd: cwd.into(),
                env,
                umask,
                stderr_tty,
                stdout_tty,
                streams_usable,
                columns,
                view,
            })
        },
    );
    let numbers = (any::<u32>(), any::<i32>(), any::<i32>(), any::<[bool; 2]>());
    let ran = (numbers, bytes(), bytes(), any::<[u64; 3]>()).prop_map(|(numbers, stdout, stderr, times)| {
        let (index, status, spawn_errno, [printed, truncated]) = numbers;
        let [user_us, sys_us, wall_us] = times;
        FromShim::Ran(Ran {
            index,
            status,
            spawn_errno,
            stdout,
            stderr,
            printed,
            truncated,
            user_us,
            sys_us,
            wall_us,
        })
    });
    prop_oneof![invoke, ran]
}

fn to_shim() -> impl Strategy<Value = ToShim> {
    let exec = (text(), texts(), env())
        .prop_map(|(program, argv, env)| ToShim::Exec(Exec { program: program.into(), argv, env }));
    let command = (text(), texts(), env(), text(), proptest::option::of(text()), any::<bool>()).prop_map(
        |(program, argv, env, cwd, trace, pass_on)| {
            let (program, cwd, trace) = (program.into(), cwd.into(), trace.map(Into::into));
            Command { program, argv, env, cwd, trace, pass_on }
        },
    );
    let run =
        (vec(command, 0..4), any::<u32>()).prop_map(|(runs, parallel)| ToShim::Run(Run { runs, parallel }));
    let part = (bytes(), bytes()).prop_map(|(stdout, stderr)| Part { stdout, stderr });
    let done = (vec(part, 0..4), any::<u32>()).prop_map(|(parts, code)| ToShim::Done(Done { parts, code }));
    prop_oneof![exec, run, done, bytes().prop_map(ToShim::Print)]
}

proptest! {
    #[test]
    fn frames_to_the_initiator_come_back(frame in from_shim()) {
        let encoded = frame.encode();
        let body = frame::read(&mut &encoded[..]).unwrap().unwrap();
        prop_assert_eq!(body.len(), body_length(encoded[..4].try_into().unwrap()).unwrap());
        prop_assert_eq!(FromShim::decode(&body), Ok(frame));
        prop_assert!(ToShim::decode(&body).is_err());
        for cut in 0..body.len() {
            prop_assert!(FromShim::decode(&body[..cut]).is_err());
        }
    }

    #[test]
    fn frames_to_the_shim_come_back(frame in to_shim()) {
        let encoded = frame.encode();
        let body = frame::read(&mut &encoded[..]).unwrap().unwrap();
        prop_assert_eq!(ToShim::decode(&body), Ok(frame));
        prop_assert!(FromShim::decode(&body).is_err());
        for cut in 0..body.len() {
            prop_assert!(ToShim::decode(&body[..cut]).is_err());
        }
    }

    /// There is one encoding for each value: whatever decodes, encodes to the same bytes.
    #[test]
    fn damaged_frames_are_refused_or_are_frames(
        frame in to_shim(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut body = frame.encode()[4..].to_vec();
        let at = at.index(body.len());
        body[at] = byte;
        if let Ok(decoded) = ToShim::decode(&body) {
            prop_assert_eq!(&decoded.encode()[4..], &body[..]);
        }
    }

    #[test]
    fn any_bytes_are_survived(bytes in vec(any::<u8>(), 0..200), kind in 0_u8..24) {
        let _ = FromShim::decode(&bytes);
        let _ = ToShim::decode(&bytes);
        let mut with_kind = bytes;
        with_kind.insert(0, kind);
        let _ = FromShim::decode(&with_kind);
        let _ = ToShim::decode(&with_kind);
        let _ = frame::read(&mut &with_kind[..]);
    }

    #[test]
    fn any_head_of_a_program_is_survived(
        own in any::<bool>(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in 0_usize..4096,
    ) {
        let mut head = fs::read("/proc/self/exe").unwrap();
        head.truncate(cut);
        if !own && !head.is_empty() {
            let at = at.index(head.len());
            head[at] = byte;
        }
        let _ = elf::kind(&head);
    }

    #[test]
    fn any_trace_is_survived(
        records in vec(any::<u8>(), 0..300), next in 0_u64..600, flags in any::<u32>(),
    ) {
        let mut bytes = empty_trace();
        bytes.truncate(format::HEADER);
        bytes[format::NEXT_AT..][..8].copy_from_slice(&next.to_ne_bytes());
        bytes[format::FLAGS_AT..][..4].copy_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&records);
        if let Ok(trace) = Trace::parse(bytes) {
            let _ = trace.records().count();
            let _ = trace.complete();
        }
    }
}

fn empty_trace() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    trace::create(&dir.path().join("trace"), 0).unwrap();
    fs::read(dir.path().join("trace")).unwrap()
}

#[test]
fn refusals_say_why() {
    let done = ToShim::Done(Done::default()).encode();
    let body = &done[4..];
    assert_eq!(ToShim::decode(&[body, &[0]].concat()), Err(FrameError::Trailing(1)));
    assert_eq!(ToShim::decode(&[99]), Err(FrameError::UnknownKind(99)));
    assert_eq!(ToShim::decode(&[]), Err(FrameError::Truncated));
    // an Invoke of a version to come
    assert_eq!(FromShim::decode(&[1, frame::VERSION + 1, 0]), Err(FrameError::Version(frame::VERSION + 1)));
    assert_eq!(body_length(u32::MAX.to_le_bytes()), Err(FrameError::TooLong(u64::from(u32::MAX))));
    assert!(body_length((MAX_FRAME as u32).to_le_bytes()).is_ok());
    // a list of four thousand million items in four bytes
    let exec = [&[16][..], &[0; 4], &[0xff; 4]].concat();
    assert_eq!(ToShim::decode(&exec), Err(FrameError::Truncated));
    let nul = ToShim::Exec(Exec { program: "a\0b".into(), argv: Vec::new(), env: Vec::new() });
    assert_eq!(ToShim::decode(&nul.encode()[4..]), Err(FrameError::BadText));
    let name = Exec { program: "a".into(), argv: Vec::new(), env: vec![("a=b".into(), "".into())] };
    assert_eq!(ToShim::decode(&ToShim::Exec(name).encode()[4..]), Err(FrameError::BadText));
}

#[test]
fn programs_are_told_apart_by_their_heads() {
    let head = fs::read("/bin/sh").unwrap();
    assert_eq!(elf::kind(&head), Some(Kind::Dynamic));
    assert_eq!(elf::kind(&head[..40]), None);
    let mut foreign = head[..64].to_vec();
    foreign[4] = 1;
    assert_eq!(elf::kind(&foreign), Some(Kind::Foreign));
    assert_eq!(elf::kind(b"#!/bin/sh\nexit 0\n a script is no ELF file"), None);
}

#[test]
fn a_stream_that_ends_between_frames_ends_and_within_one_fails() {
    assert_eq!(frame::read(&mut &b""[..]).unwrap(), None);
    assert!(frame::read(&mut &b"\x01\0"[..]).is_err());
    assert!(frame::read(&mut &b"\x02\0\0\0x"[..]).is_err());
    let mut too_long = &(MAX_FRAME as u32 + 1).to_le_bytes()[..];
    assert!(frame::read(&mut too_long).is_err());
    assert!(frame::write(&mut Vec::new(), &vec![0; MAX_FRAME + 5]).is_err());
}

#[test]
fn wait_statuses_become_codes() {
    assert_eq!(Done::code_of(0), 0);
    assert_eq!(Done::code_of(255 << 8), 255);
    assert_eq!(Done::code_of(9), 256 + 9);
    // with a core file
    assert_eq!(Done::code_of(11 | 0x80), 256 + 11);
}

#[test]
fn an_empty_trace_is_sparse_and_complete() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("trace");
    trace::create(&path, trace::DEFAULT_CAPACITY).unwrap();
    let data = fs::metadata(&path).unwrap();
    assert_eq!(data.len(), trace::DEFAULT_CAPACITY);
    assert!(data.blocks() * 512 < 1 << 20);
    let trace = Trace::read(&path).unwrap();
    assert!(trace.complete() && trace.records().next().is_none());
    assert!(trace::create(&path, 0).is_err());
}

#[test]
fn other_files_are_no_traces() {
    let mut bytes = empty_trace();
    assert!(matches!(Trace::parse(bytes[..40].to_vec()), Err(TraceError::Header)));
    bytes[0] ^= 1;
    assert!(matches!(Trace::parse(bytes), Err(TraceError::Header)));
}

#[test]
fn a_record_that_was_never_finished_makes_the_trace_incomplete() {
    let mut bytes = empty_trace();
    let next = format::HEADER as u64 + 24;
    bytes[format::NEXT_AT..][..8].copy_from_slice(&next.to_ne_bytes());
    let trace = Trace::parse(bytes).unwrap();
    assert!(trace.overflowed());
    assert!(matches!(trace.records().next(), Some(Err(TraceError::Record(64)))));
}
