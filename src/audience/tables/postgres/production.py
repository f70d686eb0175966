"""Production inside a PostgreSQL server: the same answer as the SQL of the other databases gives."""

from typing import Any

from audience.databases.postgres import quoted
from audience.tables.base import PRODUCTION_COLUMNS, ConflictRules
from audience.tables.postgres.schema import DIALECT

# a new table has no statistics: a nested loop that looks cheap could take hours
PLANNING = ("SET LOCAL enable_nestloop = off", "SET LOCAL work_mem = '64MB'")
SETTLE = """
WITH carried AS MATERIALIZED (
    SELECT {subject} AS subject, panel, id, create_time, partition, n FROM {results}
    WHERE task_id = %(task)s AND {subject} IS NOT NULL),
counted AS (SELECT subject, panel, count(DISTINCT id) AS posts FROM carried GROUP BY subject, panel),
judged AS (
    SELECT c.subject, c.panel, c.posts, k.name, sum(c.posts) OVER (PARTITION BY c.subject, k.name) AS all_posts
    FROM counted c LEFT JOIN unnest(%(panels)s::text[], %(names)s::text[]) AS k (panel, name) ON k.panel = c.panel),
newest AS (
    SELECT DISTINCT ON (subject, panel) subject, panel, partition, n FROM carried
    ORDER BY subject, panel, create_time DESC NULLS LAST, id DESC NULLS LAST, partition DESC, n DESC)
INSERT INTO {production} ({columns}, posts, n)
SELECT {columns}, j.posts, row_number() OVER (ORDER BY r.create_time NULLS FIRST, j.subject, j.panel)
FROM judged j
JOIN newest w ON w.subject = j.subject AND w.panel = j.panel
JOIN {results} r ON r.task_id = %(task)s AND r.partition = w.partition AND r.n = w.n
WHERE j.name IS NULL OR 2 * j.posts > j.all_posts
"""


def resolve_conflicts(connection: Any, task: str, group: str, rules: ConflictRules) -> tuple[int, int]:
    """Makes the production rows of a task; (rows, distinct subjects)."""
    subject = "source_author" if rules.by_author else "id"
    table = quoted(DIALECT.production_table(group))
    columns = ", ".join(f"r.{quoted(name)}" for name in PRODUCTION_COLUMNS if name != "posts")
    names = {"production": table, "results": quoted(DIALECT.results_table(group)), "subject": subject}
    for setting in PLANNING:
        connection.execute(setting)
    sql = SETTLE.format(columns=columns, **names).replace(f"({columns}", f"({columns.replace('r.', '')}")
    panels = {"panels": list(rules.conflicts), "names": list(rules.conflicts.values())}
    connection.execute(sql, {"task": task, **panels})
    counted = f"SELECT count(*), count(DISTINCT {subject}) FROM {table} WHERE task_id = %s"
    n_rows, n_subjects = connection.execute(counted, (task,)).fetchone()
    return int(n_rows), int(n_subjects)
