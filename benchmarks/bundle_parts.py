"""Parts of a prediction with a bundle, in processor seconds of one thread: a patch of each bundle in turn, and what
surrounds the network for a synthetic CT of 512x512 pixels a slice with 14 classes.

    python benchmarks/bundle_parts.py --bundle fp32=FOLDER --bundle int8=FOLDER --turns 40 --slices 300
"""

import argparse
import resource
import statistics
import time
from pathlib import Path

import numpy as np

from nnunet_kd.export.runtime.description import Description
from nnunet_kd.export.runtime.engine import Network, open_network
from nnunet_kd.export.runtime.resampling import resample
from nnunet_kd.export.runtime.verify import verify
from nnunet_kd.export.runtime.way_back import LabelsOnGrid
from nnunet_kd.export.runtime.windows import predict_slices

CLASSES, PATCH = 14, (64, 128, 128)


def main() -> None:
    """Prints both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", action="append", default=[], help="NAME=FOLDER")
    parser.add_argument("--turns", type=int, default=40)
    parser.add_argument("--slices", type=int, default=300, help="of the CT")
    args = parser.parse_args()
    networks: dict[str, tuple[Network, np.ndarray]] = {}
    for name, _, folder in (b.partition("=") for b in args.bundle):
        bundle = Description.from_json(verify(Path(folder)))
        patch = np.random.default_rng(0).normal(size=(1, bundle.inputs, *bundle.patch_size)).astype(np.float32)
        networks[name] = open_network(Path(folder), bundle, 1)[0], patch
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(args.turns):
        for name, (network, patch) in networks.items():
            start = time.process_time()
            network(patch)
            seconds[name].append(time.process_time() - start)
    for name, values in seconds.items():
        first = next(iter(seconds))
        ratio = statistics.median(a / b for a, b in zip(seconds[first], values, strict=True))
        print(f"{name}: {1000 * statistics.median(values):.2f} ms for a patch, {ratio:.2f} times as fast as {first}")
    around_the_network((args.slices, 512, 512))


def around_the_network(shape: tuple[int, int, int]) -> None:
    """Spacing, windows and way back, from and to a grid of half as many voxels along each axis; the network is free."""
    image = np.random.default_rng(0).standard_normal((1, *shape), np.float32)
    half = tuple(n // 2 for n in shape)
    start = time.process_time()
    data = resample(image, half, (3, 3, 3))
    spacing = time.process_time() - start
    z, y, x = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in PATCH), indexing="ij")
    tents = [abs(z - PATCH[0] / 2 - 2 * c) + abs(y - PATCH[1] / 2 + 3 * c) + abs(x - 9 * c) for c in range(CLASSES)]
    logits = -np.stack(tents)[None] / 8
    grid = LabelsOnGrid(half, shape, (1, 1, 1), None, False)
    start, back = time.process_time(), 0.0
    for slices in predict_slices(data, lambda _: logits, PATCH, CLASSES, 0.5):
        before = time.process_time()
        grid.add(slices)
        back += time.process_time() - before
    windows = time.process_time() - start - back
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"spacing {spacing:.1f} s, windows {windows:.1f} s, way back {back:.1f} s, peak {peak:.2f} GB")


if __name__ == "__main__":
    main()
