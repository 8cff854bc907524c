"""The network in OpenVINO, or in onnxruntime where OpenVINO is not installed."""

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np

from .description import Description
from .verify import BundleError

Network = Callable[[np.ndarray], np.ndarray]


def open_network(folder: Path, bundle: Description, threads: int) -> tuple[Network, str]:
    """The network of a bundle and the name of the engine that runs it.

    Raises:
        BundleError: when no engine is installed that can run it, or it is not the network that was described.
    """
    expected = ((1, bundle.inputs, *bundle.patch_size), (1, bundle.outputs, *bundle.patch_size))
    for engine, opener in (("openvino", _openvino), ("onnx", _onnxruntime)):
        if engine not in bundle.files:
            continue
        try:
            network, shapes = opener(folder / bundle.files[engine], bundle.precision, threads)
        except ImportError:
            continue
        except Exception as err:
            raise BundleError(f"{folder / bundle.files[engine]}: cannot be loaded ({_first_line(err)}).") from err
        if shapes != expected:
            raise BundleError(f"{folder / bundle.files[engine]}: maps {shapes}, bundle.json says {expected}.")
        return network, engine
    wanted = " or ".join({"openvino": "openvino", "onnx": "onnxruntime"}[f] for f in bundle.files)
    raise BundleError(f"{folder}: needs {wanted}; install it with: pip install -r {folder / 'requirements.txt'}")


def _import_openvino() -> ModuleType:
    """OpenVINO without its package that reports its use over the network, and warns where it may not write.

    A program that loads a bundle can import that package afterwards, as if nothing had been.
    """
    telemetry = "openvino_telemetry"
    hidden = telemetry not in sys.modules
    if hidden:
        sys.modules[telemetry] = None  # type: ignore[assignment]  # import says that there is none
    try:
        return import_module("openvino")
    finally:
        if hidden:
            del sys.modules[telemetry]


def _openvino(file: Path, precision: str, threads: int) -> tuple[Network, tuple[tuple[int, ...], ...]]:
    openvino = _import_openvino()
    # without the hint OpenVINO takes bfloat16 on processors that have it
    hint = "bf16" if precision == "bf16" else "f32"
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": hint,
    }
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(file), "CPU", settings)
    if not len(compiled.inputs) == len(compiled.outputs) == 1:
        raise ValueError("it has more than one input or output")
    request = compiled.create_infer_request()

    def run(patch: np.ndarray) -> np.ndarray:
        return request.infer({0: patch}, share_inputs=True, share_outputs=True)[0]

    return run, tuple(tuple(p.get_partial_shape().to_shape()) for p in (compiled.inputs[0], compiled.outputs[0]))


def _onnxruntime(file: Path, precision: str, threads: int) -> tuple[Network, tuple[tuple[int, ...], ...]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    (image,), (logits,) = session.get_inputs(), session.get_outputs()

    def run(patch: np.ndarray) -> np.ndarray:
        return session.run([logits.name], {image.name: patch})[0]

    return run, (tuple(image.shape), tuple(logits.shape))


def _first_line(err: Exception) -> str:
    return next((line.strip() for line in str(err).splitlines() if line.strip()), type(err).__name__)[:200]
