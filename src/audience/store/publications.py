"""Publications: what they are made of, which version is published, and the operation that is under way. The target says
what is published; the numbers here follow it. Whatever is done with a publication is an operation of the kind
`publication`."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from audience.errors import Conflict, NotFound
from audience.store import operations, schema
from audience.store.database import Database, Record, new_id, note, now, rows_of
from audience.store.idempotency import IdempotencyKey, keep_made, made_before
from audience.store.operations import WORKER, add_operation
from audience.store.queue_rows import add_jobs

KIND = "publication"
DOING = {
    "publish": "published",
    "preview_publication": "previewed",
    "roll_back": "rolled back",
    "delete_publication": "deleted",
}
"""Action -> what it makes of a publication; the names are those of the jobs that do it."""
DISCARD = "discard_publication"


class Publications:
    """Keeps publications. One operation at a time is under way for each. The request is written down with the job that
    carries it out; only the newest attempt can end it."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def add(self, name: str, spec: Record, actor: str, key: IdempotencyKey | None = None) -> Record:
        """Adds a publication, and returns its name and time."""
        row: Record = {"id": new_id(), "name": name, "spec": spec, "created_by": actor, "created_at": now()}
        row |= {"operation_id": None, "fence": 0, "numbered": 0, "version": 0, "previous": 0, "preview": None}
        with self.database.writing() as connection:
            if made := made_before(connection, key):
                return made
            if _named(connection, name):
                raise Conflict(f"there is a publication {name!r} already: choose another name")
            connection.execute(sa.insert(schema.publication).values(row))
            note(connection, actor, "publication.add", name)
            return keep_made(connection, key, {"name": name, "created_at": row["created_at"]})

    def get(self, name: str) -> Record:
        """Returns a publication with its `versions`, newest first, and under `doing` the attempt that is under way."""
        with self.database.reading() as connection:
            record = _with_doing(connection, _one(connection, name))
            c = schema.publication_version.c
            versions = sa.select(schema.publication_version).where(c.publication_id == record["id"])
            return {**record, "versions": rows_of(connection, versions.order_by(c.version.desc()))}

    def all(self) -> list[Record]:
        """Returns all publications by name, each with the attempt that is under way as `doing`."""
        with self.database.reading() as connection:
            found = rows_of(connection, sa.select(schema.publication).order_by(schema.publication.c.name))
            return [_with_doing(connection, record) for record in found]

    def begin(self, name: str, action: str, request: Record, actor: str, base: int | None = None) -> str:
        """Writes down an action with its request and its job; returns the operation's id. `base`: the version that must
        be published now. Raises Conflict while another action is under way."""
        publication, attempt = schema.publication, schema.publication_attempt
        with self.database.writing() as connection:
            record = _with_doing(connection, _one(connection, name))
            if record["doing"] is not None:
                _make_way(connection, record, request)
            if base not in (None, record["version"]):
                raise Conflict(
                    f"of {name!r} version {record['version']} is published now, not {base}: look again", "idle"
                )
            row = add_operation(connection, KIND, actor, subject=name)
            number = record["numbered"] + 1 if action == "publish" else record["numbered"]
            version = request.get("version", record["numbered"] + 1)
            values = {"id": row["id"], "publication_id": record["id"], "action": action, "version": version}
            connection.execute(sa.insert(attempt).values({**values, "request": request, "changes": sa.null()}))
            changed = {"operation_id": row["id"], "numbered": number, "error": None}
            connection.execute(sa.update(publication).where(publication.c.id == record["id"]).values(changed))
            add_jobs(connection, row["id"], action)
            note(connection, actor, f"publication.{action}", name)
            return str(row["id"])

    def attempt(self, operation_id: str) -> Record:
        """Begins one more attempt at the action, and returns the publication with it as `doing`; earlier attempts can
        change nothing any more. Raises Conflict when the action has ended."""
        publication = schema.publication
        with self.database.writing() as connection:
            query = sa.select(publication).where(publication.c.operation_id == operation_id)
            if not (found := rows_of(connection, query)):
                raise Conflict("this was done with the publication already, or the publication is no more")
            fence = found[0]["fence"] + 1
            connection.execute(sa.update(publication).where(publication.c.id == found[0]["id"]).values(fence=fence))
            if operations.get_operation(connection, operation_id)["state"] == "planned":
                operations.move(connection, operation_id, "running", WORKER)
            return _with_doing(connection, {**found[0], "fence": fence})

    def note_changes(self, record: Record, changes: Sequence[Record]) -> None:
        """Keeps the changes that an attempt has counted, just before it publishes them. Raises Conflict when it was
        overtaken."""
        attempt = schema.publication_attempt
        with self.database.writing() as connection:
            _update(connection, record, fence=record["fence"])
            counted = sa.update(attempt).where(attempt.c.id == record["operation_id"])
            connection.execute(counted.values(changes=list(changes)))


# what follows when a job has ended, in the transaction that ends it


def published(
    connection: sa.Connection, record: Record, spec: Record, previous: int, changes: Sequence[Record]
) -> None:
    """Ends an attempt at a version, which is published now."""
    doing = record["doing"]
    kept = {name: doing["request"][name] for name in ("runs", "replace", "indexes", "conflicts")}
    row = {"publication_id": record["id"], "version": doing["version"], "request": kept, "changes": list(changes)}
    made = {"created_by": doing["created_by"], "created_at": doing["created_at"]}
    _end(connection, record, version=doing["version"], previous=previous, spec=spec, preview=sa.null())
    connection.execute(sa.insert(schema.publication_version).values({**row, **made}))
    note(connection, doing["created_by"], "publication.published", record["name"], version=doing["version"])


def rolled_back(connection: sa.Connection, record: Record, version: int, previous: int) -> None:
    """Ends an attempt that brought the previous version back."""
    _end(connection, record, version=version, previous=previous, preview=sa.null())
    note(connection, record["doing"]["created_by"], "publication.rolled_back", record["name"], version=version)


def previewed(connection: sa.Connection, record: Record, changes: Sequence[Record]) -> None:
    """Ends a preview, and keeps its changes."""
    doing = record["doing"]
    found = {"base": record["version"], "at": doing["created_at"], "changes": list(changes)}
    _end(
        connection, record, preview={**found, "runs": doing["request"]["runs"], "replace": doing["request"]["replace"]}
    )


def deleted(connection: sa.Connection, record: Record) -> None:
    """Ends a deletion: the tables are gone."""
    _end(connection, record)
    version, publication = schema.publication_version, schema.publication
    connection.execute(sa.delete(version).where(version.c.publication_id == record["id"]))
    connection.execute(sa.delete(publication).where(publication.c.id == record["id"]))
    attempt = schema.publication_attempt
    connection.execute(sa.delete(attempt).where(attempt.c.publication_id == record["id"]))
    note(connection, record["doing"]["created_by"], "publication.deleted", record["name"])


def ended(connection: sa.Connection, operation_id: str, state: str, reason: str | None) -> None:
    """Ends an attempt, of any action, that changed nothing."""
    publication = schema.publication
    idle = {"operation_id": None, "error": reason}
    connection.execute(sa.update(publication).where(publication.c.operation_id == operation_id).values(idle))
    operations.begin(connection, operation_id, WORKER)
    operations.move(connection, operation_id, state, WORKER, reason)


def gave_up(connection: sa.Connection, operation_id: str, reason: str) -> None:
    """Ends an attempt that failed. One that may have published all the same, because its target was away in the end, is
    left to the job that discards, which waits until the target is back."""
    attempt = schema.publication_attempt
    doing = rows_of(connection, sa.select(attempt).where(attempt.c.id == operation_id))[0]
    if doing["changes"] is None and doing["action"] != "roll_back":
        ended(connection, operation_id, "failed", reason)
        return
    operations.move(connection, operation_id, "aborting", WORKER, reason)
    discard(connection, operation_id, WORKER)


def discard(connection: sa.Connection, operation_id: str, actor: str) -> None:
    """Cancels the attempt that is under way: a job removes what it has left in the target."""
    add_jobs(connection, operation_id, DISCARD, urgent=True)


def _make_way(connection: sa.Connection, record: Record, request: Record) -> None:
    """Ends the attempt under way for a deletion with `forget`: discarding would wait for ever for a target that is
    gone."""
    if not (request.get("forget") and record["doing"]["state"] == "aborting"):
        raise Conflict(f"{under_way(record)}: wait for it, or cancel the operation {record['operation_id']}", "busy")
    operations.cancel_jobs(connection, record["operation_id"])
    operations.move(connection, record["operation_id"], "aborted", WORKER, keep_error=True)


def _named(connection: sa.Connection, name: str) -> list[Record]:
    return rows_of(connection, sa.select(schema.publication).where(schema.publication.c.name == name))


def _one(connection: sa.Connection, name: str) -> Record:
    found = _named(connection, name)
    if not found:
        raise NotFound(f"there is no publication {name!r}; `audience publication list` shows them")
    return found[0]


def _with_doing(connection: sa.Connection, record: Record) -> Record:
    """Adds the attempt under way as `doing`: action, version, request, changes, by whom, since when, its state."""
    if record["operation_id"] is None:
        return {**record, "doing": None}
    attempt, operation = schema.publication_attempt, schema.operation
    known = (operation.c.created_by, operation.c.created_at, operation.c.state)
    query = sa.select(attempt, *known).join(operation, operation.c.id == attempt.c.id)
    return {**record, "doing": rows_of(connection, query.where(attempt.c.id == record["operation_id"]))[0]}


def _end(connection: sa.Connection, record: Record, **values: Any) -> None:
    """Ends the attempt and makes the publication idle. The only way back to idle after success."""
    _update(connection, record, **{"operation_id": None, "error": None, **values})
    operations.move(connection, record["operation_id"], "done", WORKER)


def _update(connection: sa.Connection, record: Record, **values: Any) -> None:
    """Updates a publication, if this attempt is the newest."""
    c = schema.publication.c
    newest = (c.id == record["id"], c.fence == record["fence"], c.operation_id == record["operation_id"])
    if connection.execute(sa.update(schema.publication).where(*newest).values(values)).rowcount == 0:
        raise Conflict(f"the publication {record['name']!r} was overtaken or deleted meanwhile")


def under_way(record: Record) -> str:
    """Returns what is under way for a busy publication, by whom and since when, for messages."""
    doing = record["doing"]
    what, since = DOING[doing["action"]], doing["created_at"][:19]
    return f"{record['name']!r} is being {what} by {doing['created_by']} since {since}"
