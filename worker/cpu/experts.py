"""Records operations of experts around their products."""

from __future__ import annotations

from tplaunch.coordinator.model.experts import GATINGS
from tplaunch.worker.cpu.recorder import Recorder
from tplaunch.worker.cpu.rows import add_slots
from tplaunch.worker.ops.experts import ExpertSum, ExpertTiles, Route, RowGate, SharedRoutes, tile_words


def route(op: Route, recorder: Recorder) -> None:
    routes = recorder.address("routes") if op.parity is None else recorder.slot(op.parity)
    stride = recorder.stride("routes")
    if not op.decides:
        recorder.kernel(
            "rows.clear",
            output=routes,
            output_stride=stride,
            length=stride // 4,
            num_rows=recorder.num_rows(),
        )
        return
    recorder.kernel(
        "experts.route",
        router=recorder.address("router"),
        router_stride=recorder.stride("router"),
        bias=recorder.vector(op.bias),
        routes=routes,
        routes_stride=stride,
        count=op.count,
        used=op.used,
        gating=GATINGS.index(op.gating),
        by_logits=int(op.by_logits),
        normalises=int(op.normalises),
        scale=float(op.scale),
        num_groups=op.num_groups,
        used_groups=op.used_groups,
        **recorder.room("routing", 4 * (2 * op.count + op.num_groups)),
        num_rows=recorder.num_rows(),
    )


def shared_routes(op: SharedRoutes, recorder: Recorder) -> None:
    add_slots(recorder, op.parity, recorder.address("routes"), recorder.stride("routes") // 4)


def expert_tiles(op: ExpertTiles, recorder: Recorder) -> None:
    recorder.kernel(
        "experts.tiles",
        routes=recorder.address("routes"),
        routes_stride=recorder.stride("routes"),
        used=op.held.used,
        first=op.held.first,
        held=op.held.count,
        pairs=op.pairs,
        places=recorder.address("expert_tiles"),
        num_places=recorder.state.bytes["expert_tiles"].nbytes // (4 * tile_words(op.pairs)),
        **recorder.room("routing", 8 * op.held.count),
        num_rows=recorder.num_rows(),
    )


def expert_sum(op: ExpertSum, recorder: Recorder) -> None:
    recorder.kernel(
        "experts.add_up",
        routes=recorder.address("routes"),
        routes_stride=recorder.stride("routes"),
        outputs=recorder.address("expert_outputs"),
        outputs_stride=recorder.stride("expert_outputs"),
        output=recorder.slot(op.parity),
        output_stride=recorder.stride("hidden"),
        used=op.held.used,
        first=op.held.first,
        held=op.held.count,
        weighs=int(op.weighs),
        scale=float(op.scale),
        accumulates=int(op.accumulates),
        columns=recorder.stride("hidden") // 4,
        num_rows=recorder.num_rows(),
    )


def row_gate(op: RowGate, recorder: Recorder) -> None:
    recorder.kernel(
        "experts.row_gate",
        source=recorder.address(op.input),
        source_stride=recorder.stride(op.input),
        weight=recorder.address(op.weight),
        width=op.width,
        values=recorder.address(op.values, op.offset),
        values_stride=recorder.stride(op.values),
        columns=op.columns,
        num_rows=recorder.num_rows(),
    )
