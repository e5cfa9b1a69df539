"""The machine of a benchmark: its processor, the versions in use and the memory bandwidth of one
core; tables to read.

python benchmarks/machine.py
"""

import os
import platform
import re
from importlib.metadata import version
from pathlib import Path
from time import perf_counter, process_time

import numba
import numpy as np

import fvot
from fvot.parallel import Ranks

ranks = Ranks()


# ---- time ----------------------------------------------------------------------------------------


def timed(work, repetitions=7):
    """CPU and wall seconds of work(), (2, repetitions), of the slowest rank; the first call is not
    counted.
    """
    work()
    seconds = np.empty((2, repetitions))
    for i in range(repetitions):
        ranks.wait()
        cpu = process_time()
        wall = perf_counter()
        work()
        seconds[:, i] = process_time() - cpu, perf_counter() - wall
    return ranks.max(seconds)


# ---- the machine ---------------------------------------------------------------------------------


@numba.njit(error_model="numpy")
def _triad(a, b, c, factor):
    for i in range(len(a)):
        a[i] = b[i] + factor * c[i]


def bandwidth(megabytes=512, repetitions=7):
    """Bytes per second of a = b + 3 c on all ranks together, each with three arrays far larger than
    a cache.

    24 bytes for each entry: what is read and what is written, without the line that a write first
    fetches.
    """
    n = megabytes * 10**6 // 8
    a = np.zeros(n)
    b = np.ones(n)
    c = np.ones(n)
    cpu, _ = timed(lambda: _triad(a, b, c, 3.0), repetitions)
    return ranks.size * 24 * n / cpu.min()


def processor():
    """The name of the processor, as far as the system tells."""
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def rows():
    """What a table of results must say of the machine, but for its bandwidth: (what, value)."""
    from petsc4py import PETSc

    return [
        ("processor", processor()),
        ("cores", os.cpu_count()),
        ("ranks", ranks.size),
        ("load at the start", f"{os.getloadavg()[0]:.1f}"),
        ("Python", platform.python_version()),
        ("numpy", np.__version__),
        ("numba", version("numba")),
        ("PETSc", ".".join(map(str, PETSc.Sys.getVersion()))),
    ]


# ---- tables --------------------------------------------------------------------------------------


class Report:
    """Text and tables in Markdown, shown as they come, and kept for a file."""

    def __init__(self):
        self.text = []

    def say(self, text):
        self.text.append(text)
        fvot.say(text)

    def table(self, head, lines):
        """Numbers to the right, words to the left."""
        cells = [[str(cell) for cell in line] for line in [head, *lines]]
        width = [max(map(len, column)) for column in zip(*cells)]
        right = [
            all(re.match(r"[-+<]?\s*\d|-?$", line[i]) for line in cells[1:])
            for i in range(len(head))
        ]
        rule = ["-" * (w - 1) + ":" if r else "-" * w for w, r in zip(width, right)]
        aligned = [
            [cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(line, width, right)]
            for line in cells
        ]
        self.say(
            "\n".join(f"| {' | '.join(line)} |" for line in [aligned[0], rule, *aligned[1:]]) + "\n"
        )

    def measure(self, part, works):
        """Do the *part* of the works {name: function}, or all of them; say how long each took, and
        what the load is then.
        """
        for name, work in works.items():
            if part in ("all", name):
                begin = perf_counter()
                work()
                self.say(f"(This part took {perf_counter() - begin:.0f} s.)\n")
        self.say(f"Load at the end: {os.getloadavg()[0]:.1f}.")

    def write(self, path):
        if path and ranks.is_root:
            Path(path).write_text("\n".join(self.text))


def main():
    """Print the machine and its bandwidth."""
    report = Report()
    report.table(("machine", ""), [*rows(), ("bandwidth", f"{bandwidth() / 1e9:.1f} GB/s")])


if __name__ == "__main__":
    fvot.run(main)
