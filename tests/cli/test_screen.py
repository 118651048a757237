from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from moco_ray.cli.screen import Screen

STEP = "step 1,234/25,500 · loss 4.1234 · key 45.1 % · 1,234 img/s · 3h 12m left"


def _terminal(width: int) -> tuple[Console, io.StringIO]:
    output = io.StringIO()
    return Console(file=output, force_terminal=True, width=width, _environ={"TERM": "xterm"}), output


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_elsewhere_every_line_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with Screen(Console(file=io.StringIO())) as say:
        say(STEP)
        say("warning: [red] " + 200 * "x")
    assert capsys.readouterr().out == f"{STEP}\nwarning: [red] {200 * 'x'}\n"


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_live_line_fits_its_terminal(width: int) -> None:
    console, output = _terminal(width)
    with Screen(console) as say:
        say("step 1/25,500")
        say(STEP)
        other, captured = _terminal(width)
        other.print(say._render())
    line = captured.getvalue()
    assert _plain(line).count("\n") == 1 and len(_plain(line).rstrip("\n")) <= width
    assert "1,234/25,500" in line and "0:00:0" in line
    assert ("━" in line) == (width == 120)
    assert output.getvalue()


def test_the_first_loss_and_all_other_lines_stay() -> None:
    console, output = _terminal(60)
    long = "warning: " + 30 * "many words "
    with Screen(console) as say:
        for line in (STEP, "measuring the untrained encoder: 0 of 1,100 images", long, "step 1,300/25,500 · loss 4"):
            say(line)
    lines = _plain(output.getvalue()).replace("\r", "").splitlines()
    assert STEP in lines and long in lines  # whole, however narrow


def test_what_was_measured_makes_room_for_the_step() -> None:
    console, _ = _terminal(80)
    with Screen(console) as say:
        say(STEP)
        say("measuring the encoder after 64 steps: 400 of 1,100 images")
        assert say._shown[1] == pytest.approx(400 / 1100)
        say("encoder after 64 steps: kNN 12 %")
        assert say._shown[0] == STEP
