"""Finds barriers and subgroup operations that not all invocations reach which they wait for.

A control barrier, whatever its scope, must stand in flow that is uniform over the workgroup: Mesa's lavapipe
has one kind of them only, and waits for the whole workgroup. An operation of a subgroup must stand in flow
that is uniform over the subgroup. Flow that has parted counts as united where the module declares it and all
paths lead.

The analysis errs on the side of complaints. It takes for granted that what a kernel writes through one
pointer of its push constants it doesn't read through another one.
"""

from __future__ import annotations

from collections.abc import Iterator

from tplaunch.shaders import spirv
from tplaunch.shaders.analysis.flow import Graph, Node, chain, dominators, reachable
from tplaunch.shaders.analysis.values import OF_SUBGROUP, SUBGROUP_OPERATIONS, UNIFORM, Values
from tplaunch.shaders.spirv import Instruction

WORKGROUP_SCOPE = 2
OF_SUBGROUPS = (
    *SUBGROUP_OPERATIONS,
    spirv.OP_COOPERATIVE_MATRIX_LOAD,
    spirv.OP_COOPERATIVE_MATRIX_STORE,
    spirv.OP_COOPERATIVE_MATRIX_MULTIPLY,
)
LOADS = (spirv.OP_LOAD, spirv.OP_COOPERATIVE_MATRIX_LOAD)
STORES = (spirv.OP_STORE, spirv.OP_COOPERATIVE_MATRIX_STORE)


def violations(module: bytes) -> list[str]:
    """A sentence for each barrier and subgroup operation of a kernel that stands where it must not."""
    return list(_Kernel(module).violations())


class _Kernel:
    """The flow of one kernel."""

    def __init__(self, module: bytes) -> None:
        graph = Graph(module)
        self._nodes = graph.nodes
        self._successors = {number: node.successors for number, node in enumerate(self._nodes)}
        self._order = reachable(self._successors, 0)
        self._values = Values(graph, self._order)
        self._dominators = dominators(self._successors, 0)
        self._post_dominators = self._find_post_dominators()
        headers = {node.merge: number for number, node in enumerate(self._nodes) if node.merge is not None}
        self._headers = {merge: header for merge, header in headers.items() if merge in self._dominators}
        self._flow = dict.fromkeys(self._order, UNIFORM)
        self._parted = dict.fromkeys(self._order, UNIFORM)  # levels of the nodes' conditions
        self._values.racing = self._find_racing()
        while self._pass():
            pass

    def violations(self) -> Iterator[str]:
        for number in self._order:
            for op in self._nodes[number].instructions:
                if op.opcode == spirv.OP_CONTROL_BARRIER and self._flow[number] != UNIFORM:
                    scope = self._values.constants.get(op.operands[0])
                    yield f"control barrier of scope {scope} in flow that differs within the workgroup"
                if op.opcode in OF_SUBGROUPS and self._flow[number] | OF_SUBGROUP != OF_SUBGROUP:
                    yield f"subgroup operation {op.opcode} in flow that differs within the subgroup"

    def _find_post_dominators(self) -> dict[int, int]:
        end = -1
        backwards: dict[int, list[int]] = {number: [] for number in (*self._order, end)}
        for number in self._order:
            for other in self._successors[number]:
                backwards[other].append(number)
            last = self._nodes[number].instructions[-1:]
            if not self._successors[number] and last and last[0].opcode == spirv.OP_RETURN:
                backwards[end].append(number)
        return dominators(backwards, end)

    def _pass(self) -> bool:
        """Looks at all instructions once; whether anything new was learned."""
        self._values.changed = False
        for number in self._order:
            node = self._nodes[number]
            for place, op in enumerate(node.instructions):
                self._values.take((number, place), node, op, self._flow[number])
                if op.opcode in (spirv.OP_BRANCH_CONDITIONAL, spirv.OP_SWITCH):
                    self._part(number, self._values.level(node.name(op.operands[0])))
        return self._values.changed

    def _part(self, number: int, level: int) -> None:
        """The flow parts behind a node by a condition of that level, until it is united again."""
        if self._parted[number] | level == self._parted[number]:
            return
        self._parted[number] |= level
        self._values.changed = True
        end, found, waiting = self._united_at(number), set[int](), list(self._successors[number])
        while waiting:
            other = waiting.pop()
            if other in found or other == end:
                continue
            found.add(other)
            self._flow[other] |= level
            waiting += self._successors[other]

    def _united_at(self, number: int) -> int | None:
        """The nearest merge of a construct around a node to which all paths lead from there; None at the end.

        https://registry.khronos.org/SPIR-V/specs/unified1/SPIRV.html#Term-Uniform-control-flow
        """
        around = set(chain(self._dominators, number))
        for merge in chain(self._post_dominators, number):
            if merge != number and merge not in around and self._headers.get(merge) in around:
                return merge
        return None

    def _find_racing(self) -> set[int]:
        """The workgroup's variables that some may read while others write: between the same two barriers.

        That all pass the same barriers is what violations() looks into.
        """
        starts = [(0, 0)]
        for number in self._order:
            ops = enumerate(self._nodes[number].instructions, 1)
            starts += [(number, place) for place, op in ops if self._waits_for_all(op)]
        racing = set[int]()
        for start in starts:
            read, written = set[int](), set[int]()
            for node, op in self._until_barrier(*start):
                if op.opcode in LOADS or op.opcode in STORES:
                    pointer = node.name(op.operands[2 if op.opcode in LOADS else 0])
                    if pointer in self._values.pointees:
                        variable = self._values.pointees[pointer].variable
                        (read if op.opcode in LOADS else written).add(variable)
            racing |= read & written
        return racing

    def _waits_for_all(self, op: Instruction) -> bool:
        scopes = self._values.constants
        return op.opcode == spirv.OP_CONTROL_BARRIER and scopes.get(op.operands[0]) == WORKGROUP_SCOPE

    def _until_barrier(self, number: int, place: int) -> Iterator[tuple[Node, Instruction]]:
        """All instructions that may follow without a barrier of the workgroup in between."""
        seen, waiting = set[tuple[int, int]](), [(number, place)]
        while waiting:
            start = waiting.pop()
            if start in seen:
                continue
            seen.add(start)
            node = self._nodes[start[0]]
            for op in node.instructions[start[1] :]:
                if self._waits_for_all(op):
                    break
                yield node, op
            else:
                waiting += [(other, 0) for other in node.successors]
