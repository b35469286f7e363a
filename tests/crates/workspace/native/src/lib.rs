pub const GENERATED: &str = include!(concat!(env!("OUT_DIR"), "/generated.rs"));
pub const FROM_SCRIPT: &str = env!("FROM_SCRIPT");

unsafe extern "C" {
    safe fn native_value() -> i32;
}

pub fn value() -> i32 {
    native_value()
}

pub fn configured() -> bool {
    cfg!(configured)
}
