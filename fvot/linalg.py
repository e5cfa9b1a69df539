"""Linear systems, which method is the cheapest, graph partitions and PETSc's options. The only file
that imports petsc4py.
"""

from __future__ import annotations

import atexit
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import numpy as np
from scipy import sparse

from .arguments.paths import expand_home
from .arguments.types import Array, ArrayLike, IntArray
from .errors import ConvergenceError, InputError, missing, warn
from .parallel import Exchange, Gathering, Ranks

try:
    import petsc4py

    # Without sys.argv: `fvot.run` reads it and gives PETSc its options. Signals stay Python's.
    petsc4py.init(["fvot", "-no_signal_handler"])
    from petsc4py import PETSc
except ImportError as error:
    raise missing("PETSc with petsc4py", error) from None


# ---- options -------------------------------------------------------------------------------------


def set_options(arguments: Sequence[str]) -> None:
    """Hand command-line arguments such as ["-ksp_monitor", "-pc_type", "gamg"] to PETSc.

    Folders of files that PETSc is to write (``-log_view :out/petsc.log``) are made. Raises
    `InputError` where one cannot be made.
    """
    words = [_with_folder(word) for word in arguments]
    quoted = [f'"{word}"' if " " in word else word for word in words]
    PETSc.Options().insertString(" ".join(quoted))
    if "-log_view" in arguments:
        PETSc.Log.begin()  # PETSc does so by itself only when it is initialised


def _with_folder(word):
    """The word; where it names a file for a viewer of PETSc, ~ is replaced and its folder made.

    Such words are [type]:file[:format[:mode]].
    """
    viewer = re.fullmatch(r"(|ascii|binary|hdf5|vtk)(:)([^:]+)(|:.*)", word)
    if not viewer:
        return word

    kind, _, file, rest = viewer.groups()
    path = expand_home(file)
    if "ascii_xml" in rest or "ascii_flamegraph" in rest:
        raise InputError(
            f"PETSc sets up the format of {word} only when it starts: set "
            f"PETSC_OPTIONS='-log_view {word}'"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"PETSc cannot write {path}, {error.strerror}: choose a place where you may write"
        ) from None
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InputError(f"PETSc cannot write {path}: give a file in a folder where you may write")
    return f"{kind}:{path}{rest}"


def find_users_choice(prefix: str, names: Sequence[str], ranks: Ranks) -> str | None:
    """The method that the option *method* with the prefix names, if it is one of *names*; None
    without. Another one of `METHODS` is passed over with a warning: it may suit other equations of
    the same script.

    Raises `InputError` where it names no method.
    """
    name = PETSc.Options(prefix).getString("method", "")
    if name and name not in METHODS:
        raise InputError(f"-{prefix}method must be one of {', '.join(METHODS)}, not {name!r:.60}")
    if name in names:
        return name

    if name and ranks.is_root:
        warn(
            f"-{prefix}method {name} is passed over here: {name} needs {METHOD_NEEDS[name]}; "
            f"choose one of {', '.join(names)}"
        )
    return None


def has_users_solver(prefix: str) -> bool:
    """Whether an option with the prefix chooses a solver or a preconditioner of PETSc's."""
    options = PETSc.Options(prefix)
    return options.hasName("ksp_type") or options.hasName("pc_type")


def petsc_version() -> str:
    """PETSc's version, such as "3.18.5"."""
    return ".".join(map(str, PETSc.Sys.getVersion()))


def has_package(name: str) -> bool:
    """Whether PETSc was built with the external package *name*."""
    return PETSc.Sys.hasExternalPackage(name)


# ---- graph partitions ----------------------------------------------------------------------------


def partition(graph: sparse.csr_matrix, weight: ArrayLike, center: Array, n_parts: int) -> IntArray:
    """The part (n,) of each node of a graph (CSR), in n_parts parts of nearly equal weight with few
    edges between them.

    PT-Scotch where PETSc has it; else bisection of the coordinates *center* (dim, n).
    """
    # One thread: with several, Scotch finds other parts in every run.
    os.environ.setdefault("SCOTCH_PTHREAD_NUMBER", "1")
    if not has_package("ptscotch"):
        return bisect(center, weight, n_parts)
    part = _partition_by_scotch(graph, n_parts)
    has_empty_part = len(np.unique(part)) < n_parts
    return bisect(center, weight, n_parts) if has_empty_part else part


def _partition_by_scotch(graph, n_parts):
    pattern = graph.copy()
    pattern.setdiag(0)
    pattern.eliminate_zeros()
    starts = pattern.indptr.astype(PETSc.IntType)
    columns = pattern.indices.astype(PETSc.IntType)
    adjacency = PETSc.Mat().createAIJ(
        graph.shape, csr=(starts, columns, np.ones(len(columns))), comm=PETSc.COMM_SELF
    )
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
    return numbers.getIndices().astype(np.int64)


def bisect(center: Array, weight: ArrayLike, n_parts: int) -> IntArray:
    """Recursive bisection along the longest axis: the part (n,) of each point, of nearly equal
    weight.
    """
    weight = np.asarray(weight, float)
    part = np.zeros(len(weight), np.int64)
    _bisect(center, weight, np.arange(len(weight)), 0, n_parts, part)
    return part


def _bisect(center, weight, index, first, n_parts, part):
    if n_parts == 1:
        part[index] = first
        return

    axis = np.ptp(center[:, index], axis=1).argmax()
    order = index[np.argsort(center[axis, index], kind="stable")]
    lower_parts = n_parts // 2
    upper_parts = n_parts - lower_parts

    share = np.cumsum(weight[order]) - weight[order] / 2
    half = np.searchsorted(share, weight[order].sum() * lower_parts / n_parts)
    half = np.clip(half, lower_parts, len(order) - upper_parts)  # no part stays empty

    _bisect(center, weight, order[:half], first, lower_parts, part)
    _bisect(center, weight, order[half:], first + lower_parts, upper_parts, part)


# ---- methods -------------------------------------------------------------------------------------

# A pivot counts as 0 below this part of its row's sum. PETSc's own 2e-14 refuses good pivots where
# densities span decades.
ZERO_PIVOT = 1e-30

# What GAMG needs for matrices that are not symmetric.
UNSYMMETRIC_GAMG = {
    "pc_gamg_agg_nsmooths": 0,
    "mg_levels_ksp_type": "richardson",
    "mg_levels_pc_type": "sor",
}

# GAMG would keep its levels for all matrices with entries in the same places.
NEW_LEVELS = {"pc_gamg_reuse_interpolation": False}

BOOMERAMG = {
    "pc_hypre_type": "boomeramg",
    "pc_hypre_boomeramg_relax_type_all": "sor/jacobi",
    "pc_hypre_boomeramg_strong_threshold": 0.25,
}
BOOMERAMG_3D = {
    "pc_hypre_boomeramg_coarsen_type": "HMIS",
    "pc_hypre_boomeramg_interp_type": "ext+i",
    "pc_hypre_boomeramg_P_max": 4,
    "pc_hypre_boomeramg_strong_threshold": 0.5,
}


# MUMPS without pivots, also in the last front: no threshold, no permutation to a large diagonal, no
# scaling, no ScaLAPACK.
MUMPS_MONOTONE = {
    "mat_mumps_cntl_1": 0.0,
    "mat_mumps_icntl_6": 0,
    "mat_mumps_icntl_8": 0,
    "mat_mumps_icntl_13": 1,
}


@dataclass(frozen=True)
class Method:
    """A Krylov method, its preconditioner and PETSc's options for both."""

    ksp: str
    pc: str
    options: dict[str, Any]
    max_it: int = 1000


# What PETSc's options for the factors on rank 0 begin with, after the prefix of their system.
GATHERED_PREFIX = "gathered_"

# PETSc's own LU of the whole matrix, which does not pivot.
OWN_LU = {"pc_factor_mat_ordering_type": "nd", "pc_factor_zeropivot": ZERO_PIVOT}


def find_method(name: str, dim: int, n_ranks: int) -> Method:
    """The `Method` of that name.

    cg : conjugate gradients with algebraic multigrid, for symmetric positive matrices
    icc : conjugate gradients with ILU(0) of each rank's rows, which is incomplete Cholesky where a
        matrix is symmetric: cheap, for few iterations
    lu : one factorisation of the whole matrix on rank 0, in nested-dissection order, without
        pivoting; other ranks wait. Of an M-matrix and a right-hand side >= 0 its triangular solves
        only add, so that each entry of the solution has a small relative error of its own
    shared : the same by MUMPS, which shares the work and the memory, for matrices that are too
        large for one rank: it waits long in each solve. On one rank, or without MUMPS, it is lu
    ilu : BiCGStab with ILU(0) of each rank's rows in their given order
    amg : right-preconditioned GMRES, which watches the true residual, with BoomerAMG
    """
    if name == "shared" and n_ranks > 1 and has_package("mumps"):
        solver = {"pc_factor_mat_solver_type": "mumps"}
        return Method("preonly", "lu", solver | MUMPS_MONOTONE)
    if name in ("lu", "shared") and n_ranks == 1:
        return Method("preonly", "lu", OWN_LU)
    if name in ("lu", "shared"):
        on_root = {GATHERED_PREFIX + option: value for option, value in OWN_LU.items()}
        return Method("preonly", "mat", on_root)
    if name == "ilu":
        return Method("bcgs", "bjacobi", {"sub_pc_factor_zeropivot": ZERO_PIVOT}, 500)
    if name == "icc":
        return Method("cg", "bjacobi", {"sub_pc_factor_zeropivot": ZERO_PIVOT}, 40)
    if name == "cg" and has_package("hypre"):
        return Method("cg", "hypre", {"pc_hypre_type": "boomeramg"})
    if name == "cg":
        return Method("cg", "gamg", NEW_LEVELS)

    options: dict[str, Any] = {"ksp_pc_side": "right", "ksp_gmres_restart": 60}
    if not has_package("hypre"):
        return Method("gmres", "gamg", options | UNSYMMETRIC_GAMG | NEW_LEVELS, 120)
    options |= BOOMERAMG
    if dim == 3:
        options |= BOOMERAMG_3D
    return Method("gmres", "hypre", options, 120)


# ---- linear systems ------------------------------------------------------------------------------


class System:
    """A sparse linear system, set up once for many right-hand sides: x = system(b).

    matrix : this rank's rows, with global column numbers (CSR), or PETSc's
    method : a `Method`; PETSc options with the prefix overrule it
    singular : constants are its null space
    action : a map of this rank's x (n,), whose values are added to those of the matrix, but not to
        the preconditioner
    rtol : the tolerance, which an option may have changed
    iterations : of all solves so far

    Collective. Raises `ConvergenceError` where PETSc refuses.
    """

    def __init__(
        self,
        ranks: Ranks,
        matrix: Any,
        method: Method,
        *,
        prefix: str,
        rtol: float,
        singular: bool = False,
        action: Callable[[Array], Array] | None = None,
    ):
        self.ranks = ranks
        self.matrix = assemble(ranks, matrix)
        self._pattern = _find_pattern(matrix)
        if singular:
            self.matrix.setNullSpace(PETSc.NullSpace().create(constant=True, comm=ranks.comm))

        PETSc.garbage_cleanup(ranks.comm)  # of systems that Python has dropped on all ranks
        self.ksp = PETSc.KSP().create(ranks.comm)
        self._factors: _GatheredFactors | None = None
        self._inverse: PETSc.Mat | None = None
        self._set_operators(action)
        self.ksp.setOptionsPrefix(prefix)
        self.ksp.setType(method.ksp)
        self.ksp.setTolerances(rtol=rtol, max_it=method.max_it)
        self.ksp.getPC().setType(method.pc)

        self._database = PETSc.Options(prefix)
        self._defaults: dict[str, Any] = {} if has_users_solver(prefix) else method.options
        with _set_defaults(self._database, self._defaults):
            self.ksp.setFromOptions()
        if self.ksp.getPC().getType() == "mat":
            self._factors = _GatheredFactors(ranks, self.matrix, prefix)
            self._inverse = self._make_shell(self._factors)
            self._set_operators(action)
        self._set_up(keeps_preconditioner=False, has_old_pattern=False)

        self.rtol = self.ksp.getTolerances()[0]
        self.iterations = 0
        self._b = self.matrix.createVecLeft()
        self._x = self.matrix.createVecRight()

    def _set_operators(self, action):
        """Hand over the matrix, and that of which the preconditioner is made."""
        operator = self.matrix
        if action is not None:
            operator = self._make_shell(_Action(self.matrix, action))
        self.ksp.setOperators(operator, self._inverse or self.matrix)

    def _make_shell(self, context):
        """PETSc's matrix whose products a context makes."""
        sizes = self.matrix.getSizes()
        shell = PETSc.Mat().createPython(sizes, context, comm=self.ranks.comm)
        shell.setUp()
        _with_shells.add(self)
        return shell

    def _set_up(self, *, keeps_preconditioner, has_old_pattern):
        """Make the preconditioner, whose parts look for their options only now."""
        with _set_defaults(self._database, self._defaults), _translating_errors():
            if self._factors is not None and not keeps_preconditioner:
                self._factors.factorise(self.matrix, has_old_pattern=has_old_pattern)
            self.ksp.setUp()

    def renew(
        self,
        matrix: Any,
        action: Callable[[Array], Array] | None = None,
        *,
        keep_preconditioner: bool = False,
    ) -> None:
        """Replace the matrix by another one of the same shape, and the preconditioner unless it is
        kept. Collective.

        Where entries have the same places as before, PETSc's matrix stays, and with it what
        preconditioners have found out about the places. PETSc's own matrix may be the one of before
        with other values.
        """
        old = self.matrix
        if self._has_pattern_of(matrix):
            put_values(self.matrix, matrix)
        else:
            self.matrix = assemble(self.ranks, matrix)
            self._pattern = _find_pattern(matrix)

        self._set_operators(action)
        self.ksp.getPC().setReusePreconditioner(keep_preconditioner)
        is_old = self.matrix == old
        if not is_old:
            old.destroy()
        self._set_up(keeps_preconditioner=keep_preconditioner, has_old_pattern=is_old)

    def _has_pattern_of(self, matrix):
        """Whether entries of a matrix have the places of those that are there, on all ranks."""
        old = self._pattern
        new = _find_pattern(matrix)
        is_same = old is not None and new is not None and all(map(np.array_equal, old, new))
        return bool(self.ranks.min(is_same))

    def __call__(self, b: Array, rtol: float | None = None, max_it: int | None = None) -> Array:
        """x (n,) for the right-hand side b (n,) of this rank; the caller looks at `reason` and at
        the residual. Collective.
        """
        return self._solve(self.ksp.solve, b, rtol, max_it)

    def solve_transposed(self, b: Array, rtol: float | None = None) -> Array:
        """x (n,) with (matrix)^T x = b, by the same preconditioner. Collective.

        Multigrid cannot do so: `reason` is negative then.
        """
        return self._solve(self.ksp.solveTranspose, b, rtol, None)

    def _solve(self, solve, b, rtol, max_it):
        self.ksp.setTolerances(rtol=rtol, max_it=max_it)
        self._b.setArray(b)
        with _translating_errors():
            solve(self._b, self._x)
        self.iterations += self.ksp.getIterationNumber()
        return self._x.getArray().copy()

    @property
    def reason(self) -> int:
        """PETSc's reason for stopping: negative for a failure."""
        if self._factors is not None and self._factors.has_failed:
            return PETSc.KSP.ConvergedReason.DIVERGED_PCSETUP_FAILED
        return self.ksp.getConvergedReason()

    def destroy(self) -> None:
        """Give the memory back at once: a factorisation may fill it. Collective."""
        for part in self.ksp, self._inverse, self.matrix, self._b, self._x:
            if part is not None:
                part.destroy()


# Systems that have matrices whose products Python makes.
_with_shells: WeakSet[System] = WeakSet()


def _leave_shells():
    """Let no system with a shell be destroyed any more.

    What Python drops after this, PETSc would destroy at its own end, after Python's: it would call
    Python then.
    """
    for system in _with_shells:
        if system.ksp:
            system.ksp.incRef()


atexit.register(_leave_shells)


class _GatheredFactors:
    """The LU factors of a whole matrix on rank 0, as a matrix whose products are solutions.

    has_failed : whether there are none, as a pivot is 0; solutions are not finite then
    """

    def __init__(self, ranks: Ranks, matrix: PETSc.Mat, prefix: str):
        self.ranks = ranks
        self.has_failed = False
        n_global = matrix.getSize()[0]
        n = n_global if ranks.is_root else 0
        self._rows = PETSc.IS().createStride(n, step=1, comm=PETSc.COMM_SELF)
        self._gathering = Gathering(ranks, matrix.getLocalSize()[0])
        self._whole: list[PETSc.Mat] | None = None
        self._b = PETSc.Vec().createWithArray(self._gathering.whole, comm=PETSc.COMM_SELF)
        self._x = self._b.duplicate()

        self.ksp = PETSc.KSP().create(PETSc.COMM_SELF)
        self.ksp.setOptionsPrefix(prefix + GATHERED_PREFIX)
        self.ksp.setType("preonly")
        self.ksp.getPC().setType("lu")

    def factorise(self, matrix: PETSc.Mat, *, has_old_pattern: bool) -> None:
        """Make the factors of a matrix, perhaps that of before with other values. Collective."""
        if not has_old_pattern:
            self._forget()
        self._whole = matrix.createSubMatrices(self._rows, self._rows, self._whole)
        self.has_failed = self.ranks.broadcast(self.ranks.is_root and not self._succeeds())

    def _succeeds(self):
        """Whether rank 0 finds the factors of what it has."""
        self.ksp.setOperators(self._whole[0])
        try:
            self.ksp.setFromOptions()
            self.ksp.setUp()
        except PETSc.Error:
            return False
        return self.ksp.getConvergedReason() >= 0

    def mult(self, mat: PETSc.Mat, b: PETSc.Vec, x: PETSc.Vec) -> None:
        """x with (matrix) x = b. Collective."""
        self._solve(self.ksp.solve, b, x)

    def multTranspose(self, mat: PETSc.Mat, b: PETSc.Vec, x: PETSc.Vec) -> None:
        """x with (matrix)^T x = b. Collective."""
        self._solve(self.ksp.solveTranspose, b, x)

    def _solve(self, solve, b, x):
        self._gathering.gather(b.getArray(readonly=True))
        if self.ranks.is_root and self.has_failed:
            self._x.set(np.nan)
        elif self.ranks.is_root:
            solve(self._b, self._x)
        x.setArray(self._gathering.scatter(self._x.getArray(readonly=True)))

    def destroy(self, mat: PETSc.Mat) -> None:
        """Give the memory back: PETSc calls this where the matrix is destroyed."""
        self._forget()
        for part in self.ksp, self._rows, self._b, self._x:
            part.destroy()

    def _forget(self):
        """Give the memory of what rank 0 has gathered back."""
        for part in self._whole or []:
            part.destroy()
        self._whole = None


def assemble(ranks: Ranks, matrix: Any) -> PETSc.Mat:
    """PETSc's matrix of this rank's rows (CSR, global columns); itself if it is one already."""
    if isinstance(matrix, PETSc.Mat):
        return matrix
    n = matrix.shape[0]
    starts = matrix.indptr.astype(PETSc.IntType)
    columns = matrix.indices.astype(PETSc.IntType)
    csr = (starts, columns, matrix.data)
    return PETSc.Mat().createAIJ(((n, None), (n, None)), csr=csr, comm=ranks.comm)


def _find_pattern(matrix):
    """(starts of the rows, columns) of the entries of this rank's rows; None for PETSc's matrix."""
    return None if isinstance(matrix, PETSc.Mat) else (matrix.indptr, matrix.indices)


def put_values(target: PETSc.Mat, matrix: sparse.csr_matrix) -> None:
    """Replace the values of PETSc's matrix by those of this rank's rows (CSR, global columns),
    which have the same places. Collective.
    """
    starts = matrix.indptr.astype(PETSc.IntType, copy=False)
    columns = matrix.indices.astype(PETSc.IntType, copy=False)
    target.setValuesCSR(starts, columns, matrix.data)
    target.assemble()


class Assembly:
    """The places of the entries of matrices that are sums of many small ones, found once.

    n : number of this rank's rows
    rows, columns (m,) : global numbers of the place of each entry. Entries of one place are added
        up, entries in rows of other ranks are sent there

    Collective.
    """

    def __init__(self, ranks: Ranks, n: int, rows: IntArray, columns: IntArray):
        counts = ranks.all_gather(np.array([n]))
        ends = np.cumsum(counts)
        self._n_global = int(ends[-1])
        key = rows.astype(np.int64) * self._n_global + columns
        place, self._slot = np.unique(key, return_inverse=True)

        owner = np.searchsorted(ends, place // self._n_global, side="right")
        sent = {rank: np.flatnonzero(owner == rank) for rank in np.unique(owner)}
        own = sent.pop(ranks.rank, np.empty(0, np.int64))
        messages = [place[sent[rank]] if rank in sent else place[:0] for rank in range(ranks.size)]
        received = ranks.swap(messages)
        begins = len(place) + np.cumsum([0, *map(len, received)])
        arrived = {rank: np.arange(*begins[rank : rank + 2]) for rank in range(ranks.size)}
        self._exchange = Exchange(ranks, sent, arrived)
        self._n_entries = int(begins[-1])

        self._kept = np.concatenate([own, np.arange(len(place), self._n_entries)])
        kept_places = np.concatenate([place[own], *received])
        final, self._final_slot = np.unique(kept_places, return_inverse=True)
        row, column = np.divmod(final, self._n_global)
        first_row = ends[ranks.rank] - n
        start = np.searchsorted(row, first_row + np.arange(n + 1))
        self._start = start.astype(np.int32)
        self._column = column.astype(np.int32)

    def matrix(self, values: Array) -> sparse.csr_matrix:
        """This rank's rows (CSR, global columns) of the matrix with entries (m,). Collective."""
        entries = np.bincount(self._slot, values, self._n_entries)
        self._exchange(entries)
        data = np.bincount(self._final_slot, entries[self._kept], len(self._column))
        data = data.astype(float)  # of no entries bincount counts in integers
        shape = (len(self._start) - 1, self._n_global)
        return sparse.csr_matrix((data, self._column, self._start), shape)


class SquareSum:
    """PETSc's matrices B^T B + L, of this rank's rows of both (CSR, global columns).

    The pattern of the product is found once for matrices with entries in the same places, and its
    matrix is the same one. It belongs to whoever has it, and may have been destroyed.
    """

    def __init__(self, ranks: Ranks):
        self.ranks = ranks
        self._B = PETSc.Mat()
        self._L = PETSc.Mat()
        self._total = PETSc.Mat()

    def __call__(
        self, B: sparse.csr_matrix, L: sparse.csr_matrix, *, has_old_pattern: bool
    ) -> PETSc.Mat:
        """B^T B + L. Collective.

        has_old_pattern : whether entries of both have the same places as in the last call
        """
        if has_old_pattern and self._total:
            put_values(self._B, B)
            put_values(self._L, L)
            self._B.transposeMatMult(self._B, self._total)
        else:
            for part in self._B, self._L:
                part.destroy()
            self._B = assemble(self.ranks, B)
            self._L = assemble(self.ranks, L)
            self._total = self._B.transposeMatMult(self._B)

        self._total.axpy(1.0, self._L, structure=PETSc.Mat.Structure.SUBSET_NONZERO_PATTERN)
        return self._total


class _Action:
    """matrix x + action(x), in the form that PETSc calls."""

    def __init__(self, matrix: PETSc.Mat, action: Callable[[Array], Array]):
        self.matrix = matrix
        self.action = action

    def mult(self, mat: PETSc.Mat, x: PETSc.Vec, y: PETSc.Vec) -> None:
        self.matrix.mult(x, y)
        y.setArray(y.getArray() + self.action(x.getArray(readonly=True)))


@contextmanager
def _translating_errors() -> Iterator[None]:
    """A block in which an error of PETSc is a `ConvergenceError`."""
    try:
        yield
    except PETSc.Error as error:
        raise ConvergenceError(
            f"PETSc refuses to solve a linear system: {str(error).splitlines()[-1]}"
        ) from None


@contextmanager
def _set_defaults(database, options):
    """PETSc options that hold while the block runs, unless the user has set one of that name."""
    unset = {name: value for name, value in options.items() if not database.hasName(name)}
    for name, value in unset.items():
        database[name] = value
    try:
        yield
    finally:
        for name in unset:
            database.delValue(name)


# ---- which method is the cheapest ----------------------------------------------------------------

# Cells up to which a mesh of this dimension is factorised. It trades the memory of the factors
# for a solver that needs no iterations.
LU_CELL_LIMIT = {1: 10**7, 2: 2 * 10**6, 3: 40_000}

# The costs below are in microseconds per cell, fitted to the measurements on squares and boxes of
# benchmarks/RESULTS_fokker_planck.md. Only their ratios matter.

# Each cost falls with the number of ranks to this power.
RANKS_EXPONENT = -0.8

# ILU(0): to set up; one solve, without its iterations; each iteration.
ILU_SET_UP = 0.25
ILU_SOLVE = 0.04
ILU_ITERATION = 0.026

# Iterations with ILU(0): those of every solve; more with the root of the stiffness, by the
# dimension; but not more than this multiple of the cells along a side.
ILU_LEAST_ITERATIONS = 2
ILU_ITERATIONS_BY_STIFFNESS = {2: 3, 3: 1.5}
ILU_ITERATIONS_BY_SIDE = 0.65

# Iterations with ILU(0) of a matrix that has three diagonals, of which ILU(0) is the LU.
ILU_ITERATIONS_IN_1D = 3

# Multigrid, by the dimension: to set up; one solve; and what a solve takes longer where the drift
# dominates.
AMG_SET_UP = {1: 0.7, 2: 0.7, 3: 1.2}
AMG_SOLVE = {1: 0.7, 2: 0.7, 3: 1.3}
AMG_SOLVE_IN_DRIFT = {1: 0.5, 2: 0.5, 3: 0.0}

# To find the scaling of the columns for multigrid.
AMG_SCALING = 9

# The package's own multigrid, by the kind of its grids: to set up; one solve, without its cycles;
# one cycle, by the dimension, in single precision, where more cycles are taken into account; what
# one message takes, in all cells together.
MULTIGRID_SET_UP = {"blocks": 0.1, "graphs": 0.4}
MULTIGRID_SOLVE = 0.025
MULTIGRID_CYCLE = {
    "blocks": {1: 0.01, 2: 0.009, 3: 0.022},
    "graphs": {1: 0.015, 2: 0.024, 3: 0.04},
}
MULTIGRID_MESSAGE = 8.0

# Its cycles on squares: those of every solve; more for each decade of the stiffness; more by this
# part for each unit of the cell Peclet number.
MULTIGRID_LEAST_CYCLES = 6
MULTIGRID_CYCLES_BY_STIFFNESS = 3
MULTIGRID_CYCLES_IN_DRIFT = 0.15

# The stiffness from which it works in double precision, and what cycles cost more then: they are
# slower, and a few more.
MULTIGRID_LONG_STEP = 1e4
MULTIGRID_DOUBLE = 3

# Cells of the meshes on which the costs of LU were measured; in one dimension they do not change.
LU_REFERENCE_CELLS = {1: 1, 2: 65_536, 3: 8_000}

# PETSc's own LU on one rank, by the dimension: (factor, exponent of the cells in units of those
# above) to set up, and of one solve. It does not fall with the number of ranks.
LU_COSTS = {
    1: ((0.2, 0.0), (0.015, 0.0)),
    2: ((2.5, 0.6), (0.045, 0.12)),
    3: ((10, 1.25), (0.11, 0.4)),
}

# What it takes to gather matrices, and vectors, on rank 0: for each cell; and the wait for each
# rank, in all cells together.
GATHERING_COSTS = (0.2, 0.005)
GATHERING_WAIT = 4

# All methods of `estimate_costs`, and what some of them need.
METHODS = ("ilu", "amg", "multigrid", "lu")
METHOD_NEEDS = {
    "multigrid": "two-point fluxes, and no option that chooses a solver of PETSc's",
    "lu": f"a mesh of at most {LU_CELL_LIMIT[2]} cells in 2D, {LU_CELL_LIMIT[3]} in 3D",
}


def estimate_costs(
    n: int,
    dim: int,
    n_ranks: int,
    stiffness: float,
    steepness: float,
    has_scale: bool = True,
    multigrid: str | None = None,
) -> dict[str, tuple[float, float]]:
    """{method: (set-up, one solve)} of |K| + s A for n cells, in microseconds per cell.

    stiffness : s max A_KK / |K|, the step in units of the time in which a cell is emptied
    steepness : a typical cell Peclet number; above 1 the drift dominates, and ILU(0) in its order
        is nearly exact
    has_scale : whether the scaling of the columns is known; else it has to be found first
    multigrid : the grids of the package's own multigrid, "blocks" or "graphs"; None where it has
        none
    """
    parallel_share = n_ranks**RANKS_EXPONENT
    found_once = 0 if has_scale else AMG_SCALING
    iterations = _estimate_ilu_iterations(n, dim, stiffness, steepness)

    ilu_solve = ILU_SOLVE + ILU_ITERATION * iterations
    amg_set_up = AMG_SET_UP[dim] + found_once
    amg_solve = AMG_SOLVE[dim] + AMG_SOLVE_IN_DRIFT[dim] * min(steepness, 1)

    costs = {
        "ilu": (ILU_SET_UP * parallel_share, ilu_solve * parallel_share),
        "amg": (amg_set_up * parallel_share, amg_solve * parallel_share),
    }
    if multigrid is not None:
        costs["multigrid"] = _estimate_multigrid_costs(
            n, dim, n_ranks, stiffness, steepness, found_once, multigrid
        )
    if n <= LU_CELL_LIMIT[dim]:
        costs["lu"] = _estimate_lu_costs(n, dim, n_ranks)
    return costs


def _estimate_multigrid_costs(n, dim, n_ranks, stiffness, steepness, found_once, kind):
    """(set-up, one solve) of the package's own multigrid, which waits for messages."""
    side = n ** (1 / dim)
    by_stiffness = MULTIGRID_CYCLES_BY_STIFFNESS * np.log10(1 + min(stiffness, MULTIGRID_LONG_STEP))
    in_drift = 1 + MULTIGRID_CYCLES_IN_DRIFT * min(steepness, 10)
    n_cycles = (MULTIGRID_LEAST_CYCLES + by_stiffness) * in_drift
    n_grids = 1 + np.log2(1 + np.clip(stiffness, 1, side**2)) / 2
    is_long = stiffness > MULTIGRID_LONG_STEP
    parallel_share = n_ranks**RANKS_EXPONENT
    set_up = MULTIGRID_SET_UP[kind] * parallel_share + (found_once if stiffness > 2 * side else 0)
    cycle = MULTIGRID_CYCLE[kind][dim] * (MULTIGRID_DOUBLE if is_long else 1) * parallel_share
    messages = 0.0
    if n_ranks > 1:
        messages = (4 * n_grids + 3) * MULTIGRID_MESSAGE / n
    return set_up, MULTIGRID_SOLVE * parallel_share + n_cycles * (cycle + messages)


def _estimate_ilu_iterations(n, dim, stiffness, steepness):
    if dim == 1:
        return ILU_ITERATIONS_IN_1D
    side = n ** (1 / dim)
    steep = 1 + steepness
    by_stiffness = ILU_ITERATIONS_BY_STIFFNESS[dim] * np.sqrt(stiffness) / steep
    by_size = ILU_ITERATIONS_BY_SIDE * side / np.sqrt(steep)
    return ILU_LEAST_ITERATIONS + min(by_stiffness, by_size)


def _estimate_lu_costs(n, dim, n_ranks):
    """(set-up, one solve) of PETSc's own LU on one rank, to which several send what they have."""
    size = n / LU_REFERENCE_CELLS[dim]
    costs = np.array([factor * size**exponent for factor, exponent in LU_COSTS[dim]])
    if n_ranks > 1:
        costs += np.array(GATHERING_COSTS) + GATHERING_WAIT * n_ranks / n
    set_up, solve = costs
    return set_up, solve


def rank_methods(
    costs: dict[str, tuple[float, float]], n_solves: float, ready: str | None = None
) -> list[str]:
    """The names of the methods, the cheapest for n_solves solves first.

    ready : the method that is set up already
    """

    def total(name: str) -> float:
        set_up, solve = costs[name]
        return (0 if name == ready else set_up) + n_solves * solve

    return sorted(costs, key=total)
