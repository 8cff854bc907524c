"""Coarse-to-fine prediction of a folder of images; reading, predicting and writing overlap."""

import dataclasses
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from nnunet_kd.data.image_cases import ImageCase
from nnunet_kd.data.read_images import ImageError, read_case
from nnunet_kd.inference.coarse_to_fine import CoarseToFine, Result
from nnunet_kd.teachers.model import TeacherModel
from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.files import load_json_file, write_json, write_whole

RECORD = "coarse_to_fine.json"


def predict_folder(method: CoarseToFine, cases: Sequence[ImageCase], output: Path, keep_existing: bool) -> str:
    """Predicts cases into ``output`` and returns a summary for the user.

    Besides the segmentations there are, as ``nnUNetv2_predict`` leaves them, the fine model's ``dataset.json`` and
    ``plans.json``, and ``coarse_to_fine.json`` with the settings and, for each case, box and seconds.

    Args:
        method: the loaded stages.
        cases: images.
        output: folder, made where it is missing.
        keep_existing: leave cases out that have a segmentation there.

    Raises:
        UserError: for an image that cannot be read or a file that cannot be written; cases done so far stay.
    """
    model, ending = method.fine.model, method.fine.model.dataset_json["file_ending"]
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise UserError(f"-o {output}: cannot be made ({err.strerror}).") from None
    record = _open_record(output / RECORD, method, keep_existing)
    write_json(output / "dataset.json", model.dataset_json)
    write_json(output / "plans.json", model.plans_manager.plans)
    todo = [c for c in cases if not (keep_existing and (output / f"{c.name}{ending}").is_file())]
    results = []
    reader = model.plans_manager.image_reader_writer_class
    with ThreadPoolExecutor(1) as loader, ThreadPoolExecutor(1) as writer:
        writing: Future | None = None
        loading = loader.submit(_read, model, todo[0]) if todo else None
        for i, case in enumerate(tqdm(todo, desc="cases", unit="case")):
            assert loading is not None
            image, properties = loading.result()
            loading = loader.submit(_read, model, todo[i + 1]) if i + 1 < len(todo) else None
            try:
                result = method.predict(image, properties)
            except UserError as err:
                raise UserError(f"{case.images[0]}: {err}") from err
            if not result.found:
                tqdm.write(f"WARNING: {case.name}: the coarse model found nothing, the whole image is segmented")
            if writing is not None:
                writing.result()
            writing = writer.submit(_write, reader, result.segmentation, output / f"{case.name}{ending}", properties)
            record["cases"][case.name] = _describe(result)
            results.append(result)
        if writing is not None:
            writing.result()
    write_json(output / RECORD, record)
    return _summary(results, len(cases) - len(todo), output)


def _open_record(file: Path, method: CoarseToFine, keep_existing: bool) -> dict[str, Any]:
    stages = {"coarse": method.coarse, "fine": method.fine}
    record: dict[str, Any] = {
        "settings": dataclasses.asdict(method.settings) | {"whole_volume": method.fine.whole_region},
        **{k: {"model": s.model.folder.name, "folds": list(s.model.folds)} for k, s in stages.items()},
        "cases": {},
    }
    if keep_existing and file.is_file():
        record["cases"] = load_json_file(file).get("cases", {})
    return record


def _read(model: TeacherModel, case: ImageCase) -> tuple[np.ndarray, dict[str, Any]]:
    try:
        return read_case(model.plans_manager, model.configuration_manager, case.images)
    except ImageError as err:
        raise UserError(f"{case.images[0]}: {err}.") from err


def _write(reader: Any, segmentation: np.ndarray, target: Path, properties: dict[str, Any]) -> None:
    write_whole(target, lambda file: reader().write_seg(segmentation, str(file), properties))


def _describe(result: Result) -> dict[str, Any]:
    return {
        "found": result.found,
        "box_start": list(result.box.start),
        "box_stop": list(result.box.stop),
        "share_of_image": _share(result),
        "coarse_seconds": round(result.coarse_seconds, 3),
        "fine_seconds": round(result.fine_seconds, 3),
    }


def _share(result: Result) -> float:
    return round(float(np.prod(result.box.shape) / result.segmentation.size), 4)


def _summary(results: Sequence[Result], already_there: int, output: Path) -> str:
    if not results:
        return f"All {already_there} cases were there already: {output}"
    share, coarse, fine = (
        float(np.mean([f(r) for r in results])) for f in (_share, lambda r: r.coarse_seconds, lambda r: r.fine_seconds)
    )
    there = f" ({already_there} were there already)" if already_there else ""
    return (
        f"{len(results)} cases predicted{there}: boxes of {100 * share:.0f} % of the image on average, coarse "
        f"{coarse:.2f} s and fine {fine:.2f} s per case; {output}"
    )
