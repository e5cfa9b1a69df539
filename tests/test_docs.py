"""The pages in docs/: they are built without a warning, their blocks run, and nothing that they
should name is left out.
"""

import doctest
import functools
import inspect
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import fvot
from fvot.output import drawing

pytestmark = pytest.mark.usefixtures("one_rank_here")

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
DEMOS = sorted((ROOT / "demos").glob("*.py"))
PAGES = sorted(
    [
        ROOT / "README.md",
        *DOCS.glob("*.md"),
        *(DOCS / "api").glob("*.md"),
        *(DOCS / "demos").glob("*.md"),
        *(DOCS / "developers").glob("*.md"),
    ]
)
# The first block of these is run by test_readme.py, with its numbers.
COMPARED = {
    f"{page}-0"
    for page in (
        "continuity",
        "fokker_planck",
        "transport",
        "gradient_flows",
        "witnesses",
        "meshes",
    )
}
BLOCKS = {
    name: text
    for page in PAGES
    if page.name != "README.md"
    for i, text in enumerate(
        re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    )
    if (name := f"{page.stem}-{i}") not in COMPARED
}


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    """The folder of the pages, built as `make docs` does."""
    for package in ("furo", "sphinx_copybutton", "sphinx-mathjax-offline"):
        if find_spec(package) is None:
            pytest.skip(f"no {package}")

    folder = tmp_path_factory.mktemp("html")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html"]
    done = subprocess.run([*command, DOCS, folder], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_pages_have_all_that_is_public(html):
    pages = [page.read_text() for page in (html / "api").glob("*.html")]
    shown = [name for page in pages for name in re.findall(r'id="(fvot[\w.]*)"', page)]
    assert set(public_names()) <= set(shown), sorted(set(public_names()) - set(shown))
    assert len(set(shown)) == len(shown)
    assert not [name for name in shown if re.search(r"\._", name)]
    assert not [page for page in pages if "_typing" in page]  # types are told in words

    overview = (html / "api.html").read_text()
    missing = [name for name in public_names() if is_listed(name) and f'#{name}"' not in overview]
    assert missing == []


def is_listed(name):
    """Whether the overview has it: what is in fvot or in one of its modules, no methods."""
    parent = functools.reduce(getattr, name.split(".")[1:-1], fvot)
    return inspect.ismodule(parent)


def test_the_pages_need_no_network(html):
    assert (html / "_static" / "tex-svg.js").stat().st_size > 1e6
    loaded = re.compile(r"<(?:script|link|img|source|iframe)\b[^>]*\b(?:src|href)=\"([^\"]*)\"")
    for page in html.rglob("*.html"):
        for target in loaded.findall(page.read_text()):
            assert not re.match(r"\w+:|//", target), (page, target)
            assert (page.parent / target.partition("?")[0].partition("#")[0]).exists(), target
    for style in html.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import)\s*[\"']?(?:https?:|//)", style.read_text()), style


def public_names():
    """What users call, by its full name: functions, classes, their methods and properties."""
    for name in fvot.__all__:
        thing = getattr(fvot, name)
        if inspect.ismodule(thing):
            yield from (f"fvot.{name}.{function}" for function in thing.__all__)
            continue
        yield f"fvot.{name}"
        if inspect.isclass(thing) and not issubclass(thing, Exception):
            members = (member for member in dir(thing) if not member.startswith("_"))
            yield from (
                f"fvot.{name}.{member}"
                for member in members
                if inspect.getdoc(getattr(thing, member, None))
                and (
                    callable(getattr(thing, member))
                    or isinstance(
                        inspect.getattr_static(thing, member), (property, functools.cached_property)
                    )
                )
            )


def documented():
    """{full name: object} of all that has a docstring of its own and may have an example."""
    things = {}
    for name in public_names():
        thing = fvot
        for part in name.split(".")[1:]:
            thing = inspect.getattr_static(thing, part)
            thing = getattr(thing, "__func__", getattr(thing, "func", thing))
        things[name] = thing
    return things


EXAMPLES = {
    name: tests
    for name, thing in documented().items()
    if (
        tests := [
            test
            for test in doctest.DocTestFinder(recurse=False).find(thing, name, globs={})
            if test.examples
        ]
    )
}


SHOW = sys.__displayhook__


def show_plainly(value):
    """Show a value as Python does, unless NumPy 1 and 2 show it differently, as their scalars."""
    values = value if isinstance(value, (tuple, list)) else (value,)
    assert not any(isinstance(one, np.generic) for one in values), f"{value!r} is a NumPy scalar"
    SHOW(value)


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_in_docstrings_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "__displayhook__", show_plainly)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for test in EXAMPLES[name]:
        runner.run(test)
    assert runner.failures == 0


def test_every_public_class_has_an_example():
    classes = [
        name
        for name in fvot.__all__
        if inspect.isclass(getattr(fvot, name)) and not issubclass(getattr(fvot, name), Exception)
    ]
    assert {f"fvot.{name}" for name in classes} <= EXAMPLES.keys()


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_run(name, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", BLOCKS[name]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
    )
    if "this machine cannot draw" in done.stderr and not drawing.can_draw():
        pytest.skip("no OpenGL on this machine")
    assert done.returncode == 0, done.stderr


def test_the_first_page_shows_the_ten_lines_of_the_readme():
    readme = (ROOT / "README.md").read_text()
    lines = readme.partition("<!-- ten lines -->")[2].partition("<!-- end -->")[0]
    assert "```python\n" in lines and "](docs/swirl.png)" in lines
    assert (
        "```{include} ../README.md\n:start-after: <!-- ten lines -->"
        in (DOCS / "index.md").read_text()
    )


def toctree(page):
    """The pages below a page, and those below them."""
    for listed in re.findall(
        r"^```\{toctree\}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE
    ):
        for name in listed.splitlines():
            if name and not name.startswith(":"):
                below = page.parent / f"{name}.md"
                yield below
                yield from toctree(below)


def test_every_page_is_in_the_toctree():
    index = DOCS / "index.md"
    pages = {page for page in PAGES if page.is_relative_to(DOCS)}
    assert pages - {index} == set(toctree(index))
    assert len(list(toctree(index))) == len(pages) - 1


def test_all_demos_have_their_place():
    page = (DOCS / "demos.md").read_text()
    for demo in DEMOS:
        assert f"\n## {demo.stem}\n" in page and f"](demos/{demo.stem}.md)" in page, demo
    for picture in (ROOT / "demos").glob("*.png"):
        assert f"demos/{picture.name}" in page or picture.stem in ("pressure",), picture


@pytest.mark.parametrize("demo", DEMOS, ids=lambda demo: demo.stem)
def test_every_demo_has_a_page_with_its_source(demo):
    page = (DOCS / "demos" / f"{demo.stem}.md").read_text()
    assert f"```{{literalinclude}} ../../demos/{demo.name}\n" in page
    assert (
        f"python demos/{demo.name}" in page
        and f"scripts/mpirun -n 2 python -m mpi4py demos/{demo.name}" in page
    )
    picture = demo.with_suffix(".png")
    assert not picture.exists() or f"](../../demos/{picture.name})" in page


def test_there_is_no_page_of_a_demo_that_is_none():
    assert {page.stem for page in (DOCS / "demos").glob("*.md")} == {demo.stem for demo in DEMOS}


@pytest.mark.parametrize("demo", DEMOS, ids=lambda demo: demo.stem)
def test_the_options_on_a_page_are_those_of_its_program(demo):
    own = set(
        re.findall(r"(?<!-)--([a-z][\w-]*)", (DOCS / "demos" / f"{demo.stem}.md").read_text())
    )
    arguments = re.search(r"^def main\((.*?)\):$", demo.read_text(), re.DOTALL | re.MULTILINE)[1]
    known = {name.replace("_", "-") for name in re.findall(r"(\w+)=", arguments)}
    assert {name.removeprefix("no-") for name in own} <= known


# ---- links ---------------------------------------------------------------------------------------

SHOWN = "{image}", "{figure}", "{literalinclude}"
FENCED = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^()\s]+)\)|^```\{(?:image|figure|literalinclude)\} (\S+)", re.MULTILINE)
EXTERNAL = re.compile(r"https://[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+(:\d+)?(/[^\s<>\"]*)?")


def prose(page):
    """The text of a page without its code."""
    text = FENCED.sub(
        lambda block: block[0] if block[1].startswith(SHOWN) else "", page.read_text()
    )
    return re.sub(r"(?<!`)`[^`\n]+`(?!`)", "code", text)


def links(page):
    """Targets of the links, pictures and includes of a page; those within code are none."""
    return ["".join(found) for found in LINK.findall(prose(page))]


def anchors(page):
    """Of the headings of a page."""
    return {
        re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    }


def wrong(page, target):
    """What is wrong with a link, or None."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:|//", target):
        return None if EXTERNAL.fullmatch(target) else "is no https URL"
    name, _, anchor = target.partition("#")
    file = (page.parent / name).resolve() if name else page
    if not file.is_relative_to(ROOT.resolve()) or not file.exists():
        return "is not in the repository"
    return None if not anchor or anchor in anchors(file) else "has no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    assert [(target, wrong(page, target)) for target in links(page) if wrong(page, target)] == []
    bare = re.findall(r"https?:[^\s<>)\"\'`]*", prose(page))
    assert [url for url in bare if not EXTERNAL.fullmatch(url.rstrip(".,;"))] == []


def test_wrong_links_are_found():
    page = DOCS / "index.md"
    assert [
        wrong(page, link)
        for link in (
            "method.md",
            "method.md#fluxes",
            "../demos/swarm.py",
            "https://petsc.org/release",
        )
    ] == [None] * 4
    assert all(
        wrong(page, link)
        for link in (
            "nowhere.md",
            "method.md#nowhere",
            "http://petsc.org",
            "https://petsc",
            "https:/petsc.org",
            "../../etc",
            "//petsc.org",
        )
    )
    assert len(links(ROOT / "README.md")) > 8 and "control_volume.png" in links(DOCS / "method.md")


def test_pictures_say_what_is_in_them():
    for page in PAGES:
        text = page.read_text()
        alts = re.findall(r"!\[(.*?)\]\(", text, re.DOTALL) + re.findall(
            r"^:alt: (.*)$", text, re.MULTILINE
        )
        assert [alt for alt in alts if len(alt.split()) < 5] == [], page


def test_one_version_everywhere():
    """setup.cfg, CITATION.cff, the head of the changelog, and what is installed."""
    setup = re.search(r"^version = (\S+)$", (ROOT / "setup.cfg").read_text(), re.MULTILINE)[1]
    citation = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)[1]
    head = re.search(r"^## ([\d.]+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
    assert setup == citation == head
    assert fvot.__version__ in (setup, "0+unknown")
