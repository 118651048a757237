"""cluster.yaml and deploy/account.yaml: what they promise, and that deploy/check.py finds what breaks it."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from moco_ray.cli.pretrain import parse
from moco_ray.config.run import data_label
from tests.cluster.deployed import REPOSITORY, UV, Check, check_command, shipped
from tests.cluster.deployed import check as check  # a fixture


class CloudFormation(yaml.SafeLoader):
    """Reads a template's !Ref, !Sub and !GetAtt as text."""


CloudFormation.add_multi_constructor("!", lambda loader, tag, node: f"{tag} {node.value}")


def cluster() -> dict[str, Any]:
    return yaml.safe_load(shipped("cluster.yaml"))


def account() -> dict[str, Any]:
    return yaml.load((REPOSITORY / "deploy/account.yaml").read_text(), CloudFormation)["Resources"]


def test_shipped_file_passes_once_filled_in(check: Check) -> None:
    code, output = check(shipped("cluster.yaml"))
    assert (code, output.endswith("file.yaml: ok\n"), output.count("\n")) == (0, True, 1), output


def test_ray_accepts_the_shipped_file() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(cluster())
    validate_config(prepared)
    assert prepared["available_node_types"]["head"]["max_workers"] == 0
    assert prepared["worker_setup_commands"] == cluster()["setup_commands"]  # nothing of Ray's defaults comes along


def test_command_names_line_and_value_of_a_placeholder_left_and_exits_with_2() -> None:
    line = next(i for i, text in enumerate(shipped("cluster.yaml", fill_in=False).splitlines(), 1) if '["<SEC' in text)
    done = subprocess.run(check_command("cluster.yaml"), cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"cluster.yaml:{line}: <SECURITY-GROUP-ID> is still there: put in the SecurityGroup" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("cluster_name: moco-ray #", "# ", "cluster_name is missing: Ray would take its default"),
        (
            "availability_zone:",
            "availability_zones:",
            "'availability_zones' is not known; did you mean 'availability_zone'?",
        ),
        ("  region: us-west-2\n", "", "provider.region is missing"),
        ("type: aws", "type: gcp", "provider.type is 'gcp'"),
        ("MarketType: spot", "MarketType: spott", "MarketType: 'spott' is not known; did you mean 'spot'?"),
        ("InstanceType: g5.2xlarge", "InstanceType: g5.2xlage", "did you mean 'g5.2xlarge'?"),
        ("InstanceType: g5.2xlarge", "InstanceTyp: g5.2xlarge", "gpu.node_config.InstanceType is missing"),
        ("VolumeSize: 120", "VolumeSize: 120 GB", "Invalid type for parameter BlockDeviceMappings[0].Ebs.VolumeSize"),
        ("VolumeSize: 120", "Size: 120", 'Unknown parameter in BlockDeviceMappings[0].Ebs: "Size"'),
        ("SecurityGroupIds: &security_groups", "SubnetIds: &security_groups", "SSH port is open to the world"),
        ("max_workers: 8", "min_workers: 9\n    max_workers: 8", "gpu.max_workers 8 is less than its min_workers 9"),
        ("max_workers: 12", "max_workers: -1", "max_workers: -1 is less than the minimum of 0"),
        (
            "min_workers: 0\n    max_workers: 4",
            "min_workers: 13\n    max_workers: 14",
            "smaller than the sum of `min_workers`",
        ),
        ("resources: {CPU: 0}", "resources: {CPU: none}", "head.resources.CPU: 'none' is not of type 'integer'"),
        (
            "./constraints.txt",
            "./constraint.txt",
            "./constraint.txt does not exist: run `ray up` in the project's folder",
        ),
        ("~/.ray/auth_token\n", "~/.ray/no/auth_token\n", "make the token with `ray get-auth-token --generate`"),
        ("head_node_type: head", "head_node_type: [head", "is not YAML"),
    ],
)
def test_mistakes_are_found_with_what_to_do(check: Check, old: str, new: str, message: str) -> None:
    code, output = check(shipped("cluster.yaml", (old, new)))
    assert code == 2
    assert message in output


def test_ports_opened_to_the_world_are_found(check: Check) -> None:
    rule = "{FromPort: 8265, ToPort: 8265, IpProtocol: tcp, IpRanges: [{CidrIp: 0.0.0.0/0}]}"
    opened = f"type: aws\n  security_group: {{IpPermissions: [{rule}]}}"
    code, output = check(shipped("cluster.yaml", ("type: aws", opened)))
    assert code == 2
    assert "provider.security_group opens ports 8265 to 8265 to the world" in output


@pytest.mark.parametrize(
    "text", ["", "- a list\n", "provider: aws\n", "provider: {type: aws, region: x}\ncluster_name: a\n"]
)
def test_files_that_are_no_cluster_files_get_a_message(check: Check, text: str) -> None:
    code, output = check(text)
    assert code == 2
    assert len(output) > len("file.yaml: ")


def test_head_trains_nothing_and_pools_start_empty() -> None:
    types = cluster()["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0}
    assert "InstanceMarketOptions" not in types["head"]["node_config"]
    for pool in ("gpu", "data"):
        assert types[pool]["min_workers"] == 0 < types[pool]["max_workers"]
        assert types[pool]["idle_timeout_s"] > 300  # Ray Train's default wait before it grows a run
        assert types[pool]["labels"] == {"moco-ray/role": pool}
    assert types["gpu"]["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"


def test_nodes_have_a_profile_no_key_encrypted_disks_and_the_groups_of_the_account() -> None:
    profiles = {resource["Properties"].get("InstanceProfileName") for resource in account().values()}
    for node_type in cluster()["available_node_types"].values():
        config = node_type["node_config"]
        assert config["IamInstanceProfile"]["Name"] in profiles
        assert config["SecurityGroupIds"] == ["sg-0123456789abcdef0"]
        assert config["BlockDeviceMappings"][0]["Ebs"]["Encrypted"] is True
        assert config["MetadataOptions"]["HttpTokens"] == "required"
    assert "aws_credentials" not in cluster()["provider"]


def test_only_ssh_from_one_address_gets_in() -> None:
    group = account()["Nodes"]["Properties"]["SecurityGroupIngress"]
    assert [(rule["FromPort"], rule["ToPort"], rule["IpProtocol"], rule["CidrIp"]) for rule in group] == [
        (22, 22, "tcp", "Ref Address")
    ]
    others = [r["Properties"] for r in account().values() if r["Type"] == "AWS::EC2::SecurityGroupIngress"]
    assert [rule["SourceSecurityGroupId"] for rule in others] == [rule["GroupId"] for rule in others]
    assert not any("Cidr" in key for rule in others for key in rule)
    assert sum(r["Type"] == "AWS::EC2::SecurityGroup" for r in account().values()) == 1


def test_every_start_of_ray_asks_for_the_token_and_the_dashboard_stays_on_the_head() -> None:
    config = cluster()
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        starts = [command for command in commands if "ray start" in command]
        assert len(starts) == 1
        assert starts[0].startswith("export RAY_AUTH_MODE=token;")
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][1]
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


def test_guide_submits_a_job_that_the_command_line_takes() -> None:
    guide = (REPOSITORY / "docs/cloud.md").read_text().replace("\\\n", " ")
    command = next(line for line in guide.splitlines() if line.startswith("ray job submit"))
    run = parse(shlex.split(command.partition("jobs/pretrain.py")[2])).config.run
    types = cluster()["available_node_types"]
    assert run.max_workers == types["gpu"]["max_workers"]
    assert data_label(run) == types["data"]["labels"]
    assert types["gpu"]["idle_timeout_s"] > run.resize_every_s


@pytest.mark.slow
def test_setup_commands_work_in_an_empty_environment(tmp_path: Path) -> None:
    """As `ray up` runs them: one shell each, in a home that holds only what file_mounts brought."""
    from ray.autoscaler._private.command_runner import _with_interactive

    config, home = cluster(), tmp_path / "home"
    for remote, local in config["file_mounts"].items():
        target = home / remote.removeprefix("~/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if local.startswith("~"):
            target.write_text("a-token")
        else:
            shutil.copy(REPOSITORY / local, target)
    # The node's own Python, which a login shell would not find on every machine.
    (home / ".bashrc").write_text(f"export PATH={Path(sys.base_prefix) / 'bin'}:$PATH\n")
    cache = subprocess.run([UV, "cache", "dir"], capture_output=True, text=True, check=True)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("VIRTUAL_ENV", "PYTHON"))}
    environment |= {"HOME": str(home), "UV_CACHE_DIR": cache.stdout.strip()}

    def run(command: str) -> str:
        line = " ".join(_with_interactive(command))
        done = subprocess.run(["bash", "-c", line], cwd=REPOSITORY, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    for command in [*config["initialization_commands"], *config["setup_commands"], *config["setup_commands"]]:
        run(command)  # the second time, as when a node is set up again, they change nothing
    assert str(home) in run("command -v ray")
    # The code comes with the job, whose working directory is the repository here.
    printed = run(
        "python -c 'import boto3, moco_ray, ray, torch; print(ray.__version__, torch.__version__, ray.__file__)'"
    )
    assert printed.startswith("2.60.0 2.13.0")
    assert str(home) in printed
    assert (home / ".bashrc").read_text().count("moco_ray/venv") == 1
