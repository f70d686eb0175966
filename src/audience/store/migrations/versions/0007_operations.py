"""Operations: what runs and publications have in common; jobs that belong to one."""

import uuid
from typing import Any

import sqlalchemy as sa
from alembic import op

from audience.store.migrations.ddl import (
    add_column,
    create_index,
    create_table,
    drop_column,
    drop_index,
    drop_table,
    has_column,
    rename_column,
    rename_table,
)
from audience.store.types import DOCUMENT, REAL, SERIAL, Exact, Prose

revision = "0007"
down_revision = "0006"

ID, NAME, STATE, KIND, TIME = Exact(32), Exact(100), Exact(16), Exact(40), Exact(32)
MOVED = ("state", "error", "started_at", "finished_at", "priority", "served", "queue", "created_by", "created_at")
"""What an operation knows of a run now."""
OF_OPERATION = ("id", "kind", *(name if name != "served" else "last_turn" for name in MOVED))
ACTIONS = {"preview": "preview_publication", "delete": "delete_publication"}
COPIED_ROWS = 1_000


def upgrade() -> None:
    _create_operations()
    _move_runs()
    _create_jobs()
    _move_jobs()
    rename_column("task", "touched", "may_have_rows")
    _move_publications()


def _create_operations() -> None:
    create_table(
        "operation",
        sa.Column("id", ID, primary_key=True),
        sa.Column("kind", KIND, nullable=False),
        sa.Column("subject", Exact(200), nullable=True),
        sa.Column("state", STATE, nullable=False),
        sa.Column("queue", Exact(40), nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("last_turn", sa.BigInteger, nullable=False),
        sa.Column("error", Prose(), nullable=True),
        sa.Column("started_at", TIME, nullable=True),
        sa.Column("finished_at", TIME, nullable=True),
        sa.Column("created_by", NAME, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
    )
    create_index("ix_operation_state", "operation", ["state"])
    create_index("operation_by_kind", "operation", ["kind", "created_at"])
    create_index("operation_by_time", "operation", ["created_at"])


def _move_runs() -> None:
    if has_column("run", MOVED[-1]):
        op.execute(
            f"INSERT INTO operation ({', '.join(OF_OPERATION)}) SELECT id, 'run', {', '.join(MOVED)} FROM run "
            "WHERE id NOT IN (SELECT id FROM operation)"
        )
    drop_index("ix_run_state", "run")
    for name in reversed(MOVED):  # the last one first: while it is there, all are, and rows may have to be copied
        drop_column("run", name)


def _create_jobs() -> None:
    if has_column("job", "run_id"):
        rename_table("job", "job_before")
    create_table(
        "job",
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
        sqlite_autoincrement=True,
    )
    create_index("job_by_operation", "job", ["operation_id", "state"])
    create_index("job_waiting", "job", ["state", "operation_id"])
    create_index("job_by_subject", "job", ["subject", "kind", "state"])


def _move_jobs() -> None:
    """As long as the old table is there, the new one may hold a part of it: it is filled from the beginning."""
    connection = op.get_bind()
    if not sa.inspect(connection).has_table("job_before"):
        return
    old, new = _layouts()
    connection.execute(sa.delete(new))
    last = 0
    while (
        rows := connection.execute(sa.select(old).where(old.c.id > last).order_by(old.c.id).limit(COPIED_ROWS))
        .mappings()
        .all()
    ):
        connection.execute(sa.insert(new), [_job(dict(row)) for row in rows])
        last = rows[-1]["id"]
    if connection.dialect.name == "postgresql":  # ids that were given do not count there
        op.execute("SELECT setval(pg_get_serial_sequence('job', 'id'), (SELECT max(id) + 1 FROM job_before))")
    drop_table("job_before")


KEPT = (
    "id",
    "number",
    "kind",
    "state",
    "urgent",
    "worker",
    "attempts",
    "failures",
    "losses",
    "delay_s",
    "error",
    "sent",
)


def _layouts() -> tuple[sa.TableClause, sa.TableClause]:
    old = ("run_id", "task_id", "fence", "after", "n_read")
    new = ("operation_id", "subject", "lane", "due_at", "progress", "total")
    documents = [sa.column("arguments", DOCUMENT), sa.column("result", DOCUMENT)]
    return (
        sa.table("job_before", *map(sa.column, (*KEPT, *old)), sa.column("counts", DOCUMENT)),
        sa.table("job", *map(sa.column, (*KEPT, *new)), *documents),
    )


def _job(row: dict[str, Any]) -> dict[str, Any]:
    """A job as it is kept now. One that was to wait may be taken at once."""
    counts = row.pop("counts")
    after, fence = row.pop("after"), row.pop("fence")
    row |= {"operation_id": row.pop("run_id"), "subject": row.pop("task_id"), "progress": row.pop("n_read")}
    row |= {"lane": "label" if row["kind"] == "partition" else "manage", "total": None}
    row |= {"due_at": 0.0, "delay_s": 0.0, "urgent": bool(row["urgent"])}
    row["arguments"] = {"fence": fence, **({"after": after} if after else {})}
    row["result"] = counts and {("model_errors" if name == "undigested" else name): n for name, n in counts.items()}
    return row


def _move_publications() -> None:
    create_table(
        "publication_attempt",
        sa.Column("id", ID, sa.ForeignKey("operation.id"), primary_key=True),
        sa.Column("publication_id", ID, nullable=False),
        sa.Column("action", KIND, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("request", DOCUMENT, nullable=False),
        sa.Column("changes", DOCUMENT, nullable=True),
    )
    create_index("ix_publication_attempt_publication_id", "publication_attempt", ["publication_id"])
    add_column("publication", sa.Column("operation_id", ID, nullable=True))
    if has_column("publication", "state"):
        _begin_attempts()
    rename_column("publication", "former", "previous")
    rename_column("publication_version", "asked", "request")
    drop_column("publication", "asked")
    drop_column("publication", "state")


def _begin_attempts() -> None:
    """What was under way becomes an operation, which goes on by itself."""
    if not has_column("publication", "asked"):
        return
    connection = op.get_bind()
    names = ("id", "name", "state", "operation_id")
    publication = sa.table("publication", *map(sa.column, names), sa.column("asked", DOCUMENT))
    busy = sa.select(publication).where(publication.c.state == "busy", publication.c.operation_id.is_(None))
    for row in connection.execute(busy).mappings().all():
        _begin_attempt(connection, dict(row))
        begun = sa.update(publication).where(publication.c.id == row["id"])
        connection.execute(begun.values(operation_id=_operation_id(row["id"])))


def _operation_id(publication_id: str) -> str:
    """The same whenever this is done again."""
    return uuid.uuid5(uuid.NAMESPACE_OID, publication_id).hex


def _begin_attempt(connection: sa.Connection, row: dict[str, Any]) -> None:
    asked = dict(row["asked"])
    action = ACTIONS.get(asked["action"], asked["action"])
    operation_id, made = _operation_id(row["id"]), {"created_by": asked["actor"], "created_at": asked["at"]}
    request = {name: asked[name] for name in ("runs", "replace", "indexes", "conflicts", "forget") if name in asked}
    operation = {"id": operation_id, "kind": "publication", "subject": row["name"], "state": "planned"}
    operation |= {"queue": "default", "priority": 0, "last_turn": 0, **made}
    attempt = {"id": operation_id, "publication_id": row["id"], "action": action, "version": asked["version"]}
    attempt |= {"request": request, "changes": asked.get("changes") or sa.null()}
    job = {"operation_id": operation_id, "number": 0, "kind": action, "lane": "manage", "arguments": {}}
    job |= {"state": "waiting", "urgent": False, "attempts": 0, "failures": 0, "losses": 0, "delay_s": 0.0}
    job |= {"due_at": 0.0, "progress": 0, "sent": 0}
    documents = [sa.column("request", DOCUMENT), sa.column("changes", DOCUMENT)]
    attempts = sa.table(
        "publication_attempt", *map(sa.column, ("id", "publication_id", "action", "version")), *documents
    )
    jobs = sa.table("job", *(sa.column(name) for name in job if name != "arguments"), sa.column("arguments", DOCUMENT))
    connection.execute(sa.insert(sa.table("operation", *map(sa.column, operation))).values(operation))
    connection.execute(sa.insert(attempts).values(attempt))
    connection.execute(sa.insert(jobs).values(job))
