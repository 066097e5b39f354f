//! What becomes of an open stream when the token ends by which it was opened.

use crate::words::words;

words! {
    /// What stays open (server-sent events, `WebSocket`s, gRPC streams) when the token ends.
    #[default(Ignore)]
    pub enum Streams as "Streams" {
        /// All of it: a token is checked when a stream is opened, and not again.
        Ignore = "ignore",
        /// Nothing: a stream ends when a new check of its token would refuse it. The proxy is told how
        /// long that is, and must be set up to heed it.
        EndWithToken = "end_with_token",
    }
}

impl Streams {
    /// Whether a stream under `other` lives as long as under this at least.
    pub(super) const fn asks_at_least(self, other: Self) -> bool {
        match (self, other) {
            (Self::EndWithToken, _) | (Self::Ignore, Self::Ignore) => true,
            (Self::Ignore, Self::EndWithToken) => false,
        }
    }
}
