# Each target works on a fresh machine with Python >= 3.11: it makes its own .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RAY := $(VENV)/.installed-simulation
SITE := $(VENV)/.installed-docs

.PHONY: demo demo-worldmodel sovereign-clothing sovereign-language sovereign-sensors sovereign-world stubs docs test test-simulation lint bench clean help

help:
	@echo "make demo   three members weave one JEPA over Flower/gRPC (about 5 minutes on 2 cores, once installed)"
	@echo "make demo-worldmodel   members who know a part of a world each (about 20 minutes)"
	@echo "make sovereign-clothing   a region's classifier from 10 labels a class; also"
	@echo "     sovereign-language, sovereign-sensors, sovereign-world"
	@echo "make test   the tests"
	@echo "make test-simulation   those that need Ray, which it installs (220 MB)"
	@echo "make docs   the manual as a site, into site/"
	@echo "make lint   formatting, lint, types, import contracts"
	@echo "make stubs  protocols/ from its .proto"
	@echo "make bench  every measurement in bench/ (make bench-NAME for one)"

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "gobelin needs Python >= 3.11; say PYTHON=python3.12 make ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(RAY): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt --editable '.[simulation]'
	@touch $@

$(SITE): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt --editable '.[docs]'
	@touch $@

docs: $(SITE)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

stubs: $(STAMP)
	$(BIN)/python -m grpc_tools.protoc -I protocols --python_out=protocols --pyi_out=protocols \
	  --grpc_python_out=protocols protocols/gobelin/protocols/federation.proto

demo: $(STAMP)
	$(BIN)/python -m examples.demo $(if $(DATA),--data $(DATA))

demo-worldmodel: $(STAMP)
	$(BIN)/python -m examples.demo_worldmodel

sovereign-clothing sovereign-language sovereign-sensors sovereign-world: sovereign-%: $(STAMP)
	$(BIN)/python -m examples.sovereign_$*

test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadscope

test-simulation: $(RAY)
	$(BIN)/python -m pytest tests/simulation

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Benches of public packages, which the operator fetches: `make bench` leaves them out.
PREPARED := bench-sensors bench-text_languages
# These want another package's code, or prepared data: see each one's head.
BESIDE := bench-worked_examples bench-planning_time bench-planning_success bench-sigreg bench-train_step
BENCHES := $(filter-out bench-tables $(PREPARED) $(BESIDE),$(patsubst bench/%.py,bench-%,$(shell grep -l __main__ bench/*.py)))

bench: $(BENCHES)

bench-simulation: $(RAY)

$(PREPARED): bench-%: $(STAMP)
	$(BIN)/python -m bench.$* $(if $(DATA),--data $(DATA))

bench-%: $(STAMP)
	$(BIN)/python -m bench.$*

clean:
	rm -rf $(VENV) .cache runs
