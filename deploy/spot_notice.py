"""Tell Ray that AWS is about to take this spot node: `python deploy/spot_notice.py HEAD:6379`.

Runs on every worker of cluster.yaml. EC2 announces an interruption about two minutes ahead in the instance's metadata;
Ray does not look there. Draining the node with that deadline lets a run save before the node goes. On a node that is
not spot it ends at once. With --now it drains at once and waits: a Kubernetes pod does so before it stops.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime

POLL_S = 5.0
# What the SDKs of AWS call this variable; tests serve metadata elsewhere.
METADATA = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://169.254.169.254").rstrip("/")


def main() -> int:
    """Wait for the notice, drain, and stay until the node goes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", help="HOST:PORT of the head's GCS")
    parser.add_argument("--node-id", help="Ray's id of the node; by default this machine's")
    parser.add_argument(
        "--now", type=int, metavar="SECONDS", help="drain now, with so many seconds left, and wait them"
    )
    args = parser.parse_args()
    if args.now is None and read_metadata("instance-life-cycle") != "spot":
        print("not a spot instance: nothing to watch")
        return 0
    node_id = args.node_id or this_node(args.address)
    remaining_s = args.now if args.now is not None else wait_for_notice()
    drain(args.address, node_id, remaining_s)
    if args.now is not None:
        time.sleep(args.now)
    return 0


def read_metadata(name: str) -> str | None:
    """A value of the instance's metadata (IMDSv2), None if there is none.

    Raises:
        urllib.error.URLError: no metadata service answers, as off AWS.
    """
    ask_token = urllib.request.Request(
        f"{METADATA}/latest/api/token", method="PUT", headers={"X-aws-ec2-metadata-token-ttl-seconds": "300"}
    )
    with urllib.request.urlopen(ask_token, timeout=5) as reply:
        token = reply.read().decode()
    ask = urllib.request.Request(f"{METADATA}/latest/meta-data/{name}", headers={"X-aws-ec2-metadata-token": token})
    try:
        with urllib.request.urlopen(ask, timeout=5) as reply:
            return str(reply.read().decode())
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise


def wait_for_notice() -> int:
    """Poll until EC2 announces that it stops or terminates the instance.

    Returns:
        Seconds until then, at least 0.
    """
    while True:
        try:
            notice = read_metadata("spot/instance-action")
        except OSError as error:  # the service is throttled or away for a moment
            print(f"metadata: {error}", file=sys.stderr)
            notice = None
        if notice is not None:
            end = datetime.fromisoformat(json.loads(notice)["time"].replace("Z", "+00:00"))
            return max(0, int((end - datetime.now(UTC)).total_seconds()))
        time.sleep(POLL_S)


def this_node(address: str) -> str:
    """Ray's id of the node that runs on this machine."""
    import ray

    ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    try:
        return str(ray.get_runtime_context().get_node_id())
    finally:
        ray.shutdown()


def drain(address: str, node_id: str, remaining_s: int) -> None:
    """Ask Ray to move off a node that goes in so many seconds.

    Raises:
        subprocess.CalledProcessError: Ray refused.
    """
    print(f"node {node_id} goes in {remaining_s} s: draining it", flush=True)
    reason = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot interruption notice"]
    command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--address", address, "--node-id", node_id]
    subprocess.run([*command, *reason, "--deadline-remaining-seconds", str(remaining_s)], check=True)


if __name__ == "__main__":
    sys.exit(main())
