"""Secrets at rest: a reference to the environment, or a Fernet value whose key lives outside the store."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from audience.databases.urls import password_of, with_password, without_password
from audience.errors import BadInput, Elsewhere

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

ENVIRONMENT = "env:"
SEALED = "fernet:"
KEY_FILE = "secret.key"


class Secrets:
    """Seals and reveals secrets. The key comes from the settings, or from a file that is made, readable by its owner
    only, when the first secret is sealed."""

    def __init__(self, home: Path, key: str | None = None) -> None:
        self._home = home
        self._key = key

    def separated(self, url: str) -> tuple[str, str | None]:
        """Returns (the URL without its password, the password sealed); what has no password stays as it is. Refuses a
        URL that cannot be read: it would be saved with its password."""
        password = password_of(url)
        if password is None:
            return url, None
        return without_password(url), self.seal(password)

    def joined(self, url: str, secret: str | None) -> str:
        """Returns the URL as a driver wants it. Never shown, logged or stored."""
        return url if secret is None else with_password(url, self.reveal(secret))

    def seal(self, value: str) -> str:
        return SEALED + self._fernet(make=True).encrypt(value.encode()).decode()

    def reveal(self, secret: str) -> str:
        if secret.startswith(ENVIRONMENT):
            name = secret.removeprefix(ENVIRONMENT)
            if name not in os.environ:
                raise Elsewhere(f"the environment variable {name}, which should hold a password, is not set")
            return os.environ[name]
        from cryptography.fernet import InvalidToken

        try:
            return self._fernet(make=False).decrypt(secret.removeprefix(SEALED)).decode()
        except (InvalidToken, ValueError):
            raise Elsewhere(
                "a stored secret cannot be opened with this process's key, which is another installation's: "
                "AUDIENCE_SECRET_KEY must be the same on every machine"
            ) from None

    def _fernet(self, *, make: bool) -> "Fernet":
        from cryptography.fernet import Fernet

        path = self._home / KEY_FILE
        if self._key is None and make and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(Fernet.generate_key())
        key = self._key or (path.read_text() if path.exists() else None)
        if key is None:
            raise Elsewhere(f"there is no key for stored secrets: set AUDIENCE_SECRET_KEY, or restore {path}")
        try:
            return Fernet(key)
        except ValueError:
            raise BadInput("the secret key is not a Fernet key (32 bytes, url-safe base64)") from None
