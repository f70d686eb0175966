"""A table of posts to try things on: bundled reviews and comments, repeated with shifted times and made-up authors."""

import csv
import datetime as dt
import random
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

SURNAMES = "陳林黃張李王吳劉蔡楊許鄭謝洪郭邱曾廖賴徐周葉蘇莊呂江何蕭羅高"
WOMEN = "婷玲萍珍娟淑琴雯倩珊芬媛蓉菊翠薇怡慧雅芳"
MEN = "建志峰永勇斌忠德良民松健浩福彬毅雄翔豪偉"
EITHER = "文安家嘉君宜子心平明華英欣佳天雨青"
NICKNAMES = (
    "貓奴",
    "路人甲",
    "food lover",
    "阿肥食堂",
    "keyboard",
    "小熊",
    "旅行的魚",
    "KK",
    "sky",
    "飲食男女",
    "🐱",
    "夜鶯",
)
CALLED = ("{}媽媽", "{}爸爸", "{}小姐", "{}先生", "amy_{}", "mr_{}", "miss {}", "阿{}哥", "{}姐")
CHANNELS = ("OPENRICE_HK", "OPENRICE_KLN", "OPENRICE_NT", "OPENRICE_ISLANDS")
START = dt.datetime(2024, 1, 1)
DAYS = 730
AUTHORS = 30_000
COLUMNS = "id TEXT PRIMARY KEY, s_id TEXT, s_area_id TEXT, author TEXT, title TEXT, content TEXT, post_time TEXT"


def build_posts(folder: Path, path: Path, n_rows: int, advance: Callable[[int], None]) -> None:
    """A SQLite file with the table `posts`, the same for everybody; `advance` is told of rows written."""
    path.unlink(missing_ok=True)
    db = sqlite3.connect(path)
    with db:
        db.execute(f"CREATE TABLE posts ({COLUMNS})")
        rows = _rows(_texts(folder), n_rows)
        while chunk := [row for _, row in zip(range(10_000), rows, strict=False)]:
            db.executemany("INSERT INTO posts VALUES (?, ?, ?, ?, ?, ?, ?)", chunk)
            advance(len(chunk))
        db.execute("CREATE INDEX posts_time ON posts (post_time)")
    db.close()


def _texts(folder: Path) -> list[tuple[str, str | None, str]]:
    """(channel, author, text); reviews have no author of their own."""
    reviews = [
        line.split("\t", 1) for line in (folder / "reviews.tsv").read_text(encoding="utf-8").split("\n")[1:] if line
    ]
    with (folder / "comments.csv").open(encoding="utf-8", newline="") as file:
        comments = [("YOUTUBE", row["author"], row["content"]) for row in csv.DictReader(file)]
    return [(CHANNELS[i % len(CHANNELS)], None, text) for i, (_, text) in enumerate(reviews)] + comments


def _rows(texts: list[tuple[str, str | None, str]], n_rows: int) -> Iterator[tuple[str, ...]]:
    rng = random.Random(2024)  # noqa: S311
    authors = [_author(rng) for _ in range(AUTHORS)]
    for i in range(n_rows):
        channel, author, text = texts[rng.randrange(len(texts))]
        when = START + dt.timedelta(seconds=int(i * DAYS * 86_400 / n_rows) + rng.randrange(60))
        author = author or authors[rng.randrange(AUTHORS)]
        yield f"{i:07d}_{channel[:2]}", channel, f"{channel}_{i % 7:04d}", author, text[:20], text, f"{when}"


def _author(rng: random.Random) -> str:
    surname = rng.choice(SURNAMES)
    kind = rng.random()
    if kind < 0.35:
        return surname + rng.choice(EITHER) + rng.choice(WOMEN if kind < 0.18 else MEN)
    if kind < 0.55:
        return rng.choice(CALLED).format(surname if kind < 0.5 else surname + rng.choice(EITHER))
    if kind < 0.8:
        return rng.choice(NICKNAMES) + str(rng.randrange(10_000))
    return surname + rng.choice(EITHER) + rng.choice(EITHER)
