"""Bodies of `/v1/sources`."""

from pydantic import BaseModel, Field

from audience.api.bodies.base import NAME, Request
from audience.app.types import Record, SourceSpec


class SourceBody(Request):
    """Where rows are, and what their columns mean."""

    url: str | None = Field(
        default=None,
        min_length=1,
        max_length=2000,
        description=f"{SourceSpec.model_fields['url'].description}; by default the server of AUDIENCE_SOURCE_URL",
    )
    table: str | None = Field(default=None, max_length=200, description="table or view of a database")
    roles: dict[str, str] = Field(default_factory=dict, description="our name -> column of the table")
    time_format: str = Field(default="auto", max_length=100, description="auto, epoch_s (_ms, _us) or strptime")
    timezone: str = Field(default="UTC", max_length=100, description="of times that have no offset")
    delimiter: str | None = Field(default=None, max_length=10, description="of CSV files")
    quoting: bool | None = Field(default=None, description="of CSV files: whether quotes enclose values")
    header: tuple[str, ...] | None = Field(default=None, description="column names of CSV files that have no header")
    encoding: str = Field(default="utf-8", max_length=40, description="of CSV files")
    max_readers: int | None = Field(default=None, ge=1, le=1000, description="of a server: partitions read at once")
    statement_timeout_s: float = Field(default=0, ge=0, le=86_400, description="of a server; 0: its own default")
    read_timeout_s: float = Field(default=300, gt=0, le=86_400, description="of a server that answers nothing")

    def options(self) -> Record:
        """Everything but the URL."""
        return self.model_dump(include=set(SourceBody.model_fields) - {"url"}, exclude_unset=True)


class NewSource(SourceBody):
    """A source to be saved under a name."""

    name: str = Field(pattern=NAME)


class Created(BaseModel):
    """Something new."""

    name: str
    href: str
    created_at: str | None = None


class SourceView(BaseModel):
    """A saved source. Passwords are never shown; `has_secret` says whether there is one."""

    name: str
    url: str
    table: str | None
    roles: dict[str, str]
    time_format: str
    timezone: str
    delimiter: str | None
    quoting: bool | None
    header: list[str] | None
    encoding: str
    has_secret: bool
    created_by: str
    created_at: str

    @classmethod
    def of(cls, record: Record) -> "SourceView":
        spec = record["spec"]
        kept = {name: record[name] for name in ("name", "created_by", "created_at")}
        return cls.model_validate({**spec, **kept, "has_secret": bool(spec.get("secret"))})


class DescriptionView(BaseModel):
    """What a source holds."""

    columns: dict[str, str]
    roles: dict[str, str]
    n_rows: int
    time_span: tuple[str, str] | None
    index: str | None = Field(description="an index on time that reading uses")
    null_keys: dict[str, int]
    preview: list[dict[str, str | None]]
    advice: list[str]


class SourceList(BaseModel):
    items: list[SourceView]
