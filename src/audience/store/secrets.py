"""Secrets at rest: a reference to the environment, or a Fernet value whose key lives outside the store."""

import os
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from cryptography.fernet import Fernet, InvalidToken

from audience.errors import BadInput, Elsewhere

ENVIRONMENT = "env:"
SEALED = "fernet:"
KEY_FILE = "secret.key"


class Secrets:
    """Seals and reveals. The key comes from the settings, or from a file that is made, readable by its owner only,
    when the first secret is sealed."""

    def __init__(self, home: Path, key: str | None = None) -> None:
        self._home = home
        self._key = key

    def separated(self, url: str) -> tuple[str, str | None]:
        """(the URL without its password, the password sealed); a URL without one stays as it is."""
        password = password_of(url)
        if password is None:
            return url, None
        return without_password(url), self.seal(password)

    def joined(self, url: str, secret: str | None) -> str:
        """The URL as a driver wants it. Never shown, logged or stored."""
        return url if secret is None else _with_password(url, self.reveal(secret))

    def seal(self, value: str) -> str:
        return SEALED + self._fernet(make=True).encrypt(value.encode()).decode()

    def reveal(self, secret: str) -> str:
        if secret.startswith(ENVIRONMENT):
            name = secret.removeprefix(ENVIRONMENT)
            if name not in os.environ:
                raise Elsewhere(f"the environment variable {name}, which should hold a password, is not set")
            return os.environ[name]
        try:
            return self._fernet(make=False).decrypt(secret.removeprefix(SEALED)).decode()
        except (InvalidToken, ValueError):
            raise Elsewhere(
                "a stored secret cannot be opened with this process's key, which is another installation's: "
                "AUDIENCE_SECRET_KEY must be the same on every machine"
            ) from None

    def _fernet(self, *, make: bool) -> Fernet:
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


def password_of(url: str) -> str | None:
    if "://" not in url:
        return None
    try:
        password = urlsplit(url).password
    except ValueError:
        raise BadInput("the URL cannot be read: special characters in a password are written as %XX") from None
    return None if password is None else unquote(password)


def without_password(url: str) -> str:
    return _with_password(url, None) if "://" in url else url


def _with_password(url: str, password: str | None) -> str:
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    user = parts.username or ""
    credentials = user if password is None else f"{user}:{quote(password, safe='')}"
    return parts._replace(netloc=f"{credentials}@{host}" if credentials else host).geturl()
