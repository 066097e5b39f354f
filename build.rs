//! Turns the protobuf definitions into Rust, without a system `protoc`.

use prost::Message;
use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("Cargo sets no OUT_DIR")?);
    let mut files = protox::compile(["envoy/service/auth/v3/external_auth.proto"], ["proto"])?;
    prost_build::Config::new().include_file("envoy_api.rs").compile_fds(files.clone())?;
    // The comments went into the code; reflection does without them.
    for file in &mut files.file {
        file.source_code_info = None;
    }
    fs::write(out.join("envoy_api.bin"), files.encode_to_vec())?;
    Ok(())
}
