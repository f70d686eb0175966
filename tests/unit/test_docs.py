"""The documentation names everything that a user can meet, its links lead somewhere, and its commands exist."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from audience import errors
from audience.api.metrics import Metrics
from audience.api.server import create_api
from audience.app.root import App
from audience.cli.main import app
from audience.settings import Settings
from audience.tables.base import SourceSpec

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks" / "README.md"]
ENGLISH = "\n".join(page.read_text("utf-8") for page in PAGES if page.name != "README.zh-TW.md")
READMES = ("README.md", "README.zh-TW.md")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROGRAM = typer.main.get_command(app)


def commands(command, words=("audience",)) -> Iterator[tuple[str, typer.core.TyperCommand]]:
    """Every command that does something, by the words that call it."""
    for name, below in getattr(command, "commands", {}).items():
        yield from commands(below, (*words, name))
    if not getattr(command, "commands", None) or command.invoke_without_command:
        yield " ".join(words), command


COMMANDS = {name: command for name, command in commands(PROGRAM) if not getattr(command, "hidden", False)}
SHOWN = [p for c in COMMANDS.values() for p in c.params if not getattr(p, "hidden", False)]
OPTIONS = sorted({name for p in SHOWN for name in (*p.opts, *p.secondary_opts)})


def without_blocks(text: str) -> str:
    return FENCE.sub("", text)


def headings(text: str) -> list[str]:
    return re.findall(r"^#+ .+$", without_blocks(text), re.MULTILINE)


def anchors(text: str) -> set[str]:
    """The headings as they are linked to."""
    return {re.sub(r"[^\w\- ]", "", heading.lstrip("# ").lower()).replace(" ", "-") for heading in headings(text)}


def command_lines(text: str) -> list[str]:
    """Every line of a shell block that calls the program, continued lines joined, and those within `code` in prose."""
    blocks = [body.replace("\\\n", " ") for kind, body in FENCE.findall(text) if kind in ("bash", "console")]
    lines = [line.removeprefix("$ ").strip() for body in blocks for line in body.splitlines()]
    inline = re.findall(r"`(audience\s[a-z][^`]*)`", without_blocks(text))
    return [" ".join(line.split()) for line in (*lines, *inline) if line.startswith("audience ")]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_in_the_docs(name: str) -> None:
    assert re.search(rf"`(\$ )?{name}\b|^(\$ )?{name}\b", ENGLISH, re.MULTILINE)


@pytest.mark.parametrize("option", [name for name in OPTIONS if name.startswith("-")])
def test_every_option_is_in_the_docs(option: str) -> None:
    assert re.search(rf"(?<![\w-]){option}(?![\w-])", ENGLISH)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_in_the_docs_with_its_variable_and_default(name: str) -> None:
    page = (ROOT / "docs" / "settings.md").read_text("utf-8")
    row = re.search(rf"^\| `{name}` \| `AUDIENCE_{name.upper()}` \| (.*?) \|", page, re.MULTILINE)
    assert row
    default = Settings.model_fields[name].default
    if isinstance(default, int):
        assert row[1] == str(default)


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_is_in_the_docs(name: str) -> None:
    assert re.search(rf"\b{name}\b", (ROOT / "docs" / "errors.md").read_text("utf-8"))


@pytest.mark.parametrize("name", SourceSpec.model_fields)
def test_every_field_of_a_source_is_in_the_docs(name: str) -> None:
    assert re.search(rf"^\| `{name}` \|", (ROOT / "docs" / "sources.md").read_text("utf-8"), re.MULTILINE)


@pytest.fixture
def records(tmp_path: Path) -> App:
    return App(Settings(home=tmp_path))


def test_every_route_is_in_the_docs_and_no_other(records: App) -> None:
    page = (ROOT / "docs" / "api.md").read_text("utf-8")
    paths = create_api(records).openapi()["paths"]
    routes = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    assert set(re.findall(r"^\| `([A-Z]+ /[^`]*)` \|", page, re.MULTILINE)) == routes


def test_every_metric_is_in_the_docs_and_no_other(records: App) -> None:
    page = (ROOT / "docs" / "operations.md").read_text("utf-8")
    names = {metric.name for metric in Metrics(records).registry.collect()}
    assert set(re.findall(r"^\| `(audience_\w+)` \|", page, re.MULTILINE)) == names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", without_blocks(page.read_text("utf-8"))):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), link
        assert not anchor or anchor in anchors(linked.read_text("utf-8")), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_the_docs_exist_with_their_options(page: Path) -> None:
    for line in command_lines(page.read_text("utf-8")):
        words = shlex.split(line, comments=True)
        command = PROGRAM
        words.pop(0)
        while words and (subcommands := getattr(command, "commands", None)):
            if command.invoke_without_command and words[0] not in subcommands:
                break
            assert words[0] in subcommands, line
            command = subcommands[words.pop(0)]
        known = {name for p in command.params for name in (*p.opts, *p.secondary_opts)}
        given = [word for word in words[: words.index("|") if "|" in words else None] if re.match("--?[a-z]", word)]
        assert set(given) <= known | {"--help"}, line


def test_both_readmes_have_the_same_structure() -> None:
    shapes = []
    for name in READMES:
        text = (ROOT / name).read_text("utf-8")
        levels = [heading.split(" ")[0] for heading in headings(text)]
        shapes.append((levels, [kind for kind, _ in FENCE.findall(text)], text.count("<!-- tour -->")))
    assert shapes[0] == shapes[1]


def test_both_readmes_give_the_same_commands() -> None:
    """The texts to label, tried on a rule, may be of either language."""
    given = [
        [re.sub(r'"[^"]*"', '"..."', line) for line in command_lines((ROOT / name).read_text("utf-8"))]
        for name in READMES
    ]
    assert given[0] == given[1]


def test_the_benchmark_finds_its_places_in_the_docs() -> None:
    page = (ROOT / "docs" / "performance.md").read_text("utf-8")
    for section in ("bench", "large", "service"):
        assert 0 < page.index(f"<!-- {section} -->") < page.index(f"<!-- end of {section} -->")
