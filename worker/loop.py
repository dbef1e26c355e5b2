"""One rank's life: Hello, Load, then a StepDone for every Step until Shutdown."""

from __future__ import annotations

from tplaunch.coordinator.garbage import collect_if_due, collected_by_hand
from tplaunch.coordinator.messages import (
    PROTOCOL_VERSION,
    Advance,
    Attached,
    Connect,
    Hello,
    Load,
    Ready,
    Shutdown,
    Step,
)
from tplaunch.worker.control import ControlSocket
from tplaunch.worker.device import DeviceId
from tplaunch.worker.rank import Worker, expect


def serve(control: ControlSocket, rank: int, device_id: DeviceId) -> None:
    """Runs a rank until it is told to shut down. What goes wrong is raised."""
    control.send(Hello(PROTOCOL_VERSION, rank))
    load = expect(control.receive(), Load)
    worker = Worker(load, device_id, control.place)
    try:
        device = worker.device
        control.send(
            Attached(
                worker.weights.model_hash,
                device.name,
                device.kind,
                worker.collective.endpoint,
                worker.handover.endpoints,
            )
        )
        worker.connect(expect(control.receive(), Connect))
        worker.load_weights(control)
        worker.prepare()
        control.send(
            Ready(
                worker.device_bytes,
                worker.device.sharing,
                worker.copy_bandwidth,
                tuple(worker.notes),
                worker.tells_prompts_apart,
                worker.activations_of_prompts,
                worker.device.prompt_rows,
                worker.most_row_keys,
            )
        )
        with collected_by_hand():
            while not isinstance(message := control.receive(), Shutdown):
                if isinstance(message, Step | Advance):
                    worker.begin_step(message.number, control.digest)
                control.send(worker.answer(message))
                collect_if_due()  # while the coordinator samples
    except BaseException as error:
        worker.collective.abort(str(error))
        worker.handover.abort(str(error))
        raise
    finally:
        worker.close()
