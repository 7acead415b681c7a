# Two commands do everything: `make demo` and `make test`. `make lab` opens the notebooks.

PYTHON ?= python3.11
VENV ?= .venv
PIP_ARGS ?=
BIN = $(VENV)/bin
READY = $(VENV)/ready

.PHONY: demo test lab student notebooks setup clean

demo: setup
	$(BIN)/drfer reproduce

test: setup
	$(BIN)/python -m pytest --nbval tests notebooks

lab: setup
	$(BIN)/jupyter lab notebooks

# for teachers: copies without solutions and outputs
student: setup
	$(BIN)/python -m drfer.notebooks student notebooks student

# for authors: every notebook run again, in place
notebooks: setup
	$(BIN)/python -m drfer.notebooks run notebooks/*.ipynb

setup: $(READY)

$(READY): pyproject.toml
	@echo "Setting up $(VENV): pinned packages, one to five minutes (torch is large)."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --upgrade $(PIP_ARGS) pip==26.3 setuptools==84.2.1 wheel==0.48.0
	@$(BIN)/pip install --quiet $(PIP_ARGS) --editable ".[test]" > $(VENV)/pip.log 2>&1 || { cat $(VENV)/pip.log; exit 1; }
	@echo "Compiling torch-cluster, once: about five minutes on two cores, ten on one."
	@printf '[build_ext]\nparallel = 2\n' > $(VENV)/build.cfg
	@DIST_EXTRA_CONFIG=$(CURDIR)/$(VENV)/build.cfg $(BIN)/pip install --quiet $(PIP_ARGS) --no-build-isolation torch-cluster==1.6.3 \
		> $(VENV)/torch-cluster.log 2>&1 \
		|| echo "torch-cluster could not be built ($(VENV)/torch-cluster.log says why): all works without it, only slower on a GPU."
	@touch $(READY)
	@$(BIN)/drfer doctor

clean:
	rm -rf $(VENV)
