# Everything a developer or CI calls. The shell that is longer than a line lives in .ci/.

PYTHON ?= python3
PACKAGES ?= newest
export PYTHON PACKAGES

BIN := .venv/bin
# A process a core shares the tests, file by file.
PYTEST := $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev system-demo system-test demo test test-all test-unit \
	test-vulkan test-multiprocess test-hosts test-conformance test-server test-matrices test-validation \
	lint format types shaders statistics clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1|\2/p' Makefile | awk -F'|' '{ printf "  make %-18s %s\n", $$1, $$2 }'

setup: .venv/.installed ## what a user needs: a Vulkan driver and tplaunch in .venv

setup-dev: .venv/.installed-dev ## what a developer needs: the same, the test drivers and the tools
	@bash .ci/fetch-swiftshader.sh
	@bash .ci/fetch-mesa.sh

# Looked at every time, but (behind the |) no reason to install again.
system-demo system-test: system-%:
	@bash .ci/system-packages.sh $*

.venv/.installed: pyproject.toml .ci/install-python.sh | system-demo
	@bash .ci/install-python.sh run
	@touch $@

.venv/.installed-dev: pyproject.toml .ci/install-python.sh | system-test
	@bash .ci/install-python.sh dev
	@touch .venv/.installed $@

demo: setup ## set up, then let two ranks tell a story
	@bash .ci/demo.sh

test: lint types test-all ## set up, lint, check types, run every test: what CI runs

test-all: setup-dev ## every test
	@$(PYTEST)

test-unit: setup-dev ## tests that need nothing but Python
	@$(PYTEST) -m unit

test-vulkan: setup-dev ## tests that need a Vulkan driver
	@$(PYTEST) -m vulkan

test-multiprocess: setup-dev ## tests that start several processes
	@$(PYTEST) -m multiprocess

test-conformance: setup-dev ## comparisons with llama.cpp's results
	@$(PYTEST) -m conformance

test-server: setup-dev ## servers on loopback, asked as their clients ask
	@$(PYTEST) -m server

test-hosts: setup-dev ## runs over several hosts, a network namespace each; as root
	@$(PYTEST) -m hosts

test-matrices: setup-dev ## the kernels of cooperative matrices, on a lavapipe that has some: once a release
	@bash .ci/fetch-matrices-mesa.sh
	@bash .ci/test-matrices.sh

test-validation: setup-dev ## every test with a device again, under the Khronos validation layer
	@$(PYTEST) -m "vulkan or multiprocess or conformance" --validate

lint: setup-dev ## ruff, and whether `make format` would change anything
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check

format: setup-dev ## let ruff rewrite the code
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

types: setup-dev ## mypy, strict
	@$(BIN)/mypy

shaders: setup-dev ## compile shaders/*.slang to shaders/spv/
	@$(BIN)/python -m tplaunch.shaders.build

statistics: setup-dev ## write down what AMD's compiler makes of the kernels, for tests to hold them to
	@$(BIN)/python -m tplaunch.shaders.stats --write tests/vulkan/kernel_statistics.txt \
		$(if $(wildcard .cache/mesa/radeon_icd.json),--driver .cache/mesa/radeon_icd.json)

clean: ## remove .venv and everything made here
	@rm -rf .venv .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
