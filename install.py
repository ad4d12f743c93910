"""What the web UI runs at every launch: installs the one package that it lacks, and changes nothing it has."""

from __future__ import annotations

import importlib.metadata
import tempfile
from pathlib import Path

import launch
from packaging.specifiers import SpecifierSet

# as in pyproject.toml
REQUIRED = {"msgspec": ">=0.18,<1", "scikit-image": ">=0.21,<1"}
# what the web UI pins, or other extensions rely on: a package we ask for must not move them
PROTECTED = ("torch", "torchvision", "numpy", "scipy", "Pillow", "pydantic", "transformers")


def installed_version(package: str) -> str | None:
    """The version of an installed package, None if it is absent."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def is_met(package: str, bounds: str) -> bool:
    """Whether the package is installed in a version within the bounds."""
    version = installed_version(package)
    return version is not None and version in SpecifierSet(bounds)


def missing() -> list[str]:
    """The requirements that are not met, as pip takes them."""
    return [f"{package}{bounds}" for package, bounds in REQUIRED.items() if not is_met(package, bounds)]


def constraints() -> str:
    """The text of a pip constraints file that holds the protected packages at their versions."""
    versions = {package: installed_version(package) for package in PROTECTED}
    return "".join(f"{package}=={version}\n" for package, version in versions.items() if version)


def main() -> None:
    """Meets the requirements with at most one pip call; says what to do if that fails."""
    wanted = [] if launch.args.skip_install else missing()
    if not wanted:
        return
    # quoted for the shell, which would take < and > for redirections
    quoted = " ".join(f'"{requirement}"' for requirement in wanted)
    with tempfile.TemporaryDirectory() as folder:
        held = Path(folder, "constraints.txt")
        held.write_text(constraints(), encoding="utf8")
        try:
            launch.run_pip(f'install {quoted} --constraint "{held}"', "requirements of OMG")
        except (RuntimeError, OSError) as error:
            print(error)
            print(f"OMG: could not install {quoted}, so the extension will not work. "
                  f"Check the network connection, then start the web UI again, or run: "
                  f'"{launch.python}" -m pip install {quoted}')


if __name__ == "__main__":
    main()
