# SPDX-License-Identifier: Apache-2.0
# `make help` lists the targets. ARGS goes to pytest, the demo or the benchmark: make test ARGS='tests/unit -k abi'

SHELL := /bin/bash
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules
BIN := .venv/bin
# Tests begin some thousand processes: each that compiles pydp anew takes a tenth of a second more.
unexport PYTHONDONTWRITEBYTECODE
C_SOURCES := find bpf_src -name '*.[ch]' -print0 | xargs -0r

.PHONY: help setup root check format test test-kernels kernels-table test-vagrant demo bench report results figures \
	dashboards clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

setup: ## install what is missing: apt packages, .venv, bpffs
	@scripts/setup

# Namespaces, programs and maps are root's: say so in one line instead of failing in a hundred tests.
root:
	@[[ $$EUID -eq 0 ]] || { echo "make: this target needs root: run it as root or with sudo" >&2; exit 1; }

check: setup ## linters, formats, types, licences
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(C_SOURCES) clang-format --dry-run -Werror
	/usr/bin/python3 scripts/spdx.py

format: setup ## rewrite Python and C in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(C_SOURCES) clang-format -i

test: root check ## check, then every test
	@scripts/test $(ARGS)

test-kernels: root setup ## tests on Debian's 6.1 and 6.12 in QEMU: programs, packets, the kernel's own tunnels and VLANs
	@scripts/test-kernels $(ARGS)

kernels-table: setup ## put what the last `make test-kernels` has found into the README
	@$(BIN)/python -m tests.kernels.report build/kernels --write README.md

test-vagrant: root setup ## bring up one machine of vagrant/ by emulation
	@scripts/test-vagrant

demo: root setup ## the same traffic through the kernel's bridge and through pydp, side by side
	@$(BIN)/python -m pydp.bench.demo $(ARGS)

bench: root setup ## the benchmarks, with medians and intervals
	@$(BIN)/pydp bench $(ARGS)

report: root setup ## a quick run of all benchmarks, as a page and as JSON below build/
	@mkdir -p build
	@$(BIN)/pydp bench --quick --json build/bench.json --html build/bench.html $(ARGS)

# Everything, in about WITHIN minutes on a machine that has nothing else to do; README's figures are made from it.
WITHIN := 30
results: root setup ## a full run into results/, as JSON and as a page, and README's figures from it
	@mkdir -p results; status=0; $(BIN)/pydp bench --within $(WITHIN) --json results/bench.json --html results/bench.html $(ARGS) || status=$$?; \
	$(BIN)/python -m pydp.bench.figures && exit $$status

figures: setup ## write README's figures anew from results/bench.json
	@$(BIN)/python -m pydp.bench.figures

dashboards: setup ## write Grafana's dashboards anew from their sources
	@$(BIN)/python -m pydp.monitoring

clean: ## remove what was built: .venv, caches, wheels
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
