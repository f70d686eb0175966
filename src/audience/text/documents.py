"""Small files that people write, rules and mappings: from bytes to characters, rows of CSV, and JSON.

Nothing is guessed in silence: what may be read in two ways is refused, with the place and what would be right."""

import codecs
import csv
import io
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from audience.errors import BadInput, Problem

__all__ = ["decoded", "items_with_lines", "json_document", "numbered_rows", "pydantic_reason"]

MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32"} | {
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
SINGLE_BYTE, HONG_KONG = "cp1252", "big5hkscs"
"""Never the one that was meant for sure: the first stands for all encodings of one byte a character, which nothing
tells apart; in the second the characters that others define for themselves are characters of Hong Kong."""
CANDIDATES = ("big5", "cp950", HONG_KONG, "gb18030", "cp932", "euc_jp", "cp949", SINGLE_BYTE)
"""In which bytes that are not UTF-8 may be text; those that agree count once."""
PRIVATE, UNASSIGNED, CONTROL = "Co", "Cn", "Cc"
LINE_SIGNS = "\t\r\n"
HALF_PAIR = re.compile("[\ud800-\udfff]")
KEY = re.compile(r'\s*("(?:[^"\\]|\\.)*")\s*:\s*', re.DOTALL)
BETWEEN = re.compile(r"[\s,]*")
TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]', re.DOTALL)
FIELD_CHARACTERS = 2**20
CSV_FAULTS = {
    "expected after": "a quote is followed by text where it should close a value: write a quote within a value twice",
    "unexpected end of data": "the quote that opens in this row never ends",
    "field larger than": f"a value has more than {FIELD_CHARACTERS:,} characters: is a quote missing?",
    "new-line character": "a carriage return stands within a value without quotes",
}


# characters


def decoded(
    data: bytes,
    name: str,
    encoding: str | None = None,
    is_known: Callable[[str], bool] | None = None,
) -> tuple[str, tuple[str, ...]]:
    """(text, warnings). UTF-8, or with a mark another UTF; else as `encoding` says. Other bytes are read only where one
    encoding alone makes text of them that comes back as the same bytes, or one alone text that `is_known`: that is
    warned of."""
    for mark, marked in MARKS.items():
        if data.startswith(mark):
            return _as_named(data, name, marked), ()
    if encoding is not None:
        return _as_named(data, name, encoding), ()
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        return _other_than_utf8(data, name, error, is_known)
    if "\0" in text[:1000] and text.count("\0") * 4 > len(text):
        raise BadInput(f"{name} looks like UTF-16 without a mark: save it as UTF-8, or say --encoding utf-16-le")
    return text, ()


def _as_named(data: bytes, name: str, encoding: str) -> str:
    try:
        codec = codecs.lookup(encoding).name
        if not isinstance(b"".decode(codec), str):  # a codec of bytes, such as rot13
            raise LookupError(encoding)
        text = data.decode("utf-8-sig" if codec == "utf-8" else codec).removeprefix("\ufeff")
    except LookupError:
        raise BadInput(f"no encoding is called {encoding!r}; known are utf-8, big5, cp950, gb18030 and more") from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadInput(f"{name}:{line}: is not {encoding} here (at byte {error.start} of the file)") from None
    except UnicodeError as error:
        raise BadInput(f"{name} is not {encoding}: {error}") from None
    if fault := _odd_character(text):
        line, character = fault
        raise BadInput(
            f"{name}:{line}: holds a character that only some programs know (U+{ord(character):04X}): "
            "write it as Unicode has it, or name the encoding in which it was made, such as --encoding big5hkscs"
        )
    return text


def _odd_character(text: str) -> tuple[int, str] | None:
    """(line, character) of one that means nothing outside of the program that wrote it, or is half of one."""
    for character in sorted(set(text)):
        if unicodedata.category(character) in (PRIVATE, "Cs"):
            return text.count("\n", 0, text.index(character)) + 1, character
    return None


def _other_than_utf8(
    data: bytes, name: str, error: UnicodeDecodeError, is_known: Callable[[str], bool] | None
) -> tuple[str, tuple[str, ...]]:
    good = data.decode("utf-8", "ignore")
    n_good = sum(character >= "\u0800" for character in good)  # of three bytes: other encodings hardly have them
    n_bad = len(data) - len(good.encode())
    if n_good >= n_bad:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadInput(f"{name}:{line}: is not UTF-8 here, as the rest is (at byte {error.start} of the file): mend it")
    found: dict[str, str] = {}
    for encoding in CANDIDATES:
        text = _clean(data, encoding)
        if text is not None:
            found.setdefault(text, encoding)
    known = {text: encoding for text, encoding in found.items() if is_known and is_known(text)}
    for texts in (known, found):
        if len(texts) == 1 and not {SINGLE_BYTE, HONG_KONG} & {*texts.values()}:
            ((text, encoding),) = texts.items()
            return text, (f"{name} is not UTF-8; it was read as {encoding}: if that is wrong, say --encoding NAME",)
    if not found:
        raise BadInput(f"{name} is not UTF-8, nor {', '.join(CANDIDATES)}: save it as UTF-8, or say --encoding NAME")
    shown = "; ".join(f"{encoding}: {_first_word(text)}" for text, encoding in found.items())
    raise BadInput(
        f"{name} is not UTF-8, and may be read in several ways ({shown}): "
        "say which with --encoding NAME, or save it as UTF-8"
    )


def _clean(data: bytes, encoding: str) -> str | None:
    """The text, where the encoding is sure of every byte."""
    try:
        text = data.decode(encoding)
        if text.encode(encoding) != data:
            return None
    except UnicodeError:
        return None
    odd = (PRIVATE, UNASSIGNED, CONTROL)
    if any(unicodedata.category(c) in odd and c not in LINE_SIGNS for c in set(text)):
        return None
    return text


def _first_word(text: str) -> str:
    found = re.search(r"[^\x00-\x7f]+", text)
    return found[0][:12] if found else text[:12]


# CSV


def numbered_rows(text: str, delimiter: str, name: str, problems: list[Problem]) -> Iterator[tuple[int, list[str]]]:
    """Rows that hold anything, with the line on which each begins. A row whose quotes are broken, or a value of which
    holds a line break, is left out and added to `problems`: it may have taken others with it."""
    csv.field_size_limit(FIELD_CHARACTERS)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            reason = next((ours for theirs, ours in CSV_FAULTS.items() if theirs in str(error)), str(error))
            problems.append(Problem(f"{name}:{line}", reason + _up_to(line, reader.line_num)))
        else:
            if any("\n" in value or "\r" in value for value in row):
                reason = f"the value {next(v for v in row if chr(10) in v or chr(13) in v)[:40]!r} holds a line break: "
                problems.append(
                    Problem(f"{name}:{line}", reason + "is a quote missing above?" + _up_to(line, reader.line_num))
                )
            elif any(value.strip() for value in row):
                yield line, row
        line = reader.line_num + 1


def _up_to(first: int, last: int) -> str:
    return f" (lines {first} to {last})" if last > first else ""


# JSON


def json_document(text: str, name: str) -> Any:
    """What the text holds. Refuses a key that stands twice, of which one would be dropped, and half of a surrogate
    pair, which no text holds: each with its line."""
    twice: list[str] = []

    def each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice.append("")
        return found

    try:
        document = json.loads(text, object_pairs_hook=each_once, parse_constant=_refuse)
    except json.JSONDecodeError as error:
        raise BadInput(f"{name}:{error.lineno}: not JSON at column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise BadInput(f"{name} is nested too deeply to be read") from None
    except ValueError as error:
        raise BadInput(f"{name} is not JSON: {error}") from None
    if twice or (r"\u" in text and HALF_PAIR.search(json.dumps(document, ensure_ascii=False))):
        faults = tuple(_faults_of_tokens(text, name))
        raise BadInput(f"{name} was not used:", faults)
    return document


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")


def _faults_of_tokens(text: str, name: str) -> Iterator[Problem]:
    """Keys that stand twice in their object, and texts with half of a surrogate pair."""
    levels: list[_Level] = []
    lines = _Lines(text)
    previous = ""
    for token in TOKEN.finditer(text):
        sign = token[0]
        if sign in "{[":
            levels.append(_Level(set() if sign == "{" else None))
        elif sign in "}]":
            levels.pop()
        elif sign == "," and isinstance(levels[-1].at, int):
            levels[-1].at += 1
        elif sign not in ",:":
            value = json.loads(sign, strict=False) if "\\" in sign else sign[1:-1]
            place = f"{name}:{lines.at(token.start())}"
            if HALF_PAIR.search(value):
                yield Problem(place, f"the text {sign[:40]} holds half of a surrogate pair")
            seen = levels[-1].keys if levels else None
            if seen is not None and previous in "{,":
                within = ".".join(str(level.at)[:40] for level in levels[:-1])
                if value in seen:
                    which = f" ({within})" if within else ""
                    yield Problem(place, f"the key {sign[:40]} stands twice in its object{which}: put both into one")
                seen.add(value)
                levels[-1].at = value
        previous = sign


@dataclass
class _Level:
    """An object with its `keys` so far, or a list, that is open at a token; `at`: the key or the place in the list."""

    keys: set[str] | None
    at: str | int = 0


def items_with_lines(text: str) -> Iterator[tuple[str, list[int]]]:
    """The keys of an object, and the lines on which the items of each begin, where it is a list. The text is JSON."""
    decoder = json.JSONDecoder()
    lines = _Lines(text)
    position = text.index("{") + 1
    while match := KEY.match(text, BETWEEN.match(text, position).end()):  # type: ignore[union-attr]
        found: list[int] = []
        position = match.end()
        if text[position] == "[":
            position = _skipped(text, position + 1)
            while text[position] != "]":
                found.append(lines.at(position))
                position = _skipped(text, decoder.raw_decode(text, position)[1])
            position += 1
        else:
            _, position = decoder.raw_decode(text, position)
        yield json.loads(match[1], strict=False), found


def _skipped(text: str, position: int) -> int:
    match = BETWEEN.match(text, position)
    return match.end() if match else position


class _Lines:
    """Numbers of lines at positions that only grow."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.line = 1

    def at(self, position: int) -> int:
        self.line += self.text.count("\n", self.position, position)
        self.position = position
        return self.line


def pydantic_reason(found: Any, known: Iterable[str] = ()) -> str:
    """One of pydantic's findings in plain words."""
    context = found.get("ctx", {})
    names = ", ".join(known)
    match found["type"]:
        case "extra_forbidden":
            return f"not permitted: there is no such field{f'; known: {names}' if names else ''}"
        case "missing":
            return "is missing"
        case "string_type":
            return "should be a text"
        case "tuple_type" | "list_type":
            return "should be a list"
        case "dict_type" | "model_type" | "model_attributes_type":
            return "should be an object such as {...}"
        case "bool_type" | "bool_parsing":
            return "should be true or false"
        case "literal_error":
            return f"should be {context.get('expected')}"
    return str(found["msg"]).removeprefix("Value error, ")
