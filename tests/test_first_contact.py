"""What a newcomer meets: scripts beside a clone, places that nobody can write to, help, ~ in paths,
PETSc's log.
"""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fvot import Checkpoint, FokkerPlanck, InputError, Mesh, Output, kernel_cache, linalg

ROOT = Path(__file__).parent.parent
DEMOS = sorted((ROOT / "demos").glob("*.py"))


def without_mpi(**more):
    """The environment for a program of one rank, or for mpirun."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("OMPI_", "PMIX_"))
    }
    return kept | {"OMP_NUM_THREADS": "1"} | more


def python(*words, folder, **more):
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=folder,
        env=without_mpi(**more),
        capture_output=True,
        text=True,
        timeout=300,
    )


# ---- a script beside a clone ---------------------------------------------------------------------

FIND = """
import importlib.util, site, sys
site.addsitedir({installed!r})
sys.path += {others!r}
found = importlib.util.find_spec("fvot")
print(found.origin, found.submodule_search_locations[0])
"""


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A copy of what is packed, in a folder named fvot."""
    folder = tmp_path_factory.mktemp("beside") / "fvot"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "fvot", folder / "fvot", ignore=ignored)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.mark.parametrize("kind", ["editable", "wheel"])
def test_a_script_beside_the_clone_finds_the_package(kind, clone, tmp_path):
    """By what setuptools installs of it, and nothing else that this Python knows of fvot."""
    build = f"from setuptools import build_meta; build_meta.build_{kind}({str(tmp_path)!r})"
    made = python("-c", build, folder=clone)
    if (
        "No module named 'setuptools'" in made.stderr
        or "invalid command 'bdist_wheel'" in made.stderr
    ):
        pytest.skip("this Python has no setuptools, or no wheel: pip brings them when it installs")
    assert made.returncode == 0, made.stderr

    installed = tmp_path / "installed"
    zipfile.ZipFile(next(tmp_path.glob("*.whl"))).extractall(installed)
    package = (clone if kind == "editable" else installed) / "fvot"
    script = tmp_path / "script.py"
    for others in ([], [sysconfig.get_path("purelib")]):
        script.write_text(FIND.format(installed=str(installed), others=others))
        beside = clone.parent / "script.py"
        shutil.copy(script, beside)
        for words, folder in (
            (["-S", beside], tmp_path),
            (["-S", "-c", script.read_text()], clone.parent),
            (["-S", "-c", script.read_text()], clone),
        ):
            found = python(*words, folder=folder, PYTHONPATH="").stdout.split()
            expected = clone / "fvot" if folder == clone else package
            assert found == [str(expected / "__init__.py"), str(expected)]


def installed_from():
    """The folders of editable installations of fvot."""
    told = [
        found.read_text("direct_url.json")
        for found in importlib.metadata.distributions(name="fvot")
    ]
    return [json.loads(text)["url"].removeprefix("file://") for text in told if text]


@pytest.mark.skipif(
    str(ROOT) not in installed_from(), reason="another fvot is installed in this Python, or none"
)
@pytest.mark.parametrize("way", ["script", "command"])
def test_a_script_beside_this_clone(way, tmp_path):
    (tmp_path / "fvot").symlink_to(ROOT)
    script = tmp_path / "script.py"
    script.write_text("import fvot; print(fvot.Mesh.interval(0, 1, 3).n_cells)")
    words = [script] if way == "script" else ["-c", script.read_text()]
    done = python(*words, folder=tmp_path, PYTHONPATH="")
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr


# ---- places that cannot be written to ------------------------------------------------------------

RUN = """
import sys
import numba
import fvot
mesh = fvot.Mesh.interval(0, 1, 20)
result = fvot.FokkerPlanck(mesh, diffusion=0.1).solve(mesh.density(lambda x: x[0] < 0.5), 1.0)
mass = result.ledger["mass"][-1].round(12)
sys.stdout.write(f"{fvot.__file__} {numba.config.CACHE_DIR} {mass}\\n")
"""


@pytest.fixture
def locked(tmp_path):
    """A copy of the package beside whose sources nothing can be kept, by whoever runs the tests."""
    package = tmp_path / "site" / "fvot"
    shutil.copytree(ROOT / "fvot", package, ignore=shutil.ignore_patterns("__pycache__"))
    for source in list(package.rglob("*.py")):
        (source.parent / "__pycache__").touch()  # a file stands where the folder would be
    (tmp_path / "temporary").mkdir()
    return tmp_path


def homeless(locked):
    return dict(
        PYTHONPATH=str(locked / "site"),
        HOME="/dev/null",
        XDG_CACHE_HOME="/dev/null/cache",
        TMPDIR=str(locked / "temporary"),
        NUMBA_CACHE_DIR="",
    )


def test_neither_package_nor_home_can_be_written(locked):
    for _ in range(2):
        done = python("-c", RUN, folder=locked, **homeless(locked))
        assert done.returncode == 0, done.stderr
        file, folder, mass = done.stdout.split()
        kept = sorted(Path(folder).rglob("*.nb?"))
        assert (file, float(mass)) == (str(locked / "site" / "fvot" / "__init__.py"), 1.0)
        assert (
            Path(folder).parent == locked / "temporary"
            and Path(folder).stat().st_mode & 0o777 == 0o700
        )
        times = [path.stat().st_mtime_ns for path in kept]
    assert kept and times == [
        path.stat().st_mtime_ns for path in kept
    ]  # the second run has compiled nothing


@pytest.mark.alone
def test_ranks_share_the_place(locked):
    done = subprocess.run(
        [ROOT / "scripts" / "mpirun", "-n", "2", sys.executable, "-c", RUN],
        cwd=locked,
        env=without_mpi(**homeless(locked)),
        capture_output=True,
        text=True,
        timeout=300,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert len(lines) == 2 and len(set(lines)) == 1
    assert [path.name for path in (locked / "temporary").glob("fvot*")] == [
        f"fvot-kernels-{os.getuid()}"
    ]


def test_kernels_stay_where_numba_puts_them_if_it_can(tmp_path):
    shutil.copytree(ROOT / "fvot", tmp_path / "fvot", ignore=shutil.ignore_patterns("__pycache__"))
    done = python("-c", RUN, folder=tmp_path, PYTHONPATH=str(tmp_path), NUMBA_CACHE_DIR="")
    assert done.stdout.split() == [str(tmp_path / "fvot" / "__init__.py"), "1.0"]
    assert list(tmp_path.rglob("*.nbi"))


@pytest.mark.parametrize("kind", ["open to all", "a link", "a file"])
def test_a_place_that_others_can_change_is_not_taken(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    usual = tmp_path / f"fvot-kernels-{os.getuid()}"
    if kind == "open to all":
        usual.mkdir()
        usual.chmod(0o777)
    elif kind == "a link":
        (tmp_path / "elsewhere").mkdir()
        usual.symlink_to(tmp_path / "elsewhere")
    else:
        usual.touch()
    taken = Path(kernel_cache._make_temporary_folder())
    assert taken != usual and taken.is_dir() and taken.stat().st_mode & 0o777 == 0o700


# ---- programs ------------------------------------------------------------------------------------

HELP = """
import runpy, sys
for path in {paths!r}:
    for word in ("-h", "--help"):
        sys.argv = [path, word]
        try:
            runpy.run_path(path, run_name="__main__")
        except SystemExit as end:
            print("status", end.code)
"""


def test_all_demos_print_help(tmp_path):
    done = python("-c", HELP.format(paths=[str(path) for path in DEMOS]), folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    *texts, rest = done.stdout.split("status 0\n")
    assert len(texts) == 2 * len(DEMOS) >= 26 and rest == ""
    for path, short, long in zip(DEMOS, texts[::2], texts[1::2]):
        assert short == long and short.startswith(f"usage: {path} ") and "--help " in short
    assert not list(tmp_path.iterdir())


PROGRAM = """
import fvot

def main(n=20, out="out/run", late=False):
    '''Solve a small problem.'''
    mesh = fvot.Mesh.interval(0, 1, n)
    result = fvot.FokkerPlanck(mesh, diffusion=0.1).solve(mesh.density(lambda x: x[0] < 0.5), 1.0)
    result.write(f"{out}/x.pvd")
    fvot.say("done")

fvot.run(main)
"""


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


@pytest.mark.parametrize("words", [["-h"], ["--n", "3", "-ksp_monitor", "-h"]])
def test_help_alone(words, program, tmp_path):
    done = python(program, *words, folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Solve a small problem." in done.stdout and "done" not in done.stdout


@pytest.mark.alone
def test_help_on_ranks(program, tmp_path):
    done = subprocess.run(
        [ROOT / "scripts" / "mpirun", "-n", "3", sys.executable, program, "-h"],
        cwd=tmp_path,
        env=without_mpi(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout.count("usage:")) == (0, 1)


def test_options_of_petsc_that_begin_like_help(program, tmp_path):
    done = python(program, "-history", "-help_me_not", "3", folder=tmp_path)
    first_line, *_ = done.stdout.splitlines()
    assert (done.returncode, first_line) == (0, "done")  # then PETSc may say that nothing used them


@pytest.mark.parametrize(
    "value, file",
    [
        (":out/petsc.log", "out/petsc.log"),
        ("ascii:my logs/petsc.csv:ascii_csv", "my logs/petsc.csv"),
    ],
)
def test_petsc_logs_to_a_file(value, file, program, tmp_path):
    done = python(program, "-log_view", value, folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, "done\n")
    assert "PETSC ERROR" not in done.stderr
    assert "MatSolve" in (tmp_path / file).read_text()


@pytest.mark.parametrize(
    "word, handed",
    [
        (":a/b/c.log", ":a/b/c.log"),
        (":~/logs/x", ":{home}/logs/x"),
        ("ascii:~/y/x:ascii_info", "ascii:{home}/y/x:ascii_info"),
        ("-log_view", "-log_view"),
        ("1e-8", "1e-8"),
        ("a/b", "a/b"),
        ("::ascii_info", "::ascii_info"),
        ("draw:x/y", "draw:x/y"),
    ],
)
def test_folders_of_what_petsc_writes(word, handed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    handed = handed.format(home=tmp_path / "home")
    assert linalg._with_folder(word) == handed
    file = handed.split(":")[1] if handed.startswith((":", "ascii:")) else ""
    assert Path(file).parent.is_dir() and Path("a").exists() == (word == ":a/b/c.log")


@pytest.mark.parametrize(
    "value, words",
    [
        (":/dev/null/a.log", "cannot write /dev/null/a.log"),
        (":taken/a.log", "cannot write taken/a.log"),
        (":folder", "cannot write folder"),
        (":a.xml:ascii_xml", "set PETSC_OPTIONS='-log_view :a.xml:ascii_xml'"),
    ],
)
def test_a_log_that_cannot_be_is_refused(value, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=words):
        linalg.set_options(["-log_view", value])


def test_it_is_refused_before_the_run(program, tmp_path):
    done = python(program, "-log_view", ":/dev/null/a.log", folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr.startswith("error: PETSc cannot write /dev/null/a.log")
        and "PETSC ERROR" not in done.stderr
    )


# ---- paths ---------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def result():
    mesh = Mesh.rectangle((0, 0), (1, 1), (4, 4))
    return FokkerPlanck(mesh, diffusion=0.1).solve(mesh.density(lambda x: 1 + x[0]), [0.0, 0.1])


def test_home_in_paths_that_are_written(gl, home, result):
    result.write("~/a/x.pvd")
    result.write(Path("~") / "x.vtkhdf")
    result.plot("~/b/x.png", width=100)
    result.movie("~/b/x.gif", width=100)
    mesh = result.mesh
    FokkerPlanck(mesh, diffusion=0.1).solve(
        result.rho[0], 0.1, write=Output("~/c.vtkhdf"), checkpoint=Checkpoint("~/d/run.h5", every=0)
    )
    for name in (
        "a/x.pvd",
        "a/x/x_0001_0.vtu",
        "x.vtkhdf",
        "b/x.png",
        "b/x.gif",
        "c.vtkhdf",
        "d/run.h5",
    ):
        assert (home / name).is_file(), name
    assert not Path("~").exists()


def test_home_in_paths_that_are_read(home):
    shutil.copy(ROOT / "meshes" / "l_shape.msh", home / "mine.msh")
    assert Mesh.read("~/mine.msh").n_cells > 0
    Image.fromarray(np.full((3, 3), 200, np.uint8)).save(home / "grey.png")
    mesh = Mesh.rectangle((0, 0), (1, 1), (3, 3))
    np.testing.assert_allclose(mesh.density("~/grey.png"), 1, rtol=1e-12)


@pytest.mark.parametrize(
    "call",
    [
        lambda path, result: Mesh.read(f"{path}.msh"),
        lambda path, result: result.mesh.density(f"{path}.png"),
        lambda path, result: result.write(f"{path}.pvd"),
        lambda path, result: result.plot(f"{path}.png"),
        lambda path, result: (
            Checkpoint(f"{path}.h5")
            and FokkerPlanck(result.mesh, diffusion=1).solve(
                result.rho[0], 1.0, checkpoint=Checkpoint(f"{path}.h5")
            )
        ),
    ],
    ids=["mesh", "image", "series", "picture", "checkpoint"],
)
def test_the_home_of_nobody(call, result):
    with pytest.raises(InputError, match="no home folder is known for ~nobody_of_this_name"):
        call("~nobody_of_this_name/x", result)


@pytest.mark.parametrize(
    "read",
    [Mesh.read, lambda path: Mesh.rectangle(0, 1, (2, 2)).density(path.with_suffix(".png"))],
    ids=["mesh", "image"],
)
def test_what_cannot_be_read(read, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may read everything
    for suffix in (".msh", ".png"):
        (tmp_path / f"x{suffix}").touch()
    with pytest.raises(InputError, match="is not readable by this user"):
        read(tmp_path / "x.msh")
    with pytest.raises(InputError, match="there is no (mesh|image) file"):
        read(tmp_path / "nowhere" / "x.msh")


@pytest.mark.parametrize("suffix", [".pvd", ".vtkhdf", ".png", ".gif"])
def test_folders_that_cannot_be_made(suffix, result, tmp_path):
    (tmp_path / "taken").touch()
    calls = {".png": result.plot, ".gif": result.movie}
    with pytest.raises(InputError, match="cannot write .*taken.*choose a place"):
        calls.get(suffix, result.write)(tmp_path / "taken" / f"x{suffix}")


def test_demos_write_below_home(home):
    done = python(
        ROOT / "demos" / "harbour.py", "--tide", "0.1", "--no-pictures", "--out=~/tide", folder=home
    )
    assert done.returncode == 0, done.stderr
    assert (home / "tide" / "ledger.csv").is_file()
    assert not (home / "~").exists()
