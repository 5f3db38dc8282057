"""Products of two tensors, told apart by which sites both have and which go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from i2p_zoo.errors import UnsupportedError
from i2p_zoo.sparse.tokens.layout import Dims, channel, extent, site_atoms
from i2p_zoo.sparse.tokens.site_tokens import as_tokens, change_layout, make_tokens
from i2p_zoo.sparse.tokens.token_pairs import TokenPairs
from i2p_zoo.sparse.tokens.token_rows import find_rows, same_sites
from i2p_zoo.sparse.tokens.token_tensor import TokenTensor, split_features, to_dense

Label = tuple[Any, int]


class Operand:
    """One operand with a label for every atom."""

    def __init__(self, x: Any, labels: list[list[Label]], dims: Dims) -> None:
        self.x, self.dims = x, dims
        self.labels = [label for dim in labels for label in dim]
        flat = [atom for dim in dims for atom in dim]
        self.atoms = dict(zip(self.labels, flat, strict=True))
        self.channels = [label for label in self.labels if self.atoms[label].is_channel]
        self.sites = [label for label in self.labels if not self.atoms[label].is_channel]


def contract(a: Any, la: Sequence[Any], b: Any, lb: Sequence[Any], out: Sequence[Any]) -> Any:
    """An einsum of two tensors of which one at least is ragged; a letter a dimension."""
    a, b = as_tokens(a), as_tokens(b)
    if not isinstance(a, TokenTensor) or (isinstance(b, TokenTensor) and b.is_pairs and not a.is_pairs):
        a, la, b, lb = b, lb, a, la
    a, la, b, lb = _drop_units(a, list(la), b, list(lb))
    a, la = _sum_lone(a, la, lb, out)
    b, lb = _sum_lone(b, lb, la, out)
    if not isinstance(a, TokenTensor):
        if isinstance(b, TokenTensor):
            return contract(b, lb, a, la, out)
        return _dense(a, la, b, lb, out)
    first, second = _label(a, la, b, lb)
    letters = {letter: dim for letter, dim in zip(lb, second.dims, strict=True)}
    for letter, dim in zip(la, first.dims, strict=True):
        if letter not in letters or site_atoms((dim,)) or not site_atoms((letters[letter],)):
            letters[letter] = dim
    target = [[(letter, i) for i in range(len(letters[letter]))] for letter in out]
    dims = tuple(letters[letter] for letter in out)
    kept = [label for dim in target for label in dim]
    if isinstance(b, Tensor):
        return _with_dense(first, second, kept, dims)
    if a.is_pairs:
        return _with_pairs(first, second, kept, dims)
    return _two_rows(first, second, kept, dims, target)


def _dense(a: Tensor, la: Sequence[Any], b: Tensor, lb: Sequence[Any], out: Sequence[Any]) -> Tensor:
    numbers = {letter: i for i, letter in enumerate(dict.fromkeys([*la, *lb]))}
    result = torch.einsum(a, [numbers[x] for x in la], b, [numbers[x] for x in lb], [numbers[x] for x in out if x in numbers])
    for i, letter in enumerate(out):
        if letter not in numbers:
            result = result.unsqueeze(i)
    return result


def _drop_units(a: Any, la: list[Any], b: Any, lb: list[Any]) -> tuple[Any, list[Any], Any, list[Any]]:
    """Takes dimensions of extent 1 out of an operand where the other is longer."""
    for letter in [x for x in la if x in lb]:
        i, j = la.index(letter), lb.index(letter)
        if a.shape[i] == b.shape[j]:
            continue
        if a.shape[i] == 1:
            a, la = _squeeze(a, i), la[:i] + la[i + 1 :]
        elif b.shape[j] == 1:
            b, lb = _squeeze(b, j), lb[:j] + lb[j + 1 :]
        else:
            raise UnsupportedError(f"A product of shapes {tuple(a.shape)} and {tuple(b.shape)}.")
    return a, la, b, lb


def _squeeze(x: Any, dim: int) -> Any:
    if isinstance(x, Tensor):
        return x.squeeze(dim)
    if site_atoms((x.dims[dim],)):
        raise UnsupportedError(f"Dimension {dim} of {x!r} is sites of extent 1.")
    return as_tokens(change_layout(x, (*x.dims[:dim], *x.dims[dim + 1 :])))


def _sum_lone(x: Any, mine: list[Any], theirs: Sequence[Any], out: Sequence[Any]) -> tuple[Any, list[Any]]:
    lone = [i for i, letter in enumerate(mine) if letter not in theirs and letter not in out]
    if not lone:
        return x, mine
    return as_tokens(x.sum(lone)), [letter for i, letter in enumerate(mine) if i not in lone]


def _label(a: TokenTensor, la: Sequence[Any], b: Any, lb: Sequence[Any]) -> tuple[Operand, Operand]:
    """Labels atoms; shared letters are split alike."""
    dims_a, dims_b = list(a.dims), list(b.dims) if isinstance(b, TokenTensor) else [(channel(size),) for size in b.shape]
    for i, letter in enumerate(la):
        if letter not in lb:
            continue
        j = lb.index(letter)
        if isinstance(b, Tensor):
            dims_b[j] = tuple(channel(atom.extent) for atom in dims_a[i])
        elif [x.extent for x in dims_a[i]] != [x.extent for x in dims_b[j]]:
            # of extent 1 one side may hold an atom and the other none
            if extent(dims_a[i]) == 1:
                dims_a[i] = tuple(x for x in dims_a[i] if not x.is_channel)
                dims_b[j] = tuple(x for x in dims_b[j] if not x.is_channel)
            if [x.extent for x in dims_a[i]] != [x.extent for x in dims_b[j]]:
                raise UnsupportedError(f"A product of {a!r} and {b!r}: dimensions {i} and {j} are made of unlike parts.")
    a = as_tokens(TokenTensor(a.space, split_features(a, tuple(dims_a)), tuple(dims_a)))
    if isinstance(b, Tensor):
        b = b.reshape([atom.extent for dim in dims_b for atom in dim])
    else:
        b = TokenTensor(b.space, split_features(b, tuple(dims_b)), tuple(dims_b))
    names_a = [[(letter, k) for k in range(len(dim))] for letter, dim in zip(la, dims_a, strict=True)]
    names_b = [[(letter, k) for k in range(len(dim))] for letter, dim in zip(lb, dims_b, strict=True)]
    return Operand(a, names_a, tuple(dims_a)), Operand(b, names_b, tuple(dims_b))


def _einsum(a: Tensor, la: list[Any], b: Tensor, lb: list[Any], out: list[Any]) -> Tensor:
    numbers = {label: i for i, label in enumerate(dict.fromkeys([*la, *lb]))}
    return torch.einsum(a, [numbers[x] for x in la], b, [numbers[x] for x in lb], [numbers[x] for x in out])


def _with_dense(first: Operand, second: Operand, kept: list[Label], dims: Dims) -> Any:
    a: TokenTensor = first.x
    table: Tensor = second.x
    looked_up = [label for label in second.labels if label in first.atoms and not first.atoms[label].is_channel]
    rest = [label for label in second.labels if label not in looked_up]
    gone = [label for label in first.sites if label not in kept]
    out = _result_channels(first, second, kept)
    if not looked_up:
        if gone:
            raise AssertionError("lone letters were summed")
        lead = [("row", i) for i in range(a.lead)]
        blocks = [_einsum(block, lead + first.channels, table, second.labels, lead + out) for block in a.blocks]
        return make_tokens(a.space, blocks, dims)
    roles = [first.atoms[label].role for label in looked_up]
    if "b" in roles and "t" not in roles and not a.is_pairs and not gone:  # one table a group of rows
        groups = a.rows.blocks([first.atoms[label] for label in looked_up])
        moved = table.permute([second.labels.index(label) for label in [*looked_up, *rest]])
        places = [a.rows.index(first.atoms[label]) for label in looked_up]
        results = []
        for block, (_, index) in zip(groups.gather(a.values), groups.parts, strict=True):
            mine = moved[tuple(place[index[:, 0]] for place in places)]
            results.append(_einsum(block, ["g", "n", *first.channels], mine, ["g", *rest], ["g", "n", *out]))
        return make_tokens(a.space, [groups.scatter(results)], dims)
    # a table over the canvas: every row (or pair) reads its own
    moved = table.permute([second.labels.index(label) for label in [*looked_up, *rest]])
    places = [_as_list(a.space.index(first.atoms[label]), a) for label in looked_up]
    read = [moved[tuple(index)] for index in zip(*places, strict=True)]
    lead = [("row", i) for i in range(a.lead)]
    if not gone:
        blocks = []
        for block, part in zip(a.blocks, read, strict=True):
            part = part.expand(*block.shape[: a.lead], *part.shape[a.lead :])
            blocks.append(_einsum(block, lead + first.channels, part, lead + rest, lead + out))
        return make_tokens(a.space, blocks, dims)
    if a.is_pairs:
        raise UnsupportedError(f"A product of pairs {a!r} and a table.")
    b = TokenTensor(a.space, read, tuple((channel(size),) for size in read[0].shape[1:]))
    return _tokens_gone(first, b.values, rest, kept, dims, out)


def _as_list(index: Any, a: TokenTensor) -> list[Tensor]:
    return index if a.is_pairs else [index]


def _result_channels(first: Operand, second: Operand, kept: Sequence[Label]) -> list[Label]:
    """The channel labels of the result, in the order of its letters."""
    result = []
    for label in kept:
        mine, theirs = first.atoms.get(label), second.atoms.get(label)
        if (mine is None or mine.is_channel) and (theirs is None or theirs.is_channel):
            result.append(label)
    return result


def _tokens_gone(first: Operand, values: Tensor, labels: list[Label], kept: list[Label], dims: Dims, out: list[Label]) -> Any:
    """Sums a product over the tokens of each group."""
    a: TokenTensor = first.x
    shared = [first.atoms[label] for label in first.sites if label in kept]
    groups = a.rows.blocks(shared)
    results = []
    for mine, theirs in zip(groups.gather(a.values), groups.gather(values), strict=True):
        results.append(_einsum(mine, ["g", "n", *first.channels], theirs, ["g", "n", *labels], ["g", *out]))
    total = groups.scatter_groups(results)
    if all(atom.role == "b" for atom in shared):
        return to_dense(total, "b", dims)
    coarse, _, new = a.rows.project(shared)
    return make_tokens(coarse, [total], tuple(tuple(new.get(atom, atom) for atom in dim) for dim in dims))


def _two_rows(first: Operand, second: Operand, kept: list[Label], dims: Dims, target: list[list[Label]]) -> Any:
    a, b = first.x, second.x
    shared = [label for label in first.sites if label in second.sites]
    only_a = [label for label in first.sites if label not in shared]
    only_b = [label for label in second.sites if label not in shared]
    gone = [label for label in shared if label not in kept]
    out = _result_channels(first, second, kept)
    if only_a and only_b:
        if gone:
            raise UnsupportedError(f"A product of {a!r} and {b!r} over tokens and of pairs at once.")
        pairs = TokenPairs.of(
            a.rows, b.rows, [first.atoms[label] for label in shared], [second.atoms[label] for label in shared]
        )
        blocks = []
        for mine, theirs in zip(pairs.query_blocks.gather(a.values), pairs.key_blocks.gather(b.values), strict=True):
            blocks.append(
                _einsum(mine, ["g", "q", *first.channels], theirs, ["g", "k", *second.channels], ["g", "q", "k", *out])
            )
        sided = []
        for dim, labels in zip(dims, target, strict=True):
            sided.append(tuple(replace(x, side=1) if label in only_b else x for x, label in zip(dim, labels, strict=True)))
        return make_tokens(pairs, blocks, tuple(sided))
    if only_a or only_b:
        fine, coarse = (first, second) if only_a else (second, first)
        if gone:
            raise UnsupportedError(f"A product of {a!r} and {b!r}.")
        mine = TokenTensor(fine.x.space, fine.x.blocks, fine.dims)
        rows = _parent_rows(fine, coarse, shared)
        values = coarse.x.values.index_select(0, rows)
        block = _einsum(mine.values, ["n", *fine.channels], values, ["n", *coarse.channels], ["n", *out])
        return make_tokens(mine.space, [block], dims)
    if not same_sites(a.rows, b.rows):
        raise UnsupportedError(f"A product of {a!r} and {b!r}, which stand on unlike sites.")
    if not gone:
        block = _einsum(a.values, ["n", *first.channels], b.values, ["n", *second.channels], ["n", *out])
        return make_tokens(a.space, [block], dims)
    return _tokens_gone(first, b.values, second.channels, kept, dims, out)


def _parent_rows(fine: Operand, coarse: Operand, shared: list[Label]) -> Tensor:
    compact, _ = fine.x.rows.compact([fine.atoms[label] for label in shared])
    other, _ = coarse.x.rows.compact([coarse.atoms[label] for label in shared])
    return find_rows(other, compact)


def _with_pairs(first: Operand, second: Operand, kept: list[Label], dims: Dims) -> Any:
    a, b = first.x, second.x
    if b.is_pairs:
        raise UnsupportedError(f"A product of pairs {a!r} and pairs {b!r}.")
    space: TokenPairs = a.space
    gone = [label for label in first.sites if label not in kept]
    sides = {first.atoms[label].side for label in gone}
    out = _result_channels(first, second, kept)
    if sides == {1} and not [x for x in first.sites if x in kept and first.atoms[x].side == 1]:
        blocks = [
            _einsum(mine, ["g", "q", "k", *first.channels], theirs, ["g", "k", *second.channels], ["g", "q", *out])
            for mine, theirs in zip(a.blocks, space.key_blocks.gather(b.values), strict=True)
        ]
        return make_tokens(space.queries, [space.query_blocks.scatter(blocks)], dims)
    if sides == {0}:
        blocks = [
            _einsum(mine, ["g", "q", "k", *first.channels], theirs, ["g", "q", *second.channels], ["g", "k", *out])
            for mine, theirs in zip(a.blocks, space.query_blocks.gather(b.values), strict=True)
        ]
        dims = tuple(tuple(replace(atom, side=0) for atom in dim) for dim in dims)
        return make_tokens(space.keys, [space.key_blocks.scatter(blocks)], dims)
    raise UnsupportedError(f"A product of pairs {a!r} and tokens {b!r}.")
