"""Order without state: a seeded permutation of 0..n-1 and a mixture of sources, functions of an index."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

ROUNDS = 6  # four make a Feistel network pseudo-random; small ranges gain from two more


def hashed(value: np.ndarray) -> np.ndarray:
    """A hash of each uint64, wrapping: the finaliser of SplitMix64.

    Source: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators"; constants by Stafford.
    """
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def permute(index: np.ndarray, size: int, key: np.ndarray) -> np.ndarray:
    """Where a permutation of 0..size-1 chosen by `key` sends each index, without ever writing it down.

    A Feistel network permutes the next larger 4^h; an image outside the range is sent on until it is inside.

    Args:
        index: (n) int64 in 0..size-1.
        size: of the range.
        key: (n) uint64; indices with the same key belong to the same permutation.

    Returns:
        (n) int64.

    Source: Black, Rogaway 2002, "Ciphers with arbitrary finite domains" (cycle walking).

    >>> sorted(permute(np.arange(5), 5, np.full(5, 7, dtype=np.uint64)).tolist())
    [0, 1, 2, 3, 4]
    """
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    value = index.astype(np.uint64)
    outside = np.arange(len(value))
    while len(outside):
        left, right = value[outside] >> half, value[outside] & mask
        for number in range(ROUNDS):
            noise = hashed(key[outside] ^ right ^ np.uint64(number << 32))
            left, right = right, left ^ (noise & mask)
        value[outside] = (left << half) | right
        outside = outside[value[outside] >= size]
    return value.astype(np.int64)


def mix(row: np.ndarray, weights: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Which source each row draws from, and how many earlier rows drew from it.

    The first source is taken whenever floor(row * share) steps up, the rest share the other rows likewise:
    after any number of rows each source was drawn as often as its weight says, to within the number of
    sources.

    Args:
        row: (n) int64, at least 0.
        weights: above 0, of any sum.

    Returns:
        source and draw, both (n) int64.

    >>> mix(np.arange(4), [1, 1])
    (array([1, 0, 1, 0]), array([0, 0, 1, 1]))
    """
    source = np.full(row.shape, len(weights) - 1, dtype=np.int64)
    draw = row.copy()
    left = np.ones(row.shape, dtype=bool)  # not yet given to a source
    for number in range(len(weights) - 1):
        share = weights[number] / sum(weights[number:])
        taken = np.floor(draw * share).astype(np.int64)
        here = left & (np.floor((draw + 1) * share).astype(np.int64) > taken)
        source[here] = number
        left &= ~here
        draw = np.where(here, taken, np.where(left, draw - taken, draw))
    return source, draw
