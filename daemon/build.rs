//! Compiles the gRPC contracts in `proto/` without needing protoc. Not for anything else.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let contracts = protox::compile(["recognizer.proto", "facerecog.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .bytes(".kithd.recognizer.v1.RecognizeRequest")
        .compile_fds(contracts)?;
    Ok(())
}
