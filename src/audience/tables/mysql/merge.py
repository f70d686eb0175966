"""The next version of an index inside a MariaDB or MySQL server: what is new and what is published, merged by SQL."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from audience.databases.mysql import quoted
from audience.tables.mysql.schema import TEXT, TYPES
from audience.tables.publications import PUBLISHED_SCHEMA, STAGED_SCHEMA, Change, Publishing
from audience.tables.sql.publications import AT_FORMAT, channel_of

# Long texts cannot be keys here: subjects and panels are told apart by 128 bits of SHA-256. Rows are numbered, so that
# long ones are written in the order they are read; all that is compared is in slim temporary tables, each of which may
# stand in a statement once only. Tables of earlier versions have keys without channels, under other names.
KEY = "BINARY(16)"
TYPE_OF = {
    **TYPES,
    "subject": "LONGTEXT NOT NULL",
    "panel": "LONGTEXT NOT NULL",
    "published_at": "DATETIME(6) NOT NULL",
    "version": "BIGINT NOT NULL",
    "run": "BIGINT NOT NULL",
}
COLUMNS = ", ".join(map(quoted, PUBLISHED_SCHEMA.names))
PUBLISHED = (
    "place BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY, "
    f"subject_hash {KEY} NOT NULL, panel_hash {KEY} NOT NULL, {{columns}}"
)
MATCHED = (
    f"{{name}} (n BIGINT PRIMARY KEY, subject {KEY} NOT NULL, panel {KEY} NOT NULL, conflict {KEY}, since DATETIME(6), "
    "fate ENUM('added', 'changed', 'kept', 'dropped', 'renewed') NOT NULL, "
    "KEY pair (subject, panel), KEY contest (subject, conflict))"
)
PUBLISHED_KEYS = """
ALTER TABLE {following}
    ADD UNIQUE KEY pair (subject_hash, panel_hash), ADD KEY subject (subject(64)), ADD KEY panel (panel(64))
"""
"""Made when the table is full: sorting is faster than finding the place of every row."""
TABLES = (
    f"conflict (panel {KEY} PRIMARY KEY, name {KEY} NOT NULL)",
    MATCHED.format(name="old_pair"),
    MATCHED.format(name="new_pair"),
)
CONFLICT = "INSERT INTO conflict VALUES ({panel}, {name})"
OLD = """
INSERT INTO old_pair
SELECT o.place, o.subject, o.panel, c.name, o.published_at, IF(%(replace)s, 'dropped', 'kept')
FROM (SELECT place, {old_subject} AS subject, {old_panel} AS panel, published_at FROM {present} t) o
LEFT JOIN conflict c ON c.panel = o.panel
"""
NEW = """
INSERT INTO new_pair
SELECT j.n, j.subject, j.panel, j.name, o.since, IF(o.since IS NULL, 'added', 'kept')
FROM (
    SELECT k.n, k.run, k.subject, k.panel, c.name,
        ROW_NUMBER() OVER (PARTITION BY k.subject, k.panel ORDER BY k.n DESC) AS newest,
        MAX(k.run) OVER (PARTITION BY k.subject, c.name) AS last_run
    FROM (SELECT n, run, {subject} AS subject, {panel} AS panel FROM {incoming} t) k
    LEFT JOIN conflict c ON c.panel = k.panel) j
LEFT JOIN old_pair o ON o.subject = j.subject AND o.panel = j.panel AND NOT %(replace)s
WHERE j.newest = 1 AND (j.name IS NULL OR j.run = j.last_run)
"""
CHANGED = """
UPDATE new_pair n JOIN old_pair o ON o.subject = n.subject AND o.conflict = n.conflict SET n.fate = 'changed'
WHERE n.fate = 'added' AND NOT %(replace)s
"""
CONTESTED = (
    "UPDATE old_pair o JOIN new_pair n ON n.subject = o.subject AND n.conflict = o.conflict SET o.fate = 'dropped'"
)
RENEWED = """
UPDATE old_pair o JOIN new_pair n ON n.subject = o.subject AND n.panel = o.panel SET o.fate = 'renewed'
WHERE NOT %(replace)s
"""
NEW_ROWS = """
INSERT INTO {following} (subject_hash, panel_hash, {columns})
SELECT n.subject, n.panel, {taken} FROM new_pair n STRAIGHT_JOIN {incoming} r ON r.n = n.n ORDER BY n.n
"""
OLD_ROWS = """
INSERT INTO {following} (subject_hash, panel_hash, {columns})
SELECT o.subject, o.panel, {kept} FROM old_pair o STRAIGHT_JOIN {present} r ON r.place = o.n
WHERE o.fate = 'kept' ORDER BY o.n
"""
STEPS = (OLD, NEW, CHANGED, CONTESTED, RENEWED, OLD_ROWS, NEW_ROWS, PUBLISHED_KEYS)
FIRST_STEPS = (NEW, NEW_ROWS, PUBLISHED_KEYS)
"""Where nothing is published yet."""
FATES = """
SELECT r.panel, c.added, c.changed, c.kept, c.dropped
FROM (SELECT MIN(n) AS n, SUM(fate = 'added') AS added, SUM(fate = 'changed') AS changed, SUM(fate = 'kept') AS kept,
    SUM(fate = 'dropped') AS dropped FROM {counted} GROUP BY panel) c
JOIN {rows} r ON r.{number} = c.n
"""


def incoming_columns() -> str:
    return ", ".join(f"{_column(name)}" for name in STAGED_SCHEMA.names) + ", PRIMARY KEY (n)"


def published_columns() -> str:
    return PUBLISHED.format(columns=", ".join(map(_column, PUBLISHED_SCHEMA.names)))


def _column(name: str) -> str:
    return f"{quoted(name)} {TYPE_OF.get(name, TEXT)}"


def merge(
    cursor: Any, publishing: Publishing, index: str, incoming: str, following: str, present: str | None
) -> list[Change]:
    """Fills the table `following` from `incoming` and `present`, which stay as they are; the changes by panel."""
    _make_tables(cursor, publishing.conflicts)
    is_hashed = bool(cursor.execute(f"SHOW COLUMNS FROM {quoted(present or following)} LIKE 'subject_hash'"))
    names = {
        "incoming": quoted(incoming),
        "following": quoted(following),
        "present": quoted(present or following),
        "columns": COLUMNS,
        "taken": ", ".join(map(_taken, PUBLISHED_SCHEMA.names)),
        "kept": ", ".join(f"r.{quoted(name)}" for name in PUBLISHED_SCHEMA.names),
        "subject": _subject_key("t"),
        "panel": _key("t.panel"),
        "old_subject": "subject_hash" if is_hashed else _subject_key("t"),
        "old_panel": "panel_hash" if is_hashed else _key("t.panel"),
    }
    at = publishing.at.strftime(AT_FORMAT)
    values = {"replace": publishing.replace, "at": at, "version": publishing.version}
    for step in STEPS if present else FIRST_STEPS:
        cursor.execute(step.format(**names), values)
    return list(_changes(cursor, index, names))


def _make_tables(cursor: Any, conflicts: dict[str, str]) -> None:
    """Makes tables of the session's own, gone with it."""
    for declared in TABLES:
        cursor.execute(f"CREATE TEMPORARY TABLE {declared} ENGINE = InnoDB DEFAULT CHARSET utf8mb4 COLLATE utf8mb4_bin")
    if conflicts:
        cursor.executemany(CONFLICT.format(panel=_key("%s"), name=_key("%s")), list(conflicts.items()))


def _taken(name: str) -> str:
    """Returns a column of a new row as SQL."""
    own = {"published_at": "COALESCE(n.since, %(at)s)", "version": "%(version)s"}
    return own.get(name, f"r.{quoted(name)}")


def _changes(cursor: Any, index: str, names: dict[str, str]) -> Iterator[Change]:
    counts: dict[str, tuple[int, ...]] = defaultdict(lambda: (0, 0, 0, 0))
    for counted, rows, number in (("new_pair", "incoming", "n"), ("old_pair", "present", "place")):
        cursor.execute(FATES.format(counted=counted, rows=names[rows], number=number))
        for panel, *fates in cursor.fetchall():
            counts[panel] = tuple(before + int(n) for before, n in zip(counts[panel], fates, strict=True))
    for panel in sorted(counts):
        yield Change(index, panel, *counts[panel])


def _subject_key(row: str) -> str:
    """Returns SQL of the key of a subject: of a channel and its author, or of a row."""
    channel = channel_of(row)
    return _key(f"CONCAT(CHAR_LENGTH({channel}), ':', {channel}, {row}.subject)")


def _key(text: str) -> str:
    return f"LEFT(UNHEX(SHA2({text}, 256)), 16)"
