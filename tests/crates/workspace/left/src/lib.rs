pub fn name() -> &'static str {
    "left"
}
