# Build and test targets. `make test` and `make demo` are all a newcomer needs.
GO      ?= go
BIN     := bin
LDFLAGS := -s -w
export CGO_ENABLED = 0

.PHONY: build demo test test-kube test-race lint gen bench bench-quick docs deps clean

build: ## bin/vrouter, bin/vrctl, bin/vrkube and bin/vrouter-cni
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cmd/...

demo: build ## one host, whole job, in 30 seconds; needs root
	$(BIN)/vrouter demo

deps: ## Debian packages that the privileged tests call as witnesses; needs root
	@test/deps.sh

test: deps build ## unit and network-namespace tests, with the race detector where it matters
	$(GO) vet ./...
	test/run.sh

test-kube: deps build ## against a real Kubernetes; the first run builds that from its modules (18 minutes of processor time); needs root
	@test/deps-kube.sh
	@test/kube/binaries.sh
	RACE= FUZZ_EXECS=0 test/run.sh -tags kube -timeout 30m ./test/kube/...

test-race: ## everything under the race detector
	CGO_ENABLED=1 $(GO) test -race -p 1 ./...

lint: ## golangci-lint and staticcheck, pinned in tools/go.mod
	$(GO) vet -tags kube ./test/kube/...
	test/lint.sh

gen: ## Go from the .proto files, and the tables in docs/
	test/gen.sh

bench: build ## every figure, in memory and beside peers; needs root and about fifty minutes
	@test/deps-bench.sh
	$(GO) run ./test/bench --out test/bench/results.json --html test/bench/report.html --docs docs/PERFORMANCE.md

bench-quick: build ## the most important figures in three minutes; needs root
	@test/deps-bench.sh
	$(GO) run ./test/bench --quick

clean:
	rm -rf $(BIN)
