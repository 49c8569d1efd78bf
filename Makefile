# make video      set up, then paint the bonfire video with the scale model
# make test       set up, then every test, the notebooks included
# make lab        set up, then JupyterLab on the lessons
# make assets     make the pictures of assets/ again
# make test-full  the slow checks as well
# make notebooks  run every notebook and keep its pictures
# make lint       formatter, linter, type checker
#
# Set-up lives in .venv alone: delete the folder and nothing is left. Another Python: make PYTHON=python3.12 video

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
PYTHON ?=
TORCH_CPU := https://download.pytorch.org/whl/cpu

PROMPT := A sword embedded in a pile of burning wood, the fire moving naturally, glowing embers and smoke rising \
	in a dark background, volumetric lighting, detailed textures
NEGATIVE := bad quality, blurry, messy, chaotic
SEED := 6

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
# Threads that wait for each other sleep instead of spinning: on a busy machine that is ten times faster.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: video assets lab test test-full notebooks lint setup clean

video: $(READY)
	@mkdir -p outputs
	@$(BIN)/wan-tutorial generate "$(strip $(PROMPT))" --negative "$(NEGATIVE)" --seed $(SEED) \
		--output outputs/bonfire_vid.mp4 --strip --enlarge 4

# The pictures of assets/, made again from the model and the world.
assets: $(READY)
	@$(BIN)/wan-tutorial generate "$(strip $(PROMPT))" --negative "$(NEGATIVE)" --seed $(SEED) \
		--output assets/bonfire_vid.mp4 --strip --enlarge 4
	@$(BIN)/python -m wan_tutorial.mini.world --bonfire assets/bonfire.png
	@$(BIN)/wan-tutorial generate "$(strip $(PROMPT))" --negative "$(NEGATIVE)" --seed 4 --steps 4 --guidance 1 \
		--lora assets/mini/Wan21_CausVid_mini_T2V_lora_rank32.safetensors:1 --reference assets/bonfire.png \
		--output assets/bonfire_lora.mp4 --strip --enlarge 4
	@for graph in t2v_workflow t2v_workflow_lora; do \
		$(BIN)/wan-tutorial workflow draw assets/workflows/$$graph.json --output assets/$$graph.png || exit 1; done

lab: $(READY)
	@$(BIN)/jupyter lab --notebook-dir=notebooks

test: $(READY)
	@$(BIN)/python -m pytest tests notebooks --nbval-lax --nbval-current-env

test-full: $(READY)
	@$(BIN)/python -m pytest tests notebooks --nbval-lax --nbval-current-env -m ""

notebooks: $(READY)
	@$(BIN)/python notebooks/build.py

lint: $(READY)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

setup: $(READY)

clean:
	rm -rf $(VENV) outputs build dist

# PyTorch goes in first: its ordinary Linux build brings gigabytes of CUDA libraries, which a machine without an
# NVIDIA GPU cannot use, so there PyTorch's own index of CPU builds is asked, if it answers.
$(READY): pyproject.toml constraints.txt
	@set -e -o pipefail; \
	for python in $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python3.10 python); do \
		if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then break; fi; \
		python=; \
	done; \
	test -n "$$python" || { echo "Python 3.10 or newer is needed: https://www.python.org/downloads/"; exit 1; }; \
	"$$python" -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "$$python has no venv module; on Debian and Ubuntu: sudo apt install python3-venv"; exit 1; }; \
	echo "Setting up $(VENV) with $$("$$python" --version); this happens once and takes a few minutes."; \
	test -x $(BIN)/python || "$$python" -m venv $(VENV); \
	index=; \
	if [ "$$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null && $(BIN)/python -c \
		'import sys, urllib.request as u; u.urlopen(sys.argv[1] + "/torch/", timeout=5)' $(TORCH_CPU) 2>/dev/null; \
	then index="--index-url $(TORCH_CPU)"; fi; \
	dots() { while read -r verb rest; do case "$$verb" in Collecting) printf .;; esac; done; echo; }; \
	printf '1/2 PyTorch (a few hundred MB) '; \
	$(BIN)/pip install torch -c constraints.txt $$index | dots; \
	printf '2/2 the other libraries '; \
	$(BIN)/pip install -e '.[lab,test]' -c constraints.txt | dots; \
	touch $@
