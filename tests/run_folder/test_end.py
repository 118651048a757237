"""Why a run ended: written by who holds it, without credentials, and forgotten when it goes on."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from moco_ray.config.patience import Patience
from moco_ray.driver.run import pretrain
from moco_ray.run_folder.end import END, end_on_record
from moco_ray.run_folder.lease import Lease, LeaseLost, hold_run
from moco_ray.storage.storage import Storage, StorageOptions
from moco_ray.storage.uris import without_secrets
from moco_ray.tasks.failure import RunFailed
from tests.runs import tiny_config

OPTIONS = StorageOptions({"key": "AKIAKEY", "client_kwargs": {"secret": "hushhush"}, "endpoint_url": "http://host:1"})


def _ended(folder: Path, error: BaseException, before: tuple[int, float] | None = None) -> dict[str, Any]:
    run = Storage.open(str(folder), StorageOptions({}))
    with (
        pytest.raises(type(error)),
        end_on_record(run, Lease(owner="me", before=before), lambda: None, [OPTIONS]),
    ):
        assert not (folder / END).exists()
        raise error
    content: dict[str, Any] = json.loads((folder / END).read_text())
    return content


def test_the_words_of_an_end(tmp_path: Path) -> None:
    (tmp_path / END).write_text("of before")
    end = _ended(tmp_path, RunFailed("the workers\nfailed"), before=(7, 1.0))
    assert (end["state"], end["reason"], end["step"]) == ("failed", "the workers failed", 7)
    assert abs(end["time"] - time.time()) < 60
    assert _ended(tmp_path, OSError("disk gone"))["reason"] == "disk gone"
    assert _ended(tmp_path, AssertionError())["reason"] == "AssertionError: "
    assert _ended(tmp_path, IndexError("3"))["reason"] == "IndexError: 3"
    assert _ended(tmp_path, KeyboardInterrupt()) | {"time": 0} == {
        **{"state": "stopped", "reason": "interrupted"},
        **{"step": None, "time": 0},
    }


def test_the_reason_shows_no_credentials(tmp_path: Path) -> None:
    text = "AKIAKEY with hushhush at http://host:1 and s3://a/b; https://me:pw@host/x?token=1, then y"
    shown = "… with … at http://host:1 and s3://a/b; https://…@host/x?…, then y"
    assert _ended(tmp_path, ValueError(text))["reason"] == shown
    assert without_secrets("https://me:p@w@host/x") == "https://…@host/x"
    for query in ("X-Amz-SignedHeaders=host;range&X-Amz-Signature=SECRET", "a=1,2&sig=SECRET", "a=(1);sig=SECRET"):
        for end in ("", ", then y", "; y", ") y", "' y"):
            assert without_secrets(f"https://h/a?{query}{end}") == f"https://h/a?…{end}"
    assert without_secrets("<td>https://h/a?…</td><td>b") == "<td>https://h/a?…</td><td>b"
    assert without_secrets("/data/what?.jpg is bad") == "/data/what?.jpg is bad"


def test_a_good_end_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / END).write_text("of before")
    run = Storage.open(str(tmp_path), StorageOptions({}))
    with end_on_record(run, Lease(owner="me", before=None), lambda: None, []):
        pass
    assert not (tmp_path / END).exists()


def test_who_has_lost_the_run_writes_nothing(images: Path, tmp_path: Path) -> None:
    def say(line: str) -> None:
        if line.startswith("step 1/"):
            content = {"owner": "other", "renewed_at": time.time(), "host": "elsewhere", "pid": 5}
            (tmp_path / "run" / "lease.json").write_text(json.dumps(content))

    config = tiny_config(images, tmp_path, max_steps=4, checkpoint_every_steps=2)
    with pytest.raises(LeaseLost):
        pretrain(config, say=say, patience=Patience(lease_renewal=600.0))
    assert not (tmp_path / "run" / END).exists()


def test_an_end_that_cannot_be_written_hides_no_error(tmp_path: Path) -> None:
    run = Storage.open(str(tmp_path), StorageOptions({}))
    with hold_run(run, lambda: None) as lease, pytest.raises(ValueError, match="the loss"):  # noqa: SIM117
        with end_on_record(run, lease, lambda: (3, 1.0), []):
            (tmp_path / END).mkdir()
            (tmp_path / END / "in the way").touch()
            raise ValueError("the loss")
