//! Who calls in the demo, and with what.

/// The audience of the demo's resource.
pub const AUDIENCE: &str = "https://payments.demo.test";
/// What the demo's tokens are about, and thus what the upstream must see.
pub const SUBJECT: &str = "shop-42";
/// Where the requests go.
pub const PATH: &str = "/payments";
/// The scope that is needed there.
pub const SCOPE: &str = "payments";

/// Whose certificate a request comes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// The client to which the tokens were issued.
    Client,
    /// The same client after its certificate was renewed, with the same key.
    Renewed,
    /// Another client of the same authority, with a certificate that is just as good.
    Thief,
    /// Somebody without a certificate.
    Nobody,
}

/// A DPoP proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// There is none.
    Absent,
    /// A new one by the client's key, for the very request.
    Good,
    /// The same, when it has been used.
    Again,
    /// By the thief's key.
    OfThief,
    /// By the client's key, for another URL.
    Elsewhere,
}
