pub fn line() -> u32 {
    line!()
}
