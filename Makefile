# The commands of the README. All packages are installed in $(VENV). Assets are in the cache of the user (see `tlx --help`).
PYTHON ?= python3
VENV ?= .venv
LOCK := $(shell $(PYTHON) -c 'import sys; print("py311" if sys.version_info[:2] == (3, 11) else "py312")')
BIN := $(VENV)/bin
# Some machines forbid Python to keep what it has compiled. Then every process of a test compiles tlx and its tests again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: first demo test test-slow test-browser test-fast lint types lock clean

first: $(VENV)/.installed
	$(BIN)/tlx run configs/digits_probe.py --out runs/first --overwrite

demo: $(VENV)/.installed
	$(BIN)/tlx fetch minilm-l6 vader
	$(BIN)/tlx run configs/minilm_movies.py --out runs/demo --overwrite
	@echo "Open runs/demo/report.html, or predict a label: $(BIN)/tlx predict runs/demo 'a film to see twice'"

# Most of the test time is compilation, and the compiled programs run only for a moment. So the compiler optimises little, and
# uses its older, faster emitters if the version still has them. Parity tests and slow tests use the default compiler options,
# as the programs of users do.
OLD_py311 := --xla_cpu_use_fusion_emitters=false
FAST_COMPILE := XLA_FLAGS="--xla_backend_optimization_level=0 $(OLD_$(LOCK))"
test: $(VENV)/.tested $(VENV)/.networks
	$(FAST_COMPILE) $(BIN)/python -m pytest -n 2 -m "not slow and not browser and not parity"
	$(BIN)/python -m pytest -n 2 -m "parity and not slow" $(call with_mark,parity)

# The test files with a mark: a run of few tests should not import all files.
with_mark = $(shell grep -rl --include='test_*.py' 'mark\.$(1)' tests)

# Slow tests whose time is compilation alone; those of processes, kills and whole commands run as users run them.
COMPILED := test_contract objectives/ updates/ user/ functional/ analysis/ test_domains test_source_free test_joint \
	training/test_vectorize
SLOW := $(call with_mark,slow)
SLOW_COMPILED := $(filter $(COMPILED:%=tests/%%),$(SLOW))
# PART=2/4 runs the second quarter of the slow tests.
PART ?= 1/1
test-slow: $(VENV)/.tested $(VENV)/.compilers $(VENV)/.networks
	$(FAST_COMPILE) $(BIN)/python -m pytest -n 2 -m slow --durations=30 --part $(PART) $(SLOW_COMPILED)
	$(BIN)/python -m pytest -n 2 -m slow --durations=30 --part $(PART) $(filter-out $(SLOW_COMPILED),$(SLOW))

# Needs a Chromium on the PATH, for example the Debian package `chromium`.
test-browser: $(VENV)/.tested
	$(BIN)/python -m pytest -m browser $(call with_mark,browser)

# The fast tests, without torch and without the tests that train or compile a lot. CI runs them with the newest interpreter.
LONG := analysis study tune training models tuning weights test_contract.py test_domains.py functional/test_selection.py \
	test_source_free.py objectives updates user finetuning test_joint.py test_configs.py
test-fast: $(VENV)/.fast
	$(FAST_COMPILE) $(BIN)/python -m pytest -n 2 -m "not slow and not browser and not parity" $(LONG:%=--ignore=tests/%)

lint: $(VENV)/.tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.tested
	$(BIN)/mypy

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: requirements/$(LOCK).txt pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet -r requirements/$(LOCK).txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $@

$(VENV)/.fast: requirements/fast.txt $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -r requirements/fast.txt
	@touch $@

$(VENV)/.tested: requirements/test.txt requirements/trackio.txt $(VENV)/.fast
	$(BIN)/python -m pip install --quiet -r requirements/test.txt
	$(BIN)/python -m pip install --quiet --no-deps -r requirements/trackio.txt
	@touch $@

# The compilers of absent chips lie in a folder of their own, which only the tests of `tlx plan` put on the path: a plain
# `import jax` would look for their chips.
$(VENV)/.compilers: requirements/compilers-$(LOCK).txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(VENV)/compilers -r requirements/compilers-$(LOCK).txt
	@touch $@

# torchvision and timm lie in a folder of their own, which only parity tests put on the path: transformers prepares images in
# another way if it can import torchvision.
$(VENV)/.networks: requirements/networks.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(VENV)/networks -r requirements/networks.txt
	@touch $@

# Write the newest package versions for this interpreter to requirements/. Run it with Python 3.11, and with 3.12 or later.
lock:
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet '.[report,study,search,energy,classical,audio,text]'
	build/lock/bin/python -m pip freeze --exclude tlx > requirements/$(LOCK).txt

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
