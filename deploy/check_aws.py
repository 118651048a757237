"""What `ray up` would not notice in a cluster file for AWS."""

from __future__ import annotations

import contextlib
import difflib
import functools
import io
from pathlib import Path
from typing import Any

# All that Ray 2.60 reads of `provider` on AWS; it ignores every other key in silence.
PROVIDER_KEYS = {
    *("type", "region", "availability_zone", "cache_stopped_nodes", "use_internal_ips", "use_external_head_ip"),
    *("key_pair", "security_group", "aws_credentials", "cloudwatch"),
    *("disable_node_updaters", "disable_launch_config_check", "foreground_node_launch", "worker_liveness_check"),
}
# What Ray puts into a request for instances itself.
RAY_FILLS_IN = {"MinCount": 1, "MaxCount": 1, "KeyName": "ray", "SubnetId": "subnet-0"}


def check_cluster(config: dict[str, Any]) -> list[str]:
    """Problems of a parsed cluster file."""
    problems = []
    if not config.get("cluster_name"):
        problems.append(
            "cluster_name is missing: Ray would take its default, and two clusters of that name are one to it; "
            "add a line such as cluster_name: moco-ray"
        )
    provider = config.get("provider")
    if not isinstance(provider, dict) or provider.get("type") != "aws":
        found = provider.get("type") if isinstance(provider, dict) else provider
        return [*problems, f"provider.type is {found!r}: this checks clusters on AWS; write type: aws"]
    problems += check_provider(provider)
    ray_says = ask_ray(config)
    if ray_says:
        return [*problems, ray_says]
    for name, node_type in (config.get("available_node_types") or {}).items():
        problems += check_counts(name, node_type)
        problems += check_node_config(name, node_type["node_config"])
    return problems + check_mounts(config)


def check_provider(provider: dict[str, Any]) -> list[str]:
    """Keys that Ray would ignore, a missing region, and doors that are open to all."""
    problems = [unknown(f"provider.{key}", key, PROVIDER_KEYS) for key in provider if key not in PROVIDER_KEYS]
    if not provider.get("region"):
        problems.append("provider.region is missing: add a line such as region: us-west-2")
    for rule in (provider.get("security_group") or {}).get("IpPermissions") or []:
        for network in [*rule.get("IpRanges", []), *rule.get("Ipv6Ranges", [])]:
            if network.get("CidrIp") == "0.0.0.0/0" or network.get("CidrIpv6") == "::/0":
                ports = f"ports {rule.get('FromPort')} to {rule.get('ToPort')}"
                problems.append(
                    f"provider.security_group opens {ports} to the world: name one address, such as 1.2.3.4/32"
                )
    return problems


def ask_ray(config: dict[str, Any]) -> str | None:
    """What Ray's own validator says against a cluster file, None if it accepts it."""
    import jsonschema
    from ray.autoscaler._private.util import prepare_config, validate_config

    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            validate_config(prepare_config(config))
    except jsonschema.ValidationError as error:
        return f"{error.json_path.removeprefix('$.').removeprefix('$') or 'the file'}: {error.message}"
    except (AttributeError, KeyError, TypeError) as error:  # it looks into sections before it validates them
        return f"Ray cannot read it: {type(error).__name__}: {error}"
    except (NotImplementedError, RuntimeError, ValueError) as error:
        return str(error)
    if not config.get("available_node_types"):
        return "available_node_types is missing: Ray would start its default types; list a head and workers"
    return None


def check_counts(name: str, node_type: dict[str, Any]) -> list[str]:
    """A type's max_workers below its min_workers, which Ray compares only in sum."""
    least, most = node_type.get("min_workers", 0), node_type.get("max_workers")
    if most is not None and most < least:
        return [f"available_node_types.{name}.max_workers {most} is less than its min_workers {least}: raise it"]
    return []


def check_node_config(name: str, node_config: dict[str, Any]) -> list[str]:
    """Problems of one node_config, by the model of EC2's RunInstances that botocore carries."""
    from botocore.validate import ParamValidator

    where = f"available_node_types.{name}.node_config"
    request = {key: value for key, value in node_config.items() if key != "SubnetIds"}  # Ray's own, not EC2's
    problems = [f"{where}.{key} is for Ray to set: remove it" for key in ("MinCount", "MaxCount") if key in request]
    for key, why in (
        ("InstanceType", "such as g5.2xlarge"),
        ("ImageId", "else Ray takes its default image of 2022, whose Python and driver are too old"),
    ):
        if key not in request and "LaunchTemplate" not in request:
            problems.append(f"{where}.{key} is missing: add it, {why}")
    if not request.get("SecurityGroupIds") and not {"NetworkInterfaces", "LaunchTemplate"} & set(request):
        problems.append(
            f"{where}.SecurityGroupIds is missing: Ray would make a group whose SSH port is open to the world; name the "
            "one of deploy/account.yaml"
        )
    subnets = node_config.get("SubnetIds", [])
    if not (isinstance(subnets, list) and all(isinstance(subnet, str) for subnet in subnets)):
        problems.append(f"{where}.SubnetIds is {subnets!r}: write a list of ids")
    model = run_instances_model()
    report = ParamValidator().validate({**RAY_FILLS_IN, **request}, model).generate_report()
    problems += [f"{where}: {line}" for line in report.splitlines()]
    return problems + check_choices(where, request, model)


@functools.cache
def run_instances_model() -> Any:
    """Botocore's model of what EC2's RunInstances takes; reading it takes half a second."""
    import botocore.session

    return botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape


def check_choices(where: str, value: Any, shape: Any) -> list[str]:
    """Values outside the ones that EC2 knows, such as a mistyped instance type: botocore does not compare them.

    Args:
        where: path of the value.
        value: what the file says there.
        shape: botocore's model of it.
    """
    if shape.type_name == "structure" and isinstance(value, dict):
        known = shape.members
        return [p for key in value if key in known for p in check_choices(f"{where}.{key}", value[key], known[key])]
    if shape.type_name == "list" and isinstance(value, list):
        return [p for i, item in enumerate(value) for p in check_choices(f"{where}[{i}]", item, shape.member)]
    choices = getattr(shape, "enum", None)
    if choices and isinstance(value, str) and value not in choices:
        return [unknown(where, value, choices) + " (newer than this botocore? upgrade it)"]
    return []


def check_mounts(config: dict[str, Any]) -> list[str]:
    """Local files that `ray up` would stop at, after the head has started."""
    problems = []
    for local in (config.get("file_mounts") or {}).values():
        if Path(local).expanduser().exists():
            continue
        advice = (
            "make the token with `ray get-auth-token --generate`"
            if Path(local).name == "auth_token"
            else "run `ray up` in the project's folder, or correct the path"
        )
        problems.append(f"file_mounts: {local} does not exist: {advice}")
    return problems


def unknown(where: str, word: str, known: Any) -> str:
    """Say that a word is not known, and what it may have meant."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"{where}: {word!r} is not known" + (f"; did you mean {near[0]!r}?" if near else "; remove or correct it")
