//! Envoy's messages, generated from `proto/`.

#![expect(missing_docs, clippy::doc_markdown, reason = "generated")]

include!(concat!(env!("OUT_DIR"), "/envoy_api.rs"));

/// The definitions of these messages and their imports, for gRPC server reflection: an encoded
/// `google.protobuf.FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/envoy_api.bin"));
