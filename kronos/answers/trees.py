"""Boosted trees as tables of nodes: saved as JSON, evaluated to the bits of scikit-learn.

In: a fitted `HistGradientBoostingClassifier` of two classes. Out: `Trees`. NumPy only. A pickle would run
whatever it holds.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

MOST_LEAVES = 32
CHUNK = 16_384
"""Rows whose columns stay in the processor's cache."""


@dataclass(frozen=True)
class Tree:
    """One tree of S splits and S + 1 leaves. Leaves are numbered from left to right."""

    column: list[int]
    """(S,) the column that a split looks at."""
    threshold: list[float]
    """(S,) a row goes right where its value is above it."""
    first: list[int]
    """(S,) the first leaf below the split."""
    middle: list[int]
    """(S,) the first leaf of its right side: a row that goes right cannot end in [first, middle)."""
    value: list[float]
    """(S + 1,) what a leaf adds to the score."""


@dataclass(frozen=True)
class Trees:
    """score = baseline + the value of one leaf of each tree, added in their order."""

    baseline: float
    trees: list[Tree]

    def score(self, x: FloatArray) -> FloatArray:
        """Log odds of rows x (n, F), which have no NaN. (n,)."""
        result = np.empty(len(x))
        for first in range(0, len(x), CHUNK):
            columns = np.ascontiguousarray(x[first : first + CHUNK].T)
            total = np.full(columns.shape[1], self.baseline)
            for tree in self.trees:
                total += np.array(tree.value)[_leaves(tree, columns)]
            result[first : first + CHUNK] = total
        return result

    def fits(self, columns: int) -> bool:
        """Whether the tables belong together and name only so many columns."""
        return all(_sound(tree, columns) for tree in self.trees)


def _leaves(tree: Tree, columns: FloatArray) -> NDArray[np.int64]:
    """The leaf of each row, columns (F, n) -> (n,): every split that sends a row right strikes out the leaves
    on its left, and the first leaf that is left is the row's."""
    left = np.full(columns.shape[1], 2 ** len(tree.value) - 1, np.uint32)
    for column, threshold, first, middle in zip(
        tree.column, tree.threshold, tree.first, tree.middle, strict=True
    ):
        struck = np.uint32((1 << middle) - (1 << first))
        left &= ~(struck * (columns[column] > threshold))
    lowest = (left & -left.astype(np.int64)).astype(np.float64)
    return np.frexp(lowest)[1].astype(np.int64) - 1


def _sound(tree: Tree, columns: int) -> bool:
    splits, leaves = len(tree.column), len(tree.value)
    if (
        leaves != splits + 1
        or leaves > MOST_LEAVES
        or {len(tree.threshold), len(tree.first), len(tree.middle)} != {splits}
    ):
        return False
    ranges = zip(tree.first, tree.middle, strict=True)
    return all(0 <= c < columns for c in tree.column) and all(0 <= a < b < leaves for a, b in ranges)


def trees_of(model: Any) -> Trees:
    """The trees of a fitted scikit-learn model. Its numbers are taken as they are."""
    baseline = float(np.asarray(model._baseline_prediction).ravel()[0])
    return Trees(baseline, [_tree(predictor.nodes) for (predictor,) in model._predictors])


def _tree(nodes: NDArray[Any]) -> Tree:
    """A tree from scikit-learn's array of nodes, whose first is the root."""
    tree = Tree([], [], [], [], [])
    _walk(nodes, 0, tree)
    return tree


def _walk(nodes: NDArray[Any], number: int, tree: Tree) -> None:
    """Add a node and what lies below it, from left to right."""
    node = nodes[number]
    if node["is_leaf"]:
        tree.value.append(float(node["value"]))
        return
    split = len(tree.column)
    tree.column.append(int(node["feature_idx"]))
    tree.threshold.append(float(node["num_threshold"]))
    tree.first.append(len(tree.value))
    tree.middle.append(0)
    _walk(nodes, int(node["left"]), tree)
    tree.middle[split] = len(tree.value)
    _walk(nodes, int(node["right"]), tree)
