//! Macros that look at what rustc never hears of.

use proc_macro::TokenStream;
use std::path::PathBuf;

fn here() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn text(text: &str) -> TokenStream {
    format!("{text:?}").parse().unwrap()
}

#[proc_macro]
pub fn file(_: TokenStream) -> TokenStream {
    text(&std::fs::read_to_string(here().join("data.txt")).unwrap())
}

#[proc_macro]
pub fn variable(_: TokenStream) -> TokenStream {
    text(&std::env::var("MAC_VARIABLE").unwrap_or_else(|_| "not set".into()))
}

#[proc_macro]
pub fn optional(_: TokenStream) -> TokenStream {
    here().join("optional.txt").exists().to_string().parse().unwrap()
}

#[proc_macro]
pub fn listing(_: TokenStream) -> TokenStream {
    let mut names: Vec<_> = std::fs::read_dir(here().join("listed"))
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let kind = if entry.file_type().unwrap().is_dir() { "/" } else { "" };
            entry.file_name().into_string().unwrap() + kind
        })
        .collect();
    names.sort();
    text(&names.join(" "))
}

#[proc_macro]
pub fn numbers(_: TokenStream) -> TokenStream {
    "const NUMBER: u32 = 7;".parse().unwrap()
}
