"""`audience demo`: the whole way on bundled data, for a first look."""

from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from audience.app.actors import LOCAL
from audience.cli import options as o
from audience.cli import show
from audience.cli.runs import carry_out, report
from audience.cli.show import console
from audience.demo.posts import build_posts

POSTS = "posts.db"
LABELS = "labels.db"


def demo(
    folder: Annotated[Path, typer.Option(help="where posts and labels go")] = Path("demo"),
    rows: Annotated[int, typer.Option(min=1_000, max=10_000_000, help="posts to make")] = 240_000,
) -> None:
    """Label a table of bundled reviews and comments, and look at what comes out."""
    from audience.app.requests import RunRequest, SourceRequest, TaskRequest
    from audience.app.types import load_groups

    folder.mkdir(parents=True, exist_ok=True)
    with resources.as_file(resources.files("audience.demo")) as bundled:
        console.rule("1  a table of posts")
        _make_posts(bundled, folder / POSTS, rows)
        console.rule("2  two models, one run")
        app = o.open_app()
        gender, _ = app.models.add("author_gender", bundled / "author_gender.csv", LOCAL, fields=("author",))
        topics, _ = app.models.add("post_labels", bundled / "post_labels.json", LOCAL)
        console.print(f"[bold]{gender}[/]  keywords on the author    [bold]{topics}[/]  regexes on the content\n")
        groups = load_groups(bundled / "groups.csv", default="others")
    source = SourceRequest(location=str(folder / POSTS), options={"table": "posts"})
    target = folder / LABELS
    request = RunRequest(
        tasks=(TaskRequest(source=source, name="posts"),), models=(gender, topics), target=str(target), groups=groups
    )
    run = carry_out(app, app.runs.create(request, LOCAL)["id"])
    report(app, run)
    console.rule("3  a sample, with what was matched")
    show.sample(app.results.sample(run["id"], 1, group="reviews") + app.results.sample(run["id"], 1, group="comments"))
    _what_next(folder, target)


def _make_posts(bundled: Path, path: Path, rows: int) -> None:
    if path.exists():
        console.print(f"{path} is there already")
        return
    with show.Bars([path.name]) as bars:
        build_posts(bundled, path, rows, lambda n: bars.add(0, n, rows))
    console.print(f"{rows:,} posts in {path}, table posts: restaurant reviews and video comments, two years")


def _what_next(folder: Path, target: Path) -> None:
    home = "AUDIENCE_HOME=demo/home " if folder == Path("demo") else ""
    program = ".venv/bin/audience" if Path(".venv/bin/audience").exists() else "audience"
    lines = (
        f"{home}{program} sample --label 女性 -n 5",
        f"{home}{program} model try post_labels 'check out my channel'",
        f"{home}{program} export last --production --to {folder}/production.csv",
        f"sqlite3 {target} 'SELECT panel, count(*) FROM production_reviews GROUP BY 1 ORDER BY 2 DESC'",
        "a table of your own: README.md, five minutes",
    )
    console.rule("next")
    for line in lines:
        console.print(f"  {line}", soft_wrap=True, markup=False)
