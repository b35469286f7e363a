//! A program without macros: helpers can link it.

fn main() {
    println!("{} {}", left::name(), native::value());
}
