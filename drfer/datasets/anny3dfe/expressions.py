"""Ekman's six expressions as mixtures of facial action units, after the EMFACS prototypes.

The table below is the whole model of expression of the open faces. A face unit is a blend shape of
the ARKit set; where it has a left and a right half both are driven together, up to a slight asymmetry.
Sources: Friesen & Ekman, EMFACS-7 (1983); Ekman, Friesen & Hager, FACS (2002).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from drfer.datasets.scan import EXPRESSIONS

ACTION_UNITS = {  # face unit -> FACS action unit
    "browInnerUp": "AU1 inner brow raiser",
    "browOuterUp": "AU2 outer brow raiser",
    "browDown": "AU4 brow lowerer",
    "eyeWide": "AU5 upper lid raiser",
    "cheekSquint": "AU6 cheek raiser",
    "eyeSquint": "AU7 lid tightener",
    "noseSneer": "AU9 nose wrinkler",
    "mouthUpperUp": "AU10 upper lip raiser",
    "mouthSmile": "AU12 lip corner puller",
    "mouthDimple": "AU14 dimpler",
    "mouthFrown": "AU15 lip corner depressor",
    "mouthLowerDown": "AU16 lower lip depressor",
    "mouthShrugLower": "AU17 chin raiser",
    "mouthPucker": "AU18 lip pucker",
    "mouthStretch": "AU20 lip stretcher",
    "mouthFunnel": "AU22 lip funneler",
    "mouthPress": "AU24 lip presser",
    "jawOpen": "AU26 jaw drop",
    "mouthRollUpper": "AU28 upper lip suck",
    "mouthRollLower": "AU28 lower lip suck",
    "jawForward": "AU29 jaw thrust",
    "eyeBlink": "AU43 eye closure",
}


@dataclass(frozen=True)
class Prototype:
    """always: units of every display and their strength at full intensity. sometimes: units that may join."""

    always: dict[str, float]
    sometimes: dict[str, float]


PROTOTYPES = {
    "anger": Prototype(
        {"browDown": 1.0, "eyeSquint": 0.4, "mouthPress": 0.6, "noseSneer": 0.25},
        {
            "eyeWide": 0.4,
            "jawForward": 0.4,
            "mouthFrown": 0.4,
            "mouthStretch": 0.3,
            "mouthUpperUp": 0.4,
            "mouthLowerDown": 0.4,
            "mouthRollUpper": 0.4,
            "mouthRollLower": 0.4,
            "jawOpen": 0.15,
        },
    ),
    "disgust": Prototype(
        {"noseSneer": 0.9, "mouthUpperUp": 0.5, "browDown": 0.4, "cheekSquint": 0.4},
        {
            "mouthFrown": 0.4,
            "mouthLowerDown": 0.4,
            "eyeSquint": 0.5,
            "mouthShrugLower": 0.4,
            "mouthPress": 0.3,
            "jawOpen": 0.2,
        },
    ),
    "fear": Prototype(
        {"browInnerUp": 0.8, "eyeWide": 0.6, "mouthStretch": 0.5},
        {
            "browOuterUp": 0.4,
            "browDown": 0.3,
            "jawOpen": 0.35,
            "mouthLowerDown": 0.4,
            "mouthFrown": 0.2,
            "mouthSmile": 0.25,
        },
    ),
    "happiness": Prototype(
        {"mouthSmile": 0.9, "cheekSquint": 0.6},
        {
            "mouthDimple": 0.3,
            "mouthUpperUp": 0.4,
            "jawOpen": 0.2,
            "eyeSquint": 0.3,
            "mouthLowerDown": 0.3,
            "browOuterUp": 0.2,
        },
    ),
    "sadness": Prototype(
        {"browInnerUp": 0.5, "mouthFrown": 0.6, "browDown": 0.25},
        {
            "mouthShrugLower": 0.5,
            "eyeSquint": 0.3,
            "mouthPress": 0.4,
            "eyeBlink": 0.2,
            "mouthPucker": 0.2,
            "mouthRollLower": 0.3,
        },
    ),
    "surprise": Prototype(
        {"browInnerUp": 0.8, "browOuterUp": 0.8, "eyeWide": 0.6, "jawOpen": 0.6},
        {"mouthFunnel": 0.4, "mouthStretch": 0.2, "mouthUpperUp": 0.15},
    ),
}


@dataclass(frozen=True)
class Spread:
    """How far displays stray from their prototype: the dials of the task's difficulty.

    They were set by looking at the accuracy of the stage i baseline alone and are frozen with the
    generator's version; see docs/anny3dfe.md for the figures.
    """

    level_strength: tuple[float, ...] = (0.48, 0.68, 0.88, 1.08)
    """strength of levels 1-4"""
    level_jitter: float = 0.1
    """standard deviation of the logarithm of a scan's strength"""
    style: float = 0.09
    """standard deviation of a subject's own gain of each unit (the same in all of their scans)"""
    unit_jitter: float = 0.09
    """standard deviation of each unit's gain from scan to scan"""
    optional_share: float = 0.27
    """probability that a unit of "sometimes" joins"""
    second_expression: float = 0.22
    """largest share of a second expression that is mixed in (its law: this times Beta(1, 4))"""
    asymmetry: float = 0.1
    """standard deviation of the left-right imbalance of a unit"""


def draw_style(rng: np.random.Generator, spread: Spread) -> dict[str, float]:
    """A subject's own gain of each face unit: how this person shows things."""
    return {unit: rng.normal(0, spread.style) for unit in ACTION_UNITS}


def draw_activation(
    rng: np.random.Generator,
    expression: str,
    level: int,
    style: dict[str, float],
    units: list[str],
    spread: Spread,
) -> np.ndarray:
    """Strength of every face unit in one display, (len(units),), each in [0, 1.2].

    level: 1-4. units: the blend shapes' names, halves with "Left" or "Right" at the end.
    """
    strength = spread.level_strength[level - 1] * np.exp(rng.normal(0, spread.level_jitter))
    prototype = PROTOTYPES[expression]
    weights = {
        unit: weight * np.clip(1 + style[unit] + rng.normal(0, spread.unit_jitter), 0.1, 1.6)
        for unit, weight in prototype.always.items()
    }
    for unit, weight in prototype.sometimes.items():
        joins, gain = rng.random() < spread.optional_share, rng.uniform(0.4, 1.4)
        if joins:
            weights[unit] = weight * gain
    second = rng.choice([other for other in EXPRESSIONS if other != expression])
    share = spread.second_expression * rng.beta(1, 4)
    for unit, weight in PROTOTYPES[second].always.items():
        weights[unit] = weights.get(unit, 0.0) + share * weight

    activation = np.zeros(len(units))
    for unit, weight in weights.items():
        imbalance = rng.normal(0, spread.asymmetry)
        for half, gain in (("", 1.0), ("Left", 1 + imbalance), ("Right", 1 - imbalance)):
            if unit + half in units:
                activation[units.index(unit + half)] = weight * strength * gain
    return np.clip(activation, 0, 1.2)
