# The commands of the README. Everything lands in $(VENV); the assets' cache is the user's (see `tlx --help`).
PYTHON ?= python3
VENV ?= .venv
LOCK := $(shell $(PYTHON) -c 'import sys; print("py311" if sys.version_info[:2] == (3, 11) else "py312")')
BIN := $(VENV)/bin

.PHONY: demo test test-slow test-browser test-fast lint types lock clean

demo: $(VENV)/.installed
	$(BIN)/tlx assets fetch minilm-l6 vader
	$(BIN)/tlx run configs/minilm_movies.py --out runs/demo --overwrite
	@echo "Open runs/demo/report.html, or ask it: $(BIN)/tlx predict runs/demo 'a film to see twice'"

# Compiling is most of the suite, and its programs run for a moment only: the compiler does little for their speed, and takes
# its old emitters where it still has them. What is held to other implementations, and the slow tests, are compiled as users'
# programs are.
OLD_py311 := --xla_cpu_use_fusion_emitters=false
QUICKLY := XLA_FLAGS="--xla_backend_optimization_level=0 $(OLD_$(LOCK))"
test: $(VENV)/.tested
	$(QUICKLY) $(BIN)/python -m pytest -n 2 -m "not slow and not browser and not parity"
	$(BIN)/python -m pytest -n 2 -m "parity and not slow"

test-slow: $(VENV)/.tested
	$(BIN)/python -m pytest -n 2 -m slow

# Needs Debian's chromium, or any Chromium on the PATH.
test-browser: $(VENV)/.tested
	$(BIN)/python -m pytest -m browser

# Without torch, and without what mostly trains or compiles: what the newest interpreter runs in CI.
LONG := analysis/benefit analysis/negative analysis/changes study tune training/feature_cache test_contract.py \
	test_domains.py training/test_vectorize.py functional/test_selection.py test_source_free.py
test-fast: $(VENV)/.fast
	$(QUICKLY) $(BIN)/python -m pytest -n 2 -m "not slow and not browser and not parity" $(LONG:%=--ignore=tests/%)

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

$(VENV)/.tested: requirements/test.txt $(VENV)/.fast
	$(BIN)/python -m pip install --quiet -r requirements/test.txt
	@touch $@

# Resolves the newest versions for this interpreter and writes them down; run it once by 3.11 and once by 3.12 or later.
lock:
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet '.[report,study,search,energy,classical,audio]'
	build/lock/bin/python -m pip freeze --exclude tlx > requirements/$(LOCK).txt

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
