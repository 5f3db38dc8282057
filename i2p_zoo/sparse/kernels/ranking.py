"""Kernels that sort keys by marking them: a bit a key, 64 of them a word, and each word's rank, the marks before it.

A key's rank is its word's and the number of marks below its own bit. No key is compared with another, and the sorted keys can
be read off the words. Places are unsigned: numba looks whether a signed one is negative.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from i2p_zoo.sparse.kernels.compilation import compiled
from i2p_zoo.sparse.kernels.team import team_kernel

_BLOCK = 512  # keys that are looked through before those of a chunk's words are marked


@intrinsic
def _count_bits(typingctx, word):
    signature = types.int64(types.uint64)

    def generate(context, builder, signature, args):
        return builder.ctpop(args[0])

    return signature, generate


@intrinsic
def _lowest_bit(typingctx, word):
    signature = types.int64(types.uint64)

    def generate(context, builder, signature, args):
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return signature, generate


@compiled(inline="always")
def _bit(key):
    return np.uint64(1) << np.uint64(key & 63)


@team_kernel
def mark_keys(chunk, start, stop, keys, places, words, counts):
    """Marks the keys whose words are start to stop, and counts the marks there: counts[chunk].

    The words of the keys are those at `places`; where there are none, (0,), those of the keys' own numbers. Every chunk looks
    through all keys, so that no two write the same word.
    """
    kept, low, size = np.empty(_BLOCK, np.uint64), np.int64(start), np.uint64(stop - start)
    for block in range(0, keys.size, _BLOCK):
        count = 0
        for n in range(block, min(block + _BLOCK, keys.size)):  # without a branch, which could not be foreseen
            kept[count] = n
            place = np.int64(places[n] if places.size else keys[n] >> 6)
            count += np.uint64(place - low) < size
        for n in kept[:count]:
            words[np.uint64(places[n] if places.size else keys[n] >> 6)] |= _bit(keys[n])
    total = 0
    for place in range(start, stop):
        total += _count_bits(words[place])
    counts[chunk] = total


@team_kernel
def list_marks(chunk, start, stop, words, numbers, firsts, ranks, keys):
    """Writes each word's rank and its keys, in order, for words start to stop, before which there are firsts[chunk] marks.

    A word's number is its place, or stands in `numbers` where that is not (0,).
    """
    rank = firsts[chunk]
    for place in range(start, stop):
        ranks[place] = rank
        word = words[place]
        first_key = np.int64(numbers[place] if numbers.size else place) << 6
        while word != 0:
            keys[rank] = first_key + _lowest_bit(word)
            word &= word - np.uint64(1)
            rank += 1


@team_kernel
def find_ranks(chunk, start, stop, keys, places, words, ranks):
    """Replaces keys start to stop, marked by `mark_keys`, by their ranks."""
    for n in range(start, stop):
        key = keys[n]
        place = np.uint64(places[n] if places.size else key >> 6)
        keys[n] = ranks[place] + _count_bits(words[place] & (_bit(key) - np.uint64(1)))
