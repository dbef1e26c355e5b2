"""Finds the variables that pointers of a kernel point to, and which stores a load may see.

The compiler uses a variable for one thing after another: of its stores only those count after which a path
leads to the load without another store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tplaunch.shaders import spirv
from tplaunch.shaders.analysis.flow import Graph, Node
from tplaunch.shaders.analysis.trees import Types

Site = tuple[int, int]  # of an instruction: which node, and which one there


@dataclass(frozen=True)
class Pointee:
    """A variable or a member of it: the members' numbers, None where the code chooses among them."""

    variable: int
    path: tuple[int | None, ...] = ()
    indices: tuple[int, ...] = ()  # the values by which the code chooses


def find_pointees(graph: Graph, types: Types) -> dict[int, Pointee]:
    """The pointee of each pointer to a variable, by the pointer's name."""
    pointees = {
        op.operands[1]: Pointee(op.operands[1]) for op in graph.declarations if op.opcode == spirv.OP_VARIABLE
    }
    for node in graph.nodes:
        for op in node.instructions:
            if op.opcode == spirv.OP_VARIABLE:
                pointees[node.name(op.operands[1])] = Pointee(node.name(op.operands[1]))
    waiting = True
    while waiting:  # a node's number says nothing about which one runs first
        waiting = False
        for node in graph.nodes:
            for op in node.instructions:
                if op.opcode == spirv.OP_ACCESS_CHAIN and node.name(op.operands[2]) in pointees:
                    name = node.name(op.operands[1])
                    waiting = waiting or name not in pointees
                    pointees[name] = _member(
                        pointees[node.name(op.operands[2])], node, op.operands[3:], types
                    )
    return pointees


def _member(base: Pointee, node: Node, indices: Sequence[int], types: Types) -> Pointee:
    path = tuple(types.constants.get(index) for index in indices)
    chosen = tuple(node.name(index) for index in indices if index not in types.constants)
    return Pointee(base.variable, base.path + path, base.indices + chosen)


def find_stores(
    nodes: Sequence[Node], order: Sequence[int], pointees: Mapping[int, Pointee], variables: set[int]
) -> dict[Site, set[Site]]:
    """The stores that each load of these variables may see, of those that are never accessed in parts."""
    members = {pointee.variable for pointee in pointees.values() if pointee.path}
    last: dict[int, dict[int, Site]] = {
        number: {} for number in order
    }  # the last store of a node, by variable
    found: dict[Site, set[Site]] = {}
    from_before: list[tuple[Site, int]] = []
    for number in order:
        for i, op in enumerate(nodes[number].instructions):
            if op.opcode not in (spirv.OP_LOAD, spirv.OP_STORE):
                continue
            pointee = pointees.get(nodes[number].name(op.operands[0 if op.opcode == spirv.OP_STORE else 2]))
            if pointee is None or pointee.variable in members or pointee.variable not in variables:
                continue
            if op.opcode == spirv.OP_STORE:
                last[number][pointee.variable] = (number, i)
            elif pointee.variable in last[number]:
                found[number, i] = {last[number][pointee.variable]}
            else:
                from_before.append(((number, i), pointee.variable))
    before: dict[int, list[int]] = {number: [] for number in order}
    for number in order:
        for other in nodes[number].successors:
            before[other].append(number)
    for site, variable in from_before:
        found[site] = _reaching(site[0], variable, before, last)
    return found


def _reaching(
    number: int, variable: int, before: Mapping[int, Sequence[int]], last: Mapping[int, Mapping[int, Site]]
) -> set[Site]:
    found, seen, waiting = set[Site](), set[int](), list(before[number])
    while waiting:
        other = waiting.pop()
        if other in seen:
            continue
        seen.add(other)
        if variable in last[other]:
            found.add(last[other][variable])
        else:
            waiting += before[other]
    return found
