//! Knows the `cnf` claim: to which keys a token is bound (RFC 7800, RFC 8705 §3.1, RFC 9449 §6.1).

use crate::jose::thumbprint::Thumbprint;

/// The keys to which a token is bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Confirmation {
    /// The client certificate (RFC 8705 §3.1).
    pub x5t_s256: Option<Thumbprint>,
    /// The DPoP key (RFC 9449 §6.1).
    pub jkt: Option<Thumbprint>,
    /// The token has a `cnf` that names no method we know.
    pub unknown_only: bool,
}
