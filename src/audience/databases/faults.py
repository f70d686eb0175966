"""Faults of servers, whatever their kind, as errors of ours."""

from typing import Literal

from audience.errors import AudienceError, BadInput, NotFound, Transient

Fault = Literal["gone", "busy", "full", "missing", "refused", "too slow", "other"]


def as_ours(fault: Fault, where: str, reason: str, code: int | str | None, hint: str = "") -> AudienceError:
    """Returns what to raise. `reason`: what the server said, without a password; `code`: its number for that."""
    match fault:
        case "gone":
            return Transient(f"{where} cannot be reached now ({reason})")
        case "busy":
            return Transient(f"{where} was waiting for another transaction ({reason})")
        case "full":
            return Transient(f"{where} has no space left ({reason}): free some and it goes on")
        case "missing":
            return NotFound(f"{where}: {reason}")
        case "refused":
            return BadInput(f"{where} refuses: {reason}{hint}")
        case "too slow":
            return BadInput(f"{where} stopped a statement that took too long ({reason}): raise statement_timeout_s")
        case "other":
            return BadInput(f"{where}: {reason} ({code})")
