//! One stream of a proxy: its check, and what Envoy is told.

use crate::awaited::{Awaited, Wake};
use crate::grpc;
use keybound::front::module::{Begun, Check, Decision, Endpoint, Finished, Open, Peer};
use keybound_core::Header;
use std::cell::Cell;
use std::fmt;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// What a stream needs of Envoy. A getter lends until the next call that changes something.
pub(crate) trait Envoy: Peer {
    /// The lines of a request's headers.
    type Lines<'l>: Iterator<Item = (&'l [u8], &'l [u8])>
    where
        Self: 'l;
    /// What wakes the stream's worker.
    type Wake: Wake;

    /// The lines of the request's headers, pseudo-headers among them.
    fn lines(&self) -> Self::Lines<'_>;

    /// The policy that the configuration of the route names.
    fn route_policy(&self) -> Option<&str>;

    /// Adds a request header.
    fn add_request_header(&mut self, name: &str, value: &str);

    /// Sets a request header, in place of all of its name.
    fn set_request_header(&mut self, name: &str, value: &str);

    /// Removes all request headers of a name.
    fn remove_request_header(&mut self, name: &str);

    /// Sets a response header, in place of all of its name.
    fn set_response_header(&mut self, name: &str, value: &str);

    /// Sets dynamic metadata.
    fn set_metadata(&mut self, namespace: &str, metadata: &[(&str, &str)]);

    /// Answers the client. Other hooks of the stream run before it returns.
    fn send_response(&mut self, status: u16, headers: &[Header<'_>], body: &str, details: &str);

    /// Answers the client with headers alone, pseudo-headers among them. Other hooks of the stream run
    /// before it returns.
    fn send_headers(&mut self, headers: &[Header<'_>]);

    /// Lets a request go on that was stopped. Other hooks of the stream run before it returns.
    fn continue_decoding(&mut self);

    /// What wakes the stream's worker; none if Envoy has none.
    fn scheduler(&self) -> Option<Self::Wake>;
}

/// How a request goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// To the next filter.
    Continue,
    /// Nowhere: the client has its answer.
    Answered,
    /// Not yet.
    Wait,
}

/// The state of one stream, on the worker that owns it.
///
/// Hooks of the same stream run inside some callbacks, so that no borrow of it lasts over one.
pub(crate) struct Stream {
    endpoint: Arc<Endpoint>,
    /// The check that waits, if one does.
    waiting: Cell<Option<Awaited<Finished>>>,
    /// The end of the token, if the stream ends with it.
    ending: Cell<Option<Awaited<()>>>,
    /// Headers for the upstream's response.
    to_client: Cell<Vec<(String, String)>>,
    /// The names of the request's headers.
    names: Names,
}

/// Which names of headers a request may have: one that is not among these, it has not. With as many bits a
/// name is seldom taken for another.
#[derive(Default)]
struct Names([Cell<u64>; 16]);

impl Names {
    fn note(&self, name: &[u8]) {
        let (word, bit) = self.place(name);
        if let Some(word) = word {
            word.set(word.get() | bit);
        }
    }

    fn may_have(&self, name: &str) -> bool {
        let (word, bit) = self.place(name.as_bytes());
        word.is_none_or(|it| it.get() & bit != 0)
    }

    /// By the length and the last eight characters: reading all of them would cost more than it saves.
    fn place(&self, name: &[u8]) -> (Option<&Cell<u64>>, u64) {
        let short = || {
            let mut padded = [0; 8];
            padded.iter_mut().zip(name).for_each(|(to, from)| *to = *from);
            padded
        };
        let end = name.last_chunk().copied().unwrap_or_else(short);
        let length = u64::try_from(name.len()).unwrap_or(u64::MAX);
        let hash = (u64::from_le_bytes(end) ^ length).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let word = usize::try_from(hash >> 60).ok().and_then(|it| self.0.get(it));
        (word, 1_u64.rotate_left(u32::try_from(hash >> 48 & 63).unwrap_or_default()))
    }
}

/// The namespace of the metadata: the answers are those of an authorizer, for everybody who reads them.
const NAMESPACE: &str = "envoy.filters.http.ext_authz";

/// The details of a denial in Envoy's access log (`%RESPONSE_CODE_DETAILS%`).
const DETAILS: &str = "keybound_denied";

impl Stream {
    /// A new stream, whose request `endpoint` checks.
    pub(crate) fn new(endpoint: Arc<Endpoint>) -> Self {
        Self {
            endpoint,
            waiting: Cell::default(),
            ending: Cell::default(),
            to_client: Cell::default(),
            names: Names::default(),
        }
    }

    /// The request has arrived: checks it, or begins to.
    pub(crate) fn arrives(&self, envoy: &mut impl Envoy) -> Next {
        let lines = envoy.lines();
        let mut noted = lines.inspect(|(name, _)| self.names.note(name));
        let begun = self.endpoint.begin(noted.by_ref(), envoy, envoy.route_policy());
        // What cannot be read is read no further, and yet may have to go on.
        noted.for_each(drop);
        match begun {
            Begun::Ended(finished) => self.carry_out(&finished, envoy),
            Begun::Waits(check) => match envoy.scheduler() {
                Some(wake) => self.wait(check, wake),
                None => self.carry_out(&Finished::failed(), envoy),
            },
        }
    }

    fn wait(&self, check: Check, wake: impl Wake) -> Next {
        self.waiting.set(Some(Awaited::new(self.endpoint.runtime(), wake, check.end())));
        Next::Wait
    }

    /// The worker was woken: a check that waited has ended, or the token has. Returns whether the stream
    /// must end now, which is for the caller to do when it has no borrow of it any more.
    pub(crate) fn goes_on(&self, envoy: &mut impl Envoy) -> bool {
        let Some(finished) = come(&self.waiting) else { return come(&self.ending).is_some() };
        let next = self.carry_out(&finished, envoy);
        // The check is over before the rest of the request goes on.
        drop(finished);
        if next == Next::Continue {
            envoy.continue_decoding();
        }
        false
    }

    /// Has the stream end when so much time has passed, or when the token is revoked by which it is open.
    fn end_after(&self, left: Duration, open: Option<Open>, wake: impl Wake) {
        let work = async move {
            // An error is that it took longer to be revoked.
            drop(timeout(left, revoked(open)).await);
        };
        self.ending.set(Some(Awaited::new(self.endpoint.runtime(), wake, work)));
    }

    /// The upstream answers, or a filter in its place.
    pub(crate) fn answers(&self, envoy: &mut impl Envoy) {
        for (name, value) in self.to_client.take() {
            envoy.set_response_header(&name, &value);
        }
    }

    /// A panic has ended a hook: whatever was decided, the request is refused.
    pub(crate) fn fails(&self, envoy: &mut impl Envoy) -> Next {
        tracing::error!("a hook of the module has panicked");
        self.waiting.take();
        self.carry_out(&Finished::failed(), envoy)
    }

    /// Sets headers before it removes others, as `ext_authz` does. Envoy looks up a name that it replaces or
    /// removes, which costs it more than all the rest, so that it is asked to only where there is one.
    fn carry_out(&self, finished: &Finished, envoy: &mut impl Envoy) -> Next {
        match finished.decision() {
            Decision::Allow { set, remove, left, to_client, metadata } => {
                let names = &self.names;
                if let Some(left) = left {
                    match envoy.scheduler() {
                        Some(wake) => self.end_after(left, finished.opens(), wake),
                        None => return self.carry_out(&Finished::failed(), envoy),
                    }
                }
                for Header { name, value } in &set {
                    if names.may_have(name) {
                        envoy.set_request_header(name, value);
                    } else {
                        envoy.add_request_header(name, value);
                    }
                }
                for name in remove.into_iter().filter(|it| names.may_have(it)) {
                    envoy.remove_request_header(name);
                }
                envoy.set_metadata(NAMESPACE, &metadata);
                let kept =
                    to_client.into_iter().map(|it| (it.name.to_owned(), it.value.into_owned()));
                self.to_client.set(kept.collect());
                Next::Continue
            }
            Decision::Deny { status, to_client, body, metadata } => {
                envoy.set_metadata(NAMESPACE, &metadata);
                if grpc::is_call(envoy.lines()) {
                    envoy.send_headers(&grpc::answer(status, &to_client, &body));
                } else {
                    envoy.send_response(status, &to_client, &body, DETAILS);
                }
                Next::Answered
            }
        }
    }
}

async fn revoked(open: Option<Open>) {
    match open {
        Some(open) => open.revoked().await,
        None => pending().await,
    }
}

/// What has come, which is then awaited no more.
fn come<T>(place: &Cell<Option<Awaited<T>>>) -> Option<T> {
    let awaited = place.take()?;
    let come = awaited.come();
    if come.is_none() {
        place.set(Some(awaited));
    }
    come
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_a_request_has_is_never_missed() {
        let names = Names::default();
        let had = [":path", "x-auth-subject", "dpop", "a", "", "x-forwarded-client-cert"];
        assert!(!had.iter().any(|it| names.may_have(it)));
        for name in had {
            names.note(name.as_bytes());
        }
        assert!(had.iter().all(|it| names.may_have(it)));
    }

    /// Else Envoy looks up what is not there.
    #[test]
    fn a_name_is_seldom_taken_for_another() {
        let names = Names::default();
        let usual = [
            ":method",
            ":path",
            ":scheme",
            ":authority",
            "accept",
            "accept-encoding",
            "authorization",
            "content-length",
            "content-type",
            "cookie",
            "host",
            "user-agent",
            "x-request-id",
            "x-forwarded-for",
            "x-forwarded-proto",
            "x-envoy-internal",
            "traceparent",
            "dpop",
        ];
        for name in usual {
            names.note(name.as_bytes());
        }
        let ours = ["x-auth-subject", "x-auth-client-id", "x-auth-scope", "x-auth-issuer"];
        let others =
            ours.map(str::to_owned).into_iter().chain((0..996).map(|it| format!("x-{it}")));
        let taken = others.filter(|it| names.may_have(it)).count();
        assert!(taken < 40, "{taken} of 1000");
    }
}
