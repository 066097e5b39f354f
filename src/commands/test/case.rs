//! One test: its request is decided by the code that `serve` runs, and held against what it must get.

use super::made::{MadeToken, Maker};
use super::sources::TestSources;
use super::table::{Decision, Expect, Scheme, Test};
use crate::clock::FixedClock;
use crate::commands::demo::Failure;
use crate::config::Config;
use crate::explain::request::Described;
use crate::explain::{Explained, Terms, Ways, explain, text};
use keybound_core::facts::{self, EXPLANATION, Known, LOG};
use keybound_core::jose::KeySet;
use keybound_core::policy::IssuerId;
use keybound_core::{Rules, UnixTime};
use std::sync::Arc;

/// What all tests of a table have in common.
pub(super) struct Setting<'a> {
    pub(super) config: &'a Config,
    pub(super) rules: &'a Rules,
    pub(super) keys: Vec<Arc<KeySet>>,
    pub(super) at: UnixTime,
}

/// What became of a request.
#[derive(Debug)]
pub(super) struct Got {
    /// The policy that applied.
    pub(super) policy: Option<String>,
    /// The reason, also where the policy only reports it.
    pub(super) reason: String,
    /// The decision.
    pub(super) decision: String,
    /// All steps, in words.
    pub(super) explanation: String,
}

impl Got {
    fn of(explained: &Explained) -> Self {
        let known = &Known::by(explained.verdict());
        let fact = |place, name: &str| {
            let found = facts::of(place, known).find(|it| it.0 == name).and_then(|it| it.1);
            found.and_then(|it| Some(serde_json::json!(it).as_str()?.to_owned()))
        };
        Self {
            policy: fact(LOG, "policy"),
            reason: fact(LOG, "reason").unwrap_or_default(),
            decision: fact(EXPLANATION, "decision").unwrap_or_default(),
            explanation: text::of(explained),
        }
    }

    /// Whether it is what was expected.
    pub(super) fn is(&self, expected: &Expect) -> bool {
        self.policy == expected.policy
            && self.reason == expected.reason
            && expected.decision.is_none_or(|it| it.label() == self.decision)
    }
}

impl Decision {
    /// Its name in tables, logs and metadata.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Served => "served",
        }
    }
}

/// Decides the request of `test`.
pub(super) async fn decided(
    test: &Test,
    setting: &Setting<'_>,
    maker: &mut Maker<'_>,
) -> Result<Got, Failure> {
    let bad = |why: &str| Failure::new(&test.request, why);
    let (method, url) = test.request.split_once(' ').ok_or_else(|| bad(METHOD_AND_URL))?;
    let url = url.trim();
    let token = test.token.as_ref().map(|it| maker.token(it, setting.issuers_for(test)));
    let token = token.transpose()?;
    let spec = test.token.as_ref().zip(token.as_ref());
    let proof = test.proof.as_ref().map(|it| maker.proof(it, (method, url), spec)).transpose()?;
    let certificate = test.certificate.as_deref().map(|it| maker.certificate(it)).transpose()?;
    let authorization = token.as_ref().map(authorization);
    let named = [("authorization", authorization.as_deref()), ("dpop", proof.as_deref())];
    let given = test.headers.iter().flatten().map(|(name, value)| (&**name, &**value));
    let headers = named.into_iter().filter_map(|(name, value)| Some((name, value?))).chain(given);
    let described = Described {
        method,
        url,
        headers: headers.collect(),
        certificate,
        policy: test.policy.as_deref(),
        annotation: test.annotation.as_deref(),
    };
    let rules = setting.rules;
    let message = described.message(&rules.policies.client_certificate);
    let message = message.map_err(|why| bad(&why))?;
    let answer = token.and_then(|it| it.answer);
    let sources = &TestSources::new(&rules.policies, &setting.keys, answer);
    if test.proof.as_ref().is_some_and(|it| it.replayed == Some(true)) {
        explain(&message, setting.terms(sources)).await;
    }
    Ok(Got::of(&explain(&message, setting.terms(sources)).await))
}

fn authorization(token: &MadeToken) -> String {
    let scheme = match token.scheme {
        Scheme::Bearer => "Bearer",
        Scheme::DPoP => "DPoP",
    };
    format!("{scheme} {}", token.text)
}

impl Setting<'_> {
    /// The issuers whose tokens the expected policy accepts.
    fn issuers_for(&self, test: &Test) -> &[IssuerId] {
        let expected = test.expect.policy.as_deref();
        let policies = &self.config.rules.policies.policies;
        let policy = policies.iter().find(|it| Some(&*it.name) == expected);
        policy.map_or(&[], |it| &it.issuers)
    }

    fn terms<'s>(&'s self, sources: &'s TestSources<'s>) -> Terms<'s, TestSources<'s>> {
        Terms {
            rules: self.rules,
            sources,
            digest: &self.config.digest,
            changed: false,
            clock: Arc::new(FixedClock(self.at)),
            deadline: None,
            online: true,
            accepted: "the use of the proof was recorded for this test alone",
            remarks: vec![],
            ways: &WAYS,
        }
    }
}

const METHOD_AND_URL: &str =
    "a method and a URL are expected: GET https://api.example.com/payments";

const WAYS: Ways = Ways { token: "`token`", proof: "`proof`", online: "`serve`" };
