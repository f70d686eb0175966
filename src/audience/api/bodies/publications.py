"""What requests about publications hold, and what replies look like."""

from typing import Annotated, Literal
from urllib.parse import quote

from pydantic import BaseModel, Field

from audience.api.bodies.base import NAME, Request
from audience.app.types import Record

GroupName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]{1,40}$")]
Indexes = dict[GroupName, Annotated[tuple[GroupName, ...], Field(min_length=1, max_length=1000)]]
Panel = Annotated[str, Field(min_length=1, max_length=200)]
Conflicts = dict[str, tuple[Panel, ...]]
RunReference = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class NewPublication(Request):
    """Where a publication is kept, and how production goes into it."""

    name: str = Field(pattern=NAME)
    target: str | None = Field(
        default=None,
        min_length=1,
        max_length=2000,
        description="SQLite file, folder or URL of a database; by default as the settings say",
    )
    indexes: Indexes = Field(default_factory=dict, description="index -> groups; a group in none is an index itself")
    conflict_groups: str | Conflicts | None = Field(default=None, description="saved ones, or name -> panels")


class PublicationCreated(BaseModel):
    name: str
    created_at: str
    href: str


class PublishBody(Request):
    """Which runs are published. What is left out stays as the publication has it."""

    runs: list[RunReference] = Field(min_length=1, max_length=1000, description="done runs; the one made last wins")
    replace: bool = Field(default=False, description="drop what was published before")
    indexes: Indexes | None = None
    conflict_groups: str | Conflicts | None = None
    base: int | None = Field(default=None, ge=0, le=2**31, description="refuse, if another version is published now")


class PublicationExportBody(Request):
    """Which published rows go into a file, and its format."""

    format: Literal["csv", "jsonl", "parquet"] = "parquet"
    index: GroupName | None = None


class ChangeView(BaseModel):
    """Rows of a panel. `added`: new; `changed`: new, and the subject had another label of the same conflict group;
    `kept`: still there; `dropped`: no more."""

    index: str
    panel: str
    added: int
    changed: int
    kept: int
    dropped: int


class PreviewView(BaseModel):
    """What publishing these runs would change; `base` is the version it was compared with."""

    base: int
    runs: list[str]
    replace: bool
    at: str
    changes: list[ChangeView]


class VersionView(BaseModel):
    """A version as it was published."""

    version: int
    runs: list[str]
    replace: bool
    changes: list[ChangeView]
    created_by: str
    created_at: str


class PublicationSummary(BaseModel):
    """A publication. `state` is busy while something is `under_way`; `error`: why the last attempt failed."""

    name: str
    target: str
    state: Literal["idle", "busy"]
    under_way: Literal["publish", "preview_publication", "roll_back", "delete_publication"] | None
    operation: str | None = Field(description="id of what is under way: watch or cancel it as an operation")
    version: int | None
    previous: int | None
    indexes: dict[str, list[str]]
    conflict_groups: dict[str, list[str]] | None
    error: str | None
    created_by: str
    created_at: str
    href: str

    @classmethod
    def of(cls, record: Record) -> "PublicationSummary":
        return cls.model_validate(_summary(record))


class PublicationView(PublicationSummary):
    """A publication with its versions, newest first. `where`: index -> its table or file."""

    where: dict[str, str]
    preview: PreviewView | None
    versions: list[VersionView]

    @classmethod
    def of(cls, record: Record) -> "PublicationView":
        versions = [{**version, **version["request"]} for version in record["versions"]]
        own = {"where": record["where"], "preview": record["preview"], "versions": versions}
        return cls.model_validate({**_summary(record), **own})


class PublicationList(BaseModel):
    items: list[PublicationSummary]


def _summary(record: Record) -> Record:
    spec = record["spec"]
    return {
        **{name: record[name] for name in ("name", "error", "created_by", "created_at")},
        "state": "busy" if record["doing"] else "idle",
        "target": spec["target"],
        "under_way": record["doing"]["action"] if record["doing"] else None,
        "operation": record["operation_id"],
        "version": record["version"] or None,
        "previous": record["previous"] or None,
        "indexes": spec["indexes"],
        "conflict_groups": spec["conflicts"],
        "href": f"/v1/publications/{quote(record['name'])}",
    }
