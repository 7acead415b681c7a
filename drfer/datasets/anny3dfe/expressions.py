"""Ekman's six expressions as mixtures of facial action units, after the EMFACS prototypes.

The tables below are the whole model of expression of the open faces. A face unit is a blend shape
of the ARKit set; where it has a left and a right half, both are driven together, up to a slight
asymmetry. Sources: Friesen & Ekman, EMFACS-7 (1983); Ekman, Friesen & Hager, FACS (2002).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from drfer.datasets.scan import EXPRESSIONS

ACTION_UNITS = {
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
"""FACS action unit of each face unit. The order is that of a subject's drawn style."""


@dataclass(frozen=True)
class Prototype:
    """What an expression consists of: face units and their strength at full intensity."""

    always: dict[str, float]
    """Units of every display."""
    sometimes: dict[str, float]
    """Units that may join."""


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

    intensity_strength: tuple[float, ...] = (0.48, 0.68, 0.88, 1.08)
    """Strength of the intensities 1 to 4."""
    intensity_jitter: float = 0.1
    """Standard deviation of the logarithm of a scan's strength."""
    style: float = 0.09
    """Standard deviation of a subject's own gain of each unit (the same in all of their scans)."""
    unit_jitter: float = 0.09
    """Standard deviation of each unit's gain from scan to scan."""
    gain: tuple[float, float] = (0.1, 1.6)
    """Least and largest gain of a unit."""
    optional_share: float = 0.27
    """Probability that a unit of `Prototype.sometimes` joins."""
    optional_gain: tuple[float, float] = (0.4, 1.4)
    """Range of the gain of a unit that joins."""
    second_expression: float = 0.22
    """Largest share of a second expression that is mixed in."""
    second_law: tuple[float, float] = (1.0, 4.0)
    """Parameters of the beta law of that share, as a part of the largest one."""
    asymmetry: float = 0.1
    """Standard deviation of the left-right imbalance of a unit."""
    strongest: float = 1.2
    """Activations beyond it are cut off."""


def draw_style(rng: np.random.Generator, spread: Spread = Spread()) -> dict[str, float]:
    """Draw a subject's own gain of each face unit: how this person shows things."""
    return {unit: rng.normal(0, spread.style) for unit in ACTION_UNITS}


def draw_activation(
    rng: np.random.Generator,
    expression: str,
    intensity: int,
    style: dict[str, float],
    units: list[str],
    spread: Spread = Spread(),
) -> np.ndarray:
    """Draw one display of an expression.

    Args:
        rng: where the draws come from.
        expression: one of the six.
        intensity: from 1 to 4.
        style: the subject's gains, from `draw_style`.
        units: the blend shapes' names; halves have "Left" or "Right" at the end.
        spread: how far displays stray.

    Returns:
        Strength of every unit, shape (len(units),), from 0 to `spread.strongest`.
    """
    strength = spread.intensity_strength[intensity - 1]
    strength = strength * np.exp(rng.normal(0, spread.intensity_jitter))
    weights = _drawn_weights(rng, expression, style, spread)
    activation = np.zeros(len(units))
    for unit, weight in weights.items():
        imbalance = rng.normal(0, spread.asymmetry)
        for half, gain in (("", 1.0), ("Left", 1 + imbalance), ("Right", 1 - imbalance)):
            if unit + half in units:
                activation[units.index(unit + half)] = weight * strength * gain
    return np.clip(activation, 0, spread.strongest)


def _drawn_weights(
    rng: np.random.Generator, expression: str, style: dict[str, float], spread: Spread
) -> dict[str, float]:
    """Draw the weight of each unit: the prototype's, units that join, and a second expression."""
    prototype = PROTOTYPES[expression]
    weights = {
        unit: weight * np.clip(1 + style[unit] + rng.normal(0, spread.unit_jitter), *spread.gain)
        for unit, weight in prototype.always.items()
    }
    for unit, weight in prototype.sometimes.items():
        joins, gain = rng.random() < spread.optional_share, rng.uniform(*spread.optional_gain)
        if joins:
            weights[unit] = weight * gain
    second = rng.choice([other for other in EXPRESSIONS if other != expression])
    share = spread.second_expression * rng.beta(*spread.second_law)
    for unit, weight in PROTOTYPES[second].always.items():
        weights[unit] = weights.get(unit, 0.0) + share * weight
    return weights
