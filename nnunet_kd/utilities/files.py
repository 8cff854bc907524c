"""Files that are whole or absent, and JSON with messages for users."""

import contextlib
import csv
import ctypes
import hashlib
import json
import os
import platform
import re
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from nnunet_kd.utilities.errors import UserError

FORMULA_STARTS = "=+-@\t\r\n"
LONGEST_NAME = 255  # bytes; what file systems take
UNTOUCHED_SECONDS = 7 * 24 * 3600  # after so long a temporary of another machine counts as abandoned


@contextlib.contextmanager
def writing(target: Path) -> Iterator[None]:
    """Turns a full disk, missing permission and the like into one sentence about ``target``."""
    try:
        yield
    except (OSError, RuntimeError) as err:  # blosc2 and torch raise RuntimeError when the disk is full
        reason = getattr(err, "strerror", None) or " ".join(str(err).split())[:200]
        raise UserError(f"{target}: cannot be written ({reason}); free some space or mend the permissions.") from err


def write_whole(target: Path, save: Callable[[Path], Any]) -> None:
    """Calls ``save`` with a temporary file beside ``target``, syncs it to disk and renames it.

    Raises:
        UserError: when the file cannot be written; nothing is left of it then.
    """
    write_together({target: save})


def write_together(files: Mapping[Path, Callable[[Path], Any]]) -> None:
    """As :func:`write_whole` several files that belong together: none is renamed before all are on the disk.

    Raises:
        UserError: when one cannot be written; nothing is left of any then.
    """
    temporaries = {}
    try:
        for target, save in files.items():
            remove_abandoned(target.parent)
            # writers look at the whole ending
            temporary = temporaries[target] = temporary_path(target.parent, "".join(target.suffixes))
            with writing(target):
                save(temporary)
                sync_to_disk(temporary)
        for target, temporary in temporaries.items():
            with writing(target):
                os.replace(temporary, target)
    finally:
        for temporary in temporaries.values():
            with contextlib.suppress(OSError):  # the sentence above says more
                temporary.unlink()


def temporary_path(folder: Path, suffix: str = "", prefix: str = "") -> Path:
    """Path for a temporary file or folder in ``folder``, hidden, whose name says which process owns it.

    Args:
        folder: where the finished thing will be: renaming works within one file system only.
        suffix: ending of the name, such as ``.json``.
        prefix: start of the name, after the dot; what :func:`remove_abandoned` is asked for.
    """
    owner = f"{_machine()}-{os.getpid()}-{int(psutil.Process().create_time())}"
    return folder / f".{prefix}{owner}-{uuid.uuid4().hex}{suffix}"


@contextlib.contextmanager
def temporary_folder(folder: Path, prefix: str = "") -> Iterator[Path]:
    """A new folder in ``folder`` that vanishes at the end; those that killed processes left vanish first.

    Args:
        folder: where it is made.
        prefix: start of its name, after the dot.
    """
    remove_abandoned(folder, prefix)
    path = temporary_path(folder, prefix=prefix)
    path.mkdir()
    try:
        yield path
    finally:
        _remove(path)


def remove_abandoned(folder: Path, prefix: str = "") -> None:
    """Removes what killed processes left of :func:`temporary_path` with this prefix, as far as permissions allow.

    What a living process owns stays. Of a process on another machine, or in another container, nobody can say whether
    it lives: what it made stays until nothing in it has changed for a week.
    """
    for path in _abandoned(folder, prefix):
        _remove(path)


def replace_folder(new: Path, target: Path) -> None:
    """Gives a finished folder its final name; an earlier one of that name is there, whole, until then.

    The two change places in one step where the system can (Linux, on most file systems). Elsewhere there are two
    renames; killed between them, it leaves the earlier folder under a temporary name, from which
    :func:`restore_replaced` brings it back.

    Raises:
        OSError: when a folder cannot be renamed; the earlier one is in its place then.
    """
    if os.path.lexists(target) and _exchange(new, target):
        _remove(new)
        return
    old = temporary_path(target.parent, prefix=f"{target.name}.replaced-")
    if os.path.lexists(target):
        target.rename(old)
    try:
        new.rename(target)
    except OSError:
        if os.path.lexists(old):
            old.rename(target)
        raise
    _remove(old)


def _exchange(first: Path, second: Path) -> bool:
    """Two paths change places in one step; False where the system or the file system cannot do so."""
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None), "renameat2", None)  # glibc 2.28, musl 1.2.4
    if rename is None:
        return False
    current_folder, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename(current_folder, os.fsencode(first), current_folder, os.fsencode(second), exchange) == 0


def restore_replaced(target: Path) -> None:
    """Brings back, or removes when there is a new one, what a killed :func:`replace_folder` has put aside."""
    prefix = f"{target.name}.replaced-"
    if not os.path.lexists(target) and (left := _abandoned(target.parent, prefix)):
        with contextlib.suppress(OSError):  # another process was faster
            left[0].rename(target)
    remove_abandoned(target.parent, prefix)


def _abandoned(folder: Path, prefix: str) -> list[Path]:
    """Abandoned temporaries with this prefix."""
    owner = r"(?:(?P<machine>[0-9a-f]{8})-(?P<pid>\d+)-(?P<started>\d+)-)?"  # earlier versions named no owner
    unique = r"(?:[0-9a-f]{32}|[0-9a-f]{12})" if prefix else r"[0-9a-f]{32}"  # and had shorter names
    name = re.compile(re.escape(f".{prefix}") + owner + unique + r"(?:\..*)?")
    try:
        found = [(folder / entry, match) for entry in os.listdir(folder) if (match := name.fullmatch(entry))]
    except OSError:
        return []
    return sorted(path for path, match in found if _is_abandoned(path, **match.groupdict()))


def _is_abandoned(path: Path, machine: str | None, pid: str, started: str) -> bool:
    try:
        if machine != _machine():
            return time.time() - _last_change(path) > UNTOUCHED_SECONDS
        process = psutil.Process(int(pid))
        same = abs(process.create_time() - int(started)) < 3  # the clock may have been set since
        return not same or process.status() == psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, OverflowError):
        return True
    except (psutil.Error, OSError):
        return False


def _last_change(path: Path) -> float:
    """Seconds since the epoch of the last change of a file, or of anything in a folder."""
    return max(p.lstat().st_mtime for p in (path, *path.rglob("*")))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):  # another process was faster
            path.unlink()


@cache
def _machine() -> str:
    """Eight hexadecimal digits that two running systems share only where they see the same processes."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    if len(parts) == 1:
        parts.append(str(uuid.getnode()))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def check_writable(folder: Path, remedy: str = "choose another with -o") -> None:
    """Refuses, before the work, a folder that could not be made or written to after it.

    Args:
        folder: need not exist.
        remedy: what the user can do.

    Raises:
        UserError: names what is in the way.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not (there.is_dir() and os.access(there, os.W_OK)):
        raise UserError(f"{there}: not a folder that can be written to; {remedy}.")


def sync_to_disk(file: Path) -> None:
    """Returns when the file's content is on the disk."""
    with file.open("rb") as f:
        os.fsync(f.fileno())


def write_json(target: Path, content: Any) -> None:
    """Writes JSON, whole or not at all."""
    write_whole(target, saves_json(content))


def saves_json(content: Any) -> Callable[[Path], Any]:
    """Writes JSON; for :func:`write_together`."""
    return lambda file: file.write_text(json.dumps(content, indent=4), encoding="utf-8")


def write_csv(target: Path, rows: Iterable[Sequence[object]]) -> None:
    """Writes CSV as :func:`saves_csv` does, whole or not at all."""
    write_whole(target, saves_csv(rows))


def saves_csv(rows: Iterable[Sequence[object]]) -> Callable[[Path], Any]:
    """Writes CSV; for :func:`write_together`. Text that spreadsheets would run as a formula gets a leading apostrophe.

    Args:
        rows: headings first; numbers stay numbers, None is an empty field.
    """

    def save(file: Path) -> None:
        with file.open("w", newline="", encoding="utf-8") as f:
            csv.writer(f).writerows([_harmless(value) for value in row] for row in rows)

    return save


def _harmless(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value[:1] in FORMULA_STARTS and value else value


def load_json_file(file: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        UserError: when the file is missing or not a JSON object.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{file}: no such file.") from None
    except (OSError, ValueError, RecursionError) as err:
        raise UserError(f"{file}: cannot be read ({err}).") from err
    if not isinstance(content, dict):
        raise UserError(f"{file}: expected a JSON object.")
    return content


def file_sha256(file: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with file.open("rb") as f:
        while block := f.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def list_folder(folder: Path) -> list[Path]:
    """What a folder holds, sorted by name, without hidden files.

    Raises:
        UserError: for a name that is not UTF-8; SimpleITK ends the process for one.
    """
    found = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    for path in found:
        try:
            str(path).encode()
        except UnicodeEncodeError:
            name = os.fsencode(path.name).decode(errors="backslashreplace")
            raise UserError(f"{folder}: the name {name} is not UTF-8, which image readers need; rename it.") from None
    return found


def check_component(name: object, what: str) -> None:
    """Refuses what cannot be one component of a path: names in files must not lead to other folders.

    Args:
        name: from a file.
        what: file and key, for the message.

    Raises:
        UserError: for anything but text of 1 to 255 bytes without slashes and control characters, or ``.`` and ``..``.
    """
    if isinstance(name, str) and re.fullmatch(r"[^/\\\x00-\x1f\x7f\ud800-\udfff]+", name) and name not in (".", ".."):
        if len(name.encode()) <= LONGEST_NAME:
            return
        name = f"{name[:40]}..."
    raise UserError(
        f"{what}: found {name!r}, expected a name of at most {LONGEST_NAME} bytes without slashes: it becomes part of "
        "a path."
    )
