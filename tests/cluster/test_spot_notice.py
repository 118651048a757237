"""deploy/spot_notice.py off a cluster; test_chaos.py drains a node with it, and test_jobs.py the node that it runs on."""

from __future__ import annotations

from tests.cluster.spot import metadata, watch


def test_nothing_to_watch_on_demand() -> None:
    with metadata({"instance-life-cycle": "on-demand"}) as endpoint:
        output, _ = watch(endpoint, "127.0.0.1:1").communicate(timeout=30)
    assert output == "not a spot instance: nothing to watch\n"
