"""What servers and Git give in place of weights is called what it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moco_ray import encoder_info, load_encoder
from moco_ray.weights.initial_weights import load_initial_weights
from tests.web import page_server, web_server
from tests.weights.test_encoder_file import tiny_encoder, write

_LOGIN = b'\n<!DOCTYPE html>\n<html><body>Log in <a href="help">help</a></body></html>'
_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
_CASES = [
    (_LOGIN, "is an HTML page, not weights"),
    (b"<html>Not found</html>", "is an HTML page, not weights"),
    (b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>", "is an XML page, not weights"),
    (_POINTER, "is a Git LFS pointer, not weights: run git lfs pull"),
]

_PLACES = ("encoder.safetensors", "runs/mine", "weights.pth?signed=1", "state.pt")


def _assert_refused(path: str, message: str) -> None:
    for read in (load_encoder, encoder_info, lambda path: load_initial_weights(tiny_encoder(), path)):
        with pytest.raises(ValueError, match=message) as error:
            read(path)
        assert path.rstrip("/") in str(error.value)


@pytest.mark.parametrize(("content", "message"), _CASES)
@pytest.mark.parametrize("name", ["encoder.safetensors", "weights.pth"])
def test_a_file_that_holds_no_weights_is_called_what_it_is(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    _assert_refused(str(tmp_path / name), message)
    if name == "encoder.safetensors":
        _assert_refused(str(tmp_path), message)
    with web_server(tmp_path) as address:
        _assert_refused(f"{address}/{name}", message)


@pytest.mark.parametrize(
    ("place", "answers_all"),
    [
        *((place, True) for place in (*_PLACES, "runs/mine/")),
        *((place, False) for place in _PLACES),  # alone, the page of runs/mine/ is that of a folder without files
    ],
)
def test_a_server_that_asks_to_log_in_gives_no_damaged_checkpoint(place: str, answers_all: bool) -> None:
    def answer(path: str) -> tuple[int, dict[str, str], bytes]:
        return (200, {}, _LOGIN) if answers_all or path == f"/{place}" else (404, {}, b"")

    with page_server(answer) as address:
        _assert_refused(f"{address}/{place}", "is an HTML page, not weights")


def test_a_run_behind_a_server_with_pages_of_folders_is_read(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    path, backbone = write(tmp_path / "run", "timm:test_resnet")
    (path.parent / "config.json").write_text(json.dumps({}))
    with web_server(tmp_path) as address:
        for place in (f"{address}/run/", f"{address}/run", f"{address}/run/{path.name}"):
            assert load_encoder(place).state_dict().keys() == backbone.state_dict().keys()
