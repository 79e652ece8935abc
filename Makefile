# One word for each habit. `make` lists them.
.PHONY: help install test test-all lint docs docs-live wheel
help:       ## list these targets
	@grep -E '^[a-z-]+: .*##' Makefile | sed 's/:.*##/\t/' | expand -t 12
install:    ## install the package for development, and the pre-commit hooks
	pip install -e '.[dev]'
	pre-commit install
test:       ## run the fast tests
	pytest
test-all:   ## run all tests; those that need Slurm or a browser are skipped where these are missing
	pytest -m ""
lint:       ## check style, types and the direction of imports
	ruff check .
	ruff format --check .
	mypy
	lint-imports
docs:       ## build the site in site/
	mkdocs build --strict
docs-live:  ## serve the site, and rebuild it when a page changes
	mkdocs serve
wheel:      ## build the wheel in dist/
	pip wheel --no-deps --wheel-dir dist .
