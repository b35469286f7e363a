//! A program that is to be run: in our place, or as a child.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::PathBuf;

use crate::frame::Env;
use crate::system::{self, ExecImage};

/// What `execve` needs.
#[derive(Clone)]
pub struct Program {
    pub path: PathBuf,
    pub argv: Vec<OsString>,
    pub env: Env,
}

impl Program {
    pub fn image(&self) -> io::Result<ExecImage> {
        let argv = self.argv.iter().map(OsString::as_os_str);
        let env = self.env.iter().map(|(name, value)| -> (&OsStr, &OsStr) { (name, value) });
        ExecImage::new(&self.path, argv, env)
    }

    /// Replaces this process, with the signals as the build left them; comes back only with the error.
    pub fn exec(&self) -> io::Error {
        match self.image() {
            Ok(image) => {
                system::restore_signals();
                image.exec()
            }
            Err(error) => error,
        }
    }
}
