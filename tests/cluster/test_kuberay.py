"""deploy/kuberay/rayjob.yaml and the image: what they promise, and that deploy/check.py finds what breaks it."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from moco_ray.cli.pretrain import parse
from moco_ray.config.run import data_label
from tests.cluster.deployed import REPOSITORY, Check, check_command, shipped
from tests.cluster.deployed import check as check  # a fixture

NAME = "deploy/kuberay/rayjob.yaml"


def manifests() -> dict[str, dict[str, Any]]:
    return {manifest["kind"]: manifest for manifest in yaml.safe_load_all(shipped(NAME))}


def groups() -> dict[str, dict[str, Any]]:
    cluster = manifests()["RayJob"]["spec"]["rayClusterSpec"]
    return {"head": cluster["headGroupSpec"], **{group["groupName"]: group for group in cluster["workerGroupSpecs"]}}


def test_shipped_file_passes_once_filled_in(check: Check) -> None:
    code, output = check(shipped(NAME))
    assert (code, output.endswith("file.yaml: ok\n"), output.count("\n")) == (0, True, 1), output


def test_command_checks_both_shipped_files_and_names_each_placeholder(tmp_path: Path) -> None:
    done = subprocess.run(check_command(), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    for placeholder in ("<SECURITY-GROUP-ID>", "<IMAGE>", "<ROLE-ARN>", "<BUCKET>"):
        assert done.stdout.count(f"{placeholder} is still there") == 1
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "apiVersion: ray.io/v1\n",
            "apiVersion: ray.io/v1alpha1\n",
            "apiVersion is 'ray.io/v1alpha1': write ray.io/v1",
        ),
        ("kind: RayJob", "kind: RayJobs", "holds no manifest of kind RayJob"),
        ("  entrypoint: >-", "  entryPoint: >-", "'entryPoint' is not known; did you mean 'entrypoint'?"),
        ("  entrypoint: >-", "  entryPoint: >-", "spec.entrypoint is missing"),
        ("  shutdownAfterJobFinishes: true\n", "", "does nothing without shutdownAfterJobFinishes"),
        ("rayClusterSpec:", "rayClusterSpecs:", "spec.rayClusterSpec is missing"),
        ("    headGroupSpec:", "    headGroup:", "rayClusterSpec.headGroupSpec is missing"),
        ("rayVersion: 2.60.0", "rayVersion: 2.9.0", "rayVersion is '2.9.0', but images have Ray 2.60.0"),
        ("    authOptions: {mode: token}\n", "", "authOptions.mode is not token"),
        ("- groupName: gpu", "- group: gpu", "workerGroupSpecs[0].groupName is missing"),
        ("- groupName: gpu", "- groupName: data", "groupName 'data' is there twice"),
        ("maxReplicas: 8", "maxReplicas: many", "maxReplicas is 'many': write a whole number"),
        (
            "minReplicas: 0\n        maxReplicas: 8",
            "minReplicas: 9\n        maxReplicas: 8",
            "8 is less than minReplicas 9",
        ),
        ("        minReplicas: 0\n        maxReplicas: 8\n", "", "minReplicas is None"),
        ("restartPolicy: Never #", "# ", "headGroupSpec.template.spec.restartPolicy is not Never"),
        ("image: &image", "picture: &image", "containers[0].image is missing"),
        ('limits: {cpu: "7", memory: 26Gi,', 'limits: {cpu: "7",', "containers[0].resources.limits.memory is missing"),
        (
            "volumes: [{name: shared-memory, emptyDir: {medium: Memory, sizeLimit: 4Gi}}]",
            "",
            "there is no volume 'shared-mem",
        ),
        ('{cpu: "15", memory: 26Gi}, requests', '{cpu: "15", memory: 26 GB}, requests', "autoscaler cannot read it"),
        ("labels: {moco-ray/role: data}", "labels: {moco-ray/role: -data-}", "autoscaler cannot read it"),
        ("metadata:\n  name: moco-v2", "metadata:\n  title: moco-v2", "RayJob: metadata.name is missing"),
    ],
)
def test_mistakes_are_found_with_what_to_do(check: Check, old: str, new: str, message: str) -> None:
    code, output = check(shipped(NAME, (old, new)))
    assert code == 2
    assert message in output


def test_autoscaler_reads_the_groups_as_they_are_meant() -> None:
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    spec = manifests()["RayJob"]["spec"]["rayClusterSpec"]
    config = _derive_autoscaling_config_from_ray_cr({"metadata": {"name": "a", "namespace": "b"}, "spec": spec})
    types = config["available_node_types"]
    assert types["headgroup"]["resources"]["CPU"] == 0
    assert (types["gpu"]["min_workers"], types["gpu"]["max_workers"], types["gpu"]["resources"]["GPU"]) == (0, 8, 1)
    assert (types["data"]["min_workers"], types["data"]["max_workers"]) == (0, 4)
    assert "GPU" not in types["data"]["resources"]
    assert [types[name]["labels"] for name in ("gpu", "data")] == [{"moco-ray/role": name} for name in ("gpu", "data")]
    assert config["idle_timeout_minutes"] > 5  # Ray Train's default wait before it grows a run is 300 s


def test_every_pod_has_the_bucket_shared_memory_limits_and_no_privileges() -> None:
    account = manifests()["ServiceAccount"]
    assert account["metadata"]["annotations"]["eks.amazonaws.com/role-arn"].startswith("arn:aws:iam::")
    for group in groups().values():
        pod = group["template"]["spec"]
        assert pod["serviceAccountName"] == account["metadata"]["name"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["volumes"][0]["emptyDir"]["medium"] == "Memory"
        container = pod["containers"][0]
        assert container["image"] == "123456789012.dkr.ecr.us-west-2.amazonaws.com/moco-ray:1"
        assert container["resources"]["limits"] == container["resources"]["requests"]
        assert container["volumeMounts"] == [{"name": "shared-memory", "mountPath": "/dev/shm"}]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False


def test_job_is_one_that_the_command_line_takes() -> None:
    words = shlex.split(manifests()["RayJob"]["spec"]["entrypoint"])
    assert words[:2] == ["moco-ray", "pretrain"]  # what the image has installed
    run = parse(words[2:]).config.run
    assert (run.name, run.storage_path) == ("moco-v2", "s3://a-bucket/runs")  # one name, so that every start resumes
    assert run.max_workers == next(g["maxReplicas"] for g in groups().values() if g.get("groupName") == "gpu")
    assert data_label(run) == groups()["data"]["labels"]


def test_image_copies_only_what_dockerignore_lets_through() -> None:
    let_through = {
        line.removeprefix("!") for line in (REPOSITORY / ".dockerignore").read_text().split() if line[0] == "!"
    }
    copies = [
        line.split()[1:-1]
        for line in (REPOSITORY / "deploy/Dockerfile").read_text().splitlines()
        if line[:5] == "COPY " and "--from=" not in line
    ]
    assert {name for names in copies for name in names} == let_through
    assert all((REPOSITORY / name).exists() for name in let_through)
