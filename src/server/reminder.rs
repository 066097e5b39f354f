//! Periodic warnings about policies in report mode, since a trial that is never ended protects
//! nothing.

use crate::gate::Gate;
use keybound_core::policy::{Mode, PolicySet};
use std::convert::Infallible;
use std::time::Duration;
use tokio::time::sleep;

/// The interval, short enough to be seen in a few minutes of the log.
const EVERY: Duration = Duration::from_secs(600);

/// Logs each policy in report mode, again and again. The first warning comes from the
/// configuration.
pub async fn run(gate: &Gate) -> Infallible {
    loop {
        sleep(EVERY).await;
        for policy in only_reporting(gate.active().policies()) {
            tracing::warn!(policy, "policy is in report mode: it denies nothing");
        }
    }
}

fn only_reporting(rules: &PolicySet) -> impl Iterator<Item = &str> {
    rules.policies.iter().filter(|it| it.mode == Mode::Report).map(|it| &*it.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::installation::Checker;
    use crate::installation::samples::installation;
    use crate::telemetry::log::{Format, Level, Sink, subscriber};
    use crate::telemetry::metrics::Metrics;
    use crate::telemetry::samples::{Out, policy_set};
    use keybound_core::policy::{Policy, SenderConstraint};
    use std::sync::Arc;
    use tokio::time::timeout;

    /// The log of so many seconds under one more policy of this mode.
    async fn log_after(mode: Mode, seconds: u64) -> String {
        let mut policies = policy_set();
        let trial = Policy { mode, ..Policy::new("trial", SenderConstraint::Certificate) };
        policies.policies = [&policies.policies[..], &[Arc::new(trial)]].concat().into();
        let installation = installation(policies);
        let metrics = Arc::new(Metrics::new().unwrap());
        let gate =
            Gate::new(Checker::new(Arc::new(SystemClock)), installation, String::new(), metrics);

        let out = Out::default();
        let (sink, writer) = Sink::to(out.clone()).unwrap();
        let guard = tracing::subscriber::set_default(subscriber(Format::Json, Level::Info, sink));
        timeout(Duration::from_secs(seconds), run(&gate)).await.unwrap_err();
        drop(guard);
        writer.finish();
        out.text()
    }

    #[tokio::test(start_paused = true)]
    async fn a_policy_that_only_reports_is_named_every_ten_minutes() {
        assert_eq!(log_after(Mode::Report, 599).await, "");
        let log = log_after(Mode::Report, 1201).await;
        assert_eq!(log.lines().count(), 2, "{log}");
        assert_eq!(log.matches(r#""level":"WARN""#).count(), 2, "{log}");
        assert_eq!(log.matches(r#""policy":"trial""#).count(), 2, "{log}");
        assert_eq!(log_after(Mode::Enforce, 1201).await, "");
    }
}
