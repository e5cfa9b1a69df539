"""The pages in docs/: they are built without a warning, their blocks run, and nothing that they should name is left out."""
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fvot

pytestmark = pytest.mark.usefixtures("one_rank_here")

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
BLOCKS = {f"{page.stem}-{i}": text for page in sorted(DOCS.glob("*.md"))
          for i, text in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE))}


def test_the_pages_are_built_without_a_warning(tmp_path):
    pytest.importorskip("furo")
    done = subprocess.run([sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", DOCS, tmp_path / "html"],
                          capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    api = (tmp_path / "html" / "api.html").read_text()
    for name in fvot.__all__:
        assert f'id="fvot.{name}"' in api or f">{name}<" in api or name in ("otto", "particles", "static", "outflow"), name


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_run(name, tmp_path):
    done = subprocess.run([sys.executable, "-c", BLOCKS[name]], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


def test_all_demos_have_their_place():
    page = (DOCS / "demos.md").read_text()
    for demo in (ROOT / "demos").glob("*.py"):
        assert f"\n## {demo.stem}\n" in page, demo
    for picture in (ROOT / "demos").glob("*.png"):
        assert f"demos/{picture.name}" in page or picture.stem in ("pressure",), picture
