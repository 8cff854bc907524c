"""A bundle is whole: every file is listed, lies inside, and has the listed size and SHA-256. Standard library only."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

FORMAT = 1
DESCRIPTION = "bundle.json"
_LARGEST_DESCRIPTION = 1 << 26  # bytes
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)?")


class BundleError(Exception):
    """Says what is wrong with a bundle or an image, in one sentence."""


def verify(folder: Path) -> dict[str, Any]:
    """Content of a bundle's ``bundle.json``, after its files were compared with it.

    Raises:
        BundleError: for what is missing, changed, not listed, outside of the folder or a link.
    """
    content = _read(folder / DESCRIPTION)
    if content.get("format") != FORMAT:
        raise BundleError(f"{folder / DESCRIPTION}: has format {content.get('format')!r}, expected {FORMAT}.")
    files = content.get("files")
    if not isinstance(files, dict) or not files:
        raise BundleError(f"{folder / DESCRIPTION}: lists no files.")
    for name, record in files.items():
        _check_file(folder, name, record)
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        inside = path.is_dir() and not path.is_symlink() and any(f.startswith(f"{name}/") for f in files)
        if not (inside or name in files or name == DESCRIPTION or "__pycache__" in name.split("/")):
            raise BundleError(f"{path}: is not part of the bundle; remove it, or export the bundle again.")
    return content


def _read(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > _LARGEST_DESCRIPTION:
            raise BundleError(f"{file}: is larger than any description of a bundle.")
        content = json.loads(file.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise BundleError(f"{file}: no such file; a bundle is a folder that nnUNetv2_kd export wrote.") from None
    except (OSError, ValueError, RecursionError) as err:
        raise BundleError(f"{file}: cannot be read ({err}).") from None
    if not isinstance(content, dict):
        raise BundleError(f"{file}: expected a JSON object.")
    return content


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of a bundle")


def _check_file(folder: Path, name: str, record: Any) -> None:
    if not _NAME.fullmatch(name):
        raise BundleError(f"{folder / DESCRIPTION}: lists the file {name!r}, which no bundle holds.")
    size, digest = (record.get("bytes"), record.get("sha256")) if isinstance(record, dict) else (None, None)
    if not isinstance(size, int) or not isinstance(digest, str):
        raise BundleError(f"{folder / DESCRIPTION}: has no size and checksum of {name}.")
    path = folder / name
    if path.is_symlink() or path.parent.is_symlink() or not path.is_file():
        raise BundleError(f"{path}: is missing, or no regular file; copy or export the bundle again.")
    if path.stat().st_size != size or file_sha256(path) != digest:
        raise BundleError(f"{path}: has changed since the export; copy or export the bundle again.")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as f:
        while block := f.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
