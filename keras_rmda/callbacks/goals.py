"""Targets as they are given: shares, numbers, text with units."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from keras_rmda.export.devices import DeviceProfile, EnergyTable
from keras_rmda.platform import checks

UNITS = {
    "latency": {"ms": 1.0, "us": 1e-3, "s": 1e3},
    "energy": {"uJ": 1.0, "nJ": 1e-3, "mJ": 1e3, "J": 1e6},
}
BYTES = {"B": 1.0, "KB": 1e3, "MB": 1e6, "KiB": 1024.0, "MiB": 1024.0**2}
"""Units by their names: of times in milliseconds, of energies in microjoules, of sizes in bytes."""

OF_BYTES = ("bytes", "file_bytes", "arena")


def amount(metric: str, target: Any) -> tuple[float, bool]:
    """Return a target as a number, and whether that is a share.

    Args:
        metric: what it is of.
        target: a number below 1, which is a share; another, which is in milliseconds, microjoules or bytes; or text
            such as "0.4 ms", "40 KB".
    """
    if not isinstance(target, str):
        number = checks.real("target", target, open_minimum=True)
        return number, number < 1
    fits = UNITS.get(metric, BYTES if metric in OF_BYTES else {})
    found = re.fullmatch(r"\s*([0-9.]+(?:e-?\d+)?)\s*([A-Za-z]+)\s*", target)
    if not fits:
        raise ValueError(f"A target of {metric} is a share below 1, or a number, without a unit. Received: {target!r}")
    if not found or found[2] not in fits:
        raise ValueError(
            f"A target of {metric} is a share below 1, a number, or text with one of the units {', '.join(fits)}, such "
            f'as "1.5 {next(iter(fits))}". Received: {target!r}'
        )
    return float(found[1]) * fits[found[2]], False


def checked_targets(
    target: Any, metric: str, targets: Mapping[str, Any] | None, export: Any, profile: Any
) -> dict[str, Any]:
    """Return by metric what is to be left; raise `ValueError` for what cannot be.

    Args:
        target, metric, targets, export, profile: as of `TargetSparsity`.
    """
    checks.one_of("metric", metric, checks.METRICS)
    if (target is None) == (targets is None):
        raise ValueError(f"Give `target` or `targets`. Received: target={target!r}, targets={targets!r}")
    several = targets is not None
    targets = dict(targets) if several else {metric: target}
    for each in targets:
        checks.one_of("targets", each, checks.METRICS)
    of_files = [each for each in targets if each in checks.FILE_METRICS]
    if several and (not of_files or "groups" in targets):
        raise ValueError(
            f'`targets` needs one of {checks.FILE_METRICS}, and takes no "groups". Received: {sorted(targets)}'
        )
    for name, each in targets.items():
        if of_files:
            amount(name, each)
        else:
            targets[name] = checks.real("target", each, open_minimum=True)
    if export and not of_files:
        raise ValueError(f"`export` goes with the metrics {checks.FILE_METRICS}. Received: metric={metric!r}")
    if set(profiles_of(profile)) != {each for each in targets if each in UNITS}:
        raise ValueError(
            '`profile` goes with metric="latency", which needs one: a `DeviceProfile`, as `keras-rmda profile` '
            'measures it; and with metric="energy", which needs an `EnergyTable`. '
            f"Received: metric={sorted(targets)}, profile={profile!r}"
        )
    return targets


def profiles_of(profile: Any) -> dict[str, DeviceProfile | EnergyTable]:
    """Return by metric what tells costs of devices.

    Args:
        profile: one, several or None.
    """
    listed = () if profile is None else profile if isinstance(profile, (list, tuple)) else (profile,)
    for each in listed:
        if not isinstance(each, (DeviceProfile, EnergyTable)):
            raise ValueError(f"`profile` must be a DeviceProfile or an EnergyTable. Received: {each!r}")
    return {each.metric: each for each in listed}


def shown(metric: str, value: float) -> str:
    """Return a cost in words."""
    if metric in UNITS:
        return f"{value:.4g} {next(iter(UNITS[metric]))}"
    return f"{round(value):,} bytes" if metric in OF_BYTES else f"{round(value):,}"
