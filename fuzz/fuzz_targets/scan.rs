#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    dbuild_fuzz::run("scan", bytes);
});
