# Everything a contributor or a curious user needs: `make demo` and `make test`.

CARGO ?= cargo
PYTHON ?= python3
BINARY := target/release/synvisor

.PHONY: help demo test lint unit e2e bench fmt clean venv

help:
	@echo "make demo          run a whole homeserver here, with embedded PostgreSQL and Redis (ONCE=1: stop when it works)"
	@echo "make test          every check and test, with real Synapse, PostgreSQL and Valkey"
	@echo "make bench         measure start-up time and memory against plainly started processes"
	@echo "make fmt           format the code"
	@echo "make clean         remove what was built"

demo:
	@echo "building synvisor (some minutes the first time)"
	@$(CARGO) build --release --locked --quiet
	@$(PYTHON) -m tests.demo $(if $(ONCE),--once)

test: lint unit e2e
	@echo "all tests passed"

venv:
	@$(PYTHON) tests/support/toolchain.py >/dev/null

lint: venv
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets --locked -- -D warnings
	@$(CARGO) deny --version >/dev/null 2>&1 || { \
		echo "installing cargo-deny (some minutes, once)"; $(CARGO) install --locked --quiet cargo-deny; }
	$(CARGO) deny --log-level error check bans licenses sources
	"$$($(PYTHON) tests/support/toolchain.py)/bin/ruff" check --quiet tests src
	"$$($(PYTHON) tests/support/toolchain.py)/bin/ruff" format --check --quiet tests src

unit: venv
	SYNVISOR_TEST_VENV="$$($(PYTHON) tests/support/toolchain.py)" $(CARGO) test --locked

e2e: venv
	$(CARGO) build --release --locked
	"$$($(PYTHON) tests/support/toolchain.py)/bin/python" -m pytest tests/e2e

bench: venv
	$(CARGO) build --release --locked
	"$$($(PYTHON) tests/support/toolchain.py)/bin/python" -m tests.bench.restart

fmt:
	$(CARGO) fmt
	"$$($(PYTHON) tests/support/toolchain.py)/bin/ruff" format tests src

clean:
	$(CARGO) clean
