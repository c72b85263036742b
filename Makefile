SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

IMAGE ?= astro-token-operator:0.1.0

.PHONY: help demo test check crd bench bench-downtime soak image audit

help: ## Lists the targets.
	@sed -n 's/^\([a-z-]*\): ## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

demo: ## Shows the operator at work on a local control plane, with a simulator in Astro's place.
	cargo build --workspace --bin astro-token-operator --bin demo
	@# Not with cargo run, which would build it again with the features that it needs alone.
	"$${CARGO_TARGET_DIR:-target}/debug/demo"

test: ## Runs all tests, many of them on a real API server, which the first run fetches or builds.
	@# The tests wait much more than they compute.
	export RUST_TEST_THREADS=$${RUST_TEST_THREADS:-12} && \
	KUBEBUILDER_ASSETS=$$(hack/kube-binaries.sh) && export KUBEBUILDER_ASSETS && cargo test --workspace

check: ## Checks format, lints and documentation, and that generated files are up to date.
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS=-Dwarnings cargo doc --workspace --no-deps
	cargo test --test it generated

crd: ## Writes what is generated from the code: the CRD, and the table of reasons in the README.
	GENERATE=1 cargo test --test it generated

bench: ## Measures speed, cost and memory, compared with a bare client; needs a machine of its own.
	cargo build --release --workspace --bin astro-token-operator --bin bench
	"$${CARGO_TARGET_DIR:-target}/release/bench"

bench-downtime: ## Measures for how long a consumer is refused around a rotation, with one token and with two.
	cargo build --workspace --bin astro-token-operator --bin downtime
	"$${CARGO_TARGET_DIR:-target}/debug/downtime"

soak: ## Kills the operator in the middle of 10,000 rotations, then disturbs three replicas for ten minutes.
	cargo build --release --workspace --bin astro-token-operator --bin soak
	"$${CARGO_TARGET_DIR:-target}/release/soak"

audit: ## Checks licenses, sources and versions of the dependencies, then known vulnerabilities.
	@cargo deny --version >/dev/null 2>&1 || { \
	    echo 'make audit needs cargo-deny: cargo install --locked cargo-deny' >&2; exit 1; \
	}
	cargo deny --offline check bans licenses sources
	@# The database of advisories is fetched, and only this step needs a network.
	@cargo deny fetch db || { \
	    echo 'make audit: the advisories could not be fetched, so known vulnerabilities were NOT checked.' >&2; exit 1; \
	}
	cargo deny --offline check advisories

image: ## Builds the container image with Docker or Podman; IMAGE=… names it.
	@for engine in docker podman; do \
	    if $$engine info >/dev/null 2>&1; then set -x; exec $$engine build --tag $(IMAGE) .; fi; \
	done; \
	echo 'make image needs a running container engine: neither docker nor podman answers here.' >&2; exit 1
