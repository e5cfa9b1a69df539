"""`Ledger`: the numbers of a run at its recorded times."""

from __future__ import annotations

import html
from collections.abc import Mapping

import numpy as np

from ..arguments.types import Array

# Rows of a table that are shown; where there are more, those in the middle are left out.
MAX_TABLE_ROWS = 20


class Ledger(dict[str, Array]):
    """{name: array (n_times,)} at times t, of a batch (n_times, k): a dict that notebooks show as a
    table.
    """

    def __init__(self, values: Mapping[str, Array], t: Array) -> None:
        super().__init__(values)
        self.t = t

    def __reduce__(self):
        return type(self), (dict(self), self.t)

    def _repr_html_(self):
        """What notebooks show: a row for each time, and of a batch for each member."""
        columns = {"t": self.t, **self}
        shape = np.shape(next(iter(self.values()), self.t))
        if len(shape) == 2:
            place = dict(zip(("t", "member"), np.indices(shape), strict=True))
            columns = {"t": self.t[place["t"]], "member": place["member"], **self}
            columns = {name: np.ravel(values) for name, values in columns.items()}
        n = len(columns["t"])
        rows = [[f"{values[i]:.6g}" for values in columns.values()] for i in range(n)]
        if n > MAX_TABLE_ROWS:
            half = MAX_TABLE_ROWS // 2
            rows = [*rows[:half], ["..."] * len(columns), *rows[-half:]]

        head = _format_row("th", columns)
        return f"<table>{head}{''.join(_format_row('td', row) for row in rows)}</table>"


def _format_row(tag, words):
    cells = (f"<{tag}>{html.escape(str(word))}</{tag}>" for word in words)
    return f"<tr>{''.join(cells)}</tr>"
