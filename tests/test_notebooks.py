"""fvot in the kernel of a notebook: the notebook of the documentation, bars, programs, tables."""

import base64
from pathlib import Path

import numpy as np
import pytest

from fvot.output import drawing

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")

pytestmark = [pytest.mark.alone, pytest.mark.usefixtures("one_rank_here")]

NOTEBOOKS = Path(__file__).parent.parent / "docs" / "notebooks"

# Cells that follow those of the notebook: a bar as text where a run takes long, none where it is
# short; run(main) is main(), and leaves errors to the notebook.
BAR = """
import time

def slow(x, t):
    time.sleep(0.004)
    return 1 + 0 * x

ring = fvot.Mesh.interval(0, 1, 64, periodic=True)
steady = fvot.ContinuityEquation(ring, (1.0,)).solve(ring.density(lambda x: 1 + x[0]), 0.1)
"""
LONG_RUN = "fvot.ContinuityEquation(ring, slow).solve(steady.rho[0], 1.0, tau=0.02).t"
MAIN = """
def main(n=8, name="first"):
    return n, name

fvot.run(main)
"""
FAILURE = """
def fails(n=8):
    raise fvot.InputError("n is too small")

try:
    fvot.run(fails)
except fvot.InputError as error:
    print("caught:", error)
"""


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """The executed cells: of the notebook, and the four above."""
    if not drawing.can_draw():
        pytest.skip("no OpenGL on this machine")
    notebook = nbformat.read(NOTEBOOKS / "first_steps.ipynb", 4)
    assert not [cell for cell in notebook.cells if cell.get("outputs")], "store it without outputs"
    notebook.cells += map(nbformat.v4.new_code_cell, (BAR, LONG_RUN, MAIN, FAILURE))
    folder = tmp_path_factory.mktemp("notebooks")
    client = nbclient.NotebookClient(
        notebook, timeout=100, resources=dict(metadata=dict(path=folder))
    )
    return client.execute().cells


def without_bars(outputs):
    """The outputs but for progress bars, which runs show that take long, as where kernels are
    compiled.
    """
    return [out for out in outputs if not out.get("text", "").startswith("\r")]


def test_first_steps(cells):
    """All pictures and tables appear once, and nothing is written to standard error."""
    outputs = without_bars(out for cell in cells[:-4] for out in cell.get("outputs", []))
    assert {out.output_type for out in outputs} <= {"execute_result"}
    shown = [out.data for out in outputs]
    pictures = [base64.b64decode(data["image/png"]) for data in shown if "image/png" in data]
    assert len(pictures) == 6 and all(picture.startswith(b"\x89PNG") for picture in pictures)
    assert any("<table>" in data.get("text/html", "") for data in shown)
    assert any("<= W2^2 <=" in data["text/plain"] for data in shown)


def test_bars_and_programs(cells):
    preparation, long_run, main, failure = [cell.outputs for cell in cells[-4:]]
    assert not without_bars(preparation)
    text = "".join(out.text for out in long_run if out.output_type == "stream")
    assert "%|" in text and "t = " in text
    assert main[0].data["text/plain"] == "(8, 'first')"
    assert failure[0].text == "caught: n is too small\n"


def test_tables_of_many_times_leave_out_the_middle():
    from fvot.runs.ledger import Ledger

    t = np.arange(100.0)
    table = Ledger({"mass": 1 + t, "<odd>": t}, t)._repr_html_()
    assert table.count("<tr>") == 22 and "<td>...</td>" in table and "&lt;odd&gt;" in table
    assert "<th>t</th><th>mass</th>" in table
