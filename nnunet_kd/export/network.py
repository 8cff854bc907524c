"""The folds of a model as one graph: ONNX and OpenVINO's IR, for one patch, with one output."""

import inspect
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from nnunet_kd.teachers.loading import load_network
from nnunet_kd.teachers.model import TeacherModel
from nnunet_kd.utilities.errors import UserError

ONNX, OPENVINO = "network.onnx", "network.xml"
OPSET = 17
TOLERANCE = 1e-3  # of the largest logit
CALIBRATION_PATCHES = 300
UNQUANTISED = ["Add", "Multiply", "MVN"]  # OpenVINO's operations; MVN: normalisation by mean and variance


class MeanOfFolds(nn.Module):
    """The mean of the logits of networks, as ``nnUNetv2_predict`` averages folds."""

    def __init__(self, networks: Sequence[nn.Module]):
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(1, inputs, *patch) -> (1, outputs, *patch)."""
        total = self.networks[0](image)
        for network in self.networks[1:]:
            total = total + network(image)
        return total / len(self.networks)


def load_folds(model: TeacherModel) -> tuple[nn.Module, tuple[int, ...]]:
    """The network of a model folder, and the axes of its patch along which it may be mirrored.

    Raises:
        UserError: when a checkpoint cannot be loaded.
    """
    loaded = [load_network(model, fold, torch.device("cpu")) for fold in model.folds]
    axes = loaded[0][1].get("inference_allowed_mirroring_axes") or ()
    networks = [network for network, _ in loaded]
    return (networks[0] if len(networks) == 1 else MeanOfFolds(networks)), tuple(int(a) for a in axes)


def write_networks(network: nn.Module, inputs: int, patch: Sequence[int], folder: Path, where: str) -> None:
    """Writes ``network.onnx``, ``network.xml`` and ``network.bin``.

    Args:
        network: in evaluation mode, without deep supervision.
        inputs: its channels.
        patch: voxels of its input.
        folder: where the files go.
        where: what a message calls it.

    Raises:
        UserError: when the graph depends on the data, or cannot be expressed.
    """
    import openvino

    samples = list(_samples(inputs, patch))
    # the exporter that traces: one file, seconds instead of minutes, and the same graph
    exporter: dict[str, Any] = {"dynamo": False} if "dynamo" in inspect.signature(torch.onnx.export).parameters else {}
    with torch.no_grad(), _quiet():
        expected = [network(torch.from_numpy(s)) for s in samples]
        if not all(isinstance(e, torch.Tensor) and e.shape[2:] == tuple(patch) for e in expected):
            raise UserError(f"{where}: its network has not one output on the grid of its input; it cannot be exported.")
        try:
            torch.onnx.export(
                network, (torch.from_numpy(samples[0]),), str(folder / ONNX), opset_version=OPSET,
                input_names=["image"], output_names=["logits"], **exporter,
            )  # fmt: skip
            openvino.save_model(openvino.convert_model(folder / ONNX), folder / OPENVINO, compress_to_fp16=False)
            runs = {engine: [run(folder, s) for s in samples] for engine, run in _ENGINES.items()}
        except Exception as err:
            reason = str(err).strip().partition("\n")[0][:200]
            raise UserError(f"{where}: its network cannot be exported ({reason}).") from err
    for engine, found in runs.items():
        for output, wanted in zip(found, expected, strict=True):
            difference = float(np.abs(output - wanted.numpy()).max())
            if not difference <= TOLERANCE * max(1.0, float(wanted.abs().max())):
                raise UserError(
                    f"{where}: {engine} and PyTorch differ by {difference:.2g} on the same patch; a network whose "
                    "graph depends on the image cannot be exported."
                )


def quantise(folder: Path, patches: Sequence[np.ndarray]) -> None:
    """Replaces ``network.xml`` by an 8-bit network that was calibrated on patches (1, inputs, *patch); no ONNX is left.

    Convolutions compute with 8 bits. Instance normalisation, with its products and additions, does not, and neither do
    the convolutions that read the image: 8 bits there make a third of the error and save no time.

    Raises:
        UserError: when NNCF is not installed.
    """
    try:
        with _quiet():
            import nncf
    except ImportError:
        raise UserError("--precision int8: needs NNCF; install it with: pip install 'nnunet-kd[export]'.") from None
    import openvino

    logging.getLogger("nncf").setLevel(logging.ERROR)
    chosen = [patches[i] for i in spread(len(patches), CALIBRATION_PATCHES)]
    network = openvino.Core().read_model(folder / OPENVINO)
    kept = nncf.IgnoredScope(names=readers_of_the_image(network), types=UNQUANTISED, validate=False)
    with _quiet():
        small = nncf.quantize(
            network,
            nncf.Dataset(chosen),
            preset=nncf.QuantizationPreset.MIXED,  # leaky activations are not symmetric
            subset_size=len(chosen),
            ignored_scope=kept,
        )
    quantised = folder / f"int8_{OPENVINO}"
    openvino.save_model(small, quantised, compress_to_fp16=False)
    for suffix in (".xml", ".bin"):
        quantised.with_suffix(suffix).replace((folder / OPENVINO).with_suffix(suffix))
    (folder / ONNX).unlink()


def spread(count: int, wanted: int) -> list[int]:
    """At most ``wanted`` of ``count`` indices, evenly spread.

    Not every n-th one: with n windows in each slice that would always be the same corner of the image.
    """
    return np.linspace(0, count - 1, min(count, wanted)).round().astype(int).tolist()


def readers_of_the_image(network: Any) -> list[str]:
    """Names of the operations of an OpenVINO model that its input goes to: the first convolution of each fold."""
    return [target.get_node().get_friendly_name() for target in network.input().get_target_inputs()]


def _samples(inputs: int, patch: Sequence[int]) -> Iterator[np.ndarray]:
    """Patches of different content: noise, and a bright box on a dark ground."""
    rng = np.random.default_rng(0)
    yield rng.normal(size=(1, inputs, *patch)).astype(np.float32)
    box = np.full((1, inputs, *patch), -1, np.float32)
    box[(slice(None), slice(None), *(slice(n // 4, n // 2 + 1) for n in patch))] = 3
    yield box + rng.normal(0, 0.01, box.shape).astype(np.float32)


def _run_openvino(folder: Path, sample: np.ndarray) -> np.ndarray:
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    return core.compile_model(core.read_model(folder / OPENVINO), "CPU", settings)(sample)[0]


def _run_onnx(folder: Path, sample: np.ndarray) -> np.ndarray:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(folder / ONNX), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": sample})[0]


_ENGINES = {"onnxruntime": _run_onnx, "OpenVINO": _run_openvino}


class _quiet(warnings.catch_warnings):  # noqa: N801 - a context manager
    """Without the warnings of tracing (constants, deprecation): the result is compared instead."""

    def __enter__(self) -> Any:
        entered = super().__enter__()
        warnings.simplefilter("ignore")
        return entered
