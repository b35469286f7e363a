//! Writes each target's seeds into `corpus/TARGET/`, where `cargo fuzz run` looks for inputs to start from.

use std::{env, fs, io};

fn main() -> io::Result<()> {
    let corpus = env::current_dir()?.join("corpus");
    for target in dbuild_fuzz::TARGETS {
        let directory = corpus.join(target.name);
        fs::create_dir_all(&directory)?;
        for (i, seed) in (target.seeds)().iter().enumerate() {
            fs::write(directory.join(format!("seed-{i}")), seed)?;
        }
    }
    Ok(())
}
