"""Production inside a SQLite file: the same answer as the SQL of the other databases gives."""

import sqlite3

from audience.databases.sqlite import quoted
from audience.tables.base import ConflictRules
from audience.tables.sqlite.schema import DIALECT

# In steps through temporary tables with keys: as one statement the joins have no index to use.
STEPS = (
    """
CREATE TEMP TABLE counted (subject TEXT, panel TEXT, posts INTEGER, PRIMARY KEY (subject, panel)) WITHOUT ROWID
""",
    """
INSERT INTO temp.counted SELECT {subject}, panel, count(DISTINCT id) FROM {results}
WHERE task_id = :task AND {subject} IS NOT NULL GROUP BY 1, 2
""",
    """
DELETE FROM temp.counted WHERE (subject, panel) IN (
    SELECT subject, panel FROM (
        SELECT subject, c.panel, posts, sum(posts) OVER (PARTITION BY subject, k.name) AS all_posts
        FROM temp.counted c JOIN temp.conflict k ON k.panel = c.panel)
    WHERE 2 * posts <= all_posts)
""",
    """
INSERT INTO {production}
SELECT id, task_id, source_author, panel, create_time, field_content, match_content, match_meta, model, score, evidence,
    posts, row_number() OVER (ORDER BY create_time, subject, panel)
FROM (
    SELECT r.*, c.subject, c.posts, row_number() OVER (
        PARTITION BY c.subject, c.panel ORDER BY r.create_time DESC, r.id DESC, r.partition DESC, r.n DESC) AS newest
    FROM {results} r JOIN temp.counted c ON c.subject = r.{subject} AND c.panel = r.panel
    WHERE r.task_id = :task)
WHERE newest = 1
""",
    "DROP TABLE temp.counted",
    "DROP TABLE temp.conflict",
)


def resolve_conflicts(db: sqlite3.Connection, task: str, group: str, rules: ConflictRules) -> tuple[int, int]:
    """Makes the production rows of a task; returns (rows, distinct subjects)."""
    subject = "source_author" if rules.by_author else "id"
    table = quoted(DIALECT.production_table(group))
    names = {"production": table, "results": quoted(DIALECT.results_table(group)), "subject": subject}
    db.execute("CREATE TEMP TABLE conflict (panel TEXT PRIMARY KEY, name TEXT) WITHOUT ROWID")
    db.executemany("INSERT INTO temp.conflict VALUES (?, ?)", rules.conflicts.items())
    for step in STEPS:
        sql = step.format(**names)
        db.execute(sql, {"task": task} if ":task" in sql else {})
    counted = f"SELECT count(*), count(DISTINCT {subject}) FROM {table} WHERE task_id = ?"
    n_rows, n_subjects = db.execute(counted, (task,)).fetchone()
    return int(n_rows), int(n_subjects)
