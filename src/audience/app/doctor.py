"""`audience doctor` examines a whole installation, and says what is wrong with it and what to do."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from audience.app.requests import SourceRequest
from audience.app.root import App
from audience.app.service import messages
from audience.databases.urls import displayed
from audience.labeling.plan import RunSpec
from audience.settings import Settings
from audience.store.database import make_home
from audience.store.engines import open_engine
from audience.store.migrate import LATEST, revision_of
from audience.store.queues import parse_lanes
from audience.tables.findings import Finding, check_folder, judged
from audience.tables.registry import check_target

RECORDS = "our own records"
RECENT_RUNS = 20


def examine(settings: Settings, sources: Sequence[str] = (), targets: Sequence[str] = ()) -> Iterator[Finding]:
    """Yields findings one by one, as they are made. Without names it looks at every saved source, and at the targets of
    the settings and of recent runs."""
    yield check_folder("AUDIENCE_HOME", settings.home)
    records = list(judged(RECORDS, "is AUDIENCE_STORE_URL right?", lambda: [_check_records(settings)]))
    yield from records
    if records[0].verdict == "wrong":
        return
    advice = "may this user read and write them? What comes after this was not looked at"
    yield from judged(RECORDS, advice, lambda: _examine(settings, sources, targets))


def _examine(settings: Settings, sources: Sequence[str], targets: Sequence[str]) -> Iterator[Finding]:
    """Yields the findings that need our own records."""
    app = App(settings)
    yield from judged(
        "blobs", "is AUDIENCE_BLOBS_URL right, and may this user write there?", lambda: [_check_blobs(app)]
    )
    if settings.broker_url is not None:
        advice = "is it running, and is AUDIENCE_BROKER_URL right? Runs wait until it is"
        yield from judged("broker", advice, lambda: [_check_broker(settings)])
    yield _check_workers(app)
    for reference in sources or [record["name"] for record in app.sources.all()]:
        advice = "mend it, or save it anew with `audience source add`"
        yield from judged(f"source {displayed(reference)}", advice, partial(_check_source, app, reference))
    for shown, url in _targets(app, targets):
        advice = "name another target, install what it needs, or bring back the key of its password"
        yield from judged(shown, advice, partial(_check_target, shown, url))


def _check_records(settings: Settings) -> Finding:
    make_home(settings.home)
    revision = revision_of(open_engine(settings.resolved_store_url))
    if revision is None:
        return Finding(RECORDS, "ok", "were not there, and are made now")
    if revision < LATEST:
        return Finding(RECORDS, "wrong", f"of an older version ({revision}, now {LATEST})", "run `audience migrate`")
    if revision > LATEST:
        return Finding(RECORDS, "wrong", f"of a newer version ({revision}, here {LATEST})", "update Audience")
    return Finding(RECORDS, "ok", f"version {revision}")


def _check_blobs(app: App) -> Finding:
    """Writes a blob, reads it and removes it."""
    blobs = app.store.blobs
    was_there = blobs.is_there()
    digest = blobs.put(b"audience doctor")
    blobs.get(digest)
    blobs.delete(digest)
    if app.settings.blobs_url and not was_there:
        advice = "if it should have been there, AUDIENCE_BLOBS_URL is mistyped, or a shared folder is not mounted"
        return Finding("blobs", "warning", f"{blobs.shown} was not there, and is made now", advice)
    return Finding("blobs", "ok", blobs.shown)


def _check_broker(settings: Settings) -> Finding:
    waiting = messages(settings, parse_lanes(settings.queues)) or {}
    return Finding("broker", "ok", ", ".join(f"{name}: {n}" for name, n in waiting.items()))


def _check_workers(app: App) -> Finding:
    """Finds jobs that wait with no worker alive."""
    workers = app.store.workers.all()
    waiting = sum(n for (_, state), n in app.store.jobs.counts().items() if state == "waiting")
    said = f"{len(workers)} alive, {waiting} jobs waiting"
    if waiting and not workers:
        return Finding("workers", "wrong", said, "start `audience up`, or `audience worker`")
    return Finding("workers", "ok", said)


def _check_source(app: App, reference: str) -> list[Finding]:
    source = app.locations.source(app.sources.spec(SourceRequest(reference=reference)))
    return [Finding(f"source {displayed(reference)}", "ok", f"roles: {', '.join(source.roles)}")]


def _check_target(shown: str, url: Callable[[], str]) -> Iterable[Finding]:
    return check_target(shown, url())


def _targets(app: App, named: Sequence[str]) -> Iterator[tuple[str, Callable[[], str]]]:
    """Yields (the target as it is shown, a function that returns it with its password), each target once."""
    given = named or filter(None, [app.settings.resolved_target_url])
    found: dict[str, Callable[[], str]] = {displayed(url): partial(str, url) for url in given}
    for run in () if named else app.store.runs.page(RECENT_RUNS):
        spec = RunSpec.model_validate(run["spec"])
        found.setdefault(spec.target, partial(app.locations.secrets.joined, spec.target, spec.target_secret))
    yield from found.items()
