"""Training on several GPUs, with two processes on the CPU: batches, gradients, waiting, resuming."""

import json
import os
import shutil
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing, nn

from nnunet_kd.losses import soft_dice_loss
from nnunet_kd.teachers.model import load_checkpoint_file
from nnunet_kd.utilities.ranks import bare, gather, number_of_ranks, sum_over_ranks, waiting_for_all
from tests.unit.test_online_trainers import make_teacher, write_student
from tests.unit.toy_dataset import make_toy, run_epoch, without_figures

VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "nnUNet_n_proc_DA", "nnUNet_def_n_proc")
SCHEDULE = {"num_epochs": 3, "iterations_per_epoch": 2, "val_iterations_per_epoch": 1, "save_every": 1, "seed": 5}


def _rank(rank: int, work: Any, folder: Path, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    store = f"file://{folder / 'rendezvous'}"
    dist.init_process_group("gloo", rank=rank, world_size=2, init_method=store, timeout=timedelta(seconds=20))
    (folder / f"{rank}.json").write_text(json.dumps(work()))
    dist.destroy_process_group()


def on_two_ranks(work: Any, folder: Path) -> list[Any]:
    """What ``work()`` returns in each of two processes of one group."""
    multiprocessing.get_context("forkserver").set_forkserver_preload([__name__])
    environment = {v: os.environ[v] for v in VARIABLES if v in os.environ}
    multiprocessing.start_processes(_rank, (work, folder, environment), 2, start_method="forkserver")
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def logits_and_labels() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits, labels = (torch.randn(2, 3, 5, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    return logits, labels.softmax(1)


def _exchange() -> dict[str, Any]:
    rank = dist.get_rank()
    logits, labels = (x[rank : rank + 1] for x in logits_and_labels())
    logits.requires_grad_()
    loss = soft_dice_loss(logits, labels, ddp=True)
    loss.backward()
    total = sum_over_ranks(torch.tensor([1.0 + rank]))
    with waiting_for_all():
        time.sleep(0.5 * rank)
        done = time.time()
    return {
        "ranks": number_of_ranks(),
        "gathered": gather(rank),
        "total": total.item(),
        "loss": loss.item(),
        "gradient": logits.grad.tolist(),
        "done": done,
        "left": time.time(),
    }


def test_soft_dice_of_a_batch_is_that_of_all_ranks_and_all_wait_for_the_last(tmp_path):
    first, second = on_two_ranks(_exchange, tmp_path)
    assert first["ranks"] == second["ranks"] == 2
    assert first["gathered"] == second["gathered"] == [0, 1]
    assert first["total"] == second["total"] == 3
    logits, labels = logits_and_labels()
    logits.requires_grad_()
    loss = soft_dice_loss(logits, labels)
    loss.backward()
    assert first["loss"] == pytest.approx(loss.item(), abs=1e-12)
    assert second["loss"] == first["loss"]
    # DDP takes the mean over the ranks of the gradients of the weights: half of each rank's
    halves = torch.tensor([first["gradient"][0], second["gradient"][0]]) / 2
    torch.testing.assert_close(halves, logits.grad.float())
    assert first["left"] >= second["done"]


def test_a_process_alone_waits_for_nobody():
    assert (number_of_ranks(), gather("x")) == (1, ["x"])
    with waiting_for_all():
        pass
    with pytest.raises(ValueError, match="process group"):
        soft_dice_loss(*logits_and_labels(), ddp=True)


def trainer_on_cpu(name: str, plans: str, resume: Path | None = None) -> Any:
    """nnU-Net takes CUDA for granted when there are several processes."""
    import nnunetv2.training.nnUNetTrainer.nnUNetTrainer as module
    from nnunetv2.run.run_training import get_trainer_from_args

    module.DDP = lambda network, device_ids: nn.parallel.DistributedDataParallel(network)
    without_figures(pytest.MonkeyPatch())
    trainer = get_trainer_from_args("900", "3d_fullres", 0, name, plans, resume is not None, torch.device("cpu"))
    trainer.device = torch.device("cpu")
    if resume is not None:
        trainer.load_checkpoint(str(resume))
    trainer.on_train_start()
    return trainer


def _weights(trainer: Any) -> float:
    return sum(p.double().abs().sum().item() for p in bare(trainer.network).parameters())


def _train() -> dict[str, Any]:
    trainer = trainer_on_cpu("nnUNetTrainerKDEnsemble", "Student")
    batches: list[Any] = []
    step = trainer.train_step
    trainer.train_step = lambda batch: (batches.append((batch["keys"], batch["data"].sum().item())), step(batch))[1]
    run_epoch(trainer)
    dist.barrier()
    latest = Path(trainer.output_folder) / f"copy_{dist.get_rank()}.pth"
    shutil.copy(latest.with_name("checkpoint_latest.pth"), latest)
    dist.barrier()
    run_epoch(trainer)
    numbers = trainer.logger.local_logger.my_fantastic_logging["train_losses"]
    after = _weights(trainer)
    resumed = trainer_on_cpu("nnUNetTrainerKDEnsemble", "Student", latest)
    run_epoch(resumed)
    again = resumed.logger.local_logger.my_fantastic_logging["train_losses"]
    return {
        "batches": [[[str(k) for k in keys], total] for keys, total in batches],
        "states": len(load_checkpoint_file(latest)["kd_random"]),
        "weights": after,
        "resumed": _weights(resumed),
        "losses": [float(x) for x in numbers],
        "again": [float(x) for x in again],
    }


@pytest.fixture(name="toy")
def _toy(tmp_path, monkeypatch):
    toy = make_toy(tmp_path / "toy", monkeypatch)
    make_teacher(toy)
    return toy


def test_every_rank_draws_its_own_batches_and_resumes_with_its_own_random_numbers(toy, tmp_path):
    write_student(toy, schedule=SCHEDULE)
    first, second = on_two_ranks(_train, tmp_path)
    assert first["batches"] != second["batches"]
    assert first["states"] == 2
    assert first["weights"] == second["weights"]
    assert first["resumed"] == second["resumed"] == first["weights"]
    assert first["losses"] == first["again"] == second["losses"]


MIXED = {"augmentation": {"mixup": {"probability": 0.5}, "cutmix": {"probability": 0.3}}}
TRAININGS: dict[str, tuple[str, dict[str, Any]]] = {
    "Teacher": ("nnUNetTrainerKDTeacher", {"deep_supervision": False, **MIXED}),
    "SoftLabelsAlone": (
        "nnUNetTrainerKDEnsemble",
        {"hard_loss": {"weight": 0}, "distillation": {"deep_supervision": False}},
    ),
    "Feature": ("nnUNetTrainerKDFeature", {"features": {"hint": {"weight": 1.0}}, **MIXED}),
    "Multi": ("nnUNetTrainerKDMultiTeacher", {"multi_teacher": {"weights": "inverse"}}),
    "Cross": (
        "nnUNetTrainerKDCrossTeaching",
        {"cross_teaching": {"teachers": ["same", "same"], "unlabeled": {"weight": 0.0}}},
    ),
}


def _steps() -> dict[str, list[float]]:
    weights = {}
    for plans, (name, _) in TRAININGS.items():
        trainer = trainer_on_cpu(name, plans)
        trainer.on_train_epoch_start()
        weights[plans] = [float(trainer.train_step(next(trainer.dataloader_train))["loss"]) for _ in range(3)]
        weights[plans].append(_weights(trainer))
    return weights


def test_every_trainer_takes_steps_and_outputs_that_no_loss_looks_at_do_not_stop_it(toy, tmp_path):
    for plans, (_, block) in TRAININGS.items():
        write_student(toy, plans, schedule=SCHEDULE, batch_size=4, **block)
    first, second = on_two_ranks(_steps, tmp_path)
    for plans in TRAININGS:
        assert np.isfinite(first[plans]).all(), plans
        assert first[plans][-1] == second[plans][-1], f"{plans}: the ranks have other weights"
        assert first[plans][:-1] != second[plans][:-1], f"{plans}: the ranks have the same batches"
