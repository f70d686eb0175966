"""Every error that Audience raises on purpose.

    AudienceError
    ├── BadInput      the request is wrong: mend it and ask again
    ├── NotFound      no such source, model, run, table ...
    ├── Conflict      it exists already, or its state forbids this
    ├── Transient     the world is in the way (locked, full, away): try again
    │   └── Elsewhere  this process lacks something that another may have: a blob, a key, a variable
    └── BadRow        one row cannot be digested: it is set aside, counted, and the work goes on

Anything else that escapes is a bug and fails loudly. Facts are positional, so that errors survive pickling.
"""

from dataclasses import dataclass

__all__ = ["AudienceError", "BadInput", "BadRow", "Conflict", "Elsewhere", "NotFound", "Problem", "Transient"]


@dataclass(frozen=True)
class Problem:
    """One thing wrong with an input: `where` (file and line, field, or path in a document) and `reason`."""

    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


class AudienceError(Exception):
    """Base of all errors that a user may see; `str(error)` says what is wrong and what would be right."""


class BadInput(AudienceError):
    """The input is wrong. `problems` lists every fault found, not only the first."""

    shown = 20

    def __init__(self, message: str, problems: tuple[Problem, ...] = ()) -> None:
        super().__init__(message, problems)
        self.message = message
        self.problems = problems

    def __str__(self) -> str:
        lines = [self.message, *(f"  {problem}" for problem in self.problems[: self.shown])]
        if len(self.problems) > self.shown:
            lines.append(f"  ... and {len(self.problems) - self.shown} more")
        return "\n".join(lines)


class NotFound(AudienceError):
    """Something named does not exist."""


class Conflict(AudienceError):
    """It exists already, it changed meanwhile, or its present state, `state`, forbids this."""

    def __init__(self, message: str, state: str | None = None) -> None:
        super().__init__(message, state)
        self.message = message
        self.state = state

    def __str__(self) -> str:
        return self.message


class Transient(AudienceError):
    """Nothing is wrong with the request, but it cannot be carried out now."""


class Elsewhere(Transient):
    """Here something is lacking that another process may have: let that one do it."""


class BadRow(AudienceError):
    """One row cannot be digested."""
