PYTHON ?= python3
DEMO := .venv-demo
TEST := .venv-test
HF := .venv-hugging-face
SITE := .venv-site
ZOO := .venv-zoo
# A new pip resolves faster; modules are compiled when they are first imported, which few of them ever are.
INSTALL = $(@D)/bin/pip install --quiet --progress-bar off --no-compile --constraint tests/constraints.txt
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-all lint bench machines weightbridge huggingface zoo wild names docs site fuzz attacks parity mutation schemas fixtures clean

# The core alone, in an environment of its own: one file into the three other frameworks and the neutral form.
demo: $(DEMO)/ready
	@rm -rf build/demo && mkdir -p build/demo && cp examples/mlp.params build/demo/
	@cd build/demo && for to in tensorflow flax mxnet neutral; do \
	    echo "\$$ convert 'torch->$$to' mlp.params" && ../../$(DEMO)/bin/convert "torch->$$to" mlp.params && echo || exit 1; \
	done

# All four real frameworks, pinned, in an environment of their own; two processes, each with groups of tests (see
# tests/conftest.py), the quick ones first. Of the slow ones it runs a sample, another one each day (tests/sample.py).
PYTEST = $(TEST)/bin/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder
SAMPLE ?= $(shell expr `date +%s` / 86400)
test: $(TEST)/ready
	$(PYTEST) --sample $(SAMPLE)

# Every test, in about 45 minutes; and how long they take, for tests/sample.py.
test-all: $(TEST)/ready
	$(PYTEST) --junitxml build/tests.xml
	$(TEST)/bin/python -m tests.sample build/tests.xml

lint: $(TEST)/ready
	$(TEST)/bin/ruff check .
	$(TEST)/bin/ruff format --check .
	$(TEST)/bin/mypy
	$(TEST)/bin/lint-imports

docs: $(TEST)/ready
	$(TEST)/bin/python tools/tables.py && $(TEST)/bin/python tools/capabilities.py && $(TEST)/bin/python tools/checklist.py
	$(TEST)/bin/python tools/options.py && $(TEST)/bin/python tools/pages.py

# The pages and the Python functions as a site in build/site, in an environment of its own.
site: $(SITE)/ready
	$(SITE)/bin/mkdocs build --quiet --strict --clean
	@echo "build/site/index.html"

# Every reader on damaged files, so long with each; writes docs/fuzz.md.
fuzz: $(TEST)/ready
	$(TEST)/bin/python -m tests.fuzz $${FUZZ_SECONDS:-60}

# Every attack, with what it takes; writes docs/attacks.md.
attacks: $(TEST)/ready
	$(TEST)/bin/python -m tests.attacks

# Every layer kind from every flavour of net into every other; writes docs/parity.md.
parity: $(TEST)/ready
	$(TEST)/bin/python -m tests.parity.matrix

# Mutants of the operations and of the frameworks' tables, which the short suite must find; writes docs/mutation.md.
mutation: $(TEST)/ready
	$(TEST)/bin/python -m tools.mutation $(MUTANTS)

# The nets of the book, by the shipped schemas and by inference, in real frameworks; writes docs/schemas.md.
schemas: $(TEST)/ready
	$(TEST)/bin/python -m tests.book.matrix

# Files of every kind that today's frameworks write, with the arrays as they report them.
fixtures: $(TEST)/ready
	$(TEST)/bin/python -m tests.fixtures.make build/fixtures

# All figures of docs/benchmarks.md, in about half an hour; less with BENCH="--size 200MB --rounds 1".
bench: $(TEST)/ready
	$(TEST)/bin/pip install --quiet --constraint tests/constraints.txt weightbridge==0.0.4
	$(TEST)/bin/python -m benchmarks.large $(BENCH)

# Shards on a Dask cluster of this machine, in about five minutes; the figures of docs/machines.md.
machines: $(TEST)/ready
	$(TEST)/bin/python -m benchmarks.machines $(MACHINES)

# The nearest existing tool on the same nets, in about five minutes; writes docs/weightbridge.md.
weightbridge: $(TEST)/ready
	$(TEST)/bin/pip install --quiet --constraint tests/constraints.txt weightbridge==0.0.4
	$(TEST)/bin/python -m benchmarks.weightbridge

# Models that Hugging Face has in three frameworks, beside its own converters; writes docs/hugging_face.md.
huggingface: $(HF)/ready $(DEMO)/ready
	$(HF)/bin/python -m benchmarks.hugging_face $(DEMO)/bin/convert

# Nets of the code bases of other people, each into those that compute the same; writes docs/zoo.md. For live nets, too,
# and some rows: ZOO_OPTIONS="--names --live --only 'resnet18*'"
zoo: $(ZOO)/ready
	$(ZOO)/bin/python -m tests.zoo $(ZOO_OPTIONS)

# Weight files that packages of other people ship, beside their real loaders; writes docs/wild.md.
wild: $(TEST)/ready
	$(TEST)/bin/python -m tests.wild

# The tables of schemas/names, from the rows of the zoo that were right.
names: $(ZOO)/ready
	$(ZOO)/bin/python -m tests.zoo --cache build/zoo $(ZOO_OPTIONS)
	$(ZOO)/bin/python -m tests.zoo.names build/zoo

$(HF)/ready: benchmarks/hugging_face.txt
	$(PYTHON) -m venv $(HF)
	$(HF)/bin/pip install --quiet --requirement benchmarks/hugging_face.txt
	@touch $@

# A pip of its own takes the environment longer than all else, so it is there only where Python has none, or an old one.
$(DEMO)/ready: setup.cfg
	$(PYTHON) -m venv --without-pip $(DEMO)
	$(PYTHON) -m pip --python $(DEMO)/bin/python install --quiet --no-compile . || \
	    { $(PYTHON) -m venv $(DEMO) && $(DEMO)/bin/pip install --quiet --no-compile .; }
	@touch $@

$(SITE)/ready: setup.cfg
	$(PYTHON) -m venv $(SITE)
	$(SITE)/bin/pip install --quiet '.[docs]'
	@touch $@

define frameworks
$(PYTHON) -m venv $(@D)
$(INSTALL) --upgrade pip setuptools
$(INSTALL) --no-deps torch mxnet tf_keras & \
    $(INSTALL) --no-build-isolation --requirement tests/frameworks.txt --editable '.[test]' && wait $$!
$(INSTALL) torch
endef

$(TEST)/ready: setup.cfg tests/constraints.txt tests/frameworks.txt
	$(frameworks)
	@touch $@

$(ZOO)/ready: setup.cfg tests/constraints.txt tests/frameworks.txt tests/zoo/requirements.txt
	$(frameworks)
	$(INSTALL) --no-deps --requirement tests/zoo/requirements.txt
	@touch $@

clean:
	rm -rf $(DEMO) $(TEST) $(HF) $(SITE) $(ZOO) build dist *.egg-info
