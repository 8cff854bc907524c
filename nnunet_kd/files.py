"""Files that are whole or absent, and JSON with messages for users."""

import hashlib
import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nnunet_kd.errors import UserError


def write_whole(target: Path, save: Callable[[Path], Any]) -> None:
    """Calls ``save`` with a temporary file beside ``target``, syncs it to disk and renames it.

    Raises:
        UserError: when the file cannot be written; nothing is left of it then.
    """
    temporary = target.with_name(f".{uuid.uuid4().hex}{''.join(target.suffixes)}")  # writers look at the whole ending
    try:
        save(temporary)
        sync_to_disk(temporary)
        os.replace(temporary, target)
    except OSError as err:
        reason = err.strerror or err
        raise UserError(f"{target}: cannot be written ({reason}); free some space or mend the permissions.") from err
    finally:
        temporary.unlink(missing_ok=True)


def sync_to_disk(file: Path) -> None:
    """Returns when the file's content is on the disk."""
    with file.open("rb") as f:
        os.fsync(f.fileno())


def write_json(target: Path, content: Any) -> None:
    """Writes JSON, whole or not at all."""
    write_whole(target, lambda f: f.write_text(json.dumps(content, indent=4), encoding="utf-8"))


def load_json_file(file: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        UserError: when the file is missing or not a JSON object.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{file}: no such file.") from None
    except (OSError, ValueError) as err:
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
