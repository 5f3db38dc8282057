"""Products of two tensors, told apart by which sites both have and which of them are summed over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from i2p_zoo.errors import UnsupportedError
from i2p_zoo.sparse.row_index import RowIndex
from i2p_zoo.sparse.tokens.layout import Atom, Dim, Dims, channel, extent, site_atoms
from i2p_zoo.sparse.tokens.position_tables import read_flat
from i2p_zoo.sparse.tokens.site_tokens import as_tokens, change_layout, make_tokens
from i2p_zoo.sparse.tokens.token_pairs import PairOffsets, TokenPairs
from i2p_zoo.sparse.tokens.token_rows import find_rows, same_sites
from i2p_zoo.sparse.tokens.token_tensor import TokenTensor, split_features, to_dense

Letter = Any  # of a dimension in an equation
Label = tuple[Letter, int]  # of an atom: its dimension's letter, and its number there


@dataclass(frozen=True)
class Operand:
    """A tensor whose atoms are labelled.

    Attributes:
        x: tokens or pairs; or a dense tensor with a dimension for each atom.
        letters: of its dimensions.
        dims: what these are made of.
    """

    x: Any
    letters: Sequence[Letter]
    dims: Dims

    @cached_property
    def atoms(self) -> dict[Label, Atom]:
        """The atoms by label, in the order of traversal."""
        return {(letter, i): a for letter, dim in zip(self.letters, self.dims, strict=True) for i, a in enumerate(dim)}

    @cached_property
    def channels(self) -> list[Label]:
        """The labels of channels."""
        return [label for label, atom in self.atoms.items() if atom.is_channel]

    @cached_property
    def sites(self) -> list[Label]:
        """The labels of all others."""
        return [label for label, atom in self.atoms.items() if not atom.is_channel]

    def pick(self, labels: Sequence[Label]) -> list[Atom]:
        """The atoms of some labels."""
        return [self.atoms[label] for label in labels]


@dataclass(frozen=True)
class Result:
    """What a product makes.

    Attributes:
        letters: of its dimensions.
        dims: what these are made of.
    """

    letters: Sequence[Letter]
    dims: Dims

    @cached_property
    def labels(self) -> list[Label]:
        """The labels of its atoms."""
        return [(letter, i) for letter, dim in zip(self.letters, self.dims, strict=True) for i in range(len(dim))]

    def channels(self, first: Operand, second: Operand) -> list[Label]:
        """The labels that are channels of both operands, as far as they have them."""
        sites = {*first.sites, *second.sites}
        return [label for label in self.labels if label not in sites]

    def with_sides(self, keys: Sequence[Label]) -> Dims:
        """The dimensions with the atoms of some labels those of keys, and all others of queries."""
        dims: list[Dim] = []
        for letter, dim in zip(self.letters, self.dims, strict=True):
            dims.append(tuple(replace(atom, side=int((letter, i) in keys)) for i, atom in enumerate(dim)))
        return tuple(dims)


def contract(a: Any, la: Sequence[Letter], b: Any, lb: Sequence[Letter], out: Sequence[Letter]) -> Any:
    """Returns the einsum of two tensors of which one at least is of tokens or pairs.

    Args:
        a, b: tokens, pairs, sparse or dense tensors.
        la, lb, out: a letter for each dimension of `a`, `b` and the result.

    Raises:
        UnsupportedError: the sizes differ; or the product has no meaning for ragged tokens, such as one over pairs of pairs.
    """
    a, b = as_tokens(a), as_tokens(b)
    if not isinstance(a, TokenTensor) or (isinstance(b, TokenTensor) and b.is_pairs and not a.is_pairs):
        a, la, b, lb = b, lb, a, la
    a, la, b, lb = _drop_units(a, list(la), b, list(lb))
    a, la = _sum_lone(a, la, lb, out)
    b, lb = _sum_lone(b, lb, la, out)
    if not isinstance(a, TokenTensor):
        return contract(b, lb, a, la, out) if isinstance(b, TokenTensor) else _contract_dense(a, la, b, lb, out)
    first, second = _label(a, la, b, lb)
    dims = dict(zip(lb, second.dims, strict=True))
    for letter, dim in zip(la, first.dims, strict=True):
        if letter not in dims or site_atoms((dim,)) or not site_atoms((dims[letter],)):
            dims[letter] = dim
    result = Result(out, tuple(dims[letter] for letter in out))
    if isinstance(b, Tensor):
        return _with_dense(first, second, result)
    if a.is_pairs:
        return _with_pairs(first, second, result)
    return _two_rows(first, second, result)


# -- before the product ---------------------------------------------------------------------------------------------------


def _drop_units(a: Any, la: list[Letter], b: Any, lb: list[Letter]) -> tuple[Any, list[Letter], Any, list[Letter]]:
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
            raise UnsupportedError(f"Expected like sizes in a product; got shapes {tuple(a.shape)} and {tuple(b.shape)}.")
    return a, la, b, lb


def _squeeze(x: Any, dim: int) -> Any:
    if isinstance(x, Tensor):
        return x.squeeze(dim)
    if site_atoms((x.dims[dim],)):
        raise UnsupportedError(
            f"A product with {x!r}: its dimension {dim} of extent 1 is sites, of which a cloud may have more."
        )
    return as_tokens(change_layout(x, (*x.dims[:dim], *x.dims[dim + 1 :])))


def _sum_lone(x: Any, mine: list[Letter], theirs: Sequence[Letter], out: Sequence[Letter]) -> tuple[Any, list[Letter]]:
    """Sums over the dimensions that neither the other operand nor the result has."""
    lone = [i for i, letter in enumerate(mine) if letter not in theirs and letter not in out]
    if not lone:
        return x, mine
    return as_tokens(x.sum(lone)), [letter for i, letter in enumerate(mine) if i not in lone]


def _label(a: TokenTensor, la: Sequence[Letter], b: Any, lb: Sequence[Letter]) -> tuple[Operand, Operand]:
    """Labels atoms, after splitting the dimensions that both have alike."""
    dims_a: list[Dim] = list(a.dims)
    dims_b: list[Dim] = list(b.dims) if isinstance(b, TokenTensor) else [(channel(size),) for size in b.shape]
    for i, letter in enumerate(la):
        if letter not in lb:
            continue
        j = lb.index(letter)
        if isinstance(b, Tensor):
            dims_b[j] = tuple(channel(atom.extent) for atom in dims_a[i])
        elif not _are_alike(dims_a[i], dims_b[j]) and extent(dims_a[i]) == 1:
            # of extent 1 one side may hold an atom and the other none
            dims_a[i], dims_b[j] = (tuple(site_atoms((dim,))) for dim in (dims_a[i], dims_b[j]))
        if not _are_alike(dims_a[i], dims_b[j]):
            raise UnsupportedError(f"A product of {a!r} and {b!r}: dimensions {i} and {j} are made of unlike parts.")
    a = TokenTensor(a.space, split_features(a, tuple(dims_a)), tuple(dims_a))
    if isinstance(b, Tensor):
        b = b.reshape([atom.extent for dim in dims_b for atom in dim])
    else:
        b = TokenTensor(b.space, split_features(b, tuple(dims_b)), tuple(dims_b))
    return Operand(a, la, tuple(dims_a)), Operand(b, lb, tuple(dims_b))


def _are_alike(first: Dim, second: Dim) -> bool:
    return [atom.extent for atom in first] == [atom.extent for atom in second]


# -- the products ---------------------------------------------------------------------------------------------------------


def _einsum(a: Tensor, la: Sequence[Any], b: Tensor, lb: Sequence[Any], out: Sequence[Any]) -> Tensor:
    numbers = {label: i for i, label in enumerate(dict.fromkeys([*la, *lb]))}
    return torch.einsum(a, [numbers[x] for x in la], b, [numbers[x] for x in lb], [numbers[x] for x in out])


def _contract_dense(a: Tensor, la: Sequence[Letter], b: Tensor, lb: Sequence[Letter], out: Sequence[Letter]) -> Tensor:
    """The product of two operands that are dense by now; letters that both lost were of extent 1."""
    result = _einsum(a, la, b, lb, [letter for letter in out if letter in la or letter in lb])
    for i, letter in enumerate(out):
        if letter not in la and letter not in lb:
            result = result.unsqueeze(i)
    return result


def _with_dense(first: Operand, second: Operand, result: Result) -> Any:
    """Tokens or pairs by a dense tensor: a matrix for all of them, one for each group, or one read at each place."""
    a: TokenTensor = first.x
    looked_up = [label for label in second.atoms if label in first.sites]
    gone = [label for label in first.sites if label not in result.labels]
    lead, out = [("row", i) for i in range(a.lead)], result.channels(first, second)
    if not looked_up:
        blocks = [_einsum(block, lead + first.channels, second.x, list(second.atoms), lead + out) for block in a.blocks]
        return make_tokens(a.space, blocks, result.dims)
    rest = [label for label in second.atoms if label not in looked_up]
    labels = list(second.atoms)
    table = second.x.permute([labels.index(label) for label in [*looked_up, *rest]]).flatten(0, len(looked_up) - 1)
    atoms = first.pick(looked_up)
    if any(atom.role == "b" for atom in atoms) and not any(atom.role == "t" for atom in atoms) and not a.is_pairs and not gone:
        groups, places = a.rows.blocks(atoms), a.rows.offsets(atoms)[0]
        blocks = []
        for block, group in zip(groups.gather(a.values), groups.parts, strict=True):
            leading = group.rows[:, :1].flatten()  # none of empty groups
            matrices = (
                read_flat(table, places[leading]) if len(leading) else table[:1].expand(len(group.rows), *table.shape[1:])
            )
            blocks.append(_einsum(block, ["g", "n", *first.channels], matrices, ["g", *rest], ["g", "n", *out]))
        return make_tokens(a.space, [groups.scatter(blocks)], result.dims)
    offsets = [each.queries + each.keys if isinstance(each, PairOffsets) else each for each in a.space.offsets(atoms)]
    read = [read_flat(table, each) for each in offsets]
    if gone and a.is_pairs:
        raise UnsupportedError(f"A sum over a product of pairs, {a!r}, and a table: expected tokens.")
    if gone:
        return _sum_tokens(first, read[0], rest, second, result)
    blocks = []
    for block, part in zip(a.blocks, read, strict=True):
        part = part.expand(*block.shape[: a.lead], *part.shape[a.lead :])
        blocks.append(_einsum(block, lead + first.channels, part, lead + rest, lead + out))
    return make_tokens(a.space, blocks, result.dims)


def _sum_tokens(first: Operand, values: Tensor, labels: list[Label], second: Operand, result: Result) -> Any:
    """Sums a product over the tokens of each group.

    Args:
        first: tokens.
        values: (rows, ...) of the other on the same rows, with these labels behind the rows.
        labels: those.
        second: whose values they are.
        result: what is made.
    """
    rows = first.x.rows
    shared = first.pick([label for label in first.sites if label in result.labels])
    groups = rows.blocks(shared)
    blocks = []
    for mine, theirs in zip(groups.gather(first.x.values), groups.gather(values), strict=True):
        out = ["g", *result.channels(first, second)]
        blocks.append(_einsum(mine, ["g", "n", *first.channels], theirs, ["g", "n", *labels], out))
    total = groups.scatter_groups(blocks)
    if all(atom.role == "b" for atom in shared):
        return to_dense(total, "b", result.dims)
    coarse, _, new = rows.project(shared)
    return make_tokens(coarse, [total], tuple(tuple(new.get(atom, atom) for atom in dim) for dim in result.dims))


def _two_rows(first: Operand, second: Operand, result: Result) -> Any:
    """Tokens by tokens: pairs, a coarser level's values at each token, products of each token, or their sums over groups."""
    a, b = first.x, second.x
    shared = [label for label in first.sites if label in second.sites]
    alone = [[label for label in operand.sites if label not in shared] for operand in (first, second)]
    gone = [label for label in shared if label not in result.labels]
    out = result.channels(first, second)
    if gone and any(alone):
        raise UnsupportedError(
            f"A product of {a!r} and {b!r}, of pairs and summed over tokens at once: expected one of the two."
        )
    if all(alone):
        pairs = TokenPairs.of(a.rows, b.rows, first.pick(shared), second.pick(shared))
        labels = (["g", "q", *first.channels], ["g", "k", *second.channels], ["g", "q", "k", *out])
        blocks = [
            _einsum(mine, labels[0], theirs, labels[1], labels[2])
            for mine, theirs in zip(pairs.query_blocks.gather(a.values), pairs.key_blocks.gather(b.values), strict=True)
        ]
        return make_tokens(pairs, blocks, result.with_sides(alone[1]))
    if any(alone):
        fine, coarse = (first, second) if alone[0] else (second, first)
        values = RowIndex(_parent_rows(fine, coarse, shared), len(coarse.x.values)).take(coarse.x.values)
        block = _einsum(fine.x.values, ["n", *fine.channels], values, ["n", *coarse.channels], ["n", *out])
        return make_tokens(fine.x.space, [block], result.dims)
    if not same_sites(a.rows, b.rows):
        raise UnsupportedError(f"A product of {a!r} and {b!r}, which stand on unlike sites.")
    if gone:
        return _sum_tokens(first, b.values, second.channels, second, result)
    block = _einsum(a.values, ["n", *first.channels], b.values, ["n", *second.channels], ["n", *out])
    return make_tokens(a.space, [block], result.dims)


def _parent_rows(fine: Operand, coarse: Operand, shared: list[Label]) -> Tensor:
    """(rows,) int64: which row of the coarse operand each of the fine one belongs to."""
    compact, _ = fine.x.rows.compact(fine.pick(shared))
    other, _ = coarse.x.rows.compact(coarse.pick(shared))
    return find_rows(other, compact)


def _with_pairs(first: Operand, second: Operand, result: Result) -> Any:
    """Pairs by tokens, summed over the keys or over the queries."""
    a, b = first.x, second.x
    if b.is_pairs:
        raise UnsupportedError(f"A product of pairs {a!r} and pairs {b!r}: expected tokens.")
    space: TokenPairs = a.space
    gone = {first.atoms[label].side for label in first.sites if label not in result.labels}
    keys_stay = any(label in result.labels and first.atoms[label].side == 1 for label in first.sites)
    if gone == {1} and not keys_stay:
        summed, kept, mine, theirs, rows = "k", "q", space.query_blocks, space.key_blocks, space.queries
    elif gone == {0}:
        summed, kept, mine, theirs, rows = "q", "k", space.key_blocks, space.query_blocks, space.keys
    else:
        raise UnsupportedError(
            f"A product of pairs {a!r} and tokens {b!r}: expected a sum over all queries or all keys of a group."
        )
    labels = (["g", "q", "k", *first.channels], ["g", summed, *second.channels], ["g", kept, *result.channels(first, second)])
    blocks = [
        _einsum(block, labels[0], values, labels[1], labels[2])
        for block, values in zip(a.blocks, theirs.gather(b.values, blank=True), strict=True)
    ]
    return make_tokens(rows, [mine.scatter(blocks)], result.with_sides([]))
