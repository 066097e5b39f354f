//! The part of a configuration that decides about requests.

use super::{Authentication, File, Introspection, Keys};
use crate::config::values::{Address, Word};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

/// Where nothing is ever fetched from (RFC 6761 §6.4).
const NOWHERE: &str = "https://keybound.invalid/";

/// Where nobody listens. The ports of other listeners are other ones.
const NO_PORT: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1));

impl File {
    /// Leaves out what no decision depends on: where keys and answers are from, where used proofs are
    /// recorded, and how all of this is protected. None of the files that a configuration names is
    /// needed then.
    pub(in crate::config) fn deciding(mut self) -> Self {
        let listen = self.listen.get_or_insert_default();
        (listen.tls, listen.events) = (None, None);
        if let Some(forward_auth) = &mut self.forward_auth {
            (forward_auth.secret_file, forward_auth.secret_header) = (None, None);
            // The chart's users leave it to the chart.
            listen.forward_auth.get_or_insert(Address::Tcp(NO_PORT));
        }
        if let Some(dpop) = &mut self.dpop {
            (dpop.nonce_secret_file, dpop.replay) = (None, None);
        }
        self.telemetry = None;
        for issuer in self.issuers.iter_mut().flatten() {
            (issuer.ca_file, issuer.revocation) = (None, None);
            issuer.keys = Some(Keys { jwks_uri: Some(NOWHERE.to_owned()), ..Keys::default() });
            if let Some(introspection) = &mut issuer.introspection {
                introspection.ask_nobody();
            }
        }
        self
    }
}

impl Introspection {
    fn ask_nobody(&mut self) {
        self.endpoint = Some(NOWHERE.to_owned());
        self.authentication = Some(Word(Authentication::None));
        self.client_secret_file = None;
        (self.certificate_file, self.key_file) = (None, None);
        (self.private_key_file, self.private_key_id) = (None, None);
    }
}
