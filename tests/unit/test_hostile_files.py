"""Model folders, preprocessed cases and checkpoints that want to run code or to lead elsewhere: nothing runs, one
sentence says why.
"""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch

from nnunet_kd.cli import main
from nnunet_kd.planning.network import PlannedModel
from nnunet_kd.softlabels.stores import open_store
from nnunet_kd.teachers.model import PlansManager, load_checkpoint_file
from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.nnunet_files import check_plans, read_dataset_json, read_splits
from nnunet_kd.utilities.safe_files import load_pickle_file, load_torch_file
from tests.unit.test_plan_command import DATASET, DATASET_JSON, make_plans, write_json
from tests.unit.toy_dataset import Toy, make_toy, plans_of, write_image

MODEL = "nnUNetTrainer__nnUNetPlans__3d_fullres"
CONFIGURATION = "3d_fullres"


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.fixture
def marker(tmp_path) -> Path:
    """File that is there when code has run."""
    return tmp_path / "ran"


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """A data set and a trained model of two folds, whose networks are genuine."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        toy = make_toy(tmp_path_factory.mktemp("template") / "nnunet", monkeypatch, cases=1)
    network = PlannedModel(PlansManager(plans_of()), CONFIGURATION, DATASET_JSON).build()
    for fold in (0, 1):
        checkpoint_file(toy, fold).parent.mkdir(parents=True)
        torch.save(genuine_checkpoint(network), checkpoint_file(toy, fold))
    write_json(toy.results / MODEL / "plans.json", plans_of())
    write_json(toy.results / MODEL / "dataset.json", DATASET_JSON)
    write_image(toy.root / "images" / "a_0000.nii.gz", np.zeros((22, 24, 20), np.float32))
    return toy.root


@pytest.fixture
def toy(template, tmp_path, monkeypatch, marker) -> Toy:
    """A copy of it, and code that makes the marker."""
    shutil.copytree(template, tmp_path / "nnunet")
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / "nnunet" / name))
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "hubconf.py").write_text(f"import os\nos.system('touch {marker}')\n")
    return Toy(tmp_path / "nnunet")


def genuine_checkpoint(network: torch.nn.Module) -> dict:
    return {
        "network_weights": network.state_dict(),
        "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": CONFIGURATION},
        "inference_allowed_mirroring_axes": (0, 1, 2),
        "logging": {"mean_fg_dice": [np.float32(0.5)], "ema_fg_dice": [np.float64(0.5)]},
    }


def checkpoint_file(toy: Toy, fold: int) -> Path:
    return toy.results / MODEL / f"fold_{fold}" / "checkpoint_final.pth"


def commands(toy: Toy) -> dict[str, list[str]]:
    """Every command that reads a model folder."""
    model, images, out = str(toy.results / MODEL), str(toy.root / "images"), str(toy.root / "out")
    labels = str(toy.raw / "labelsTr")
    methods = [word for name in "ab" for word in ("--method", f"{name}={labels}")]
    return {
        "plan": ["plan", "-d", "900", "-c", CONFIGURATION, "-o", "S", "--teachers", model],
        "softlabels": ["softlabels", "-d", "900", "-c", CONFIGURATION, "-device", "cpu"],
        "predict": ["predict", "-i", images, "-o", out, "--coarse", model, "--fine", model, "-device", "cpu"],
        "benchmark": ["benchmark", "-i", images, "-o", out, "--model", f"a={model}", "-device", "cpu"],
        "report": ["report", "--reference", labels, *methods, "-o", out, "--model", f"a={model}"],
    }


COMMANDS = ("plan", "softlabels", "predict", "benchmark", "report")
LOADING = ("softlabels", "predict", "benchmark")  # those that use the networks themselves, or have nnU-Net use them


def refuse(capsys, arguments: list[str]) -> str:
    """Runs a command to its refusal and returns the sentence."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    error = capsys.readouterr().err
    sentence = [line for line in error.splitlines() if line.startswith("nnunet_kd: ")]
    assert (exit_.value.code, len(sentence)) == (2, 1), error
    assert "Traceback" not in error
    assert "weights_only" not in error
    return sentence[0]


@pytest.mark.parametrize("command", LOADING)
@pytest.mark.parametrize("fold", [0, 1])
def test_a_checkpoint_with_code_in_any_fold(toy, marker, capsys, command, fold):
    torch.save(genuine_checkpoint(torch.nn.Linear(1, 1)) | {"extra": Touch(marker)}, checkpoint_file(toy, fold))
    error = refuse(capsys, commands(toy)[command])
    assert f"fold_{fold}/checkpoint_final.pth: not a readable nnU-Net checkpoint (it holds posix.system" in error
    assert not marker.exists()


def hub(marker: Path) -> dict:
    """Network that ``torch.hub`` loads from a local folder."""
    arguments = {"repo_or_dir": str(marker.parent / "hub"), "model": "x", "source": "local"}
    return {"network_class_name": "torch.hub.load", "arch_kwargs": arguments, "_kw_requires_import": []}


def genuine(**arguments) -> dict:
    architecture = deepcopy(plans_of()["configurations"][CONFIGURATION]["architecture"])
    architecture["arch_kwargs"] |= arguments
    return architecture


ARCHITECTURES: dict[str, Callable[[Path], dict]] = {
    "torch.hub.load": hub,
    "through torch.nn": lambda marker: hub(marker) | {"network_class_name": "torch.nn.functional.torch.hub.load"},
    "operator": lambda marker: genuine(nonlin="os.system", nonlin_kwargs={"command": f"touch {marker}"}),
    "operator through torch.nn": lambda marker: genuine(
        nonlin="torch.nn.functional.importlib._bootstrap_external._os.system",
        nonlin_kwargs={"command": f"touch {marker}"},
    ),
    "function of an allowed package": lambda marker: genuine(
        nonlin="nnunetv2.utilities.find_class_by_name.recursive_find_python_class",
        nonlin_kwargs={"folder": str(marker.parent / "hub"), "class_name": "x", "current_module": None},
    ),
    "module in the working folder": lambda marker: genuine() | {"network_class_name": "hubconf.Network"},
    "library's network": lambda marker: {
        "network_class_name": "nnunet_kd.networks.ExternalNetwork",
        "arch_kwargs": {"network": "torch.hub.load", "network_kwargs": hub(marker)["arch_kwargs"]},
        "_kw_requires_import": [],
    },
}


@pytest.mark.parametrize(
    ("command", "name"),
    [*((c, name) for c in COMMANDS for name in ("torch.hub.load", "operator")), *(("plan", n) for n in ARCHITECTURES)],
)
def test_plans_whose_network_is_none(toy, marker, capsys, monkeypatch, command, name):
    monkeypatch.chdir(marker.parent / "hub")
    monkeypatch.syspath_prepend(str(marker.parent / "hub"))
    plans = plans_of()
    plans["configurations"][CONFIGURATION]["architecture"] = ARCHITECTURES[name](marker)
    write_json(toy.results / MODEL / "plans.json", plans)
    error = refuse(capsys, commands(toy)[command])
    assert "torch.nn.Module" in error or "NNUNET_KD_ALLOWED_PACKAGES" in error or "cannot be built" in error
    assert not marker.exists()


def test_another_configuration_of_the_plans_is_checked_too():
    plans = make_plans()
    plans["configurations"]["2d"]["architecture"]["network_class_name"] = "os.system"
    with pytest.raises(UserError, match=r"configurations\.2d\.architecture\.network_class_name: os\.system"):
        check_plans(plans, "plans.json", CONFIGURATION)


LOOKUPS = {
    "preprocessor_name": "load_pickle",
    "normalization_schemes": ["load_pickle"],
    "resampling_fn_data": "recursive_find_python_class",
    "resampling_fn_probabilities": "os",
}


@pytest.mark.parametrize(("key", "name"), [*LOOKUPS.items(), ("image_reader_writer", "os"), ("label_manager", "join")])
def test_a_looked_up_name_is_of_its_kind(key, name):
    plans = plans_of()
    (plans["configurations"][CONFIGURATION] if key in LOOKUPS else plans)[key] = name
    with pytest.raises(UserError, match=f"{key}: found .* which is no "):
        check_plans(plans, "plans.json", CONFIGURATION)


def test_initialisers_and_packages_that_the_user_allows_are_taken(monkeypatch):
    plans = plans_of()
    architecture = plans["configurations"][CONFIGURATION]["architecture"]
    architecture["_kw_requires_import"].append("initializer")
    architecture["arch_kwargs"]["initializer"] = (
        "dynamic_network_architectures.initialization.weight_init.InitWeights_He"
    )
    check_plans(plans, "plans.json")
    architecture["arch_kwargs"]["initializer"] = "tests.unit.test_hostile_files.initialize"
    with pytest.raises(UserError, match="add tests to the environment variable NNUNET_KD_ALLOWED_PACKAGES"):
        check_plans(plans, "plans.json")
    monkeypatch.setenv("NNUNET_KD_ALLOWED_PACKAGES", "tests")
    check_plans(plans, "plans.json")


def initialize(module):
    """An initialiser of the user's own."""


PATHS = ["../../../X", "/etc", "a/b", "..", "a\\b", "", "x" * 300, 7, "a\nb", "\ud800"]


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("key", ["data_identifier", "dataset_name", "plans_name", "configuration"])
def test_names_in_plans_do_not_lead_to_other_folders(key, name):
    plans = plans_of()
    if key == "configuration":
        plans["configurations"] = {name: plans["configurations"]["2d"]}
    else:
        (plans["configurations"]["2d"] if key == "data_identifier" else plans)[key] = name
    with pytest.raises(UserError, match=r"part of a path|expected string"):
        check_plans(plans, "plans.json")


def test_soft_labels_are_not_written_elsewhere(toy, capsys):
    plans = plans_of()
    plans["configurations"][CONFIGURATION]["data_identifier"] = "../../../X"
    write_json(toy.preprocessed / "nnUNetPlans.json", plans)
    assert "data_identifier: found '../../../X'" in refuse(capsys, commands(toy)["softlabels"])
    assert not list(toy.root.parent.rglob("kd_softlabels"))


@pytest.mark.parametrize(
    "kd",
    [
        {"teachers": [{"folder": MODEL, "folds": ["../../0"]}]},
        {"teachers": [{"folder": MODEL, "folds": [-1]}]},
        {"default_teacher": "../nnUNetTrainer"},
        {"base_plans": "../x"},
        {"cross_teaching": {"teachers": ["../x"]}},
    ],
    ids=lambda kd: next(iter(kd)),
)
def test_names_in_the_kd_block_do_not_lead_to_other_folders(toy, capsys, kd):
    toy.write_plans(kd)
    error = refuse(capsys, commands(toy)["softlabels"])
    assert f"kd.{next(iter(kd))}" in error


@pytest.mark.parametrize("splits", [{}, [[]], [{"train": []}], [{"train": "ab", "val": []}], "x", 7])
def test_splits_of_another_form(tmp_path, splits):
    (tmp_path / "splits_final.json").write_text(json.dumps(splits))
    with pytest.raises(UserError, match="expected a list with one object for each fold"):
        read_splits(tmp_path / "splits_final.json")


def test_cases_in_splits_do_not_lead_to_other_folders(tmp_path):
    (tmp_path / "splits_final.json").write_text(json.dumps([{"train": ["a"], "val": ["../b"]}]))
    with pytest.raises(UserError, match=r"case: found '\.\./b'"):
        read_splits(tmp_path / "splits_final.json")


@pytest.mark.parametrize("command", [["softlabels", "--verify"], ["softlabels", "-device", "cpu"]])
def test_code_in_the_properties_of_a_preprocessed_case(toy, marker, capsys, command):
    toy.write_plans({"ensemble": {"from_folder": str(toy.root / "maps")}})
    (toy.root / "maps").mkdir()
    properties = toy.preprocessed / f"nnUNetPlans_{CONFIGURATION}" / "case_0.pkl"
    assert properties.is_file()
    with properties.open("wb") as f:
        pickle.dump({"spacing": [1.0, 1.0, 1.0], "x": Touch(marker)}, f)
    (toy.root / "maps" / "case_0.npz").touch()
    if "--verify" in command:
        from nnunet_kd.teachers.ensemble import TeachingEnsemble
        from nnunet_kd.teachers.student_data import load_student

        kd, student = load_student(toy.preprocessed / "nnUNetPlans.json", CONFIGURATION, toy.raw)
        open_store(TeachingEnsemble.resolve(kd, student, toy.results, None))
    error = refuse(capsys, [command[0], "-d", "900", "-c", CONFIGURATION, *command[1:]])
    assert "case_0.pkl: not a readable pickle (it holds posix.system" in error
    assert not marker.exists()


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_properties_as_nnunet_writes_them_are_read(tmp_path, protocol):
    properties = {
        "spacing": [np.float64(1.0), 2.0],
        "shape_before_cropping": (3, 4),
        "class_locations": {1: np.arange(6).reshape(2, 3), (1, 2): []},
        "nibabel_stuff": {"original_affine": np.eye(4)},
    }
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(properties, protocol=protocol))
    read = load_pickle_file(tmp_path / "a.pkl")
    assert read["class_locations"][1].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert (read["spacing"], read["shape_before_cropping"]) == ([1.0, 2.0], (3, 4))


@pytest.mark.parametrize("content", [b"", b"no", pickle.dumps(Touch(Path("x")))], ids=["empty", "text", "code"])
def test_a_refusal_does_not_advise_to_load_without_protection(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    for load in (load_pickle_file, lambda f: load_torch_file(f, "file")):
        with pytest.raises(UserError, match="not a readable") as error:
            load(tmp_path / "a")
        assert "weights_only" not in str(error.value)
    assert not Path("x").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"network_weights": [1]}, "are no tensors by name"),
        ({"network_weights": {"a": 1}}, "are no tensors by name"),
        ({"trainer_name": None}, "has no 'trainer_name'"),
        ({"inference_allowed_mirroring_axes": ["x"]}, "expected some of 0, 1, 2"),
    ],
)
def test_checkpoints_of_another_form(tmp_path, change, sentence):
    torch.save(genuine_checkpoint(torch.nn.Linear(1, 1)) | change, tmp_path / "c.pth")
    with pytest.raises(UserError, match=sentence):
        load_checkpoint_file(tmp_path / "c.pth")


def test_a_training_is_not_continued_from_a_checkpoint_with_code(tmp_path, marker, capsys):
    from nnunet_kd.trainers.base import nnUNetTrainerKDBase

    torch.save(genuine_checkpoint(torch.nn.Linear(1, 1)) | {"extra": Touch(marker)}, tmp_path / "checkpoint.pth")
    trainer = object.__new__(nnUNetTrainerKDBase)  # nothing of it is used before the check
    with pytest.raises(SystemExit):
        trainer.load_checkpoint(str(tmp_path / "checkpoint.pth"))
    assert "it holds posix.system" in capsys.readouterr().err
    assert not marker.exists()


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ({"background": 0}, "no label beside the background"),
        ({"background": 0, "ignore": 1}, "no label beside the background"),
        ({"background": 0, "a": 1.5}, "labels.a: found 1.5"),
        ({"background": 0, "a": -1}, "labels.a: found -1"),
        ({"background": 0, "a": "x"}, "labels.a: found 'x'"),
        ({"background": 0, "a": None}, "labels.a: found None"),
        ({"background": 0, "a": 300_000_000}, "without gaps"),
        ({"background": 1, "a": 0}, "nnU-Net does not accept"),
        ({"background": 0, "a": [1, 2]}, "regions_class_order"),
        ({"a": 1}, "expected an object with background"),
        (None, "expected an object with background"),
    ],
)
def test_labels_that_are_none(tmp_path, labels, sentence):
    write_json(tmp_path / "dataset.json", DATASET_JSON | {"labels": labels})
    with pytest.raises(UserError, match=sentence):
        read_dataset_json(tmp_path / "dataset.json")


@pytest.mark.parametrize(("key", "found"), [("channel_names", []), ("file_ending", "../x"), ("file_ending", 3)])
def test_other_keys_of_dataset_json(tmp_path, key, found):
    write_json(tmp_path / "dataset.json", DATASET_JSON | {key: found})
    with pytest.raises(UserError, match=key):
        read_dataset_json(tmp_path / "dataset.json")


OF_PLANS = ("dataset_name", "plans_name", "configurations", "image_reader_writer", "transpose_forward")
OF_CONFIGURATIONS = tuple(k for k in make_plans()["configurations"]["2d"])
TEXTS = ("dataset_name", "plans_name", "data_identifier")
DICTIONARIES = ("configurations", *(f"resampling_fn_{what}_kwargs" for what in ("data", "seg", "probabilities")))


@pytest.mark.parametrize("change", ["missing", None, "nope", -1, [0], {}, [[]]], ids=repr)
@pytest.mark.parametrize("key", OF_PLANS + OF_CONFIGURATIONS)
def test_a_missing_or_ill_typed_key_of_plans_is_named(key, change):
    plans = make_plans()
    owner = plans if key in OF_PLANS else plans["configurations"]["2d"]
    if change == "missing":
        del owner[key]
    else:
        owner[key] = change
    if (change == "nope" and key in TEXTS) or (change == {} and key in DICTIONARIES):
        assert check_plans(plans, "plans.json") is None  # of the right type
        return
    with pytest.raises(UserError, match=r"plans\.json") as error:
        check_plans(plans, "plans.json")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"patch_size": [0, 16]}, r"patch_size\[0\]|patch_size: found 0"),
        ({"spacing": [0, 1]}, "expected a number > 0"),
        ({"spacing": [1]}, "expected 2 numbers"),
        ({"inherits_from": "2d"}, "nnU-Net cannot read it"),
        ({"inherits_from": "nowhere"}, "nnU-Net cannot read it"),
        ({"previous_stage": "nowhere"}, "has no configuration 'nowhere'"),
        ({"normalization_schemes": ["CTNormalization"]}, "CTNormalization needs a number"),
        ({"resampling_fn_data_kwargs": {"zoom": 3}}, "does not take"),
    ],
)
def test_values_that_plans_cannot_have(change, sentence):
    plans = make_plans()
    plans["configurations"]["2d"] |= change
    with pytest.raises(UserError, match=sentence):
        check_plans(plans, "plans.json", "2d")


def test_plans_of_before_nnunet_2_5_are_read():
    plans = make_plans()
    new = plans["configurations"]["2d"]
    old = {k: v for k, v in new.items() if k != "architecture"} | {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 8,
        "unet_max_num_features": 64,
        "n_conv_per_stage_encoder": [1, 1, 1],
        "n_conv_per_stage_decoder": [1, 1],
        "num_pool_per_axis": [2, 2],
        "pool_op_kernel_sizes": [[1, 1], [2, 2], [2, 2]],
        "conv_kernel_sizes": [[3, 3]] * 3,
    }
    plans["configurations"] = {"2d": old}
    with pytest.warns(UserWarning, match="old nnU-Net plans format"):
        check_plans(plans, "plans.json")
    assert "architecture" not in plans["configurations"]["2d"]
    old["UNet_class_name"] = "os.system"
    with pytest.raises(UserError, match="nnU-Net cannot read it"), pytest.warns(UserWarning, match="old nnU-Net"):
        check_plans(plans, "plans.json")
    assert plans["dataset_name"] == DATASET
