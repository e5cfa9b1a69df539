"""What all tests share: ranks, folders, meshes, and how pytest behaves on several ranks.

`pytest` runs everything on one rank. `test_ranks.py` starts the files marked `pytestmark =
pytest.mark.ranks` again on 2, 3 and 4 ranks; by hand: scripts/mpirun -n 3 python -m mpi4py -m
pytest -m ranks tests/mesh/test_mesh.py. `pytest --slow` adds the tests marked slow, and on several
ranks those marked long and all variants of tests that have many. `make test` runs two tests at a
time, and those marked alone after all others. `pytest --margins FILE` notes how near numbers come
to their bounds: margins.py.
"""

import faulthandler
import os
import shutil
import tempfile
import time
from pathlib import Path

import hypothesis
import pytest
from margins import Margins
from meshes import MESHES
from mpi4py import MPI

from fvot.output import drawing
from fvot.parallel import Ranks

RANK, SIZE = MPI.COMM_WORLD.rank, MPI.COMM_WORLD.size
HANGS = 120  # seconds after which a test on several ranks is taken to hang
MANY_VARIANTS = 4  # from so many on, a test on several ranks runs every other one of them
VERY_MANY_VARIANTS = 12  # and from so many on, every fourth

# The same examples on all ranks, else they would wait for each other in different places.
hypothesis.settings.register_profile(
    "fvot",
    deadline=None,
    derandomize=True,
    max_examples=20,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
hypothesis.settings.load_profile("fvot")


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the slow tests, too")
    parser.addoption(
        "--margins",
        metavar="FILE",
        default=os.environ.get("FVOT_MARGINS"),
        help="note in a file how near numbers come to their bounds (margins.py)",
    )


@pytest.hookimpl(trylast=True)  # after the reporter has been made
def pytest_configure(config):
    config.addinivalue_line(
        "markers", "ranks: the test holds on any number of ranks, and is run on several"
    )
    config.addinivalue_line(
        "markers",
        "alone: the test starts several ranks, or is killed: nothing else should run beside it",
    )
    config.addinivalue_line("markers", "slow: the test takes long; it runs with --slow only")
    config.addinivalue_line(
        "markers", "long: the test takes seconds; on several ranks it runs with --slow only"
    )
    if config.option.margins:
        path = os.environ["FVOT_MARGINS"] = os.path.abspath(
            config.option.margins
        )  # for runs that tests start
        config.pluginmanager.register(Margins(path, SIZE), "fvot-margins")
    if SIZE > 1:
        config.pluginmanager.register(OnRanks(), "fvot-ranks")
        if RANK > 0:
            config.pluginmanager.unregister(name="terminalreporter")


def pytest_collection_modifyitems(config, items):
    if not config.option.slow and not any("::" in arg for arg in config.args):
        slow = [
            item
            for item in items
            if item.get_closest_marker("slow") or SIZE > 1 and item.get_closest_marker("long")
        ]
        others = [] if SIZE == 1 else find_variants_of_other_sizes(items)
        config.hook.pytest_deselected(items=[*slow, *others])
        left_out = {id(item) for item in [*slow, *others]}
        items[:] = [item for item in items if id(item) not in left_out]


def find_variants_of_other_sizes(items):
    """Of tests with many variants, those that do not run on this number of ranks: 2 and 3 ranks
    share them, each taking every other one, or every fourth of very many.
    """
    variants = {}
    for item in items:
        variants.setdefault(item.nodeid.split("[")[0], []).append(item)

    others = []
    for group in variants.values():
        if len(group) < MANY_VARIANTS:
            continue
        step = 2 if len(group) < VERY_MANY_VARIANTS else 4
        first = SIZE % 2 * step // 2
        chosen = {id(item) for item in group[first::step]}
        others += [item for item in group if id(item) not in chosen]
    return others


class OnRanks:
    """On several ranks rank 0 reports progress, and every rank its failures; a rank that hangs
    shows where, and ends.

    A failure ends the run: the ranks are out of step, and the others may wait for this one.
    """

    def __init__(self):
        self.stderr = os.fdopen(os.dup(2), "w")  # the real one: pytest captures the other

    def pytest_runtest_logstart(
        self,
    ):  # after pytest has started its own clock, which does not end the run
        faulthandler.dump_traceback_later(HANGS, exit=True, file=self.stderr)

    def pytest_runtest_logfinish(self):
        faulthandler.cancel_dump_traceback_later()

    def pytest_runtest_logreport(self, report):
        self._print(report)

    def pytest_collectreport(self, report):
        self._print(report)

    def _print(self, report):
        if report.failed:
            print(
                f"\n----- rank {RANK} of {SIZE}: {report.nodeid} failed "
                f"({report.when or 'collecting'})\n"
                f"{report.longreprtext}",
                file=self.stderr,
                flush=True,
            )
            time.sleep(1)  # others may have something to say
            MPI.COMM_WORLD.Abort(1)


@pytest.fixture(scope="session")
def ranks():
    """All ranks."""
    return Ranks()


@pytest.fixture
def one_rank_here():
    """For tests that start programs."""
    if SIZE > 1:
        pytest.skip("this is one of several ranks already")


@pytest.fixture
def mpirun_here(one_rank_here):
    """For tests that start programs on several ranks, by scripts/mpirun."""
    found_by_setup = Path(__file__).parent.parent / ".venv" / "mpirun"
    if not found_by_setup.exists() and shutil.which("mpirun") is None:
        pytest.skip("no mpirun on PATH")


@pytest.fixture(scope="session")
def gl(ranks):
    """Skip where nothing can be drawn."""
    if not ranks.broadcast(drawing.can_draw() if ranks.is_root else None):
        pytest.skip("no OpenGL on this machine")


@pytest.fixture
def shared_folder(ranks):
    """An empty folder, the same on all ranks."""
    folder = Path(ranks.broadcast(tempfile.mkdtemp(prefix="fvot-") if ranks.is_root else None))
    yield folder
    ranks.wait()
    if ranks.is_root:
        shutil.rmtree(folder)


@pytest.fixture(scope="session", params=list(MESHES))
def kind(request):
    """The name of a kind of mesh in `meshes.MESHES`."""
    return request.param


@pytest.fixture(autouse=True)
def some_meshes_stand_for_others(request, ranks):
    """Kinds of mesh are skipped that a file calls LARGE, and, on several ranks, those not in its
    ON_RANKS.
    """
    if "kind" in request.fixturenames:
        kind = request.getfixturevalue("kind")
        module = request.module
        on_ranks = getattr(module, "ON_RANKS", MESHES)
        if kind in getattr(module, "LARGE", ()) or (ranks.size > 1 and kind not in on_ranks):
            pytest.skip("other meshes of its kind stand for it")


@pytest.fixture(scope="session")
def mesh(kind):
    """A small mesh of every kind, dealt to all ranks."""
    return MESHES[kind]()


@pytest.fixture(scope="session")
def twin(kind):
    """The same mesh, whole on every rank."""
    return MESHES[kind](comm=MPI.COMM_SELF)
