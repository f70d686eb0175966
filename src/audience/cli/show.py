"""Prints for a terminal: tables, marked samples, progress bars; or JSON when asked for."""

import itertools
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
)
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from audience.app.types import Description, Finding

SECRETS = ("secret", "target_secret")
PIPED_CELLS = 200
"""Width where nobody looks: a file or another program takes long lines better than folded ones."""
UNSAFE = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal obeys instead of showing it: control characters but tabs and line ends, marks that turn the direction
of writing around, and halves of characters, which it cannot even be given."""


def printable(text: str) -> str:
    """The text with visible escapes for what posts, names and messages must not do to a terminal."""
    return UNSAFE.sub(lambda found: _visible(ord(found[0])), text)


def _visible(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


class SafeConsole(Console):
    """Shows nothing as it is that a terminal would obey: all that is printed goes through `printable`."""

    def print(self, *objects: Any, **options: Any) -> None:
        """As in Console; texts are mended before they are measured."""
        super().print(*(printable(each) if isinstance(each, str) else each for each in objects), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As in Console."""
        for segment in super().render(renderable, options):
            if segment.control or not UNSAFE.search(segment.text):
                yield segment
            else:
                yield Segment(printable(segment.text), segment.style)


console = SafeConsole(highlight=False, width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPED_CELLS)
errors = SafeConsole(stderr=True, highlight=False)

CONTEXT_CELLS = 32
"""Columns of the terminal filled on either side of a match."""


def as_json(value: Any) -> None:
    """Prints one JSON document on standard output, without secrets, sealed ones too."""
    document = json.dumps(_without_secrets(value), ensure_ascii=False, indent=2, default=str)
    sys.stdout.write(UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", document) + "\n")


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_secrets(each) for name, each in value.items() if name not in SECRETS}
    return [_without_secrets(each) for each in value] if isinstance(value, list) else value


def warning(text: str) -> None:
    """Prints what was accepted, and may be a slip."""
    errors.print(f"[yellow]warning[/] {escape(text)}", soft_wrap=True)


def findings(found: "Sequence[Finding]") -> None:
    """Prints what was looked at, a line each, and below it what to do where something is not well."""
    colours = {"ok": "green", "warning": "yellow", "wrong": "red"}
    for each in found:
        console.print(
            f"[{colours[each.verdict]}]{each.verdict:8}[/] [bold]{escape(each.what)}[/]  {escape(each.said)}",
            soft_wrap=True,
        )
        if each.advice and each.verdict != "ok":
            console.print(f"{'':9}-> {escape(each.advice)}", soft_wrap=True)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Prints a table, with numbers to the right."""
    rows = [list(row) for row in rows]
    shown = Table(title=title or None, title_justify="left", title_style="bold", header_style="dim", box=None)
    for i, column in enumerate(columns):
        numeric = all(isinstance(row[i], int | float | None) for row in rows) and bool(rows)
        shown.add_column(escape(printable(column)), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(cell if isinstance(cell, Text) else escape(printable(_cell(cell))) for cell in row))
    console.print(shown)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def description(found: "Description") -> None:
    """Prints what `source test` found."""
    role_of = {column: role for role, column in found.roles.items()}
    rows = [(column, kind, role_of.get(column)) for column, kind in found.columns.items()]
    table("columns", ("column", "type", "role"), rows)
    console.print(f"\nrows        {found.n_rows:,}")
    console.print(f"time        {' to '.join(found.time_span) if found.time_span else '-'}")
    console.print(f"time index  {found.index or '-'}")
    for role, n in found.null_keys.items():
        console.print(f"null {role:<6} {n:,}" if len(role) < 7 else f"null {role}  {n:,}")
    for advice in found.advice:
        console.print(f"[yellow]advice[/]      {escape(advice)}")
    if found.preview:
        console.print()
        table("first rows", list(found.preview[0]), [[_short(v) for v in row.values()] for row in found.preview])


def _short(text: str | None, size: int = 30) -> str | None:
    return text if text is None or len(text) <= size else text[: size - 1] + "…"


def run_report(run: dict[str, Any], where: dict[str, tuple[str, str | None]]) -> None:
    """Prints a run with its tasks: what came in, what came out, and what was left out."""
    colour = {"done": "green", "failed": "red", "aborted": "yellow"}.get(run["state"], "cyan")
    console.print(f"[bold]run {run['id'][:12]}[/]  [{colour}]{run['state']}[/]  {', '.join(run['spec']['models'])}")
    given = {table: group for group, table in run["spec"]["groups"].get("tables", {}).items()}
    for task in run["tasks"]:
        _task_report(task, given)
    if run["error"]:
        console.print(f"[red]{escape(run['error'])}[/]", soft_wrap=True)
    if run["state"] in ("failed", "aborted"):
        name = run["id"][:12]
        console.print(f"go on with it: audience run resume {name}")
        if any(task["report"] for task in run["tasks"]):
            console.print(f"production of what is finished: audience production {name} --partial")
    console.print()
    for group, (results, production) in where.items():
        console.print(f"[bold]{group}[/]  results     {escape(results)}", soft_wrap=True)
        if production:
            console.print(f"{'':{len(group)}}  production  {escape(production)}", soft_wrap=True)


def _task_report(task: dict[str, Any], given: Mapping[str, str]) -> None:
    """Prints what a task did. `given`: the name that a group has, where its tables have another."""
    report = task["report"]
    if not report:
        _task_progress(task)
        return
    seconds = report["seconds"]
    peak = f"{report['peak_memory_mb']:,.0f} MB" if report["peak_memory_mb"] else "-"
    if (report["peak_memory_by"] or "").startswith("sampled"):
        peak += " (sampled)"
    production = f"  production {report['production_seconds']:,.1f} s" if "production_seconds" in report else ""
    console.print(
        f"[bold]{escape(task['spec']['name'])}[/]  {report['read']:,} rows in {seconds:,.1f} s  "
        f"[bold]{report['read'] / max(seconds, 0.001):,.0f} rows/s[/]  peak memory {peak}{production}",
        soft_wrap=True,
    )
    people = "authors" if report["by_author"] else None
    columns = ("group", "received", "results", people or "-", "labelled", "rate of label", "production")
    rows = [
        (
            f"{name} ({given[name]})" if name in given else name,
            numbers["received"],
            numbers["results"],
            numbers["authors"],
            numbers.get("labelled"),
            f"{numbers['rate_of_label']} %" if numbers.get("rate_of_label") is not None else None,
            numbers.get("production"),
        )
        for name, numbers in report["groups"].items()
    ]
    table("", columns, rows)
    if task["state"] != "done":
        console.print(
            f"[yellow]{task['state']} after {report['read']:,} of {report['planned']:,} rows; these are kept[/]"
        )
    for line in _left_out(report, ended=task["state"] == "done"):
        console.print(f"[yellow]{escape(line)}[/]")


def _task_progress(task: dict[str, Any]) -> None:
    """Prints a task that has no report yet."""
    progress = task["progress"]
    planned = f"of {task['n_planned']:,}" if task["n_planned"] is not None else "(not planned yet)"
    console.print(f"[bold]{escape(task['spec']['name'])}[/]  {task['state']}  {progress['read']:,} {planned} rows")
    if progress["waiting_for"]:
        console.print(f"[yellow]waits, and tries again: {escape(progress['waiting_for'])}[/]", soft_wrap=True)


def _left_out(report: dict[str, Any], *, ended: bool) -> Iterable[str]:
    """Yields a line for each kind of rows that could not get a label, with the reason."""
    if report["planned"] == 0:
        yield "the source has no rows in this range"
    if report["unmapped"]:
        n = sum(report["unmapped"].values())
        channels = ", ".join(f"{channel} {count:,}" for channel, count in list(report["unmapped"].items())[:5])
        yield f"{n:,} rows are of channels in no group ({channels}): map them with --groups, or give --default-group"
    for reason, n in report["set_aside"].items():
        yield f"{n:,} rows set aside: {reason}"
    for row_id, reason in report["bad_rows"][:3]:
        yield f"  e.g. {'a row without an id' if row_id is None else f'row {row_id}'}: {reason}"
    if report["missing"] and ended:
        yield f"planned {report['planned']:,} rows, read {report['read']:,}: the source changed in between"
    if report["outside"]:
        yield f"{report['outside']:,} rows read were outside the range of time"


def operation(found: dict[str, Any]) -> None:
    """Prints an operation: its progress, what it waits for, its result or error."""
    colour = {"done": "green", "failed": "red", "aborted": "yellow"}.get(found["state"], "cyan")
    about = f"  {escape(found['subject'])}" if found["subject"] else ""
    console.print(
        f"[bold]{found['kind'].replace('_', ' ')} {found['id'][:12]}[/]  [{colour}]{found['state']}[/]{about}"
    )
    progress = found["progress"]
    if progress["done"] or progress["total"]:
        whole = f" of {progress['total']:,}" if progress["total"] else ""
        console.print(f"{progress['done']:,}{whole}")
    if progress["waiting_for"] and found["state"] not in ("done", "failed", "aborted"):
        console.print(f"[yellow]waits, and tries again: {escape(progress['waiting_for'])}[/]", soft_wrap=True)
    if found["error"]:
        console.print(f"[red]{escape(found['error'])}[/]", soft_wrap=True)
    for each in found["warnings"]:
        warning(each)


def status(found: dict[str, Any]) -> None:
    """Prints who is alive, and works on what; the messages that wait at the broker, or what is wrong with it."""
    told = ("host", "pid", "pool", "queues", "threads")
    rows = [
        (*(str(w[n]) for n in told), "yes" if w["beating"] else "no", _work(w["works_on"])) for w in found["workers"]
    ]
    table("", (*told, "beats", "works on"), rows)
    if found["messages"] is not None:
        table("messages at the broker", ("queue", "waiting"), found["messages"].items())
    if found["trouble"]:
        warning(found["trouble"])


def _work(jobs: Iterable[dict[str, Any]]) -> str | None:
    shown = [f"{j['kind']} {j['number'] if j['kind'] == 'partition' else ''} of {j['operation_id'][:12]}" for j in jobs]
    return ", ".join(" ".join(each.split()) for each in shown) or None


def sample(rows: Sequence[dict[str, Any]]) -> None:
    """Prints result rows, two lines each: who, when, why; then the text around the match, which is marked."""
    for row in rows:
        hits = json.loads(row["evidence"])
        rule = f"{row['model']} rule {hits[0]['rule']}" if hits else row["model"]
        about = [row["group"], row["source_author"] or "-", str(row["create_time"] or "-")[:16], rule]
        first = [hit for hit in hits if hit["field"] == hits[0]["field"]] if hits else []
        console.print(f"[bold cyan]{escape(row['panel'])}[/]  [dim]{escape('  '.join(about))}[/]", soft_wrap=True)
        console.print(Text("    ").append_text(marked(row["match_content"], first)), soft_wrap=True)


def marked(text: str | None, hits: Sequence[dict[str, Any]]) -> Text:
    """Returns the text around the first hit, with every hit in it marked, in colours for dark and light terminals."""
    if text is None or not hits:
        return Text(printable(_short(text or "", 2 * CONTEXT_CELLS) or ""))
    start = hits[0]["start"] - _fitting(text[max(0, hits[0]["start"] - CONTEXT_CELLS) : hits[0]["start"]][::-1])
    end = hits[0]["end"] + _fitting(text[hits[0]["end"] : hits[0]["end"] + CONTEXT_CELLS])
    shown = Text("".join(c if c.isprintable() else " " for c in text[start:end]))
    for hit in hits:
        shown.stylize("bold black on yellow", max(hit["start"] - start, 0), max(hit["end"] - start, 0))
    return Text.assemble("…" if start else "", shown, "…" if end < len(text) else "")


def _fitting(text: str) -> int:
    """Returns how many characters of the text fit into the context; a Chinese character takes two cells."""
    widths = itertools.accumulate(cell_len(character) for character in text)
    return sum(width <= CONTEXT_CELLS for width in widths)


class RowsPerSecond(ProgressColumn):
    """The speed since the task began."""

    def render(self, task: Task) -> Text:
        """Returns rows per second, blank at first."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f} rows/s" if speed else "", style="bold")


class Times(ProgressColumn):
    """The time that a task has taken, and an estimate of what it still needs."""

    def render(self, task: Task) -> Text:
        """Returns seconds, or minutes and seconds; what is left only when that is known."""
        passed, left = task.finished_time if task.finished else task.elapsed, task.time_remaining
        after = f", {_duration(left)} left" if left and not task.finished else ""
        return Text(f"{_duration(passed or 0)}{after}", style="dim")


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


STEPS = {"planned": "waiting", "running": "labeling", "producing": "production"}


class Bars:
    """Progress bars, one a task."""

    def __init__(self, names: Sequence[str], *, hidden: bool = False) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            RowsPerSecond(),
            Times(),
            console=errors,
            disable=hidden or not errors.is_terminal,
        )
        self._names = names = [escape(printable(name)) for name in names]
        self._said: str | None = None
        self._bars = [self._progress.add_task(f"{name}: waiting", total=None, start=False) for name in names]

    def __enter__(self) -> "Bars":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, run: dict[str, Any]) -> None:
        """Shows the progress of a run."""
        for bar, name, task in zip(self._bars, self._names, run["tasks"], strict=True):
            step = STEPS.get(task["state"], task["state"])
            if task["state"] == "running" and task["n_planned"] is None:
                step = "planning"
            if task["n_planned"] is not None:
                self._progress.start_task(bar)
            shown = {"total": task["n_planned"], "completed": task["progress"]["read"]}
            self._progress.update(bar, description=f"{name}: {step}", **shown)
            if task["state"] == "producing":  # nobody knows how far that is
                self._progress.tasks[bar].total = None

    def add(self, bar: int, n: int, total: int) -> None:
        """Adds to the progress of work that is not a run."""
        self._progress.start_task(self._bars[bar])
        self._progress.update(self._bars[bar], description=self._names[bar], total=total, advance=n)

    def show(self, progress: dict[str, Any]) -> None:
        """Shows the progress of an operation: `done` of `total`."""
        bar, name = self._bars[0], self._names[0]
        if progress["working"]:
            self._progress.start_task(bar)
        shown = {"total": progress["total"], "completed": progress["done"]}
        self._progress.update(bar, description=escape(name), **shown)

    def say(self, waiting_for: str | None) -> None:
        """Prints once what the work waits for, also where nobody sees bars."""
        if waiting_for and waiting_for != self._said:
            self._progress.console.print(f"[yellow]waits, and tries again: {escape(waiting_for)}[/]", soft_wrap=True)
        self._said = waiting_for

    def note(self, text: str) -> None:
        """Prints a line above the bars."""
        self._progress.console.print(text)
