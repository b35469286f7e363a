pub mod inner;

pub fn place() -> &'static str {
    file!()
}
