"""The next version of an index inside a SQLite file: what is new and what is published, merged by SQL."""

import sqlite3
from typing import Any

from audience.databases.sqlite import listed, quoted
from audience.tables.publications import CONTENT, PUBLISHED_SCHEMA, Change, Publishing
from audience.tables.sql.publications import AT_FORMAT, channel_of, following, incoming, present, same
from audience.tables.sqlite.schema import columns_of

COLUMNS = listed(PUBLISHED_SCHEMA.names)
NEW_ROWS = f"""
INSERT INTO {{next}} (subject, panel, published_at, version, {listed(CONTENT.names)})
WITH conflict (panel, name) AS ({{conflicts}}),
judged (n, run, conflict, newest, last_run) AS (
    SELECT k.n, k.run, c.name, row_number() OVER (PARTITION BY k.subject, k.channel, k.panel ORDER BY k.n DESC),
        max(k.run) OVER (PARTITION BY k.subject, k.channel, c.name)
    FROM (SELECT n, run, subject, {channel_of("t")} AS channel, panel FROM {{new}} t) k
    LEFT JOIN conflict c ON c.panel = k.panel)
SELECT s.subject, s.panel, coalesce(o.published_at, :at), :version, {", ".join(f"s.{quoted(n)}" for n in CONTENT.names)}
FROM judged j JOIN {{new}} s ON s.n = j.n
LEFT JOIN {{old}} o ON {same("o", "s")} AND o.panel = s.panel AND :replace = 0
WHERE j.newest = 1 AND (j.conflict IS NULL OR j.run = j.last_run)
"""
OLD_ROWS = f"""
INSERT INTO {{next}} ({COLUMNS})
WITH conflict (panel, name) AS ({{conflicts}})
SELECT {", ".join(f"o.{quoted(name)}" for name in PUBLISHED_SCHEMA.names)}
FROM {{old}} o LEFT JOIN conflict k ON k.panel = o.panel
WHERE :replace = 0
    AND NOT EXISTS (SELECT 1 FROM {{next}} x WHERE {same("x", "o")} AND x.panel = o.panel AND x.version = :version)
    AND NOT EXISTS (
        SELECT 1 FROM {{next}} x JOIN conflict j ON j.panel = x.panel
        WHERE {same("x", "o")} AND x.version = :version AND j.name = k.name)
"""
CHANGES = f"""
WITH conflict (panel, name) AS ({{conflicts}}),
judged (panel, fate) AS (
    SELECT x.panel, CASE
        WHEN o.subject IS NOT NULL THEN 'kept'
        WHEN :replace = 0 AND EXISTS (
            SELECT 1 FROM {{old}} p JOIN conflict j ON j.panel = p.panel
            WHERE {same("p", "x")} AND j.name = k.name) THEN 'changed'
        ELSE 'added' END
    FROM {{next}} x LEFT JOIN conflict k ON k.panel = x.panel
    LEFT JOIN {{old}} o ON {same("o", "x")} AND o.panel = x.panel AND :replace = 0
    UNION ALL
    SELECT o.panel, 'dropped' FROM {{old}} o
    WHERE :replace = 1 OR NOT EXISTS (SELECT 1 FROM {{next}} x WHERE {same("x", "o")} AND x.panel = o.panel))
SELECT panel, sum(CASE WHEN fate = 'added' THEN 1 ELSE 0 END), sum(CASE WHEN fate = 'changed' THEN 1 ELSE 0 END),
    sum(CASE WHEN fate = 'kept' THEN 1 ELSE 0 END), sum(CASE WHEN fate = 'dropped' THEN 1 ELSE 0 END)
FROM judged GROUP BY panel ORDER BY panel
"""


def merge(db: sqlite3.Connection, publishing: Publishing, index: str) -> list[Change]:
    """Fills the next version of an index from the new rows and the present ones, which both stay as they are; returns
    the changes by panel."""
    merged = quoted(following(index))
    old = quoted(present(index)) if columns_of(db, present(index)) else f"(SELECT * FROM {merged} WHERE 1 = 0)"
    conflicts, values = _conflicts(publishing.conflicts)
    names = {"next": merged, "new": quoted(incoming(index)), "old": old, "conflicts": conflicts}
    values |= {"version": publishing.version, "replace": int(publishing.replace)}
    db.execute(NEW_ROWS.format(**names), {**values, "at": publishing.at.strftime(AT_FORMAT)})
    # an index has a name of its own, which it keeps when its table is renamed: no other attempt may have the same
    index_name = quoted(f"published_{index}__{publishing.fence}__subject")
    db.execute(f"CREATE INDEX {index_name} ON {merged} (subject, panel)")
    db.execute(OLD_ROWS.format(**names), values)
    return [Change(index, *counted) for counted in db.execute(CHANGES.format(**names), values)]


def _conflicts(conflicts: dict[str, str]) -> tuple[str, dict[str, Any]]:
    """Returns panels and their conflict groups as rows of SQL, and their values."""
    if not conflicts:
        return "SELECT NULL, NULL WHERE 1 = 0", {}
    rows = ", ".join(f"(:panel{n}, :name{n})" for n in range(len(conflicts)))
    values = {
        f"{key}{n}": text
        for n, pair in enumerate(conflicts.items())
        for key, text in zip(("panel", "name"), pair, strict=True)
    }
    return f"VALUES {rows}", values
