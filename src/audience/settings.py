"""One frozen Settings, from environment variables `AUDIENCE_*` and a file `.env`."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


def _by_commas(value: Any) -> Any:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_by_commas)]
Folders = Annotated[tuple[Path, ...], NoDecode, BeforeValidator(_by_commas)]


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
    workers: int = Field(default=2, ge=0, le=64, description="worker processes that `audience up` starts")
    threads: int = Field(default=2, ge=1, le=64, description="partitions worked on at once in one worker process")
    production_delay_s: float = Field(
        default=0, ge=0, le=7 * 86_400, description="how long production waits after labeling, unless a run says so"
    )
    lease_s: float = Field(default=15, ge=0.3, le=3600, description="silence after which a worker is given up")
    retry_s: float = Field(
        default=1, ge=0.01, le=30, description="pause after a failure that may pass; doubled each time, up to 30"
    )
    max_retries: int = Field(default=60, ge=0, description="failures that may pass, of one job, before its task fails")
    max_losses: int = Field(default=10, ge=1, description="workers that may vanish with one job before its task fails")
    stop_s: float = Field(
        default=10, ge=0, le=3600, description="time that jobs under way are given when a worker is told to stop"
    )
    host: str = Field(default="127.0.0.1", description="address that the API listens on")
    port: int = Field(default=8000, ge=1, le=65_535, description="port that the API listens on")
    allowed_hosts: Names = Field(
        default=(), description="names by which the API may be asked for; by default those of this machine's loopback"
    )
    files_roots: Folders = Field(
        default=(), description="folders whose files may be read and written over HTTP; by default `files` in `home`"
    )

    @property
    def resolved_store_url(self) -> str:
        return self.store_url or f"sqlite:///{self.home / 'audience.db'}"

    @property
    def resolved_files_roots(self) -> tuple[Path, ...]:
        return self.files_roots or (self.home / "files",)
