"""Spanning trees of largest mobility: they carry what an equation of conservation lacks, so that it
holds to round-off.

There is one tree for each connected piece of what a rank has, and one of all pieces, whose edges
are the links of largest mobility between two pieces.
"""

from __future__ import annotations

import numba
import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from ..arguments.types import Array, IntArray
from ..parallel import Ranks


class SpanningTrees:
    """The trees of a graph that is dealt to the ranks.

    ends (2, n_edges) : the vertices of the edges between this rank's vertices
    piece (n_vertices,) : the number, among those of all ranks, of the connected piece of each
        vertex of this rank
    """

    def __init__(self, ranks: Ranks, n_vertices: int, ends: tuple[IntArray, IntArray]):
        self.ranks = ranks
        self.ends = ends
        ones = np.ones(len(ends[0]))
        graph = sparse.csr_matrix((ones, ends), (n_vertices, n_vertices))
        count, piece = connected_components(graph, directed=False)
        counts = ranks.all_gather(np.array([count]))
        self.n_pieces = int(counts.sum())
        before = counts[: ranks.rank]
        self.piece = piece + int(before.sum())

    def join_pieces(self, pieces: IntArray, key: IntArray) -> None:
        """Name the links between pieces of different ranks. Collective.

        pieces (2, n_links) : the pieces at both ends of this rank's links
        key (n_links,) : their numbers, the same on all ranks that have the link
        """
        factors = np.array([[self.n_pieces], [1]])
        pair = (np.sort(pieces, axis=0) * factors).sum(axis=0)
        all_pairs = self.ranks.all_gather(pair)
        self.pairs = np.unique(all_pairs)
        self.pair = np.searchsorted(self.pairs, pair)
        self.sign = np.where(pieces[0] < pieces[1], 1.0, -1.0)
        self.key = key

    @property
    def has_links(self) -> bool:
        """Whether any pieces are linked."""
        return len(self.pairs) > 0

    def carry_between(self, mobility: Array, missing: Array) -> Array:
        """What flows through each link (n_links, k), so that no piece lacks anything. Collective.

        mobility (n_links, k); missing (n_vertices, k) : what each vertex must lose
        """
        ranks = self.ranks
        n_pairs = len(self.pairs)
        k = missing.shape[1]
        total = np.zeros((self.n_pieces, k))
        np.add.at(total, self.piece, missing)

        widest = np.zeros((n_pairs, k))
        np.maximum.at(widest, self.pair, mobility)
        widest = ranks.max(widest)

        # One link for each pair of pieces, the same on both sides.
        largest_key = np.iinfo(np.int64).max
        first = np.full((n_pairs, k), largest_key)
        is_widest = mobility == widest[self.pair]
        key = np.where(is_widest, self.key[:, None], largest_key)
        np.minimum.at(first, self.pair, key)
        first = ranks.min(first)
        is_chosen = first[self.pair] == self.key[:, None]

        total = ranks.sum(total)
        left, right = np.divmod(self.pairs, self.n_pieces)
        widest_of_node = np.ascontiguousarray(widest.T)
        total_of_node = np.ascontiguousarray(total.T)
        through = _solve_on_trees(left, right, widest_of_node, total_of_node)
        return is_chosen * self.sign[:, None] * through.T[self.pair]

    def carry_inside(self, mobility: Array, missing: Array) -> Array:
        """What flows through each edge (n_edges, k), so that no vertex lacks anything but roots.

        mobility (n_edges, k); missing (n_vertices, k)
        """
        missing_of_node = np.ascontiguousarray(missing.T)
        mobility_of_node = np.ascontiguousarray(mobility.T)
        return _solve_on_trees(*self.ends, mobility_of_node, missing_of_node).T


def _solve_on_trees(left, right, mobility, missing):
    """Flux (k, n_edges) on spanning trees of largest mobility (k, n_edges).

    Its divergence is *missing* (k, n), except in the roots.
    """
    flux = np.zeros(mobility.shape)
    for node in range(len(flux)):
        order = np.argsort(-mobility[node], kind="stable")
        _carry_to_root(order, left, right, missing[node], flux[node])
    return flux


@numba.njit(cache=True)
def _carry_to_root(order, left, right, missing, flux):
    """Build Kruskal's spanning trees from the edges in that order, then empty leaf after leaf.

    A node keeps the number of its tree edges and the exclusive or of their numbers: at a leaf, that
    is the number of its only edge.
    """
    n = len(missing)
    group = np.arange(n)
    degree = np.zeros(n, np.int64)
    link = np.zeros(n, np.int64)
    for e in order:
        a, b = left[e], right[e]
        while group[a] != a:
            group[a] = group[group[a]]
            a = group[a]
        while group[b] != b:
            group[b] = group[group[b]]
            b = group[b]
        if a != b:
            group[max(a, b)] = min(a, b)
            for end in (left[e], right[e]):
                degree[end] += 1
                link[end] ^= e
    for start in range(n):
        leaf = start
        while degree[leaf] == 1:
            e = link[leaf]
            beyond = right[e] if left[e] == leaf else left[e]
            flux[e] = missing[leaf] if left[e] == leaf else -missing[leaf]
            missing[beyond] += missing[leaf]
            degree[leaf] = 0
            degree[beyond] -= 1
            link[beyond] ^= e
            if beyond > start:
                break
            leaf = beyond
