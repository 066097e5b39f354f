//! Envoy's external authorization (`ext_authz`): the gRPC service
//! `envoy.service.auth.v3.Authorization`.
//!
//! ```text
//!  grpc::read_message ──▶ wire::read ──▶ Request … Answer ──▶ encode::response ──▶ grpc::reply
//! ```

pub mod encode;
pub mod endpoint;
pub mod grpc;
pub mod health_and_reflection;
pub mod pb;
pub mod protobuf;
pub mod route;
pub mod wire;
