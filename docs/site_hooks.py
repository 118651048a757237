"""What mkdocs does beside Markdown: links to code lead to its listing, notebooks and presets become pages.

Pages link to files of the repository by their relative place, as GitHub understands it. On the site, a file or folder that
is linked to has a page of its own below source/, which the navigation leaves out.
"""

from __future__ import annotations

import ast
import json
import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
_LINK = re.compile(r"(\]\()([^)\s#:]+)(#[^)\s]*)?(\))")
_FIELDS = re.compile(r"<!-- fields of (?P<name>\w+) in (?P<file>\S+) as --(?P<group>[\w.]*) -->")
_PRESETS = re.compile(r"<!-- presets in (?P<file>\S+) -->")
_TOLD = re.compile(r"(?:^|(?<=\s))(Command|Hardware|Expected|Differs): ")
_UNSEARCHED = "---\nsearch:\n  exclude: true\n---\n\n"
_LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".json": "json", ".toml": "toml"}
_MOST_CHARACTERS = 60_000


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that no file in docs/ holds."""
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        text = notebook_page(json.loads(notebook.content_string), posixpath.basename(notebook.src_uri))
        files.append(File.generated(config, f"{notebook.src_uri[: -len('.ipynb')]}.md", content=text))
    for path in sorted(_linked(files)):
        place = ROOT / path
        text = _folder_page(place) if place.is_dir() else _file_page(place)
        page = File.generated(config, _source_page(path), content=text, inclusion=InclusionLevel.NOT_IN_NAV)
        files.append(page)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to code and to notebooks into links to their pages, and the names of settings into tables of them."""
    source = page.file.src_uri
    markdown = _FIELDS.sub(lambda match: fields_table(match["file"], match["name"], match["group"]), markdown)

    def turned(match: re.Match[str]) -> str:
        before, target, anchor, after = match.groups()
        path = _in_repository(source, target)
        if path is not None:
            target, anchor = posixpath.relpath(_source_page(path), posixpath.dirname(source) or "."), None
        elif target.endswith(".ipynb") and _markdown_of(source, target) != source:
            target = f"{target[: -len('.ipynb')]}.md"
        return f"{before}{target}{anchor or ''}{after}"

    markdown = _PRESETS.sub(lambda match: presets_of(match["file"]), markdown)
    return _outside_code(markdown, lambda text: _LINK.sub(turned, text))


def notebook_page(notebook: dict[str, Any], name: str) -> str:
    """A notebook as Markdown: its text, its code, and what that printed and drew.

    Args:
        notebook: As its file holds it.
        name: Of the file, which the page links to.
    """
    parts = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(text)
            continue
        parts.append(f"~~~~python\n{text}\n~~~~")
        parts += [shown for output in _joined(cell.get("outputs", ())) for shown in _output(output)]
    title, *rest = parts
    note = (
        f'This page is a notebook: [take it along]({name} "download"){{download}}. A test runs it from top to bottom.'
    )
    return "\n\n".join([title, note, *rest]) + "\n"


def fields_table(file: str, name: str, group: str) -> str:
    """The fields of a dataclass as a table of flags: name with default, and what it is.

    Args:
        file: In which the class is, from the root of the repository.
        name: Of the class.
        group: What flags of its fields begin with, such as "optim."; "" for none.
    """
    tree = ast.parse((ROOT / file).read_text())
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    lines = ["| flag, default | |", "|---|---|"]
    for item, after in pairwise(body):
        is_told = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        if not isinstance(item, ast.AnnAssign) or not is_told or item.value is None:
            continue
        flag = f"--{group}{ast.unparse(item.target)}".replace("_", "-")
        kind, about = ast.unparse(item.annotation), " ".join(str(after.value.value).split())
        choices = re.search(r"Literal\[(.*?)\]", kind)
        among = f" One of {choices[1]}.".replace("'", "`") if choices else ""
        lines.append(f"| `{flag}`<br>`{_default(item.value)}` | {(about + among).replace('|', chr(92) + '|')} |")
    return "\n".join(lines)


def presets_of(file: str) -> str:
    """What the functions of a file, one for each preset, say of them.

    Args:
        file: From the root of the repository.
    """
    parts = []
    for function in ast.parse((ROOT / file).read_text()).body:
        if not isinstance(function, ast.FunctionDef) or ast.unparse(function.returns or function) != "Config":
            continue
        first, _, rest = (ast.get_docstring(function) or "").partition("\n")
        parts += [f"### {function.name.replace('_', '-')}", first]
        before, *told = _TOLD.split(" ".join(rest.split()))
        parts += [before] if before.strip() else []
        for name, text in zip(told[::2], told[1::2], strict=True):
            parts.append(f"~~~~text\n{text.strip()}\n~~~~" if name == "Command" else f"**{name}:** {text.strip()}")
    return "\n\n".join(parts)


def _default(value: ast.expr) -> str:
    text = ast.unparse(value)
    shown = re.sub(r"(\d)_(?=\d)", r"\1", text.strip("()") if isinstance(value, ast.Tuple) else text)
    return shown.replace("'", "").replace(",", "") if isinstance(value, ast.Tuple) else shown.strip("'") or "empty"


def _joined(outputs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Outputs with what was printed piece by piece in one."""
    joined: list[dict[str, Any]] = []
    for output in outputs:
        if joined and output["output_type"] == joined[-1]["output_type"] == "stream":
            joined[-1] = {**output, "text": ["".join(joined[-1]["text"]), "".join(output["text"])]}
        else:
            joined.append(output)
    return joined


def _output(output: dict[str, Any]) -> Iterator[str]:
    data = output.get("data", {})
    if picture := data.get("image/png"):
        yield f"![What the cell draws](data:image/png;base64,{''.join(picture).strip()})"
        return
    text = "".join(output.get("text", data.get("text/plain", "")))
    if text.strip():
        body = "\n".join(f"~~~~text\n{text.rstrip()}\n~~~~".splitlines())
        yield f'<div class="output" markdown>\n\n{body}\n\n</div>'


def _linked(files: Files) -> set[str]:
    """Files and folders of the repository that pages link to, and the Python files of such folders."""
    found: set[str] = set()
    for file in files.documentation_pages():
        _outside_code(file.content_string, lambda text, file=file: _note(found, file.src_uri, text))
    for path in list(found):
        found |= (
            {str(inner.relative_to(ROOT)) for inner in (ROOT / path).glob("*.py")} if (ROOT / path).is_dir() else set()
        )
    return found


def _note(found: set[str], source: str, text: str) -> str:
    for match in _LINK.finditer(text):
        if (path := _in_repository(source, match[2])) is not None:
            found.add(path)
    return text


def _in_repository(source: str, target: str) -> str | None:
    """The place in the repository that a page links to; None for one in docs/, or none at all."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(source), target))
    is_outside = not path.startswith(("docs/", "..", "/"))
    return path if is_outside and (ROOT / path).exists() else None


def _markdown_of(source: str, target: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), f"{target[: -len('.ipynb')]}.md"))


def _source_page(path: str) -> str:
    return f"source/{path}.md"


def _file_page(place: Path) -> str:
    text = place.read_text()
    fence = "~" * 12
    shown = text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}\n… and more: see the file"
    language = _LANGUAGES.get(place.suffix, "text")
    return f'{_UNSEARCHED}# {place.relative_to(ROOT)}\n\n{fence}{{.{language} linenums="1"}}\n{shown}\n{fence}\n'


def _folder_page(place: Path) -> str:
    lines = [f"{_UNSEARCHED}# {place.relative_to(ROOT)}/", "", "| file | |", "|---|---|"]
    for inner in sorted(place.glob("*.py")):
        first = (ast.get_docstring(ast.parse(inner.read_text())) or "").partition("\n")[0].replace("|", "\\|")
        lines.append(f"| [`{inner.name}`]({os.path.basename(place)}/{inner.name}.md) | {first} |")
    return "\n".join(lines) + "\n"


def _outside_code(markdown: str, change: Any) -> str:
    """Change what is no fenced block."""
    parts = re.split(r"(^(?:```|~~~~).*?^(?:```|~~~~)[^\S\n]*$)", markdown, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if i % 2 else change(part) for i, part in enumerate(parts))
