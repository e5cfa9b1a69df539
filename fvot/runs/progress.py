"""`Progress`: a bar while a run goes on."""

from tqdm import tqdm

from ..parallel import Ranks


class Progress:
    """A bar from *start* to *end* on rank 0, if *show* is true, or None and standard error is a
    terminal.

    name : of what goes from start to end, a time or a number of iterations

    with Progress(0.0, 1.0) as bar: bar.to(0.5)
    """

    def __init__(self, start, end, show=None, name="t"):
        hidden = not Ranks().is_root or (
            None if show is None else not show
        )  # None: tqdm asks the terminal
        self._bar = tqdm(
            total=end - start,
            disable=hidden,
            leave=False,
            mininterval=0.5,
            bar_format="{l_bar}{bar}| {elapsed} < {remaining}{postfix}",
        )
        self._start = start
        self._name = name

    def to(self, t):
        """Move the bar to t."""
        if not self._bar.disable:
            self._bar.set_postfix_str(f"{self._name} = {t:.4g}", refresh=False)
            self._bar.update(t - self._start - self._bar.n)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._bar.close()
