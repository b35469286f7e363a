//! The same tests again as an ordinary user, when they are run as root: its sandboxes are made differently.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Nobody in particular.
const USER: u32 = 54321;

#[test]
fn everything_holds_for_an_ordinary_user() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    // Where the build has its files an ordinary user may not look.
    let copy = |from: &std::path::Path, name: &str| {
        let to = home.path().join(name);
        std::fs::copy(from, &to).unwrap();
        to
    };
    let tests = copy(&std::env::current_exe().unwrap(), "tests");
    let launcher = copy(env!("CARGO_BIN_EXE_dbuild-sandbox-exec").as_ref(), "launcher");
    let output = Command::new(tests)
        .args(["--skip", "ordinary::", "--test-threads", "2"])
        .env("DBUILD_TEST_LAUNCHER", launcher)
        .env("TMPDIR", home.path())
        .current_dir("/")
        .uid(USER)
        .gid(USER)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    eprintln!("as an ordinary user: {}", said.lines().last().unwrap_or_default());
}
