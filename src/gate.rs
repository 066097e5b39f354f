//! The gate: runs each check within limits on time and number, under one configuration from start
//! to end, and records its outcome.

use crate::clock::Clock;
use crate::fair_share;
use crate::installation::Limits;
use crate::installation::{Checker, Installation};
use crate::invariant;
use crate::rate_limit::{Allowance, RateLimit};
use crate::telemetry::carried::{self, Carried};
use crate::telemetry::check_event::CheckEvent;
use crate::telemetry::denials::Denials;
use crate::telemetry::meters::Meters;
use crate::telemetry::metrics::{Front, Metrics};
use crate::telemetry::sinks::Sinks;
use crate::telemetry::trace_context::TraceParent;
use arc_swap::ArcSwap;
use futures_util::FutureExt;
use http::HeaderValue;
use keybound_core::policy::{IdentityHeader, Mode, PolicySet};
use keybound_core::{Answer, Denial, Facts, Refusal, Request, Rules, Verdict};
use std::future::poll_fn;
use std::ops::Deref;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// The entry for all front ends to have requests checked.
#[derive(Debug)]
pub struct Gate {
    checker: Checker,
    active: ArcSwap<Active>,
    replaced: watch::Sender<()>,
    under_way: AtomicUsize,
    metrics: Arc<Metrics>,
    sinks: Sinks,
    denials: Arc<Denials>,
    carried: Carried,
    /// The rate limit of warnings about identity headers.
    unclear: RateLimit,
    /// Whether other gates count in the same metrics.
    has_others: bool,
    /// Whether issuers are asked for events.
    hears: AtomicBool,
}

/// The active configuration and what is derived from it.
#[derive(Debug)]
pub struct Active {
    /// The rules, keys and stores.
    pub installation: Installation,
    /// The SHA-256 of the configuration, in hexadecimal.
    pub digest: String,
    /// When it became active.
    pub since: Instant,
    /// The names of headers that clients must not send, as a header value.
    pub reserved_list: HeaderValue,
    meters: Meters,
}

/// One call of a front end: a request that is being checked. Counts as in progress until dropped.
#[derive(Debug)]
pub struct Call<G: Deref<Target = Gate>> {
    gate: G,
    active: Arc<Active>,
    front: Front,
    started: Instant,
    crowded: bool,
    caller: Option<TraceParent>,
}

/// The permit to check a request: the number of calls is within the limit, and the deadline is set.
/// Every check needs one.
///
/// If all policies are in report mode, a call over the limit is allowed without a check. It still
/// needs a permit, because its headers determine what must be removed for the upstream.
#[derive(Debug)]
pub struct Admitted<'c, G: Deref<Target = Gate>>(&'c Call<G>);

impl Gate {
    /// A gate with `installation` as its active configuration.
    pub fn new(
        checker: Checker,
        installation: Installation,
        digest: String,
        metrics: Arc<Metrics>,
    ) -> Self {
        let active = ArcSwap::from_pointee(Active::new(installation, digest, &metrics));
        let (sinks, denials) = (Sinks::default(), Arc::default());
        let (replaced, under_way) = (watch::Sender::new(()), AtomicUsize::new(0));
        let unclear = RateLimit::of(1);
        Self {
            checker,
            active,
            replaced,
            under_way,
            metrics,
            sinks,
            denials,
            carried: Carried::default(),
            unclear,
            has_others: false,
            hears: AtomicBool::new(false),
        }
    }

    /// The same gate, which records checks in these sinks.
    #[must_use]
    pub fn with_sinks(self, sinks: Sinks) -> Self {
        Self { sinks, ..self }
    }

    /// The same gate, which notes denials in this list.
    #[must_use]
    pub fn noting_in(self, denials: Arc<Denials>) -> Self {
        Self { denials, ..self }
    }

    /// The same gate, beside others that count in the same metrics: no series are dropped.
    #[must_use]
    pub fn beside_others(self) -> Self {
        Self { has_others: true, ..self }
    }

    /// Makes `installation` active, and drops the series of policies and issuers it no longer has.
    /// Calls in progress keep the previous one.
    pub fn replace(&self, installation: Installation, digest: String) {
        if !self.has_others {
            let policies = installation.policies();
            let policy = |name: &str| policies.policies.iter().any(|it| *it.name == *name);
            let issuer = |name: &str| policies.issuers.iter().any(|it| *it.name == *name);
            self.metrics.retain_policies(policy);
            self.metrics.retain_issuers(issuer);
        }
        if self.active().policies().client_certificate != installation.policies().client_certificate
        {
            self.carried.forget();
        }
        self.active.store(Arc::new(Active::new(installation, digest, &self.metrics)));
        if self.hears.load(Ordering::SeqCst) {
            self.active().installation.hear();
        }
        self.replaced.send_replace(());
    }

    /// Has issuers asked for their events, under the active configuration and under those that replace it.
    pub fn hear(&self) {
        self.hears.store(true, Ordering::SeqCst);
        self.active().installation.hear();
    }

    /// Notifies of each later replacement of the active configuration.
    pub fn replacements(&self) -> watch::Receiver<()> {
        self.replaced.subscribe()
    }

    /// The active configuration.
    pub fn active(&self) -> Arc<Active> {
        self.active.load_full()
    }

    /// The clock for checks.
    pub const fn clock(&self) -> &Arc<dyn Clock> {
        self.checker.clock()
    }

    /// All metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The last denials.
    pub fn denials(&self) -> &Denials {
        &self.denials
    }

    /// The certificates of all requests.
    pub const fn carried(&self) -> &Carried {
        &self.carried
    }

    /// The number of calls in progress.
    pub fn under_way(&self) -> usize {
        self.under_way.load(Ordering::Relaxed)
    }

    /// Starts a call that came in through `front`.
    pub fn enter(&self, front: Front) -> Call<&Self> {
        Call::of(self, front)
    }
}

impl Active {
    fn new(installation: Installation, digest: String, metrics: &Metrics) -> Self {
        let meters = Meters::new(metrics, installation.policies());
        let list = installation.rules.reserved_headers().list();
        let reserved_list = HeaderValue::from_str(list).unwrap_or_else(|_| {
            invariant::broken("names of headers between commas are the value of a header");
            HeaderValue::from_static("")
        });
        Self { installation, digest, since: Instant::now(), reserved_list, meters }
    }

    /// The rules of a check.
    pub const fn rules(&self) -> &Rules {
        &self.installation.rules
    }

    /// The policies.
    pub const fn policies(&self) -> &PolicySet {
        self.installation.policies()
    }

    const fn limits(&self) -> &Limits {
        &self.installation.limits
    }

    /// The configured header, in lower case, that carries the client certificate.
    pub fn certificate_header(&self) -> Option<&str> {
        self.policies().client_certificate.header()
    }
}

impl<G: Deref<Target = Gate>> Call<G> {
    /// Starts a call that came in through `front`, and keeps the gate as long as it lasts.
    pub fn of(gate: G, front: Front) -> Self {
        let started = Instant::now();
        let active = gate.active();
        let before = gate.under_way.fetch_add(1, Ordering::Relaxed);
        let crowded = active.limits().concurrent_checks <= before;
        Self { gate, active, front, started, crowded, caller: None }
    }

    /// The same call, as a child of the span in the proxy's `traceparent` (W3C Trace Context §3.2).
    #[must_use]
    pub fn within(mut self, traceparent: Option<&[u8]>) -> Self {
        self.caller = traceparent.and_then(TraceParent::read);
        self
    }

    /// What keeps the gate.
    pub const fn gate(&self) -> &G {
        &self.gate
    }

    /// The configuration for this call.
    pub fn active(&self) -> &Active {
        &self.active
    }

    /// The permit for a check; refused if too many calls are in progress.
    pub fn admit(&self) -> Result<Admitted<'_, G>, Denial> {
        let enforced = || self.active.policies().mode(None) == Mode::Enforce;
        if self.crowded && enforced() { Err(Denial::Overloaded) } else { Ok(Admitted(self)) }
    }

    /// The output of `work` unless the deadline passes, and whether it was ready at the first poll.
    async fn timed<T>(
        &self,
        mut work: Pin<&mut impl Future<Output = T>>,
    ) -> (Result<T, Denial>, bool) {
        // A deadline that the clock cannot represent is no deadline.
        let end = self.started.checked_add(self.active.limits().check_deadline);
        // Nearly every check is ready at its first poll, so most need no timer. Poll the inner
        // future once per wake-up: a task that yielded must not be re-polled immediately.
        let mut waited = false;
        let mut timer = None;
        poll_fn(|context| {
            if let Poll::Ready(done) = work.as_mut().poll(context) {
                return Poll::Ready((Ok(done), !waited));
            }
            waited = true;
            let Some(end) = end else { return Poll::Pending };
            let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(end)));
            timer.as_mut().poll(context).map(|()| (Err(Denial::CheckTimedOut), false))
        })
        .await
    }

    /// The verdict on a request for metadata of a resource, which are sent in place of a check; recorded.
    pub fn serve(&self, request: &Request<'_>) -> Option<Verdict> {
        let resource = self.active.rules().metadata_asked_for(request)?;
        let verdict = Verdict::serving(resource);
        self.tell(Some(request), &verdict);
        Some(verdict)
    }

    /// Refuses a request whose sender has gone, without logging or counting it: nobody was denied.
    pub fn refuse_unrecorded(&self) -> Verdict {
        Verdict::refused(Denial::RequestMalformed.into(), self.active.policies())
    }

    /// Refuses a request that could not be parsed, and records it.
    pub fn refuse(&self, refusal: impl Into<Refusal>) -> Verdict {
        let verdict = Verdict::refused(refusal.into(), self.active.policies());
        self.tell(None, &verdict);
        verdict
    }

    /// Refuses a request whose headers were not read, and records it. This is enforced even in
    /// report mode if headers are to be removed by prefix, since those cannot be listed without
    /// reading them.
    pub fn refuse_unread(&self, refusal: impl Into<Refusal>) -> Verdict {
        let policies = self.active.policies();
        let mut verdict = Verdict::refused(refusal.into(), policies);
        if !policies.upstream.remove_beginning.is_empty() {
            verdict.mode = Mode::Enforce;
        }
        self.tell(None, &verdict);
        verdict
    }

    /// The answer to `request` with this verdict.
    pub fn answer<'a>(&'a self, verdict: &'a Verdict, request: Option<&Request<'a>>) -> Answer<'a> {
        let rules = self.active.rules();
        let mut answer = Answer::of(verdict, &rules.policies, request);
        if let Answer::Allow { remove, unclear, .. } = &mut answer {
            if request.is_none() {
                // Its headers were not read.
                remove.extend(rules.reserved_headers().spellings().iter().map(String::as_str));
            }
            if let Some(header) = unclear {
                self.warn_of(header);
            }
        }
        answer
    }

    fn warn_of(&self, header: &IdentityHeader) {
        if let Allowance::Within { untold } = self.gate.unclear.take(Instant::now()) {
            let IdentityHeader { name, claim, .. } = header;
            let format = "{claim: …, format: json}";
            tracing::warn!(
                header = &**name,
                claim,
                untold,
                "the claim could be read as another one, so that the upstream is told none: write \
                 {format} for it"
            );
        }
    }

    /// Warns of a proxy that sends no certificates at all.
    #[cold]
    fn look_for_certificate(&self, request: &Request<'_>, verdict: &Verdict, now: Instant) {
        let source = &self.active.policies().client_certificate;
        if source.is_carried(&request.evidence) {
            self.gate.carried.has_come();
        } else if verdict.outcome == Err(Denial::CertificateMissing)
            && let Some(missed) = self.gate.carried.is_missed(now)
        {
            let advice = carried::advice(source);
            tracing::warn!(missed, advice, "no request has carried a client certificate so far");
        }
    }

    fn tell(&self, request: Option<&Request<'_>>, verdict: &Verdict) {
        let ended = Instant::now();
        if let Some(request) = request
            && !self.gate.carried.any()
        {
            self.look_for_certificate(request, verdict, ended);
        }
        let elapsed = ended.saturating_duration_since(self.started);
        self.active.meters.record(self.front, verdict, elapsed);
        let (front, caller) = (self.front, self.caller);
        let event = CheckEvent { front, caller, request, verdict, elapsed, ended };
        let is_logged = self.gate.sinks.record(&event);
        self.gate.denials.note(&event, is_logged);
    }
}

impl<G: Deref<Target = Gate>> Admitted<'_, G> {
    /// The output of `work`, unless the deadline passes.
    ///
    /// `work` is pinned by the caller: pinning it here would store the future twice.
    pub async fn in_time<T>(&self, work: Pin<&mut impl Future<Output = T>>) -> Result<T, Denial> {
        self.0.timed(work).await.0
    }

    /// Checks `request` and records the outcome. The facts found so far are kept if the check
    /// panics or exceeds its deadline.
    pub async fn check(self, request: &Request<'_>) -> Verdict {
        let Self(call) = self;
        if call.front.sends_responses()
            && let Some(verdict) = call.serve(request)
        {
            return verdict;
        }
        let installation = &call.active.installation;
        if call.crowded {
            let verdict = Verdict::refused(Denial::Overloaded.into(), installation.policies());
            call.tell(Some(request), &verdict);
            return verdict;
        }
        let mut facts = Facts::default();
        let (checked, at_once) = {
            let check = call.gate.checker.check_into(&mut facts, installation, request);
            call.timed(pin!(AssertUnwindSafe(check).catch_unwind())).await
        };
        if at_once {
            fair_share::passed_waiting();
        }
        let outcome = checked.and_then(|it| it.unwrap_or(Err(Denial::Internal)));
        let verdict = Verdict::new(outcome, facts, installation.policies());
        call.tell(Some(request), &verdict);
        verdict
    }
}

impl<G: Deref<Target = Gate>> Drop for Call<G> {
    fn drop(&mut self) {
        self.gate.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::installation::samples::installation;
    use crate::telemetry::installed::Installed;
    use crate::telemetry::log::{self, Sink};
    use crate::telemetry::samples::{Out, policy_set};
    use keybound_core::policy::{
        HostPattern, Match, Policy, PolicySet, Resource, SenderConstraint,
    };
    use keybound_core::{Detail, Origin, Target};
    use std::future::{pending, ready};
    use std::time::Duration;

    fn gate() -> Gate {
        let policies = policy_set();
        let installation = installation(policies);
        let metrics = Arc::new(Metrics::new().unwrap());
        Gate::new(Checker::new(Arc::new(SystemClock)), installation, String::new(), metrics)
    }

    fn admitted<'c, 'g>(call: &'c Call<&'g Gate>) -> Admitted<'c, &'g Gate> {
        call.admit().unwrap()
    }

    #[test]
    fn no_more_are_let_in_than_there_is_room_for() {
        let gate = gate();
        let enter = || gate.enter(Front::ExtAuthz);
        let (first, second) = (enter(), enter());
        assert!(first.admit().is_ok() && second.admit().is_ok());
        assert_eq!(enter().admit().err(), Some(Denial::Overloaded));
        drop(first);
        assert!(enter().admit().is_ok());
        drop(second);
        assert_eq!(gate.under_way(), 0);
    }

    #[tokio::test]
    async fn who_can_send_a_response_serves_metadata_in_place_of_a_check() {
        let mut policies = policy_set();
        let mut policy = Policy::new("payments", SenderConstraint::Dpop);
        policy.origin = Some(Origin::parse("https://api.test").unwrap());
        policy.resource = Some(Resource::default());
        policies.policies = [Arc::new(policy)].into();
        let metrics = Arc::new(Metrics::new().unwrap());
        let checker = Checker::new(Arc::new(SystemClock));
        let gate = Gate::new(checker, installation(policies), String::new(), metrics);
        let path = "/.well-known/oauth-protected-resource";
        let target = Target { method: "GET", scheme: "https", authority: "api.test", path };
        // Whatever policy the proxy names.
        let request = Request { target, policy: Some("unknown"), ..Request::default() };
        for (front, is_served) in [(Front::ExtAuthz, true), (Front::ForwardAuth, false)] {
            let call = gate.enter(front);
            let verdict = admitted(&call).check(&request).await;
            let answer = call.answer(&verdict, Some(&request));
            assert_eq!(matches!(answer, Answer::Served { status: 200, .. }), is_served);
            let refused = (!is_served).then_some(Denial::PolicyUnknown);
            assert_eq!(verdict.denied(), refused, "{front:?}");
        }
        let text = gate.metrics().exposition(&Installed::default()).unwrap();
        let series = "keybound_checks_total{decision=\"served\",front=\"ext_authz\",\
                      policy=\"payments\",reason=\"resource_metadata\"} 1\n";
        assert!(text.contains(series), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_counts_from_the_arrival_of_the_request() {
        let gate = gate();
        let call = gate.enter(Front::ExtAuthz);
        let work = |millis| tokio::time::sleep(Duration::from_millis(millis));
        assert_eq!(admitted(&call).in_time(pin!(work(100))).await, Ok(()));
        assert_eq!(admitted(&call).in_time(pin!(work(49))).await, Ok(()));
        assert_eq!(admitted(&call).in_time(pin!(work(2))).await, Err(Denial::CheckTimedOut));
        // Work that is ready at once is never too late.
        assert_eq!(admitted(&call).in_time(pin!(ready(7))).await, Ok(7));
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_makes_way_for_others_does() {
        let gate = gate();
        let call = gate.enter(Front::ExtAuthz);
        let order = std::sync::Mutex::new(vec![]);
        let note = |it: &'static str| order.lock().unwrap().push(it);
        let work = async {
            tokio::task::yield_now().await;
            note("work");
        };
        let work = pin!(work);
        let admitted = admitted(&call);
        let (done, ()) = tokio::join!(admitted.in_time(work), async { note("another") });
        assert_eq!(done, Ok(()));
        assert_eq!(*order.lock().unwrap(), ["another", "work"]);
    }

    #[tokio::test]
    async fn a_check_that_need_not_wait_goes_ahead_of_those_that_must() {
        let gate = gate();
        let call = gate.enter(Front::ExtAuthz);
        let request = Request::default();
        assert_eq!(fair_share::counting_passed(admitted(&call).check(&request)).await.1, 1);
        let mut first = true;
        let waits = pin!(poll_fn(|_| {
            if std::mem::take(&mut first) { Poll::Pending } else { Poll::Ready(7) }
        }));
        let mut timed = pin!(call.timed(waits));
        assert_eq!(timed.as_mut().now_or_never(), None);
        assert_eq!(timed.await, (Ok(7), false));
        assert!(call.timed(pin!(ready(7))).await.1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_too_long_is_refused_and_counted() {
        let gate = gate();
        let call = gate.enter(Front::ExtAuthz);
        let denial = admitted(&call).in_time(pin!(pending::<()>())).await.unwrap_err();
        let verdict = call.refuse(denial);
        let answer = call.answer(&verdict, None);
        assert!(matches!(answer, Answer::Deny { status: 503, .. }), "{answer:?}");
        let text = gate.metrics().exposition(&Installed::default()).unwrap();
        assert!(text.contains("reason=\"check_timed_out\"} 1\n"), "{text}");
    }

    /// A gate with policies in these modes.
    fn gate_of(modes: &[Mode]) -> Gate {
        let policy = |(number, mode): (usize, &Mode)| {
            let name = format!("policy-{number}");
            let matches = Match {
                hosts: vec![HostPattern::Exact(format!("{number}.test"))],
                ..Match::default()
            };
            let policy = Policy::new(&name, SenderConstraint::Certificate);
            Arc::new(Policy { mode: *mode, matches, ..policy })
        };
        let policies = modes.iter().enumerate().map(policy).collect();
        let policies = PolicySet { policies, ..policy_set() };
        let installation = installation(policies);
        let metrics = Arc::new(Metrics::new().unwrap());
        Gate::new(Checker::new(Arc::new(SystemClock)), installation, String::new(), metrics)
    }

    const ENFORCED: [Mode; 2] = [Mode::Report, Mode::Enforce];
    const REPORTED: [Mode; 2] = [Mode::Report, Mode::Report];

    fn is_let_through(answer: &Answer<'_>, would_deny: &str) -> bool {
        match answer {
            Answer::Allow { set, metadata, .. } => {
                assert!(set.is_empty(), "no claim of such a request may be told: {answer:?}");
                assert!(metadata.contains(&("would_deny", would_deny)), "{answer:?}");
                true
            }
            Answer::Deny { .. } | Answer::Served { .. } => false,
        }
    }

    #[tokio::test]
    async fn what_belongs_to_no_policy_is_let_through_only_where_every_policy_reports() {
        for (modes, through) in [(ENFORCED, false), (REPORTED, true)] {
            let gate = gate_of(&modes);
            let call = gate.enter(Front::ExtAuthz);
            for denial in Denial::ALL {
                let verdict = call.refuse(*denial);
                let answer = call.answer(&verdict, None);
                assert_eq!(is_let_through(&answer, denial.label()), through, "{denial}");
            }
            let mut request = Request::default();
            request.target.authority = "of-no-policy.test";
            let verdict = admitted(&call).check(&request).await;
            let answer = call.answer(&verdict, Some(&request));
            assert_eq!(is_let_through(&answer, "policy_unknown"), through);
            request.target.authority = "user@0.test";
            let verdict = admitted(&call).check(&request).await;
            let answer = call.answer(&verdict, Some(&request));
            assert_eq!(is_let_through(&answer, "policy_unknown"), through);
        }
    }

    #[tokio::test]
    async fn where_nothing_is_refused_an_overload_checks_nothing_and_still_removes_what_must_go() {
        for (modes, through) in [(ENFORCED, false), (REPORTED, true)] {
            let gate = gate_of(&modes);
            let _places = [(); 2].map(|()| gate.enter(Front::ExtAuthz));
            let call = gate.enter(Front::ExtAuthz);
            let Ok(admitted) = call.admit() else {
                assert!(!through);
                continue;
            };
            let mut request = Request::default();
            request.target.authority = "0.test";
            request.unwanted = vec!["x!auth~subject"];
            let verdict = admitted.check(&request).await;
            let answer = call.answer(&verdict, Some(&request));
            assert_eq!(is_let_through(&answer, "overloaded"), through);
            let Answer::Allow { remove, .. } = answer else { panic!("{answer:?}") };
            assert!(remove.contains(&"x!auth~subject"), "{remove:?}");
        }
    }

    #[test]
    fn what_nobody_has_read_is_refused_where_headers_go_by_how_they_begin() {
        for (beginning, through) in [(None, true), (Some("x-auth-"), false)] {
            let policy = Policy::new("trial", SenderConstraint::Certificate);
            let mut policies = policy_set();
            policies.policies = [Arc::new(Policy { mode: Mode::Report, ..policy })].into();
            policies.upstream.remove_beginning = beginning.into_iter().map(Arc::from).collect();
            let installation = installation(policies);
            let metrics = Arc::new(Metrics::new().unwrap());
            let gate = Gate::new(
                Checker::new(Arc::new(SystemClock)),
                installation,
                String::new(),
                metrics,
            );
            let call = gate.enter(Front::ExtAuthz);
            let verdict = call.refuse_unread(Denial::Internal);
            let answer = call.answer(&verdict, None);
            assert_eq!(is_let_through(&answer, "internal"), through, "{beginning:?}");
        }
    }

    #[tokio::test]
    async fn what_belongs_to_a_policy_is_let_through_where_that_policy_reports() {
        let gate = gate_of(&ENFORCED);
        let call = gate.enter(Front::ExtAuthz);
        for (authority, through) in [("0.test", true), ("1.test", false)] {
            let mut request = Request::default();
            request.target.authority = authority;
            let verdict = admitted(&call).check(&request).await;
            let answer = call.answer(&verdict, Some(&request));
            assert_eq!(is_let_through(&answer, "credentials_missing"), through, "{authority}");
        }
    }

    #[test]
    fn a_request_keeps_the_rules_that_it_came_under() {
        let gate = gate();
        let call = gate.enter(Front::ExtAuthz);
        gate.replace(installation(policy_set()), "new".to_owned());
        assert_eq!(call.active().digest, "");
        assert_eq!(gate.active().digest, "new");
    }

    #[test]
    fn where_nothing_is_refused_an_alias_that_cannot_be_removed_is() {
        for modes in [ENFORCED, REPORTED] {
            let gate = gate_of(&modes);
            let call = gate.enter(Front::ForwardAuth);
            let verdict = call.refuse(Detail::HeaderUnremovable);
            let answer = call.answer(&verdict, None);
            assert!(matches!(answer, Answer::Deny { status: 400, .. }), "{answer:?}");
        }
    }

    #[test]
    fn of_a_request_that_nobody_has_read_all_aliases_are_removed() {
        let gate = gate_of(&REPORTED);
        let call = gate.enter(Front::ExtAuthz);
        let verdict = call.refuse(Denial::Overloaded);
        let removed = |answer: Answer<'_>| match answer {
            Answer::Allow { remove, .. } => remove.iter().map(|it| (*it).to_owned()).collect(),
            Answer::Deny { .. } | Answer::Served { .. } => panic!("{answer:?}"),
        };
        let unread: Vec<_> = removed(call.answer(&verdict, None));
        assert!(unread.iter().any(|it| it == "x_forwarded_client_cert"), "{unread:?}");
        let seen = Request { unwanted: vec!["X!Forwarded!Client!Cert"], ..Request::default() };
        assert_eq!(removed(call.answer(&verdict, Some(&seen))), seen.unwanted);
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_that_is_not_told_for_its_form_is_warned_of_once_in_a_second() {
        let out = Out::default();
        let (sink, writer) = Sink::to(out.clone()).unwrap();
        let subscriber = log::subscriber(log::Format::Json, log::Level::Info, sink);
        let gate = gate();
        let call = gate.enter(Front::ExtAuthz);
        let header = IdentityHeader::new("x-auth-groups", "groups");
        tracing::subscriber::with_default(subscriber, || {
            call.warn_of(&header);
            call.warn_of(&header);
        });
        writer.finish();
        let text = out.text();
        assert_eq!(text.matches("\"header\":\"x-auth-groups\"").count(), 1, "{text}");
        assert!(text.contains("\"claim\":\"groups\"") && text.contains("format: json"), "{text}");
    }
}
