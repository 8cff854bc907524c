"""Plans, stores and checkpoints of an earlier version are read with the same meaning (tests/data/before_rebuild)."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.run.run_training import get_trainer_from_args

from nnunet_kd.cli import main
from nnunet_kd.config import KDConfig
from nnunet_kd.softlabels.store import SoftLabelStore
from nnunet_kd.utilities.schema import to_dict
from tests.unit.small_trainings import merged
from tests.unit.test_plan_command import DATASET
from tests.unit.toy_dataset import run_epoch, without_figures

DATA = Path(__file__).parents[1] / "data" / "before_rebuild"
GOLDEN = json.loads((DATA / "golden.json").read_text())
SINCE = {
    "distillation": {key: {"ramp": "none"} for key in ("soft_ce", "soft_dice")},
    "augmentation": {"mirroring": True},
}
"""Defaults of that version that are others today, and what it always did."""


@pytest.fixture(name="folders")
def _folders(tmp_path, monkeypatch) -> Path:
    """nnU-Net's folders as the earlier version left them, and its checkpoints."""
    shutil.unpack_archive(DATA / "folders.tar.gz", tmp_path)
    (tmp_path / "raw" / DATASET).mkdir(parents=True)
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    for name in GOLDEN["curves"]:
        file = tmp_path / "preprocessed" / DATASET / f"{name}.json"
        plans = json.loads(file.read_text())
        file.write_text(json.dumps(plans | {"kd": merged(SINCE, plans["kd"])}))
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    without_figures(monkeypatch)
    return tmp_path


def differences(old, new, path="kd"):
    """Keys of the old block whose value is another one today, or gone."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [d for k in old for d in differences(old[k], new.get(k, "no such key"), f"{path}.{k}")]
    return [] if old == new else [f"{path}: {old!r} is read as {new!r}"]


@pytest.mark.parametrize("name", GOLDEN["config"])
def test_plans_mean_what_they_meant(name):
    plans = json.loads((DATA / "plans" / f"{name}.json").read_text())
    since = [f"kd.distillation.{term}.ramp: 'none' is read as 'fade'" for term in SINCE["distillation"]]
    expected = since if name == "empty" else []
    assert differences(GOLDEN["config"][name], to_dict(KDConfig.from_plans(plans))) == expected


@pytest.mark.parametrize("name", GOLDEN["stores"])
def test_stores_hold_the_same_values(folders, name):
    golden, store = GOLDEN["stores"][name], SoftLabelStore.open(folders / "preprocessed" / DATASET / name)
    assert store.dtype == golden["dtype"]
    assert store.cases() == sorted(golden["record"])
    for case, record in golden["record"].items():
        assert store.record(case) == record
        values = np.asarray(store.read(case)[:])
        assert (values.dtype, list(values.shape)) == (record["dtype"], record["shape"])
        assert hashlib.sha256(values).hexdigest() == record["sha256"]
        if record["reference_dice"] is None:
            assert sorted(store.locations(case)) == [1, 2]


@pytest.mark.parametrize("plans", ["Ensemble", "Float16"])
def test_stores_belong_to_the_same_teachers_and_images(folders, capsys, plans):
    main(["softlabels", "-d", "900", "-c", "3d_fullres", "-p", plans, "-device", "cpu", "--labeled_only"])
    assert "1 cases written" in capsys.readouterr().out, "each store holds two of the three labeled cases"
    assert len(list((folders / "preprocessed" / DATASET / "kd_softlabels").iterdir())) == len(GOLDEN["stores"])


@pytest.mark.parametrize("plans", GOLDEN["curves"])
def test_trainings_resume_with_the_same_losses(folders, plans):
    curves = dict(GOLDEN["curves"][plans])
    trainer = get_trainer_from_args("900", "3d_fullres", 0, curves.pop("trainer"), plans, True, torch.device("cpu"))
    trainer.load_checkpoint(str(folders / "checkpoints" / f"{plans}.pth"))
    trainer.on_train_start()
    run_epoch(trainer)
    log = trainer.logger.local_logger.my_fantastic_logging
    for name, values in curves.items():
        np.testing.assert_allclose(np.array(log[name], float), np.array(values, float), 1e-4, 1e-6, err_msg=name)
