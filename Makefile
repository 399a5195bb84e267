# Everything a developer runs. 'make help' lists the targets.
export GOFLAGS ?= -trimpath -buildvcs=false
PROGRAMS := icp icp-server icp-agent agentauth-proxy spiffe-conform
# A test that fails is run once more, alone: what passes then is named in the
# report as unsteady, what fails again fails the run.
GOTESTSUM := bin/gotestsum --format pkgname-and-test-fails --format-hide-empty-pkg --rerun-fails=1 --rerun-fails-max-failures=5
# What nobody may commit twice: tests print how many ran, and none is skipped.
REPORT = python3 tools/no_skips.py $(1)
# Around what starts processes: what stays of them, or of folders and mounts, is a failure.
MARKED = failed=0; export ICP_STAGE_RUN=$(subst -,_,$@)$$$$;
LEFT = go run ./e2e/stage/check -left $$ICP_STAGE_RUN || failed=1

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | awk -F'\t' '{printf "%-14s %s\n", $$1, $$2}'

.PHONY: deps
deps: ## install what the tests need (PostgreSQL, Envoy, nginx, HAProxy, Python clients, Go tools)
	@tools/deps.sh

.PHONY: components
components: deps ## install what the end-to-end tests start (Docker, Kubernetes, HSM, TPM, …); ten minutes once
	@tools/components.sh

.PHONY: build
build: ## build the programs, the judge of Workload APIs, and the demo, into bin/
	@mkdir -p bin
	@for p in $(PROGRAMS); do CGO_ENABLED=0 go build -o bin/$$p ./cmd/$$p || exit 1; done
	@CGO_ENABLED=0 go build -o bin/demo ./e2e/demo

.PHONY: demo
demo: build ## run the story with real processes and print what was seen
	@bin/demo

.PHONY: fast
fast: deps build ## the quick tests: no race detector, no end-to-end
	@mkdir -p .work
	@$(MARKED) \
	$(GOTESTSUM) --jsonfile .work/fast.json --packages "$$(go list ./... | grep -v /e2e | tr '\n' ' ')" -- -count=1 -shuffle=on || failed=1; \
	$(LEFT); \
	$(call REPORT,.work/fast.json) && exit $$failed

.PHONY: test
test: components build ## every test, with the race detector; nothing is skipped, and nothing stays
	@mkdir -p .work
	@rm -f .work/test.json .work/e2e.json; $(MARKED) \
	$(GOTESTSUM) --jsonfile .work/test.json --packages "$$(go list ./... | grep -v /e2e/ | tr '\n' ' ')" -- -race -shuffle=on -count=1 -timeout 20m || failed=1; \
	$(GOTESTSUM) --jsonfile .work/e2e.json --packages ./e2e/... -- -count=1 -p 1 -timeout 25m || failed=1; \
	$(LEFT); \
	$(call REPORT,.work/test.json .work/e2e.json) && exit $$failed

.PHONY: e2e
e2e: components build ## the end-to-end tests alone
	@mkdir -p .work
	@$(MARKED) \
	$(GOTESTSUM) --jsonfile .work/e2e.json --packages ./e2e/... -- -count=1 -p 1 -timeout 25m || failed=1; \
	$(LEFT); \
	$(call REPORT,.work/e2e.json) && exit $$failed

.PHONY: e2e-envoy
e2e-envoy: deps build ## a real Envoy takes its secrets from the agent
	@$(MARKED) bin/gotestsum --format testname -- -count=1 ./e2e/envoy/... || failed=1; $(LEFT); exit $$failed

.PHONY: e2e-postgres
e2e-postgres: components ## the store's behaviour on a real PostgreSQL, of each version (VERSIONS="15 18")
	@$(MARKED) for version in $(or $(VERSIONS),15 18); do echo "PostgreSQL $$version"; ICP_TEST_POSTGRES_VERSION=$$version \
	bin/gotestsum --format testname -- -count=1 ./server/store/postgres/... ./server/store/internal/sqlstore/... || failed=1; done; \
	$(LEFT); exit $$failed

.PHONY: lint
lint: deps ## format, vet, staticcheck, module tidiness
	@.ci/run format tidy vet staticcheck

.PHONY: stage-check
stage-check: components ## start every component of the tests, show that each is real and that none stays
	@go run ./e2e/stage/check

.PHONY: bench
bench: deps build ## measure, beside the raw floor and other gateways, and print the table
	@$(MARKED) go run ./bench || failed=1; $(LEFT); exit $$failed

.PHONY: structure
structure: ## measure function lengths, imports and documentation (docs/structure.md)
	@echo "linked into a program:" && go run -C tools ./structure -outliers .. ./cmd/icp-server ./cmd/icp-agent ./cmd/agentauth-proxy ./cmd/icp
	@echo && echo "the whole module:" && go run -C tools ./structure ..

.PHONY: chaos
chaos: build ## kill icp dev under load KILLS times (default 10; SEED=n repeats, FLAGS="-faults -postgres") and judge
	@$(MARKED) go run ./e2e/chaos/cmd -kills $(or $(KILLS),10) -seed $(or $(SEED),0) $(FLAGS) || failed=1; $(LEFT); exit $$failed

.PHONY: fuzz
fuzz: ## each fuzz target for FUZZTIME (default 30s)
	@tools/fuzz.sh

.PHONY: oracle
oracle: ## the policy engine against a slow reference, 10 million requests
	@ICP_ORACLE_ROUNDS=10000000 go test -count=1 -timeout 70m -run Oracle ./policy

.PHONY: clean
clean: ## remove what was built; keeps installed components
	@rm -rf bin .work/*.json
