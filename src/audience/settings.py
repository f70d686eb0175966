"""One frozen Settings, from environment variables `AUDIENCE_*` and a file `.env`."""

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Everything that can be set; each field says what it does and in which unit."""

    model_config = SettingsConfigDict(env_prefix="AUDIENCE_", env_file=".env", frozen=True, extra="ignore")

    home: Path = Field(
        default_factory=lambda: Path.home() / ".audience", description="folder of our own records and of the secret key"
    )
    store_url: str | None = Field(default=None, description="database of our own records; by default a file in `home`")
    secret_key: SecretStr | None = Field(
        default=None, description="Fernet key of stored secrets; by default made once and kept in `home`"
    )
    partition_rows: int = Field(default=200_000, ge=1, le=10_000_000, description="rows of a partition, about")
    threads: int = Field(default=2, ge=1, le=64, description="partitions of a task worked on at once in one process")

    @property
    def resolved_store_url(self) -> str:
        return self.store_url or f"sqlite:///{self.home / 'audience.db'}"
