"""Sources, targets and publications: what a reference means, how it is saved, and how it is opened."""

from pathlib import Path

from audience.app.references import absolute
from audience.databases.urls import parse
from audience.errors import BadInput
from audience.labeling.plan import RunSpec
from audience.labeling.publish import PublicationSpec
from audience.settings import Settings
from audience.store.database import Record
from audience.store.engines import same_place
from audience.store.records import Store
from audience.store.secrets import Secrets
from audience.tables import registry as tables
from audience.tables.base import Source, SourceSpec, Target
from audience.tables.publications import Publisher

CERTIFICATES = ("ssl_ca", "sslrootcert")


class Locations:
    """Takes passwords out of URLs before anything is saved, and puts them back where something is opened. Refuses our
    own records as a source or a target."""

    def __init__(self, settings: Settings, store: Store, secrets: Secrets) -> None:
        self.settings = settings
        self.store = store
        self.secrets = secrets

    # as the settings say

    def default_source(self) -> str:
        """Returns the server of sources that the settings name, with its password: never shown."""
        if url := self.settings.resolved_source_url:
            return url
        raise BadInput("no source is named: give a path, a URL or a saved source, or set AUDIENCE_SOURCE_URL")

    def default_target(self) -> str:
        """Returns the target that the settings name, with its password: never shown."""
        if url := self.settings.resolved_target_url:
            return url
        raise BadInput("no target is named: say where results go, or set AUDIENCE_TARGET_URL")

    def default_publication_target(self) -> str:
        """Returns where the settings keep publications, with its password: never shown."""
        if url := self.settings.resolved_publication_url:
            return url
        raise BadInput("say where the new publication is to be kept (target), or set AUDIENCE_PUBLICATION_URL")

    @property
    def roots(self) -> tuple[str, ...]:
        """Returns the folders below which files may be read and written over HTTP."""
        return tuple(map(str, self.settings.resolved_files_roots))

    def confined(self, reference: str, what: str) -> str:
        """Returns a path or URL whose file lies below one of the roots, links followed; a relative path is meant below
        the first. It is checked again whenever it is opened: a link may be made later. A server's URL stays as it
        is."""
        path = tables.path_of(reference, what)
        if path is None:
            for name, value in parse(reference).options.items():
                if name in CERTIFICATES:
                    tables.check_within(value, self.roots)
            return reference
        whole = path if path.startswith("/") else f"{self.roots[0]}/{path}"
        tables.check_within(whole, self.roots)
        return f"sqlite:///{whole}" if reference.lower().startswith("sqlite:") else whole

    # as they are saved

    def sealed_source(self, spec: SourceSpec) -> SourceSpec:
        """Returns the source with an absolute path, or with a URL and its password sealed apart."""
        url, secret = self.secrets.separated(spec.url)
        self._refuse_own_records(url, "source")
        return spec.model_copy(update={"url": absolute(url), "secret": secret or spec.secret})

    def sealed_target(self, reference: str) -> tuple[str, str | None]:
        """Returns (an absolute path, or a URL without its password; the password, sealed)."""
        target, secret = self.secrets.separated(absolute(reference))
        self._refuse_own_records(target, "target")
        return target, secret

    def _refuse_own_records(self, reference: str, what: str) -> None:
        if what == "target" and same_place(reference, self.settings.resolved_store_url):
            raise BadInput("the target holds our own records: results go to another schema, or to another database")
        path = tables.path_of(reference, what)
        if path is not None and self.store.database.is_in(Path(path)):
            raise BadInput(f"{path} holds our own records; data and results live in files of their own")

    # opened

    def source(self, spec: SourceSpec) -> Source:
        return tables.open_source(spec, self.secrets.joined(spec.url, spec.secret))

    def target(self, spec: RunSpec) -> Target:
        """Opens the target of a run."""
        return tables.open_target(spec.target, spec.target_within, self.secrets.joined(spec.target, spec.target_secret))

    def publisher(self, record: Record, spec: PublicationSpec) -> Publisher:
        url = self.secrets.joined(spec.target, spec.target_secret)
        return tables.open_publisher(spec.target, record["id"], record["name"], spec.target_within, url)
