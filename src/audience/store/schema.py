"""Our own records as tables. Keys are short, so that they fit the indexes of every database."""

import sqlalchemy as sa

from audience.store.types import DOCUMENT, REAL, SERIAL, Exact, Prose

metadata = sa.MetaData()

NAME = Exact(100)
ID = Exact(32)
STATE = Exact(16)
KIND = Exact(40)
TIME = Exact(32)


def _created() -> list[sa.Column[str]]:
    return [sa.Column("created_by", NAME, nullable=False), sa.Column("created_at", TIME, nullable=False)]


source = sa.Table(
    "source",
    metadata,
    sa.Column("name", NAME, primary_key=True),
    sa.Column("spec", DOCUMENT, nullable=False),
    *_created(),
)

model = sa.Table(
    "model",
    metadata,
    sa.Column("name", NAME, primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("kind", NAME, nullable=False),
    sa.Column("digest", Exact(64), nullable=False),
    sa.Column("definition", DOCUMENT, nullable=True),
    sa.Column("warnings", DOCUMENT, nullable=False),
    sa.Column("inputs", DOCUMENT, nullable=True),
    sa.Column("labels", DOCUMENT, nullable=True),
    sa.Column("summary", DOCUMENT, nullable=True),
    sa.Column("protocol", sa.Integer, nullable=False, server_default="1"),
    sa.Column("artifacts", DOCUMENT, nullable=True),
    sa.Column("lineage", DOCUMENT, nullable=True),
    sa.Column("notes", Prose(), nullable=True),
    *_created(),
)
"""`digest`: of what makes two versions the same. `definition`: its parameters; null when they are large, then they are
the artifact `definition`. `artifacts`: name -> digest of a blob. `inputs` (fields it looks at), `labels` and `summary`
tell what it is without building it; null of versions saved before 0006 whose definition is a blob. `protocol`: the
layout of definition and artifacts, a number of the kind's; `ModelKind` says how it is raised. `lineage`: what it was
trained on and how; null of rules."""

model_number = sa.Table(
    "model_number",
    metadata,
    sa.Column("name", NAME, primary_key=True),
    sa.Column("last", sa.Integer, nullable=False),
)
"""The last number that a version under this name was given: one that was deleted is not given again, for results may
carry it."""

model_alias = sa.Table(
    "model_alias",
    metadata,
    sa.Column("id", SERIAL, primary_key=True, autoincrement=True),
    sa.Column("name", NAME, nullable=False),
    sa.Column("alias", NAME, nullable=False),
    sa.Column("version", sa.Integer, nullable=True),
    sa.Column("set_by", NAME, nullable=False),
    sa.Column("set_at", TIME, nullable=False),
    sa.Index("model_alias_by_name", "name", "alias"),
)
"""What an alias was set to and when, oldest first, only added to: the last row of an alias is what it leads to. Null
`version`: it was removed."""

operation = sa.Table(
    "operation",
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("kind", KIND, nullable=False),
    sa.Column("subject", Exact(200), nullable=True),
    sa.Column("state", STATE, nullable=False, index=True),
    sa.Column("queue", Exact(40), nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("last_turn", sa.BigInteger, nullable=False),
    sa.Column("error", Prose(), nullable=True),
    sa.Column("started_at", TIME, nullable=True),
    sa.Column("finished_at", TIME, nullable=True),
    *_created(),
    sa.Index("operation_by_kind", "kind", "created_at"),
    sa.Index("operation_by_time", "created_at"),
)
"""Whatever a user waits for and may stop. Each kind keeps its own row, with the same id, beside it. `subject`: the name
of what it is about, for people. `queue`: only workers that serve it take its jobs. `priority`: higher first.
`last_turn`: when a job of it was taken last, counted over all operations: the least is next."""

run = sa.Table(
    "run",
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("spec", DOCUMENT, nullable=False),
)
"""Its id is that of its operation, which knows its state."""

task = sa.Table(
    "task",
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("run_id", ID, sa.ForeignKey("run.id"), nullable=False, index=True),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("spec", DOCUMENT, nullable=False),
    sa.Column("state", STATE, nullable=False),
    sa.Column("n_planned", sa.BigInteger, nullable=True),
    sa.Column("set_aside", DOCUMENT, nullable=True),
    sa.Column("report", DOCUMENT, nullable=True),
    sa.Column("error", Prose(), nullable=True),
    sa.Column("fence", sa.Integer, nullable=False, server_default="0"),
    sa.Column("may_have_rows", sa.Boolean, nullable=False, server_default="0"),
    sa.Column("started_at", TIME, nullable=True),
    sa.Column("worked_s", REAL, nullable=False, server_default="0"),
    sa.Column("by_author", sa.Boolean, nullable=True),
    sa.Column("peak_mb", REAL, nullable=True),
    sa.Column("peak_by", Exact(40), nullable=True),
    *_created(),
)
"""`fence` counts starts, aborts and resumes: the target refuses writers with an older one. `may_have_rows`: the target
may hold rows of the task. `started_at`: when the clock that now runs was started; `worked_s`: what it showed when it
was stopped. `by_author`: whether its source has authors. `peak_mb`: the largest resident size of a process while it
planned or labelled for the task, `peak_by` how that was measured."""

partition = sa.Table(
    "partition",
    metadata,
    sa.Column("task_id", ID, sa.ForeignKey("task.id"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("slice", DOCUMENT, nullable=False),
    sa.Column("n_rows", sa.BigInteger, nullable=False),
)

job = sa.Table(
    "job",
    metadata,
    sa.Column("id", SERIAL, primary_key=True, autoincrement=True),
    sa.Column("operation_id", ID, sa.ForeignKey("operation.id"), nullable=False),
    sa.Column("subject", ID, nullable=True),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("kind", KIND, nullable=False),
    sa.Column("lane", STATE, nullable=False),
    sa.Column("arguments", DOCUMENT, nullable=False),
    sa.Column("state", STATE, nullable=False),
    sa.Column("urgent", sa.Boolean, nullable=False),
    sa.Column("worker", ID, nullable=True),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("failures", sa.Integer, nullable=False),
    sa.Column("losses", sa.Integer, nullable=False),
    sa.Column("delay_s", REAL, nullable=False),
    sa.Column("due_at", REAL, nullable=False),
    sa.Column("progress", sa.BigInteger, nullable=False),
    sa.Column("total", sa.BigInteger, nullable=True),
    sa.Column("result", DOCUMENT, nullable=True),
    sa.Column("error", Prose(), nullable=True),
    sa.Column("sent", sa.Integer, nullable=False),
    sa.Index("job_by_operation", "operation_id", "state"),
    sa.Index("job_waiting", "state", "operation_id"),
    sa.Index("job_by_subject", "subject", "kind", "state"),
    sqlite_autoincrement=True,  # an id is never used again: a late owner would finish another's job
)
"""A step of an operation, for a worker. `subject`: the record that it is about (a task), `number` its place among the
jobs of one kind there. `lane` and the operation's queue say which workers take it. `attempts` counts how often it was
claimed, or left to others by a worker that got its message, `failures` how often it was put back after a passing error,
which `error` tells, `losses` the workers that vanished with it. `due_at`: the time before which it is not claimed, in
seconds since 1970 as the database's own clock counts them; `delay_s`: how far ahead that was when it was set.
`progress` of `total`: rows, or whatever its kind counts. `result`: what its kind found. `sent`: how many messages were
sent for it since it was last claimed."""

worker = sa.Table(
    "worker",
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("name", NAME, nullable=False),
    sa.Column("threads", sa.Integer, nullable=False),
    sa.Column("beat", sa.BigInteger, nullable=False),
    sa.Column("started_at", TIME, nullable=False),
    sa.Column("queues", Exact(400), nullable=False, server_default="default"),
    sa.Column("pool", STATE, nullable=False, server_default="local"),
)
"""Processes that take jobs, as long as they are thought alive. `beat` counts heartbeats. `queues`: the lanes that it
serves, as `queues.text_of` writes them. `pool`: how it works on several jobs at once; `local` looks for them itself."""

mapping = sa.Table(
    "mapping",
    metadata,
    sa.Column("kind", Exact(20), primary_key=True),
    sa.Column("name", NAME, primary_key=True),
    sa.Column("definition", DOCUMENT, nullable=False),
    *_created(),
)
"""Saved groups (channel -> result table) and conflict groups (which labels contradict each other)."""

publication = sa.Table(
    "publication",
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("name", NAME, nullable=False, unique=True),
    sa.Column("spec", DOCUMENT, nullable=False),
    sa.Column("operation_id", ID, nullable=True),
    sa.Column("fence", sa.Integer, nullable=False),
    sa.Column("numbered", sa.Integer, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("previous", sa.Integer, nullable=False),
    sa.Column("preview", DOCUMENT, nullable=True),
    sa.Column("error", Prose(), nullable=True),
    *_created(),
)
"""`operation_id`: the action that is under way; null: none. `fence` counts attempts at anything. `numbered`: the last
number that a version was given. `version` is published, `previous` was before; 0: none. `preview`: what the last
preview found, until something else is published. `error`: why the last attempt failed."""

publication_attempt = sa.Table(
    "publication_attempt",
    metadata,
    sa.Column("id", ID, sa.ForeignKey("operation.id"), primary_key=True),
    sa.Column("publication_id", ID, nullable=False, index=True),
    sa.Column("action", KIND, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("request", DOCUMENT, nullable=False),
    sa.Column("changes", DOCUMENT, nullable=True),
)
"""What an operation is to do with a publication. `changes`: what the next version changes, noted just before it is
swapped in, because nobody can count that afterwards."""

publication_version = sa.Table(
    "publication_version",
    metadata,
    sa.Column("publication_id", ID, sa.ForeignKey("publication.id"), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("request", DOCUMENT, nullable=False),
    sa.Column("changes", DOCUMENT, nullable=False),
    *_created(),
)
"""What was published when: the runs, and how many rows of each index and panel that changed."""

answer = sa.Table(
    "answer",
    metadata,
    sa.Column("idempotency_key", Exact(200), primary_key=True),
    sa.Column("digest", Exact(64), nullable=False),
    sa.Column("body", DOCUMENT, nullable=False),
    sa.Column("created_at", TIME, nullable=False),
)
"""What a create with an Idempotency-Key made, `body`; `digest` is of the request."""

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", SERIAL, primary_key=True, autoincrement=True),
    sa.Column("at", TIME, nullable=False),
    sa.Column("actor", NAME, nullable=False),
    sa.Column("action", Exact(40), nullable=False),
    sa.Column("subject", Exact(200), nullable=False, index=True),
    sa.Column("details", DOCUMENT, nullable=False),
)
