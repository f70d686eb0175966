"""One frozen Settings, from environment variables `AUDIENCE_*` and a file `.env`."""

from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from audience.errors import BadInput, Problem

BROKERS = ("redis://", "rediss://", "amqp://", "amqps://")


def _by_commas(value: Any) -> Any:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


ResultColumn = Literal["id", "source_author", "panel", "create_time", "field_content", "model", "score"]
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_by_commas)]
Folders = Annotated[tuple[Path, ...], NoDecode, BeforeValidator(_by_commas)]


class Inherited(BaseSettings):
    """The variables that the predecessors' `.env` has, without a prefix: defaults for ours."""

    model_config = SettingsConfigDict(env_file=".env", frozen=True, extra="ignore", hide_input_in_errors=True)

    env: str | None = None
    input_host: str = ""
    input_port: str = "3306"
    input_user: str = "root"
    input_password: SecretStr = SecretStr("")
    input_schema: str = ""
    output_host: str = ""
    output_port: str = "3306"
    output_user: str = "root"
    output_password: SecretStr = SecretStr("")
    output_schema: str = ""
    dump_host: str = ""
    dump_port: str = "3306"
    dump_user: str = "root"
    dump_password: SecretStr = SecretStr("")
    dump_to_schema: str = ""
    rabbitmq_host: str = ""
    rabbitmq_port: str = "5672"
    rabbitmq_user: str = "guest"
    rabbitmq_pass: SecretStr = SecretStr("guest")
    rabbitmq_vhost: str = "/"
    redis_host: str = ""
    redis_port: str = "6379"
    redis_user: str = ""
    redis_pass: SecretStr = SecretStr("")
    redis_db_broker: str = "0"

    @property
    def source(self) -> SecretStr | None:
        """Returns the MariaDB or MySQL server that rows come from; None where no host is named."""
        return self._url("mysql", "input", "password", "schema")

    @property
    def target(self) -> SecretStr | None:
        """Returns the MariaDB or MySQL server that results go to; None where no host is named."""
        return self._url("mysql", "output", "password", "schema")

    @property
    def publications(self) -> SecretStr | None:
        """Returns the schema to publish into: on a server of its own, or on that of results; None where none is
        named."""
        if not self.dump_to_schema:
            return None
        output = {"dump_host": self.output_host, "dump_port": self.output_port, "dump_user": self.output_user}
        ours = self.model_copy(update={**output, "dump_password": self.output_password})
        return (self if self.dump_host else ours)._url("mysql", "dump", "password", "to_schema")

    @property
    def broker(self) -> SecretStr | None:
        """Returns the broker; RabbitMQ goes before Redis."""
        return self._url("amqp", "rabbitmq", "pass", "vhost") or self._url("redis", "redis", "pass", "db_broker")

    def _url(self, scheme: str, server: str, password: str, path: str) -> SecretStr | None:
        """Returns the URL that the variables of this server make; `password` and `path` are the names that it has for
        those."""
        host, port, user, secret, below = (
            getattr(self, f"{server}_{name}") for name in ("host", "port", "user", password, path)
        )
        if not host:
            return None
        if not port.isdecimal():
            raise BadInput(f"{server.upper()}_PORT should be the number of a port, not {port!r}")
        key = quote(secret.get_secret_value(), safe="")
        login = f"{quote(user, safe='')}:{key}@" if key else f"{quote(user, safe='')}@" if user else ""
        return SecretStr(f"{scheme}://{login}{host}:{port}/{quote(below, safe='')}")


class Settings(BaseSettings):
    """Everything that can be set; each field says what it does and in which unit."""

    model_config = SettingsConfigDict(
        env_prefix="AUDIENCE_", env_file=".env", frozen=True, extra="ignore", hide_input_in_errors=True
    )

    home: Path = Field(
        default_factory=lambda: Path.home() / ".audience", description="folder of our own records and of the secret key"
    )
    store_url: str | None = Field(
        default=None, repr=False, description="database of our own records; by default a file in `home`"
    )
    secret_key: SecretStr | None = Field(
        default=None, description="Fernet key of stored secrets; by default made once and kept in `home`"
    )
    source_url: SecretStr | None = Field(
        default_factory=lambda: Inherited().source,
        description="server of sources that are named by a table alone; by default that of INPUT_HOST",
    )
    target_url: SecretStr | None = Field(
        default_factory=lambda: Inherited().target,
        description="where results go unless a run says so; by default the server of OUTPUT_HOST",
    )
    publication_url: SecretStr | None = Field(
        default_factory=lambda: Inherited().publications,
        description="where new publications are kept unless they say so; by default DUMP_TO_SCHEMA",
    )
    blobs_url: str | None = Field(
        default=None,
        repr=False,
        description="folder or URL of what is too large for the records; by default `blobs` in `home`",
    )
    partition_rows: int = Field(default=200_000, ge=1, le=10_000_000, description="rows of a partition, about")
    result_indexes: Annotated[tuple[ResultColumn, ...], NoDecode, BeforeValidator(_by_commas)] = Field(
        default=(), description="columns of result tables that get an index, as in `id,panel`; each slows labeling"
    )
    workers: int = Field(default=2, ge=0, le=64, description="worker processes that `audience up` starts")
    threads: int = Field(default=2, ge=1, le=64, description="jobs worked on at once in one worker process")
    queues: Names = Field(default=("default",), description="queues that workers serve unless `--queue` says so")
    broker_url: SecretStr | None = Field(
        default_factory=lambda: Inherited().broker, description="Redis or RabbitMQ that brings workers their jobs"
    )
    queue_prefix: str = Field(
        default="audience",
        pattern=r"^[A-Za-z0-9_-]{1,40}$",
        description="what the names of its queues begin with",
    )
    visibility_timeout_s: float = Field(
        default=3600, ge=1, le=30 * 86_400, description="silence after which Redis brings a message to another worker"
    )
    production_delay_s: float = Field(
        default=0, ge=0, le=7 * 86_400, description="how long production waits after labeling, unless a run says so"
    )
    lease_s: float = Field(
        default=15, ge=0.3, le=3600, description="after so long without a heartbeat a worker is given up"
    )
    retry_s: float = Field(
        default=1, ge=0.01, le=30, description="pause before a first retry; doubled each time, up to 30"
    )
    max_retries: int = Field(default=60, ge=0, description="failures that may pass, of one job, before its task fails")
    max_losses: int = Field(default=10, ge=1, description="workers that may vanish with one job before its task fails")
    stop_s: float = Field(
        default=10, ge=0, le=3600, description="time that jobs under way have left when a worker stops"
    )
    host: str = Field(default="127.0.0.1", description="address that the API listens on")
    port: int = Field(default=8000, ge=1, le=65_535, description="port that the API listens on")
    allowed_hosts: Names = Field(
        default=(), description="names by which the API may be reached; by default those of this machine's loopback"
    )
    files_roots: Folders = Field(
        default=(), description="folders whose files may be read and written over HTTP; by default `files` in `home`"
    )

    @field_validator("broker_url")
    @classmethod
    def _is_a_broker(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not url.get_secret_value().startswith(BROKERS):
            raise ValueError(f"should begin with one of {', '.join(BROKERS)}")
        return url

    @property
    def resolved_store_url(self) -> str:
        return self.store_url or f"sqlite:///{self.home / 'audience.db'}"

    @property
    def resolved_blobs_url(self) -> str:
        return self.blobs_url or str(self.home / "blobs")

    @property
    def resolved_files_roots(self) -> tuple[Path, ...]:
        return self.files_roots or (self.home / "files",)

    @property
    def resolved_source_url(self) -> str | None:
        """Returns the URL with its password: never shown, logged or stored."""
        return self.source_url.get_secret_value() if self.source_url else None

    @property
    def resolved_target_url(self) -> str | None:
        """Returns the URL with its password: never shown, logged or stored."""
        return self.target_url.get_secret_value() if self.target_url else None

    @property
    def resolved_publication_url(self) -> str | None:
        """Returns the URL with its password: never shown, logged or stored."""
        return self.publication_url.get_secret_value() if self.publication_url else None

    def environment(self) -> dict[str, str]:
        """Returns the variables from which another process reads these same settings, with their passwords: never
        shown."""
        given = {name: getattr(self, name) for name in self.model_fields_set}
        return {f"AUDIENCE_{name.upper()}": _as_text(value) for name, value in given.items() if value is not None}

    def listening_host(self, given: str | None) -> str:
        """Returns the address that the API listens on. In production (`ENV=production`) somebody must have chosen
        it."""
        if given is None and "host" not in self.model_fields_set and Inherited().env == "production":
            raise BadInput("ENV is production: say which address to listen on, with --host or AUDIENCE_HOST")
        return given or self.host


def _as_text(value: Any) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def read_settings() -> Settings:
    """Reads the settings from the environment and .env. Raises BadInput, which names the variables at fault."""
    try:
        return Settings()
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)
        problems = tuple(Problem(f"AUDIENCE_{'.'.join(map(str, e['loc'])).upper()}", e["msg"]) for e in faults)
        raise BadInput("these settings cannot be used:", problems) from None
