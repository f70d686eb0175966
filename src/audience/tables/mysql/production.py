"""Production inside a MariaDB or MySQL server: the same answer as the SQL of the other databases gives."""

from typing import Any

from audience.databases.mysql import quoted
from audience.tables.base import PRODUCTION_COLUMNS, ConflictRules
from audience.tables.mysql.schema import DIALECT

# Long texts cannot be keys here and are sorted by their beginning only, so that subjects, panels and ids are told
# apart by 128 bits of SHA-256. A temporary table may stand in a statement once only.
KEY = "BINARY(16) NOT NULL"
TABLES = (
    f"conflict (panel {KEY} PRIMARY KEY, name {KEY})",
    f"carried (subject {KEY}, panel {KEY}, post {KEY}, create_time DATETIME(6), id VARCHAR(255), "
    "`partition` BIGINT NOT NULL, n BIGINT NOT NULL)",
    f"counted (subject {KEY}, panel {KEY}, posts BIGINT NOT NULL, newest DATETIME(6), PRIMARY KEY (subject, panel))",
    f"kept (subject {KEY}, panel {KEY}, posts BIGINT NOT NULL, newest DATETIME(6), PRIMARY KEY (subject, panel))",
    f"winner (subject {KEY}, panel {KEY}, id VARCHAR(255) NOT NULL, `partition` BIGINT NOT NULL, n BIGINT NOT NULL, "
    "posts BIGINT NOT NULL, PRIMARY KEY (subject, panel))",
)
CONFLICT = "INSERT INTO conflict VALUES ({key}, {key})"
ALL_ROWS = 2**63 - 1
"""A limit, without which the order of a subquery counts for nothing: rows are looked up in the order they lie in."""
LATER = "(VALUES(id), VALUES(`partition`), VALUES(n)) > (winner.id, winner.`partition`, winner.n)"
"""Of two rows of one time the one that stands. It holds while one column after the other is set, the last one first."""
STEPS = (
    """
INSERT INTO carried
SELECT {subject_key}, {panel_key}, {id_key}, create_time, LEFT(id, 255), `partition`, n FROM {results}
WHERE task_id = %(task)s AND {subject} IS NOT NULL AND id IS NOT NULL
""",
    """
INSERT INTO counted SELECT subject, panel, COUNT(DISTINCT post), MAX(create_time) FROM carried GROUP BY subject, panel
""",
    """
INSERT INTO kept
SELECT subject, panel, posts, newest FROM (
    SELECT c.subject, c.panel, c.posts, c.newest, k.name,
        SUM(c.posts) OVER (PARTITION BY c.subject, k.name) AS all_posts
    FROM counted c LEFT JOIN conflict k ON k.panel = c.panel) judged
WHERE name IS NULL OR 2 * posts > all_posts
""",
    """
INSERT INTO winner
SELECT c.subject, c.panel, c.id, c.`partition`, c.n, k.posts
FROM carried c JOIN kept k ON k.subject = c.subject AND k.panel = c.panel AND k.newest <=> c.create_time
ON DUPLICATE KEY UPDATE n = IF({later}, VALUES(n), winner.n),
    `partition` = IF({later}, VALUES(`partition`), winner.`partition`), id = IF({later}, VALUES(id), winner.id)
""",
    """
INSERT INTO {production} ({columns}, posts, n)
SELECT {taken}, w.posts, ROW_NUMBER() OVER (ORDER BY r.create_time, r.{subject}, r.panel)
FROM (SELECT `partition`, n, posts FROM winner ORDER BY `partition`, n LIMIT {all_rows}) w
STRAIGHT_JOIN {results} r ON r.task_id = %(task)s AND r.`partition` = w.`partition` AND r.n = w.n
""",
)


def make_tables(cursor: Any) -> None:
    """Makes tables of the session's own, gone with it."""
    for declared in TABLES:
        cursor.execute(f"CREATE TEMPORARY TABLE {declared} ENGINE = InnoDB DEFAULT CHARSET utf8mb4 COLLATE utf8mb4_bin")


def resolve_conflicts(cursor: Any, task: str, group: str, rules: ConflictRules) -> tuple[int, int]:
    """Makes the production rows of a task; (rows, distinct subjects). `make_tables` came before."""
    subject = "source_author" if rules.by_author else "id"
    columns = [quoted(name) for name in PRODUCTION_COLUMNS if name != "posts"]
    names = {
        "production": quoted(DIALECT.production_table(group)),
        "results": quoted(DIALECT.results_table(group)),
        "columns": ", ".join(columns),
        "taken": ", ".join(f"r.{column}" for column in columns),
        "subject": subject,
        "later": LATER,
        "all_rows": ALL_ROWS,
        **{f"{key}_key": _key(column) for key, column in (("subject", subject), ("panel", "panel"), ("id", "id"))},
    }
    if rules.conflicts:
        cursor.executemany(CONFLICT.format(key=_key("%s")), list(rules.conflicts.items()))
    for step in STEPS:
        n_rows = cursor.execute(step.format(**names), {"task": task})
    cursor.execute("SELECT COUNT(DISTINCT subject) FROM kept")
    return int(n_rows), int(cursor.fetchone()[0])


def _key(text: str) -> str:
    return f"LEFT(UNHEX(SHA2({text}, 256)), 16)"
