"""Answers to creates that may be asked for twice, kept under the key that a client chose."""

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from audience.errors import BadInput
from audience.store import schema
from audience.store.database import Record, now

KEPT = dt.timedelta(days=7)
"""How long answers are kept for requests that come again."""


@dataclass
class Once:
    """A create, and what it is answered, `body`, given what was made. With a key the answer is kept in the transaction
    that makes it, with the digest of the request, and the request may come twice."""

    answer: Callable[[Any], Record]
    key: str | None = None
    digest: str = ""
    body: Record = field(default_factory=dict)

    def answered(self, connection: sa.Connection) -> bool:
        """Whether the same request was carried out before; then `body` is what it was answered."""
        if self.key is None:
            return False
        c = schema.answer.c
        found = connection.execute(sa.select(c.digest, c.body).where(c.idempotency_key == self.key)).first()
        if found is None:
            return False
        if found[0] != self.digest:
            raise BadInput(f"the Idempotency-Key {self.key!r} was used for another request: choose a new key")
        self.body = found[1]
        return True

    def keep(self, connection: sa.Connection, made: Any) -> None:
        self.body = self.answer(made)
        if self.key is not None:
            connection.execute(sa.delete(schema.answer).where(schema.answer.c.created_at < now(ago=KEPT)))
            row = {"idempotency_key": self.key, "digest": self.digest, "body": self.body, "created_at": now()}
            connection.execute(sa.insert(schema.answer).values(row))
