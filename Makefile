PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCH_VENV := .venv-bench
BENCH_STAMP := $(BENCH_VENV)/.installed
PIP := -m pip --quiet --disable-pip-version-check install

# Tests start hundreds of processes: where nothing compiled is kept, each of them compiles the whole service.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run demo test check prove attack bench scale lock sbom reference catalogues manifests screenshots clean
run: $(STAMP)
	@exec $(BIN)/ingress run
demo: $(STAMP)
	@exec $(BIN)/ingress demo
# While one core checks types, the other compiles the tests, once for all workers.
test: $(STAMP)
	@$(BIN)/python -m pytest -qq --collect-only >/dev/null & $(MAKE) --no-print-directory check; passed=$$?; wait; exit $$passed
	@$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder $(ARGS)
check: $(STAMP)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy
prove: $(STAMP)
	@$(BIN)/python -m prove $(ARGS)
attack: $(STAMP)
	@$(BIN)/python -m prove.attacks $(ARGS)
bench: $(BENCH_STAMP)
	@$(BENCH_VENV)/bin/python -m bench $(ARGS)
# What it costs once the database is large: some 20 GB of disk and an hour; SIZE=400000 is a twentieth (docs/capacity.md).
scale: $(STAMP)
	@$(BIN)/python -m bench.scale

# requirements.lock pins every package by hash; nothing is resolved at install time.
$(STAMP): requirements.lock pyproject.toml
	@echo "Installing into $(VENV) (first run only) ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python $(PIP) --require-hashes -r requirements.lock
	@$(BIN)/python $(PIP) --no-deps --no-build-isolation --no-index -e .
	@touch $@

# The baselines' own stack (FastAPI, SQLAlchemy, ...) stays out of the product's environment.
$(BENCH_STAMP): requirements.lock requirements-bench.lock pyproject.toml
	@echo "Installing into $(BENCH_VENV) (first run only) ..."
	@$(PYTHON) -m venv $(BENCH_VENV)
	@$(BENCH_VENV)/bin/python $(PIP) --require-hashes -r requirements.lock
	@$(BENCH_VENV)/bin/python $(PIP) --require-hashes -r requirements-bench.lock
	@$(BENCH_VENV)/bin/python $(PIP) --no-deps --no-build-isolation --no-index -e .
	@touch $@

# Renew the locks: needs uv (python -m pip install uv). They name no index.
lock:
	uv pip compile pyproject.toml ingress/dev/pyproject.toml --universal --python-version 3.11 --extra testing --group dev \
		--generate-hashes --no-emit-index-url --no-header --no-annotate -o requirements.lock
	uv pip compile pyproject.toml --group build -c requirements.lock --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-header --no-annotate -o requirements-serve.lock
	uv pip compile --group bench -c requirements.lock --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-header --no-annotate -o requirements-bench.lock
# What is written from the code; tests compare.
reference: $(STAMP)
	@$(BIN)/ingress settings > docs/configuration.md
# What the image is made of, as CycloneDX, read from the lock.
SBOM ?= build/sbom.json
sbom: $(STAMP)
	@mkdir -p $(dir $(SBOM))
	@$(BIN)/cyclonedx-py requirements requirements-serve.lock --pyproject pyproject.toml --mc-type application \
		--output-reproducible --output-format JSON --output-file $(SBOM)
# Take the console's texts into its catalogues, and compile those: after that, translate what is new in the .po files and
# run it again. Nothing is guessed (fuzzy).
catalogues: $(STAMP)
	@mkdir -p build
	@$(BIN)/pybabel -q extract -F pyproject.toml -k N_ -k NN_:1,2 --no-location --sort-output \
		--project whatsapp-ingress --version 1 --msgid-bugs-address "" -o build/console.pot ingress
	@$(BIN)/pybabel -q update -D console -i build/console.pot -d ingress/console/locale --no-fuzzy-matching --no-wrap \
		--ignore-obsolete
	@$(BIN)/pybabel -q compile -D console -d ingress/console/locale
# The rules of Prometheus as a PrometheusRule. DOCS is where the folder docs is read: alerts and dashboards link there.
manifests: $(STAMP)
	@DOCS="$(DOCS)" $(BIN)/python -m tests.deploy.manifests
# The console's main screens, for docs/screenshots: needs Chromium.
screenshots: $(STAMP)
	@$(BIN)/python -m tests.console.screenshots
clean:
	rm -rf $(VENV) $(BENCH_VENV) .data build *.egg-info
