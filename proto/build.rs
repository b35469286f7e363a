//! Compiles our own `.proto` files with protox, so that no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["proto/pool.proto", "proto/record.proto", "proto/supervisor.proto"];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["proto"])?;
    // A manifest has hundreds of small fields: they are slices of what was read, not copies.
    let shared = [
        "record.v1.ManifestEntry",
        "record.v1.FileSeen",
        "record.v1.AbsentNames",
        "record.v1.BlobRef",
        "record.v1.VariableSeen",
        "record.v1.ListingSeen",
    ];
    let shared = shared.into_iter().chain(["pool.v1.Lease"]);
    let configured = shared.fold(tonic_prost_build::configure(), |configured, message| {
        configured.bytes(format!(".dbuild.{message}"))
    });
    configured.compile_fds(descriptors)?;
    Ok(())
}
