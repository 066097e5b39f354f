//! The inputs of one check.

use super::Rules;
use crate::oauth::credentials::Credentials;
use crate::policy::Policy;
use crate::request::Request;
use crate::time::UnixTime;

/// The inputs of one check, once its policy and its credentials are known.
#[derive(Debug)]
pub(super) struct Inputs<'a, S> {
    pub(super) rules: &'a Rules,
    pub(super) sources: &'a S,
    pub(super) policy: &'a Policy,
    pub(super) request: &'a Request<'a>,
    pub(super) credentials: &'a Credentials<'a>,
    pub(super) now: UnixTime,
}
