"""Files are whole or absent, and what killed processes left behind goes."""

import csv
import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from nnunet_kd.utilities import files
from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.files import (
    UNTOUCHED_SECONDS,
    remove_abandoned,
    replace_folder,
    restore_replaced,
    temporary_folder,
    temporary_path,
    write_csv,
    write_json,
    write_together,
    write_whole,
)

KILLED = """
import os, signal, sys
from pathlib import Path
from nnunet_kd.utilities.files import temporary_folder, temporary_path
temporary_path(Path(sys.argv[1]), ".b2nd").write_text("half")
with temporary_folder(Path(sys.argv[1])) as folder, temporary_folder(Path(sys.argv[1]), "other-") as other:
    (folder / "case.pkl").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def names(folder):
    return sorted(f.name for f in folder.iterdir())


def untouched(path, seconds):
    for p in (*path.rglob("*"), path):
        os.utime(p, times=(time.time() - seconds,) * 2, follow_symlinks=False)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_what_a_killed_process_left_is_removed_by_the_next_run(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert len(names(tmp_path)) == 3
    remove_abandoned(tmp_path, "other-")
    assert len(names(tmp_path)) == 2, "another command's temporaries are that command's"
    write_json(tmp_path / "x.json", {})
    assert names(tmp_path) == ["x.json"]


def test_what_a_living_process_owns_stays(tmp_path):
    mine = temporary_path(tmp_path, ".b2nd")
    mine.write_text("half")
    untouched(mine, 10 * UNTOUCHED_SECONDS)  # a suspended process lives too
    with temporary_folder(tmp_path) as folder:
        write_json(tmp_path / "x.json", {})
        assert names(tmp_path) == sorted([mine.name, folder.name, "x.json"])
    assert names(tmp_path) == sorted([mine.name, "x.json"])


def test_a_process_of_the_same_number_is_another_one(tmp_path, monkeypatch):
    started = psutil.Process().create_time()
    monkeypatch.setattr(files.psutil.Process, "create_time", lambda self: started - 60)
    temporary_path(tmp_path).write_text("half")
    monkeypatch.undo()
    remove_abandoned(tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("owner", ["another machine", "nobody"])
def test_what_cannot_be_asked_for_its_owner_stays_for_a_week(tmp_path, monkeypatch, owner):
    monkeypatch.setattr(files, "_machine", lambda: "0123abcd")
    path = temporary_path(tmp_path) if owner == "another machine" else tmp_path / f".{'0a' * 16}"
    monkeypatch.undo()
    path.mkdir()
    (path / "case.pkl").write_text("half")
    untouched(path, 2 * UNTOUCHED_SECONDS)
    os.utime(path / "case.pkl", times=(time.time() - UNTOUCHED_SECONDS / 2,) * 2)  # the folder itself is older
    remove_abandoned(tmp_path)
    assert names(tmp_path) == [path.name]
    untouched(path, 2 * UNTOUCHED_SECONDS)
    remove_abandoned(tmp_path)
    assert names(tmp_path) == []


def test_nothing_else_is_touched(tmp_path):
    kept = [".hidden", f".{'0a' * 16}x", f"{'0a' * 16}.json", f".mine-{'0a' * 16}", f".{'0a' * 15}.json"]
    for name in kept:
        (tmp_path / name).write_text("")
        untouched(tmp_path / name, 2 * UNTOUCHED_SECONDS)
    target = tmp_path / "target"
    target.mkdir()
    (target / "precious").write_text("")
    link = tmp_path / f".{'0a' * 16}"
    link.symlink_to(target)
    untouched(link, 2 * UNTOUCHED_SECONDS)
    remove_abandoned(tmp_path)
    assert names(tmp_path) == sorted([*kept, "target"])
    assert names(target) == ["precious"]
    remove_abandoned(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (RuntimeError("Error while creating\nthe NDArray"), "Error while creating the NDArray"),  # blosc2, disk full
    ],
)
def test_what_cannot_be_written_is_one_sentence_and_leaves_nothing(tmp_path, error, reason):
    def save(file):
        file.write_text("half")
        raise error

    (tmp_path / "x.json").write_text("old")
    with pytest.raises(UserError) as refused:
        write_whole(tmp_path / "x.json", save)
    assert str(refused.value) == (
        f"{tmp_path / 'x.json'}: cannot be written ({reason}); free some space or mend the permissions."
    )
    assert names(tmp_path) == ["x.json"]
    assert (tmp_path / "x.json").read_text() == "old"


def test_cleaning_up_does_not_hide_the_sentence(tmp_path, monkeypatch):
    def read_only(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(files.Path, "unlink", read_only)
    monkeypatch.setattr(files.Path, "write_text", read_only)
    with pytest.raises(UserError, match="Read-only file system"):
        write_json(tmp_path / "x.json", {})


def make_folder(path, text):
    path.mkdir()
    (path / "page").write_text(text)
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can exchange two folders")
def test_a_folder_is_replaced_in_one_step(tmp_path, monkeypatch):
    """Whenever it is killed, the old or the new one is there: nothing is renamed away."""
    target, new = make_folder(tmp_path / "report", "old"), make_folder(tmp_path / "new", "new")
    monkeypatch.setattr(Path, "rename", lambda *_: pytest.fail("renamed"))
    monkeypatch.setattr(files, "_remove", lambda _: None)  # killed before the old one is removed
    replace_folder(new, target)
    assert (target / "page").read_text() == "new"
    assert (new / "page").read_text() == "old"


REPLACED_AND_KILLED = """
import os, signal, sys
from pathlib import Path
from nnunet_kd.utilities import files
files._exchange = lambda *_: False
rename = Path.rename
def once(self, other):
    rename(self, other)
    os.kill(os.getpid(), signal.SIGKILL)
Path.rename = once
files.replace_folder(Path(sys.argv[1], "new"), Path(sys.argv[1], "report"))
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_without_an_exchange_the_next_run_brings_the_old_folder_back(tmp_path):
    make_folder(tmp_path / "report", "old")
    make_folder(tmp_path / "new", "new")
    subprocess.run([sys.executable, "-c", REPLACED_AND_KILLED, str(tmp_path)], check=False)
    assert not (tmp_path / "report").exists()
    restore_replaced(tmp_path / "report")
    assert (tmp_path / "report" / "page").read_text() == "old"
    assert names(tmp_path) == ["new", "report"]


def test_text_that_a_spreadsheet_would_run_is_text(tmp_path):
    texts = ["=1+1", "+1", "-x", "@SUM(A1)", "\t=1", "a=b", "", "-"]
    write_csv(tmp_path / "x.csv", [["case", "value"], *([t, -1.5] for t in texts), [None, 3]])
    with (tmp_path / "x.csv").open(newline="") as f:
        rows = list(csv.reader(f))
    assert [r[0] for r in rows] == ["case", "'=1+1", "'+1", "'-x", "'@SUM(A1)", "'\t=1", "a=b", "", "'-", ""]
    assert [r[1] for r in rows[1:]] == ["-1.5"] * len(texts) + ["3"]


def test_files_that_belong_together_are_all_written_or_none(tmp_path):
    (tmp_path / "a.txt").write_text("old")

    def fail(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match=r"b\.txt: cannot be written"):
        write_together({tmp_path / "a.txt": lambda f: f.write_text("new"), tmp_path / "b.txt": fail})
    assert {f.name: f.read_text() for f in tmp_path.iterdir()} == {"a.txt": "old"}
    write_together({tmp_path / n: lambda f: f.write_text("new") for n in ("a.txt", "b.txt")})
    assert {f.name: f.read_text() for f in tmp_path.iterdir()} == {"a.txt": "new", "b.txt": "new"}
