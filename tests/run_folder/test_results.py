"""What results.json says, and what it must not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from moco_ray.run_folder.results import RESULTS, write_results
from moco_ray.storage.storage import Storage, StorageOptions
from tests.runs import tiny_config


def test_results_show_no_credentials_of_urls(tmp_path: Path) -> None:
    config = tiny_config("https://me:p@ssword@host/list.csv?X-Amz-Signature=abc123", "runs")
    config = replace(config, model=replace(config.model, init="https://host/encoder.pt?token=hush"))
    run = Storage.open(str(tmp_path), StorageOptions({}))
    found = write_results(run, config, ["a", "b"], num_train=3, extra={})
    assert (found["data"], found["init"]) == ("https://…@host/list.csv?…", "https://host/encoder.pt?…")
    text = (tmp_path / RESULTS).read_text()
    assert not any(secret in text for secret in ("ssword", "abc123", "hush"))
