"""`Progress`: a bar while a run goes on."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

from ..arguments.notebook import in_notebook
from ..parallel import Ranks

# Seconds between two updates of the bar at least.
UPDATE_INTERVAL = 0.5

# The width of the bar in a notebook, in characters.
NOTEBOOK_COLUMNS = 80


class Progress:
    """A bar from *start* to *end* on rank 0, if *show* is true, or None and standard error is a
    terminal, or a notebook runs this program.

    name : of the quantity that goes from start to end, a time or a number of iterations

    with Progress(0.0, 1.0) as bar: bar.to(0.5)
    """

    def __init__(self, start: float, end: float, show: bool | None = None, name: str = "t"):
        disable: bool | None = None  # tqdm asks the terminal
        if not Ranks().is_root:
            disable = True
        elif show is not None:
            disable = not show
        elif in_notebook():
            disable = False

        place: dict[str, Any] = {}
        if in_notebook():  # as text, which needs no widgets; short runs show none
            place = dict(file=sys.stdout, ncols=NOTEBOOK_COLUMNS, delay=UPDATE_INTERVAL)
        self._bar = tqdm(
            total=end - start,
            disable=disable,
            **place,
            leave=False,
            mininterval=UPDATE_INTERVAL,
            bar_format="{l_bar}{bar}| {elapsed} < {remaining}{postfix}",
        )
        self._start = start
        self._name = name

    def to(self, t: float) -> None:
        """Move the bar to t."""
        if not self._bar.disable:
            self._bar.set_postfix_str(f"{self._name} = {t:.4g}", refresh=False)
            self._bar.update(t - self._start - self._bar.n)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._bar.close()
