"""What 8 bits cost a network, by what of it stays in full precision: logits and speed against full precision.

    python benchmarks/quantisation.py --bundle FOLDER --calibrate IMAGES -i IMAGES

``--bundle`` is one of fp32; windows of the images of ``-i`` are predicted, those of ``--calibrate`` set the ranges of
the layers. Processor seconds of one thread, all networks in turn on each window.
"""

import argparse
import logging
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import openvino

from nnunet_kd.export.bundle import calibration_patches
from nnunet_kd.export.network import OPENVINO, UNQUANTISED, readers_of_the_image, spread

FULL, WEIGHTS = "none (full precision)", "weights only"


def main() -> None:
    """Prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--calibrate", type=Path, required=True, help="images, CASE_0000.nii.gz")
    parser.add_argument("-i", type=Path, required=True, help="other images")
    parser.add_argument("--windows", type=int, default=100, help="of each of the two folders, evenly spread")
    args = parser.parse_args()
    logging.getLogger("nncf").setLevel(logging.ERROR)
    windows = [calibration_patches(args.bundle, folder) for folder in (args.calibrate, args.i)]
    calibration, other = ([w[i] for i in spread(len(w), args.windows)] for w in windows)
    runs = {name: runner(network) for name, network in networks(args.bundle, calibration).items()}
    errors: dict[str, list[float]] = {name: [] for name in runs}
    differing: dict[str, list[float]] = {name: [] for name in runs}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for window in other:
        logits = {}
        for name, run in runs.items():
            start = time.process_time()
            logits[name] = run(window)
            seconds[name].append(time.process_time() - start)
            errors[name].append(float(np.square(logits[name] - logits[FULL]).mean()))
            differing[name].append(float((logits[name].argmax(1) != logits[FULL].argmax(1)).mean()))
    print("| in 8 bits | error of the logits | voxels that differ | times as fast |\n|---|---|---|---|")
    for name in runs:
        faster = statistics.median(a / b for a, b in zip(seconds[FULL], seconds[name], strict=True))
        print(f"| {name} | {np.mean(errors[name]) ** 0.5:.3f} | {np.mean(differing[name]):.1e} | {faster:.2f} |")


def networks(bundle: Path, calibration: list[np.ndarray]) -> dict[str, Any]:
    """The network of a bundle in full precision, and as several parts of it have 8 bits."""
    core = openvino.Core()
    first = readers_of_the_image(core.read_model(bundle / OPENVINO))
    kept: dict[str, dict[str, Any]] = {
        "all layers": {},
        "without normalisation, its products and additions": {"types": UNQUANTISED},
        "and without the first convolution (`int8`)": {"types": UNQUANTISED, "names": first},
    }
    result = {FULL: core.read_model(bundle / OPENVINO)}
    for name, scope in kept.items():
        result[name] = nncf.quantize(
            core.read_model(bundle / OPENVINO),
            nncf.Dataset(calibration),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(calibration),
            ignored_scope=nncf.IgnoredScope(**scope, validate=False),
        )
    return result | {WEIGHTS: nncf.compress_weights(core.read_model(bundle / OPENVINO))}


def runner(network: Any) -> Callable[[np.ndarray], np.ndarray]:
    """The compiled network, on one thread."""
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(network, "CPU", settings)
    return lambda window: np.array(compiled(window)[0])


if __name__ == "__main__":
    main()
