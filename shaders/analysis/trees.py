"""Facts about a value: a number where all of it is alike, or a tuple of the facts about each member.

The numbers are sets of bits, which "or" joins: the lowest two are a level of values.py, each of the
others is a root, a pointer among the push constants that the value was computed from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from tplaunch.shaders import spirv
from tplaunch.shaders.spirv import Instruction

Tree: TypeAlias = "int | tuple[Tree, ...]"

LEVEL_BITS, UNKNOWN_ROOT, FIRST_ROOT = 3, 4, 8  # the unknown one: of pointers that were read from memory
TYPES = (*range(19, 40), 4456)  # the last one of cooperative matrices
SCALARS = (spirv.OP_TYPE_BOOL, spirv.OP_TYPE_INT, spirv.OP_TYPE_FLOAT)


class Types:
    """The types and integer constants of a module."""

    def __init__(self, declarations: Sequence[Instruction]) -> None:
        self._by_id = {op.operands[0]: op for op in declarations if op.opcode in TYPES}
        self.constants = {
            op.operands[1]: op.operands[2] for op in declarations if op.opcode == spirv.OP_CONSTANT
        }
        self._num_roots = 0

    def pointee(self, pointer: int) -> int:
        """The type that a pointer type points to."""
        return self._by_id[pointer].operands[2]

    def is_pointer(self, identifier: int) -> bool:
        """Returns true if a type is that of pointers."""
        return self._by_id[identifier].opcode == spirv.OP_TYPE_POINTER

    def has_members(self, identifier: int) -> bool:
        """Returns true if members of a type are told apart: members of vectors are not."""
        return self._by_id[identifier].opcode in (spirv.OP_TYPE_STRUCT, spirv.OP_TYPE_ARRAY)

    def tree(self, identifier: int, has_roots: bool = False) -> Tree:
        """A tree for a type; each pointer in it is a root of its own, or none is."""
        op = self._by_id[identifier]
        if op.opcode == spirv.OP_TYPE_STRUCT:
            return tuple(self.tree(member, has_roots) for member in op.operands[1:])
        if op.opcode == spirv.OP_TYPE_ARRAY:
            return (self.tree(op.operands[1], has_roots),) * self.constants[op.operands[2]]
        if has_roots and op.opcode == spirv.OP_TYPE_POINTER:
            self._num_roots += 1
            return FIRST_ROOT << (self._num_roots - 1)
        return 0

    def nbytes(self, identifier: int) -> int:
        """The bytes that a type takes in a workgroup's memory, at most."""
        op = self._by_id[identifier]
        if op.opcode == spirv.OP_TYPE_BOOL:
            return 4
        if op.opcode in SCALARS:
            return op.operands[1] // 8
        if op.opcode == spirv.OP_TYPE_VECTOR:
            length = op.operands[2]
            return self.nbytes(op.operands[1]) * (length + length % 2)
        if op.opcode == spirv.OP_TYPE_ARRAY:
            return self.nbytes(op.operands[1]) * self.constants[op.operands[2]]
        if op.opcode == spirv.OP_TYPE_STRUCT:
            return sum(-(-self.nbytes(member) // 16) * 16 for member in op.operands[1:])
        raise ValueError(f"no size is known of type {op.opcode}")


def flat(tree: Tree) -> int:
    """All of a tree as one."""
    if isinstance(tree, int):
        return tree
    found = 0
    for member in tree:
        found |= flat(member)
    return found


def joined(one: Tree, other: Tree) -> Tree:
    """Joins the facts about a value that may be the one or the other."""
    if isinstance(one, int) and isinstance(other, int):
        return one | other
    if isinstance(one, tuple) and isinstance(other, tuple) and len(one) == len(other):
        return tuple(joined(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, int) and isinstance(other, tuple):
        return tuple(joined(one, member) for member in other)
    if isinstance(one, tuple) and isinstance(other, int):
        return tuple(joined(member, other) for member in one)
    return flat(one) | flat(other)


def at_path(tree: Tree, path: Sequence[int | None]) -> Tree:
    """Returns the facts about a member; None in the path stands for any member."""
    for index in path:
        if isinstance(tree, int):
            return tree
        if index is None:
            return flat(tree)
        tree = tree[index]
    return tree


def with_path(tree: Tree, path: Sequence[int | None], added: Tree) -> Tree:
    """The tree when a member may also be what is added; None stands for any member."""
    if not path:
        return joined(tree, added)
    if isinstance(tree, int):
        return tree | flat(added)
    first, rest = path[0], path[1:]
    return tuple(
        with_path(member, rest, added) if first in (None, i) else member for i, member in enumerate(tree)
    )
