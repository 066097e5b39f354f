//! keybound as an Envoy dynamic module: the same checks as by `ext_authz`, without a call to a service.
//!
//! ```text
//!  Envoy's worker                                        our own thread
//!  hook ──▶ abi ──▶ stream ──▶ front::module ──▶ check   keys, introspection, Redis, reloads, admin
//!                                          └─ must wait ──▶ goes on there, and wakes the worker
//! ```
//!
//! State belongs to the process, not to a configuration of a filter: Envoy makes one for each listener,
//! and again at each update.

mod abi;
mod awaited;
mod grpc;
mod instance;
mod judge;
mod layout;
mod process;
mod registry;
mod settings;
mod stream;
