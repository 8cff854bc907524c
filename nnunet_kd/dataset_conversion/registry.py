"""The data sets: every file ``DatasetXXX_NAME.py`` of this folder declares one as ``DATASET``."""

import importlib
import pkgutil
import re

from nnunet_kd import dataset_conversion
from nnunet_kd.dataset_conversion.declare import RawDataset


def find_datasets() -> dict[str, RawDataset]:
    """Name -> declaration, sorted by name."""
    found = {}
    for module in pkgutil.iter_modules(dataset_conversion.__path__):
        if re.fullmatch(r"Dataset\d{3}_\w+", module.name):
            dataset = importlib.import_module(f"{dataset_conversion.__name__}.{module.name}").DATASET
            found[dataset.name] = dataset
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))
