//! The headers of a request under check, collected line by line from a proxy that tells them all.

use keybound_core::policy::ReservedHeaders;
use keybound_core::{Detail, Field, GRPC_TIMEOUT, Overrides, Refusal, Request};

/// The header names in the configuration.
#[derive(Clone, Copy, Debug, Default)]
pub struct Names<'n> {
    /// The header that carries the client certificate, if there is one.
    pub certificate_header: Option<&'n str>,
    /// The reserved names whose aliases to find, if any.
    pub reserved: Option<&'n ReservedHeaders>,
}

/// The headers that checks use, of one request.
#[derive(Debug, Default)]
pub struct Headers<'a, 'n> {
    overrides: Overrides<'a>,
    authorization: Field<'a>,
    proof: Field<'a>,
    xfcc: Field<'a>,
    traceparent: Field<'a>,
    request_id: Field<'a>,
    grpc_timeout: Field<'a>,
    certificate: Field<'a>,
    unwanted: Vec<&'a str>,
    names: Names<'n>,
}

/// The most header lines of a request that are removed. Envoy accepts 100 headers by default.
const MOST_UNWANTED: usize = 256;

/// A header must be removed that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unremovable;

impl From<Unremovable> for Refusal {
    fn from(_: Unremovable) -> Self {
        Detail::HeaderUnremovable.into()
    }
}

impl<'a, 'n> Headers<'a, 'n> {
    /// No headers yet, of a request under a configuration with these `names`.
    pub fn under(names: Names<'n>) -> Self {
        Self { names, ..Self::default() }
    }

    /// Takes down one line of a header. Names are case-insensitive.
    ///
    /// # Errors
    ///
    /// It must not reach the upstream, and cannot be named, or there are too many of its kind.
    #[inline]
    pub fn add(&mut self, name: &'a [u8], value: &'a [u8]) -> Result<(), Unremovable> {
        match self.field(name) {
            Some(field) => *field = field.and(value),
            None => self.overrides.add(name, value),
        }
        // Compared separately: it may be one of the headers below.
        let certificate_header = self.names.certificate_header;
        if certificate_header.is_some_and(|it| name.eq_ignore_ascii_case(it.as_bytes())) {
            self.certificate = self.certificate.and(value);
        }
        if self.names.reserved.is_some_and(|it| it.must_go(name)) {
            return self.add_unwanted(name);
        }
        Ok(())
    }

    #[cold]
    fn add_unwanted(&mut self, name: &'a [u8]) -> Result<(), Unremovable> {
        // A header that cannot be named cannot be removed.
        let name = str::from_utf8(name).or(Err(Unremovable))?;
        if self.unwanted.len() == MOST_UNWANTED {
            return Err(Unremovable);
        }
        // The lines of one header are adjacent.
        if self.unwanted.last() != Some(&name) {
            self.unwanted.push(name);
        }
        Ok(())
    }

    /// Fast path: most headers differ in length from all of these.
    fn field(&mut self, name: &[u8]) -> Option<&mut Field<'a>> {
        let (known, field) = match name.len() {
            4 => ("dpop", &mut self.proof),
            11 => ("traceparent", &mut self.traceparent),
            12 if matches!(name.first(), Some(b'g' | b'G')) => {
                (GRPC_TIMEOUT, &mut self.grpc_timeout)
            }
            12 => ("x-request-id", &mut self.request_id),
            13 => ("authorization", &mut self.authorization),
            23 => ("x-forwarded-client-cert", &mut self.xfcc),
            _ => return None,
        };
        // Proxies write names in lower case.
        let known = known.as_bytes();
        (name == known || name.eq_ignore_ascii_case(known)).then_some(field)
    }

    /// A request with these headers, and nothing else yet.
    pub fn into_request(self) -> Request<'a> {
        let mut request = Request {
            overrides: self.overrides,
            authorization: self.authorization,
            proof: self.proof,
            traceparent: self.traceparent.sole(),
            request_id: self.request_id.sole(),
            grpc_timeout: self.grpc_timeout,
            unwanted: self.unwanted,
            ..Request::default()
        };
        request.evidence.xfcc = self.xfcc;
        request.evidence.header = self.certificate;
        request
    }
}
