# Knows what is done with this repository from day to day.

.PHONY: bench demo test lint

# The first Envoy costs a download of 37 MB; it stays in target/tools.
demo:
	envoy=$$(tests/provision.py envoy) && cargo run --locked --quiet -- demo --envoy "$$envoy"

test:
	tests/provision.py envoy nginx caddy traefik redis python-tools
	-tests/provision.py chromium
	cargo test --locked

# What a check costs in this process, as differences and ratios within one run.
bench:
	cargo bench --locked --bench checks

lint:
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS=-Dwarnings cargo doc --locked --no-deps
	@if deny=$$(tests/provision.py --cached cargo-deny 2>/dev/null); then \
		set -x; "$$deny" --all-features check bans licenses sources; \
	else \
		echo "cargo deny: skipped, since it is not installed (tests/provision.py cargo-deny)"; \
	fi
