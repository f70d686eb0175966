"""The next version of an index inside a PostgreSQL server: what is new and what is published, merged by SQL."""

from typing import Any

from audience.databases.postgres import listed
from audience.tables.postgres.schema import PLANNING
from audience.tables.publications import CONTENT, PUBLISHED_SCHEMA, Change, Publishing
from audience.tables.sql.publications import channel_of, same

CONFLICT = "conflict AS (SELECT * FROM unnest(%(panels)s::text[], %(names)s::text[]) AS k (panel, name))"
NEW_ROWS = f"""
INSERT INTO {{following}} (subject, panel, published_at, version, {listed(CONTENT.names)})
WITH {CONFLICT},
judged AS (
    SELECT k.n, k.run, c.name,
        row_number() OVER (PARTITION BY k.subject, {channel_of("k")}, k.panel ORDER BY k.n DESC) AS newest,
        max(k.run) OVER (PARTITION BY k.subject, {channel_of("k")}, c.name) AS last_run
    FROM {{incoming}} k LEFT JOIN conflict c ON c.panel = k.panel)
SELECT s.subject, s.panel, coalesce(o.published_at, %(at)s), %(version)s, {{content}}
FROM judged j JOIN {{incoming}} s ON s.n = j.n
LEFT JOIN {{old}} o ON {same("o", "s")} AND o.panel = s.panel AND NOT %(replace)s
WHERE j.newest = 1 AND (j.name IS NULL OR j.run = j.last_run)
"""
OLD_ROWS = f"""
INSERT INTO {{following}} ({{columns}})
WITH {CONFLICT}
SELECT {{kept}} FROM {{old}} o LEFT JOIN conflict k ON k.panel = o.panel
WHERE NOT %(replace)s
    AND NOT EXISTS (SELECT FROM {{following}} x WHERE {same("x", "o")} AND x.panel = o.panel)
    AND NOT EXISTS (
        SELECT FROM {{following}} x JOIN conflict j ON j.panel = x.panel
        WHERE {same("x", "o")} AND j.name = k.name)
"""
CHANGES = f"""
WITH {CONFLICT},
contested AS (
    SELECT DISTINCT p.subject, {channel_of("p")} AS channel, j.name
    FROM {{old}} p JOIN conflict j ON j.panel = p.panel),
there AS (SELECT x.subject, {channel_of("x")} AS channel, x.panel FROM {{following}} x),
was AS (SELECT o.subject, {channel_of("o")} AS channel, o.panel FROM {{old}} o),
judged AS (
    SELECT coalesce(x.panel, o.panel) AS panel, x.subject, x.channel,
        x.subject IS NOT NULL AS is_there, o.subject IS NOT NULL AS was
    FROM there x FULL JOIN was o ON o.subject = x.subject AND o.channel = x.channel AND o.panel = x.panel)
SELECT j.panel,
    count(*) FILTER (WHERE is_there AND NOT was AND c.subject IS NULL),
    count(*) FILTER (WHERE is_there AND NOT was AND c.subject IS NOT NULL),
    count(*) FILTER (WHERE is_there AND was), count(*) FILTER (WHERE NOT is_there)
FROM judged j LEFT JOIN conflict k ON k.panel = j.panel
LEFT JOIN contested c ON c.subject = j.subject AND c.channel = j.channel AND c.name = k.name
GROUP BY j.panel
"""
REPLACEMENTS = """
SELECT panel, count(*) FILTER (WHERE is_there), 0, 0, count(*) FILTER (WHERE NOT is_there)
FROM (SELECT panel, true AS is_there FROM {following} UNION ALL SELECT panel, false FROM {old} o) judged
GROUP BY panel
"""


def merge(
    connection: Any, publishing: Publishing, index: str, incoming: str, following: str, present: str | None
) -> list[Change]:
    """Fills the table `following` from `incoming` and `present`, quoted names, which stay as they are; the changes by
    panel."""
    names = {
        "incoming": incoming,
        "following": following,
        "old": present or f"(SELECT * FROM {following} WHERE false)",
        "columns": listed(PUBLISHED_SCHEMA.names),
        "content": _of("s", CONTENT.names),
        "kept": _of("o", PUBLISHED_SCHEMA.names),
    }
    values = {
        "panels": list(publishing.conflicts),
        "names": list(publishing.conflicts.values()),
        "at": publishing.at,
        "version": publishing.version,
        "replace": publishing.replace,
    }
    for setting in PLANNING:
        connection.execute(setting)
    for step in (NEW_ROWS, OLD_ROWS):
        connection.execute(step.format(**names), values)
    counting = REPLACEMENTS if publishing.replace else CHANGES
    found = connection.execute(counting.format(**names), None if publishing.replace else values)
    return [Change(index, *counted) for counted in sorted(found)]


def _of(row: str, names: list[str]) -> str:
    return ", ".join(f"{row}.{name}" for name in listed(names).split(", "))
