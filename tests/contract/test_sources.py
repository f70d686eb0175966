"""One suite for every kind of source. What a kind cannot do is declared in GAPS."""

import contextlib
import datetime as dt
import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from server_tables import SERVER_KINDS

from audience.errors import BadInput, NotFound
from audience.tables.base import Partition, Selection, Source, SourceSpec, batch_schema, columns_to_read
from audience.tables.batches import BATCH_BYTES, BATCH_ROWS
from audience.tables.registry import open_source

COLUMNS = ("id", "s_id", "author", "title", "content", "post_time")
NOON = dt.datetime(2020, 1, 1, 12)
CONTENT = Selection(fields=("content",))
Row = dict[str, Any]


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


class SqliteTable:
    file = "posts.db"
    key = ""
    extra: tuple[str, ...] = ()

    def write(self, folder: Path, rows: Sequence[Row], columns: Sequence[str] = COLUMNS, table: str = "posts") -> Path:
        path = folder / self.file
        key = ", PRIMARY KEY (id)) WITHOUT ROWID" if self.key and "id" in columns else ")"
        with contextlib.closing(sqlite3.connect(path)) as db, db:
            db.execute(f"CREATE TABLE {quoted(table)} ({', '.join(map(quoted, columns))}{key}")
            places = ", ".join("CAST(? AS TEXT)" if self._is_bytes(rows, c) else "?" for c in columns)
            values = ([row.get(c) for c in columns] for row in rows)
            db.executemany(f"INSERT INTO {quoted(table)} VALUES ({places})", values)
            for sql in self.extra:
                if "post_time" in columns or "INDEX" not in sql:
                    db.execute(sql)
        return path

    def _is_bytes(self, rows: Sequence[Row], column: str) -> bool:
        return any(isinstance(row.get(column), bytes) for row in rows)


class SqliteIndexed(SqliteTable):
    extra = ("CREATE INDEX by_time ON posts (post_time)",)


class SqliteWithoutRowid(SqliteTable):
    key = "id"


class SqliteView(SqliteTable):
    extra = ("CREATE VIEW seen AS SELECT * FROM posts",)


class Csv:
    file = "posts.csv"
    delimiter = b","

    def write(self, folder: Path, rows: Sequence[Row], columns: Sequence[str] = COLUMNS, table: str = "") -> Path:
        path = folder / self.file
        lines = [columns, *([row.get(c) for c in columns] for row in rows)]
        path.write_bytes(b"".join(self.delimiter.join(map(self.text, line)) + b"\n" for line in lines))
        return path

    def text(self, value: Any) -> bytes:
        if value is None:
            return b""
        return b'"' + (value if isinstance(value, bytes) else str(value).encode()).replace(b'"', b'""') + b'"'


class Tsv(Csv):
    file = "posts.tsv"
    delimiter = b"\t"

    def text(self, value: Any) -> bytes:
        return value if isinstance(value, bytes) else b"" if value is None else str(value).encode()


class Jsonl:
    file = "posts.jsonl"

    def write(self, folder: Path, rows: Sequence[Row], columns: Sequence[str] = COLUMNS, table: str = "") -> Path:
        path = folder / self.file
        path.write_bytes(b"".join(self.line(row, columns) for row in rows))
        return path

    def line(self, row: Row, columns: Sequence[str]) -> bytes:
        given = {c: row[c] for c in columns if row.get(c) is not None}
        raw = {c: f"\0{c}" if isinstance(v, bytes) else v for c, v in given.items()}
        line = json.dumps(raw, ensure_ascii=False).encode() + b"\n"
        for column, value in given.items():
            if isinstance(value, bytes):
                line = line.replace(json.dumps(f"\0{column}").encode(), b'"' + value + b'"')
        return line


class Parquet:
    file = "posts.parquet"

    def write(self, folder: Path, rows: Sequence[Row], columns: Sequence[str] = COLUMNS, table: str = "") -> Path:
        path = folder / self.file
        values = {c: [row.get(c) for row in rows] for c in columns}
        pq.write_table(pa.table({c: self.strings(v) for c, v in values.items()}), path, row_group_size=200)
        return path

    def strings(self, values: Sequence[Any]) -> pa.Array:
        raw = pa.array([v.encode() if isinstance(v, str) else v for v in values], pa.binary())
        return pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())


KINDS: dict[str, Any] = {
    "sqlite": SqliteTable(),
    "sqlite-indexed": SqliteIndexed(),
    "sqlite-without-rowid": SqliteWithoutRowid(),
    "sqlite-view": SqliteView(),
    "csv": Csv(),
    "tsv": Tsv(),
    "jsonl": Jsonl(),
    "parquet": Parquet(),
    **SERVER_KINDS,
}
UNQUOTED = "values of a TSV file are not quoted"
GAPS = {
    ("tsv", "empty"): f"{UNQUOTED}: an empty one is null",
    ("tsv", "tab"): UNQUOTED,
    ("tsv", "newline"): UNQUOTED,
    ("tsv", "crlf"): UNQUOTED,
    ("sqlite-without-rowid", "null id"): "a primary key cannot be null",
    ("jsonl", "wrong column"): "a key may appear late in a file, so that any name may be one",
    ("mysql", "cut"): "without an index a table is one partition",
    ("postgres", "cut"): "without an index a table is one partition",
    ("mysql-indexed", "null id"): "a primary key cannot be null",
    ("mysql-view", "null id"): "a primary key cannot be null",
    ("postgres-indexed", "null id"): "a primary key cannot be null",
    ("postgres-view", "null id"): "a primary key cannot be null",
    **{(kind, "NUL"): "PostgreSQL has no NUL in texts" for kind in SERVER_KINDS if kind.startswith("postgres")},
}


class Kind:
    """Writes rows as one kind of source has them, and opens it as users do."""

    def __init__(self, name: str, folder: Path, url: str | None = None) -> None:
        self.name = name
        self.writer = KINDS[name]
        self.folder = folder
        self.url = url

    @property
    def is_sqlite(self) -> bool:
        return self.name.startswith("sqlite")

    @property
    def is_view(self) -> bool:
        return self.name.endswith("view")

    def open(self, rows: Sequence[Row], columns: Sequence[str] = COLUMNS, table: str = "posts", **spec: Any) -> Source:
        return self.reopen(self.write(rows, columns, table), table, **spec)

    def write(self, rows: Sequence[Row], columns: Sequence[str] = COLUMNS, table: str = "posts") -> Path | str:
        """The file, or the URL of the server."""
        place: Path | str = self.writer.write(self.url or self.folder, rows, columns, table)
        return place

    def reopen(self, place: Path | str, table: str = "posts", **spec: Any) -> Source:
        name = "seen" if self.is_view else table
        return open_source(SourceSpec(url=str(place), table=name if self.is_sqlite or self.url else None, **spec))


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Kind:
    fixture = getattr(KINDS[request.param], "fixture", None)
    return Kind(request.param, tmp_path, request.getfixturevalue(fixture) if fixture else None)


@pytest.fixture
def file_kind(kind: Kind) -> Kind:
    if kind.url:
        pytest.skip("a server has no files")
    return kind


def declare(request: pytest.FixtureRequest, kind: Kind, feature: str) -> None:
    if (kind.name, feature) in GAPS:
        request.applymarker(pytest.mark.xfail(reason=GAPS[kind.name, feature], strict=True))


def row(i: int, **values: Any) -> Row:
    time = str(NOON + dt.timedelta(seconds=i))
    return {"id": f"p{i:06}", "s_id": f"s{i % 3}", "author": f"a{i % 7}", "title": f"t{i}", "content": f"c{i}"} | {
        "post_time": time,
        **values,
    }


def read_partition(source: Source, partition: Partition, selection: Selection = CONTENT) -> list[Row]:
    batches = list(source.read(partition, selection))
    expected = batch_schema(columns_to_read(source.roles, selection))
    assert all(batch.schema == expected for batch in batches)
    for batch in batches:
        batch.validate(full=True)
    return [found for batch in batches for found in batch.to_pylist()]


def read(source: Source, selection: Selection = CONTENT) -> list[Row]:
    return [found for p in source.plan(selection).partitions for found in read_partition(source, p, selection)]


def in_range(rows: list[Row], selection: Selection) -> list[Row]:
    """As the labeler compares: sources that cannot select by time hand over all rows."""
    start, end = selection.start or dt.datetime.min, selection.end or dt.datetime.max  # noqa: DTZ901
    return [r for r in rows if r["post_time"] and start <= r["post_time"] < end]


VALUES = {
    "emoji": "👩‍👩‍👧 🇹🇼 \U0010ffff",
    "chinese": "嗨，「你好」",
    "backslash": "C:\\new\\table\\",
    "tab": "a\tb",
    "newline": "first\nsecond\n\nfourth",
    "crlf": "first\r\nsecond\r\n",
    "carriage return": "first\rsecond",
    "quotes": "say \"hi\" to 'them'",
    "one quote": '5" screen',
    "leading quote": '"quoted" at first',
    "comma": "a,b,,c",
    "null of MySQL": "\\N",
    "word null": "NULL",
    "brackets": '[問卦] {"a": [1]} ":[',
    "empty": "",
    "null": None,
    "NUL": "a\0b",
    "plain": "a",
    "trailing space": "a ",
    "capital": "A",
    "only spaces": "  ",
    "byte order mark": "\ufeffa\ufeff",
    "combining": "e\u0301",
    "line separator": "a\u2028b\x85c\x0bd\x1ce",
    "leading zero": "007",
    "number": "1e5",
    "time": "2020-01-01 00:00:00",
}


@pytest.mark.parametrize("case", VALUES)
def test_value_comes_back_as_it_was(kind: Kind, case: str, request: pytest.FixtureRequest) -> None:
    declare(request, kind, case)
    rows = [row(1), row(2, content=VALUES[case], author=VALUES[case]), row(3)]
    found = read(kind.open(rows))
    assert [(r["id"], r["content"], r["author"], r["error"]) for r in found] == [
        (r["id"], r["content"], r["author"], None) for r in rows
    ]


def test_field_of_ten_megabytes_comes_back_as_it_was(kind: Kind) -> None:
    long = "長" * (10 * 2**20 // 3)
    found = read(kind.open([row(1), row(2, content=long), row(3)]))
    assert [len(r["content"]) for r in found] == [2, len(long), 2]
    assert found[1]["content"] == long


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_every_row_is_in_one_partition_and_the_plan_counts_it(kind: Kind, size: int) -> None:
    source = kind.open([row(i) for i in range(300)])
    selection = Selection(fields=("content",), partition_rows=size)
    plan = source.plan(selection)
    parts = [read_partition(source, p, selection) for p in plan.partitions]
    assert [p.number for p in plan.partitions] == list(range(len(parts)))
    assert [p.n_rows for p in plan.partitions] == [len(part) for part in parts]
    assert plan.n_rows == 300
    assert sorted(r["id"] for part in parts for r in part) == [row(i)["id"] for i in range(300)]
    assert plan.set_aside == {}


def test_partition_survives_json(kind: Kind) -> None:
    source = kind.open([row(i) for i in range(20)])
    plan = source.plan(Selection(fields=("content",), partition_rows=7))
    for p in plan.partitions:
        again = Partition(p.number, json.loads(json.dumps(p.slice)), p.n_rows)
        assert read_partition(source, again) == read_partition(source, p)


def test_reading_twice_gives_the_same_rows_in_the_same_order(kind: Kind) -> None:
    rows = [row(i) for i in range(300)]
    source = kind.open(rows)
    once = read(source, Selection(fields=("content",), partition_rows=50))
    assert once == read(source, Selection(fields=("content",), partition_rows=50))
    again = kind.reopen(kind.url or kind.folder / kind.writer.file)
    assert once == read(again, Selection(fields=("content",), partition_rows=50))


def test_half_of_all_rows_in_one_second_are_cut_and_selected(kind: Kind, request: pytest.FixtureRequest) -> None:
    declare(request, kind, "cut")
    busy = str(NOON + dt.timedelta(seconds=500))
    rows = [row(i) if i % 2 else row(i, post_time=busy) for i in range(1000)]
    selection = Selection(NOON + dt.timedelta(seconds=100), NOON + dt.timedelta(seconds=900), ("content",), 90)
    source = kind.open(rows)
    plan = source.plan(selection)
    parts = [read_partition(source, p, selection) for p in plan.partitions]
    assert [p.n_rows for p in plan.partitions] == [len(part) for part in parts]
    assert max(map(len, parts)) <= 200
    expected = [r["id"] for i, r in enumerate(rows) if i % 2 == 0 or 100 <= i < 900]
    assert sorted(r["id"] for part in parts for r in in_range(part, selection)) == expected


@pytest.mark.parametrize("separator", [" ", "T"])
def test_range_has_its_start_and_not_its_end(kind: Kind, separator: str) -> None:
    times = ["2020-01-01 11:59:59", "2020-01-01 12:00:00", "2020-01-01 12:59:59.999999", "2020-01-01 13:00:00"]
    source = kind.open([row(i, post_time=t.replace(" ", separator)) for i, t in enumerate(times)])
    selection = Selection(NOON, NOON + dt.timedelta(hours=1), ("content",))
    found = read(source, selection)
    assert [r["id"] for r in in_range(found, selection)] == [row(1)["id"], row(2)["id"]]
    assert source.plan(selection).n_rows == len(found)


def test_range_without_a_time_column_is_refused(kind: Kind) -> None:
    source = kind.open([row(1)], ("id", "content"))
    with pytest.raises(BadInput, match="post_time"):
        source.plan(Selection(start=NOON, fields=("content",)))


def test_row_without_a_time_is_read_and_one_with_a_wrong_time_is_set_aside(kind: Kind) -> None:
    found = read(kind.open([row(1), row(2, post_time=None), row(3, post_time="soon"), row(4)]))
    assert [r["post_time"] is None for r in found] == [False, True, True, False]
    assert [r["error"] and "is not a time" in r["error"] for r in found] == [None, None, True, None]


def test_rows_that_no_range_can_hold_are_read_or_counted(kind: Kind) -> None:
    source = kind.open([row(1), row(2, post_time=None), row(3, post_time="soon"), row(4)])
    plan = source.plan(Selection(start=NOON, fields=("content",)))
    assert plan.n_rows + sum(plan.set_aside.values()) == 4


def test_row_without_an_id_is_set_aside_or_counted(kind: Kind, request: pytest.FixtureRequest) -> None:
    declare(request, kind, "null id")
    source = kind.open([row(1), row(2, id=None), row(3)])
    errors = [r["error"] for r in read(source) if r["error"]]
    counted = source.plan(CONTENT).set_aside.get("id is null", 0)
    assert errors == ["id is null"] * (1 - counted)
    assert source.describe().null_keys["id"] == 1


def test_types_may_be_mixed_in_a_column_of_sqlite(kind: Kind) -> None:
    if not kind.is_sqlite:
        pytest.skip("only SQLite has a type for each value")
    values = ["text", 12, 1.5, None, -(2**62)]
    found = read(kind.open([row(i, content=v) for i, v in enumerate(values)]))
    assert [r["content"] for r in found] == ["text", "12", "1.5", None, str(-(2**62))]


def test_nothing_is_read_from_an_empty_table(kind: Kind) -> None:
    source = kind.open([], roles={"id": "id", "post_time": "post_time", "content": "content"})
    assert source.plan(CONTENT).partitions == ()
    description = source.describe()
    assert (description.n_rows, description.time_span, description.preview) == (0, None, [])


def test_text_after_five_thousand_nulls_is_text(kind: Kind) -> None:
    rows = [row(i, content=None, title=None) for i in range(5000)] + [row(5000, content="01", title="text")]
    source = kind.open(rows, roles={"content": "content", "title": "title"})
    found = read(source, Selection(fields=("content", "title")))
    assert {r["content"] for r in found[:-1]} == {None}
    assert (found[-1]["content"], found[-1]["title"]) == ("01", "text")


@pytest.mark.parametrize("raw", [b"\xff\xfe", b"ok \xed\xa0\x80", b"cut \xe4\xbd"], ids=["byte", "surrogate", "cut"])
def test_row_that_is_not_utf8_is_set_aside_and_its_neighbours_survive(kind: Kind, raw: bytes) -> None:
    found = read(kind.open([row(1, content="鄰"), row(2, content=raw), row(3, content="居")]))
    assert [(r["id"], r["content"]) for r in found[::2]] == [(row(1)["id"], "鄰"), (row(3)["id"], "居")]
    assert found[1]["content"] is None
    assert found[1]["error"]
    assert [r["error"] for r in found[::2]] == [None, None]


HOSTILE = ('a"b', "two words", "semi;colon --", "內容", "sel'ect", "a.b", "%s{0}", "[x]*", "error")


@pytest.mark.parametrize("name", HOSTILE)
def test_any_name_of_a_column_or_table_is_safe(kind: Kind, name: str) -> None:
    table = "posts" if kind.is_view or kind.name == "sqlite-indexed" else name
    source = kind.open([row(1) | {name: "x"}], ("id", "post_time", name), table, roles={"content": name})
    assert [r["content"] for r in read(source)] == ["x"]
    assert source.describe().preview[0][name] == "x"


def test_rows_without_an_id_column_get_one_that_lasts(kind: Kind) -> None:
    source = kind.open([row(i) for i in range(30)], ("post_time", "content"))
    once = read(source, Selection(fields=("content",), partition_rows=7))
    ids = [r["id"] for r in once]
    assert len(set(ids)) == 30
    assert ids[0].partition("#")[0] in ("posts", "seen", getattr(kind.writer, "file", ""))
    assert [(r["id"], r["content"]) for r in read(source)] == [(r["id"], r["content"]) for r in once]


def test_time_and_author_may_be_missing(kind: Kind) -> None:
    source = kind.open([row(1)], ("id", "content"))
    assert read(source) == [{"id": "p000001", "content": "c1", "error": None}]
    assert source.describe().time_span is None


def test_roles_name_other_columns(kind: Kind) -> None:
    source = kind.open([row(1)], roles={"content": "title", "title": "content", "note": "author"})
    found = read(source, Selection(fields=("content", "title", "note")))
    assert [(r["content"], r["title"], r["note"]) for r in found] == [("t1", "c1", "a1")]


def test_wrong_column_is_named_with_those_there_are(kind: Kind, request: pytest.FixtureRequest) -> None:
    declare(request, kind, "wrong column")
    with pytest.raises(BadInput, match=r"'contnet'.*title, content"):
        kind.open([row(1)], roles={"content": "contnet"})


def test_column_of_no_times_is_refused_as_time(kind: Kind) -> None:
    with pytest.raises(BadInput, match="should hold times"):
        kind.open([row(i) for i in range(9)], roles={"post_time": "title"})


def test_file_of_another_kind_is_refused(file_kind: Kind) -> None:
    kind = file_kind
    path = kind.folder / kind.writer.file
    path.write_bytes(bytes(range(128, 256)) * 9 + b"\n" + bytes(range(256)) * 9)
    with pytest.raises(BadInput, match=path.name):
        kind.reopen(path)


def test_missing_file_is_not_found(file_kind: Kind) -> None:
    kind = file_kind
    with pytest.raises(NotFound, match="nothing"):
        kind.reopen(kind.folder / "nothing" / kind.writer.file)


def test_description_tells_columns_rows_times_and_five_rows(kind: Kind) -> None:
    rows = [row(i, author=None) for i in range(700)]
    found = kind.open(rows).describe()
    assert list(found.columns) == [c for c in COLUMNS if c != "author" or kind.name != "jsonl"]
    assert (found.n_rows, found.null_keys) == (700, {"id": 0, "post_time": 0})
    assert found.time_span == (rows[0]["post_time"], rows[-1]["post_time"])
    assert [r["content"] for r in found.preview] == ["c0", "c1", "c2", "c3", "c4"]
    assert found.preview[0].get("author") is None


def write_many(kind: Kind, n: int) -> Path | str:
    path = kind.write([row(0)] if not kind.url else [])
    number = pl.int_range(n, eager=True).cast(pl.String)
    frame = pl.DataFrame(dict.fromkeys(COLUMNS, "é" + number + "x" * 40)).with_columns(post_time=pl.lit(str(NOON)))
    if isinstance(path, str):
        kind.write(list(frame.iter_rows(named=True)))
    elif kind.is_sqlite:
        with contextlib.closing(sqlite3.connect(path)) as db, db:
            db.execute("DELETE FROM posts")
            db.executemany("INSERT INTO posts VALUES (?, ?, ?, ?, ?, ?)", frame.iter_rows())
    elif path.suffix in (".csv", ".tsv"):
        frame.write_csv(path, separator="," if path.suffix == ".csv" else "\t")
    elif path.suffix == ".jsonl":
        frame.write_ndjson(path)
    else:
        frame.write_parquet(path, row_group_size=n)
    return path


def test_batches_of_many_rows_are_bounded(kind: Kind) -> None:
    n = 150_000
    source = kind.reopen(write_many(kind, n))
    plan = source.plan(Selection(fields=("content", "title"), partition_rows=n))
    n_read = 0
    for partition in plan.partitions:
        for batch in source.read(partition, Selection(fields=("content", "title"))):
            assert len(batch) <= BATCH_ROWS + 256
            assert batch.nbytes <= BATCH_BYTES * 4  # keys are not measured by every kind
            n_read += len(batch)
    assert n_read == plan.n_rows == n
