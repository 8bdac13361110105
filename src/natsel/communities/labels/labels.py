"""Integer labels and the equivalence between them: who belongs to the same population."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

NONE = 0
"""Label of a constant that is the same everywhere, such as a padded border: it ties nothing."""

DATA = 1
"""Label of data that belongs to no population: inputs, constants, results of unknown operators."""


def narrowed(labels: Tensor) -> Tensor:
    """Return labels with every axis along which they are repeated (stride 0) shrunk to one place.

    Example:
        >>> narrowed(torch.arange(3).expand(2, 3)).shape
        torch.Size([1, 3])
    """
    for axis, stride in enumerate(labels.stride()):
        if stride == 0 and labels.shape[axis] > 1:
            labels = labels.narrow(axis, 0, 1)
    return labels


def compact(labels: Tensor) -> Tensor:
    """Return the same labels, without storage along axes on which all places are alike.

    Example:
        >>> compact(torch.tensor([[1, 2], [1, 2]])).stride()
        (0, 1)
    """
    found = narrowed(labels)
    for axis, size in enumerate(found.shape):
        if size > 1:
            first = found.narrow(axis, 0, 1)
            if bool((found == first).all()):
                found = first
    return found.expand(labels.shape)


class LabelSpace:
    """Union-find over integer labels, vectorised.

    Every label starts as a class of its own. :meth:`unite` merges classes elementwise;
    :meth:`fix` marks classes that cannot be removed, with the reason. ``NONE`` never merges;
    meeting ``DATA`` fixes a class instead of merging with it, so that two classes fixed for
    different reasons stay apart.
    """

    def __init__(self) -> None:
        # Of each label one further up in its class; roots point to themselves. Longer than what
        # is in use, so that adding labels and merging classes costs what it touches.
        self._up = np.arange(2, dtype=np.int64)
        self._fixed = np.array([False, True])
        self._loose = np.zeros(2, dtype=bool)
        self._size = 2
        self._reasons: list[tuple[np.ndarray, str]] = []
        self.num_changes = 0

    def fresh(self, *shape: int, loose: bool = False) -> Tensor:
        """Return a tensor of new labels, each a class of its own.

        Args:
            shape: of the tensor.
            loose: whether :meth:`is_loose` holds for them until they are united with something.
        """
        start = self._size
        self._size += int(np.prod(shape, dtype=np.int64))
        if self._size > len(self._up):
            added = max(self._size, 2 * len(self._up)) - len(self._up)
            self._up = np.concatenate([self._up, np.zeros(added, dtype=np.int64)])
            self._fixed = np.concatenate([self._fixed, np.zeros(added, dtype=bool)])
            self._loose = np.concatenate([self._loose, np.zeros(added, dtype=bool)])
        new = np.arange(start, self._size, dtype=np.int64)
        self._up[new] = new
        self._loose[new] = loose
        return torch.from_numpy(new).reshape(shape)

    def roots(self, labels: Tensor) -> Tensor:
        """Return the representative of each label's class, same shape."""
        few = narrowed(labels)
        return torch.from_numpy(self._find(few.numpy())).expand(labels.shape)

    def is_fixed(self, labels: Tensor) -> Tensor:
        """Return, per label, whether its class cannot be removed."""
        few = self._find(narrowed(labels).numpy())
        return torch.from_numpy(np.asarray(self._fixed[few])).expand(labels.shape)

    def is_loose(self, labels: Tensor) -> Tensor:
        """Return, per label, whether it was made loose and is still alone in its class."""
        few = self._find(narrowed(labels).numpy())
        return torch.from_numpy(np.asarray(self._loose[few])).expand(labels.shape)

    def _find(self, labels: np.ndarray) -> np.ndarray:
        """Return the roots of some labels, and let them point there from now on."""
        found = self._up[labels]
        while not np.array_equal(above := self._up[found], found):
            self._up[labels] = found = above
        return np.asarray(found)

    def unite(self, first: Tensor, second: Tensor, reason: str) -> None:
        """Merge the classes of two label tensors of one shape, element by element.

        Args:
            first: labels, any shape.
            second: labels, the same shape.
            reason: why a class is fixed where it meets ``DATA``.
        """
        for axis in range(first.dim()):
            if first.stride(axis) == 0 and second.stride(axis) == 0 and first.shape[axis]:
                first, second = first.narrow(axis, 0, 1), second.narrow(axis, 0, 1)
        a = self._find(first.reshape(-1).numpy())
        b = self._find(second.reshape(-1).numpy())
        differ = (a != b) & (a != NONE) & (b != NONE)
        if not differ.any():
            return
        low, high = np.minimum(a, b)[differ], np.maximum(a, b)[differ]
        meets_data = low == DATA
        if meets_data.any():
            self._fix_roots(high[meets_data], reason)
            low, high = low[~meets_data], high[~meets_data]
        if not len(low):
            return
        met = np.concatenate([low, high])
        fixed = met[self._fixed[met]]
        while len(low):
            # Each root goes under the smallest that it meets; what it met besides comes next.
            np.minimum.at(self._up, high, low)
            a, b = self._find(low), self._find(high)
            low, high = np.minimum(a, b)[a != b], np.maximum(a, b)[a != b]
        self._fixed[self._find(fixed)] = True
        self._loose[self._find(met)] = False
        self.num_changes += 1

    def unite_along(self, labels: Tensor, axes: tuple[int, ...], reason: str) -> Tensor:
        """Merge all labels that differ only in their place along ``axes``.

        Args:
            labels: labels, any shape.
            axes: the axes to merge over.
            reason: why a class is fixed where it meets ``DATA``.

        Returns:
            One label per remaining place, ``axes`` kept with size 1; ``NONE`` only where every
            merged label was ``NONE``.
        """
        if not axes or labels.numel() == 0:
            return labels
        merged = {axis % labels.dim() for axis in axes}
        shape = [1 if axis in merged else size for axis, size in enumerate(labels.shape)]
        labels = narrowed(labels)
        first = labels.amax(dim=axes, keepdim=True)
        self.unite(first.expand_as(labels), labels, reason)
        return first.expand(shape)

    def fix(self, labels: Tensor, reason: str) -> None:
        """Mark the classes of ``labels`` as not removable, for ``reason``."""
        roots = np.unique(self._find(narrowed(labels).reshape(-1).numpy()))
        self._fix_roots(roots[roots > DATA], reason)

    def _fix_roots(self, roots: np.ndarray, reason: str) -> None:
        if len(roots):
            if not self._fixed[roots].all():
                self.num_changes += 1
            self._fixed[roots] = True
            self._reasons.append((np.unique(roots), reason))

    def note(self, labels: Tensor, reason: str) -> None:
        """Remember why the classes of ``labels`` are about to be tied to one another."""
        roots = np.unique(self._find(narrowed(labels).reshape(-1).numpy()))
        self._reasons.append((roots[roots > DATA], reason))

    def reasons(self, labels: Tensor) -> list[str]:
        """Return why the classes of ``labels`` are fixed or tied, each reason once, in order."""
        wanted = np.unique(self._find(narrowed(labels).reshape(-1).numpy()))
        found: dict[str, None] = {}
        for members, reason in self._reasons:
            if reason and reason not in found and np.isin(self._find(members), wanted).any():
                found[reason] = None
        return list(found)
