"""Package map and the start-up hook that lets nnU-Net find the trainers (docs/explanation/architecture.md)."""

from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel

HOOK_NAME = "nnunet_kd_discovery.pth"
DISCOVERY = Path("nnunet_kd") / "_discovery"


def start_up_hook(folder: str) -> str:
    """One line that runs at every start of Python: appends ``folder`` to nnUNet_extTrainer, and never raises.

    Args:
        folder: Python expression for the discovery folder; ``sitedir`` is the folder that holds the ``.pth`` file.
    """
    body = (
        "try:\n"
        f" p = {folder}\n"
        " e = os.environ.get('nnUNet_extTrainer', '')\n"
        " if os.path.isdir(p) and p not in e.split(os.pathsep):"
        " os.environ['nnUNet_extTrainer'] = e + os.pathsep + p if e else p\n"
        "except Exception: pass"
    )
    return f"import os; exec({body!r})\n"


class BuildPyWithHook(build_py):
    """Puts the start-up hook at the top of site-packages of a regular install."""

    def run(self):
        super().run()
        if not self.editable_mode:
            hook = start_up_hook("os.path.join(sitedir, 'nnunet_kd', '_discovery')")
            (Path(self.build_lib) / HOOK_NAME).write_text(hook)


class EditableWheelWithHook(editable_wheel):
    """Does the same for ``pip install -e .``, whose wheel does not go through ``build_lib``."""

    def _select_strategy(self, name, tag, build_lib):
        strategy = super()._select_strategy(name, tag, build_lib)

        class WithHook:
            def __enter__(self):
                strategy.__enter__()
                return self

            def __exit__(self, *exception):
                return strategy.__exit__(*exception)

            def __call__(self, wheel, files, mapping):
                strategy(wheel, files, mapping)
                wheel.writestr(HOOK_NAME, start_up_hook(repr(str(DISCOVERY.resolve()))))

        return WithHook()


setup(
    packages=[*find_packages(include=["nnunet_kd", "nnunet_kd.*"]), "nnunet_kd.trainers", "nnunet_kd.plans"],
    package_dir={"nnunet_kd.trainers": "trainers", "nnunet_kd.plans": "plans"},
    package_data={
        "nnunet_kd.plans": ["*.json"],
        "nnunet_kd": ["py.typed"],
        "nnunet_kd.report": ["templates/*"],
    },
    cmdclass={"build_py": BuildPyWithHook, "editable_wheel": EditableWheelWithHook},
)
