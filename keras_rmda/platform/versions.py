"""The versions of Keras and TensorFlow that the tests run with."""

from __future__ import annotations

import re
import sys
import warnings
from importlib import metadata

import keras

from keras_rmda.platform.checks import SparsityWarning

TESTED = {"keras": ((3, 8), (3, 15)), "tensorflow": ((2, 18), (2, 21))}
"""The oldest and the newest version."""


def of(package: str) -> tuple[int, int] | None:
    """Return the version that is imported or installed, without what comes after the second number; None if unknown."""
    known = getattr(sys.modules.get(package), "__version__", None)
    try:
        found = re.match(r"(\d+)\.(\d+)", known or metadata.version(package))
    except metadata.PackageNotFoundError:  # a build of somebody's under another name
        return None
    return (int(found[1]), int(found[2])) if found else None


def is_tested(package: str) -> bool:
    """Return whether the version of a package is within those that the tests run with."""
    oldest, newest = TESTED[package]
    version = of(package)
    return version is None or oldest <= version <= newest


def range_of(package: str) -> str:
    """Return the tested versions of a package, for people."""
    return " to ".join(".".join(map(str, version)) for version in TESTED[package])


def warn_if_untested() -> None:
    """Say which installed version this package has not been tested with."""
    packages = ("keras", "tensorflow") if keras.backend.backend() == "tensorflow" else ("keras",)
    for package in (package for package in packages if not is_tested(package)):
        this = ".".join(map(str, of(package)))
        warnings.warn(
            f"keras_rmda uses functions of {package} that may change from version to version. It is tested with "
            f"{package} {range_of(package)}, and this is {this}. If something fails, try one of those versions.",
            SparsityWarning,
            stacklevel=3,
        )
