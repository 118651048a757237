"""Names of runs that were given none, taken by many at once; and names that are none of a folder."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from moco_ray.driver.dry_run import dry_run
from moco_ray.driver.naming import check_name, forget_claims, free_name
from moco_ray.driver.run import pretrain
from moco_ray.storage.storage import Storage, StorageOptions, resolve_storage_options
from moco_ray.tasks.pretraining import PRETRAINING
from tests.runs import tiny_config
from tests.s3 import s3_server

FORM = re.compile(r"small-[0-9]{8}-[0-9]{6}(-[0-9a-f]{4})?")


def names_taken_at_once(root: Storage, count: int) -> list[str]:
    names: list[str] = []
    barrier = threading.Barrier(count)

    def take() -> None:
        barrier.wait()
        names.append(free_name(root, "small"))

    threads = [threading.Thread(target=take) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return names


def check_taken(root: Storage, count: int) -> list[str]:
    names = names_taken_at_once(root, count)
    assert len(set(names)) == count and all(FORM.fullmatch(name) for name in names)
    time.sleep(1.1 - time.time() % 1)  # a second that nobody has used
    first, second = free_name(root, "small"), free_name(root, "small")
    assert first.count("-") == 2 and second.startswith(f"{first}-")
    return [*names, first, second]


def test_names_on_a_disk_are_taken_once(tmp_path: Path) -> None:
    check_taken(Storage.open(f"{tmp_path}/runs", StorageOptions({})), 16)


def test_names_in_a_bucket_are_taken_once_and_claims_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server(tmp_path / "s3") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        uri = f"s3://{server.bucket}/runs"
        root = Storage.open(uri, resolve_storage_options(uri, None))
        name = check_taken(root, 6)[-1]
        run = root.child(name)
        run.write_bytes(run.join("lease.json"), b"{}")
        forget_claims(run)
        assert [found for found, _, _ in run.list(run.root)] == ["lease.json"]


def test_two_runs_of_one_second_have_two_folders(images: Path, tmp_path: Path) -> None:
    config = tiny_config(images, tmp_path, name=None, max_steps=1)
    time.sleep(1.05 - time.time() % 1)
    taken = free_name(Storage.open(str(tmp_path), StorageOptions({})), "smoke")
    folder = pretrain(config, say=lambda line: None).folder
    assert folder != f"{tmp_path}/{taken}" and re.search(r"/smoke-[0-9]{8}-[0-9]{6}(-[0-9a-f]{4})?$", folder)


@pytest.mark.parametrize("name", ["a/b", "", ".", "..", "a\nb", "caf\udce9"])
def test_what_is_no_name_of_a_folder_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"run\.name"):
        check_name(name)


@pytest.mark.parametrize("preset", ["../esc", "a/b", "x" * 300, "", "é" * 120, "..", "a\nb"])
def test_a_presets_name_that_is_none_of_a_folder_leaves_nothing(preset: str, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    config = replace(tiny_config(tmp_path / "images", tmp_path / "runs"), preset=preset)
    config = replace(config, run=replace(config.run, name=None))
    for start in (pretrain, partial(dry_run, PRETRAINING)):
        with pytest.raises(ValueError, match=r"the preset's name .* cannot begin the name of a folder"):
            start(config, say=lambda line: None)
    assert [path.name for path in tmp_path.rglob("*")] == ["images"]


def test_a_name_that_is_too_long_is_refused() -> None:
    check_name("x" * 255)
    with pytest.raises(ValueError, match=r"run\.name 'x+\.\.\. is too long"):
        check_name("x" * 256)
    with pytest.raises(ValueError, match="is too long"):
        check_name("é" * 128)
