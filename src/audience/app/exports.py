"""Exports: results, production or published rows as a file."""

import uuid
from collections.abc import Iterator
from pathlib import Path

from audience.app.publications import Publications
from audience.app.requests import ExportRequest
from audience.app.results import Results
from audience.errors import BadInput
from audience.labeling import export as exports
from audience.store.database import Record
from audience.store.records import Store

LAYOUTS = tuple(exports.ENCODERS)


class Exports:
    """Makes files by an operation, and streams rows that are wanted at once."""

    def __init__(self, store: Store, results: Results, publications: Publications) -> None:
        self.store = store
        self.results = results
        self.publications = publications

    def begin(self, request: ExportRequest, actor: str) -> str:
        """Begins to write a file; returns the id of the operation. A file of this machine is written by this process
        alone, so its queue is one that no other worker serves."""
        self._check(request)
        subject = request.publication or (request.run and self.results.runs.find(request.run)[:12])
        queue = f"local-{uuid.uuid4().hex}"[:40] if request.to is not None else "default"
        arguments = request.model_dump(mode="json")
        if request.run is not None:
            arguments["run"] = self.results.runs.find(request.run)
        return self.store.operations.add("export", actor, subject=subject, arguments=arguments, queue=queue)

    def _check(self, request: ExportRequest) -> None:
        if (request.run is None) == (request.publication is None):
            raise BadInput("an export is of a run or of a publication: name one of them")
        if request.to is not None:
            exports.check_path(Path(request.to))
        self.rows(request)

    def pieces(self, request: ExportRequest) -> Iterator[bytes]:
        """Returns the bytes of the file, piece by piece."""
        return exports.encoded(self.rows(request), request.layout)

    def rows(self, request: ExportRequest) -> exports.Rows:
        """Returns the rows that a request means."""
        if request.publication is not None:
            return self.publications.exported(request.publication, request.index)
        assert request.run is not None
        production = request.of == "production"
        return self.results.exported(
            request.run, production=production, group=request.group, comparable=request.comparable
        )

    def rows_of(self, arguments: Record) -> exports.Rows:
        """Returns the rows of a job."""
        return self.rows(ExportRequest.model_validate(arguments))
