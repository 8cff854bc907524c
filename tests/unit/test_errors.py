"""What ends a command: a sentence on standard error and exit code 2, for users' mistakes and the system's refusals."""

import errno
import os

import pytest

from nnunet_kd.cli import main
from nnunet_kd.utilities.errors import UserError, exit_on_user_error
from nnunet_kd.utilities.files import list_folder


def end(capsys, error: BaseException) -> str:
    with pytest.raises(SystemExit) as stop, exit_on_user_error():
        raise error
    assert stop.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.ENAMETOOLONG])
def test_what_the_system_refuses_is_one_sentence(capsys, code):
    said = end(capsys, OSError(code, os.strerror(code), "/data/report.html"))
    assert said.startswith(f"nnunet_kd: /data/report.html: {os.strerror(code)}; ")
    assert said.count("\n") == 1


def test_a_faulty_program_is_not_taken_for_a_users_mistake():
    with pytest.raises(FileNotFoundError), exit_on_user_error():
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "x")


def test_no_memory_is_one_sentence(capsys):
    assert "not enough memory" in end(capsys, MemoryError())


def test_a_long_sentence_keeps_its_beginning_and_its_end(capsys):
    said = end(capsys, UserError(f"plans.json: found {'[' * 5000}, expected a number.\n  - second line"))
    assert said.startswith("nnunet_kd: plans.json: found [[[")
    assert "[[[, expected a number.\n  - second line\n" in said
    assert len(said) < 1200


@pytest.mark.parametrize("number", ["abc", "-3", "0", "", "1.5"])
def test_a_number_of_processes_that_is_none(capsys, monkeypatch, number):
    monkeypatch.setenv("nnUNet_def_n_proc", number)
    with pytest.raises(SystemExit) as stop:
        main(["convert", "--list"])
    assert stop.value.code == 2
    assert f"nnUNet_def_n_proc={number}: expected a number of processes" in capsys.readouterr().err


def test_an_argument_that_is_not_utf8(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["predict", "-i", os.fsdecode(b"caf\xe9")])
    assert stop.value.code == 2
    assert "is not UTF-8" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
def test_a_file_whose_name_is_not_utf8(tmp_path):
    (tmp_path / "é.nii.gz").touch()
    assert [f.name for f in list_folder(tmp_path)] == ["é.nii.gz"]
    with open(os.fsencode(tmp_path) + b"/caf\xe9.nii.gz", "w"):
        pass
    with pytest.raises(UserError, match=r"the name caf\\xe9.nii.gz is not UTF-8"):
        list_folder(tmp_path)
