# parfocal. `make` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

# On a Raspberry Pi:  make setup EXTRAS=rpi VENV_FLAGS=--system-site-packages
PYTHON     ?= python3
EXTRAS     ?= openvino
VENV_FLAGS ?=
PYTESTARGS ?=

VENV := .venv
BIN  := $(VENV)/bin
PIP  := $(BIN)/python -m pip install -qq --disable-pip-version-check

# An existing environment keeps its own Python.
FOUND       := $(or $(wildcard $(BIN)/python),$(PYTHON))
PYTAG       := $(shell $(FOUND) -c 'import sys; print("py%d%d" % sys.version_info[:2])' 2>/dev/null)
CONSTRAINTS := constraints/$(PYTAG).txt
PINS        := pyproject.toml $(wildcard $(CONSTRAINTS))
comma       := ,
OTA_STAMP   := $(VENV)/.ota-$(subst $(comma),-,$(EXTRAS))
SETUP_STAMP := $(VENV)/.setup-$(subst $(comma),-,$(EXTRAS))
TEST_STAMP  := $(VENV)/.test-$(subst $(comma),-,$(EXTRAS))

STUBS  := edge_app/stubs
PROTOS := $(sort $(wildcard proto/parfocal/v1/*.proto))

.PHONY: help setup demo test nvidia-rig test-gpu test-boards test-package test-mechanics velocity few-shot soak demo-ota test-ota-kills bench-update hostile check lint types laws bundle bench deb proto proto-check constraints clean

help:         ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(SETUP_STAMP)  ## make .venv and install parfocal into it (no torch)
	@echo 'parfocal is installed: $(BIN)/parfocal --help'

demo: setup   ## focus the simulated microscope 30 times; pictures go to demo-out
	$(BIN)/parfocal demo --runs 30 --seed 7 --out demo-out

demo-ota: $(OTA_STAMP)  ## publish models and update two simulated boards with them; a picture goes to demo-ota-out
	$(BIN)/parfocal-model demo-ota --out demo-ota-out

# Small matrices on two threads wait for each other on a busy machine. The tests of updates, publishing and access run
# beside the others, which use one core. Those that start and end whole services get a process of their own: after
# torch, GStreamer and OpenVINO in one process they ended in a segmentation fault now and then.
BESIDE := $(foreach of,access attacks depot desk fetching fleet full_disk killed metrics opening ota power publish \
  rehearsal repository rollout scrape trust update,$(sort $(wildcard tests/test_$(of)*.py)))

test: $(TEST_STAMP) nvidia-rig  ## run the tests (installs torch for model_export)
	@ended=0; export OPENBLAS_NUM_THREADS=1; said=$$(mktemp); \
	$(BIN)/python -m pytest $(BESIDE) $(PYTESTARGS) > $$said 2>&1 & beside=$$!; \
	$(BIN)/python -m pytest --durations=15 --ignore tests/test_lifetime.py $(addprefix --ignore ,$(BESIDE)) \
	  $(PYTESTARGS) || ended=1; \
	wait $$beside || ended=1; cat $$said; rm -f $$said; \
	$(BIN)/python -m pytest tests/test_lifetime.py $(PYTESTARGS) || ended=1; exit $$ended

# Where NVIDIA's bindings cannot be prepared, the tests of names say why and are skipped.
nvidia-rig: $(TEST_STAMP)
	@tests/nvidia/rig.sh $(BIN)/python || true

test-gpu: $(TEST_STAMP)  ## test pycuda, TensorRT and training on this machine's NVIDIA GPU (skipped where there is none)
	@tests/gpu/run.sh $(BIN)/python $(PYTESTARGS)

test-boards:  ## test on an emulated board and real libcamera (root, Debian; 3 minutes, 1.5 GB at the first run)
	@tests/boards/all.sh

test-package:  ## build the Debian packages and install them in fresh roots (root, Debian)
	@tests/package/all.sh $(TARGET)

test-mechanics: $(TEST_STAMP)  ## calibrate and watch the simulated board with the factory bundle (an hour)
	@missed=; for trial in 'calibrate 24' 'watch 1000' 'losses 400' 'slip 8'; do \
	  echo "== $$trial"; $(BIN)/python tests/mechanics_trial.py $$trial || missed="$$missed, $$trial"; done; \
	if [ -n "$$missed" ]; then echo "bounds missed$$missed"; exit 1; fi

MINUTES ?= 20
velocity: $(TEST_STAMP)  ## steer by speed from both sides of focus, a minute or two; the figure goes to velocity-out
	$(BIN)/python tests/velocity_trial.py

few-shot: $(TEST_STAMP)  ## calibrate and focus 62 fields by few_shot at 20x and at 10x, half an hour
	$(BIN)/python tests/few_shot_trial.py 20x
	$(BIN)/python tests/few_shot_trial.py 10x

soak: $(TEST_STAMP)  ## let clients ask and vanish for 20 minutes, and look for leaks: make soak MINUTES=4
	$(BIN)/python tests/soak.py --minutes $(MINUTES)

test-ota-kills: $(TEST_STAMP)  ## kill an update 200 times at random instants, and see that one model serves (11 minutes)
	$(BIN)/python tests/kill_trial.py 200

bench-update: $(TEST_STAMP)  ## let 8 clients measure while a model is updated, and tell how long they waited (2 minutes)
	$(BIN)/python tests/update_load.py

hostile: $(TEST_STAMP)  ## send 21,000 malformed requests to a service on loopback (6 minutes)
	$(BIN)/python tests/hostile.py

check: lint types laws proto-check  ## lint, format, types, import laws, stubs up to date

lint: $(TEST_STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(TEST_STAMP)
	$(BIN)/mypy
	$(BIN)/mypy packaging

laws: $(TEST_STAMP)
	$(BIN)/lint-imports

RECIPE ?= spectral_20x
bundle: $(TEST_STAMP)  ## train one factory bundle from nothing, data included: make bundle RECIPE=spectral_20x
	$(BIN)/parfocal-model synth $(RECIPE) --data runs/$(RECIPE)/shards
	$(BIN)/parfocal-model train $(RECIPE) --data runs/$(RECIPE)/shards --run runs/$(RECIPE)
	$(BIN)/parfocal-model export $(RECIPE) --data runs/$(RECIPE)/shards --run runs/$(RECIPE) \
	  --out edge_app/models/$(RECIPE).parfocal

bench: setup  ## measure this machine's speed
	$(BIN)/parfocal bench

deb: setup    ## build the Debian package for this machine, or TARGET=NAME, or TARGET=all, into dist/
	$(BIN)/python packaging/build_deb.py $(TARGET)

proto: $(TEST_STAMP)  ## generate edge_app/stubs from proto/
	@$(call generate,$(STUBS))

proto-check: $(TEST_STAMP)  ## compare edge_app/stubs with what proto/ would generate
	@fresh=$$(mktemp -d); trap 'rm -rf "$$fresh"' EXIT; \
	$(call generate,$$fresh); \
	diff -r -x __pycache__ $(STUBS) "$$fresh" > "$$fresh.diff" && rc=0 || rc=$$?; \
	head -40 "$$fresh.diff"; rm -f "$$fresh.diff"; \
	if [ $$rc -ne 0 ]; then echo 'edge_app/stubs is out of date: run `make proto`.'; exit 1; fi; \
	echo 'edge_app/stubs is up to date.'

constraints:  ## resolve constraints/*.txt anew; needs python3.10 to python3.13
	@for v in 3.10 3.11 3.12 3.13; do $(call resolve,$$v); done

clean:        ## remove what make made
	rm -rf $(VENV) demo-out demo-ota-out build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis \
	  .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(SETUP_STAMP): $(PINS)
	@$(call install,$(EXTRAS))

$(OTA_STAMP): $(PINS)
	@$(call install,$(EXTRAS)$(comma)ota)

$(TEST_STAMP): $(PINS)
	@$(call install,$(EXTRAS)$(comma)dev$(comma)train)

# install(extras): make the environment if there is none, and install parfocal under the pins.
define install
test -f $(CONSTRAINTS) || { \
  echo "parfocal needs Python 3.10 to 3.13; $(FOUND) is $$($(FOUND) --version 2>/dev/null || echo missing)."; \
  echo "Name another:  make setup PYTHON=python3.11"; exit 1; }; \
test -x $(BIN)/python || $(PYTHON) -m venv $(VENV_FLAGS) $(VENV); \
echo "Installing parfocal[$(1)] for $(PYTAG) into $(VENV); the first time takes minutes ..."; \
$(PIP) -c $(CONSTRAINTS) -e '.[$(1)]'; \
touch $@
endef

# generate(folder): stubs from proto/. protoc names packages from the root of proto/; ours live deeper,
# so imports between stubs are made relative.
define generate
out="$(1)"; rm -rf "$$out/parfocal"; mkdir -p "$$out"; \
PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -Iproto --python_out="$$out" \
  --grpc_python_out="$$out" --mypy_out=quiet:"$$out" --mypy_grpc_out=quiet:"$$out" $(PROTOS); \
sed -i 's/^from parfocal\.v1 import /from . import /' "$$out"/parfocal/v1/*.py "$$out"/parfocal/v1/*.pyi; \
for folder in "$$out" "$$out/parfocal" "$$out/parfocal/v1"; do \
  echo '"""Generated by `make proto`: do not edit."""' > "$$folder/__init__.py"; done
endef

# resolve(version): what pip would install, as name==version lines. torch is resolved for Python 3.11
# only, where its CPU build is at hand; elsewhere it would pin gigabytes of CUDA, so it is left out.
define resolve
tag=py$${v/./}; tmp=$$(mktemp -d); python$$v -m venv "$$tmp"; "$$tmp"/bin/pip install -qq -U pip; \
if [ $$v = 3.11 ]; then set -- '.[openvino,dev,train]'; else set -- '.[openvino,dev]' onnx onnxscript; fi; \
"$$tmp"/bin/pip install -qq --dry-run --ignore-installed --report "$$tmp"/report.json "$$@"; \
{ echo "# Resolved by \`make constraints\` for Python $$v: core, openvino, dev, train."; \
  "$$tmp"/bin/python -c 'import json, sys; \
print(*sorted(i["metadata"]["name"].lower() + "==" + i["metadata"]["version"].split("+")[0] \
for i in json.load(open(sys.argv[1]))["install"] if i["metadata"]["name"] != "parfocal"), sep="\n")' \
  "$$tmp"/report.json; } > constraints/$$tag.txt; rm -rf "$$tmp"; echo "constraints/$$tag.txt"
endef
