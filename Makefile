# Two commands do everything: `make demo` and `make test`. `make lab` opens the notebooks.

VENV ?= .venv
PIP_ARGS ?=
PYTEST_ARGS ?=
BIN = $(VENV)/bin
PIP = $(BIN)/pip install --quiet --disable-pip-version-check $(PIP_ARGS) --constraint constraints.txt
export PIP_ARGS

# The first Python from 3.11 on that can make an environment; `make demo PYTHON=python3.12` takes another.
USABLE = import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for each in python3 python3.13 python3.12 python3.11; do \
	$$each -c '$(USABLE)' 2> /dev/null && echo $$each && break; done)
NO_PYTHON = Python 3.11 or later with venv is needed: install it (Debian: apt-get install python3 python3-venv), \
	or name one that you have, as in make $(MAKECMDGOALS) PYTHON=/usr/bin/python3.12

# torch-cluster pays on a GPU alone: without one, the demo does not wait for its compiler.
GPU := $(shell nvidia-smi > /dev/null 2>&1 && echo yes)

.PHONY: demo test lab student notebooks clean

demo: $(VENV)/ready $(if $(GPU),$(VENV)/ready-cluster)
	$(BIN)/drfer reproduce --preset short

test: $(VENV)/ready-lab $(VENV)/ready-cluster
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --nbval tests notebooks $(PYTEST_ARGS)

lab: $(VENV)/ready-lab $(VENV)/ready-cluster
	$(BIN)/jupyter lab notebooks

# for teachers: copies without solutions, printed answers and what is to be predicted, in the folder `student`;
# with BUILD=yes the classes of the network are for the student to write
student: $(VENV)/ready-lab
	$(BIN)/python -m nbconvert --to notebook --output-dir student --log-level WARN \
		--Exporter.preprocessors=tools.notebooks.$(if $(BUILD),ForBuilders,ForStudents) $(or $(wildcard notebooks/*.ipynb),$(error there are no notebooks here))

# for authors: every notebook run again, in place
notebooks: $(VENV)/ready-lab $(VENV)/ready-cluster
	$(BIN)/python -m nbconvert --to notebook --inplace --execute --ExecutePreprocessor.store_widget_state=False \
		--Exporter.preprocessors=tools.notebooks.ForReaders notebooks/*.ipynb

# what the command line needs, the open faces included
$(VENV)/ready: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" && $(PYTHON) -c '$(USABLE)' 2> /dev/null || { echo "$(NO_PYTHON)" >&2; exit 1; }
	@echo "Setting up $(VENV): exact versions, one to five minutes (torch is large)."
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) --upgrade pip setuptools wheel
	@$(PIP) --no-build-isolation --editable ".[faces]" > $(VENV)/pip.log 2>&1 || { cat $(VENV)/pip.log; exit 1; }
	@touch $@
	@$(BIN)/drfer doctor

# what the notebooks and the tests need besides
$(VENV)/ready-lab: $(VENV)/ready
	@echo "Setting up JupyterLab and the tests: a minute."
	@$(PIP) --no-build-isolation --editable ".[test]" > $(VENV)/pip.log 2>&1 || { cat $(VENV)/pip.log; exit 1; }
	@touch $@

$(VENV)/ready-cluster: $(VENV)/ready
	@echo "Compiling torch-cluster, once: about five minutes on two cores, ten on one."
	@printf '[build_ext]\nparallel = 2\n' > $(VENV)/build.cfg
	@DIST_EXTRA_CONFIG=$(CURDIR)/$(VENV)/build.cfg $(PIP) --no-build-isolation torch-cluster > $(VENV)/torch-cluster.log 2>&1 \
		|| echo "torch-cluster could not be built ($(VENV)/torch-cluster.log says why): all works without it, only slower on a GPU."
	@touch $@

clean:
	rm -rf $(VENV)
