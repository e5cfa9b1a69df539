"""What a wheel and a source distribution hold, that a wheel is enough for the examples, where
installed packages come from, and that all ways to install ask for the same.
"""

import configparser
import email
import re
import shutil
import subprocess
import sys
import tarfile
import types
import zipfile
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

from fvot.program import find_origin

pytestmark = pytest.mark.usefixtures("one_rank_here")

ROOT = Path(__file__).parent.parent
MADE = (
    ".git",
    ".venv*",
    ".*_cache",
    ".hypothesis",
    ".setup.log",
    "__pycache__",
    "*.egg-info",
    "*.nb[ic]",
    "_build",
    "build",
    "dist",
    "out",
)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the repository without what is made in it."""
    folder = tmp_path_factory.mktemp("source") / "fvot"
    shutil.copytree(ROOT, folder, symlinks=True, ignore=shutil.ignore_patterns(*MADE))
    return folder


def build(kind, source, folder):
    """The file that setuptools builds from a copy, with what this Python has."""
    copy = shutil.copytree(source, folder / "copy", symlinks=True)
    made = folder / "made"
    text = f"from setuptools import build_meta; build_meta.build_{kind}({str(made)!r})"
    done = subprocess.run(
        [sys.executable, "-c", text], cwd=copy, capture_output=True, text=True, timeout=100
    )
    if "No module named 'setuptools'" in done.stderr or "'bdist_wheel'" in done.stderr:
        pytest.skip("this Python has no setuptools, or no wheel: pip brings them when it installs")
    assert done.returncode == 0, done.stderr
    return next(made.iterdir())


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    return zipfile.ZipFile(build("wheel", source, tmp_path_factory.mktemp("wheel")))


@pytest.fixture(scope="module")
def sdist(source, tmp_path_factory):
    return tarfile.open(build("sdist", source, tmp_path_factory.mktemp("sdist")))


def files_below(folder):
    """{path from the folder: content} of all files, those behind links, too."""
    paths = [*folder.rglob("*"), *(folder / "fvot/mesh/example_files").glob("*.msh")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.is_file()}


def test_a_wheel_has_the_package_and_the_example_meshes_alone(wheel, source):
    found = {name: wheel.read(name) for name in wheel.namelist() if ".dist-info/" not in name}
    sources = files_below(source)
    expected = {
        name: content
        for name, content in sources.items()
        if name.startswith("fvot/") and name.endswith((".py", ".msh", "py.typed"))
    }
    assert found == expected
    examples = {Path(name).name for name in found if name.endswith(".msh")}
    assert examples == {path.name for path in (ROOT / "meshes").glob("*.msh")} != set()


def test_the_meshes_are_in_the_repository_once():
    link = ROOT / "fvot" / "mesh" / "example_files"
    if not link.is_symlink():
        pytest.skip("an unpacked source distribution has copies")
    assert link.resolve() == (ROOT / "meshes").resolve()


def test_a_source_distribution_has_all_files(sdist, source):
    """But for folders and links, which are files there."""
    found = {
        member.name.split("/", 1)[1]: sdist.extractfile(member).read()
        for member in sdist.getmembers()
        if member.isfile()
    }
    expected = files_below(source)
    del expected["setup.cfg"]  # setuptools writes it anew, with a section more and no comments
    assert {name for name in expected if found.get(name) != expected[name]} == set()
    extra = {name for name in found.keys() - expected.keys() if ".egg-info/" not in name}
    assert extra == {"PKG-INFO", "setup.cfg"}


def test_what_a_wheel_says_of_itself(wheel):
    name = next(name for name in wheel.namelist() if name.endswith("/METADATA"))
    metadata = email.message_from_bytes(wheel.read(name))
    assert metadata["Name"] == "fvot" and metadata["Description-Content-Type"] == "text/markdown"
    assert metadata["Requires-Python"] == ">=3.10" and "PETSc" in metadata["Keywords"]
    assert "Typing :: Typed" in metadata.get_all("Classifier")
    assert {"mpi", "petsc", "test", "docs", "mesh"} <= set(metadata.get_all("Provides-Extra"))
    plain = [text for text in metadata.get_all("Requires-Dist") if "extra ==" not in text]
    assert not any(text.startswith(("petsc4py", "mpi4py", "dolfinx")) for text in plain)


RUN = """
import sys
sys.path.insert(0, {folder!r})
import fvot
assert fvot.__file__.startswith({folder!r}), fvot.__file__
print(fvot.example_mesh("two_rooms").n_cells_global, fvot.example_mesh("ball").n_cells_global)
"""


def test_examples_of_an_installed_wheel(wheel, tmp_path):
    wheel.extractall(tmp_path / "site")
    script = RUN.format(folder=str(tmp_path / "site"))
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=100
    )
    assert (done.returncode, done.stdout) == (0, "1974 4221\n"), done.stderr


def test_demos_take_their_meshes_from_the_package():
    """So that they run wherever they are copied to."""
    for demo in (ROOT / "demos").glob("*.py"):
        assert "__file__" not in demo.read_text(), demo


# ---- where packages come from --------------------------------------------------------------------


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A function that installs a package of one module, as the named installer does."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(module, name, version, installer):
        (tmp_path / module).mkdir()
        (tmp_path / module / "__init__.py").touch()
        notes = tmp_path / f"{name}-{version}.dist-info"
        notes.mkdir()
        (notes / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        (notes / "top_level.txt").write_text(f"{module}\n")
        if installer:
            (notes / "INSTALLER").write_text(f"{installer}\n")

    return install


@pytest.mark.parametrize("installer", ["pip", "conda"])
def test_the_origin_of_a_package(installer, installed):
    installed("moved", "moved", "1.2", installer)
    assert find_origin("moved") == f"1.2 ({installer})"


def test_the_origin_of_a_package_inside_another_wheel(installed, monkeypatch):
    installed("inner", "outer_wheel", "0.11", "pip")
    monkeypatch.setitem(
        sys.modules, "inner", types.SimpleNamespace(__version__="3.25", __spec__=None)
    )
    monkeypatch.setattr("importlib.util.find_spec", PathFinder.find_spec)
    assert find_origin("inner") == "3.25 (pip, in outer_wheel 0.11)"


def test_the_origin_of_a_package_that_nobody_installed(installed, tmp_path):
    installed("built", "built", "1.2", None)
    assert find_origin("built") == f"1.2 ({tmp_path})"
    assert find_origin("nowhere_to_be_found") == "not found"


# ---- what other ways to install say of the package -----------------------------------------------

# Names on conda-forge of packages that are called otherwise on PyPI.
ON_CONDA = {"matplotlib": "matplotlib-base"}


def bounds(text):
    """{name: lowest version} of a list of requirements."""
    return dict(re.findall(r"^ *(?:- )?([\w-]+) ?>=([\d.]+)", text, re.MULTILINE))


def required():
    """{name: lowest version} of all that fvot imports, from setup.cfg."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = config["options.extras_require"]
    return bounds(config["options"]["install_requires"]) | bounds(extras["mpi"])


def test_the_environment_of_conda_has_all_requirements():
    found = bounds((ROOT / "environment.yml").read_text())
    expected = required()
    assert len(expected) > 10
    assert {name: found.get(name) for name in expected} == expected


def test_the_recipe_of_conda_has_all_requirements():
    text = (ROOT / "packaging" / "conda" / "recipe.yaml").read_text()
    expected = {ON_CONDA.get(name, name): lowest for name, lowest in required().items()}
    assert bounds(text.partition("  run:\n")[2].partition("\ntests:")[0]) == expected

    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert re.search(r"^  version: (\S+)$", text, re.MULTILINE)[1] == config["metadata"]["version"]
    python_min = re.search(r'^  python_min: "(\S+)"$', text, re.MULTILINE)[1]
    assert config["options"]["python_requires"] == f">={python_min}"
    assert config["metadata"]["license"] == re.search(r"^  license: (\S+)$", text, re.MULTILINE)[1]


def test_the_ways_to_install_are_those_of_the_page():
    """What docs/install.md names is there."""
    page = (ROOT / "docs" / "install.md").read_text()
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    for extra in re.findall(r"\[(\w+)\](?!\()", page):
        assert extra in config["options.extras_require"], extra
    for path in re.findall(r"(?:packaging|scripts)/[\w./]+\w", page):
        assert (ROOT / path).exists(), path
    for target in re.findall(r"^make ([\w-]+)", page, re.MULTILINE):
        assert f"\n{target}:" in (ROOT / "Makefile").read_text(), target
    assert "environment.yml" in page and "dolfinx-solver-real" in page


def test_make_demo_knows_whether_it_can_draw():
    lines = (ROOT / "Makefile").read_text().splitlines()
    (program,) = [line.removeprefix("draws = ") for line in lines if line.startswith("draws = ")]
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in ("", "--no-pictures")
