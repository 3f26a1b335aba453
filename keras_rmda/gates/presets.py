"""The settings of the authors of Dep-L0, network by network, and strengths layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keras_rmda.gates.costs import Place
from keras_rmda.optimizers.names import matches, matching

VGG16 = [(width, 9) for width in (64, 64, 128, 128, 256, 256, 256, *[512] * 6)]
RESNET56 = [(width, 9) for width in (*[16] * 10, *[32] * 9, *[64] * 9)]
RESNET50 = [
    (64, 49),
    *[(width, area) for width, n in ((64, 3), (128, 4), (256, 6), (512, 3)) for _ in range(n) for area in (1, 9)],
]


@dataclass(frozen=True)
class Preset:
    """What the authors train one network with.

    Attributes:
        network: its name.
        places: the width and the kernel area of each layer with gates.
        strengths: by "l0", or the direction of "dep_l0".
        pairs: whether the cost is that of pairs; else it is the weights times the kernel area, once more.
        ones: the size of a_0.
    """

    network: str
    places: Sequence[tuple[int, int]]
    strengths: dict[str, float]
    pairs: bool
    ones: int | None = None


PRESETS = (
    Preset("VGG16 with batch normalization", VGG16, {"l0": 5e-7, "forward": 1e-6, "backward": 1e-6}, True, 64),
    Preset("ResNet-56", RESNET56, {"l0": 5e-7, "forward": 5e-7, "backward": 1e-6}, True),
    Preset("ResNet-50", RESNET50, {"l0": 5e-9, "forward": 5e-9, "backward": 5e-9}, False),
)


def fitting(places: Sequence[Place], name: str) -> Preset:
    """Return the preset of a network with these places.

    Raises:
        ValueError: if there is none.
    """
    found = [(len(place.roots), place.area) for place in places]
    for preset in PRESETS:
        if found == list(preset.places):
            return preset
    widths = ", ".join(f"{width} of {area:g}" for width, area in found[:8])
    raise ValueError(
        f"preset='published' is for {', '.join(each.network for each in PRESETS[:-1])} and {PRESETS[-1].network}: the "
        f"authors trained no other network. {name!r} has {len(found)} layers that would have gates, with channels of "
        f"kernel area: {widths}{', ...' if found[8:] else ''}. For another network give what the preset stands for: "
        "where='published', cost='pairs', begin='published', per_example=True, and a strength of your own."
    )


def settings(preset: Preset, kind: str, direction: str) -> dict[str, Any]:
    """Return the arguments of `insert` that the preset stands for."""
    cost = "pairs" if preset.pairs else "weights"
    strength = preset.strengths["l0" if kind == "l0" else direction]
    return {"strength": strength, "cost": cost, "per_example": True, "begin": "published"}


def strength_or(usual: float, given: Any) -> Any:
    """Return the strength that was given, or the usual one."""
    return usual if given is None else given


def strengths_of(strength: float | Mapping[str, float], places: list[Place]) -> list[float]:
    """Return the strength of each place.

    Raises:
        ValueError: if a pattern matches no layer with gates, or a layer none.
    """
    if not isinstance(strength, Mapping):
        return [strength] * len(places)
    names = [tuple(site.name for site in place.writers) for place in places]
    unused = [pattern for pattern in strength if not any(matches(pattern, each) for each in names)]
    found = [matching(strength, each, "strength") for each in names]
    without = [each[0] for each, pattern in zip(names, found) if pattern is None]
    if unused or without:
        raise ValueError(
            "`strength` must name each layer with gates. "
            + (f"These patterns match none: {unused!r}. " if unused else "")
            + (f"These layers have no strength: {without!r}. " if without else "")
            + f"The layers are: {[each for names_of_one in names for each in names_of_one]!r}"
        )
    return [strength[pattern] for pattern in found]
