#!/usr/bin/env python3
"""Has promtool judge the alerts in deploy/observability.

    alerts.py CHECK PROMTOOL KEYBOUND

CHECK is one of those at the end. KEYBOUND is the program, which knows the reasons for a denial.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

RULES = Path(__file__).resolve().parent.parent.parent / "deploy/observability/alerts.yaml"

# What each reason for a denial of a client says about: its conduct, or a configuration. Where most requests
# of a policy change to one of the latter, an alert names it.
CONDUCT = set(
    """
    credentials_ambiguous credentials_missing scheme_unsupported token_expired token_inactive token_revoked
    binding_missing scheme_mismatch certificate_mismatch proof_key_mismatch proof_missing proof_malformed
    proof_signature_invalid proof_method_mismatch proof_token_mismatch proof_replayed
    authentication_insufficient scope_insufficient claim_insufficient
    """.split()
)
CONFIGURATION = set(
    """
    request_malformed certificate_malformed policy_unknown token_malformed token_too_large
    token_algorithm_forbidden token_type_wrong token_issuer_unknown token_key_unknown token_signature_invalid
    token_premature token_audience_mismatch token_claim_missing binding_unsupported certificate_missing
    certificate_conflict proof_algorithm_forbidden proof_target_mismatch proof_stale nonce_required
    """.split()
)
# What is not the client's fault, and the alert for it.
OURS = {
    "keys_unavailable": "KeyboundOutage",
    "introspection_unavailable": "KeyboundOutage",
    "revocation_unavailable": "KeyboundOutage",
    "check_timed_out": "KeyboundOutage",
    "replay_unavailable": "KeyboundReplayStoreUnavailable",
    "overloaded": "KeyboundOverloaded",
    "internal": "KeyboundInternalError",
}


def checks(reason="allowed", policy="payments", decision=None, instance="a"):
    decision = decision or ("allow" if reason == "allowed" else "deny")
    return series(
        "keybound_checks_total", decision=decision, front="ext_authz", policy=policy, reason=reason,
        instance=instance,
    )


def of_issuer(name, instance="a", issuer="https://as.example", **labels):
    return series(name, instance=instance, issuer=issuer, **labels)


def digest(digest, instance, job="keybound"):
    return series("keybound_config_info", digest=digest, instance=instance, job=job)


def of_envoy(name):
    return series(f"envoy_http_ext_authz_{name}", instance="edge", envoy_http_conn_manager_prefix="https")


def series(name, **labels):
    return name + "{" + ", ".join(f'{key}="{value}"' for key, value in labels.items()) + "}"


def slow(below_50ms):
    """A hundred checks a minute, of which so many take less than 50 ms, and the others up to 100."""
    name = "keybound_check_duration_seconds_bucket"
    return {
        series(name, instance="a", front="ext_authz", le=le): f"0+{count}x60"
        for le, count in (("0.025", 0), ("0.05", below_50ms), ("0.1", 100), ("+Inf", 100))
    }


def certificate(start, end):
    """A certificate of which the validity begins and ends at these minutes, now being 0."""
    name, labels = "keybound_tls_certificate", {"file": "certificate_file", "position": "1", "instance": "a"}
    return {
        series(f"{name}_not_before_timestamp_seconds", **labels): f"{start * 60}x100",
        series(f"{name}_not_after_timestamp_seconds", **labels): f"{end * 60}x100",
    }


DAY = 24 * 60
KEYS = of_issuer("keybound_jwks_keys")
AGE = of_issuer("keybound_jwks_age_seconds")
FAILED = of_issuer("keybound_jwks_refreshes_total", outcome="unreachable")
FETCHED = of_issuer("keybound_jwks_refreshes_total", outcome="unchanged")
SHEDDING = of_issuer("keybound_introspection_shedding", cause="busy")
BEHIND = of_issuer("keybound_denylist_behind")
LIST_AGE = of_issuer("keybound_status_list_age_seconds")
LAG = of_issuer("keybound_events_lag_seconds")
UNHEARD = of_issuer("keybound_events_unheard")
UNMAPPED = of_issuer("keybound_events_received_total", outcome="unmapped")
APPLIED = of_issuer("keybound_events_received_total", outcome="revoking")
STRANGERS = of_issuer("keybound_events_refused_total", cause="unauthenticated")
FULL = of_issuer("keybound_events_full")
NOT_KNOWN_YET = series("keybound_denial_details_total", detail="key_not_known_yet", reason="keys_unavailable")
WOULD_DENY = series("keybound_would_deny_total", policy="trial", reason="token_expired", instance="a")
RELOADS = series("keybound_config_reloads_total", outcome="refused", instance="a")
SPANS = series("keybound_spans_total", outcome="dropped", instance="a")
EXPIRED = checks("token_expired")
UNKNOWN = checks("token_key_unknown")
# For two hours as ever, and then nothing for an hour.
STOPS = "0+600x120 72000x60"

# Each: what there is and when, in minutes, the alert does not fire yet and does; and what there is when it
# does not fire in the last hour of it. (Before, it may: a service without a past has only its own word.)
CASES = {
    "KeyboundDenialsHigh": (
        # In two of ten there was a token that had expired, and now in five.
        {checks(): "0+480x120 57900+300x60", EXPIRED: "0+120x120 14700+300x60"}, 121, 129,
        [
            # One in ten, at once.
            {checks(): "0+600x120 72540+540x60", EXPIRED: "_x120 60+60x60"},
            # Ever so many.
            {checks(): "0+300x180", EXPIRED: "0+300x180"},
            # The clients sleep, and the scanners do not.
            {checks(): STOPS, checks("credentials_missing"): "0+20x180"},
            # Four times as many as in the hour before, of which five in a hundred are denied as ever.
            {checks(): "0+95x120 11780+380x60", EXPIRED: "0+5x120 620+20x60"},
            # Too few to say anything.
            {checks(): "0+1x120 120x60", EXPIRED: "_x120 1+1x8 9x60"},
        ],
    ),
    "KeyboundAllowedNone": (
        {checks(): STOPS, EXPIRED: "_x120 600+600x60"}, 124, 129,
        [
            {checks(): "0+600x120 72000+6x60", EXPIRED: "_x120 594+594x60"},
            # Nothing was allowed before, either.
            {checks(): "0x180", EXPIRED: "0+600x180"},
            # The clients sleep, and the scanners do not.
            {checks(): STOPS, checks("credentials_missing"): "0+600x180"},
            {checks(): STOPS, EXPIRED: "0+60x180"},
        ],
    ),
    "KeyboundMisconfigured": (
        {checks(): "0+600x120 72540+540x60", UNKNOWN: "_x120 60+60x60"}, 122, 129,
        [
            {checks(): "0+600x120 72580+580x60", UNKNOWN: "_x120 20+20x60"},
            {checks(): "0+540x180", UNKNOWN: "0+60x180"},
            {checks(): "0+600x120 72540+540x60", EXPIRED: "_x120 60+60x60"},
        ],
    ),
    "KeyboundKeysMissing": ({KEYS: "2x5 0x20"}, 7, 8, [{KEYS: "1x30"}]),
    "KeyboundKeysStale": ({AGE: "7201x30"}, 4, 5, [{AGE: "7200x30"}]),
    "KeyboundKeysAboutToEnd": ({AGE: "64801x30"}, 4, 5, [{AGE: "64800x30"}]),
    "KeyboundKeyRefreshFailing": (
        {FAILED: "0+1x60", FETCHED: "9x60"}, 4, 9,
        [{FAILED: "0+1x40", FETCHED: "0x5 1x35"}, {FAILED: "0x20 1x20 2x20", FETCHED: "9x60"}],
    ),
    "KeyboundCertificateEnds": (
        # Of a year, with a week and a half an hour to live; and not a second too early.
        certificate(-350 * DAY, 7 * DAY + 30), 40, 41,
        [
            certificate(-350 * DAY, 7 * DAY + 100),
            # Of a day: after two thirds, Istio or cert-manager renews it.
            certificate(-16 * 60, 8 * 60),
            certificate(-12 * 60, 12 * 60),
        ],
    ),
    "KeyboundCertificateAboutToEnd": (
        # Of an hour, or of a year; and what has ended.
        certificate(-28, 32), 31, 32,
        [certificate(-350 * DAY, DAY + 100), certificate(-16 * 60, 8 * 60)],
    ),
    "KeyboundTokensShed": ({SHEDDING: "1x30"}, 1, 2, [{SHEDDING: "0x30"}]),
    "KeyboundStatusListStale": ({LIST_AGE: "0+60x60"}, 17, 18, [{LIST_AGE: "300x60"}]),
    "KeyboundEventsSilent": (
        {LAG: "0x5 301x30", UNHEARD: "0x36"}, 6, 7,
        [{LAG: "300x30", UNHEARD: "0x30"}, {LAG: "0+60x5 0+60x5 0+60x5", UNHEARD: "0x30"}],
    ),
    "KeyboundEventsNotApplied": (
        {UNMAPPED: "0x5 1x30"}, 5, 6,
        [{UNMAPPED: "1x30", APPLIED: "0+9x30", STRANGERS: "0+9x30"}],
    ),
    "KeyboundEventsFull": ({FULL: "0x5 1x30"}, 5, 6, [{FULL: "0x30"}]),
    "KeyboundDenylistBehind": ({BEHIND: "0x5 1x30"}, 7, 8, [{BEHIND: "0x30"}]),
    "KeyboundOutage": (
        {checks(): "0+980x60", checks("keys_unavailable"): "0+20x60"}, 5, 7,
        [
            {checks(): "0+991x60", checks("keys_unavailable"): "0+9x60"},
            # Anybody can send tokens with invented keys.
            {checks(): "0+980x60", checks("keys_unavailable"): "0+20x60", NOT_KNOWN_YET: "0+20x60"},
        ],
    ),
    "KeyboundKeysNotKnownYet": (
        {checks(): "0+980x60", NOT_KNOWN_YET: "0+20x60"}, 10, 12,
        [{checks(): "0+991x60", NOT_KNOWN_YET: "0+9x60"}],
    ),
    "KeyboundInternalError": (
        {checks("internal"): "0x5 1x20"}, 4, 6, [{checks("internal"): "1x30"}, {checks(): "0+9x30"}]
    ),
    "KeyboundOverloaded": (
        {checks("overloaded"): "0+1x30"}, 2, 4, [{checks("overloaded"): "7x30"}, {checks(): "0+9x30"}]
    ),
    "KeyboundReplayStoreUnavailable": (
        {checks("replay_unavailable"): "0+1x30"}, 2, 4, [{checks("replay_unavailable"): "7x30"}]
    ),
    "KeyboundSlow": (slow(98), 10, 12, [slow(100)]),
    "KeyboundConfigRefused": ({RELOADS: "0x5 1x20"}, 4, 6, [{RELOADS: "1x30"}]),
    "KeyboundConfigurationsDiffer": (
        {digest("new", "a"): "1x40", digest("old", "b"): "1x40"}, 9, 11,
        [
            {digest("new", "a"): "1x40", digest("new", "b"): "1x40"},
            # A rollout, or a reload that takes longer in one place.
            {digest("old", "a"): "1x10 _x30", digest("new", "a"): "_x10 1x30", digest("old", "b"): "1x8 _x32", digest("new", "b"): "_x8 1x32"},
            # Another deployment.
            {digest("new", "a"): "1x40", digest("old", "b", job="other"): "1x40"},
        ],
    ),
    "KeyboundCertificateMismatches": (
        # None so far, whether there is a series for it or not; and far more than on the day before.
        {checks("certificate_mismatch"): "_x30 7+7x30"}, 41, 43,
        [
            {checks("certificate_mismatch"): "_x30 5+5x30"},
            {checks("certificate_mismatch"): "0+7x1500"},
        ],
    ),
    "KeyboundProofsReplayed": (
        {checks("proof_replayed"): "0+7x30"}, 12, 14, [{checks("proof_replayed"): "0+5x30"}]
    ),
    "KeyboundUnboundTokens": (
        {checks("binding_missing"): "0+1x40"}, 15, 17, [{checks("binding_missing"): "0x5 1x50"}]
    ),
    "KeyboundReportModeDenies": (
        {WOULD_DENY: "0+1x1500"}, 1440, 1442, [{WOULD_DENY: "0+1x600 600x900"}, {WOULD_DENY: "7x1500"}]
    ),
    "KeyboundSpansLost": ({SPANS: "0+1x40"}, 15, 17, [{SPANS: "7x40"}]),
    "KeyboundUnreachable": ({of_envoy("error"): "0+1x30"}, 2, 4, [{of_envoy("error"): "7x30"}]),
    "KeyboundBypassed": (
        {of_envoy("failure_mode_allowed"): "0x5 1x20"}, 4, 6, [{of_envoy("failure_mode_allowed"): "7x30"}]
    ),
    "KeyboundAnswerInvalid": ({of_envoy("invalid"): "0x5 1x20"}, 4, 6, [{of_envoy("invalid"): "7x30"}]),
}


def each(world):
    """Each alert fires when it should, and neither before nor otherwise."""
    alerts = {it["alert"] for it in world.rules() if "alert" in it}
    expect(alerts == set(CASES), f"without a case, or without an alert: {alerts ^ set(CASES)}")
    tests = []
    for alert, (given, not_yet, by_then, never) in CASES.items():
        tests.append(test(alert, given, (firing(alert), not_yet, 0), (firing(alert), by_then, 1)))
        tests += [test(alert, it, (fired("1h", alert), length(it), 0)) for it in never]
    world.passes(tests)


def reasons(world):
    """Whatever reason all traffic turns to, an alert fires within ten minutes, and a configuration is named
    as the cause where it is."""
    known = CONDUCT | CONFIGURATION | set(OURS)
    expect(world.reasons() == known, f"conduct, or configuration? {world.reasons() ^ known}")
    name = "policy_reason:keybound_misconfigurations:rate5m"
    (recorded,) = [it["expr"] for it in world.rules() if it.get("record") == name]
    expect(set(recorded.split('"')[1].split("|")) == CONFIGURATION, recorded)
    tests = []
    for reason in sorted(known):
        # Before a policy is chosen, too. Fewer than three a minute say nothing within ten minutes.
        for policy, rate in (("payments", 3), ("payments", 30000), ("", 300)):
            given = {checks(): f"0+{rate}x29 {rate * 29}x11"}
            given[checks(reason, policy)] = f"_x30 {rate}+{rate}x10"
            if reason == "internal" and not policy:
                # This one is there from the start.
                given[checks(reason, policy)] = f"0x29 {rate}+{rate}x10"
            asked = [(firing(), 40, None), (firing(), 29, 0)]
            if reason in CONFIGURATION:
                asked.append((firing("KeyboundMisconfigured", reason=reason), 40, 1))
            if policy and reason not in {"credentials_missing", "scheme_unsupported"}:
                asked.append((firing("KeyboundAllowedNone"), 40, 1))
            if (alert := OURS.get(reason)) and rate > 3:
                asked.append((firing(alert), 40, 1))
            tests.append(test(f"{reason} under {policy!r}, {rate} a minute", given, *asked))
    world.passes(tests)


def calm(world):
    """No alert fires on a quiet service or on a growing one, with the denials that there always are."""
    reasons = sorted(CONDUCT | CONFIGURATION)
    never = [
        # One request a minute by day and none by night; now and then one is denied.
        {
            checks(): "0+1x720 720x720 720+1x360",
            **{checks(it): f"_x{60 + 20 * at} 1x{DAY}" for at, it in enumerate(reasons)},
        },
        # Nobody asks.
        {checks(): f"0x{DAY}"},
        # A new service: nothing, and then more each hour, of which one in twenty-five is denied.
        {
            checks(): rising(48, DAY),
            checks("token_expired"): rising(1, DAY),
            checks("nonce_required"): rising(1, DAY),
        },
        # From ten a minute to ten thousand within one.
        {
            checks(): f"0+9x120 {9 * 121 + 9000}+9000x120",
            checks("token_expired"): f"0+1x120 {121 + 1000}+1000x120",
        },
        # Each client asks for a nonce first, and many come back.
        {checks(): "0+500x240", checks("nonce_required"): "0+400x240"},
        # A new replica takes over.
        {
            checks(): "0+600x120 _x120", checks("token_expired"): "0+30x120 _x120",
            checks(instance="b"): "_x118 0+600x120",
            checks("token_expired", instance="b"): "_x118 0+30x120",
        },
    ]
    world.passes([test(f"calm {at}", it, (fired("2d"), length(it), 0)) for at, it in enumerate(never)])


def told(world):
    """What an alert says makes sense, with a policy and without one."""
    tests = []
    for policy, under in (("payments", "under payments"), ("", "before a policy applies")):
        given = {checks(): STOPS, checks("policy_unknown", policy): "_x120 600+600x60"}
        where = "docs/alerts.md#keybounddenialshigh"
        labels = {"severity": "warning", **({"policy": policy} if policy else {})}
        summary = f"100% of requests are denied {under}: far more than in the hour before"
        expected = {"exp_labels": labels, "exp_annotations": {"summary": summary, "runbook_url": where}}
        written = test(policy, given)
        written["alert_rule_test"] = [
            {"alertname": "KeyboundDenialsHigh", "eval_time": "130m", "exp_alerts": [expected]}
        ]
        tests.append(written)
    world.passes(tests)


def rising(per_step, minutes):
    """A counter whose rate grows every hour."""
    values, total = [], 0
    for minute in range(minutes):
        values.append(str(total))
        total += per_step * (minute // 60)
    return " ".join(values)


def test(name, given, *asked):
    """A test in promtool's words: each of `asked` is an expression, a minute, and how many alerts it finds
    (None: some)."""
    return {
        "name": name,
        "interval": "1m",
        "input_series": [{"series": it, "values": values} for it, values in given.items()],
        "promql_expr_test": [
            {
                "expr": expression if count is not None else f"({expression}) > bool 0",
                "eval_time": f"{minute}m",
                "exp_samples": [{"labels": "{}", "value": 1 if count is None else count}],
            }
            for expression, minute, count in asked
        ],
    }


def firing(alert=None, **labels):
    """How many alerts fire."""
    return f"count({alerts(alert, labels)}) or vector(0)"


def fired(within, alert=None):
    """How many alerts have fired at any time within this."""
    return f"count(count_over_time({alerts(alert, {})}[{within}])) or vector(0)"


def alerts(alert, labels):
    labels = {"alertstate": "firing", **({"alertname": alert} if alert else {}), **labels}
    return series("ALERTS", **labels)


def length(given):
    """How many minutes the longest of the series lasts, at least."""
    def minutes(values):
        return sum(int(it.rpartition("x")[2]) if "x" in it else 1 for it in values.split())

    return max(map(minutes, given.values())) - 1


def expect(holds, what):
    if not holds:
        raise AssertionError(str(what))


class World:
    """What the checks run with."""

    def __init__(self, promtool, keybound):
        self.promtool = promtool
        self.keybound = keybound

    def rules(self):
        return [it for group in yaml.safe_load(RULES.read_text())["groups"] for it in group["rules"]]

    def reasons(self):
        told = subprocess.run([self.keybound, "reasons"], capture_output=True, text=True, check=True)
        return {it.split()[0] for it in told.stdout.splitlines()}

    def passes(self, tests):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "tests.yaml")
            # JSON is YAML, too.
            held = {"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}
            file.write_text(json.dumps(held))
            asked = [self.promtool, "test", "rules", file]
            done = subprocess.run(asked, capture_output=True, text=True, check=False)
            expect(done.returncode == 0, f"{done.stdout[:20000]}{done.stderr[:20000]}")


CHECKS = {it.__name__: it for it in (each, reasons, calm, told)}

if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] not in CHECKS:
        sys.exit(__doc__)
    CHECKS[sys.argv[1]](World(*sys.argv[2:]))
