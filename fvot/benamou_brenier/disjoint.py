"""A compiler for kernels whose array arguments never overlap.

Rows of time nodes are short, and a kernel that must first find out whether they overlap spends as
long on that as on the row itself, or leaves it to scalar instructions.
"""

from __future__ import annotations

from numba.core.compiler import Compiler


class Disjoint(Compiler):
    """`numba.njit(..., pipeline_class=Disjoint)`: what is written through one argument is never
    read through another.
    """

    def define_pipelines(self):
        """See numba; the passes themselves are the usual ones."""
        self.state.flags.noalias = True
        return super().define_pipelines()
