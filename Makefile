# make install | demo | test | benchmark-short | benchmark
# Everything lands in .venv (Scipion) and .venv-inference (TensorFlow, the core) of this checkout.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
# Stops with one line unless Python $(1) is of version 3.$(2) to 3.$(3), which $(4) needs.
check_python = @$(1) -c 'import sys; (3, $(2)) <= sys.version_info[:2] <= (3, $(3)) or sys.exit("$(4) needs Python 3.$(2) to 3.$(3), this is {}.{}: make PYTHON=/path/to/python3.11".format(*sys.version_info))'
# TensorFlow for the GPU where the driver answers, for the CPU otherwise.
TENSORFLOW ?= $(shell nvidia-smi >/dev/null 2>&1 && echo 'tensorflow[and-cuda]' || \
	{ [ "$$(uname -m)" = x86_64 ] && echo tensorflow-cpu || echo tensorflow; })<2.22
RUN = .venv-inference/bin

.PHONY: install demo test test-core benchmark benchmark-short clean
install: .venv-inference/installed .venv/installed

include scipion.mk

.venv-inference/installed: setup.py Makefile deepemhancer_plugin/requirements-inference.txt
	$(call check_python,$(PYTHON),11,13,TensorFlow)
	$(PYTHON) -m venv .venv-inference
	$(RUN)/python -m pip install --quiet --upgrade pip
	$(RUN)/python -m pip install --quiet "$(TENSORFLOW)" --editable '.[inference]' pytest hypothesis ruff mypy
	touch $@

demo: .venv-inference/installed
	$(RUN)/deepemhancer demo demo

test: install test-scipion test-core

test-core: .venv-inference/installed
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	$(RUN)/python -m pytest -q -p no:cacheprovider tests

# The tables of docs/benchmarks. Quality is measured on synthetic proteins, unless STRUCTURES and
# RECONSTRUCTIONS name folders of data, and beside RELION's post-processing if that is installed.
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
	rm -rf .venv .venv-inference .venv-xmipp .scipion demo build *.egg-info
