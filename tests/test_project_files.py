"""What a repository on GitHub has beside its code: the workflow, the changelog, how to cite it, its image."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import moco_ray

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z-]+)(?=[a-z -]*:)", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
ACTION = re.compile(r"[\w-]+/[\w-]+@v\d+")
AS_IN_CI = re.compile(r"^make ([a-z-]+)$")


def jobs(workflow: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(workflow.read_text())["jobs"]
    return found


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_makes_targets_and_runs_nothing_else(workflow: Path) -> None:
    for name, job in jobs(workflow).items():
        commands = [step["run"] for step in job["steps"] if "run" in step]
        assert commands, name
        for command in commands:
            match = AS_IN_CI.match(command)
            assert match and match[1] in TARGETS, f"{name} runs {command}"
        assert all(ACTION.fullmatch(step["uses"]) for step in job["steps"] if "uses" in step), name
        assert job["timeout-minutes"] <= 180, name


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_only_read(workflow: Path) -> None:
    text = yaml.safe_load(workflow.read_text())
    assert text["permissions"] == {"contents": "read"} and "concurrency" in text
    assert "secrets." not in workflow.read_text() and "pull_request_target" not in workflow.read_text()
    for job in text["jobs"].values():
        assert "permissions" not in job
        checkout = next(step for step in job["steps"] if step.get("uses", "").startswith("actions/checkout@"))
        assert checkout["with"]["persist-credentials"] is False


def test_the_workflow_does_what_ci_does_and_builds_documentation_and_package() -> None:
    made = {
        step["run"].removeprefix("make ")
        for workflow in WORKFLOWS
        for job in jobs(workflow).values()
        for step in job["steps"]
        if "run" in step
    }
    in_ci = set(re.findall(r"^make ([a-z-]+)", (ROOT / ".ci/run").read_text(), flags=re.MULTILINE))
    assert in_ci - {"install"} | {"docs", "package"} <= made  # each of them installs first


def test_the_citation_has_what_its_format_asks_for() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0" and citation["message"] and citation["title"]
    assert citation["type"] == "software" and citation["license"] == "Apache-2.0"
    assert citation["version"] == moco_ray.__version__
    assert citation["authors"] == [{"name": "moco_ray developers"}]
    papers = {identifier["value"] for reference in citation["references"] for identifier in reference["identifiers"]}
    assert papers == {"arXiv:1911.05722", "arXiv:2003.04297", "arXiv:2104.02057"}
    for reference in citation["references"]:
        assert reference["type"] in ("article", "conference-paper") and reference["title"]
        assert all(set(author) == {"family-names", "given-names"} for author in reference["authors"])
    assert not {"doi", "url", "repository-code"} & set(citation)  # until there are any


def test_the_changelog_has_the_form_that_it_names() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert text.startswith("# Changelog\n") and "https://keepachangelog.com/en/1.1.0/" in text
    sections = re.findall(r"^## (.*)$", text, flags=re.MULTILINE)
    assert sections[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", section) for section in sections[1:])
    kinds = set(re.findall(r"^### (.*)$", text, flags=re.MULTILINE))
    assert kinds and kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    released = [section[1:].partition("]")[0] for section in sections[1:]]
    assert released[:1] == [moco_ray.__version__] or f"What will be {moco_ray.__version__}" in text


def test_the_image_keeps_its_dependencies_when_only_code_changes_and_runs_as_a_user() -> None:
    lines = (ROOT / "deploy/Dockerfile").read_text().replace("\\\n", " ").splitlines()
    stage = lines[max(number for number, line in enumerate(lines) if line.startswith("FROM ")) :]
    install = next(number for number, line in enumerate(stage) if "--requirement pyproject.toml" in line)
    before = [line for line in stage[:install] if line.startswith("COPY ")]
    assert before == ["COPY pyproject.toml constraints.txt ./"]
    assert "--constraint constraints.txt" in stage[install]
    after = [line for line in stage[install + 1 :] if line.startswith("RUN ")]
    assert len(after) == 1 and "--no-deps /wheel/*.whl" in after[0]
    user = next(number for number, line in enumerate(stage) if line.startswith("USER "))
    assert stage[user] == "USER 1000" and not any(line.startswith(("RUN ", "COPY ")) for line in stage[user:])
    assert not any(line.startswith(("ENTRYPOINT", "CMD")) for line in lines)
