"""How a kind of database says what all of them can: the statements of `SqlTarget`.

What is here is what SQLite and PostgreSQL say; MariaDB and MySQL differ in their upserts."""

from collections.abc import Callable, Mapping, Sequence

from audience.tables.base import NO_BOUNDS, PRODUCTION_COLUMNS, Bound
from audience.tables.sql.schema import MARKS, STANDING, TASKS


class Dialect:
    """Statements whose values are bound. They are written with `%s`; `bound` gives them the driver's placeholder."""

    placeholder = "%s"
    no_bytes = "''"
    text_of_time = "{}"
    """A time as the text that `result_batch` reads."""
    unless_there = "ON CONFLICT DO NOTHING"
    lock, shared_lock = "FOR UPDATE", "FOR SHARE"
    """Empty where who writes is alone anyway."""
    admitted = f"""
INSERT INTO {TASKS} AS t VALUES (%s, %s, 'open')
ON CONFLICT (task) DO UPDATE SET fence = excluded.fence WHERE t.fence <= excluded.fence AND t.state = 'open'
"""
    """(task, fence): admits a fence that is as new as the present one."""
    temporary = "TEMP"
    by_key = "JOIN"
    """A join that looks rows up, one after another, in the order of the table before it."""
    deleted = f"INSERT INTO {TASKS} VALUES (%s, 0, 'deleted') ON CONFLICT (task) DO UPDATE SET state = 'deleted'"

    def __init__(self, quoted: Callable[[str], str], types: Mapping[str, str], text: str) -> None:
        """Takes what the statements are made of. `types`: those of columns that are no plain text; `text`: the type of
        all others."""
        self.quoted, self.types, self.text = quoted, types, text

    def results_table(self, group: str) -> str:
        return self.checked(f"results_{group}")

    def production_table(self, group: str) -> str:
        return self.checked(f"production_{group}")

    def checked(self, name: str) -> str:
        """Returns the name of a table; refuses one that the database does not take as it is."""
        return name

    def listed(self, names: Sequence[str]) -> str:
        """Returns identifiers as SQL, with commas between them."""
        return ", ".join(map(self.quoted, names))

    def declared(self, columns: Sequence[str], key: Sequence[str] = (), bounds: Mapping[str, Bound] = NO_BOUNDS) -> str:
        """Returns the columns of a table, and its primary key, if it has one, as DDL."""
        parts = [f"{self.quoted(name)} {type_}" for name, type_ in self.types_of(columns, bounds).items()]
        return ", ".join([*parts, *([f"PRIMARY KEY ({self.listed(key)})"] if key else [])])

    def types_of(self, columns: Sequence[str], bounds: Mapping[str, Bound]) -> dict[str, str]:
        """Returns column -> type."""
        types = {**self.types, **{name: self.bounded(bound) for name, bound in bounds.items()}}
        return {name: types.get(name, self.text) for name in columns}

    def bounded(self, bound: Bound) -> str:
        """Returns the type of a column whose values are so."""
        return self.text

    def bound(self, sql: str) -> str:
        """Returns a statement as the driver takes it."""
        return sql if self.placeholder == "%s" else sql.replace("%s", self.placeholder)

    def state(self, lock: str) -> str:
        """Returns SQL of (task): its fence and state. `lock` makes who changes them wait for this transaction, and this
        one for who does."""
        return f"SELECT fence, state FROM {TASKS} WHERE task = %s {lock}"

    @property
    def barred(self) -> str:
        """Returns SQL of (fence, task, fence): refuses every older fence."""
        return f"UPDATE {TASKS} SET fence = %s WHERE task = %s AND fence < %s AND state = 'open'"

    @property
    def claimed(self) -> str:
        """Returns SQL of (task, partition, fence): makes the mark, unless it is there; then no row is affected. On a
        server it waits for another writer of the partition to end."""
        return f"INSERT INTO {MARKS} VALUES (%s, %s, %s, 0, '', {self.no_bytes}) {self.unless_there}"

    @property
    def done(self) -> str:
        """Returns SQL of (rows, statistics, authors, task, partition): completes the mark when all rows are in."""
        rows, partition = self.quoted("rows"), self.quoted("partition")
        return f"UPDATE {MARKS} SET {rows} = %s, statistics = %s, authors = %s WHERE task = %s AND {partition} = %s"

    def marks(self, *, authors: bool) -> str:
        """Returns SQL of (task): the columns of a `Mark`, to which an order is added; without `authors` that blob is
        not read."""
        columns = self.listed(("partition", "rows", "statistics"))
        return f"SELECT {columns}, {'authors' if authors else self.no_bytes} FROM {MARKS} WHERE task = %s"

    @property
    def standing(self) -> str:
        """Returns DDL of a table of the session's own: which rows stand for their pairs."""
        columns = ", ".join(f"{self.quoted(name)} BIGINT NOT NULL" for name in ("partition", "n", "posts", "at"))
        return f"CREATE {self.temporary} TABLE {STANDING} ({columns})"

    def produced(self, group: str) -> str:
        """Returns SQL of (task): copies the rows that stand into production, by time."""
        columns = [name for name in PRODUCTION_COLUMNS if name != "posts"]
        key = self.listed(("at", "partition", "n"))
        partition = self.quoted("partition")
        return f"""
INSERT INTO {self.quoted(self.production_table(group))} ({self.listed(columns)}, posts, n)
SELECT {", ".join(f"r.{self.quoted(name)}" for name in columns)}, w.posts, w.place
FROM (SELECT {partition}, n, posts, row_number() OVER (ORDER BY {key}) AS place FROM {STANDING}) w
{self.by_key} {self.quoted(self.results_table(group))} r
    ON r.task_id = %s AND r.{partition} = w.{partition} AND r.n = w.n
"""

    def row(self, table: str, columns: Sequence[str]) -> str:
        """Returns SQL of (task, partition, n): one result row, its time as text."""
        taken = [
            self.text_of_time.format(self.quoted(name)) if name == "create_time" else self.quoted(name)
            for name in columns
        ]
        key = f"task_id = %s AND {self.quoted('partition')} = %s AND n = %s"
        return f"SELECT {', '.join(taken)} FROM {self.quoted(table)} WHERE {key}"
