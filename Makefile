# Every target sets up what it needs in .venv; a machine needs Python 3.10 or newer, and make.
#   make test   lint, types and all tests (ARGS="-k masks" goes to pytest); OMG_WEBUI=DIR adds those in a real web UI, and
#               OMG_FORGE=DIR those in a Forge: all of them, or beside a web UI those of what each has of its own
#   make demo   two characters in one scene of the small world: a contact sheet, without web UI or GPU
#   make bench  the measured claims: a table, and JSON in bench/results
#   make bench-world  identity, bleeding, layout and occlusion in the small world (ARGS="--cells methods")
#   make paper  the paper's tables and figures for the small world's characters (ARGS=--quick for a try)
#   make world  trains the small world's weights anew, three hours on two cores (ARGS="loras" for a part)

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
# with the version the tests were written for first
CANDIDATES := python3.11 python3.12 python3.13 python3.10 python3 python
USABLE := import sys; sys.exit(sys.version_info < (3, 10))
PYTHON ?= $(shell for p in $(CANDIDATES); do if $$p -c '$(USABLE)' 2>/dev/null; then echo $$p; break; fi; done)
PACKAGES := import sysconfig; print(sysconfig.get_path("purelib"))
ARGS ?=
# processes that share the test files out among them, each with a web UI of its own, and of one thread: more wait for each
# other on the cores that these share
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile
# glibc gives the memory of each step back to the system, and gets it again page by page; kept, training is thrice as fast
# and timings of runs in threads are alike
KEEP_MEMORY := MALLOC_ARENA_MAX=1 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000

# of a web UI: the detectors' packages go beside its own, whose environment is only read
WEBUI_PYTHON := $(if $(OMG_WEBUI),$(OMG_WEBUI)/venv/bin/python)
DETECTORS := $(VENV)/detectors
DETECTORS_READY := $(if $(WEBUI_PYTHON),$(DETECTORS)/ready)

.PHONY: test lint demo bench bench-world paper world clean
.DELETE_ON_ERROR:

test: lint $(DETECTORS_READY)
	$(if $(OMG_WEBUI),OMG_FORGE=) $(PYTEST) $(ARGS)
ifdef OMG_WEBUI
	$(DETECTORS)/bin/python -m pytest tests/detectors tests/faces $(ARGS) || [ $$? = 5 ]  # ARGS may choose none of them
ifdef OMG_FORGE
	$(PYTEST) -m host tests/webui $(ARGS) || [ $$? = 5 ]
endif
endif

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/mypy

demo: $(READY)
	$(BIN)/python -m bench.world.demo $(ARGS)

bench: $(READY)
	$(KEEP_MEMORY) $(BIN)/python -m bench.run $(ARGS)

bench-world: $(READY)
	$(BIN)/python -m bench.world.run $(ARGS)

paper: $(READY)
	$(BIN)/python -m bench.world.paper --out out/paper $(ARGS)

world: $(READY)
	$(KEEP_MEMORY) $(BIN)/python -m bench.world.make $(ARGS)

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find omg_ext scripts tests bench -name __pycache__ -prune -exec rm -rf {} +

# The compiled part of torchvision fits the torch of its own index alone. Beside another build it cannot be imported, and
# transformers fails with it; ultralytics, for which it is there, asks for its version only: then its code goes.
# pip is upgraded because old resolvers pick source packages. Torch comes first and alone so that a local build of this
# version, say one without CUDA, is taken where pip is told of one.
$(READY): pyproject.toml
	@if [ -z "$(PYTHON)" ]; then echo "No Python 3.10 or newer found: install one, or name it: make PYTHON=/path/to/python"; exit 1; fi
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments: installing Debian's python3-venv"; \
	  apt-get update -q && apt-get install -qy python3-venv; } || { \
	  echo "Install the venv module first (Debian, Ubuntu: sudo apt-get install python3-venv)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25"
	$(BIN)/python -m pip install --quiet "torch==2.13.0"
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@$(BIN)/python -c "import torchvision" 2>/dev/null || rm -rf "$$($(BIN)/python -c '$(PACKAGES)')/torchvision"
	@touch $@

$(DETECTORS)/ready: $(READY)
	rm -rf $(DETECTORS)
	$(WEBUI_PYTHON) -m venv --without-pip $(DETECTORS)
	$(WEBUI_PYTHON) -c '$(PACKAGES)' > "$$($(DETECTORS)/bin/python -c '$(PACKAGES)')/webui.pth"
	sed 's/ *#.*//' "$(OMG_WEBUI)/requirements_versions.txt" > $(DETECTORS)/pins.txt
	$(BIN)/python -m pip --python $(DETECTORS)/bin/python install --quiet --constraint $(DETECTORS)/pins.txt \
	  "ultralytics>=8.3.75,<9" "groundingdino-py==0.4.0" "segment-anything==1.0" "opencv-python<4.12" \
	  "insightface>=1,<3" "onnxruntime>=1.17,<2" "pytest>=8,<10" "hypothesis>=6.100,<7"
	@touch $@
