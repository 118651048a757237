"""The gauges of a run on Ray's endpoint for Prometheus, and deploy/grafana/moco_ray.json, which shows them."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from moco_ray.config import to_json
from tests.cluster.deployed import REPOSITORY
from tests.cluster.heads import Head, head, wait_until
from tests.runs import metrics, tiny_config
from tests.worker.trackers.servers import MlflowServer

SECRET = "tell-nobody-123"
FOLDER = REPOSITORY / "deploy" / "grafana"
DASHBOARD = json.loads((FOLDER / "moco_ray.json").read_text())
_SAMPLE = re.compile(r"^(ray_moco_ray_\w+)\{(.*)\} (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_SELECTOR = re.compile(r"(ray_moco_ray_\w+)\{([^}]*)\}")
_WANTED_LABEL = re.compile(r'(\w+)(=~|=)"([^"]*)"')

Samples = dict[tuple[str, str], tuple[float, dict[str, str]]]


def queries() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def scrape(cluster: Head) -> Samples:
    """Value and labels of our gauges on all nodes, by name and measure."""
    discovery = json.loads((cluster.temp / "prom_metrics_service_discovery.json").read_text())
    text = ""
    for address in itertools.chain.from_iterable(group["targets"] for group in discovery):
        try:
            text += urllib.request.urlopen(f"http://{address}/metrics", timeout=10).read().decode()
        except OSError:  # the dashboard's own, while it starts
            continue
    found: Samples = {}
    for name, labels, value in _SAMPLE.findall(text):
        named = dict(_LABEL.findall(labels))
        found[name, named.get("measure", "")] = float(value), named
    return found


def test_the_dashboard_is_well_formed() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) and DASHBOARD["uid"] and not DASHBOARD.get("id")
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        own = set(
            itertools.product(range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"]))
        )
        assert not own & cells, panel["title"]
        cells |= own
        assert panel["title"] and panel["description"].endswith(".") and panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"]["uid"] == "${datasource}"
        assert all('run=~"$run"' in labels for _, labels in _SELECTOR.findall(panel["targets"][0]["expr"]))
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["query"] == "prometheus"
    assert variables["run"]["definition"] == "label_values(ray_moco_ray_step, run)"
    assert all(expression.count("(") == expression.count(")") for expression in queries())


def test_grafana_is_told_of_the_dashboard() -> None:
    provider = yaml.safe_load((FOLDER / "provisioning.yaml").read_text())["providers"][0]
    assert provider["type"] == "file" and provider["options"]["path"]
    kustomization = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    assert kustomization["generatorOptions"]["labels"] == {"grafana_dashboard": "1"}
    assert all((FOLDER / name).exists() for one in kustomization["configMapGenerator"] for name in one["files"])


def test_a_gauge_that_cannot_be_set_once_is_said_once_and_set_again(
    monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    shown: list[float] = []

    class Fails:
        def __init__(self, name: str, **about: Any) -> None:
            self.name, self.times = name, 0

        def set_default_tags(self, tags: dict[str, str]) -> None:
            pass

        def set(self, value: float, tags: dict[str, str] | None = None) -> None:
            self.times += 1
            if self.times <= 2:
                raise RuntimeError("no metrics now")
            shown.append(value)

    from moco_ray.cluster import gauges  # here: Ray must not be imported before the token is set

    monkeypatch.setattr(gauges, "Gauge", Fails)
    monkeypatch.setattr(gauges, "_SET_AGAIN_S", 0.01)
    config = tiny_config("images", "runs")
    job = SimpleNamespace(num_rows=10, last_step=7, config=config)
    shower = gauges.Gauges(job, 1, 0)  # type: ignore[arg-type]
    wait_until(lambda: 7 in shown, lambda: f"{shown} {said}", 5)
    shower.close(is_done=True)
    assert [line for line in said if "gauges cannot be set" in line] == said


@pytest.mark.slow
def test_what_the_dashboard_asks_for_is_exported_while_a_run_trains_and_gone_when_it_has_ended(
    images: Path, tmp_path: Path
) -> None:
    config = tiny_config(images, tmp_path, num_workers=2, log_every_steps=5, track=("mlflow",))
    config = replace(config, optim=replace(config.optim, epochs=12))
    (tmp_path / "config.json").write_text(to_json(config))
    command = [sys.executable, "jobs/pretrain.py", "--preset", str(tmp_path / "config.json"), "--run.name", "seen"]
    with (
        MlflowServer().running() as mlflow,
        head(tmp_path / "head", num_cpus=4, RAY_metrics_report_interval_ms="1000") as cluster,
    ):
        # Only the driver is told where MLflow is, and with which key.
        environment = {**cluster.environment, "RAY_ADDRESS": f"127.0.0.1:{cluster.port}"}
        environment |= {"MLFLOW_TRACKING_URI": mlflow.url, "MLFLOW_TRACKING_TOKEN": SECRET}
        with (tmp_path / "log").open("w") as log:
            job = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=log, stderr=log)
        seen: list[Samples] = []

        def has_shown_all() -> bool:
            assert job.poll() is None, (tmp_path / "log").read_text()[-3000:]
            seen.append(scrape(cluster))
            time.sleep(0.5)
            return ("ray_moco_ray_eval", "rankme") in seen[-1] and seen[-1]["ray_moco_ray_step", ""][0] > 10

        wait_until(has_shown_all, lambda: f"{seen[-1]} {(tmp_path / 'log').read_text()[-3000:]}", 180)
        assert job.wait(timeout=180) == 0, (tmp_path / "log").read_text()[-3000:]
        began_s = time.monotonic()
        wait_until(lambda: not scrape(cluster), lambda: f"still there: {scrape(cluster)}", 60)
        print(f"gone {time.monotonic() - began_s:.0f} s after the end")
        told = [path for path in cluster.temp.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
        assert not told and SECRET not in (tmp_path / "log").read_text()
    record = [line for line in metrics(tmp_path / "seen") if "train/lr" in line]
    assert mlflow.points("train/loss") == [(line["step"], line["train/loss"]) for line in record]
    check_queries(seen[-1])
    check_values(seen[-1], tmp_path / "seen")


def check_queries(samples: Samples) -> None:
    """All that a panel asks for is there; but for the accuracy of tasks with labels."""
    for expression in queries():
        for name, labels in _SELECTOR.findall(expression):
            wanted = {label: value for label, _, value in _WANTED_LABEL.findall(labels)}
            if wanted.get("measure") == "top1":
                continue
            value, named = samples[name, wanted.get("measure", "")]
            assert set(wanted) <= set(named) and value == value


def check_values(samples: Samples, run: Path) -> None:
    """The gauges say what the run's record says, and label it with its name and no more."""
    lines: list[dict[str, Any]] = metrics(run)
    assert all(named["run"] == "seen" and named["task"] == "pretraining" for _, named in samples.values())
    values = {name: value for (name, measure), (value, _) in samples.items() if not measure}
    line = next(line for line in lines if line["train/loss"] == pytest.approx(values["ray_moco_ray_loss"], rel=1e-9))
    near = [one for one in lines if abs(one["step"] - line["step"]) <= 60 and "perf/images_per_s" in one]
    assert any(one["perf/images_per_s"] == pytest.approx(values["ray_moco_ray_images_per_second"]) for one in near)
    assert values["ray_moco_ray_step"] == pytest.approx(line["step"] + 1, abs=60)
    assert (values["ray_moco_ray_world_size"], values["ray_moco_ray_last_step"]) == (2, len(lines))
    assert values["ray_moco_ray_interruptions"] == values["ray_moco_ray_bad_images"] == 0
    first = json.loads((run / "eval.jsonl").read_text().splitlines()[0])
    assert samples["ray_moco_ray_eval", "rankme"][0] == pytest.approx(first["eval/rankme"])
