# What one does in this project. `make` alone lists it.

# Where cargo builds, which may be outside of the project.
TARGET := $(or $(CARGO_TARGET_DIR),target)

# Seeds of the random run, and orders of each: make random SEEDS=7 ORDERS=500
SEEDS ?= 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20
ORDERS ?= 2000

# How long each target is fuzzed, in seconds: make fuzz SECONDS=3600 TARGETS=intake
SECONDS ?= 300
TARGETS ?= signature intake transform forwarded_for sanitise
SANITIZER ?= none

# How long the backend is away: make outage OUTAGE=20m
OUTAGE ?= 15m

# How often the power fails under NATS: make power-cuts CUTS=200
CUTS ?= 50

# The older version that `make upgrade` runs beside this one: the last one whose instances were woken by schedules.
FROM ?= bb23b31~1

# Arguments for the bench: make bench ARGS='accept --seconds 10'
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help run test test-long sdks fuzz random outage power-cuts upgrade bench pages check check-deploy supply-chain dist dist-check tools clean-dev

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | awk -F '\t' '{ printf "make %-12s %s\n", $$1, $$2 }'

# The program replaces the recipe's shell, so that Ctrl-C reaches it directly and it can drain.
run: tools ## NATS, PostgreSQL, a sample backend and the hub on this machine, with a sample order
	@cargo build --profile quick --locked --no-default-features --features dev --bin webhook-hub
	@exec "$(TARGET)/quick/webhook-hub" dev

# The tests mostly wait for servers, so more of them run at a time than there are cores. Each has a NATS server of its own, which
# costs less CPU time with one thread.
test: tools ## all tests but the long ones, against real servers
	GOMAXPROCS=1 RUST_TEST_THREADS=$${RUST_TEST_THREADS:-14} cargo test --locked --lib --test hub -- --skip long::

test-long: tools ## the long tests: floods, clusters, outages longer than every window, random runs
	RUST_TEST_THREADS=$${RUST_TEST_THREADS:-4} cargo test --locked --test hub long::

sdks: tools ## what the official SDKs sign, against a running hub (needs python3 with pip, and Node.js with npm)
	@tests/sdks/install.sh
	cargo test --locked --test hub sdks:: -- --ignored

# The code under test has no unsafe, so libFuzzer's coverage is enough, and stable Rust has that. A sanitiser needs flags
# that stable hides: RUSTC_BOOTSTRAP=1 make fuzz SANITIZER=address.
fuzz: ## looks for inputs that break something, five minutes a target after the build; TARGETS='…' SECONDS=…
	@cargo fuzz --version >/dev/null 2>&1 || { echo "make fuzz needs cargo-fuzz: cargo install cargo-fuzz --locked" >&2; exit 1; }
	@command -v c++ >/dev/null || { echo "make fuzz needs a C++ compiler, c++, for libFuzzer" >&2; exit 1; }
	@cp Cargo.lock fuzz/Cargo.lock
	@echo "fuzzing $(words $(TARGETS)) targets for $(SECONDS) s each; the first build takes some minutes more"
	@for target in $(TARGETS); do \
		mkdir -p "fuzz/corpus/$$target"; \
		cargo fuzz run --sanitizer $(SANITIZER) "$$target" "fuzz/corpus/$$target" "tests/corpus/$$target" -- \
			-max_total_time=$(SECONDS) -max_len=8192 -timeout=10 || { \
			echo "$$target: see above; an input that breaks it is in fuzz/artifacts/$$target and belongs into tests/corpus/$$target" >&2; \
			exit 1; }; \
	done

random: tools ## the long random run, with one seed after the other; SEEDS='…' ORDERS=…
	@for seed in $(SEEDS); do \
		echo "seed $$seed"; \
		HUB_RANDOM_SEED=$$seed HUB_RANDOM_ORDERS=$(ORDERS) \
			cargo test --locked --test hub long::random_run || exit 1; \
	done

outage: tools ## the backend away for OUTAGE (15m), with the real constants; takes up to twice that
	HUB_OUTAGE=$(OUTAGE) cargo test --locked --test hub long::long_night::an_outage -- --nocapture

power-cuts: tools ## the power fails CUTS (50) times under a single NATS server; needs root and loop devices
	HUB_POWER_CUTS=$(CUTS) cargo test --locked --test hub long::power_cut:: -- --nocapture

# The older version is built from a work tree of its own, in a folder of its own, so that nothing of this one changes.
upgrade: tools ## an older version (FROM=<commit>) and this one on one log, in both orders of upgrade
	@rm -rf "$(TARGET)/upgrade/tree" && git worktree prune
	git worktree add --detach --force "$(TARGET)/upgrade/tree" "$(FROM)"
	cd "$(TARGET)/upgrade/tree" && CARGO_TARGET_DIR="$(abspath $(TARGET))/upgrade/build" cargo build --locked --bin webhook-hub
	git worktree remove --force "$(TARGET)/upgrade/tree"
	HUB_OLD_BINARY="$(abspath $(TARGET))/upgrade/build/debug/webhook-hub" \
		cargo test --locked --test hub upgrade:: -- --nocapture

bench: tools ## the bench, against real servers; ARGS='…' are its arguments, ARGS=--help lists them
	cargo bench --bench hub --locked -- $(ARGS)

pages: ## docs/providers/*.md, of the files in providers/
	@cargo build --locked --bin webhook-hub
	@for file in providers/*.toml; do \
		name=$$(basename "$$file" .toml); \
		"$(TARGET)/debug/webhook-hub" providers page "$$name" > "docs/providers/$$name.md" || exit 1; \
	done

check: ## formatting, lints, documentation
	cargo fmt --check
	cargo clippy --all-targets --locked -- -D warnings
	cargo clippy --locked -- -D warnings # as it is shipped
	RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --locked

check-deploy: tools ## the files of deploy/, by the programs that read them, as far as this machine has those
	@deploy/check/run.sh

supply-chain: ## advisories, licences, sources and duplicates of all dependencies (needs cargo-deny, else says what was not run)
	@deploy/dist/supply-chain.sh

dist: ## the release archive, its bill of materials and checksums, in dist/ (needs python3)
	@deploy/dist/dist.sh

dist-check: ## builds the commit twice, in two folders, and compares the programs byte for byte
	@deploy/dist/check.sh

tools: ## gets nats-server and PostgreSQL if this machine has none
	@deploy/tools/install.sh

clean-dev: ## removes what `make run` has stored, but not the tools
	@if [ -d .dev ]; then find .dev -mindepth 1 -maxdepth 1 ! -name tools -exec rm -rf {} +; fi
