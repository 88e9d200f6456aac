"""Matrices of a few rows, as tuples: with three a library would be the larger cost."""

import math
import operator

Vector = tuple[float, ...]
Matrix = tuple[Vector, ...]


def solved(matrix: Matrix, right: Vector) -> Vector:
    """Solve matrix · x = right (Cholesky); symmetric, and with no eigenvalue below 1."""
    size = len(right)
    lower: list[list[float]] = []
    for i in range(size):
        row: list[float] = []
        for j in range(i):
            inner = math.fsum(map(operator.mul, row, lower[j]))
            row.append((matrix[i][j] - inner) / lower[j][j])
        # No pivot is below the least eigenvalue, but for rounding.
        row.append(math.sqrt(max(matrix[i][i] - math.fsum(cell * cell for cell in row), 1.0)))
        lower.append(row)
    forward: list[float] = []
    for i in range(size):
        inner = math.fsum(map(operator.mul, lower[i], forward))
        forward.append((right[i] - inner) / lower[i][i])
    back = [0.0] * size
    for i in reversed(range(size)):
        inner = math.fsum(lower[j][i] * back[j] for j in range(i + 1, size))
        back[i] = (forward[i] - inner) / lower[i][i]
    return tuple(back)


def identity(size: int) -> Matrix:
    """Return ones on the diagonal and zeros elsewhere."""
    return tuple(tuple(float(i == j) for j in range(size)) for i in range(size))


def dot(left: Vector, right: Vector) -> float:
    """Return the sum of products."""
    return math.fsum(map(operator.mul, left, right))
