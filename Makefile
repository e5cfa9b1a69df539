# Every target makes .venv first (scripts/setup.sh, nothing to do when it is up to date).
RANKS = 2
PYTEST = -q
LIMIT = 2400
PROCESSORS = Prescott Haswell
draws = from fvot.output.drawing import can_draw; print('' if can_draw() else '--no-pictures')

# At a terminal, Ctrl-C must reach the tests; elsewhere the limit must end the runs that they have started, too.
timeout = timeout $(shell test -t 0 && echo --foreground) --kill-after=10 $(LIMIT)

.PHONY: demo test test-processors bench bench-closely docs lint clean setup

# Without pictures where VTK finds no OpenGL, as on a server without root.
demo: setup
	$(eval pictures := $(shell .venv/bin/python -c "$(draws)"))
	$(if $(pictures),$(info fvot: no pictures, since VTK finds no OpenGL here (docs/install.md)))
	scripts/mpirun -n $(RANKS) python -m mpi4py demos/harbour.py $(pictures)
	scripts/mpirun -n $(RANKS) python -m mpi4py demos/geodesic.py $(pictures)

# First what needs one rank, on two cores; then what starts several ranks, with the machine to itself. Threads of the
# linear algebra in NumPy's wheels would wait for each other on the busy cores.
test: export OMP_NUM_THREADS = 1
test: setup
	$(timeout) .venv/bin/python -m pytest $(PYTEST) -n 2 -m "not alone"
	$(timeout) .venv/bin/python -m pytest $(PYTEST) -m alone

# The tests as on other x86 processors (Haswell needs AVX2): OpenBLAS adds up in an order of its own on each. The variable
# reaches the libraries of numpy, scipy and the system, and mpirun hands it on. Before a release, or where solvers have changed.
test-processors: setup
	for core in $(PROCESSORS); do echo "as on $$core"; OPENBLAS_CORETYPE=$$core $(MAKE) test || exit; done

# The figures that README quotes: benchmarks/RESULTS.md and its pictures, some 15 minutes.
bench: setup .venv-peers/ready
	scripts/mpirun -n 1 python benchmarks/suite.py --out benchmarks

# One solver each, closely, and fluxes to corners: an hour and a quarter.
bench-closely: setup .venv-peers/ready
	for name in continuity fokker_planck jko transport corners; do \
	scripts/mpirun -n 1 python benchmarks/$$name.py --out benchmarks/RESULTS_$$name.md || exit; done

# The packages that the benchmarks compare with; without a network they go on without them.
.venv-peers/ready: benchmarks/peers.txt
	-rm -rf .venv-peers && python3 -m venv .venv-peers && \
	.venv-peers/bin/python -m pip install --quiet -r benchmarks/peers.txt && touch $@
	-.venv-peers/bin/python -m pip install --quiet clawpack==5.12.0     # compiled here: needs gfortran

docs: setup
	.venv/bin/python -m sphinx -q -W --keep-going -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

lint: setup
	.venv/bin/python -m ruff format --check .
	.venv/bin/python -m ruff check .
	.venv/bin/python -m mypy

setup:
	@sh scripts/setup.sh

# Results and caches; .venv stays.
clean:
	rm -rf out build dist docs/_build *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name .venv -prune -o -name __pycache__ -prune -exec rm -rf {} +
