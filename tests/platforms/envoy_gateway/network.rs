//! A network of a test's own, for programs that listen everywhere and on ports that they choose.

use crate::{at_hand, skipped};
use std::any::type_name;
use std::env;
use std::future::Future;
use std::process::{Command, Stdio};

/// Set where the test already is in its own network.
const INSIDE: &str = "KEYBOUND_TEST_NETWORK";
/// What needs no more than a loopback interface runs after this.
const WITH_LOOPBACK: &str = r#"ip link set lo up && exec "$@""#;

/// Runs the test that calls this once more in a network of its own, and there the body, where all that it starts
/// ends with it. Where that is not allowed, a line says so.
pub(crate) fn in_a_network_of_its_own<B, F>(body: B)
where
    B: FnOnce() -> F,
    F: Future<Output = ()>,
{
    if at_hand("envoy-gateway").is_none() {
        return;
    }
    if env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        return runtime.unwrap().block_on(body());
    }
    // The body bears the name of the test that it is in.
    let name = type_name::<B>().trim_end_matches("::{{closure}}");
    let (_, name) = name.split_once("::").unwrap();
    let Some(apart) = apart() else {
        return skipped(&format!("{name}, for `unshare --net` does not work here"));
    };
    let mut again = Command::new("unshare");
    again.args(apart).args(["sh", "-c", WITH_LOOPBACK, "sh"]).arg(env::current_exe().unwrap());
    again.args(["--exact", name, "--nocapture", "--test-threads", "1"]).env(INSIDE, "1");
    let output = again.stdin(Stdio::null()).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    let passed = output.status.success() && told.contains("test result: ok. 1 passed");
    assert!(passed, "{told}{}", String::from_utf8_lossy(&output.stderr));
}

/// The options of `unshare` by which a network of one's own can be had here.
fn apart() -> Option<&'static [&'static str]> {
    const AS_ROOT: &[&str] = &["--net", "--pid", "--fork", "--kill-child"];
    const AS_ANYBODY: &[&str] =
        &["--user", "--map-root-user", "--net", "--pid", "--fork", "--kill-child"];
    [AS_ROOT, AS_ANYBODY].into_iter().find(|options| {
        let mut attempt = Command::new("unshare");
        attempt.args(*options).args(["sh", "-c", WITH_LOOPBACK, "sh", "true"]);
        attempt.output().is_ok_and(|it| it.status.success())
    })
}
