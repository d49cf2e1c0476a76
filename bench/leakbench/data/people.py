"""People: identities, joined where they share a photo."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components


def joined(identities: NDArray[np.int64], pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return each row's identity, the lowest of those with which it is joined.

    Args:
        identities: shape (n,).
        pairs: of rows whose identities are joined, shape (p, 2); a chain joins all its identities.

    >>> joined(np.array([5, 9, 9, 7, 4]), np.array([[0, 1], [2, 3]]))
    array([5, 5, 5, 5, 4])
    """
    if not len(pairs):
        return identities
    known, identity = np.unique(identities, return_inverse=True)
    one, other = identity[pairs].T
    links = coo_matrix((np.ones(len(pairs)), (one, other)), shape=(len(known), len(known)))
    count, group = connected_components(links, directed=False)
    lowest = np.full(count, len(known))
    np.minimum.at(lowest, group, np.arange(len(known)))
    rows: NDArray[np.int64] = known[lowest[group[identity]]]
    return rows
