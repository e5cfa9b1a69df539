"""The exchange of values on faces between the ranks on both sides of them."""

import numpy as np

from ..parallel import Exchange
from .memory import AnyMesh, kept_with_mesh


@kept_with_mesh
def find_face_exchange(mesh: AnyMesh) -> Exchange:
    """The exchange in which each rank sends its own values on shared faces, and receives the
    other's.

    Both ranks list the faces between them in the same order: by the numbers in the file of the
    right and the left cell.
    """
    n = mesh.n_inner
    left = mesh.left[:n]
    right = mesh.right[:n]

    larger = np.maximum(left, right)
    shared = np.flatnonzero(larger >= mesh.n_cells)
    owner = mesh.ghost_owner[larger[shared] - mesh.n_cells]

    key = np.stack([mesh.cell_id[right[shared]], mesh.cell_id[left[shared]]])
    sent = {
        rank: shared[owner == rank][np.lexsort(key[:, owner == rank])] for rank in np.unique(owner)
    }

    received = dict(sent)
    if mesh.ranks.rank in sent:
        # This rank is its own neighbour along a periodic axis. Such a face is there twice, and its
        # two copies stand side by side.
        copies = sent[mesh.ranks.rank].reshape(-1, 2)
        received[mesh.ranks.rank] = copies[:, ::-1].ravel()
    return Exchange(mesh.ranks, sent, received)
