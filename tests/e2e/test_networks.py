"""Every network: planned, trained by nnU-Net and run by stock prediction, on real images; and exported to ONNX."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from nnunet_kd.networks.family import families
from tests.e2e.conftest import SHORT, read_segmentation
from tests.unit.test_networks import SMALL, image, small

TRAINER = "nnUNetTrainerKDTeacher"
TINY = [*SHORT, "schedule.iterations_per_epoch=2", "schedule.seed=1"]
# network -> options that make it quick
NETWORKS = {
    **{name: ["width=0.25"] for name, family in families().items() if family.features},
    "external": ["", "network=monai.networks.nets.SegResNet", "init_filters=8"],
}
# The commands' own functions, in one process: importing nnU-Net takes longer than these trainings
COMMANDS = """
import json, sys
import torch
from nnunet_kd.cli import main
from nnunetv2.inference.predict_from_raw_data import predict_entry_point
from nnunetv2.run.run_training import get_trainer_from_args

configuration, trainer_name, images, output, networks, settings = json.loads(sys.argv[1])
for name, (change, *arguments) in networks.items():
    student = f"{name},{change}" if change else name
    options = ["-o", name, "--role", "teacher", "--student", student, "--batch_size", "2"]
    given = ["--student-arg", *arguments] if arguments else []
    main(["plan", "-d", "4", "-c", configuration, *options, *given, "--set", *settings])
    trainer = get_trainer_from_args("4", configuration, 0, trainer_name, name, device=torch.device("cpu"))
    trainer.run_training()
    losses = trainer.logger.local_logger.my_fantastic_logging["train_losses"]
    print(f"LOSSES {name} {json.dumps([float(x) for x in losses])}")
    where = ["-d", "4", "-c", configuration, "-f", "0", "-tr", trainer_name, "-p", name]
    sys.argv = ["nnUNetv2_predict", *where, "-i", images, "-o", f"{output}/{name}", "-device", "cpu",
                "-npp", "0", "-nps", "0", "--disable_tta"]
    predict_entry_point()
"""


@pytest.fixture(scope="module")
def trained(workspace, tmp_path_factory):
    """Output of planning, training and predicting with every network in 3D, and the folder of the predictions."""

    networks = dict(NETWORKS)
    try:
        import monai  # noqa: F401
    except ImportError:
        del networks["external"]
    output = tmp_path_factory.mktemp("predicted")
    arguments = json.dumps(["3d_fullres", TRAINER, str(workspace.raw / "imagesTs"), str(output), networks, TINY])
    result = subprocess.run(
        [sys.executable, "-c", COMMANDS, arguments],
        env=workspace.environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert result.returncode == 0, (result.stdout + result.stderr)[-4000:]
    return result.stdout, output, list(networks)


def test_every_network_trains_and_predicts_with_stock_nnunet(workspace, trained):
    printed, output, names = trained
    case = next((workspace.raw / "labelsTs").iterdir())
    for name in names:
        losses = [line for line in printed.splitlines() if line.startswith(f"LOSSES {name} ")]
        assert np.isfinite(json.loads(losses[0].split(" ", 2)[2])).all(), name
        segmentation = read_segmentation(output / name / case.name)
        assert segmentation.shape == read_segmentation(case).shape
        assert set(np.unique(segmentation)) <= {0, 1, 2}
        folder = workspace.results / f"{TRAINER}__{name}__3d_fullres" / "fold_0"
        checkpoint = torch.load(folder / "checkpoint_final.pth", weights_only=False, map_location="cpu")
        assert checkpoint["trainer_name"] == "nnUNetTrainer"  # no trainer of this package is needed


def test_the_three_plane_network_teaches(workspace, trained):
    teacher = f"{TRAINER}__dilated__3d_fullres:0"
    workspace.plan("Taught", "-c", "3d_fullres", "--student", "enet,width=0.5", "--teachers", teacher)
    printed = workspace.run(
        "nnUNetv2_kd", "softlabels", "-d", "4", "-c", "3d_fullres", "-p", "Taught", "-device", "cpu"
    )
    assert "8 cases written" in printed


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.filterwarnings("ignore")
def test_every_network_is_exported_to_onnx(name):
    pytest.importorskip("onnxscript")
    network = small(name, 3 if name in ("DilatedNet", "ENet") else 2).eval()
    x = image(name, 3 if name in ("DilatedNet", "ENet") else 2)
    program = torch.onnx.export(network, (x,), dynamo=True, verbose=False)
    with torch.no_grad():
        reference = network(x)
    assert list(program.model.graph.outputs[0].shape) == list(reference.shape)
