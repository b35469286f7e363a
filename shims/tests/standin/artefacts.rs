//! Compiles what the tests run: the stand-in, the interceptor, and two small C programs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::build::{self, Recipe};

/// Paths of what was compiled.
pub struct Artefacts {
    pub shim: PathBuf,
    pub intercept: PathBuf,
    /// Stands for a compiler: see [`COMPILER`].
    pub compiler: PathBuf,
    /// Starts another program: see [`STARTER`].
    pub starter: PathBuf,
    /// The same, static; `None` where there is no static C library.
    pub static_starter: Option<PathBuf>,
}

/// Prints its name and arguments; exits with the number after `exit=`; appends a line to the file after `log=`.
const COMPILER: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int main(int argc, char **argv) {
    int code = 0;
    printf("real");
    for (int i = 0; i < argc; i++) {
        printf(" %s", argv[i]);
        if (!strncmp(argv[i], "exit=", 5)) code = atoi(argv[i] + 5);
        if (!strncmp(argv[i], "log=", 4)) {
            FILE *log = fopen(argv[i] + 4, "a");
            fputs("ran\n", log);
            fclose(log);
        }
    }
    printf("\n");
    return code;
}
"#;

/// Starts `argv[2]` with the rest of its arguments, in the way that `argv[1]` names.
const STARTER: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
extern char **environ;
int main(int argc, char **argv) {
    const char *how = argv[1];
    char **rest = argv + 2;
    int status;
    pid_t child;
    if (!strcmp(how, "execvp")) execvp(rest[0], rest);
    else if (!strcmp(how, "execv")) execv(rest[0], rest);
    else if (!strcmp(how, "execve")) execve(rest[0], rest, environ);
    else if (!strcmp(how, "execvpe")) execvpe(rest[0], rest, environ);
    else if (!strcmp(how, "execveat")) execveat(AT_FDCWD, rest[0], rest, environ, 0);
    else {
        if (!strcmp(how, "vfork")) {
            child = vfork();
            if (child == 0) { execvp(rest[0], rest); _exit(99); }
        } else if (!strcmp(how, "posix_spawn")) {
            if (posix_spawn(&child, rest[0], 0, 0, rest, environ)) return 98;
        } else if (posix_spawnp(&child, rest[0], 0, 0, rest, environ)) return 98;
        waitpid(child, &status, 0);
        return WEXITSTATUS(status);
    }
    perror(how);
    return 97;
}
"#;

/// Compiles everything at the first call.
pub fn artefacts() -> &'static Artefacts {
    static MADE: OnceLock<Artefacts> = OnceLock::new();
    MADE.get_or_init(|| {
        let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("shims");
        // compiled beside and renamed, because another run of the tests may be using the files
        let fresh = place.with_extension(std::process::id().to_string());
        fs::create_dir_all(&fresh).unwrap();
        fs::create_dir_all(&place).unwrap();
        let recipe = Recipe {
            sources: Path::new(env!("CARGO_MANIFEST_DIR")).to_owned(),
            rustc: std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()),
            target: None,
            linker: None,
        };
        let made = build::compile(&recipe, &fresh).unwrap();
        if !made.is_static {
            eprintln!("SKIPPED: no static C library; the shim under test is dynamic");
        }
        let settled = |path: &Path| {
            let settled = place.join(path.file_name().unwrap());
            fs::rename(path, &settled).unwrap();
            settled
        };
        let c = |name: &str, text: &str, option: &str| {
            let (source, program) = (fresh.join(format!("{name}.c")), fresh.join(name));
            fs::write(&source, text).unwrap();
            let mut cc = Command::new("cc");
            let done = cc.arg(option).arg("-o").arg(&program).arg(&source).output().unwrap();
            done.status.success().then(|| settled(&program))
        };
        let artefacts = Artefacts {
            shim: settled(&made.shim),
            intercept: settled(&made.intercept),
            compiler: c("compiler", COMPILER, "-O0").unwrap(),
            starter: c("starter", STARTER, "-O0").unwrap(),
            static_starter: c("static-starter", STARTER, "-static"),
        };
        fs::remove_dir_all(&fresh).unwrap();
        artefacts
    })
}
