//! The frames between a shim and the initiator, and nothing about when which is sent.
//!
//! A frame is `u32` length, then that many bytes: `u8` kind and the fields in the order of the structs below.
//! All integers are little-endian. A byte string is `u32` length and the bytes; a list is `u32` count and the
//! items; a flag is one byte, 0 or 1; an optional path is a flag and, if that is 1, the path. A frame's length
//! is at most [`MAX_FRAME`]. [`Invoke`], the first frame on a connection, opens with [`VERSION`].
//!
//! Decoding is strict: every count is held against the bytes that are really there before anything is
//! allocated, and bytes left over are an error.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// Version of this format; an initiator that speaks another one closes the connection.
pub const VERSION: u8 = 5;
/// Longest frame in bytes, its own length field not counted.
pub const MAX_FRAME: usize = 64 << 20;

/// An environment as the compiler will see it: names and values, in order, duplicates kept.
pub type Env = Vec<(OsString, OsString)>;

/// One compiler call as the build wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invoke {
    /// `DBUILD_SESSION`; empty if there was none.
    pub session: OsString,
    /// The real compiler, found and looked through launchers; as found: symbolic links not followed, relative
    /// to `cwd` if it was called or found that way.
    pub compiler_path: PathBuf,
    pub argv: Vec<OsString>,
    pub cwd: PathBuf,
    /// Cleaned of everything that is ours.
    pub env: Env,
    pub umask: u32,
    pub stderr_tty: bool,
    pub stdout_tty: bool,
    /// stdin, stdout and stderr are open, and as far as can be seen somebody takes what is printed.
    pub streams_usable: bool,
    /// Width of the terminal that stdin is, where gcc looks for it; 0: no terminal, or it does not tell.
    pub columns: u32,
    /// How the shim sees the file system (`view::View`).
    pub view: [u64; 4],
}

/// How one command of a [`Run`] ended.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Ran {
    /// Position of the command in [`Run::runs`].
    pub index: u32,
    /// Wait status as `waitpid(2)` gives it.
    pub status: i32,
    /// 0 if the command was started; else the `errno` of the attempt, and `status` is 127 << 8.
    pub spawn_errno: i32,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// The shim has written all output to its own stdout and stderr already: it must not be printed again.
    pub printed: bool,
    /// There was more output than a `Ran` carries: what is here is only the beginning, and all is `printed`.
    pub truncated: bool,
    /// CPU of the command and of the children that it waited for, in microseconds.
    pub user_us: u64,
    pub sys_us: u64,
    pub wall_us: u64,
}

/// What the initiator hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromShim {
    Invoke(Invoke),
    Ran(Ran),
}

/// "Replace yourself by this program." The socket stays open across the exec: its end of file tells the
/// initiator that the process, and with it the slot, is free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exec {
    pub program: PathBuf,
    pub argv: Vec<OsString>,
    pub env: Env,
}

/// One command of a [`Run`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    pub program: PathBuf,
    pub argv: Vec<OsString>,
    pub env: Env,
    pub cwd: PathBuf,
    /// A trace file made by `trace::create`. The shim adds the interceptor and `DBUILD_TRACE` to `env`.
    pub trace: Option<PathBuf>,
    /// What it prints is passed on as it comes (and captured, too): somebody acts on it before the end.
    pub pass_on: bool,
}

/// "Run these as your children and send one [`Ran`] for each, as it ends."
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    pub runs: Vec<Command>,
    /// How many may run at once; 0 counts as 1.
    pub parallel: u32,
}

/// What one part of a call (a source, the link) printed.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Part {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

/// "Print this, part after part, and exit."
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Done {
    pub parts: Vec<Part>,
    /// 0–255: the exit code. 256 + n: die of signal n, as the compiler did.
    pub code: u32,
}

impl Done {
    /// The `code` that repeats a wait status: an exit code or 256 + the signal's number.
    pub fn code_of(status: i32) -> u32 {
        match status & 0x7f {
            0 => (status as u32 >> 8) & 0xff,
            signal => 256 + signal as u32,
        }
    }
}

/// What the shim hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToShim {
    Exec(Exec),
    Run(Run),
    /// "Print this on stderr and go on": a build acts on it before the end. All that comes of the call later, however,
    /// begins with the same, and is printed from there on.
    Print(Vec<u8>),
    Done(Done),
}

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// Longer than [`MAX_FRAME`].
    TooLong(u64),
    /// The fields need more bytes than the frame has.
    Truncated,
    /// Bytes are left after the last field.
    Trailing(usize),
    UnknownKind(u8),
    /// An [`Invoke`] of another format version.
    Version(u8),
    /// A flag that is neither 0 nor 1.
    BadFlag(u8),
    /// A path, argument or variable that no process could have: it holds a NUL byte, or a name is empty or
    /// holds `=`.
    BadText,
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::TooLong(length) => write!(f, "take a frame of {length} bytes"),
            FrameError::Truncated => write!(f, "decode a frame that ends within a field"),
            FrameError::Trailing(left) => write!(f, "decode a frame with {left} bytes after its last field"),
            FrameError::UnknownKind(kind) => write!(f, "decode a frame of unknown kind {kind}"),
            FrameError::Version(version) => write!(f, "speak version {version} of the shim's format"),
            FrameError::BadFlag(byte) => write!(f, "decode a flag with value {byte}"),
            FrameError::BadText => write!(f, "decode a frame with an impossible path, argument or variable"),
        }
    }
}

impl std::error::Error for FrameError {}

impl From<FrameError> for io::Error {
    fn from(error: FrameError) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}

const INVOKE: u8 = 1;
const RAN: u8 = 2;
const EXEC: u8 = 16;
const RUN: u8 = 17;
const DONE: u8 = 18;
const PRINT: u8 = 19;

impl FromShim {
    /// The whole frame, its length field included. One that is longer than [`MAX_FRAME`] will be refused by
    /// the receiver; [`write`] refuses to send it.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            FromShim::Invoke(invoke) => {
                let mut out = Encoder::new(INVOKE);
                out.byte(VERSION);
                out.bytes(invoke.session.as_bytes());
                out.path(&invoke.compiler_path);
                out.list(&invoke.argv);
                out.path(&invoke.cwd);
                out.env(&invoke.env);
                out.u32(invoke.umask);
                out.flag(invoke.stderr_tty);
                out.flag(invoke.stdout_tty);
                out.flag(invoke.streams_usable);
                out.u32(invoke.columns);
                invoke.view.into_iter().for_each(|number| out.u64(number));
                out.finish()
            }
            FromShim::Ran(ran) => {
                let mut out = Encoder::new(RAN);
                out.u32(ran.index);
                out.u32(ran.status as u32);
                out.u32(ran.spawn_errno as u32);
                out.bytes(&ran.stdout);
                out.bytes(&ran.stderr);
                out.flag(ran.printed);
                out.flag(ran.truncated);
                out.u64(ran.user_us);
                out.u64(ran.sys_us);
                out.u64(ran.wall_us);
                out.finish()
            }
        }
    }

    /// Decodes a frame's body: everything after the length field.
    pub fn decode(body: &[u8]) -> Result<FromShim, FrameError> {
        let mut fields = Fields(body);
        let frame = match fields.byte()? {
            INVOKE => {
                let version = fields.byte()?;
                if version != VERSION {
                    return Err(FrameError::Version(version));
                }
                FromShim::Invoke(Invoke {
                    session: fields.text()?,
                    compiler_path: fields.text()?.into(),
                    argv: fields.list()?,
                    cwd: fields.text()?.into(),
                    env: fields.env()?,
                    umask: fields.u32()?,
                    stderr_tty: fields.flag()?,
                    stdout_tty: fields.flag()?,
                    streams_usable: fields.flag()?,
                    columns: fields.u32()?,
                    view: [fields.u64()?, fields.u64()?, fields.u64()?, fields.u64()?],
                })
            }
            RAN => FromShim::Ran(Ran {
                index: fields.u32()?,
                status: fields.u32()? as i32,
                spawn_errno: fields.u32()? as i32,
                stdout: fields.bytes()?.to_vec(),
                stderr: fields.bytes()?.to_vec(),
                printed: fields.flag()?,
                truncated: fields.flag()?,
                user_us: fields.u64()?,
                sys_us: fields.u64()?,
                wall_us: fields.u64()?,
            }),
            kind => return Err(FrameError::UnknownKind(kind)),
        };
        fields.end()?;
        Ok(frame)
    }
}

impl ToShim {
    /// The whole frame, its length field included; see [`FromShim::encode`].
    pub fn encode(&self) -> Vec<u8> {
        match self {
            ToShim::Exec(exec) => {
                let mut out = Encoder::new(EXEC);
                out.path(&exec.program);
                out.list(&exec.argv);
                out.env(&exec.env);
                out.finish()
            }
            ToShim::Run(run) => {
                let mut out = Encoder::new(RUN);
                out.u32(run.parallel);
                out.u32(run.runs.len() as u32);
                for command in &run.runs {
                    out.path(&command.program);
                    out.list(&command.argv);
                    out.env(&command.env);
                    out.path(&command.cwd);
                    out.flag(command.trace.is_some());
                    if let Some(trace) = &command.trace {
                        out.path(trace);
                    }
                    out.flag(command.pass_on);
                }
                out.finish()
            }
            ToShim::Print(text) => {
                let mut out = Encoder::new(PRINT);
                out.bytes(text);
                out.finish()
            }
            ToShim::Done(done) => {
                let mut out = Encoder::new(DONE);
                out.u32(done.code);
                out.u32(done.parts.len() as u32);
                for part in &done.parts {
                    out.bytes(&part.stdout);
                    out.bytes(&part.stderr);
                }
                out.finish()
            }
        }
    }

    /// Decodes a frame's body: everything after the length field.
    pub fn decode(body: &[u8]) -> Result<ToShim, FrameError> {
        let mut fields = Fields(body);
        let frame = match fields.byte()? {
            EXEC => ToShim::Exec(Exec {
                program: fields.text()?.into(),
                argv: fields.list()?,
                env: fields.env()?,
            }),
            RUN => {
                let parallel = fields.u32()?;
                // program, argv, env, cwd and the flags take 18 bytes at least
                let count = fields.count(18)?;
                let mut runs = Vec::with_capacity(count);
                for _ in 0..count {
                    runs.push(Command {
                        program: fields.text()?.into(),
                        argv: fields.list()?,
                        env: fields.env()?,
                        cwd: fields.text()?.into(),
                        trace: if fields.flag()? { Some(fields.text()?.into()) } else { None },
                        pass_on: fields.flag()?,
                    });
                }
                ToShim::Run(Run { runs, parallel })
            }
            PRINT => ToShim::Print(fields.bytes()?.to_vec()),
            DONE => {
                let code = fields.u32()?;
                let count = fields.count(8)?;
                let parts = (0..count)
                    .map(|_| Ok(Part { stdout: fields.bytes()?.to_vec(), stderr: fields.bytes()?.to_vec() }))
                    .collect::<Result<_, FrameError>>()?;
                ToShim::Done(Done { parts, code })
            }
            kind => return Err(FrameError::UnknownKind(kind)),
        };
        fields.end()?;
        Ok(frame)
    }
}

/// The body's length that a frame's first four bytes announce; for servers that read asynchronously.
pub fn body_length(header: [u8; 4]) -> Result<usize, FrameError> {
    let length = u32::from_le_bytes(header) as usize;
    if length > MAX_FRAME { Err(FrameError::TooLong(length as u64)) } else { Ok(length) }
}

/// Reads one frame's body; `None` if the other side closed between frames. Memory grows with what arrives,
/// not with what the length field claims.
pub fn read(from: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut header = [0; 4];
    let mut filled = 0;
    while filled < header.len() {
        match from.read(&mut header[filled..]) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(FrameError::Truncated.into()),
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let length = body_length(header)?;
    let mut body = Vec::with_capacity(length.min(64 << 10));
    from.by_ref().take(length as u64).read_to_end(&mut body)?;
    if body.len() < length { Err(FrameError::Truncated.into()) } else { Ok(Some(body)) }
}

/// Writes an encoded frame; refuses one that no receiver would take.
pub fn write(to: &mut impl Write, frame: &[u8]) -> io::Result<()> {
    if frame.len() > MAX_FRAME + 4 {
        return Err(FrameError::TooLong(frame.len() as u64).into());
    }
    to.write_all(frame)
}

struct Encoder(Vec<u8>);

impl Encoder {
    fn new(kind: u8) -> Encoder {
        Encoder(vec![0, 0, 0, 0, kind])
    }

    fn byte(&mut self, value: u8) {
        self.0.push(value);
    }

    fn flag(&mut self, value: bool) {
        self.0.push(u8::from(value));
    }

    fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn bytes(&mut self, value: &[u8]) {
        self.u32(value.len() as u32);
        self.0.extend_from_slice(value);
    }

    fn path(&mut self, value: &std::path::Path) {
        self.bytes(value.as_os_str().as_bytes());
    }

    fn list(&mut self, values: &[OsString]) {
        self.u32(values.len() as u32);
        for value in values {
            self.bytes(value.as_bytes());
        }
    }

    fn env(&mut self, values: &[(OsString, OsString)]) {
        self.u32(values.len() as u32);
        for (name, value) in values {
            self.bytes(name.as_bytes());
            self.bytes(value.as_bytes());
        }
    }

    /// Fills in the length. A length beyond `u32` is written as the largest one, which every receiver refuses.
    fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len() - 4).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&length.to_le_bytes());
        self.0
    }
}

/// What is left of a body.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], FrameError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(FrameError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        self.take(N)?.try_into().map_err(|_| FrameError::Truncated)
    }

    fn byte(&mut self) -> Result<u8, FrameError> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn flag(&mut self) -> Result<bool, FrameError> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(FrameError::BadFlag(other)),
        }
    }

    fn u32(&mut self) -> Result<u32, FrameError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, FrameError> {
        self.array().map(u64::from_le_bytes)
    }

    fn bytes(&mut self) -> Result<&'a [u8], FrameError> {
        let length = self.u32()? as usize;
        self.take(length)
    }

    /// A byte string that can be a path, an argument or a variable's value.
    fn text(&mut self) -> Result<OsString, FrameError> {
        let bytes = self.bytes()?;
        if bytes.contains(&0) { Err(FrameError::BadText) } else { Ok(OsString::from_vec(bytes.to_vec())) }
    }

    /// A list's count, held against the bytes left: each item takes `least` of them or more.
    fn count(&mut self, least: usize) -> Result<usize, FrameError> {
        let count = self.u32()? as usize;
        if count > self.0.len() / least { Err(FrameError::Truncated) } else { Ok(count) }
    }

    fn list(&mut self) -> Result<Vec<OsString>, FrameError> {
        let count = self.count(4)?;
        (0..count).map(|_| self.text()).collect()
    }

    fn env(&mut self) -> Result<Env, FrameError> {
        let count = self.count(8)?;
        (0..count)
            .map(|_| {
                let name = self.text()?;
                if is_name(&name) { Ok((name, self.text()?)) } else { Err(FrameError::BadText) }
            })
            .collect()
    }

    fn end(&self) -> Result<(), FrameError> {
        if self.0.is_empty() { Ok(()) } else { Err(FrameError::Trailing(self.0.len())) }
    }
}

/// A variable's name: not empty, without `=` (but for the first byte, which `std` and shells let pass).
fn is_name(name: &OsStr) -> bool {
    name.as_bytes().get(1..).is_some_and(|rest| !rest.contains(&b'='))
}
