"""Linear systems, graph partitions and PETSc's options. The only file that imports petsc4py."""
import atexit

import numpy as np

from . import parallel
from .errors import ConvergenceError, missing

try:
    import petsc4py
    # not sys.argv: `fvot.run` reads that, once, and hands PETSc what is PETSc's; signals stay Python's
    petsc4py.init(["fvot", "-no_signal_handler"])
    from petsc4py import PETSc
except ImportError as error:
    raise missing("PETSc with petsc4py", error) from None

atexit.register(parallel.end_all_on_error)       # before PETSc's own end, where a rank waits for all others


def set_options(arguments):
    """Hand command-line arguments such as ["-ksp_monitor", "-pc_type", "gamg"] to PETSc."""
    PETSc.Options().insertString(" ".join(arguments))


def versions():
    """PETSc's version as a string."""
    return ".".join(map(str, PETSc.Sys.getVersion()))


def has_package(name):
    """Whether PETSc was built with the external package *name*."""
    return PETSc.Sys.hasExternalPackage(name)


def partition(graph, weight, center, n_parts):
    """The part (n,) of each node of a graph (CSR), in n_parts parts of nearly equal weight with few edges between them.

    PT-Scotch where PETSc has it; else bisection of the coordinates *center* (dim, n).
    """
    if not has_package("ptscotch"):
        return bisect(center, weight, n_parts)
    pattern = graph.copy()
    pattern.setdiag(0)
    pattern.eliminate_zeros()
    index = pattern.indptr.astype(PETSc.IntType), pattern.indices.astype(PETSc.IntType)
    adjacency = PETSc.Mat().createAIJ(graph.shape, csr=(*index, np.ones(len(pattern.indices))), comm=PETSc.COMM_SELF)
    adjacency = adjacency.convert("mpiadj")
    prefix = "fvot_partition_"
    options = PETSc.Options(prefix)
    options["mat_partitioning_nparts"] = n_parts
    division = PETSc.MatPartitioning().create(PETSc.COMM_SELF)
    division.setOptionsPrefix(prefix)
    division.setType("ptscotch")
    division.setAdjacency(adjacency)
    division.setFromOptions()
    numbers = PETSc.IS()
    division.apply(numbers)
    part = numbers.getIndices().astype(np.int64)
    return part if len(np.unique(part)) == n_parts else bisect(center, weight, n_parts)      # no part may be empty


def bisect(center, weight, n_parts):
    """Recursive bisection along the longest axis: the part (n,) of each point, of nearly equal weight."""
    part = np.zeros(len(weight), np.int64)
    _bisect(center, np.asarray(weight, float), np.arange(len(weight)), 0, n_parts, part)
    return part


def _bisect(center, weight, index, first, n_parts, part):
    if n_parts == 1:
        part[index] = first
        return
    axis = np.ptp(center[:, index], axis=1).argmax()
    order = index[np.argsort(center[axis, index], kind="stable")]
    share = np.cumsum(weight[order]) - weight[order] / 2
    half = np.searchsorted(share, weight[order].sum() * (n_parts // 2) / n_parts)
    half = np.clip(half, n_parts // 2, len(order) - (n_parts - n_parts // 2))       # no part stays empty
    _bisect(center, weight, order[:half], first, n_parts // 2, part)
    _bisect(center, weight, order[half:], first + n_parts // 2, n_parts - n_parts // 2, part)


def solve(ranks, matrix, b, *, prefix, rtol=1e-10, singular=False):
    """Solve a symmetric positive matrix by conjugate gradients with algebraic multigrid: x (n,) of this rank.

    *matrix* holds this rank's rows, with global column numbers (CSR); *singular*: constants are its null space.
    PETSc options with the given prefix overrule the choice. Raises `ConvergenceError` if the true residual
    stays above 100 rtol |b|.
    """
    n = matrix.shape[0]
    index = matrix.indptr.astype(PETSc.IntType), matrix.indices.astype(PETSc.IntType)
    A = PETSc.Mat().createAIJ(((n, None), (n, None)), csr=(*index, matrix.data), comm=ranks.comm)
    if singular:
        A.setNullSpace(PETSc.NullSpace().create(constant=True, comm=ranks.comm))
    ksp = PETSc.KSP().create(ranks.comm)
    ksp.setOperators(A)
    ksp.setOptionsPrefix(prefix)
    ksp.setType("cg")
    ksp.setTolerances(rtol=rtol, max_it=1000)
    if has_package("hypre"):
        ksp.getPC().setType("hypre")
        ksp.getPC().setHYPREType("boomeramg")
    else:
        ksp.getPC().setType("gamg")
    ksp.setFromOptions()
    right, x = A.createVecLeft(), A.createVecRight()
    right.setArray(b)
    ksp.solve(right, x)
    residual = (right - A * x).norm() / max(right.norm(), np.finfo(float).tiny)
    if ksp.getConvergedReason() < 0 or residual > 100 * rtol:
        raise ConvergenceError(
            f"the linear system {prefix!r} stopped after {ksp.getIterationNumber()} iterations with relative residual "
            f"{residual:.1e} > {100 * rtol:.1e} (PETSc's reason {ksp.getConvergedReason()}); try -{prefix}pc_type lu")
    return x.getArray().copy()
