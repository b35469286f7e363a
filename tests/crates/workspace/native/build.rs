//! As the crates `cc` and `bindgen` do it: a library out of C, a source file, a variable, a flag.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap());
    let object = out.join("native.o");
    let made = Command::new("cc").args(["-O1", "-c", "c/native.c", "-o"]).arg(&object).status().unwrap();
    assert!(made.success());
    let library = out.join("libnative.a");
    let made = Command::new("ar").arg("rcsD").arg(&library).arg(&object).status().unwrap();
    assert!(made.success());
    let generated = std::fs::read_to_string("generated.txt").unwrap();
    std::fs::write(out.join("generated.rs"), format!("{:?}", generated.trim())).unwrap();
    println!("cargo:rustc-link-search=native={}", out.display());
    println!("cargo:rustc-link-lib=static:+whole-archive=native");
    println!("cargo:rustc-env=FROM_SCRIPT={}", std::env::var("SCRIPT_VALUE").unwrap_or_default());
    println!("cargo:rustc-check-cfg=cfg(configured)");
    if std::env::var_os("SCRIPT_CFG").is_some() {
        println!("cargo:rustc-cfg=configured");
    }
    for input in ["c", "generated.txt", "build.rs"] {
        println!("cargo:rerun-if-changed={input}");
    }
    println!("cargo:rerun-if-env-changed=SCRIPT_VALUE");
    println!("cargo:rerun-if-env-changed=SCRIPT_CFG");
}
