"""Training, export, reconstruction, resuming and benchmark on CUDA: ``pytest -m gpu``.

Every body takes a device, and a few run on the CPU as well, so that they do not decay where there is no GPU.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.run.run_training import get_trainer_from_args
from torch._dynamo import OptimizedModule

from nnunet_kd.cli import main
from nnunet_kd.softlabels.encoding import decode
from nnunet_kd.softlabels.export import Exporter
from nnunet_kd.softlabels.stores import open_store
from nnunet_kd.teachers.ensemble import TeachingEnsemble
from nnunet_kd.teachers.model import load_checkpoint_file
from nnunet_kd.teachers.student_data import load_student
from nnunet_kd.utilities.programs import find_program
from nnunet_kd.utilities.ranks import bare
from tests.unit.test_online_trainers import make_teacher
from tests.unit.toy_dataset import make_toy, run_epoch, without_figures

ON_CUDA = (pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"))
SCHEDULE = {"num_epochs": 2, "iterations_per_epoch": 3, "val_iterations_per_epoch": 1, "save_every": 1, "seed": 5}
TRAINERS = {
    "nnUNetTrainerKDTeacher": {"student": {"ema": 0.5}},
    "nnUNetTrainerKDEnsemble": {"unlabeled": {"fraction": 0.5}},
    "nnUNetTrainerKDFeature": {
        "features": {"hint": {"weight": 1.0}},
        "augmentation": {"transforms": "DA5", "mixup": {"probability": 1.0}},
    },
    "nnUNetTrainerKDMultiTeacher": {
        "multi_teacher": {"weights": "inverse"},
        "augmentation": {"cutmix": {"probability": 1.0}},
    },
    "nnUNetTrainerKDCrossTeaching": {"cross_teaching": {"teachers": ["same", "same"]}},
}
CONFIGURATIONS = ("2d", "3d_fullres")


def on_cuda(*values):
    return pytest.param(*values, marks=ON_CUDA)


WHERE = [("2d", "cpu"), *(on_cuda(c, "cuda") for c in CONFIGURATIONS)]


@pytest.fixture(scope="module", name="toy")
def _toy(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        without_figures(monkeypatch)
        toy = make_toy(tmp_path_factory.mktemp("toy"), monkeypatch, configurations=CONFIGURATIONS)
        toy.add_unlabeled("new_1", "new_2")
        for configuration in CONFIGURATIONS:
            make_teacher(toy, (0, 1), configuration=configuration)
            main(["preprocess-unlabeled", "-d", "900", "-c", configuration, "-np", "1"])
        yield toy


def write_student(toy, configuration, folds=(0,), channels=(8, 8, 8), batch_size=2, **block):
    teacher = {"folder": f"nnUNetTrainerKDTeacher__Teacher__{configuration}", "folds": list(folds)}
    toy.write_plans({"teachers": [teacher], "schedule": SCHEDULE, **block}, "Student", batch_size, channels)


def trainer_of(name, configuration, device, resume=None):
    trainer = get_trainer_from_args("900", configuration, 0, name, "Student", resume is not None, torch.device(device))
    if resume is not None:
        trainer.load_checkpoint(str(resume))
    return trainer


@pytest.mark.parametrize(
    ("configuration", "device", "compiled"),
    [("2d", "cpu", False), *(on_cuda(c, "cuda", compiled) for c in CONFIGURATIONS for compiled in (False, True))],
)
@pytest.mark.parametrize("name", TRAINERS)
def test_every_trainer_trains_and_stock_nnunet_predicts(toy, monkeypatch, name, configuration, device, compiled):
    monkeypatch.setenv("nnUNet_compile", "true" if compiled else "false")
    torch._dynamo.reset()
    write_student(toy, configuration, (0, 1) if "Multi" in name else (0,), **TRAINERS[name])
    trainer = trainer_of(name, configuration, device)
    trainer.initialize()
    assert isinstance(trainer.network, OptimizedModule) == compiled
    assert (trainer.grad_scaler is not None) == (device == "cuda"), "float16 autocast with a scaler, as nnU-Net has it"
    before = [p.detach().clone() for p in bare(trainer.network).parameters()]
    trainer.run_training()
    log = trainer.logger.local_logger.my_fantastic_logging
    assert np.isfinite(log["train_losses"]).all()
    assert len(log["train_losses"]) == 2
    assert any(not torch.equal(a, b) for a, b in zip(before, bare(trainer.network).parameters(), strict=True))

    predictor = nnUNetPredictor(device=torch.device(device), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(trainer.output_folder_base, (0,))
    image = np.random.default_rng(0).normal(size=(1, 20, 20, 20)).astype(np.float32)
    assert predictor.predict_single_npy_array(image, {"spacing": [1.0, 1.0, 1.0]}).shape == (20, 20, 20)


def probabilities_of(toy, configuration, device):
    """Decoded soft labels of every training case, exported anew on a device."""
    kd, space = load_student(toy.preprocessed / "Student.json", configuration, toy.raw)
    ensemble = TeachingEnsemble.resolve(kd, space, toy.results, None)
    shutil.rmtree(toy.preprocessed / "kd_softlabels", ignore_errors=True)
    cases = [f"case_{i}" for i in range(4)]
    Exporter(ensemble, torch.device(device)).run(cases, progress=False)
    store = open_store(ensemble)
    return [decode(store.read(c)[:], False) for c in cases]


@pytest.mark.parametrize(("configuration", "device"), WHERE)
def test_soft_labels_of_a_device_have_the_argmax_of_those_of_the_cpu(toy, configuration, device):
    write_student(toy, configuration, (0, 1))
    ours, theirs = (probabilities_of(toy, configuration, d) for d in (device, "cpu"))
    for a, b in zip(ours, theirs, strict=True):
        assert np.abs(a - b).max() <= 0.03, "float16 autocast, as nnU-Net has it on CUDA, against float32"
        first, second = np.sort(b, 0)[::-1][:2]
        clear = first - second > 0.06
        assert clear.mean() > 0.2
        assert (a.argmax(0) == b.argmax(0))[clear].all()


@pytest.mark.parametrize(("configuration", "device"), WHERE)
def test_a_reconstruction_on_a_device_is_that_of_the_cpu(toy, configuration, device):
    write_student(toy, configuration, channels=(8, 4, 4))
    outputs = []
    image = torch.randn(2, 1, *([16] * (2 if configuration == "2d" else 3)), generator=torch.Generator().manual_seed(0))
    for where in (device, "cpu"):
        trainer = trainer_of("nnUNetTrainerKDEnsemble", configuration, where)
        trainer.initialize()
        trainer.start_student()
        assert "untrained student" in Path(trainer.log_file).read_text()
        network = bare(trainer.network).eval()
        with torch.no_grad():
            outputs.append(network(image.to(where))[0].softmax(1).cpu())
    assert (outputs[0] - outputs[1]).abs().mean() < 0.01


@pytest.mark.parametrize(
    ("name", "device"), [("nnUNetTrainerKDEnsemble", "cpu"), *(on_cuda(name, "cuda") for name in TRAINERS)]
)
def test_a_training_goes_on_with_the_same_batches(toy, tmp_path, name, device):
    write_student(toy, "3d_fullres", (0, 1) if "Multi" in name else (0,), **TRAINERS[name])
    whole = trainer_of(name, "3d_fullres", device)
    whole.on_train_start()
    run_epoch(whole)
    latest = tmp_path / "checkpoint_latest.pth"
    shutil.copy(Path(whole.output_folder) / latest.name, latest)
    assert (load_checkpoint_file(latest)["kd_random"][0]["cuda"] is not None) == (device == "cuda")
    run_epoch(whole)
    resumed = trainer_of(name, "3d_fullres", device, latest)
    resumed.on_train_start()
    run_epoch(resumed)
    ours, theirs = (t.logger.local_logger.my_fantastic_logging for t in (whole, resumed))
    # CUDA adds up in another order every time; the batches of another epoch would differ much more
    for curve in ("train_losses", "val_losses"):
        assert ours[curve][1] == pytest.approx(theirs[curve][1], rel=1e-6 if device == "cpu" else 1e-2)


@pytest.mark.parametrize("device", [on_cuda("cuda")])
def test_the_benchmark_reads_the_memory_of_the_gpu(toy, tmp_path, device):
    model = toy.results / "nnUNetTrainerKDTeacher__Teacher__3d_fullres"
    output = tmp_path / "benchmark"
    main(["benchmark", "--model", f"teacher={model}:0", "-i", str(toy.raw / "imagesTr"), "-o", str(output),
          "-n", "2", "--runs", "1", "-device", device, "-npp", "1", "-nps", "1"])  # fmt: skip
    (measured,) = json.loads((output / "benchmark.json").read_text())["models"].values()
    assert min(measured["network_seconds"]) > 0
    for row in ("peak_device_mb", "device_memory_time_mb_s"):
        if device == "cuda":
            assert min(measured[row]) > 0
        else:
            assert measured[row] is None


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("name", TRAINERS)
def test_two_gpus_train_one_network(toy, tmp_path, name):
    write_student(toy, "3d_fullres", (0, 1) if "Multi" in name else (0,), batch_size=4, **TRAINERS[name])
    log = tmp_path / "log.txt"
    command = [find_program("nnUNetv2_train"), "900", "3d_fullres", "0", "-tr", name, "-p", "Student", "-num_gpus", "2"]
    with log.open("w") as output:
        code = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, env=os.environ, check=False).returncode
    assert code == 0, log.read_text()[-2000:]
    checkpoint = load_checkpoint_file(toy.results / f"{name}__Student__3d_fullres" / "fold_0" / "checkpoint_final.pth")
    assert len(checkpoint["kd_random"]) == 2
    assert np.isfinite(checkpoint["logging"]["train_losses"]).all()
