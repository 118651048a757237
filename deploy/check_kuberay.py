"""What `kubectl apply` would not notice in manifests of a RayJob: unknown fields are dropped, errors come from pods."""

from __future__ import annotations

import contextlib
import io
from typing import Any

from check_aws import unknown

# Fields of KubeRay 1.6's resources (ray.io/v1, RayJobSpec, RayClusterSpec, HeadGroupSpec, WorkerGroupSpec).
JOB_FIELDS = set(
    "activeDeadlineSeconds backoffLimit clusterSelector deletionStrategy entrypoint entrypointNumCpus entrypointNumGpus "
    "entrypointResources jobId managedBy metadata preRunningDeadlineSeconds rayClusterSpec runtimeEnvYAML "
    "shutdownAfterJobFinishes submissionMode submitterConfig submitterPodTemplate suspend ttlSecondsAfterFinished".split()
)
CLUSTER_FIELDS = set(
    "authOptions autoscalerOptions enableInTreeAutoscaling gcsFaultToleranceOptions headGroupSpec headServiceAnnotations "
    "historyServerOptions managedBy networkPolicy rayVersion suspend tlsOptions upgradeStrategy workerGroupSpecs".split()
)
HEAD_FIELDS = set(
    "enableIngress headService ingressOptions labels rayStartParams resources serviceType template".split()
)
WORKER_FIELDS = set(
    "groupName idleTimeoutSeconds labels maxReplicas minReplicas numOfHosts priority rayStartParams replicas resources "
    "scaleStrategy suspend template".split()
)


def check_manifests(documents: list[dict[str, Any]]) -> list[str]:
    """Problems of all manifests of one file, which must hold a RayJob."""
    problems = []
    for i, document in enumerate(documents):
        name = f"{document.get('kind') or f'document {i + 1}'}"
        for field in ("apiVersion", "kind"):
            if not document.get(field):
                problems.append(f"{name}: {field} is missing")
        if not (document.get("metadata") or {}).get("name"):
            problems.append(f"{name}: metadata.name is missing")
    jobs = [document for document in documents if document.get("kind") == "RayJob"]
    if not jobs:
        problems.append("holds no manifest of kind RayJob")
    for job in jobs:
        problems += check_job(job)
    return problems


def check_job(job: dict[str, Any]) -> list[str]:
    """Problems of one RayJob."""
    problems = []
    if job.get("apiVersion") != "ray.io/v1":
        problems.append(f"RayJob: apiVersion is {job.get('apiVersion')!r}: write ray.io/v1")
    spec = job.get("spec")
    if not isinstance(spec, dict):
        return [*problems, "RayJob: spec is missing"]
    problems += unknown_fields("spec", spec, JOB_FIELDS)
    if not spec.get("entrypoint"):
        problems.append("spec.entrypoint is missing: the command to run, such as moco-ray pretrain …")
    if spec.get("ttlSecondsAfterFinished") and not spec.get("shutdownAfterJobFinishes"):
        problems.append("spec.ttlSecondsAfterFinished does nothing without shutdownAfterJobFinishes: true")
    cluster = spec.get("rayClusterSpec")
    if not isinstance(cluster, dict):
        return [*problems, "spec.rayClusterSpec is missing: the head and workers of the job"]
    return problems + check_ray_cluster("spec.rayClusterSpec", cluster)


def check_ray_cluster(where: str, cluster: dict[str, Any]) -> list[str]:
    """Problems of a RayClusterSpec, Ray's own included."""
    import ray

    problems = unknown_fields(where, cluster, CLUSTER_FIELDS)
    if cluster.get("rayVersion") != ray.__version__:
        found = cluster.get("rayVersion")
        problems.append(f"{where}.rayVersion is {found!r}, but images have Ray {ray.__version__}: write that")
    if (cluster.get("authOptions") or {}).get("mode") != "token":
        problems.append(f"{where}.authOptions.mode is not token: everyone in the Kubernetes cluster could submit jobs")
    head = cluster.get("headGroupSpec")
    if not isinstance(head, dict):
        return [*problems, f"{where}.headGroupSpec is missing"]
    problems += unknown_fields(f"{where}.headGroupSpec", head, HEAD_FIELDS)
    is_v2 = (cluster.get("autoscalerOptions") or {}).get("version", "v2") == "v2" and cluster.get(
        "enableInTreeAutoscaling", False
    )
    problems += check_pod(f"{where}.headGroupSpec", head, is_v2)
    names = set()
    for i, group in enumerate(cluster.get("workerGroupSpecs") or []):
        at = f"{where}.workerGroupSpecs[{i}]"
        problems += check_group(at, group, is_v2)
        if group.get("groupName") in names:
            problems.append(f"{at}.groupName {group.get('groupName')!r} is there twice: names tell groups apart")
        names.add(group.get("groupName"))
    return problems or ask_autoscaler(where, cluster)


def check_group(where: str, group: dict[str, Any], is_v2: bool) -> list[str]:
    """Problems of one group of workers."""
    problems = unknown_fields(where, group, WORKER_FIELDS)
    if not group.get("groupName"):
        problems.append(f"{where}.groupName is missing")
    least, most = group.get("minReplicas"), group.get("maxReplicas")
    for field, count in (("minReplicas", least), ("maxReplicas", most)):
        if type(count) is not int or count < 0:
            problems.append(f"{where}.{field} is {count!r}: write a whole number, 0 or more")
    if type(least) is int and type(most) is int and least > most:
        problems.append(f"{where}.maxReplicas {most} is less than minReplicas {least}: raise it")
    return problems + check_pod(where, group, is_v2)


def check_pod(where: str, group: dict[str, Any], is_v2: bool) -> list[str]:
    """Problems of a group's pod template: containers need an image and resources, by which Ray counts.

    Args:
        where: path of the group.
        group: the head's or workers' group.
        is_v2: whether autoscaler v2 runs, which must not see a pod restart as another node.
    """
    pod = (group.get("template") or {}).get("spec") or {}
    if not pod.get("containers"):
        return [f"{where}.template.spec.containers is missing"]
    problems = []
    if is_v2 and pod.get("restartPolicy") != "Never":
        problems.append(f"{where}.template.spec.restartPolicy is not Never, as autoscaler v2 needs")
    for i, container in enumerate(pod["containers"]):
        at = f"{where}.template.spec.containers[{i}]"
        problems += [f"{at}.{field} is missing" for field in ("name", "image") if not container.get(field)]
        limits = (container.get("resources") or {}).get("limits") or {}
        problems += [f"{at}.resources.limits.{unit} is missing" for unit in ("cpu", "memory") if unit not in limits]
        mounted = {mount.get("name") for mount in container.get("volumeMounts") or []}
        absent = mounted - {volume.get("name") for volume in pod.get("volumes") or []}
        problems += [f"{at}.volumeMounts: there is no volume {name!r}" for name in sorted(map(str, absent))]
    return problems


def ask_autoscaler(where: str, cluster: dict[str, Any]) -> list[str]:
    """What Ray's autoscaler says against the cluster when it reads it, which it does only once it runs."""
    import jsonschema
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    resource = {"metadata": {"name": "check", "namespace": "default"}, "spec": {"workerGroupSpecs": [], **cluster}}
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            _derive_autoscaling_config_from_ray_cr(resource)
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError, jsonschema.ValidationError) as error:
        message = getattr(error, "message", None) or f"{type(error).__name__}: {error}"
        return [f"{where}: Ray's autoscaler cannot read it: {message}"]
    return []


def unknown_fields(where: str, mapping: dict[str, Any], known: set[str]) -> list[str]:
    """Fields that Kubernetes would drop in silence."""
    return [unknown(f"{where}.{field}", field, known) for field in mapping if field not in known]
