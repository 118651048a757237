"""Which trackers follow a run, and how they are reached: found out before anything starts."""

from __future__ import annotations

import configparser
import importlib.util
import logging
import netrc
import os
from contextlib import suppress
from functools import partial
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from moco_ray.config import Config
from moco_ray.config.paths import BYTES, local_path
from moco_ray.run_folder.metrics import stored_lines
from moco_ray.storage.storage import Storage
from moco_ray.storage.uris import is_local
from moco_ray.tasks.job import Job
from moco_ray.tasks.tracker import TITLES, TrackerAccess, TrackerName
from moco_ray.worker.followers import Followers
from moco_ray.worker.trackers.follower import TrackerFollower

log = logging.getLogger(__name__)
_PREFIXES = {"mlflow": ("MLFLOW_", "DATABRICKS_"), "wandb": ("WANDB_",), "trackio": ("TRACKIO_",)}
# These name one run or one process, and not where runs are tracked; or whom else to tell.
_NOT_PASSED = frozenset(
    "MLFLOW_RUN_ID MLFLOW_RUN_NAME WANDB_RUN_ID WANDB_RESUME WANDB_NAME WANDB_SERVICE "
    "TRACKIO_WEBHOOK_URL TRACKIO_WEBHOOK_MIN_LEVEL".split()
)
_MLFLOW_WORDS = ("databricks", "databricks-uc", "uc")  # which are no paths
_WANDB_HOST = "https://api.wandb.ai"


def tracker_accesses(config: Config, run: Storage) -> tuple[TrackerAccess, ...]:
    """The trackers that a run asks for.

    Raises:
        ValueError: One is not installed, or does not know where it is to keep the run.
    """
    return tuple(_access(name, config, run) for name in dict.fromkeys(config.run.track or ()))


def track_finished(job: Job, run: Storage) -> None:
    """Send what trackers still lack of a run that was done before: its record holds all of it."""
    if not job.trackers:
        return
    followers = Followers({one.title: partial(TrackerFollower, one, job, run, job.last_step) for one in job.trackers})
    followers.commit([], stored_lines(run, "eval.jsonl"))
    followers.close(is_done=True)


def _access(name: TrackerName, config: Config, run: Storage) -> TrackerAccess:
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:  # a folder of that name is none
        raise ValueError(
            f"run.track {name} needs the package of {TITLES[name]}, which is not installed here; pip install "
            "'moco_ray[track]', on every node that may train, or leave the flag out"
        )
    environment = {
        variable: value
        for variable, value in os.environ.items()
        if variable.startswith(_PREFIXES[name]) and variable not in _NOT_PASSED
    }
    here = _local_folder(run)
    more = {"mlflow": _mlflow, "wandb": _wandb, "trackio": _trackio}[name](environment, here)
    return TrackerAccess(name=name, environment={**environment, **more})


def _local_folder(run: Storage) -> Path | None:
    """The run's folder, if that is on a disk."""
    uri = run.uri(run.root)
    return Path(local_path(uri)) if is_local(uri) and not uri.startswith(BYTES) else None


def _mlflow(environment: dict[str, str], folder: Path | None) -> dict[str, str]:
    """Where MLflow keeps the run: where it is told to, or in a database beside all runs."""
    uri = environment.get("MLFLOW_TRACKING_URI")
    if uri:
        return {"MLFLOW_TRACKING_URI": _whole(uri)}
    if folder is None:
        raise ValueError(
            "run.track mlflow does not know where the run is to be kept: run.storage-path is no folder of a disk, so set "
            "MLFLOW_TRACKING_URI to the address of an MLflow server, such as http://host:5000"
        )
    return {"MLFLOW_TRACKING_URI": f"sqlite:///{folder.parent / 'mlflow.db'}"}


def _whole(uri: str) -> str:
    """A URI that means the same in whatever directory: MLflow takes paths, file: and sqlite:/// from there."""
    for prefix, whole in (("sqlite:///", "sqlite:///"), ("file://", None), ("file:", "file://")):
        if uri.startswith(prefix):
            return uri if whole is None else whole + os.path.abspath(uri.removeprefix(prefix))
    has_scheme = ":" in uri.partition("/")[0] or uri in _MLFLOW_WORDS
    return uri if has_scheme else os.path.abspath(uri)


def _wandb(environment: dict[str, str], folder: Path | None) -> dict[str, str]:
    """The key, which only this machine may have, and where copies on a disk are kept: in the run's folder."""
    more = {} if folder is None or "WANDB_DIR" in environment else {"WANDB_DIR": str(folder)}
    if environment.get("WANDB_MODE", "online") == "offline":
        if folder is None and "WANDB_DIR" not in environment:
            raise ValueError(
                "run.track wandb does not know where WANDB_MODE=offline is to keep the run: run.storage-path is no folder of "
                "a disk, so set WANDB_DIR to one that all nodes share"
            )
        return more
    login = {**_wandb_login(environment), **environment}
    more |= {name: login[name] for name in ("WANDB_BASE_URL", "WANDB_API_KEY") if name in login}
    needs_key = not login.get("WANDB_API_KEY") and not login.get("WANDB_IDENTITY_TOKEN_FILE")
    if environment.get("WANDB_MODE", "online") == "online" and needs_key:
        key = _key_of_netrc(login.get("WANDB_BASE_URL", _WANDB_HOST))
        if key is None:
            raise ValueError(
                "run.track wandb finds no key for Weights & Biases; log in (`wandb login`), set WANDB_API_KEY, or set "
                "WANDB_MODE=offline to keep the run on this disk"
            )
        more["WANDB_API_KEY"] = key
    return more


def _trackio(environment: dict[str, str], folder: Path | None) -> dict[str, str]:
    """Where Trackio keeps the run: in a Space, on a server, in a folder of its own, or beside all runs."""
    if space := environment.get("TRACKIO_SPACE_ID"):
        return _trackio_space(space)
    if url := environment.get("TRACKIO_SERVER_URL"):
        return _trackio_server(url, environment.get("TRACKIO_WRITE_TOKEN"))
    here = environment.get("TRACKIO_DIR") or (folder and folder.parent / "trackio")
    if here is None:
        raise ValueError(
            "run.track trackio does not know where the run is to be kept: run.storage-path is no folder of a disk, so set "
            "TRACKIO_SERVER_URL and TRACKIO_WRITE_TOKEN to those of a Trackio server, or TRACKIO_DIR to a folder that all nodes share"
        )
    return {"TRACKIO_DIR": os.path.abspath(here), "TRACKIO_STORAGE_MODE": "sqlite"}


def _trackio_space(space: str) -> dict[str, str]:
    if space.count("/") != 1:
        raise ValueError(f"TRACKIO_SPACE_ID is {space}; run.track trackio needs the whole name of a Space: user/space")
    hub = {name: os.environ[name] for name in ("HF_TOKEN", "HF_ENDPOINT") if os.environ.get(name)}
    if "HF_TOKEN" not in hub:
        raise ValueError(
            f"run.track trackio finds no token for the Space {space}; set HF_TOKEN to one of Hugging Face that may write there"
        )
    return hub


def _trackio_server(url: str, key: str | None) -> dict[str, str]:
    """The server's address and key, which may stand in the address."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("TRACKIO_SERVER_URL is no address of a server; it is like http://host:7860")
    if parts.hostname.endswith(".hf.space"):
        raise ValueError(
            "TRACKIO_SERVER_URL is that of a Space of Hugging Face; set TRACKIO_SPACE_ID to user/space instead"
        )
    key = key or dict(parse_qsl(parts.query)).get("write_token")
    if not key:
        raise ValueError(
            "run.track trackio finds no key for the server at TRACKIO_SERVER_URL; set TRACKIO_WRITE_TOKEN to the write_token of "
            "the address that `trackio show` prints there"
        )
    return {"TRACKIO_SERVER_URL": parts._replace(query="", fragment="").geturl(), "TRACKIO_WRITE_TOKEN": key}


def _wandb_login(environment: dict[str, str]) -> dict[str, str]:
    """What `wandb login` has left beside the key: the server it was for, where that is one of its own."""
    folder = environment.get("WANDB_CONFIG_DIR", "~/.config/wandb")
    parser = configparser.ConfigParser(interpolation=None)
    with suppress(OSError, UnicodeDecodeError, configparser.Error):
        parser.read(Path(folder).expanduser() / "settings")
    names = {"WANDB_BASE_URL": "base_url", "WANDB_API_KEY": "api_key"}
    return {variable: value for variable, name in names.items() if (value := parser.get("default", name, fallback=""))}


def _key_of_netrc(url: str) -> str | None:
    """The key that `wandb login` has left for a server."""
    host = urlsplit(url).hostname or ""
    for path in [os.environ.get("NETRC"), "~/.netrc", "~/_netrc"]:
        if path is not None:
            with suppress(OSError, netrc.NetrcParseError):
                found = netrc.netrc(Path(path).expanduser()).authenticators(host)
                if found is not None:
                    return found[2]
    return None
