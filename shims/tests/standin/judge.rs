//! How the interceptor judges program files; its own sources, taken in here.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

use crate::artefacts::artefacts;
use crate::bench::{Bench, stdout_of};
use crate::target::{Class, Target, look};

fn judge(path: &Path) -> Target {
    look(&CString::new(path.as_os_str().as_bytes()).unwrap())
}

fn program(class: Class) -> Target {
    Target { class, script: false }
}

#[test]
fn programs() {
    assert_eq!(judge(&artefacts().starter), program(Class::Dynamic));
    assert_eq!(judge(Path::new("/proc/self/exe")), program(Class::Dynamic));
    if let Some(starter) = &artefacts().static_starter {
        assert_eq!(judge(starter), program(Class::Static));
    }
}

#[test]
fn scripts_are_what_their_interpreter_is() {
    let bench = Bench::new();
    let script = |class| Target { class, script: true };
    let starter = artefacts().starter.to_str().unwrap();
    assert_eq!(judge(&bench.write("a", &format!("#! \t{starter} -x\n"))), script(Class::Dynamic));
    assert_eq!(judge(&bench.write("b", &format!("#!{}", bench.text("a")))), script(Class::Dynamic));
    assert_eq!(judge(&bench.write("c", "#!/no/such\n")), script(Class::Unknown));
    assert_eq!(judge(&bench.write("d", &format!("#!{}\n", bench.text("d")))), script(Class::Unknown));
    assert_eq!(judge(&bench.write("e", &format!("#!/{}\n", "x".repeat(3000)))), script(Class::Unknown));
    assert_eq!(judge(&bench.write("f", "#!")), script(Class::Unknown));
}

#[test]
fn other_machines_are_foreign_and_damage_is_unknown() {
    let bench = Bench::new();
    let whole = fs::read(&artefacts().starter).unwrap();
    let with = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = whole.clone();
        change(&mut bytes);
        fs::write(bench.path(name), bytes).unwrap();
        judge(&bench.path(name))
    };
    assert_eq!(with("32 bit", &|bytes| bytes[4] = 1), program(Class::Foreign));
    assert_eq!(with("other", &|bytes| bytes[18] ^= 0xff), program(Class::Foreign));
    assert_eq!(with("short", &|bytes| bytes.truncate(19)), program(Class::Unknown));
    assert_eq!(with("cut", &|bytes| bytes.truncate(100)), program(Class::Unknown));
    assert_eq!(with("far", &|bytes| bytes[32..40].fill(0xff)), program(Class::Unknown));
    assert_eq!(judge(&bench.path("work")), program(Class::Unknown));
    assert_eq!(judge(&bench.path("nothing")), program(Class::Unknown));
}

#[test]
fn a_sanitized_program_still_starts() {
    let bench = Bench::new();
    let source = bench.write("work/x.c", "#include <stdio.h>\nint main(void) { puts(\"well\"); }\n");
    let program = bench.path("work/x");
    let compile =
        || Command::new("gcc").arg("-fsanitize=address").arg("-o").arg(&program).arg(&source).output();
    if !compile().is_ok_and(|done| done.status.success()) {
        return eprintln!("SKIPPED: gcc with the address sanitizer is not installed");
    }
    let script = format!("{}; true", program.display());
    assert_eq!(stdout_of(bench.command("sh").args(["-c", &script])), "well\n");
}
