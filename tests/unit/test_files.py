"""What is particular to each format of file, and to folders of them."""

import datetime as dt
import gzip
import json
import os
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audience.errors import BadInput, Conflict, NotFound
from audience.tables.base import Selection, SourceSpec
from audience.tables.files import lines
from audience.tables.files.source import FilesSource

CONTENT = Selection(fields=("content",))


def source(path: Path | str, **spec: Any) -> FilesSource:
    return FilesSource(SourceSpec(url=str(path), **spec), path)


def read(files: FilesSource, size: int = 200_000, fields: tuple[str, ...] = ("content",)) -> list[dict[str, Any]]:
    selection = Selection(fields=fields, partition_rows=size)
    plan = files.plan(selection)
    batches = [list(files.read(p, selection)) for p in plan.partitions]
    assert [p.n_rows for p in plan.partitions] == [sum(map(len, found)) for found in batches]
    return [row for found in batches for batch in found for row in batch.to_pylist()]


def write(folder: Path, name: str, data: bytes | str) -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def contents(path: Path | str, size: int = 200_000, **spec: Any) -> list[str | None]:
    return [row["content"] for row in read(source(path, **spec), size)]


# CSV


@pytest.mark.parametrize("size", [1, 2, 100])
def test_row_of_another_width_is_set_aside_where_it_stood(tmp_path: Path, size: int) -> None:
    path = write(tmp_path, "a.csv", "id,content\n1,one\n2\n\n3,three,more\n4,four\n")
    assert [(r["id"], r["content"], r["error"]) for r in read(source(path), size)] == [
        ("1", "one", None),
        ("a.csv#2", None, "a row should have 2 values: row 2 (line 3) has 1"),
        ("a.csv#3", None, "a row should have 2 values: row 3 (line 5) has 3"),
        ("4", "four", None),
    ]


def test_file_all_of_whose_rows_are_of_another_width_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "id,content\n" + "x\n" * 50)
    assert [r["id"] for r in read(source(path))] == [f"a.csv#{i}" for i in range(1, 51)]


def test_row_numbers_do_not_count_the_header_or_blank_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "\r\ncontent\r\n\r\na\r\n\r\nb\r\n")
    assert [(r["id"], r["content"]) for r in read(source(path), 1)] == [("a.csv#1", "a"), ("a.csv#2", "b")]


def test_last_line_needs_no_newline(tmp_path: Path) -> None:
    assert contents(write(tmp_path, "a.csv", 'content\na\n"b\nc"')) == ["a", "b\nc"]
    assert contents(write(tmp_path, "a.tsv", "content\na\nb\r")) == ["a", "b"]


def test_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    assert contents(write(tmp_path, "a.csv", b"\xef\xbb\xbfcontent\n\xef\xbb\xbfa\n")) == ["\ufeffa"]
    assert contents(write(tmp_path, "a.jsonl", b'\xef\xbb\xbf{"content": "a"}\n')) == ["a"]


def test_delimiter_and_quoting_may_be_given(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", 'id|content\n1|"a"\n')
    assert contents(path, delimiter="|") == ["a"]
    assert contents(path, delimiter="|", quoting=False) == ['"a"']
    tabs = write(tmp_path, "a.tsv", 'id\tcontent\n1\t"a\tb"\n')
    assert contents(tabs, quoting=True) == ["a\tb"]


def test_names_may_be_given_for_a_file_without_header(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "1,a\n2,b\n")
    assert [(r["id"], r["content"]) for r in read(source(path, header=("id", "content")))] == [("1", "a"), ("2", "b")]
    assert read(source(write(tmp_path, "b.csv", ""), header=("id", "content"))) == []


@pytest.mark.parametrize("encoding", ["big5", "cp950", "gb18030", "Big5-HKSCS", "latin-1"])
def test_other_encodings_are_read(tmp_path: Path, encoding: str) -> None:
    text = "caf\xe9" if encoding == "latin-1" else "許功蓋，測試"
    path = write(tmp_path, "a.csv", f"id,content\n1,{text}\n2,{text}\n".encode(encoding))
    assert contents(path, encoding=encoding) == [text, text]


def test_row_that_is_not_of_the_encoding_is_set_aside(tmp_path: Path) -> None:
    data = "id,content\n1,中文\n".encode("big5") + b"2,\xff\xff\n" + "3,功,蓋\n4,許\n".encode("big5")
    rows = read(source(write(tmp_path, "a.csv", data), encoding="big5"))
    assert [(r["id"], r["content"]) for r in rows] == [("1", "中文"), ("a.csv#2", None), ("a.csv#3", None), ("4", "許")]
    assert rows[1]["error"] == "text is not big5: row 2 (line 3), content, at byte 0"


def test_row_that_is_bad_in_two_ways_is_set_aside_once(tmp_path: Path) -> None:
    data = b"id,content\n1,a\n2,\xff,\xfe\n3,b\n4,\xff\n5,c\n"
    rows = read(source(write(tmp_path, "a.csv", data)))
    assert [r["content"] for r in rows] == ["a", None, "b", None, "c"]
    assert [r["error"] is None for r in rows] == [True, False, True, False, True]


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        ("utf-8", "content\n中文\n文字\n".encode("big5")),
        ("utf-8", "內容,content\n".encode("big5") + b"a,b\n" * 9),
        ("big5", b"content\n" + b"\xff\xff\n" * 9),
        ("utf-8", "content\na\n".encode("utf-16")),
        ("utf-16", "content\na\n".encode("utf-16")),
        ("klingon", b"content\na\n"),
        ("rot13", b"content\na\n"),
        ("utf-7", b"content\na\n"),
    ],
)
def test_wrong_encoding_is_refused(tmp_path: Path, encoding: str, data: bytes) -> None:
    with pytest.raises(BadInput, match=r"utf-8|big5|encoding"):
        source(write(tmp_path, "a.csv", data), encoding=encoding)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("id,content,id\n", "two columns are called 'id'"),
        ("id,,content\n", "column 2 has no name"),
        ("id,text\n1,a\n", "--role content=COLUMN"),
        ('"id,content\n1,a\n', "never ends"),
    ],
)
def test_header_that_cannot_be_used_is_refused(tmp_path: Path, data: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        source(write(tmp_path, "a.csv", data))


def test_quote_that_never_ends_is_one_row_of_a_small_file_and_refused_in_a_large_one(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", 'content\na\n"b\nc\n')
    assert [r["error"] and "never ends" in r["error"] for r in read(source(path))] == [None, True]
    path = write(tmp_path, "b.csv", 'content\na\n"' + "b\n" * 2**20)
    with pytest.raises(BadInput, match="opens in row 2"):
        source(path).plan(CONTENT)
    assert len(contents(path, quoting=False)) == 2**20 + 1


@pytest.mark.parametrize("delimiter", ["", ",,", "\n", '"', "，"])
def test_delimiter_of_more_or_less_than_one_character_is_refused(tmp_path: Path, delimiter: str) -> None:
    with pytest.raises(BadInput, match="delimiter"):
        source(write(tmp_path, "a.csv", "content\n"), delimiter=delimiter)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.text('a",\n\r', max_size=40), chunk=st.integers(1, 9), size=st.integers(1, 4))
def test_rows_are_found_where_the_parser_finds_them(
    tmp_path_factory: pytest.TempPathFactory, data: str, chunk: int, size: int
) -> None:
    path = write(tmp_path_factory.mktemp("lines"), "a.csv", data)
    try:
        whole = [r["content"] for r in read(source(path, header=("content", "title")))]
        whole_errors = [r["error"] is None for r in read(source(path, header=("content", "title")))]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lines, "CHUNK_BYTES", chunk)
            rows = read(source(path, header=("content", "title")), size)
    except Conflict:  # pragma: no cover
        pytest.fail(f"the scan and the parser disagree on {data!r}")
    assert [r["content"] for r in rows] == whole
    assert [r["error"] is None for r in rows] == whole_errors


def parsed_by_arrow(data: bytes) -> list[tuple[str | None, str | None]]:
    table = arrow_csv.read_csv(
        pa.BufferReader(data),
        arrow_csv.ReadOptions(use_threads=False, block_size=len(data) + 1, column_names=["content", "title"]),
        arrow_csv.ParseOptions(newlines_in_values=True),
        arrow_csv.ConvertOptions(
            column_types={"content": pa.string(), "title": pa.string()},
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
    return [(r["content"], r["title"]) for r in table.to_pylist()]


VALUE = st.one_of(st.none(), st.text('a",\n\r 許\0', max_size=6))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(VALUE, VALUE), max_size=12), chunk=st.integers(1, 9), size=st.integers(1, 5))
def test_quoted_rows_come_back_however_the_file_is_cut(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str | None, str | None]], chunk: int, size: int
) -> None:
    def text(value: str | None) -> str:
        return "" if value is None else '"' + value.replace('"', '""') + '"'

    data = "".join(f"{text(a)},{text(b)}\n" for a, b in rows)
    path = write(tmp_path_factory.mktemp("rows"), "a.csv", data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "CHUNK_BYTES", chunk)
        found = read(source(path, header=("content", "title")), size, ("content", "title"))
    assert [(r["content"], r["title"]) for r in found] == rows
    if rows:
        assert parsed_by_arrow(data.encode()) == rows


BROKEN = (
    "id,author,content\n"
    "1,amy,good\n"
    '2,"a ""b""","27" monitor\n'
    '3,cat,"never closed\n'
    "4,dan,good\n"
    "\n"
    '5,eve,"bad, and late"\n'
    "6,fay,good\n"
    '7,gus,""x"\n'
    '8,hal,5" screen\n'
    '9,ivy,"a, b" c\n'
)


@pytest.mark.parametrize("size", [1, 2, 3, 100])
@pytest.mark.parametrize("chunk", [1, 2, 7, 2**22])
def test_lines_that_a_broken_quote_takes_are_set_aside_each(
    tmp_path: Path, size: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "CHUNK_BYTES", chunk)
    rows = read(source(write(tmp_path, "a.csv", BROKEN)), size)
    assert [r["id"] for r in rows] == ["1", "2", "a.csv#3", "a.csv#4", "a.csv#5", "6", "7", "8", "a.csv#9"]
    assert [(r["author"], r["content"]) for r in rows[1::5]] == [('a "b"', '"27" monitor'), ("gus", '""x"')]
    said = [r["error"].partition(": ")[2].partition(";")[0] for r in rows if r["error"]]
    assert said == [*["lines 4 to 7"] * 3, "line 11"]
    assert all("quoting=false" in r["error"] for r in rows if r["error"])


def test_quote_after_a_backslash_is_named_as_what_it_is(tmp_path: Path) -> None:
    rows = read(source(write(tmp_path, "a.csv", 'id,content\n1,"she said \\"good\\""\n2,"\\"good\\" she said"\n3,a\n')))
    assert [r["content"] for r in rows] == [None, None, "a"]
    assert "option('escape', '\"')" in rows[0]["error"]


def test_file_of_nothing_but_broken_quotes_is_refused_in_time(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "id,content\n" + '1,"a \\"b\\" c"\n' * 200_000)
    with pytest.raises(BadInput, match="10,001 of its first 10,001 rows"):
        source(path).plan(CONTENT)


def test_broken_quote_that_takes_a_megabyte_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", 'content\na\n"' + "b\n" * 2**20 + '"c\n')
    with pytest.raises(BadInput, match="opens in row 2 is followed by text"):
        source(path).plan(CONTENT)


@pytest.mark.parametrize("chunk", [2**6, 2**22])
@pytest.mark.parametrize(("encoding", "word"), [("big5", "育"), ("gb18030", "寍"), ("shift_jis", "ポ")])
def test_byte_of_the_delimiter_within_a_character_is_no_delimiter(
    tmp_path: Path, encoding: str, word: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "CHUNK_BYTES", chunk)
    assert word.encode(encoding)[1:] == b"|"
    texts = [f"a{word}b", f'{word}"{word}"', word, f'{word}" {word}', f"{word}|", f'{word}\n"{word}']
    quoted = ["1|" + text for text in texts[:4]] + ["1|" + json.dumps(t, ensure_ascii=False)[:] for t in [texts[4]]]
    quoted.append('1|"' + texts[5].replace('"', '""') + '"')
    data = "\n".join(["id|content", *quoted, ""]).encode(encoding)
    broken = data + b"1|\xff" + (word + "\n1|" + word + "\n").encode(encoding)
    path = write(tmp_path, "a.csv", data)
    assert contents(path, encoding=encoding, delimiter="|") == texts
    assert contents(write(tmp_path, "b.csv", broken), encoding=encoding, delimiter="|") == [*texts, None, word]


def test_row_of_many_megabytes_is_set_aside_unread(tmp_path: Path) -> None:
    long = "x" * (17 * 2**20)
    path = write(tmp_path, "a.csv", f'id,content\n1,a\n\n2,"{long}"\n3,b\n4,{long}')
    rows = read(source(path))
    assert [(r["id"], r["content"]) for r in rows] == [("1", "a"), ("a.csv#2", None), ("3", "b"), ("a.csv#4", None)]
    assert rows[1]["error"] == f"a row has more than 16 MiB: line 4, {len(long) + 4:,} bytes"
    path = write(tmp_path, "a.jsonl", f'{{"content": "{long}"}}\n{{"content": "b"}}\n')
    assert contents(path) == [None, "b"]


def test_carriage_returns_that_were_doubled_are_no_part_of_a_value(tmp_path: Path) -> None:
    data = "id\tcontent\r\r\n1\ta\r\r\n\r\r\n2\tb\rc\r\r\r\n"
    rows = [(r["id"], r["content"]) for r in read(source(write(tmp_path, "a.tsv", data)))]
    assert rows == [("1", "a"), ("2", "b\rc")]
    assert contents(write(tmp_path, "a.csv", data.replace("\t", ",").replace("b\rc", "b"))) == ["a", "b"]


def test_first_line_that_ends_in_a_carriage_return_alone_ends_there(tmp_path: Path) -> None:
    assert contents(write(tmp_path, "a.tsv", "id\tcontent\r1\ta\n2\tb\n")) == ["a", "b"]
    assert contents(write(tmp_path, "a.csv", "id,content\r1,a\n2,b\r\n")) == ["a", "b"]
    with pytest.raises(BadInput, match="carriage return alone"):
        source(write(tmp_path, "b.tsv", "id\tcontent\r1\ta\r2\tb\r"))


@pytest.mark.parametrize(
    ("first", "hint"),
    [
        ("id;content", "delimiter=';'"),
        ("id\tcontent", r"delimiter='\\t'"),
        ("sep=;\nid;content", "take it away"),
        ("Id,Content", "--role content='Content'"),
        ("id, content", "--role content=' content'"),
    ],
)
def test_first_line_that_is_nearly_right_is_refused_with_a_hint(tmp_path: Path, first: str, hint: str) -> None:
    with pytest.raises(BadInput, match=hint):
        source(write(tmp_path, "a.csv", first + "\n1,a\n"))


def test_column_that_is_nearly_called_like_a_role_is_said(tmp_path: Path) -> None:
    files = source(write(tmp_path, "a.csv", "ID,content\n1,a\n"))
    assert "did you mean --role id='ID'?" in files.describe().advice[0]
    with pytest.raises(BadInput, match="did you mean --role content='content'"):
        source(write(tmp_path, "a.csv", "ID,content\n1,a\n"), roles={"content": "contents"})


# JSON lines


def test_values_that_are_not_text_become_their_text(tmp_path: Path) -> None:
    values = [12, -1, 2**70, True, False, None, "text", {"k": ['a"b\\', 1, None]}, ["[x]", {}], "[新聞] 標題", "{"]
    path = write(tmp_path, "a.jsonl", "".join(json.dumps({"content": v}) + "\n" for v in values))
    assert contents(path) == [
        *("12", "-1", str(2**70), "true", "false", None, "text"),
        '{"k": ["a\\"b\\\\", 1, null]}',
        '["[x]", {}]',
        "[新聞] 標題",
        "{",
    ]


def test_nested_values_in_other_columns_cost_nothing_and_change_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", '{"user": {"id": [1]}, "content": "[a] \\"x\\": ["}\n' * 3)
    assert contents(path) == ['[a] "x": ['] * 3


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{bad}", "not JSON: line 3, Expecting property name"),
        (b"[1]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'{"content": "\\ud83d"}', "half of a surrogate pair"),
        (b'{"content": "x\\\\\\ud83d\\\\ude00"}', "half of a surrogate pair"),
        (b'{"content": "\xff"}', "not UTF-8: line 3, at byte 13"),
        (b'{"content": NaN}', "not JSON"),
        (b'{"content": "a"} {"content": "b"}', "not JSON: line 3, Extra data"),
        (b'{"content": "a"', "not JSON"),
        (b"   ", "not JSON"),
        (b'{"content": ' + b"[" * 9000 + b"]" * 9000 + b"}", "not JSON"),
        (b'{"content": ' + b"[" * 1500 + b"]" * 1500 + b"}", "not JSON"),
        (b'{"content": 1e999}', "not JSON"),
        (b'{"content": "a", "id": 1, "content" : "b"}', "a key stands twice: line 3, 'content'"),
    ],
)
def test_bad_line_is_set_aside_by_its_number(tmp_path: Path, line: bytes, reason: str) -> None:
    good = '{"content": "好 \\ud83d\\ude00 \\\\ud83d"}\n'.encode()
    path = write(tmp_path, "a.jsonl", good + b"\n" + line + b"\n" + good)
    rows = read(source(path))
    assert [(r["id"], r["content"]) for r in rows[::2]] == [(f"a.jsonl#{i}", "好 😀 \\ud83d") for i in (1, 3)]
    assert (rows[1]["id"], rows[1]["content"]) == ("a.jsonl#2", None)
    assert rows[1]["error"].startswith(reason)
    assert ": line 3" in rows[1]["error"]


def test_name_of_a_column_in_texts_is_no_key(tmp_path: Path) -> None:
    values = ['a "content": b', "content", '{"content": 1, "content": 2}', None]
    lines = [json.dumps({"other": "content", "content": value}) for value in values] + ['{"content": {"content": 1}}']
    found = contents(write(tmp_path, "a.jsonl", "\n".join(lines)))
    assert found == [*values, '{"content": 1}']


def test_keys_may_appear_late_and_be_missing(tmp_path: Path) -> None:
    text = '{"id": 1}\n' * 2000 + '{"id": 2, "content": "late"}\r\n'
    rows = contents(write(tmp_path, "a.jsonl", text), roles={"content": "content"})
    assert (rows[:2000], rows[2000]) == ([None] * 2000, "late")


def test_json_that_is_not_lines_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is not JSON lines"):
        source(write(tmp_path, "a.jsonl", json.dumps([{"content": "a"}, {"content": "b"}], indent=1)))
    with pytest.raises(BadInput, match="nothing in it"):
        source(write(tmp_path, "b.jsonl", ""))


# Parquet


def test_columns_of_any_type_become_text(tmp_path: Path) -> None:
    columns = {
        "id": pa.array([1, 2], pa.uint64()),
        "content": pa.array(["a", None]).dictionary_encode(),
        "title": pa.array(["b", "c"], pa.string_view()),
        "author": pa.array([Decimal("1.50"), None]),
        "s_id": pa.array([b"x", b"\xff"], pa.binary()),
        "s_area_id": pa.array([True, None]),
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    rows = read(source(tmp_path / "a.parquet"), fields=("content", "title", "author", "s_area_id"))
    shown = [list(r.values())[:-1] for r in rows]
    assert shown == [["1", "x", "1.50", "a", "b", "true"], ["2", None, None, None, "c", None]]
    assert [r["error"] is None for r in rows] == [True, False]


def test_old_timestamps_of_96_bits_are_the_same_times_as_new_ones(tmp_path: Path) -> None:
    times = [dt.datetime(2024, 5, 1, 8), dt.datetime(9999, 12, 31, 23, 59, 59), dt.datetime(1, 1, 1), None]
    table = pa.table({"post_time": pa.array(times, pa.timestamp("us")), "content": ["a"] * 4})
    pq.write_table(table, tmp_path / "a.parquet", use_deprecated_int96_timestamps=True)
    assert [r["post_time"] for r in read(source(tmp_path / "a.parquet"))] == times


def test_time_beyond_the_calendar_costs_its_row_and_describing_does_not_fail(tmp_path: Path) -> None:
    times = [1714550400000000 + i for i in range(3000)]
    times[2500] = 2**63 - 1
    table = pa.table({"post_time": pa.array(times, pa.int64()).cast(pa.timestamp("us")), "content": ["a"] * 3000})
    pq.write_table(table, tmp_path / "a.parquet")
    files = source(tmp_path / "a.parquet")
    assert [r["id"] for r in read(files) if r["error"]] == ["a.parquet#2501"]
    assert files.describe().time_span == ("2024-05-01 08:00:00", "2024-05-01 08:00:00.002999")
    assert files.plan(Selection(dt.datetime(2025, 1, 1), None, ("content",))).n_rows == 3000


def test_duration_is_refused_as_time(tmp_path: Path) -> None:
    table = pa.table({"post_time": pa.array([5, None], pa.duration("us")), "content": ["a", "b"]})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(BadInput, match=r"should hold times, but .*duration"):
        source(tmp_path / "a.parquet")


def test_whole_numbers_that_became_floats_keep_their_digits(tmp_path: Path) -> None:
    ids = [1001.0, 1234567890123456.0, None, 2.5]
    pq.write_table(pa.table({"id": ids, "content": ["a"] * 4}), tmp_path / "a.parquet")
    assert [r["id"] for r in read(source(tmp_path / "a.parquet"))] == ["1001", "1234567890123456", None, "2.5"]


def test_column_without_a_text_form_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"content": [["a"]], "id": ["1"]}), tmp_path / "a.parquet")
    with pytest.raises(BadInput, match=r"'content' holds list<.*> *, which has no text form|no text form"):
        read(source(tmp_path / "a.parquet"))


@pytest.mark.parametrize("zone", [None, "UTC"])
def test_row_groups_out_of_the_range_are_not_read(tmp_path: Path, zone: str | None) -> None:
    times = [dt.datetime(2020, 1, 1, hour) for hour in range(10)]
    table = pa.table({"content": list("abcdefghij"), "post_time": pa.array(times, pa.timestamp("us", zone))})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    files = source(tmp_path / "a.parquet", timezone="Asia/Taipei" if zone else "UTC")
    shift = dt.timedelta(hours=8 if zone else 0)
    selection = Selection(times[3] + shift, times[6] + shift, ("content",), 2)
    plan = files.plan(selection)
    rows = [r for p in plan.partitions for b in files.read(p, selection) for r in b.to_pylist()]
    assert [(r["id"], r["content"]) for r in rows] == [(f"a.parquet#{i + 1}", "abcdefghij"[i]) for i in range(2, 6)]
    assert [r["post_time"] for r in rows] == [t + shift for t in times[2:6]]
    assert plan.n_rows == 4


@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1" + bytes(100) + b"PAR1"])
def test_damaged_parquet_file_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(BadInput, match="not a Parquet file"):
        source(write(tmp_path, "a.parquet", data))


def test_large_row_group_is_read_in_batches(tmp_path: Path) -> None:
    frame = pl.DataFrame({"content": ["長" * 3000] * 30_000})
    frame.write_parquet(tmp_path / "a.parquet", row_group_size=30_000)
    files = source(tmp_path / "a.parquet")
    (partition,) = files.plan(Selection(fields=("content",), partition_rows=1000)).partitions
    sizes = [b.nbytes for b in files.read(partition, CONTENT)]
    assert sum(sizes) > 2.5e8
    assert max(sizes) < 5e7


# folders and globs


def test_folder_is_read_in_the_order_of_names_with_ids_of_its_own(tmp_path: Path) -> None:
    for name in ("b.csv", "a.csv", ".hidden.csv", "_SUCCESS", "_c.csv"):
        write(tmp_path, name, f"content\n{name}1\n{name}2\n")
    rows = read(source(tmp_path), size=3)
    assert [(r["id"], r["content"]) for r in rows] == [
        ("a.csv#1", "a.csv1"),
        ("a.csv#2", "a.csv2"),
        ("b.csv#1", "b.csv1"),
        ("b.csv#2", "b.csv2"),
    ]


def test_small_files_share_a_partition(tmp_path: Path) -> None:
    for i in range(10):
        write(tmp_path, f"{i}.jsonl", '{"content": "a"}\n' * 3)
    plan = source(tmp_path).plan(Selection(fields=("content",), partition_rows=10))
    assert [p.n_rows for p in plan.partitions] == [9, 9, 9, 3]


def test_glob_names_files_in_several_folders(tmp_path: Path) -> None:
    for name in ("x/1.csv", "x/2.csv", "y/1.csv", "y/z/3.csv", "y/other.txt"):
        write(tmp_path, name, "content\na\n")
    assert [r["id"] for r in read(source(f"{tmp_path}/*/1.csv"))] == ["x/1.csv#1", "y/1.csv#1"]
    assert [r["id"] for r in read(source(f"{tmp_path}/**/*.csv"))][-1] == "y/z/3.csv#1"
    assert len(read(source(f"{tmp_path}/**/*.csv"))) == 4


def test_name_with_the_signs_of_a_glob_is_a_name_first(tmp_path: Path) -> None:
    assert contents(write(tmp_path, "[1]*.csv", "content\na\n")) == ["a"]


def test_parquet_file_that_lacks_a_column_of_another_has_nulls(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["1"], "content": ["a"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"id": ["2"], "title": ["b"], "post_time": ["2020-01-01"]}), tmp_path / "b.parquet")
    rows = read(source(tmp_path), fields=("content", "title"))
    assert [(r["content"], r["title"]) for r in rows] == [("a", None), (None, "b")]


def test_csv_file_that_lacks_a_column_of_another_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "id,content\n1,a\n")
    write(tmp_path, "b.csv", "2,b\n")
    with pytest.raises(BadInput, match=r"b\.csv has no column 'id'"):
        source(tmp_path)


def test_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.csv")
    with pytest.raises(BadInput, match="is a pipe"):
        source(tmp_path / "a.csv")


def test_files_that_cannot_be_read_are_refused_with_what_to_do(tmp_path: Path) -> None:
    write(tmp_path, "mixed/a.csv", "content\n")
    write(tmp_path, "mixed/b.jsonl", "{}\n")
    with pytest.raises(BadInput, match=r"CSV \(a.csv\), JSON lines \(b.jsonl\)"):
        source(tmp_path / "mixed")
    for name in ("a.csv.gz", "a.zip", "a.jsonl.zst"):
        with pytest.raises(BadInput, match="unpack it first"):
            source(write(tmp_path, name, gzip.compress(b"content\n")))
    for name in ("a.xlsx", "noending"):
        with pytest.raises(BadInput, match=r"\.csv, \.tsv, \.tab, \.jsonl"):
            source(write(tmp_path, name, "content\n"))
    with pytest.raises(BadInput, match="files have no tables"):
        source(write(tmp_path, "a.csv", "content\n"), table="posts")


def test_nothing_to_read_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for where in (tmp_path / "empty", tmp_path / "gone.csv", f"{tmp_path}/*.csv"):
        with pytest.raises(NotFound, match=str(tmp_path)):
            source(where)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_file_that_changed_since_it_was_planned_is_a_conflict(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    frame = pl.DataFrame({"content": ["a", "b"]})
    if name == "a.csv":
        frame.write_csv(path)
    elif name == "a.jsonl":
        frame.write_ndjson(path)
    else:
        frame.write_parquet(path)
    files = source(path)
    plan = files.plan(CONTENT)
    os.utime(path, ns=(1, 1))
    with pytest.raises(Conflict, match="changed since"):
        list(files.read(plan.partitions[0], CONTENT))
    path.unlink()
    with pytest.raises(Conflict, match="gone"):
        list(files.read(plan.partitions[0], CONTENT))
