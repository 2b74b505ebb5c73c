# `make demo` and `make test` need nothing before them but Python 3.11 or newer: each sets up .venv if it must.
# Another Python: make test PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --no-compile
# An environment keeps the Python that it was made with.
ifeq ($(origin PYTHON)$(filter clean,$(MAKECMDGOALS)),command line)
ifneq ($(wildcard $(BIN)/python),)
ifneq ($(shell $(PYTHON) --version),$(shell $(BIN)/python --version))
$(error $(VENV) is of $(shell $(BIN)/python --version), and $(PYTHON) is $(shell $(PYTHON) --version): `make clean` first, or take another clone)
endif
endif
endif
PROTOS := $(shell find proto -name '*.proto')

.DEFAULT_GOAL := help
.PHONY: help files docs site commands demo bench chaos flood fuzz ray arm torchvision tracking browser test lint tested typecheck format proto wheel packages sbom lock clean

help:  ## Say what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

demo: .build/ready  ## Train a fleet of ten on this machine and watch it; the report goes to demo/
	@$(BIN)/zowarmup demo --out demo

TOOLS := .build/prometheus/ready .build/postgres/ready .build/systemd/ready .build/ansible/ready .build/sbom/ready .build/docs/ready
ifdef CI
TOOLS += .build/arm/ready .build/torchvision/ready .build/tracking/ready .build/browser/ready
endif
# Two at a time: real processes wait for each other more than they compute. In the order of the names: e2e early, and unit,
# whose files are short, last, so that neither worker is left with a long one. Compiled files are kept, whatever the
# environment says: Python is started some thousand times.
WORKERS ?= 2
test: lint typecheck tested  ## Everything that continuous integration checks
# Does not wait for mypy where make has several jobs: one core would have nothing to do meanwhile.
tested: $(TOOLS)
	@echo '== pytest'
	@PYTHONDONTWRITEBYTECODE= $(BIN)/pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations=10

bench: .build/ready  ## What the system itself costs, beside its references: a table, and benchmarks/results/latest.json
	@$(BIN)/python -m benchmarks $(if $(ONLY),--only '$(ONLY)')

SCHEDULES ?= 100
SEED ?= 0
STORE ?= sqlite
chaos: .build/ready $(if $(filter postgresql,$(STORE)),.build/postgres/ready)  ## Random schedules of kill -9 and cut links; nothing may be lost (SCHEDULES=100 SEED=0 STORE=sqlite)
	@$(BIN)/python -m tests.faults.chaos --schedules $(SCHEDULES) --seed $(SEED) --store $(STORE)

flood: .build/ready  ## 5,000 connections and 10,000 calls of a stranger, beside a fleet that must not lose a round
	@$(BIN)/python -m tests.faults.flooded --connections 5000 --calls 10000

RUNS ?= 1000000
COMMANDS ?= 10000
PROGRAMS ?= 100000
fuzz: .build/ready  ## Hostile bytes, calls, command lines and programs (RUNS=1000000 COMMANDS=10000 PROGRAMS=100000)
	@$(BIN)/python -c 'import atheris' 2>/dev/null || \
	  $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[fuzz]'
	@$(BIN)/python -m tests.fuzz.run --runs $(RUNS) --commands $(COMMANDS) --programs $(PROGRAMS) --seed $(SEED)

ray: .build/ready .build/ray  ## A fleet on a Ray cluster of several nodes on this machine (installs Ray, 75 MB)
	@$(BIN)/pytest -q tests/e2e/test_fleet_ray.py

arm: .build/ready .build/arm/ready  ## The same bits on emulated aarch64 (fetches 95 MB of Debian packages, without root)
	@$(BIN)/pytest -q -s tests/e2e/test_arm.py

tracking: .build/ready .build/tracking/ready  ## Runs written to MLflow, TensorBoard and OpenTelemetry (installs them, 550 MB)
	@$(BIN)/pytest -q tests/e2e/test_tracking.py tests/e2e/test_traces.py

torchvision: .build/ready .build/torchvision/ready  ## Torchvision's models, in whole runs (installs torchvision, 8 MB)
	@$(BIN)/pytest -q tests/e2e/test_torchvision.py

browser: .build/ready .build/browser/ready  ## The live page in a real browser (fetches 110 MB of Debian packages, without root)
	@$(BIN)/pytest -q tests/browser

lint: .build/ready  ## Style of the Python and of the wire
	@echo '== ruff check'
	@$(BIN)/ruff check
	@echo '== ruff format'
	@$(BIN)/ruff format --check
	@echo '== buf lint'
	@$(BIN)/buf lint

files:  ## Every room of the package and its files, with the purpose of each
	@$(PYTHON) docs/files.py

docs: .build/ready  ## Write the table of rooms in docs/structure.md anew, from docstrings and import rules
	@$(BIN)/python -m docs.files --write

site: .build/docs/ready  ## The documents as a site, in .build/site: every link in it leads somewhere
	@NO_MKDOCS_2_WARNING=1 .build/docs/bin/mkdocs build --strict
	@echo 'Read it: $(BIN)/python -m http.server --directory .build/site --bind 127.0.0.1 8000'

commands: .build/ready .build/docs/ready  ## Write docs/commands.md, man pages and completions anew, from the commands themselves
	@.build/docs/bin/python -m deploy.commands --write

typecheck: .build/ready  ## mypy --strict of every room and of the tests
	@echo '== mypy'
	@$(BIN)/mypy

format: .build/ready  ## Write the Python as `make lint` wants it
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

proto: $(VENV)/ready  ## Compile proto/ anew into .build/python/zowarmup/v1
	@$(BIN)/python hatch_build.py
	@touch .build/ready

# Signed with KEY, a private key of ssh-keygen's, where one is given.
wheel: $(VENV)/ready  ## The package in dist/, with its checksum, and signed: make wheel KEY=~/.ssh/id_ed25519
	@rm -f dist/zowarmup-*.whl dist/zowarmup-*.whl.sig dist/SHA256SUMS
	@$(BIN)/python -m hatchling build --target wheel
	@cd dist && sha256sum zowarmup-*.whl > SHA256SUMS
	@$(if $(KEY),ssh-keygen -q -Y sign -f $(KEY) -n zowarmup dist/zowarmup-*.whl)
	@ls dist

packages: wheel .build/docs/ready  ## The wheel and the source archive in dist/, judged as the package index does
	@rm -f dist/zowarmup-*.tar.gz
	@$(BIN)/python -m hatchling build --target sdist
	@.build/docs/bin/twine check --strict dist/zowarmup-*.whl dist/zowarmup-*.tar.gz
	@.build/docs/bin/check-wheel-contents dist/zowarmup-*.whl

sbom: .build/sbom/ready  ## Software bills of materials in dist/ (CycloneDX), of what requirements/ names
	@mkdir -p dist
	@for of in client server test; do .build/sbom/bin/cyclonedx-py requirements --output-reproducible --pyproject pyproject.toml \
	  -o dist/zowarmup-$$of.cdx.json requirements/$$of.txt || exit 1; done
	@ls dist/*.cdx.json

lock: $(VENV)/ready  ## Write requirements/ anew from constraints.txt, with the hashes that the package index gives
	@$(BIN)/python -m deploy.supply.lock

clean:  ## Remove the environment and everything built
	rm -rf $(VENV) .build dist demo .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment. Made anew where its Python is missing, too old or without pip (as after an interrupted set-up).
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
$(VENV)/ready: pyproject.toml constraints.txt requirements/test.txt
	@$(BIN)/python -c 'import pip; $(NEW_ENOUGH)' 2>/dev/null || { \
	  $(PYTHON) -c '$(NEW_ENOUGH)' 2>/dev/null || { \
	    echo 'zowarmup needs Python 3.11 or newer, and "$(PYTHON)" is not: install one and say its name, as in' >&2; \
	    echo '  make $(or $(MAKECMDGOALS),test) PYTHON=python3.12' >&2; exit 2; }; \
	  $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo '$(PYTHON) lacks its venv module: install it (on Debian and Ubuntu: apt install python3-venv)' >&2; exit 2; }; \
	  echo '== Making $(VENV) with' "$$($(PYTHON) --version)"; $(PYTHON) -m venv --clear $(VENV); }
	@echo '== Installing into $(VENV) what constraints.txt names: once, for some minutes; torch is the large part'
	@if $(BIN)/python -c 'import sys; sys.exit(sys.version_info >= (3, 14))'; then \
	  $(PIP) --require-hashes --no-deps -r requirements/test.txt; else \
	  echo '   requirements/ has no hashes for this Python: versions alone are checked'; \
	  $(PIP) -c constraints.txt hatchling grpcio-tools; fi
	@$(PIP) --no-build-isolation -c constraints.txt -e '.[torch,server,dev]'
	@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null || true  # by all cores at once, which pip would do with one
	@touch $@

# Ray, for fleets over several nodes.
.build/ray: $(VENV)/ready
	@$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[ray]'
	@mkdir -p .build && touch $@

# Emulated aarch64.
.build/arm/ready: tests/arm/fetch.sh constraints.txt $(VENV)/ready
	@echo '== Fetching an aarch64 to .build/arm'
	@tests/arm/fetch.sh $(BIN)/python

SITE := -c 'import sysconfig; print(sysconfig.get_path("purelib"))'
# Torchvision, in an environment of its own, which finds all else in $(VENV) by the file that is written first. Its compiled
# operators need the torch that the package index has; beside another build it does without (tests/torchvision/declared.py).
.build/torchvision/ready: tests/torchvision/requirements.txt tests/torchvision/declared.py $(VENV)/ready
	@echo '== Installing torchvision to .build/torchvision (8 MB, once)'
	@$(BIN)/python -m venv --clear .build/torchvision
	@site="$$(.build/torchvision/bin/python $(SITE))"; cp tests/torchvision/declared.py "$$site/declared_operators.py"; \
	  printf '%s\n' "import site; site.addsitedir('$$($(BIN)/python $(SITE))')" 'import declared_operators' > "$$site/zowarmup.pth"
	@.build/torchvision/bin/python -m pip --disable-pip-version-check install -q --no-compile --no-deps -r tests/torchvision/requirements.txt
	@touch $@

# MLflow, TensorBoard and OpenTelemetry. What else they need is in $(VENV), and found by the file that is written first.
.build/tracking/ready: tests/tracking/requirements.txt constraints.txt $(VENV)/ready
	@echo '== Installing MLflow, TensorBoard and OpenTelemetry to .build/tracking (550 MB, once)'
	@$(BIN)/python -m venv --clear .build/tracking
	@echo "import site; site.addsitedir('$$($(BIN)/python $(SITE))')" > "$$(.build/tracking/bin/python $(SITE))/zowarmup.pth"
	@.build/tracking/bin/python -m pip --disable-pip-version-check install -q --no-compile -c constraints.txt \
	  -r tests/tracking/requirements.txt
	@touch $@

# Prometheus, for tests/monitoring.
.build/prometheus/ready: tests/monitoring/fetch.sh
	@tests/monitoring/fetch.sh

# PostgreSQL, for the store that several coordinators share.
.build/postgres/ready: tests/postgres/fetch.sh
	@tests/postgres/fetch.sh

# Chromium, for tests/browser.
.build/browser/ready: tests/browser/fetch.sh tests/browser/requirements.txt $(VENV)/ready
	@tests/browser/fetch.sh $(BIN)/python

# systemd-analyze, for tests/deployment.
.build/systemd/ready: tests/deployment/fetch.sh
	@tests/deployment/fetch.sh

# Ansible, for tests/deployment.
.build/ansible/ready: tests/deployment/ansible.txt $(VENV)/ready
	@echo '== Installing Ansible to .build/ansible (90 MB, once)'
	@$(BIN)/python -m venv --clear .build/ansible
	@.build/ansible/bin/python -m pip install --disable-pip-version-check -q -r tests/deployment/ansible.txt
	@touch $@

# mkdocs for `make site`, shtab for `make commands`, and what judges packages. The last sees the package itself, too.
.build/docs/ready: docs/requirements.txt | $(VENV)/ready
	@echo '== Installing mkdocs and tools for packages to .build/docs (180 MB, once)'
	@$(BIN)/python -m venv --clear .build/docs
	@.build/docs/bin/python -m pip --disable-pip-version-check install -q --no-compile --require-hashes --no-deps -r docs/requirements.txt
	@echo "import site; site.addsitedir('$$($(BIN)/python $(SITE))')" > "$$(.build/docs/bin/python $(SITE))/zowarmup.pth"
	@touch $@

# CycloneDX, for `make sbom`.
.build/sbom/ready: deploy/supply/sbom.txt $(VENV)/ready
	@$(BIN)/python -m venv --clear .build/sbom
	@.build/sbom/bin/python -m pip --disable-pip-version-check install -q -r deploy/supply/sbom.txt
	@touch $@

# The generated code.
.build/ready: $(VENV)/ready hatch_build.py $(PROTOS)
	@$(BIN)/python hatch_build.py
	@touch $@
