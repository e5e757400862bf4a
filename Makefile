# `make run` opens the page and `make test` runs the tests; both set up .venv first (tools/setup.sh).
#
#   make run PORT=8000            another port than 7860
#   make run PYTHON=python3.12    the Python of a .venv that is not made yet; otherwise the newest on PATH
#   make test SLOW=1             the slow tests too, as before a change lands
#   make check                    lint and test, as before every commit
#   make soak                     kills, full disks, starts and odd files for twenty minutes (benchmarks/soak)

PORT ?= 7860
python = .venv/bin/python

.PHONY: run test lint check soak

run:
	@sh tools/setup.sh requirements.txt
	$(python) app.py --port $(PORT)

test:
	@sh tools/setup.sh requirements.txt requirements-dev.txt
	$(python) tests/support/browser.py
	$(python) -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(if $(SLOW),,-m "not slow")

lint:
	@sh tools/setup.sh requirements.txt requirements-dev.txt
	$(python) -m ruff check
	$(python) -m ruff format --check

check: lint test

soak:
	@sh tools/setup.sh requirements.txt requirements-dev.txt
	$(python) -m benchmarks.soak
