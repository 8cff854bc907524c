"""The packages of the extra ``export``."""

from importlib.util import find_spec

NEEDED = ("onnx", "onnxruntime", "openvino")  # and nncf, for eight bits alone


def missing_packages() -> list[str]:
    """Those without which no bundle can be made."""
    return [name for name in NEEDED if find_spec(name) is None]
