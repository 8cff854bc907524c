"""Networks by the names of ``--student``: declared beside their classes, also in a file of the user's own."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_kd import networks
from nnunet_kd.cli import main
from nnunet_kd.networks.enet import ENet
from nnunet_kd.networks.family import Family, families, family_names
from nnunet_kd.planning.patch import Trial
from nnunet_kd.planning.student import parse_student
from nnunet_kd.utilities.errors import UserError
from tests.unit.test_networks import arguments
from tests.unit.test_plan_command import folder  # noqa: F401

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "networks.md"
TOY = re.search(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)[1]


@pytest.fixture
def rooms(tmp_path, monkeypatch):
    """The user's folder for networks; nothing of it stays imported."""
    room = tmp_path / "mine" / "networks"
    room.mkdir(parents=True)
    monkeypatch.setenv("NNUNET_KD_EXTENSIONS", str(room.parent))
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield room
    for file in room.glob("*.py"):
        sys.modules.pop(file.stem, None)


def test_a_network_in_a_file_of_ones_own_is_planned_and_built_by_nnunet(rooms, folder, capsys):  # noqa: F811
    (rooms / "toy_net.py").write_text(TOY)
    main(["plan", "-d", "900", "-o", "Toy", "-c", "2d", "--student", "toy,width=2", "--student-arg", "dropout=0.5"])
    assert "-tr nnUNetTrainerKDEnsemble -p Toy" in capsys.readouterr().out
    cm = PlansManager(json.loads((folder / "Toy.json").read_text())).get_configuration("2d")
    assert cm.network_arch_class_name == "toy_net.ToyNet"
    given = cm.network_arch_init_kwargs, cm.network_arch_init_kwargs_req_import
    network = get_network_from_plans(cm.network_arch_class_name, *given, 1, 3, deep_supervision=False)
    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 3, 8, 8)
    assert (network.encoder[0][0].out_channels, network.encoder[2].p) == (16, 0.5)


def test_help_names_networks_of_ones_own(rooms, capsys):
    (rooms / "toy_net.py").write_text(TOY)
    with pytest.raises(SystemExit):
        main(["plan", "--help"])
    assert "toy;" in capsys.readouterr().out
    assert "toy_net" not in sys.modules


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (TOY.replace('"toy"', '"enet"'), "another network is named enet"),
        (TOY.replace('"toy"', '"width=2"'), "expected small letters"),
        (TOY.replace("FAMILIES =", "FAMILIES = = "), "toy_net.py cannot be imported"),
    ],
)
def test_mistakes_in_files_of_ones_own_are_named(rooms, text, sentence):
    (rooms / "toy_net.py").write_text(text)
    with pytest.raises(UserError, match=sentence):
        families()


def test_help_does_not_fail_on_a_file_that_is_no_python(rooms, capsys):
    (rooms / "toy_net.py").write_text("class")
    with pytest.raises(SystemExit) as exit_:
        main(["plan", "--help"])
    assert exit_.value.code == 2
    assert "cannot be read as Python" in capsys.readouterr().err


def test_names_are_read_without_importing_torch():
    assert family_names() == list(families())


def test_same_is_the_base_plans_network():
    with pytest.raises(UserError, match="not same"):
        Family("same", ENet, "nowhere")


def test_plans_name_classes_without_their_file():
    for family in families().values():
        name = family.network.__name__
        assert family.class_path == f"nnunet_kd.networks.{name}"
        assert getattr(networks, name) is family.network
    with pytest.raises(AttributeError, match="no attribute 'Layers'"):
        _ = networks.Layers


@pytest.mark.parametrize("name", [name for name, family in families().items() if family.smallest_patch])
def test_the_smallest_patch_is_the_one_that_planning_finds(name):
    family = families()[name]
    number = len(family.features)
    one_resolution = name == "dilated"
    strides = [[1, 1]] * number if one_resolution else [[1, 1]] + [[2, 2]] * (number - 1)
    given = arguments(list(family.features), 2, **{k: list(v) for k, v in family.arguments.items()}) | {
        "strides": strides
    }
    with torch.device("meta"):
        network = family.network(**given, deep_supervision=not one_resolution).train()
    smallest, _ = Trial(network, 1, 2, strides, "meta").smallest_for([1, 1])
    assert smallest == [family.smallest_patch] * 2


@pytest.mark.parametrize("name", families())
def test_every_family_says_what_it_is_and_where_it_is_from(name):
    family = families()[name]
    assert family.source
    assert family.description.strip().endswith(".")
    assert parse_student(name).family == name
