"""Array types and the checks on counts that every estimator shares."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


def as_counts(num_samples: npt.ArrayLike, num_correct: npt.ArrayLike) -> tuple[IntArray, IntArray]:
    """Check counts of samples and successes, and return them as integer vectors.

    Args:
        num_samples: [P] samples per problem, at least 0.
        num_correct: [P] successes among them.

    Returns:
        Both as int64 arrays of one length.

    Raises:
        ValueError: Lengths differ, a count is not a whole number, is negative, or there are more successes than samples.
    """
    samples, correct = as_whole(num_samples, "num_samples"), as_whole(num_correct, "num_correct")
    if samples.shape != correct.shape:
        raise ValueError(f"num_samples has {samples.size} problems and num_correct has {correct.size}; they must match")
    if np.any(samples < 0) or np.any(correct < 0):
        raise ValueError("counts must not be negative")
    if np.any(correct > samples):
        index = int(np.argmax(correct > samples))
        raise ValueError(f"problem {index} has {correct[index]} successes in {samples[index]} samples")
    return samples, correct


def as_pairs(
    samples_before: npt.ArrayLike, correct_before: npt.ArrayLike, samples_after: npt.ArrayLike, correct_after: npt.ArrayLike
) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    """Check the counts of two sides that are paired by problem, each as `as_counts` does.

    Raises:
        ValueError: Bad counts, or sides of different length.
    """
    n0, c0 = as_counts(samples_before, correct_before)
    n1, c1 = as_counts(samples_after, correct_after)
    if n0.shape != n1.shape:
        raise ValueError(f"{n0.size} problems before and {n1.size} after; they are paired by problem")
    return n0, c0, n1, c1


def as_whole(values: npt.ArrayLike, name: str) -> IntArray:
    """Return `values` as an int64 vector; refuse fractions and more than one axis.

    Raises:
        ValueError: Not one-dimensional, or not whole numbers.
    """
    array = np.asarray(values)
    if array.size == 0:
        array = array.reshape(-1).astype(np.int64)
    if array.ndim != 1:
        raise ValueError(f"{name} must have one axis (problems), got shape {array.shape}")
    if array.dtype.kind not in "iub" and not (np.all(np.isfinite(array)) and np.all(array == np.floor(array))):
        raise ValueError(f"{name} must be whole numbers")
    return array.astype(np.int64)


def distinct_pairs(first: IntArray, second: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """Find the distinct pairs of two columns of counts. `np.unique` over rows sorts them as bytes, which takes 20 times as long.

    Args:
        first: [N] from 0 to below 2^31.
        second: [N] likewise.

    Returns:
        [U, 2] distinct pairs in ascending order, [N] index of each row's pair, and [U] how often each occurs.
    """
    size = int(second.max(initial=0)) + 1
    keys, place, repeats = np.unique(first * size + second, return_inverse=True, return_counts=True)
    return np.stack(np.divmod(keys, size), axis=1), place.reshape(-1), repeats


def check_level(level: float) -> None:
    """Refuse a confidence level outside (0, 1).

    Raises:
        ValueError: The argument is out of range.
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie between 0 and 1, got {level}")


def check_k(k: int) -> None:
    """Refuse a number of attempts that is below one or no whole number.

    Raises:
        ValueError: The argument is out of range.
    """
    if not (1 <= k < np.inf and k == np.floor(k)):
        raise ValueError(f"k must be a whole number of at least 1, got {k}")
