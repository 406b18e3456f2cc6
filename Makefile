# Everything a contributor or a curious user needs: `make demo` and `make test`.

CARGO ?= cargo
PYTHON ?= python3

# Some write what others have just copied away.
.NOTPARALLEL:
.PHONY: help demo test lint checked cargo-deny deny unit fuzz next static package deb rpmbuild rpm e2e whole test-system soak bench bench-router fmt clean venv

help:
	@echo "make demo          run a whole homeserver here, with embedded PostgreSQL and Redis (ONCE=1: stop when it works)"
	@echo "make test          every check and test, with real Synapse, PostgreSQL and Valkey"
	@echo "make deb, make rpm build the package in target/package/, with a static binary"
	@echo "make test-system   test the service under systemd, in a Debian of its own (needs root)"
	@echo "make soak          kill, stop, restart and reload at random under load for a while (MINUTES=10; SEED=n repeats it)"
	@echo "make fuzz          fuzz the configuration, request heads, chunks and X-Matrix for a while (RUNS=-1: until Ctrl-C)"
	@echo "make bench         measure starts, restarts, crashes and memory against a shell loop and supervisord, reloads, planning,"
	@echo "                   routing, and moving media against rsync"
	@echo "                   (OPTIONS='--setup one-of-each --rounds 1' for some of it; see --help)"
	@echo "make bench-router  measure the router against nginx, HAProxy and Caddy (OPTIONS='--only small --rounds 2' for some of it)"
	@echo "make fmt           format the code"
	@echo "make clean         remove what was built"

demo:
	@echo "building synvisor (some minutes the first time)"
	@$(CARGO) build --release --locked --quiet
	@$(PYTHON) -m tests.demo $(if $(ONCE),--once)

# What is packed and run is what the tests of Rust have compiled, less optimised than what is shipped; `make e2e test-system`
# tests that. Beside each step goes what needs nothing of it: none has work for every CPU all the time.
test: venv rpmbuild
	@mkdir -p target; trap 'kill $$beside 2>/dev/null' EXIT INT TERM; \
		beside() { $(MAKE) --no-print-directory "$$@" >target/build.log 2>&1 & beside=$$!; }; \
		joined() { wait $$beside || { cat target/build.log; exit 1; }; }; \
		beside target/tools/bin/cargo-deb cargo-deny fuzz && $(MAKE) --no-print-directory checked && joined && \
		beside PROFILE=quick deny deb rpm next && $(MAKE) --no-print-directory unit && joined
	@$(MAKE) --no-print-directory whole
	@# Nobody is to install these by mistake.
	@rm -f target/package/*.deb target/package/*.rpm
	@echo "all tests passed"

venv:
	@$(PYTHON) tests/support/toolchain.py >/dev/null

# Tools that have little to do are sooner built than optimised.
QUICKLY := CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=256

HOST = $$(rustc -vV | sed -n 's/^host: //p')
STATIC := -C target-feature=+crt-static
# What `cargo clippy` does, in one go with what the tests need: nothing is compiled a second time.
CHECKED := RUSTC_WORKSPACE_WRAPPER=clippy-driver RUSTFLAGS="-D warnings $(STATIC)" $(CARGO)
QUICK = --profile quick --locked --target $(HOST)
# Programs too come by way of the tests: without these some dependencies have fewer features, and are compiled once more.
COMPILED = $(CHECKED) test --no-run $(QUICK)

lint: checked deny

cargo-deny:
	@$(CARGO) deny --version >/dev/null 2>&1 || { \
		echo "installing cargo-deny (some minutes, once)"; $(QUICKLY) $(CARGO) install --locked --quiet cargo-deny; }

deny: cargo-deny
	$(CARGO) deny --log-level error check bans licenses sources

checked: venv
	$(CARGO) fmt --check
	$(COMPILED) --all-targets
	"$$($(PYTHON) tests/support/toolchain.py)/bin/ruff" check --quiet tests src packaging
	"$$($(PYTHON) tests/support/toolchain.py)/bin/ruff" format --check --quiet tests src packaging
	"$$($(PYTHON) tests/support/toolchain.py)/bin/mypy" --no-error-summary

unit: venv
	SYNVISOR_TEST_VENV="$$($(PYTHON) tests/support/toolchain.py)" $(CHECKED) test $(QUICK)

# What cargo-fuzz does, without another tool to install: libFuzzer, led by the coverage that LLVM counts.
COVERAGE := -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
	-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
	-Cllvm-args=-sanitizer-coverage-trace-compares
FUZZ := CARGO_TARGET_DIR=target/fuzz RUSTFLAGS="$(COVERAGE)" $(CARGO) build --release --locked --quiet \
	--manifest-path tests/fuzz/Cargo.toml --target $(HOST)
# As many inputs as take seconds; RUNS=-1 goes on until Ctrl-C.
RUNS ?= 50000

fuzz:
	@echo "building the fuzz targets (a minute, once)"
	$(FUZZ)
	@mkdir -p target/fuzz/seeds/config
	@cp tests/config/bad/*.toml config/examples/*.toml config/synvisor.toml target/fuzz/seeds/config
	@cp -r tests/fuzz/seeds/. target/fuzz/seeds
	@for target in config request chunks origin; do \
		echo "fuzzing $$target, $(RUNS) inputs"; \
		mkdir -p target/fuzz/corpus/$$target; \
		target/fuzz/$(HOST)/release/$$target -seed=1 -runs=$(RUNS) -max_len=4096 -verbosity=0 \
			-artifact_prefix=target/fuzz/ target/fuzz/corpus/$$target target/fuzz/seeds/$$target >target/fuzz/$$target.log 2>&1 \
			|| { tail -n 40 target/fuzz/$$target.log; exit 1; }; \
	done

# What is shipped needs no library of the machine that it runs on; a test looks at the symbols.
PROFILE ?= release
BUILD_release = RUSTFLAGS="$(STATIC)" $(CARGO) build --release --config profile.release.strip=false --locked --target $(HOST)
BUILD_quick = $(COMPILED) --all-targets
BUILT = target/$(HOST)/$(PROFILE)/synvisor

# What changes the program; it takes minutes to build.
SOURCES := Cargo.toml Cargo.lock systemd/synvisor.service $(shell find src config -type f)

# Beside it one whose state has another version, to upgrade to and to return from.
next: target/next/synvisor
target/next/synvisor: $(SOURCES)
	$(COMPILED) --test tidy --features next-state
	@mkdir -p target/next
	@strip -o $@ target/$(HOST)/quick/synvisor

static: target/static/synvisor
target/static/synvisor: $(SOURCES) target/static/$(PROFILE)
	$(BUILD_$(PROFILE))
	@cp $(BUILT) target/static/unstripped
	@strip -o $@ $(BUILT)
	@echo "$@ has $$(stat -c %s $@) bytes"

# One place for both profiles: what was built by the other is built anew.
target/static/release target/static/quick:
	@mkdir -p target/static; rm -f target/static/release target/static/quick; touch $@

# Whatever a package brings beside the program.
package: static
	@rm -rf target/package/man target/package/completions
	@mkdir -p target/package/man target/package/completions
	@target/static/synvisor man target/package/man
	@target/static/synvisor completions bash >target/package/completions/synvisor
	@target/static/synvisor completions zsh >target/package/completions/_synvisor
	@target/static/synvisor completions fish >target/package/completions/synvisor.fish
	@$(PYTHON) packaging/notices.py $(HOST) >target/package/third-party-notices

# It writes scripts that maintain the service, so that its version matters.
target/tools/bin/cargo-deb:
	@echo "installing cargo-deb (a minute, once)"
	@$(QUICKLY) $(CARGO) install --locked --quiet --root target/tools --version 3.8.0 cargo-deb

deb: package target/tools/bin/cargo-deb
	@rm -f target/package/*.deb
	@target/tools/bin/cargo-deb --no-build --no-strip --quiet --output target/package/

# cargo-generate-rpm would take minutes to install.
rpmbuild:
	@command -v rpmbuild >/dev/null || \
		$(PYTHON) -c 'from tests.support.toolchain import install_packages; install_packages(["rpm"])'

rpm: package rpmbuild
	@rm -f target/package/*.rpm
	@rpmbuild -bb --quiet --define "source $(CURDIR)" --define "_topdir $(CURDIR)/target/package/rpmbuild" \
		--define "_rpmdir $(CURDIR)/target/package" --define "_build_name_fmt %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm" \
		packaging/synvisor.spec

PYTEST = SYNVISOR_BINARY="$(CURDIR)/target/static/synvisor" \
	"$$($(PYTHON) tests/support/toolchain.py)/bin/python" -m pytest
# Two files at a time, of what mostly waits beside the system's, and of what keeps the machine busy beside nothing.
BESIDE := -n 2 --dist loadfile

e2e: venv next static
	$(PYTEST) $(BESIDE) tests/forkserver
	$(PYTEST) $(BESIDE) -m "not busy" tests/e2e
	$(PYTEST) $(BESIDE) -m busy tests/e2e

test-system: venv next deb rpm
	$(PYTEST) -x tests/system

# All of them, of what `test` has built; the system's mostly wait for a machine, and what they print comes when they are done.
whole: venv
	@$(PYTEST) -x tests/system >target/system.log 2>&1 & system=$$!; \
		$(PYTEST) $(BESIDE) tests/forkserver && $(PYTEST) $(BESIDE) -m "not busy" tests/e2e; e2e=$$?; \
		wait $$system; system=$$?; cat target/system.log; [ $$e2e = 0 ] && [ $$system = 0 ]
	$(PYTEST) $(BESIDE) -m busy tests/e2e

MINUTES ?= 10

soak: venv
	$(CARGO) build --release --locked
	"$$($(PYTHON) tests/support/toolchain.py)/bin/python" -m tests.support.chaos --minutes $(MINUTES)
	FORKS=$${FORKS:-20000} "$$($(PYTHON) tests/support/toolchain.py)/bin/python" -m pytest -k many_forks tests/e2e/test_leaks.py tests/forkserver

bench: venv
	$(CARGO) build --release --locked
	"$$($(PYTHON) tests/support/toolchain.py)/bin/python" -m tests.bench.restart $(OPTIONS)
	"$$($(PYTHON) tests/support/toolchain.py)/bin/python" -m tests.bench.reload
	"$$($(PYTHON) tests/support/toolchain.py)/bin/python" -m tests.bench.media
	$(CARGO) bench --locked --bench route

# A profile without names says little.
bench-router: venv
	$(CARGO) $(if $(findstring --profile,$(OPTIONS)),rustc --release --locked --bin synvisor -- -C strip=none,build --release --locked)
	CARGO_TARGET_DIR=target/backend $(CARGO) build --release --locked --quiet --manifest-path tests/bench/backend/Cargo.toml
	"$$($(PYTHON) tests/support/toolchain.py)/bin/python" -m tests.bench.router $(OPTIONS)

fmt:
	$(CARGO) fmt
	"$$($(PYTHON) tests/support/toolchain.py)/bin/ruff" format tests src packaging

clean:
	$(CARGO) clean
