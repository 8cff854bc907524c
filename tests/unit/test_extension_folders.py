"""Folders of the user's own: what counts as a room's file, in which order, and what is refused with one sentence."""

import itertools
import os
import sys
from pathlib import Path

import pytest

from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.extensions import VARIABLE, extension_folders, extension_modules, room_modules

ROOM = "networks"


@pytest.fixture(name="own")
def _own(tmp_path, monkeypatch):
    """Sets the variable; what a test imports is forgotten after it, and so are its folders."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)

    def use(*folders: Path | str) -> None:
        monkeypatch.setenv(VARIABLE, os.pathsep.join(map(str, folders)))

    yield use
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", None)):
            del sys.modules[name]


def write(folder: Path, name: str, content: str = "VALUE = 1\n", room: str = ROOM) -> Path:
    """A file of a room of a user's folder."""
    (folder / room).mkdir(parents=True, exist_ok=True)
    file = folder / room / name
    file.write_text(content)
    return file


def names(modules) -> list[str]:
    return [m.__name__ for m in modules]


@pytest.mark.parametrize("value", [None, "", os.pathsep, os.pathsep * 3])
def test_without_folders_there_is_nothing(monkeypatch, value):
    if value is None:
        monkeypatch.delenv(VARIABLE, raising=False)
    else:
        monkeypatch.setenv(VARIABLE, value)
    assert extension_folders(ROOM) == []
    assert extension_modules(ROOM) == []
    assert room_modules(ROOM), "the package's own are there"


@pytest.mark.parametrize("kind", ["absent", "file"])
def test_what_is_no_folder_is_named_even_behind_one_that_is(own, tmp_path, kind):
    write(tmp_path / "good", "extension_good.py")
    wrong = tmp_path / "wrong"
    if kind == "file":
        wrong.write_text("")
    for folders in itertools.permutations((tmp_path / "good", wrong)):
        own(*folders)
        with pytest.raises(UserError, match=f"{VARIABLE}: .*wrong is no folder"):
            extension_modules(ROOM)


def test_a_folder_needs_not_have_every_room(own, tmp_path):
    write(tmp_path / "a", "extension_of_a.py", room="losses")
    write(tmp_path / "b", "extension_of_b.py")
    (tmp_path / "c").mkdir()
    write(tmp_path / "d", ROOM, room="")  # a file of a room's name is no room
    own(*(tmp_path / x for x in "abcd"))
    assert extension_folders(ROOM) == [tmp_path / "b" / ROOM]
    assert names(extension_modules(ROOM)) == ["extension_of_b"]
    assert extension_modules("plans") == []


def test_files_come_by_folder_as_named_and_then_by_name_whatever_order_they_were_written_in(own, tmp_path):
    files = {"a": ["extension_z.py", "extension_b.py"], "b": ["extension_m.py", "extension_a.py", "Extension_9.py"]}
    for folder, written in files.items():
        for name in written:
            write(tmp_path / folder, name)
    sorted_names = {"a": ["extension_b", "extension_z"], "b": ["Extension_9", "extension_a", "extension_m"]}
    for order in (("a", "b"), ("b", "a")):
        own(*(tmp_path / x for x in order))
        expected = [n for folder in order for n in sorted_names[folder]]
        assert names(extension_modules(ROOM)) == expected
        whole = names(room_modules(ROOM))
        assert whole[-len(expected) :] == expected
        own_ones = whole[: -len(expected)]
        assert own_ones == sorted(own_ones)
        assert all(n.startswith(f"nnunet_kd.{ROOM}.") for n in own_ones)


def test_only_python_files_of_the_room_itself_count(own, tmp_path):
    write(tmp_path, "extension_one.py")
    write(tmp_path, "notes.txt", "no Python")
    write(tmp_path, "extension_two.pyc", "no source")
    write(tmp_path, "extension_three.py", room=f"{ROOM}/below")
    own(tmp_path)
    assert names(extension_modules(ROOM)) == ["extension_one"]


def test_a_file_runs_once_however_often_and_by_whichever_way_it_is_named(own, tmp_path, monkeypatch):
    write(tmp_path, "extension_counted.py", "import builtins\nbuiltins.runs = getattr(builtins, 'runs', 0) + 1\n")
    monkeypatch.setattr("builtins.runs", 0, raising=False)
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    found = []
    for folder in (tmp_path, tmp_path / "link", tmp_path / ROOM / "..", f"~/{tmp_path.name}"):
        own(folder)
        found += extension_modules(ROOM)
    import builtins

    assert builtins.runs == 1
    assert len(found) == 4
    assert all(m is found[0] for m in found)
    assert sys.path.count(str(tmp_path / ROOM)) == 1


def test_files_of_a_room_can_use_each_other_and_are_importable_by_their_names(own, tmp_path):
    write(tmp_path, "extension_first.py", "from extension_second import VALUE\n")
    write(tmp_path, "extension_second.py", "VALUE = 41\n")
    own(tmp_path)
    first, second = extension_modules(ROOM)
    assert first.VALUE == second.VALUE == 41
    import extension_first

    assert extension_first is first


@pytest.mark.parametrize("name", ["two words.py", "with-dash.py", "3d.py", "a.b.py"])
def test_a_name_that_python_cannot_import_is_refused(own, tmp_path, name):
    file = write(tmp_path, name)
    own(tmp_path)
    with pytest.raises(UserError) as error:
        extension_modules(ROOM)
    assert str(error.value) == f"{VARIABLE}: {file} cannot be imported, its name is no Python name; rename it."


@pytest.mark.parametrize("name", ["json.py", "torch.py", "nnunet_kd.py", "sys.py"])
def test_a_name_that_another_module_has_is_refused_and_does_not_hide_it(own, tmp_path, name):
    other = sys.modules[name.removesuffix(".py")]
    file = write(tmp_path, name, "raise RuntimeError('ran')\n")
    own(tmp_path)
    with pytest.raises(UserError) as error:
        extension_modules(ROOM)
    assert f"{file} has the name of another module, {name.removesuffix('.py')}; rename it." in str(error.value)
    assert sys.modules[name.removesuffix(".py")] is other


def test_an_installed_module_that_nobody_imported_yet_wins_too(own, tmp_path):
    file = write(tmp_path, "this.py", "raise RuntimeError('ran')\n")
    assert "this" not in sys.modules
    own(tmp_path)
    with pytest.raises(UserError, match="has the name of another module, this"):
        extension_modules(ROOM)
    assert sys.modules.pop("this").__file__ != str(file)


@pytest.mark.parametrize("rooms", [(ROOM, ROOM), (ROOM, "losses")])
def test_two_files_of_one_name_are_refused_whichever_comes_first(own, tmp_path, rooms):
    files = [write(tmp_path / x, "extension_twin.py", room=room) for x, room in zip("ab", rooms, strict=True)]
    own(tmp_path / "a", tmp_path / "b")
    with pytest.raises(UserError) as error:
        [extension_modules(room) for room in dict.fromkeys(rooms)]
    assert f"{files[1]} has the name of another module, extension_twin; rename it." in str(error.value)


BROKEN = {
    "syntax": ("def f(:\n", "SyntaxError"),
    "an import": ("import no_such_module_anywhere\n", "ModuleNotFoundError: No module named 'no_such_module_anywhere'"),
    "an error": ("1 / 0\n", "ZeroDivisionError: division by zero"),
    "an exit": ("import sys\nsys.exit()\n", "SystemExit"),
    "a null byte": ("x = 1\0\n", "cannot be imported"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_one_sentence_every_time_and_works_when_it_is_mended(own, tmp_path, kind):
    content, reason = BROKEN[kind]
    file = write(tmp_path, "extension_broken.py", content)
    own(tmp_path)
    for _ in range(2):
        with pytest.raises(UserError) as error:
            extension_modules(ROOM)
        assert str(error.value).startswith(f"{VARIABLE}: {file} cannot be imported (")
        assert reason in str(error.value)
        assert "extension_broken" not in sys.modules
    file.write_text("VALUE = 'mended now'\n")
    (module,) = extension_modules(ROOM)
    assert module.VALUE == "mended now"


def test_what_a_file_itself_tells_the_user_is_passed_on(own, tmp_path):
    write(
        tmp_path,
        "extension_says.py",
        "from nnunet_kd.utilities.errors import UserError\nraise UserError('install the other thing.')\n",
    )
    own(tmp_path)
    with pytest.raises(UserError) as error:
        extension_modules(ROOM)
    assert str(error.value) == "install the other thing."
