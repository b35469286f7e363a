//! What an action asks for: `Action` and `Command` messages, checked. Does no I/O.
//!
//! Rules: REAPI `Command`. `output_paths` replaces `output_files` and `output_directories` where it is there.
//! Paths may climb with `..` as long as they are relative: the input root bounds them, not the text.

use dbuild_proto::reapi::build::bazel::remote::execution::v2 as re;
use dbuild_proto::{Digest, PROPERTY_INPUT_ROOT, PROPERTY_JOBSERVER};

/// The longest path that the kernel takes, in bytes.
const PATH_MAX: usize = 4095;

/// How an output was asked for, which is how it is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `output_paths`: whatever is there.
    Any,
    /// `output_files`.
    File,
    /// `output_directories`.
    Directory,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// As the client wrote it: relative to the working directory.
    pub path: String,
    pub kind: Kind,
}

/// A checked action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    pub argv: Vec<String>,
    /// `NAME=VALUE`, in the client's order.
    pub env: Vec<String>,
    /// Relative to the input root; empty for the root itself.
    pub cwd: String,
    pub outputs: Vec<Output>,
    pub input_root: Digest,
    /// The input root is the whole file system.
    pub root_is_root: bool,
    /// The variable that is to tell of a jobserver, where one is wanted.
    pub jobserver: Option<String>,
}

/// What is wrong with an action; fits "failed to …".
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CommandError {
    #[error("run an action whose command has no arguments")]
    NoArguments,
    #[error("run an action with a NUL in its arguments or environment")]
    Nul,
    #[error("accept the environment variable {0:?}")]
    Variable(String),
    #[error("accept the path {0:?}: it must be relative, without NUL and shorter than 4096 bytes")]
    Path(String),
    #[error("read the action: {0}")]
    Digest(#[from] dbuild_proto::DigestError),
}

impl Job {
    /// The deprecated fields are what Bazel before 5 and other older clients send.
    #[allow(deprecated)]
    pub fn new(action: &re::Action, command: re::Command) -> Result<Job, CommandError> {
        let input_root = Digest::from_field(action.input_root_digest.as_ref())?;
        let platforms = [action.platform.as_ref(), command.platform.as_ref()];
        let mut properties = platforms.into_iter().flatten().flat_map(|platform| &platform.properties);
        let root_is_root = properties
            .clone()
            .any(|property| property.name == PROPERTY_INPUT_ROOT && property.value == "true");
        let jobserver = properties
            .find(|property| property.name == PROPERTY_JOBSERVER)
            .map(|property| property.value.clone());
        if command.arguments.first().is_none_or(|program| program.is_empty()) {
            return Err(CommandError::NoArguments);
        }
        if let Some(name) = jobserver.iter().find(|name| name.is_empty() || name.contains(['=', '\0'])) {
            return Err(CommandError::Variable(name.clone()));
        }
        let mut env = Vec::with_capacity(command.environment_variables.len());
        for variable in &command.environment_variables {
            if variable.name.is_empty() || variable.name.contains('=') {
                return Err(CommandError::Variable(variable.name.clone()));
            }
            env.push(format!("{}={}", variable.name, variable.value));
        }
        if command.arguments.iter().chain(&env).any(|text| text.contains('\0')) {
            return Err(CommandError::Nul);
        }
        let mut outputs = Vec::new();
        let mut add = |paths: &[String], kind| {
            for path in paths {
                // Old clients name a directory with a trailing slash.
                let path = relative(path.strip_suffix('/').unwrap_or(path))?.to_owned();
                outputs.push(Output { path, kind });
            }
            Ok::<(), CommandError>(())
        };
        if command.output_paths.is_empty() {
            add(&command.output_files, Kind::File)?;
            add(&command.output_directories, Kind::Directory)?;
        } else {
            add(&command.output_paths, Kind::Any)?;
        }
        let cwd = relative(&command.working_directory)?.to_owned();
        Ok(Job { argv: command.arguments, env, cwd, outputs, input_root, root_is_root, jobserver })
    }
}

fn relative(path: &str) -> Result<&str, CommandError> {
    if path.starts_with('/') || path.contains('\0') || path.len() > PATH_MAX {
        return Err(CommandError::Path(path.chars().take(200).collect()));
    }
    Ok(path)
}

#[cfg(test)]
#[allow(deprecated)]
mod tests {
    use super::*;
    use dbuild_proto::DigestFunction;

    fn action() -> re::Action {
        re::Action {
            input_root_digest: Some(DigestFunction::Blake3.digest(b"").to_wire()),
            ..Default::default()
        }
    }

    fn command() -> re::Command {
        re::Command { arguments: vec!["cc".into(), "-c".into()], ..Default::default() }
    }

    #[test]
    fn output_paths_replace_the_older_fields() {
        let mut old = command();
        old.output_files = vec!["a.o".into()];
        old.output_directories = vec!["out/".into(), String::new()];
        let job = Job::new(&action(), old.clone()).unwrap();
        let kinds: Vec<_> = job.outputs.iter().map(|output| (output.path.as_str(), output.kind)).collect();
        assert_eq!(kinds, [("a.o", Kind::File), ("out", Kind::Directory), ("", Kind::Directory)]);
        old.output_paths = vec!["../x/b.o".into()];
        let job = Job::new(&action(), old).unwrap();
        assert_eq!(job.outputs, [Output { path: "../x/b.o".into(), kind: Kind::Any }]);
    }

    #[test]
    fn the_property_is_read_from_action_and_command() {
        let property = re::platform::Property { name: PROPERTY_INPUT_ROOT.into(), value: "true".into() };
        let platform = Some(re::Platform { properties: vec![property] });
        assert!(!Job::new(&action(), command()).unwrap().root_is_root);
        assert!(
            Job::new(&re::Action { platform: platform.clone(), ..action() }, command()).unwrap().root_is_root
        );
        assert!(Job::new(&action(), re::Command { platform, ..command() }).unwrap().root_is_root);
    }

    #[test]
    fn hostile_commands_are_refused() {
        let refused = |change: fn(&mut re::Command)| {
            let mut hostile = command();
            change(&mut hostile);
            Job::new(&action(), hostile).is_err()
        };
        assert!(refused(|command| command.arguments.clear()));
        assert!(refused(|command| command.arguments[0].clear()));
        assert!(refused(|command| command.arguments.push("a\0b".into())));
        assert!(refused(|command| command.output_paths.push("/etc/passwd".into())));
        assert!(refused(|command| command.working_directory = "/".into()));
        assert!(refused(|command| command.working_directory = "w".repeat(5000)));
        assert!(refused(|command| {
            let name = "A=B".into();
            command.environment_variables.push(re::command::EnvironmentVariable { name, value: "".into() })
        }));
        assert!(Job::new(&re::Action::default(), command()).is_err());
    }
}
