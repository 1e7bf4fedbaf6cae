# What a reader types. Every target sets up .venv first; the second time that takes no time.
# Works with GNU make 3.81 (macOS) and newer. Windows without make: see README.md.

PYTHON ?= python3
DATA ?= synthetic
PROFILE ?= fast

VENV := .venv/bin/python
# Tests of one group stay in one process: tests/conftest.py says which.
PYTEST := $(VENV) -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadgroup --no-loadscope-reorder
BUILD := $(VENV) -m book.tools.build.build_book --data $(DATA) --profile $(PROFILE)

QUICK ?=
quick = $(if $(filter-out 0,$(QUICK)),--quick)

.PHONY: help setup book lab student slides test test-all screenshots cover lint lock clean clean-all
.PHONY: benchmark-speed benchmark-metrics benchmark-dense benchmark-retrieval benchmark-slide
.PHONY: tune contest ledger ablations recovery domains

help:
	@echo "make book             run the notebooks and build the site: _build/html/index.html"
	@echo "make lab              open the notebooks in JupyterLab"
	@echo "make student          student's copies of the notebooks, and the book with open solutions"
	@echo "make slides           one deck of slides a chapter: _build/html/decks"
	@echo "make test             run the tests"
	@echo "make test-all         run the slow and the browser tests too"
	@echo "make screenshots      pictures of every page: light, dark, on a phone"
	@echo "make benchmark-speed  compare our training step with a plain PyTorch loop"
	@echo "make benchmark-metrics  compare our metrics and bootstrap with plain loops"
	@echo "make benchmark-dense  cost of dense prediction against the number of points"
	@echo "make benchmark-retrieval  time, memory and recall against the number of references"
	@echo "make benchmark-slide  time and memory of whole slides"
	@echo "make contest      every method on real slides; also: make ledger, make ablations"
	@echo "                  (DATA=her2st; at most 2 hours on two cores; QUICK=1: 20 minutes;"
	@echo "                  contest with PROFILE=full is for a GPU)"
	@echo "make recovery     the rest of a slide from a part of its spots; make domains: its domains"
	@echo "                  (DATA=her2st, synthetic; domains also dlpfc)"
	@echo "make tune         choose recipes by inner validation; writes book/results/tried.csv"
	@echo "make cover            draw the picture on the first page anew"
	@echo "make lint             check style, spelling and that notebooks hold no outputs"
	@echo "make lock             resolve requirements.txt anew (needs uv)"
	@echo "make clean            remove _build; make clean-all removes .venv too"
	@echo ""
	@echo "DATA=synthetic (default) or her2st; PROFILE=fast (default) or full"

setup:
	@command -v $(PYTHON) >/dev/null 2>&1 || { \
	  echo "No $(PYTHON) found: install Python 3.11 or newer from https://www.python.org/downloads/"; \
	  exit 1; }
	@$(PYTHON) book/tools/bootstrap.py

book: setup
	@$(BUILD)

lab: setup
	@$(VENV) -m book.tools.lab

student: setup
	@$(VENV) -m book.tools.build.student
	@$(BUILD) --instructor

slides: book
	@echo "Slides, one deck a chapter:"
	@ls _build/html/decks/*.html

test: setup
	$(PYTEST) -m "not slow and not browser"

test-all: setup
	$(PYTEST)

screenshots: setup
	HECLIP_LITE_SCREENSHOTS=1 $(PYTEST) tests/tools/test_browser.py

benchmark-speed: setup
	$(VENV) -m book.tools.measure.speed

benchmark-metrics: setup
	$(VENV) -m book.tools.measure.metrics

benchmark-dense: setup
	$(VENV) -m book.tools.measure.dense

benchmark-retrieval: setup
	$(VENV) -m book.tools.measure.retrieval

benchmark-slide: setup
	$(VENV) -m book.tools.measure.wholeslide

tune: setup
	$(VENV) -m book.tools.measure.tune

contest: setup
	$(VENV) -m book.tools.measure.contest --data $(DATA) --profile $(PROFILE) $(quick)
	$(if $(quick),,$(if $(filter her2st_fast,$(DATA)_$(PROFILE)),$(VENV) -m book.tools.measure.ceilings))

ledger: setup
	$(VENV) -m book.tools.measure.ledger --data $(DATA) $(quick)
	$(VENV) -m book.tools.measure.dense_ledger --data $(DATA) $(quick)

ablations: setup
	$(VENV) -m book.tools.measure.ablations --data $(DATA) $(quick)

recovery: setup
	$(VENV) -m book.tools.measure.recovery --data $(DATA) $(quick)

domains: setup
	$(VENV) -m book.tools.measure.domains --data $(DATA) $(quick)

cover: setup
	$(VENV) -m book.tools.build.make_cover

lint: setup
	$(VENV) -m ruff check .
	$(VENV) -m ruff format --check .
	$(VENV) -m codespell_lib
	$(VENV) -m nbstripout --keep-id --verify notebooks/*.ipynb

lock:
	@command -v uv >/dev/null 2>&1 || { echo "make lock needs uv: pip install uv"; exit 1; }
	uv pip compile $(UPGRADE) pyproject.toml --extra book --extra dev --extra scale --universal --python-version 3.11 \
	  --no-header --no-annotate --no-emit-index-url --output-file requirements.txt

clean:
	rm -rf _build

clean-all: clean
	rm -rf .venv
