//! Command and Action of the Remote Execution API for one task, and the blobs that they need.
//!
//! The input root is the whole file system of the action, so paths stay what they are; only what the API wants
//! relative to the working directory (outputs) is turned. Pure but for `lstat` along the inputs' paths.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dbuild_proto::reapi::build::bazel::remote::execution::v2 as re;
use dbuild_proto::reapi::google::protobuf;
use dbuild_proto::{Digest, PROPERTY_INPUT_ROOT, PROPERTY_JOBSERVER, isa};
use prost::Message as _;

use crate::error::IntakeError;
use crate::files::FileTable;
use crate::inputs::Inputs;
use crate::layout::{Blob, BlobSource, Builder, Disk, InputRoot, Kind, LayoutError, Look};
use crate::toolchain::Toolchain;

/// A task, ready to be described.
#[derive(Clone, Copy)]
pub struct ActionRequest<'a> {
    pub toolchain: &'a Toolchain,
    pub inputs: &'a Inputs,
    /// What is known of files; its word is taken for what is a link and what is not.
    pub files: &'a FileTable,
    /// As the build wrote it.
    pub argv0: &'a OsStr,
    /// Everything after it (`Task::args_with_object`).
    pub args: &'a [OsString],
    /// Paths as the compiler names them: absolute, or relative to `cwd`. Certain ones and others.
    pub outputs: &'a [PathBuf],
    /// Absolute.
    pub cwd: &'a Path,
    /// `relevant_env`: what reaches the helper. If it has no `PATH`, that leads to the toolchain's programs.
    pub env: &'a [(OsString, OsString)],
    /// See [`logical_directory`].
    pub logical_cwd: Option<&'a Path>,
    /// Files of dbuild's own: real path, content.
    pub own: &'a [(PathBuf, Arc<[u8]>)],
    pub timeout: Duration,
    /// Execute even if there is an answer, and keep none.
    pub do_not_cache: bool,
    /// The variable by which the compiler hears of a jobserver, if it uses one ([`PROPERTY_JOBSERVER`]).
    pub jobserver: Option<&'a str>,
}

/// An action and everything that a server needs for it.
#[derive(Clone, Debug)]
pub struct BuiltAction {
    pub action: re::Action,
    pub command: re::Command,
    /// Digest of `action`: what Execute and GetActionResult take.
    pub digest: Digest,
    pub root: InputRoot,
    /// `command` as it travels; `action` has its digest.
    command_blob: Blob,
    action_blob: Blob,
    /// The outputs as the action names them (the paths in an ActionResult), and which of the request's they are.
    pub outputs: BTreeMap<String, PathBuf>,
}

/// Builds the action of a task.
///
/// # Errors
/// [`IntakeError::NotUtf8`] for names that the API cannot carry; `Io` when an input or the directory of an output is
/// gone. The task then runs here.
pub fn build(request: &ActionRequest) -> Result<BuiltAction, IntakeError> {
    let mut tree = request.toolchain.root.to_builder();
    let function = request.toolchain.root.function();
    add_inputs(&mut tree, request)?;
    let missed_in = request.inputs.absent.iter().map(|absent| &absent.directory);
    for directory in request.inputs.directories.iter().chain(missed_in) {
        add_directory(&mut tree, directory)?;
    }
    for (real, content) in request.own {
        tree.add_bytes(real, content, false)?;
    }
    let (cwd, _) = tree.add_path(request.cwd, &Disk)?;
    if let Some(logical) = request.logical_cwd {
        tree.add_path(logical, &Disk)?;
    }
    let outputs = outputs(&mut tree, request, &cwd)?;
    let root = tree.finish();

    let command = command(request, &cwd, outputs.keys().cloned().collect())?;
    let command_bytes: Arc<[u8]> = command.encode_to_vec().into();
    let command_digest = function.digest(&command_bytes);
    let action = re::Action {
        command_digest: Some(command_digest.to_wire()),
        input_root_digest: Some(root.digest().to_wire()),
        timeout: Some(protobuf::Duration {
            seconds: request.timeout.as_secs() as i64,
            nanos: request.timeout.subsec_nanos() as i32,
        }),
        do_not_cache: request.do_not_cache,
        platform: Some(platform(request.jobserver)),
        ..Default::default()
    };
    let action_bytes: Arc<[u8]> = action.encode_to_vec().into();
    let digest = function.digest(&action_bytes);
    let command_blob = Blob { digest: command_digest, source: BlobSource::Bytes(command_bytes) };
    let action_blob = Blob { digest, source: BlobSource::Bytes(action_bytes) };
    Ok(BuiltAction { action, command, digest, root, command_blob, action_blob, outputs })
}

impl BuiltAction {
    /// Action, command, directories and files, but for what the toolchain's own tree has (a server needs those of
    /// `toolchain.blobs()` as well) and for what lies under directories that the server is `known` to have.
    pub fn blobs(&self, toolchain: &InputRoot, known: &dyn Fn(&Digest) -> bool) -> Vec<Blob> {
        let mut blobs = self.root.blobs_beyond(toolchain, known);
        blobs.extend([self.command_blob.clone(), self.action_blob.clone()]);
        blobs
    }
}

/// Places the inputs, directory by directory: they are sorted by path.
fn add_inputs(tree: &mut Builder, request: &ActionRequest) -> Result<(), IntakeError> {
    let disk = Known(request.files);
    for group in request.inputs.files.chunk_by(|a, b| a.path.parent() == b.path.parent()) {
        let Some(directory) = group[0].path.parent() else { continue };
        let mut files = Vec::with_capacity(group.len());
        for input in group {
            files.push((text(input.path.file_name().unwrap_or_default())?, input.digest, input.executable));
        }
        tree.add_files_at(directory, &disk, &files)?;
    }
    Ok(())
}

/// The disk, looked at only where the table of files does not know.
struct Known<'a>(&'a FileTable);

impl Look for Known<'_> {
    fn look(&self, path: &Path) -> std::io::Result<Kind> {
        if self.0.is_plain(path) { Ok(Kind::File) } else { Disk.look(path) }
    }
}

/// `PWD` of the caller, where it names `cwd` by another path: compilers then write it, and not what the kernel says,
/// into debug information. It belongs to the key and to the action's environment.
pub fn logical_directory<'e>(cwd: &Path, env: &'e [(OsString, OsString)]) -> Option<&'e Path> {
    let (_, pwd) = env.iter().find(|(name, _)| name == "PWD")?;
    let pwd = Path::new(pwd);
    let same = |a: &Path, b: &Path| {
        let (a, b) = (std::fs::metadata(a).ok()?, std::fs::metadata(b).ok()?);
        Some((a.dev(), a.ino()) == (b.dev(), b.ino()))
    };
    (pwd.is_absolute() && pwd.as_os_str() != cwd.as_os_str() && same(pwd, cwd)?).then_some(pwd)
}

fn add_directory(tree: &mut Builder, path: &Path) -> Result<(), IntakeError> {
    match tree.add_path(path, &Disk)? {
        (_, Kind::Directory) => Ok(()),
        (real, _) => Err(LayoutError::Conflict(real).into()),
    }
}

/// Lays out the directories that outputs go to; answers the outputs relative to the real working directory.
fn outputs(
    tree: &mut Builder,
    request: &ActionRequest,
    cwd: &Path,
) -> Result<BTreeMap<String, PathBuf>, IntakeError> {
    let mut outputs = BTreeMap::new();
    for output in request.outputs {
        let absolute = request.cwd.join(output);
        let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
            return Err(LayoutError::NotAFile(absolute).into());
        };
        let real = match tree.add_path(parent, &Disk)? {
            (real, Kind::Directory) => real.join(name),
            (real, _) => return Err(LayoutError::Conflict(real).into()),
        };
        outputs.insert(text(relative(&real, cwd).as_os_str())?.to_owned(), output.clone());
    }
    Ok(outputs)
}

/// `path` as seen from the directory `from`; both real.
fn relative(path: &Path, from: &Path) -> PathBuf {
    let common = path.components().zip(from.components()).take_while(|(a, b)| a == b).count();
    let up = from.components().skip(common).map(|_| Component::ParentDir);
    up.chain(path.components().skip(common)).collect()
}

fn command(request: &ActionRequest, cwd: &Path, outputs: Vec<String>) -> Result<re::Command, IntakeError> {
    let mut arguments = Vec::with_capacity(request.args.len() + 1);
    for argument in std::iter::once(request.argv0).chain(request.args.iter().map(OsString::as_os_str)) {
        arguments.push(text(argument)?.to_owned());
    }
    let path = std::env::join_paths(&request.toolchain.search_path)
        .map_err(|_| IntakeError::NotUtf8(request.toolchain.compiler.clone().into_os_string()))?;
    let mut env: BTreeMap<&OsStr, &OsStr> = BTreeMap::new();
    env.extend(request.env.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str())));
    env.extend(
        request.toolchain.environment.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str())),
    );
    env.entry(OsStr::new("PATH")).or_insert(&path);
    // Always there, so that what a shell on the helper's side would set does not matter.
    env.insert(OsStr::new("PWD"), request.logical_cwd.unwrap_or(cwd).as_os_str());
    let mut environment_variables = Vec::with_capacity(env.len());
    for (name, value) in env {
        environment_variables
            .push(re::command::EnvironmentVariable { name: text(name)?.into(), value: text(value)?.into() });
    }
    let directory = cwd.strip_prefix("/").unwrap_or(cwd);
    #[allow(deprecated)]
    // `output_files` and Command's `platform` are what servers before API 2.1 and 2.2 read.
    Ok(re::Command {
        arguments,
        environment_variables,
        output_files: outputs.clone(),
        output_paths: outputs,
        platform: Some(platform(request.jobserver)),
        working_directory: text(directory.as_os_str())?.to_owned(),
        ..Default::default()
    })
}

/// Properties in the order of their names, as the API wants them. Names and values: REAPI `platform.md`.
fn platform(jobserver: Option<&str>) -> re::Platform {
    let mut properties =
        BTreeSet::from([("ISA", isa()), ("OSFamily", "linux"), (PROPERTY_INPUT_ROOT, "true")]);
    properties.extend(jobserver.map(|variable| (PROPERTY_JOBSERVER, variable)));
    let property =
        |(name, value): (&str, &str)| re::platform::Property { name: name.into(), value: value.into() };
    re::Platform { properties: properties.into_iter().map(property).collect() }
}

fn text(bytes: &OsStr) -> Result<&str, IntakeError> {
    bytes.to_str().ok_or_else(|| IntakeError::NotUtf8(bytes.to_os_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_seen_from_the_working_directory() {
        let cases = [
            ("/b/src/a.o", "/b/src", "a.o"),
            ("/b/obj/a.o", "/b/src", "../obj/a.o"),
            ("/a.o", "/b/src", "../../a.o"),
            ("/b/a.o", "/", "b/a.o"),
        ];
        for (path, from, want) in cases {
            assert_eq!(relative(Path::new(path), Path::new(from)), Path::new(want));
        }
    }

    #[test]
    fn properties_are_sorted_by_name() {
        let names: Vec<_> =
            platform(Some("X")).properties.into_iter().map(|property| property.name).collect();
        assert!(names.is_sorted(), "{names:?}");
    }
}
