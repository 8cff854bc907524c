"""A model folder says what prediction needs where its network is not one of nnU-Net's own."""

from types import SimpleNamespace

import pytest
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_kd.networks.readme import needed_at_prediction, write_readme
from nnunet_kd.trainers.base import nnUNetTrainerKDBase

ENET = "nnunet_kd.networks.ENet"


@pytest.mark.parametrize(
    ("class_path", "arguments", "words"),
    [
        ("dynamic_network_architectures.architectures.unet.PlainConvUNet", {}, []),
        (ENET, {}, ["`nnunet-kd`"]),
        (
            "nnunet_kd.networks.ExternalNetwork",
            {"network": "monai.networks.nets.SegResNet"},
            ["`nnunet-kd`", "`monai.networks.nets.SegResNet`"],
        ),
        (
            "nnunet_kd.networks.ExternalNetwork",
            {"network": "mine.Net"},
            ["`nnunet-kd`", "`mine.Net`", "`export NNUNET_KD_ALLOWED_PACKAGES=mine`"],
        ),
        ("elsewhere.Net", {}, ["`elsewhere`"]),
    ],
)
def test_packages_are_named_in_order(class_path, arguments, words):
    found = needed_at_prediction(class_path, arguments)
    assert len(found) == len(words)
    assert all(word in line for word, line in zip(words, found, strict=True))


def test_a_users_own_file_is_named(tmp_path, monkeypatch):
    (tmp_path / "networks").mkdir()
    (tmp_path / "networks" / "my_net.py").touch()
    monkeypatch.setenv("NNUNET_KD_EXTENSIONS", str(tmp_path))
    file, packages = needed_at_prediction("my_net.Net", {})
    assert "`my_net.py`" in file
    assert "PYTHONPATH" in file
    assert "imports" in packages


def test_a_file_of_the_users_stays_and_stock_networks_need_none(tmp_path):
    write_readme(tmp_path, "dynamic_network_architectures.architectures.unet.PlainConvUNet", {})
    assert not list(tmp_path.iterdir())
    (tmp_path / "README.md").write_text("mine")
    write_readme(tmp_path, ENET, {})
    assert (tmp_path / "README.md").read_text() == "mine"


@pytest.mark.parametrize(("rank", "disabled", "writes"), [(0, False, True), (1, False, False), (0, True, False)])
def test_trainers_write_it_at_the_end(tmp_path, monkeypatch, rank, disabled, writes):
    monkeypatch.setattr(nnUNetTrainer, "on_train_end", lambda self: None)
    trainer = object.__new__(nnUNetTrainerKDBase)
    trainer.local_rank, trainer.disable_checkpointing = rank, disabled
    trainer.output_folder_base, trainer.output_folder = str(tmp_path), str(tmp_path / "fold_0")
    trainer.progress = SimpleNamespace(finish=lambda folder: None)
    trainer.configuration_manager = SimpleNamespace(network_arch_class_name=ENET, network_arch_init_kwargs={})
    trainer.on_train_end()
    assert [f.name for f in tmp_path.iterdir()] == ["README.md"] * writes
    if writes:
        text = (tmp_path / "README.md").read_text()
        assert text.startswith(f"# {tmp_path.name}\n\nThe network of this model, `{ENET}`, is not nnU-Net's own.")
