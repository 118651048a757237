"""Check cluster files before they cost money: `python deploy/check.py [cluster.yaml] [deploy/kuberay/rayjob.yaml] …`.

Finds offline what `ray up` and `kubectl apply` would ignore or report only after nodes have started. Prints one line a
problem, or "ok" for a file without any. Exits with 2 if there is something to mend.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import check_aws
import check_kuberay
import yaml

REPOSITORY = Path(__file__).resolve().parent.parent
DEFAULT_FILES = ("cluster.yaml", "deploy/kuberay/rayjob.yaml")
PLACEHOLDER = re.compile(r"<[A-Z][A-Z0-9-]*>")
FILL_IN = {
    "<SECURITY-GROUP-ID>": "the SecurityGroup that the stack of deploy/account.yaml prints, such as sg-0123456789abcdef0",
    "<IMAGE>": "the image that you built from deploy/Dockerfile and pushed, such as "
    "123456789012.dkr.ecr.us-west-2.amazonaws.com/moco-ray:1",
    "<ROLE-ARN>": "the IAM role that pods use the bucket with, such as arn:aws:iam::123456789012:role/moco-ray",
    "<BUCKET>": "the name of your bucket",
}


def main(arguments: list[str]) -> int:
    """Check files and print what is wrong with each.

    Returns:
        0 if all are fine, 2 if one has a problem.
    """
    if any(argument.startswith("-") for argument in arguments):
        print(__doc__)
        return 0 if set(arguments) & {"-h", "--help"} else 2
    paths = [Path(argument) for argument in arguments] or [REPOSITORY / name for name in DEFAULT_FILES]
    is_fine = True
    for path in paths:
        problems = check_file(path)
        is_fine = is_fine and not problems
        for problem in problems:
            print(f"{path}{'' if problem.startswith(':') else ': '}{problem}")
        if not problems:
            print(f"{path}: ok")
    return 0 if is_fine else 2


def check_file(path: Path) -> list[str]:
    """All problems of one file; those with a line begin with ":LINE: "."""
    try:
        text = path.read_text()
    except OSError as error:
        return [f"cannot be read: {error.strerror}"]
    try:
        documents = [document for document in yaml.safe_load_all(text) if document is not None]
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}: " if mark else ""
        return [f"{where}is not YAML: {getattr(error, 'problem', None) or error}"]
    if not documents or not all(isinstance(document, dict) for document in documents):
        return ["holds no mapping of keys: expected a cluster file for `ray up` or Kubernetes manifests"]
    return find_placeholders(text) + check_documents(documents)


def check_documents(documents: list[dict[str, Any]]) -> list[str]:
    """Problems of the parsed documents of one file, by what they are."""
    if all("apiVersion" not in document and "kind" not in document for document in documents):
        if len(documents) > 1:
            return [f"holds {len(documents)} documents; `ray up` takes one"]
        return check_aws.check_cluster(documents[0])
    return check_kuberay.check_manifests(documents)


def find_placeholders(text: str) -> list[str]:
    """One problem for each line with a placeholder that is left in a value; comments may name them."""
    lines = text.splitlines()
    left: dict[tuple[int, str], None] = {}  # a set that keeps its order
    for token in yaml.scan(text):
        if not isinstance(token, yaml.ScalarToken):
            continue
        names = set(PLACEHOLDER.findall(token.value))
        for i in range(token.start_mark.line, min(token.end_mark.line + 1, len(lines))):
            left.update({(i + 1, name): None for name in sorted(names) if name in lines[i]})
    return [f":{line}: {name} is still there: put in {FILL_IN.get(name, 'your own value')}" for line, name in left]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
