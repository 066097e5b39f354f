# What is done with this repository from day to day.

.PHONY: bench bench-check demo fuzz module reproducible soak test test-arm64 test-fips test-platforms lint

# The first Envoy costs a download of 37 MB; it stays in target/tools. The first build takes some minutes.
demo:
	@envoy=$$(tests/provision.py envoy) && \
	tests/progress.py "demo: building keybound, which takes minutes the first time" \
		cargo build --locked --bin keybound && \
	cargo run --locked --quiet -- demo --envoy "$$envoy"

# keybound as a module for Envoy, target/module/libkeybound_envoy.so. The first costs a download of 100 MB, which
# stays in target/tools, and minutes.
module:
	deploy/envoy-module/build.py

test:
	@echo "== test: the programs that the tests run, which are fetched once, into target/tools" >&2
	tests/provision.py envoy envoy-1.38 envoy-1.39 nginx caddy traefik redis promtool python-tools
	-tests/provision.py valkey
	-tests/provision.py chromium
	-tests/provision.py python-jose
	-tests/provision.py node-clients
	-tests/provision.py python-mcp
	-tests/provision.py python-status-list
	-tests/provision.py faketime
	-tests/provision.py keycloak
	-tests/provision.py hydra
	@tests/progress.py test --tests cargo test --locked

# The platforms themselves, which docs/platforms.md names: each is built once, in minutes, for which Go is
# needed, and gigabytes in its caches. PLATFORM_MINUTES=25 stops then, and the next run goes on.
test-platforms:
	@echo "== test-platforms: the platforms, each of which is built once, into target/tools" >&2
	tests/provision.py envoy python-tools
	tests/platforms/run.py

# The same tables of decisions by the FIPS module, which takes Go, cmake and minutes to build: docs/fips.md.
test-fips:
	cargo test --locked --features keybound/fips -p keybound -p keybound-core --lib --test tables --test serve

# The program and the module for arm64, emulated: docs/platforms.md. The compiler needs a library for it, once:
# rustup target add aarch64-unknown-linux-gnu. What links and runs it is downloaded, into target/tools.
test-arm64:
	tests/arm64.py

# What is released, built twice in different folders: a byte that differs is an error. It takes half an hour.
# OUT=FOLDER keeps the files.
reproducible:
	.ci/reproducible $(if $(OUT),--out $(OUT)) program module

# What a check costs beside servers that decide nothing, behind real proxies, and inside Envoy; what
# is kept in memory. It takes half an hour, and wants two cores that have nothing else to do. One part
# by itself: make module && tests/bench/run.py module.
bench: module
	tests/provision.py envoy nginx
	tests/bench/run.py

# Clients of all kinds through Envoy, by ext_authz and by the module, while all that can change does and what
# can fail fails: SOAK_MINUTES (an hour), at SOAK_RATE (2,000) requests a second in all. It fails when an answer is
# wrong or something grows.
soak: module
	tests/provision.py envoy redis
	tests/bench/soak.py

# How many instructions a check takes, whatever else the machine does: more fail.
bench-check:
	tests/bench/instructions.py

# The oracles of the tests once more, on inputs that libFuzzer thinks up: FUZZ_SECONDS for each target.
fuzz:
	tests/fuzz/run.py

lint:
	cargo fmt --all --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS=-Dwarnings cargo doc --locked --no-deps
	@if deny=$$(tests/provision.py --cached cargo-deny 2>/dev/null); then \
		set -x; "$$deny" --all-features check bans licenses sources; \
	else \
		echo "cargo deny: skipped, since it is not installed (tests/provision.py cargo-deny)"; \
	fi
	@if actionlint=$$(tests/provision.py --cached actionlint 2>/dev/null); then \
		set -x; "$$actionlint" .github/workflows/*.yml; \
	else \
		echo "actionlint: skipped, since it is not installed (tests/provision.py actionlint)"; \
	fi
