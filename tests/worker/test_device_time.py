"""Device hours: seconds times workers, of each kind of device, over all groups of a run."""

from __future__ import annotations

import time

import pytest

from moco_ray.worker.device_time import DeviceTime


def test_each_worker_counts_and_groups_before_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    first = DeviceTime({}, 4, uses_gpu=True)
    now[0] += 10
    assert first.seconds() == {"cuda": 40.0}
    second = DeviceTime(first.seconds(), 2, uses_gpu=True)
    now[0] += 5
    assert second.seconds() == {"cuda": 50.0}
    third = DeviceTime(second.seconds(), 1, uses_gpu=False)
    now[0] += 3
    assert third.seconds() == third.seconds() == {"cuda": 50.0, "cpu": 3.0}
