//! Knows Envoy's messages, generated from `proto/`.

#![expect(missing_docs, clippy::doc_markdown, reason = "generated")]

include!(concat!(env!("OUT_DIR"), "/envoy_api.rs"));

/// The definitions of these messages and all that they import: an encoded
/// `google.protobuf.FileDescriptorSet`, for gRPC server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/envoy_api.bin"));
