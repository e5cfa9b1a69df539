"""The record of margins: what it notes of each kind of assertion, and that it changes none."""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from margins import is_of_round_off, ratio_of_closeness, ratio_of_order, ratio_to_approximation

TESTS = Path(__file__).resolve().parent
SAMPLE = """
    import numpy as np
    from numpy.testing import assert_allclose
    import pytest

    def test_orders():
        x = np.array([1.0, 2.0, 4.0])
        assert abs(x[0] - 1.5) < 1.0
        assert 1 < x[1] <= 8
        assert (x < 16).all() and x.max() > 0.5
        assert np.all(-x >= -20)
        assert max(x[x > 3]) == pytest.approx(4 + 1e-9, abs=5e-9)
        assert_allclose(x, x + 1e-10, rtol=0, atol=2e-10)
        assert np.allclose(x, x * (1 + 2e-6), rtol=1e-5, atol=0)

    def test_failure():
        assert 3 < 2
"""
RATIOS = {
    "abs(x[0] - 1.5) < 1.0": 0.5,
    "1 < x[1] <= 8": 0.5,
    "(x < 16).all()": 0.25,
    "np.all(-x >= -20)": 0.2,
    "max(x[x > 3])": 0.2,
    "assert_allclose(x, x + 1e-10": 0.5,
    "np.allclose": 0.2,
    "3 < 2": 1.5,
}


def test_ratios():
    assert ratio_of_order(1, 4) == 0.25
    assert ratio_of_order([-1, 1], [2, 2]) == 0.5
    assert ratio_of_order(-4, -2) == 0.5
    assert ratio_of_order(0, 0) is None and ratio_of_order(-1, 0) is None
    assert ratio_of_order(3, 2) == 1.5
    assert ratio_of_closeness([1, 2, np.nan], [1, 2.5, np.nan], 1.0, 0.0) == 0.5
    assert ratio_of_closeness(np.inf, np.inf, 1.0, 0.0) == 0.0
    assert ratio_to_approximation(1.5, pytest.approx(1, abs=1.0)) == 0.5
    assert ratio_to_approximation([2.5, 2], pytest.approx([2, 2], rel=0.5)) == 0.5
    assert ratio_to_approximation({"a": 2.5}, pytest.approx({"a": 2}, rel=0.5)) == 0.5
    assert is_of_round_off("assert x <= 3e-12 * size") and is_of_round_off("assert x <= 4 * EPS")
    assert not is_of_round_off("assert x < 1e-3")


def test_every_kind_of_assertion_is_noted(tmp_path, one_rank_here):
    """In files of a folder of their own, beside a copy of the plugin and a conftest."""
    for name in "margins.py", "conftest.py", "meshes.py":
        (tmp_path / name).write_text((TESTS / name).read_text())
    (tmp_path / "test_sample.py").write_text(textwrap.dedent(SAMPLE))
    run = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--color=no",
        "-p",
        "no:cacheprovider",
        "--margins",
        "found",
        "test_sample.py",
    ]
    output = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, timeout=120).stdout
    assert "1 failed, 1 passed" in output, output
    report = subprocess.run(
        [sys.executable, "margins.py", "found", "found"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    noted = {
        text: float(ratio)
        for ratio, text in re.findall(r"^ +([\d.]+)  test_sample.py:\d+  (.*)$", report, re.M)
    }
    for text, ratio in RATIOS.items():
        assert [value for whole, value in noted.items() if text in whole] == [
            pytest.approx(ratio, rel=1e-3)
        ], report
    assert (
        report.index("round-off: 2")
        < report.index("assert max(x[x > 3])")
        < report.index("others: 6")
    )
    assert "8 assertions of numbers" in report
    assert "differ between files: 0" in report
