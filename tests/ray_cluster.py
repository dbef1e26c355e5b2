"""A Ray cluster of several nodes on this machine: `python -m tests.ray_cluster FOLDER N`.

It prints the cluster's address, then does what lines on its standard input say, and answers "done": `add` a
node, or `kill` the second one. It ends with its standard input. Each node but the first declares N
vulkan_device; 0: none.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any


def main(folder: str, num_devices: int) -> None:
    node: dict[str, Any] = {"num_cpus": 1}
    first = {**node, "include_dashboard": False, "temp_dir": folder}
    if num_devices:
        node["resources"] = {"vulkan_device": num_devices}
    cluster: Any = importlib.import_module("ray.cluster_utils").Cluster(
        initialize_head=True, head_node_args=first
    )
    try:
        second = cluster.add_node(**node)
        print(cluster.address, flush=True)
        for line in sys.stdin:
            if line.strip() == "add":
                cluster.add_node(**node)
            else:
                cluster.remove_node(second, allow_graceful=False)
            print("done", flush=True)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
