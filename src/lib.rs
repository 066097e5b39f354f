//! A request under check passes through the crate once, left to right:
//!
//! ```text
//!  front ──▶ request ──▶ check ──▶ answer ──▶ front
//!                          │
//!            policy ◀──────┼──────▶ state    keys, introspection, replay
//!          (config)        ▼
//!                        oauth ──▶ jose      pure: no clock, no I/O, no async
//! ```

pub mod admin;
pub mod clock;
pub mod commands;
pub mod config;
pub mod explain;
pub mod fair_share;
pub mod file_stamp;
pub mod front;
pub mod gate;
pub mod health;
pub mod installation;
pub mod invariant;
pub mod listener;
pub mod permissions;
pub mod proxy_names;
pub mod randomness;
pub mod rate_limit;
pub mod server;
pub mod state;
pub mod telemetry;
