pub fn name() -> &'static str {
    "right"
}
