"""Finds how far each value of a kernel is the same: in the workgroup, in each subgroup, or nowhere.

Knows single instructions. In which order they are looked at, and what the flow is like around them, is for
uniformity.py to say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tplaunch.shaders import spirv
from tplaunch.shaders.analysis.flow import WITHOUT_RESULT, Graph, Node
from tplaunch.shaders.analysis.pointers import Pointee, Site, find_pointees, find_stores
from tplaunch.shaders.analysis.trees import (
    LEVEL_BITS,
    UNKNOWN_ROOT,
    Tree,
    Types,
    at_path,
    flat,
    joined,
    with_path,
)
from tplaunch.shaders.spirv import Instruction

# Levels: sets of bits, which "or" joins.
UNIFORM, OF_SUBGROUP, VARYING = 0, 1, 3

INPUT_CLASS, WORKGROUP_CLASS, PRIVATE_CLASS, FUNCTION_CLASS, PUSH_CLASS = 1, 4, 6, 7, 9
BUILTIN_DECORATION = 11
# NumWorkgroups, WorkgroupSize, WorkgroupId, SubgroupSize and NumSubgroups; SubgroupId. The others vary.
BUILTINS = {24: UNIFORM, 25: UNIFORM, 26: UNIFORM, 36: UNIFORM, 38: UNIFORM, 40: OF_SUBGROUP}
SUBGROUP_OPERATIONS = range(333, 367)
REDUCTIONS, REDUCE = range(349, 365), 0  # over all lanes; prefix sums are other ones of the same opcodes
# Results that follow from the operands alone: copies, conversions, arithmetic, logic, bits, dot products,
# products of cooperative matrices and their length; and how many operands are ids where others follow them.
DOT_PRODUCTS, MATRIX_LENGTH = range(4450, 4456), 4460
PURE = frozenset(
    (
        *(spirv.OP_COPY_OBJECT, spirv.OP_VECTOR_SHUFFLE, *range(109, 206)),
        *(*DOT_PRODUCTS, spirv.OP_COOPERATIVE_MATRIX_MULTIPLY, MATRIX_LENGTH),
    )
)
NUM_IDS = {spirv.OP_VECTOR_SHUFFLE: 2, 4450: 2, 4451: 2, 4452: 2, 4453: 3, 4454: 3, 4455: 3, 4459: 3}
WRITING_EXTENSIONS = (35, 51)  # Modf and Frexp of GLSL.std.450 write through a pointer


class UnknownInstruction(ValueError):
    """The analysis must be taught what an instruction does before a kernel may hold it."""


class Values:
    """Levels and roots of a kernel's values and variables; they only ever rise."""

    def __init__(self, graph: Graph, order: Sequence[int]) -> None:
        self._types = Types(graph.declarations)
        self.constants: Mapping[int, int] = self._types.constants
        self.pointees = find_pointees(graph, self._types)
        self.racing = set[int]()  # the workgroup's variables that may differ from reader to reader
        self.changed = False
        self._values: dict[int, Tree] = {}
        self._classes: dict[int, int] = {}
        self._variables: dict[int, Tree] = {}
        self._stored: dict[Site, Tree] = {}
        self._written_roots = 0
        self._declare_all(graph)
        functions = {name for name, storage in self._classes.items() if storage == FUNCTION_CLASS}
        self._reaching = find_stores(graph.nodes, order, self.pointees, functions)

    def _declare_all(self, graph: Graph) -> None:
        builtins = {
            op.operands[0]: op.operands[2]
            for op in graph.declarations
            if op.opcode == spirv.OP_DECORATE and op.operands[1] == BUILTIN_DECORATION
        }
        for node in (Node({}, graph.declarations), *graph.nodes):
            for op in node.instructions:
                if op.opcode != spirv.OP_VARIABLE:
                    continue
                pointer, identifier, storage = op.operands[:3]
                tree = self._types.tree(self._types.pointee(pointer), has_roots=storage == PUSH_CLASS)
                if storage == INPUT_CLASS:
                    tree = BUILTINS.get(builtins[identifier], VARYING)
                name = node.name(identifier)
                self._classes[name], self._variables[name] = storage, tree

    def level(self, name: int) -> int:
        """Returns how far a value is the same."""
        return flat(self._values.get(name, UNIFORM)) & LEVEL_BITS

    def take(self, site: Site, node: Node, op: Instruction, flow: int) -> None:
        """Learns from an instruction in flow of that level."""
        if op.opcode == spirv.OP_STORE:
            self._store(site, node.name(op.operands[0]), self._value(node, op.operands[1]), flow)
        elif op.opcode == spirv.OP_COOPERATIVE_MATRIX_STORE:
            self._store(site, node.name(op.operands[0]), VARYING, flow)
        elif op.opcode == spirv.OP_RETURN_VALUE and node.result_of_call is not None:
            self._set(node.result_of_call, joined(self._value(node, op.operands[0]), flow))
        elif op.opcode not in WITHOUT_RESULT and op.opcode != spirv.OP_FUNCTION_CALL:
            name = node.name(op.operands[1])
            if name not in self.pointees:
                self._set(name, self._result(site, node, op))

    def _value(self, node: Node, identifier: int) -> Tree:
        name = node.name(identifier)
        if name in self.pointees:
            raise UnknownInstruction("a pointer to a variable is used as a value")
        return self._values.get(name, UNIFORM)

    def _set(self, name: int, value: Tree) -> None:
        known = self._values.get(name)
        value = value if known is None else joined(known, value)
        if value != known:
            self._values[name], self.changed = value, True

    def _choice(self, pointee: Pointee) -> int:
        """Returns how far the choice of a variable's member is the same."""
        found = UNIFORM
        for index in pointee.indices:
            found |= self.level(index)
        return found

    def _store(self, site: Site, pointer: int, value: Tree, flow: int) -> None:
        pointee = self.pointees.get(pointer)
        if pointee is None:
            roots = flat(self._values.get(pointer, UNIFORM)) & ~LEVEL_BITS or UNKNOWN_ROOT
            self.changed = self.changed or self._written_roots | roots != self._written_roots
            self._written_roots |= roots
        elif self._classes[pointee.variable] in (FUNCTION_CLASS, PRIVATE_CLASS):
            value = joined(value, flow | self._choice(pointee))
            known = self._variables[pointee.variable], self._stored.get(site)
            self._variables[pointee.variable] = with_path(known[0], pointee.path, value)
            self._stored[site] = value
            self.changed = self.changed or (self._variables[pointee.variable], value) != known
        elif self._classes[pointee.variable] != WORKGROUP_CLASS:
            raise UnknownInstruction(f"a store to storage class {self._classes[pointee.variable]}")

    def _loaded(self, site: Site, pointer: int, result_type: int) -> Tree:
        pointee = self.pointees.get(pointer)
        if pointee is None:
            level = self._loaded_from_memory(flat(self._values.get(pointer, UNIFORM)))
            return level | UNKNOWN_ROOT if self._types.is_pointer(result_type) else level
        if self._classes[pointee.variable] == WORKGROUP_CLASS:
            return VARYING if pointee.variable in self.racing else self._choice(pointee)
        if site in self._reaching:
            found = self._types.tree(result_type)
            for store in self._reaching[site]:
                found = joined(found, self._stored.get(store, UNIFORM))
            return found
        return joined(at_path(self._variables[pointee.variable], pointee.path), self._choice(pointee))

    def _loaded_from_memory(self, address: int) -> int:
        """The level of what lies at an address; what the kernel writes may change between two readers."""
        roots = address & ~LEVEL_BITS or UNKNOWN_ROOT
        written = self._written_roots
        may_change = written & (roots | UNKNOWN_ROOT) or (roots & UNKNOWN_ROOT and written)
        return VARYING if may_change else address & LEVEL_BITS

    def _result(self, site: Site, node: Node, op: Instruction) -> Tree:
        result_type, _, *operands = op.operands
        if op.opcode == spirv.OP_LOAD:
            return self._loaded(site, node.name(operands[0]), result_type)
        if op.opcode == spirv.OP_COOPERATIVE_MATRIX_LOAD:
            return flat(self._loaded(site, node.name(operands[0]), result_type)) & LEVEL_BITS | OF_SUBGROUP
        if op.opcode in SUBGROUP_OPERATIONS:
            is_reduction = op.opcode in REDUCTIONS and operands[1] == REDUCE
            return OF_SUBGROUP if is_reduction else VARYING
        if op.opcode == spirv.OP_COMPOSITE_EXTRACT:
            return at_path(self._value(node, operands[0]), operands[1:])
        if op.opcode == spirv.OP_COMPOSITE_CONSTRUCT and self._types.has_members(result_type):
            return tuple(self._value(node, member) for member in operands)
        if op.opcode == spirv.OP_COMPOSITE_INSERT:
            return with_path(self._value(node, operands[1]), operands[2:], self._value(node, operands[0]))
        if op.opcode == spirv.OP_UNDEF:
            return UNIFORM
        return self._joined_operands(node, op, operands)

    def _joined_operands(self, node: Node, op: Instruction, operands: list[int]) -> int:
        if op.opcode == spirv.OP_EXT_INST and operands[1] not in WRITING_EXTENSIONS:
            operands = operands[2:]
        elif op.opcode not in (
            *PURE,
            spirv.OP_ACCESS_CHAIN,
            spirv.OP_PTR_ACCESS_CHAIN,
            spirv.OP_COMPOSITE_CONSTRUCT,
        ):
            raise UnknownInstruction(f"no one knows what opcode {op.opcode} does to uniformity")
        found = UNIFORM
        for operand in operands[: NUM_IDS.get(op.opcode)]:
            found |= flat(self._value(node, operand))
        return found
