//! The point of it all: a compile in a root that holds gcc's files and nothing else gives the very bytes that the
//! same command gives on this machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::bench::{Bench, Order};
use crate::roots::{Root, which};

const SOURCE: &str = "#include <stdio.h>\n#include <limits.h>\n#include \"part.h\"\n\
                      int main(void) { printf(\"%d %d\\n\", PART, INT_MAX); return 0; }\n";

pub fn gcc_says(argument: &str) -> PathBuf {
    let output = Command::new("gcc").arg(argument).output().unwrap();
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}

/// A program of gcc's own, or one that it finds on the `PATH`.
pub fn program_of(name: &str) -> PathBuf {
    let program = gcc_says(&format!("-print-prog-name={name}"));
    if program.is_absolute() { program } else { which(name) }
}

/// Driver, cc1 and as with their libraries, and what `gcc -M` lists.
fn toolchain(bench: &Bench, home: &Path, flags: &[&str]) -> Root {
    let mut root = Root::new(&bench.blobs).program(which("gcc"));
    for name in ["cc1", "as"] {
        root = root.program(program_of(name));
    }
    let listed = Command::new("gcc").current_dir(home).args(flags).args(["-M", "a.c"]).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    for word in listed.split_ascii_whitespace().filter(|word| !word.ends_with(':') && *word != "\\") {
        root = root.host(home.join(word));
    }
    root
}

#[tokio::test]
async fn a_compile_in_a_root_of_its_own_gives_the_same_object() {
    if Command::new("gcc").arg("--version").output().is_err() {
        eprintln!("SKIPPED, NOTHING WAS TESTED: gcc is not installed");
        return;
    }
    let Some(mut bench) = Bench::start(|_| ()).await else { return };
    let home = tempfile::tempdir().unwrap();
    let home_path = std::fs::canonicalize(home.path()).unwrap();
    std::fs::write(home_path.join("a.c"), SOURCE).unwrap();
    std::fs::write(home_path.join("part.h"), "#define PART 42\n").unwrap();
    let flags = ["-O2", "-g", "-Wall"];
    let root = toolchain(&bench, &home_path, &flags);
    let plain =
        Command::new("gcc").current_dir(&home_path).args(flags).args(["-c", "a.c", "-o", "a.o"]).output();
    let plain = plain.unwrap();
    assert!(plain.status.success(), "{plain:?}");
    let argv = [&["gcc"][..], &flags, &["-c", "a.c", "-o", "a.o"]].concat();
    let mut order = Order::new(&root, &argv).outputs(&["a.o"]);
    order.cwd = home_path.strip_prefix("/").unwrap().to_str().unwrap().to_owned();
    // From the third round on the toolchain's directories are shared.
    for _ in 0..4 {
        let result = bench.result(&order).await;
        assert_eq!((result.exit_code, &result.stderr_raw), (0, &plain.stderr));
        assert!(
            bench.file(&result, "a.o") == std::fs::read(home_path.join("a.o")).unwrap(),
            "objects differ"
        );
    }
    // No file but those is there: another header is not found.
    std::fs::write(home_path.join("a.c"), "#include <math.h>\n").unwrap();
    let lacking = root.host(home_path.join("a.c"));
    order.root = lacking.put();
    let result = bench.result(&order).await;
    assert_eq!(result.exit_code, 1);
    assert!(String::from_utf8_lossy(&result.stderr_raw).contains("math.h: No such file"));
    bench.stop().await;
}
