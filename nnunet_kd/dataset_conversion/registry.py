"""The data sets: every file ``DatasetXXX_NAME.py``, here or in a user's folder, declares one as ``DATASET``."""

import importlib
import pkgutil
import re

from nnunet_kd import dataset_conversion
from nnunet_kd.dataset_conversion.declare import RawDataset
from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.extensions import extension_modules

_DECLARES = re.compile(r"Dataset\d{3}_\w+")


def find_datasets() -> dict[str, RawDataset]:
    """Name -> declaration, sorted by name.

    Raises:
        UserError: for a user's file that cannot be imported, declares nothing, or a data set that is there already.
    """
    own = [m.name for m in pkgutil.iter_modules(dataset_conversion.__path__) if _DECLARES.fullmatch(m.name)]
    modules = [importlib.import_module(f"{dataset_conversion.__name__}.{name}") for name in own]
    modules += [m for m in extension_modules("dataset_conversion") if _DECLARES.fullmatch(m.__name__)]
    found: dict[str, RawDataset] = {}
    for module in modules:
        dataset = getattr(module, "DATASET", None)
        if not isinstance(dataset, RawDataset):
            raise UserError(f"{module.__file__}: declares no data set; it needs DATASET = RawDataset(...).")
        if dataset.name in found:
            raise UserError(f"{module.__file__}: declares the data set {dataset.name}, which is there already.")
        found[dataset.name] = dataset
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))
