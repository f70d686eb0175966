"""Creates that may be requested twice: what a request with a client's key has made is kept, and returned again."""

import datetime as dt
from dataclasses import dataclass

import sqlalchemy as sa

from audience.errors import BadInput
from audience.store import schema
from audience.store.database import Database, Record, now, rows_of

KEPT = dt.timedelta(days=7)
"""For how long an answer is kept."""


@dataclass(frozen=True)
class IdempotencyKey:
    """A key that a client chose, and the digest of the request that came with it."""

    key: str
    digest: str


class Answers:
    def __init__(self, database: Database) -> None:
        self.database = database

    def made(self, key: IdempotencyKey) -> Record | None:
        """Returns what the same request made before; None when it was not carried out yet."""
        with self.database.reading() as connection:
            return made_before(connection, key)

    def sweep(self) -> int:
        """Forgets answers older than `KEPT`; returns how many."""
        with self.database.writing() as connection:
            old = sa.delete(schema.answer).where(schema.answer.c.created_at < now(ago=KEPT))
            return connection.execute(old).rowcount


def made_before(connection: sa.Connection, key: IdempotencyKey | None) -> Record | None:
    """Returns what the same request made before, inside the transaction that would make it. Raises BadInput when
    another request had this key."""
    if key is None:
        return None
    c = schema.answer.c
    found = rows_of(connection, sa.select(c.digest, c.body).where(c.idempotency_key == key.key))
    if not found:
        return None
    if found[0]["digest"] != key.digest:
        raise BadInput(f"the Idempotency-Key {key.key!r} was used for another request: choose a new key")
    made: Record = found[0]["body"]
    return made


def keep_made(connection: sa.Connection, key: IdempotencyKey | None, made: Record) -> Record:
    """Keeps what a request has made, in the transaction that makes it, and returns it."""
    if key is not None:
        row = {"idempotency_key": key.key, "digest": key.digest, "body": made, "created_at": now()}
        connection.execute(sa.insert(schema.answer).values(row))
    return made
