# Everything a developer, a packager or CI does with this repository.
# Only Go, git and make are needed; what else there is makes tests go deeper.

GO          ?= go
VERSION     ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
# gotestsum runs go test, and says at the end what was skipped and why
GOTESTSUM   ?= gotest.tools/gotestsum@v1.13.0
STATICCHECK ?= honnef.co/go/tools/cmd/staticcheck@v0.8.2
# Packages built or tested at once: the tests bring up whole offices, so more
# than two at a time only make each other wait.
PARALLEL    ?= 2
TIMEOUT     ?= 12m
# A count of runs, not a time: with a time, go test before Go 1.27 now and then
# reports the end of it as a failure of the target (golang/go#75804).
FUZZTIME    ?= 10000x
SOAKTIME    ?= 2m
BENCH       ?= .

# The race detector needs a C compiler; without one the tests run all the same.
CC_FOUND := $(shell command -v $$($(GO) env CC) 2>/dev/null)
ifneq ($(CC_FOUND),)
RACE ?= -race
RACE_ENV := CGO_ENABLED=1
endif

.PHONY: testnet build run test check fmt tidy vet lint race unit fuzz bench sim demo soak breakage cross deb clean help

build: ## bin/meshproxy
	$(GO) build -ldflags '-X main.version=$(VERSION)' -o bin/meshproxy ./cmd/meshproxy

run: build ## an office on 127.0.0.1:3000
	bin/meshproxy serve

# The order lets one step's build cache serve the next, and ends with the tests.
test: check crosscheck fuzz race ## everything that must pass before a change lands

check: fmt tidy vet lint ## gofmt, go.mod, go vet, staticcheck

fmt:
	@files="$$(git ls-files --cached --others --exclude-standard '*.go' | xargs gofmt -l)"; \
	if [ -n "$$files" ]; then echo "gofmt: not formatted:"; echo "$$files"; exit 1; fi

tidy:
	$(GO) mod tidy -diff

vet:
	$(GO) vet ./...

lint:
	$(GO) run $(STATICCHECK) ./...

race: ## every test, under the race detector; names what was skipped and why
ifeq ($(CC_FOUND),)
	@echo "note: no C compiler found: the tests run without the race detector"
endif
	$(RACE_ENV) $(GO) run $(GOTESTSUM) --format pkgname -- $(RACE) -p $(PARALLEL) -timeout $(TIMEOUT) ./...

unit: ## every test but the slow ones, without the race detector
	$(GO) test -short -p $(PARALLEL) -timeout $(TIMEOUT) ./...

# go test fuzzes one target at a time. The targets are found in the sources:
# asking the test binaries would link every one of them for a list of names.
fuzz: ## every fuzz target for FUZZTIME
	@set -e; git grep --untracked -oE '^func Fuzz[A-Za-z0-9_]+' -- '*_test.go' | sort | \
	while IFS=: read -r file decl; do \
		target="$${decl#func }"; \
		echo "fuzz ./$$(dirname $$file) $$target"; \
		$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 100x -parallel $(PARALLEL) "./$$(dirname $$file)" </dev/null; \
	done

bench: build ## benchmarks of every package, then of whole offices, as Markdown
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem -p 1 -timeout 60m ./...
	bin/meshproxy testnet bench

sim: ## thousands of simulated members: the results and plots of docs/scale.md, in about half an hour
	mkdir -p docs/scale
	MESHPROXY_SIM=$(CURDIR)/docs/scale/results.json $(GO) test -run TestScale -count 1 -v -timeout 4h ./testnet/sim
	$(GO) run ./testnet/sim/chart -in docs/scale/results.json -out docs/scale

demo: build ## two offices, one cache, on this machine; ends by itself
	$(GO) run ./testnet/demo -bin bin/meshproxy

testnet: build ## offices for people to try, on this machine, with lines between them; as root with ROOT=--root emulated networks
	bin/meshproxy testnet up $(ROOT)

soak: ## random stories of a whole mesh for SOAKTIME; one that fails is shrunk and printed
	MESHPROXY_SOAK=$(SOAKTIME) $(GO) test $(RACE) -run Soak -count 1 -v -timeout 24h ./testnet/...

breakage: ## breaks promises in the code, and demands that their tests fail
	$(GO) run ./testnet/breakage

# What offices run on. Only the first time is it slow: the build cache serves the rest.
PLATFORMS ?= linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64

cross: ## static binaries for PLATFORMS, in bin/
	@set -e; for p in $(PLATFORMS); do \
		os="$${p%/*}"; arch="$${p#*/}"; ext=""; if [ "$$os" = windows ]; then ext=.exe; fi; \
		echo "build $$p"; \
		CGO_ENABLED=0 GOOS="$$os" GOARCH="$$arch" $(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o "bin/meshproxy-$$os-$$arch$$ext" ./cmd/meshproxy; \
	done

# One of each system and processor that the tests do not run on.
crosscheck: ## does it build for the other PLATFORMS?
	@set -e; for p in linux/arm64 darwin/arm64 windows/amd64; do \
		echo "build $$p"; \
		CGO_ENABLED=0 GOOS="$${p%/*}" GOARCH="$${p#*/}" $(GO) build -trimpath -o /dev/null ./cmd/meshproxy; \
	done

NFPM   ?= github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.43.1
GOARCH ?= $(shell $(GO) env GOARCH)
# A Debian version begins with a digit; git describe without a tag does not.
DEBVERSION ?= $(shell echo '$(VERSION)' | sed -E 's/^v//; /^[0-9]+[.]/!s/^/0.0.0~git./')

deb: ## a Debian package, in bin/
	mkdir -p bin/deb
	$(GO) build -o bin/deb/native -ldflags '-X main.version=$(VERSION)' ./cmd/meshproxy
	CGO_ENABLED=0 GOOS=linux GOARCH=$(GOARCH) $(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/deb/meshproxy ./cmd/meshproxy
	bin/deb/native man | gzip -9n > bin/deb/meshproxy.8.gz
	bin/deb/native completion bash > bin/deb/meshproxy.bash
	bin/deb/native completion zsh > bin/deb/_meshproxy
	bin/deb/native completion fish > bin/deb/meshproxy.fish
	VERSION='$(DEBVERSION)' GOARCH='$(GOARCH)' $(GO) run $(NFPM) package --config deploy/deb/nfpm.yaml --packager deb --target bin/

clean: ## remove what make made
	rm -rf bin

help: ## this list
	@sed -nE 's/^([a-z]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 10
