//! The call as it reaches the stand-in: what we told ourselves through the environment, and what is left of
//! the environment when that is taken out.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::frame::{Env, Invoke};
use crate::program::Program;
use crate::{lists, resolve, system, vars, view};

/// The values of our own variables.
#[derive(Default)]
pub struct Settings {
    pub shims: Option<PathBuf>,
    /// The directory of the initiator's socket.
    pub socket: Option<PathBuf>,
    pub session: OsString,
    pub exe: Option<PathBuf>,
    pub fallbacks: Option<PathBuf>,
    pub exec_path: Option<PathBuf>,
    pub tracing: bool,
    pub disabled: bool,
}

impl Settings {
    pub fn of(env: &Env) -> Settings {
        let mut settings = Settings::default();
        for (name, value) in env {
            let path = || Some(PathBuf::from(value)).filter(|path| !path.as_os_str().is_empty());
            match name.to_str() {
                Some(vars::SHIMS) => settings.shims = path(),
                Some(vars::SOCKET) => settings.socket = path(),
                Some(vars::SESSION) => settings.session = value.clone(),
                Some(vars::EXE) => settings.exe = path(),
                Some(vars::FALLBACKS) => settings.fallbacks = path(),
                Some(vars::EXEC_PATH) => settings.exec_path = path(),
                Some(vars::TRACE) => settings.tracing = true,
                Some(vars::DISABLE) => settings.disabled = value == "1",
                _ => {}
            }
        }
        settings
    }

    /// Whether the compiler is to be run without asking anybody.
    pub fn passes_through(&self) -> bool {
        self.disabled || self.tracing || self.socket.is_none()
    }

    /// The interceptor, if it is still there: the loader complains of a library that is gone.
    pub fn preloadable(&self) -> Option<PathBuf> {
        self.intercept().filter(|path| path.is_file())
    }

    /// The interceptor's path, as it stands in `LD_PRELOAD`.
    pub fn intercept(&self) -> Option<PathBuf> {
        self.shims.as_ref().map(|shims| shims.join(vars::INTERCEPT_FILE))
    }
}

/// One call of a compiler.
pub struct Call {
    /// What would have run without us: the real compiler, with the arguments of the call and the cleaned
    /// environment.
    pub program: Program,
}

impl Call {
    pub fn new(compiler: PathBuf, mut argv: Vec<OsString>, env: Env, settings: &Settings) -> Call {
        // a path to ourselves would mislead a compiler that looks for its parts beside argv[0]
        let by_path = argv.first().is_some_and(|name| name.as_bytes().contains(&b'/'));
        if let Some(name) = argv.first_mut().filter(|name| by_path && resolve::is_stand_in(Path::new(name))) {
            *name = compiler.clone().into_os_string();
        }
        Call { program: Program { path: compiler, argv, env: cleaned(env, settings) } }
    }

    /// What the initiator is told; fails if the working directory is gone.
    pub fn invoke(&self, settings: &Settings) -> std::io::Result<Invoke> {
        use std::io::IsTerminal;
        Ok(Invoke {
            session: settings.session.clone(),
            compiler_path: self.program.path.clone(),
            argv: self.program.argv.clone(),
            cwd: std::env::current_dir()?,
            env: self.program.env.clone(),
            umask: system::umask(),
            stderr_tty: std::io::stderr().is_terminal(),
            stdout_tty: std::io::stdout().is_terminal(),
            streams_usable: system::is_open(0) && system::takes_output(1) && system::takes_output(2),
            columns: system::columns(0),
            view: view::own(),
        })
    }
}

/// The environment without anything of ours; the user's own `LD_PRELOAD` entries stay.
fn cleaned(env: Env, settings: &Settings) -> Env {
    let intercept = settings.intercept().unwrap_or_default();
    let shims = settings.shims.as_deref().unwrap_or(Path::new(""));
    env.into_iter()
        .filter_map(|(name, value)| match name.to_str() {
            Some(ours) if vars::OURS.contains(&ours) => None,
            Some(vars::LD_PRELOAD) => {
                let kept = without(&value, lists::PRELOAD_SEPARATORS, intercept.as_os_str())?;
                Some((name, kept)).filter(|(_, kept)| !kept.is_empty())
            }
            Some(vars::PATH) => {
                let kept = without(&value, lists::PATH_SEPARATORS, shims.as_os_str());
                Some((name, kept.unwrap_or(value)))
            }
            _ => Some((name, value)),
        })
        .collect()
}

/// The environment for a script or launcher that will call the real compiler: what it starts is to be caught,
/// even if the interceptor was dropped on the way (a foreign program cannot carry it).
pub fn caught(env: Env, settings: &Settings) -> Env {
    let env = env.into_iter().filter(|(name, _)| name != vars::EXEC_PATH).collect();
    match settings.preloadable() {
        Some(intercept) if !settings.disabled => preloading(env, intercept.as_os_str()),
        _ => env,
    }
}

/// `env` with `library` in `LD_PRELOAD`, first unless it was there.
pub fn preloading(mut env: Env, library: &OsStr) -> Env {
    match env.iter_mut().find(|(name, _)| name == vars::LD_PRELOAD) {
        Some((_, value)) if value.is_empty() => *value = library.to_owned(),
        Some((_, value)) => {
            if !lists::has(value.as_bytes(), lists::PRELOAD_SEPARATORS, library.as_bytes()) {
                let mut list = library.to_owned();
                list.push(":");
                list.push(&value);
                *value = list;
            }
        }
        None => env.push((vars::LD_PRELOAD.into(), library.to_owned())),
    }
    env
}

/// The list without an entry; untouched if it was not in it, `None` if it was the only one.
fn without(list: &OsStr, separators: &'static [u8], gone: &OsStr) -> Option<OsString> {
    if gone.is_empty() || !lists::has(list.as_bytes(), separators, gone.as_bytes()) {
        return Some(list.to_owned());
    }
    let kept: Vec<&[u8]> = lists::entries(list.as_bytes(), separators)
        .filter(|entry| !lists::same(entry, gone.as_bytes()))
        .collect();
    if kept.is_empty() { None } else { Some(OsString::from_vec(kept.join(&b':'))) }
}
