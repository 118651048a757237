"""What completes the programs, their flags and their values in a shell; imported for --print-completion alone."""

from __future__ import annotations

import functools
import io
from collections.abc import Iterable, Mapping
from contextlib import redirect_stdout, suppress
from dataclasses import field, make_dataclass
from typing import Annotated, Any, Literal, get_args

import tyro

from moco_ray.cli import demo, detect, embed, evaluate, export, finetune, linear_probe, pretrain, runs, weights
from moco_ray.cli.flags import Flag, flags_of
from moco_ray.cli.transfer import transfer_flags
from moco_ray.config import Config
from moco_ray.config.fields import docs_of
from moco_ray.config.methods import AnyMethod, method_names
from moco_ray.config.presets import PRESETS
from moco_ray.config.programs import DOORS, NAME
from moco_ray.sweep.config import SweepConfig

SHELLS = ("bash", "fish", "zsh")

# What tyro writes offers, where nothing fits, an empty word in bash and nothing in the others; here it is names of files.
_ENDS = {
    "bash": """
_moco_ray() {
  local IFS=$'\\n'
  _tyro_moco_ray
  [[ -n "${COMPREPLY[*]}" ]] || COMPREPLY=()
  (( COMP_CWORD > 1 )) && [[ -e "${COMPREPLY[0]}" ]] && COMPREPLY=() # bash puts a slash behind folders
  return 0
}
complete -o bashdefault -o default -F _moco_ray moco-ray
""",
    "fish": """
function _moco_ray
    set -l token (commandline --current-token)
    set -l found (_tyro_moco_ray)
    if string match --quiet -- "$token*" $found
        printf '%s\\n' $found
    else
        __fish_complete_path $token
    end
end
complete --erase --command moco-ray
complete --no-files --command moco-ray --arguments "(_moco_ray)"
""",
    "zsh": """
_moco_ray() {
  local before=$compstate[nmatches]
  _tyro_moco_ray "$@"
  (( compstate[nmatches] > before )) || _files
}
if [[ "$funcstack[1]" == _moco-ray ]]; then _moco_ray "$@"; else compdef _moco_ray moco-ray; fi
""",
}
_STARTED = '_tyro_moco_ray "$@"'  # zsh's last line, which only a file of an fpath may have


def completion(shell: str) -> str:
    """A script that makes a shell complete `moco-ray`.

    Args:
        shell: One of `SHELLS`.

    Raises:
        ValueError: It is none of them.
    """
    if shell not in SHELLS:
        raise ValueError(f"--print-completion {shell!r} is no shell that is known; use {', '.join(SHELLS)}")
    with redirect_stdout(io.StringIO()) as said, suppress(SystemExit):
        tyro.extras.subcommand_cli_from_dict(
            {name: _class_of(name) for name in DOORS},
            prog=NAME,
            args=["--tyro-print-completion", shell],
            config=(tyro.conf.AvoidSubcommands,),
        )
    return said.getvalue().rstrip().removesuffix(_STARTED) + _ENDS[shell]


def _class_of(name: str) -> type[object]:
    """A program's flags as a dataclass."""
    arguments = {
        "demo": demo.Arguments,
        "export": export.Arguments,
        "runs": runs.Arguments,
        "weights": weights.Arguments,
    }
    if name in arguments:
        return arguments[name]
    if name in ("pretrain", "sweep"):
        own = flags_of(SweepConfig()) if name == "sweep" else []
        return _dataclass([*own, *pretrain.run_flags()], PRESETS)
    commands = (evaluate.COMMAND, linear_probe.COMMAND, finetune.COMMAND, detect.COMMAND, embed.COMMAND)
    command = next(command for command in commands if command.program == name)
    return _dataclass(transfer_flags(command), command.presets)


def _dataclass(flags: Iterable[Flag], presets: Mapping[str, object]) -> type[object]:
    """Flags as tyro wants them; what they begin with is told nobody, since presets differ."""
    choices = {"preset": tuple(presets), "method": tuple(method_names())}
    fields: list[tuple[str, Any, Any]] = []
    for number, flag in enumerate(flags):
        if flag.path == "help":
            continue
        hint, value = flag.hint, False if flag.hint is bool else flag.default
        if flag.path in choices:
            hint, value = Literal[choices[flag.path]], choices[flag.path][0]
        told = tyro.conf.arg(name=flag.name[2:], help=flag.about or _docs().get(flag.path, ""), help_behavior_hint="")
        fields.append((f"flag_{number}", Annotated[hint, told], field(default=value)))
    return make_dataclass("Flags", fields, frozen=True, kw_only=True)


@functools.cache
def _docs() -> dict[str, str]:
    """The first sentence about each field, by its path."""
    config = Config()
    parts = [
        (f"{group}.", getattr(config, group))
        for group in ("data", "views", "model", "detection", "optim", "eval", "run")
    ]
    parts += [("method.", method()) for method in get_args(AnyMethod)] + [("", SweepConfig())]
    return {
        f"{prefix}{name}": doc.partition(". ")[0] for prefix, part in parts for name, doc in docs_of(type(part)).items()
    }
