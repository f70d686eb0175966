"""What targets in databases share: who may write, what is written already, and in which order that is asked and said.

How rows come in and go out, and how production is made, each kind has in its own folder: plans, locks and bulk loads
have little in common."""

import contextlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import polars as pl
import pyarrow as pa

from audience.errors import Conflict
from audience.tables.base import (
    DEFAULT_LAYOUT,
    PRODUCTION_COLUMNS,
    ConflictRules,
    Mark,
    ResultLayout,
    Statistics,
)
from audience.tables.batches import rebatched
from audience.tables.production import NARROW, standing_rows
from audience.tables.result_rows import STORED, gathered, result_batch, shown_rows
from audience.tables.sql.dialect import Dialect
from audience.tables.sql.schema import MARKS, MARKS_KEY, PRODUCTION_INDEXES, PRODUCTION_KEY, RESULTS_KEY, STANDING

Session = contextlib.AbstractContextManager[Any]


class Loader(Protocol):
    """Loads the rows of one transaction."""

    def load(self, batch: pa.RecordBatch) -> int:
        """Returns the number of rows, all of which are in their tables; raises BadInput with one that is refused."""

    def load_frame(self, table: str, frame: pl.DataFrame) -> None:
        """Loads rows into a table that has these columns."""

    def check_mark(self, mark: Sequence[Any]) -> None:
        """Refuses a mark that the database could not store."""


class SqlTarget(ABC):
    """Result and production tables in a database, beside whatever else lives there. A session is what the driver runs
    SQL in: `execute` returns, or leaves, a cursor."""

    unstorable = ""
    dialect: Dialect

    def __init__(self, url: str, place: str = "") -> None:
        self.url = url
        self.place = place or url

    # what a kind has to know

    @abstractmethod
    def _making(self) -> Session:
        """Opens a session that makes tables; it may make the database, too."""

    @abstractmethod
    def _changing(self) -> Session:
        """Opens a session in which what is said first stays said, also when what follows fails."""

    @abstractmethod
    def _reading(self) -> Session:
        """Opens what `_rows` reads in, so that it sees one moment where the database can."""

    @abstractmethod
    def _writing(self) -> Session:
        """Opens a transaction for the rows of a partition."""

    @abstractmethod
    def _producing(self) -> Session:
        """Opens a transaction for production, with the temporary table STANDING."""

    @abstractmethod
    def _create_task_tables(self, session: Any, /) -> None: ...

    @abstractmethod
    def _create(
        self, session: Any, table: str, columns: Sequence[str], key: tuple[str, ...], layout: ResultLayout, /
    ) -> None:
        """Creates a table; refuses one that is not ours. One of ours that is there is widened where it has to be, and
        gets the indexes that it lacks."""

    @abstractmethod
    def _is_prepared(self) -> bool:
        """Returns whether anything was ever prepared here."""

    @abstractmethod
    def _groups(self, session: Any, /) -> list[str]:
        """Returns the groups that have a table of ours."""

    @abstractmethod
    def _loader(self, session: Any, /) -> Loader: ...

    @abstractmethod
    def _marks(self, sql: str, task: str) -> Iterator[Sequence[Any]]:
        """Yields the marks in order, with one in memory at a time."""

    @abstractmethod
    def _rows(
        self, session: Any, table: str, key: tuple[str, ...], task: str, names: Sequence[str], group: str
    ) -> Iterator[pa.RecordBatch]:
        """Yields the task's rows of a table in the order of the key, bounded in memory."""

    def _narrow_rows(self, session: Any, task: str, group: str) -> Iterator[pa.RecordBatch]:
        """Yields the columns NARROW of a task's results, bounded in memory."""
        return self._rows(session, self.dialect.results_table(group), RESULTS_KEY[1:], task, NARROW, group)

    def _remove(self, session: Any, table: str, column: str, key: Sequence[str], task: str) -> None:
        """Removes a task's rows, which `column` tells, of a table with this key."""
        self._run(session, f"DELETE FROM {self.dialect.quoted(table)} WHERE {column} = %s", (task,))

    def _run(self, session: Any, sql: str, values: Sequence[Any] = ()) -> Any:
        """Returns the cursor of an executed statement."""
        return session.execute(self.dialect.bound(sql), values)

    # what all do

    def prepare(self, task: str, fence: int, groups: Sequence[str], layout: ResultLayout = DEFAULT_LAYOUT) -> None:
        with self._making() as session:
            self._create_task_tables(session)
            self._run(session, self.dialect.admitted, (task, fence))
            if self._state(session, task) != (fence, "open"):
                raise Conflict(f"task {task} was taken over or deleted; fence {fence} is not admitted")
            for group in groups:  # the table of results is the last: by that one a group is found
                production, results = self.dialect.production_table(group), self.dialect.results_table(group)
                found = ResultLayout(layout.bounds, PRODUCTION_INDEXES)
                self._create(session, production, (*PRODUCTION_COLUMNS, "n"), PRODUCTION_KEY, found)
                self._create(session, results, STORED, RESULTS_KEY, layout)

    def bar(self, task: str, fence: int) -> None:
        if self._is_prepared():
            with self._changing() as session:
                self._run(session, self.dialect.barred, (fence, task, fence))

    def exists(self) -> bool:
        return self._is_prepared()

    def write(
        self, task: str, partition: int, fence: int, rows: Iterable[pa.RecordBatch], statistics: Statistics
    ) -> bool:
        """Checks the fence first and, under a shared lock, last: writers of one task do not wait for each other, and
        what raises the fence does not wait for rows. The mark goes in before the rows: a second writer of the partition
        waits at it, and then finds it there."""
        batches = iter(rows)
        buffered = gathered(batches)  # before a lock is held: models may take their time
        with self._writing() as session:
            self._check_fence(session, task, fence)
            if self._run(session, self.dialect.claimed, (task, partition, fence)).rowcount == 0:
                return False
            loader = self._loader(session)
            n_rows = sum(map(loader.load, rebatched(itertools.chain(buffered, batches))))
            mark = (n_rows, statistics.to_json(), statistics.packed_authors(), task, partition)
            loader.check_mark(mark)
            self._run(session, self.dialect.done, mark)
            if self.dialect.shared_lock:
                self._check_fence(session, task, fence, self.dialect.shared_lock)
        return True

    def marks(self, task: str, *, authors: bool = True) -> Iterator[Mark]:
        if self._is_prepared():
            for partition, n_rows, statistics, packed in self._marks(self.dialect.marks(authors=authors), task):
                yield Mark(partition, n_rows, statistics, packed if authors else b"")

    def results(self, task: str, group: str | None = None, columns: Sequence[str] = ()) -> Iterator[pa.RecordBatch]:
        names = tuple(columns or STORED)
        with self._reading() as session:
            for each in [group] if group else self._groups(session):
                yield from self._rows(session, self.dialect.results_table(each), RESULTS_KEY[1:], task, names, each)

    def production(self, task: str, group: str) -> Iterator[pa.RecordBatch]:
        with self._reading() as session:
            table = self.dialect.production_table(group)
            yield from self._rows(session, table, PRODUCTION_KEY[1:], task, PRODUCTION_COLUMNS, group)

    def fetch(self, task: str, keys: Sequence[tuple[str, int, int]]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        with self._reading() as session:
            for group, partition, n in keys:
                sql = self.dialect.row(self.dialect.results_table(group), STORED)
                if rows := self._run(session, sql, (task, partition, n)).fetchall():
                    found += shown_rows(result_batch(STORED, rows, group))
        return found

    def produce(self, task: str, group: str, fence: int, rules: ConflictRules) -> tuple[int, int]:
        """Locks the fence: what raises it waits for the end of this, and this for what raises it."""
        if not self._is_prepared():
            raise Conflict(f"the results are gone: there is no task {task} in {self.place}")
        with self._producing() as session:
            self._check_fence(session, task, fence, self.dialect.lock)
            table = self.dialect.quoted(self.dialect.production_table(group))
            self._run(session, f"DELETE FROM {table} WHERE task_id = %s", (task,))
            return self._produce(session, task, group, rules)

    def _produce(self, session: Any, task: str, group: str, rules: ConflictRules) -> tuple[int, int]:
        n_rows = n_subjects = 0
        loader = self._loader(session)
        for standing, n in standing_rows(self._narrow_rows(session, task, group), rules):
            if len(standing):
                loader.load_frame(STANDING, standing)
            n_rows, n_subjects = n_rows + len(standing), n_subjects + n
        if self._run(session, self.dialect.produced(group), (task,)).rowcount != n_rows:
            raise Conflict(f"the results of task {task} changed while its production was made; nothing is written")
        return n_rows, n_subjects

    def delete(self, task: str) -> None:
        """Bars the task first and for good. What is deleted then may be deleted in parts: its writers are gone, or are
        refused at their end."""
        if not self._is_prepared():
            return
        with self._changing() as session:
            self._run(session, self.dialect.deleted, (task,))
            self._remove(session, MARKS, "task", MARKS_KEY, task)
            for group in self._groups(session):
                self._remove(session, self.dialect.results_table(group), "task_id", RESULTS_KEY, task)
                self._remove(session, self.dialect.production_table(group), "task_id", PRODUCTION_KEY, task)

    def where(self, group: str, production: bool = False) -> str:
        named = self.dialect.production_table if production else self.dialect.results_table
        return f"{self.place}, table {named(group)}"

    def _state(self, session: Any, task: str, lock: str = "") -> tuple[int, str] | None:
        found: tuple[int, str] | None = self._run(session, self.dialect.state(lock), (task,)).fetchone()
        return found

    def _check_fence(self, session: Any, task: str, fence: int, lock: str = "") -> None:
        if self._state(session, task, lock) != (fence, "open"):
            raise Conflict(f"task {task} was taken over or deleted; nothing is written")
