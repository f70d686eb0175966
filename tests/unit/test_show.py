"""What reaches a terminal, and what must not."""

import json
import re

import pytest

from audience.cli import options, show
from audience.errors import BadInput

EVIL = "good \x1b[2J\x1b]0;title\x07 \r over \x9b8m \x7f \u202eback\u2066 \x00 \ud83d end"
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def run(*steps):
        console = show.SafeConsole(width=200)
        monkeypatch.setattr(show, "console", console)
        for step in steps:
            step()
        return capsys.readouterr().out

    return run


def test_nothing_that_a_terminal_obeys_is_printed(printed):
    hit = {"start": 0, "end": 4, "field": "content", "rule": 1}
    row = {"evidence": json.dumps([hit]), "model": EVIL, "group": EVIL, "source_author": EVIL, "create_time": None}
    row |= {"panel": EVIL, "match_content": EVIL}
    out = printed(
        lambda: show.table("t", ("a", EVIL), [(1, EVIL), (2, None)]),
        lambda: show.sample([row, row | {"evidence": "[]"}]),
        lambda: show.console.print(EVIL),
        lambda: show.console.print(f"[bold]{EVIL}[/]", soft_wrap=True),
        lambda: show.console.print(show.Text(EVIL)),
    )
    assert not OBEYED.search(out)
    assert out.count("good") == 15
    assert r"\x1b[2J" in out
    assert r"\u202eback" in out


def test_tabs_and_line_ends_stay(printed):
    assert printed(lambda: show.console.print("a\nb")) == "a\nb\n"
    assert show.printable("a\tb\nc") == "a\tb\nc"


def test_json_stays_json_and_harms_no_terminal(capsys):
    show.as_json({"text": EVIL})
    out = capsys.readouterr().out
    assert not OBEYED.search(out)
    assert json.loads(out) == {"text": EVIL}


def test_argument_that_is_not_utf8_is_refused_with_its_place():
    options.check_arguments(["label", "好"])
    with pytest.raises(BadInput, match="argument 2 of the command is not UTF-8, from its character 5"):
        options.check_arguments(["try", "good\udcff"])
