# Millrace's commands. `make` alone lists them. Arguments go through ARGS: make demo ARGS=--help

.DEFAULT_GOAL := help
.PHONY: help run demo test accept check bench chaos fuzz data build

# rustup asks for a new shell before its programs are found.
export PATH := $(PATH):$(HOME)/.cargo/bin
# .ci/run sets --locked.
CARGO_FLAGS ?=
ARGS ?=
services := collector consumer aggregator clickhouse
release := $(or $(CARGO_TARGET_DIR),target)/release

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Ctrl-C reaches make and Millrace alike; make waits until Millrace has drained.
run: build ## start the whole pipeline on this machine, in the foreground; Ctrl-C drains it
	@exec $(release)/millrace run $(ARGS)

demo: build ## send a realistic store's traffic to the running pipeline
	@exec $(release)/millrace demo $(ARGS)

test: ## run every test, against real Kafka, Postgres and ClickHouse
	@deploy/install/deps.sh test
	@.ci/test $(CARGO_FLAGS)

# ARGS names some of: attack backlog orders documents simulation power chaos fuzz. See .ci/accept.
accept: ## the long proofs, all in full: hours, with progress; results go to benches/results/
	@.ci/accept $(ARGS)

check: ## formatting, lints, shell scripts, licences, tidiness
	@deploy/install/deps.sh check
	cargo fmt --all --check
	cargo clippy $(CARGO_FLAGS) --workspace --all-targets -- -D warnings
	@.ci/tidy

bench: ## measure on this machine; results go to benches/results/
	@deploy/install/deps.sh test
	cargo build $(CARGO_FLAGS) --release $(services:%=-p millrace-%) -p millrace-benches --bins
	cargo run $(CARGO_FLAGS) --release -p millrace-benches --bin bench -- $(ARGS)

# CHAOS_SEED and CHAOS_ROUNDS repeat a run; as root it cuts networks, too.
chaos: ## kill, stop, freeze and cut off everything under load, then reconcile; results go to benches/results/
	@deploy/install/deps.sh test
	cargo build $(CARGO_FLAGS) --release $(services:%=-p millrace-%) -p millrace-chaos --bins
	@exec $(release)/millrace-chaos --results benches/results $(ARGS)

fuzz: ## look for bytes that break a promise, ten minutes for each target
	@deploy/install/deps.sh check
	@cargo build $(CARGO_FLAGS) --workspace --bin fuzz
	@exec $(or $(CARGO_TARGET_DIR),target)/debug/fuzz $(ARGS)

data: ## take the current lists of bots from their packages; ARGS names versions: isbot@5.2.3
	@deploy/install/bots.mjs $(ARGS)

build:
	@deploy/install/deps.sh run
	@test -x $(release)/millrace || echo "Building Millrace; the first time takes some minutes."
	@cargo build $(CARGO_FLAGS) --release -p millrace-runner -p millrace-clickhouse --bins
