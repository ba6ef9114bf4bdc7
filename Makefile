# make install | demo | test | benchmark-short | benchmark; everything lands in .venv (Scipion) and .venv-inference (TensorFlow, core) of this checkout.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
# TensorFlow for the GPU where the driver answers, for the CPU otherwise.
TENSORFLOW ?= $(shell nvidia-smi >/dev/null 2>&1 && echo 'tensorflow[and-cuda]' || echo tensorflow-cpu)
RUN = .venv-inference/bin

.PHONY: install demo test test-core benchmark benchmark-short clean
install: .venv-inference/installed .venv/installed

include scipion.mk

.venv-inference/installed: setup.py Makefile deepemhancer_plugin/requirements-inference.txt
	$(PYTHON) -m venv .venv-inference
	$(RUN)/python -m pip install --quiet --upgrade pip
	$(RUN)/python -m pip install --quiet "$(TENSORFLOW)" -r deepemhancer_plugin/requirements-inference.txt pytest hypothesis ruff mypy
	$(RUN)/python -m pip install --quiet --no-deps --editable .
	touch $@

demo: .venv-inference/installed
	$(RUN)/deepemhancer demo demo

test: install test-scipion test-core

test-core: .venv-inference/installed
	$(RUN)/ruff check deepemhancer_plugin/core tests benchmarks
	$(RUN)/mypy
	$(RUN)/python -m pytest -q -p no:cacheprovider tests

# The tables of docs/benchmarks; quality on synthetic proteins unless STRUCTURES and RECONSTRUCTIONS name folders of data, beside RELION's
# post-processing where that is installed.
STRUCTURES ?=
RECONSTRUCTIONS ?=
benchmark-short: .venv-inference/installed
	$(RUN)/python benchmarks/embedded.py --edges 128,256 --precision auto
	$(RUN)/python benchmarks/quality.py --maps 4

benchmark: .venv-inference/installed
	$(RUN)/python benchmarks/embedded.py --output docs/benchmarks/embedded.md
	$(RUN)/python benchmarks/official_windows.py --output docs/benchmarks/official_windows.md
	$(RUN)/python benchmarks/quality.py $(if $(STRUCTURES),--structures $(STRUCTURES)) $(if $(RECONSTRUCTIONS),--reconstructions $(RECONSTRUCTIONS)) \
		$(if $(shell command -v relion_postprocess),--relion) --output docs/benchmarks/$(if $(STRUCTURES),quality,quality_synthetic).md

clean:
	rm -rf .venv .venv-inference .scipion demo build *.egg-info
