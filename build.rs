//! Generates the messages of `proto/` with a protobuf compiler that is itself a crate, so that nobody needs `protoc`.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let log = protox::compile(["proto/log.proto"], ["proto"])?;
    tonic_prost_build::configure().bytes(".").compile_fds(log)?;
    let raft = protox::compile(["proto/raft.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .bytes(".")
        .extern_path(".coracle.log", "crate::storage::codec::wire")
        .compile_fds(raft)?;
    let nacos = protox::compile(["proto/nacos.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .bytes(".")
        .codec_path("crate::nacos::wire::payload::PayloadCodec")
        .compile_fds(nacos)?;
    Ok(())
}
