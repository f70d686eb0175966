"""Alembic's entry: runs the revisions on the connection that `store.migrate` opened."""

from alembic import context

from audience.store.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
