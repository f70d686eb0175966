"""What Audience does, a file a noun; the edges beside it (shell, HTTP, Celery) only ask."""

from audience.app.root import LOCAL, App, migrate_store

__all__ = ["LOCAL", "App", "migrate_store"]
