from __future__ import annotations

import numpy as np
import pytest

from moco_ray.core.hashing import hash64, rows_digest


def test_first_word_is_hashed_as_the_published_splitmix64() -> None:
    # First outputs of SplitMix64 seeded with 1234567 (Vigna's splitmix64.c); the n-th has state seed + (n - 1) golden.
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    states = (1234567 + np.arange(3, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
    assert hash64(states).tolist() == published


def test_words_broadcast_and_their_order_matters() -> None:
    table = hash64(7, np.arange(3)[:, None], np.arange(4))
    assert table.shape == (3, 4) and len(set(table.flatten().tolist())) == 12
    assert table[2, 1] == hash64(7, 2, 1)[0] != hash64(7, 1, 2)[0]


def test_negative_and_large_integers_are_taken_modulo_two_to_the_64() -> None:
    assert hash64(-1) == hash64(2**64 - 1) == hash64(np.array([-1]))


@pytest.mark.parametrize("bit", [0, 1, 31, 63])
def test_bits_are_balanced(bit: int) -> None:
    ones = (hash64(0, np.arange(20000)) >> np.uint64(bit)) & np.uint64(1)
    assert abs(ones.mean() - 0.5) < 4 * 0.5 / 20000**0.5


def test_digest_does_not_depend_on_order_or_on_how_rows_are_split() -> None:
    rows = np.random.default_rng(0).permutation(1000)
    assert rows_digest(rows) == rows_digest(np.arange(1000))
    assert (rows_digest(rows[:300]) + rows_digest(rows[300:])) % 2**64 == rows_digest(rows)


def test_digest_notices_one_row_missing_doubled_or_exchanged() -> None:
    rows = np.arange(1000)
    others = [rows[:-1], np.append(rows, 5), np.append(rows[:-1], 998), np.append(rows[:-1], 1000)]
    assert rows_digest(rows) not in {rows_digest(other) for other in others}


def test_digest_of_no_rows_is_zero() -> None:
    assert rows_digest(np.array([], dtype=np.int64)) == 0
