"""Fences of a folder target, as folders: the file system says who may write, without locks.

    results/<task>/.writing-<fence>/         unfinished files of the writers with this fence
    results/<task>/.old-<fence>~<uuid>/      the same of an older fence, on its way out

The highest number is the present fence. To raise it, its folder is made first; then the older ones are renamed and
emptied until they are gone. A writer creates its file under a name that is never used again, only then compares its
fence, and finishes by linking that name. Whoever raises the fence after the comparison finds the file, and then the
name leads nowhere: it makes no difference how long a process slept between two of its system calls.
"""

import contextlib
import errno
import re
import uuid
from pathlib import Path

WRITING = re.compile(r"\.writing-(\d+)")
OLD = re.compile(r"\.old-\d+~[0-9a-f]{32}")
NAMED = r"(part-\d+|(production|published|new)_\w+)\.parquet"
OURS = re.compile(rf"{NAMED}|\.{NAMED}\.[0-9a-f]{{32}}\.tmp")
NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}
NOT_EMPTY = {errno.ENOTEMPTY, errno.EEXIST}


def writing_folder(folder: Path, fence: int) -> Path:
    """Returns where writers with this fence keep what is not finished; it is there while the fence is the present
    one."""
    return folder / f".writing-{fence}"


def present_fence(folder: Path) -> int | None:
    found = (WRITING.fullmatch(path.name) for path in folder.iterdir())
    return max((int(match[1]) for match in found if match), default=None)


def raise_fence(folder: Path, fence: int) -> int:
    """Raises the fence and returns the present one: this one, or a newer one that was there. No older writer can finish
    once this returned."""
    present = present_fence(folder)
    if present is None or present < fence:
        writing_folder(folder, fence).mkdir(exist_ok=True)
        present = max(fence, present_fence(folder) or fence)  # somebody may have raised it further meanwhile
    _refuse_older(folder, present)
    return present


def _refuse_older(folder: Path, fence: int) -> None:
    kept: set[Path] = set()
    while older := [path for path in folder.iterdir() if _is_older(path, fence) and path not in kept]:
        for path in older:
            away = _renamed_away(path)
            if not _cleared(away):
                kept.add(away)


def _is_older(path: Path, fence: int) -> bool:
    writing = WRITING.fullmatch(path.name)
    return int(writing[1]) < fence if writing else bool(OLD.fullmatch(path.name))


def _renamed_away(path: Path) -> Path:
    if OLD.fullmatch(path.name):
        return path
    away = path.with_name(f".old-{path.name.removeprefix('.writing-')}~{uuid.uuid4().hex}")
    with contextlib.suppress(FileNotFoundError):  # another process was first
        path.rename(away)
    return away


def published(temporary: Path, final: Path) -> bool:
    """Gives a finished file its name; False when that is taken. Atomic, but where the file system has no hard links:
    there, of two processes that finish at once, both may be told True, and the later file stands."""
    try:
        final.hardlink_to(temporary)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        if final.exists():
            return False
        temporary.rename(final)
    return True


def removed(folder: Path) -> bool:
    """Removes what is ours in a folder, and returns whether the folder is gone."""
    return _cleared(folder)


def remove(folder: Path) -> None:
    """Removes what is ours; the folder too, unless somebody else has a file in it. Several may do so at once."""
    with contextlib.suppress(FileNotFoundError):
        folder.rename(folder.with_name(f".deleted-{folder.name}~{uuid.uuid4().hex}"))
    for away in folder.parent.glob(f".deleted-{folder.name}~*"):
        if not _cleared(away):
            with contextlib.suppress(FileNotFoundError):
                away.rename(folder)


def _cleared(folder: Path) -> bool:
    """Removes a folder with all of ours in it, also what a late writer still adds; False: somebody else's is in it."""
    while True:
        try:
            removed = [_removed(path) for path in folder.iterdir()]
            if not all(removed):
                return False
            folder.rmdir()
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno not in NOT_EMPTY:
                raise


def _removed(path: Path) -> bool:
    if WRITING.fullmatch(path.name) or OLD.fullmatch(path.name):
        return _cleared(path)
    if OURS.fullmatch(path.name):
        path.unlink(missing_ok=True)
        return True
    return False
