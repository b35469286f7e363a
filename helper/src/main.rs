//! What `dbuild sandbox-exec` does, as a program of its own: the tests of this crate start it.
//! It knows nothing but where the launcher is.

fn main() -> std::process::ExitCode {
    dbuild_helper::sandbox_init()
}
