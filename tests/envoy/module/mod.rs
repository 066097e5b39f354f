//! The module inside a real Envoy whose listeners change, and when what it needs fails.

mod bodies;
mod edge;
mod failures;
mod load;
mod revocation;
mod setup;
mod shown;
mod updates;
mod upstream;

use crate::dpop_client::DpopClient;
use edge::Site;

/// A client with a DPoP key, and a token for it.
fn dpop_client(site: &Site) -> DpopClient {
    DpopClient::new(|cnf| site.token(&cnf))
}
