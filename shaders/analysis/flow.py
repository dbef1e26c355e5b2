"""A kernel's control flow: the graph of its blocks, with calls put in line, and what dominates what.

Knows nothing of what the instructions compute; values.py does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tplaunch.shaders import spirv
from tplaunch.shaders.spirv import Instruction

Names = dict[int, int]  # of a function's ids in one of its calls

# Instructions of function bodies that have no result; all others begin with its type and its id.
WITHOUT_RESULT = frozenset(
    (
        spirv.OP_STORE,
        spirv.OP_CONTROL_BARRIER,
        spirv.OP_MEMORY_BARRIER,
        spirv.OP_COOPERATIVE_MATRIX_STORE,
        spirv.OP_LOOP_MERGE,
        spirv.OP_SELECTION_MERGE,
        spirv.OP_BRANCH,
        spirv.OP_BRANCH_CONDITIONAL,
        spirv.OP_SWITCH,
        spirv.OP_RETURN,
        spirv.OP_RETURN_VALUE,
        spirv.OP_UNREACHABLE,
    )
)


@dataclass
class Node:
    """A block, or the part of one up to a call or after it. Nodes are numbered as in Graph.nodes."""

    names: Names
    instructions: list[Instruction] = field(default_factory=list)
    successors: list[int] = field(default_factory=list)
    merge: int | None = None  # where the paths meet again that part here, as the module declares it
    result_of_call: int | None = None  # the name that a ReturnValue here gives its value to

    def name(self, identifier: int) -> int:
        """The id's name in the whole graph; ids of the module, like constants, keep their own."""
        return self.names.get(identifier, identifier)


@dataclass(frozen=True)
class Function:
    """A function of a module: the ids of its parameters, and its blocks by label, the first one first."""

    parameters: tuple[int, ...]
    blocks: dict[int, list[Instruction]]


class Graph:
    """The blocks of a kernel's entry point and of all that it calls; node 0 is the first."""

    def __init__(self, module: bytes) -> None:
        instructions = list(spirv.instructions(module))
        first = next(i for i, op in enumerate(instructions) if op.opcode == spirv.OP_FUNCTION)
        self.declarations = instructions[:first]
        self._functions = dict(functions(instructions[first:]))
        self._next_name = -1
        self.nodes: list[Node] = []
        entry = next(op.operands[1] for op in self.declarations if op.opcode == spirv.OP_ENTRY_POINT)
        self._add(entry, (), None, None)

    def _add(self, function: int, arguments: Sequence[int], result: int | None, then: int | None) -> int:
        """Adds a call's nodes, which go on at the node `then`, and returns the first one's number."""
        body = self._functions[function]
        names: Names = dict(zip(body.parameters, arguments, strict=True))
        starts: dict[int, int] = {}
        for label, block in body.blocks.items():
            starts[label] = self._new_node(names, result)
            for op in block:
                if op.opcode not in WITHOUT_RESULT:
                    names[op.operands[1]] = self._next_name
                    self._next_name -= 1
        for label, block in body.blocks.items():
            self._fill(starts[label], block, starts, then)
        return next(iter(starts.values()))

    def _new_node(self, names: Names, result: int | None) -> int:
        self.nodes.append(Node(names, result_of_call=result))
        return len(self.nodes) - 1

    def _fill(self, number: int, block: list[Instruction], starts: Names, then: int | None) -> None:
        node = self.nodes[number]
        for op in block:
            node.instructions.append(op)
            if op.opcode == spirv.OP_FUNCTION_CALL:
                _, result, callee, *arguments = op.operands
                after = self._new_node(node.names, node.result_of_call)
                named = [node.name(argument) for argument in arguments]
                node.successors = [self._add(callee, named, node.name(result), after)]
                node = self.nodes[after]
            elif op.opcode in (spirv.OP_LOOP_MERGE, spirv.OP_SELECTION_MERGE):
                node.merge = starts[op.operands[0]]
            elif op.opcode in (spirv.OP_RETURN, spirv.OP_RETURN_VALUE):
                node.successors = [] if then is None else [then]
            else:
                targets = [starts[label] for label in labels_of(op)]
                node.successors = targets or node.successors


def functions(instructions: list[Instruction]) -> Iterator[tuple[int, Function]]:
    """Every function of a module by its id."""
    identifier, parameters, blocks, block = (
        0,
        list[int](),
        dict[int, list[Instruction]](),
        list[Instruction](),
    )
    for op in instructions:
        if op.opcode == spirv.OP_FUNCTION:
            identifier, parameters, blocks = op.operands[1], [], {}
        elif op.opcode == spirv.OP_FUNCTION_PARAMETER:
            parameters.append(op.operands[1])
        elif op.opcode == spirv.OP_LABEL:
            blocks[op.operands[0]] = block = []
        elif op.opcode == spirv.OP_FUNCTION_END:
            yield identifier, Function(tuple(parameters), blocks)
        else:
            block.append(op)


def labels_of(op: Instruction) -> tuple[int, ...]:
    """The labels to which a branch may go."""
    if op.opcode == spirv.OP_BRANCH:
        return op.operands
    if op.opcode == spirv.OP_BRANCH_CONDITIONAL:
        return op.operands[1:3]
    if op.opcode == spirv.OP_SWITCH:  # selector, default, then pairs of a number and a label
        return (op.operands[1], *op.operands[3::2])
    return ()


def reachable(successors: Mapping[int, Sequence[int]], start: int) -> list[int]:
    """The nodes that paths lead to from the start; without loops, each one after all those before it."""
    found, order, stack = {start}, list[int](), [(start, iter(successors[start]))]
    while stack:
        node, remaining = stack[-1]
        following = next((other for other in remaining if other not in found), None)
        if following is None:
            order.append(node)
            stack.pop()
        else:
            found.add(following)
            stack.append((following, iter(successors[following])))
    return order[::-1]


def dominators(successors: Mapping[int, Sequence[int]], start: int) -> dict[int, int]:
    """The immediate dominator of each node that is reachable; the start is its own.

    https://www.cs.tufts.edu/~nr/cs257/archive/keith-cooper/dom14.pdf
    """
    order = reachable(successors, start)
    places = {node: place for place, node in enumerate(order)}
    before: dict[int, list[int]] = {node: [] for node in order}
    for node in order:
        for other in successors[node]:
            before[other].append(node)
    found, changed = {start: start}, True
    while changed:
        changed = False
        for node in order[1:]:
            known = [other for other in before[node] if other in found]
            common = known[0]
            for other in known[1:]:
                common = _meet(found, places, common, other)
            changed = changed or found.get(node) != common
            found[node] = common
    return found


def _meet(found: Mapping[int, int], places: Mapping[int, int], one: int, other: int) -> int:
    """The nearest node that dominates both."""
    while one != other:
        if places[one] > places[other]:
            one = found[one]
        else:
            other = found[other]
    return one


def chain(found: Mapping[int, int], node: int) -> Iterator[int]:
    """The node and all that dominate it, the nearest first."""
    while node in found:
        yield node
        if found[node] == node:
            return
        node = found[node]
