"""The files of a bundle that are neither network nor runtime."""

from importlib.metadata import version

MAIN = '''\
"""python BUNDLE -i IMAGES -o SEGMENTATIONS"""

import sys
from pathlib import Path

from kd_bundle.main import main

sys.exit(main(Path(__file__).parent))
'''

DOCKERFILE = """\
# docker build -t bundle .
# docker run --rm --network none -v "$PWD/images:/images:ro" -v "$PWD/out:/out" bundle -i /images -o /out
# (/out must be writable for user 1000, or add --user "$(id -u)")
FROM debian:trixie-slim
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-venv && rm -rf /var/lib/apt/lists/*
COPY requirements.txt /bundle/
RUN python3 -m venv /venv && /venv/bin/pip install --no-cache-dir -r /bundle/requirements.txt
COPY . /bundle
RUN /venv/bin/python -m compileall -q /bundle/kd_bundle
USER 1000
ENTRYPOINT ["/venv/bin/python", "/bundle"]
"""

README = """\
# A segmentation network that runs by itself

    pip install -r requirements.txt
    python THIS_FOLDER -i IMAGES -o SEGMENTATIONS

`IMAGES` holds `CASE_0000` with the ending that `bundle.json` names (`image.file_ending`), one file for each channel.
In a program that keeps the network loaded, with this folder on its path:

    from kd_bundle import load

    predictor = load("THIS_FOLDER")
    segmentation = predictor.predict(array, spacing)   # (z, y, x), mm

`bundle.json` says what the network was made from (`provenance`), how images are prepared and what labels mean. Written
by nnU-Net's plug-in nnunet_kd; the code in `kd_bundle` is under the Apache License 2.0, the network under the licence
of its training data.
"""

_READERS = {
    "SimpleITKIO": ("SimpleITK>=2.2.1",),
    "SimpleITKIOWithReorient": ("SimpleITK>=2.2.1",),
    "NibabelIO": ("nibabel>=5",),
    "NibabelIOWithReorient": ("nibabel>=5",),
    "NaturalImage2DIO": ("imageio>=2.31",),
    "Tiff3DIO": ("tifffile",),
}


def requirements(reader: str, file_ending: str) -> str:
    """``requirements.txt`` of a bundle that reads images by nnU-Net's reader of this name."""
    openvino = ".".join(version("openvino").split(".")[:2])
    packages = ["numpy>=1.24", "scipy>=1.10", f"openvino>={openvino}", *_READERS[reader]]
    if reader == "NaturalImage2DIO" and file_ending == ".tif":
        packages.append("tifffile")
    return "\n".join(packages) + "\n"
