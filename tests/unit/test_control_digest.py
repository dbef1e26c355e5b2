"""A worker's socket tells a digest of what it received, so that hosts notice different steps."""

from pathlib import Path

import numpy as np
import zmq

from tplaunch.collectives import DIGEST_BYTES
from tplaunch.coordinator.encoding import encode, identity, send_frames
from tplaunch.coordinator.messages import Step
from tplaunch.worker.control import ControlSocket


def test_all_who_receive_a_message_have_its_digest(tmp_path: Path) -> None:
    rows = np.arange(5000, dtype=np.int32)
    steps = [
        Step(7, rows, rows[:5], rows[:1]),
        Step(7, rows, rows[:5], rows[:2]),
        Step(8, rows, rows[:5], rows[:1]),
        Step(7, rows[::-1].copy(), rows[:5], rows[:1]),
    ]
    endpoint = f"ipc://{tmp_path}/control"
    with zmq.Context() as context, context.socket(zmq.ROUTER) as coordinator:
        coordinator.setsockopt(zmq.ROUTER_MANDATORY, 1)
        coordinator.setsockopt(zmq.RCVTIMEO, 30_000)
        coordinator.bind(endpoint)
        sockets = [ControlSocket(endpoint, rank) for rank in (0, 1)]
        digests = []
        for rank, control in enumerate(sockets):
            control.send(steps[0])  # so that the router knows it
            coordinator.recv_multipart()
            for step in steps:
                send_frames(coordinator, (identity(rank), *encode(step)))
                assert isinstance(control.receive(), Step)
                digests.append(control.digest())
            control.close()
    assert digests[:4] == digests[4:]
    assert len(set(digests)) == 4 and {len(digest) for digest in digests} == {DIGEST_BYTES}
