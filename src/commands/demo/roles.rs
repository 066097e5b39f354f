//! The roles of the demo: clients, tokens, proofs and manipulations.

/// The audience of the demo's resource.
pub const AUDIENCE: &str = "https://payments.demo.test";
/// The subject of the demo's tokens, which the upstream must see.
pub const SUBJECT: &str = "shop-42";
/// The path of the requests.
pub const PATH: &str = "/payments";
/// The required scope.
pub const SCOPE: &str = "payments";

/// The owner of a client certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// The client to which the tokens were issued.
    Client,
    /// The same client after its certificate was renewed, with the same key.
    Renewed,
    /// Another client with a valid certificate of the same authority.
    Thief,
    /// A client without a certificate.
    Nobody,
}

/// A DPoP proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// There is none.
    Absent,
    /// A new one with the client's key for this request.
    Good,
    /// The same one again.
    Again,
    /// With the thief's key.
    OfThief,
    /// With the client's key, for another URL.
    Elsewhere,
}
