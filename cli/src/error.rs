//! The one place that decides an error's wording, its hint and its exit code.

use std::fmt;
use std::process::ExitCode;

/// dbuild itself failed (as in env(1)).
pub const EXIT_FAILURE: u8 = 125;
/// The command was found but could not be started (as in env(1)).
pub const EXIT_CANNOT_INVOKE: u8 = 126;
/// The command was not found (as in env(1)).
pub const EXIT_NOT_FOUND: u8 = 127;

/// What went wrong, what to do about it, and the exit code.
#[derive(Debug)]
pub struct CliError {
    message: String,
    hint: Option<String>,
    code: u8,
}

pub type Result<T, E = CliError> = std::result::Result<T, E>;

impl CliError {
    /// An error of dbuild's own: exit code 125.
    pub fn new(message: impl fmt::Display) -> Self {
        CliError { message: message.to_string(), hint: None, code: EXIT_FAILURE }
    }

    /// Adds what the person can do about it, as a full sentence.
    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    pub fn code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    /// Prints the message to stderr and gives the exit code.
    pub fn report(&self) -> ExitCode {
        use std::io::Write;
        let hint = self.hint.as_ref().map(|hint| format!("  {hint}\n")).unwrap_or_default();
        // A stderr that is closed or full leaves nobody to tell.
        let _ = write!(std::io::stderr().lock(), "dbuild: {}\n{hint}", self.message);
        ExitCode::from(self.code)
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for CliError {}

/// Adds the sentence's beginning to an error from below: "failed to …: cause".
pub trait Context<T> {
    fn context(self, what: impl fmt::Display) -> Result<T>;
}

impl<T, E: fmt::Display> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl fmt::Display) -> Result<T> {
        self.map_err(|error| CliError::new(format!("failed to {what}: {error}")))
    }
}
