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
pub mod answer;
pub mod check;
pub mod client_certificate;
pub mod clock;
pub mod commands;
pub mod config;
pub mod denial;
pub mod explain;
pub mod facts;
pub mod front;
pub mod gate;
pub mod health;
pub mod installation;
pub mod invariant;
pub mod jose;
pub mod listener;
pub mod oauth;
pub mod percent;
pub mod permissions;
pub mod policy;
pub mod proxy_names;
pub mod randomness;
pub mod request;
pub mod server;
pub mod sources;
pub mod state;
pub mod telemetry;
pub mod time;
pub mod trail;
pub mod turn;
pub mod uri;
pub mod words;
