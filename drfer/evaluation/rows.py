"""The rows of all tables, as data: after which stage each is tested, and what it changes.

Rows of the paper, controls and rows beyond the paper differ in nothing but what they say. To add a
row, add an entry to the list in this module; its position is that in the tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Row:
    """One row of a table."""

    name: str
    """As the table has it."""
    stage: str
    """The stage after which it is tested; or the name of a linear classifier."""
    explains: str
    """One sentence that says what it is."""
    group: str = "table3"
    """The table that it belongs to: "table3"; "control"; "bound", which says what could be gained at
    all; "reading", which is what the paper may have meant where it is silent and we chose something
    else; or "beyond" the paper."""
    losses: Mapping[str, object] = field(default_factory=dict)
    """Changed fields of `LossSettings`."""
    sizes: Mapping[str, object] = field(default_factory=dict)
    """Changed fields of `ModelSizes`."""
    data: Mapping[str, object] = field(default_factory=dict)
    """Changed fields of `DataSettings`."""
    augmentation: Mapping[str, object] = field(default_factory=dict)
    """Changed fields of every stage's `Augmentation`."""
    length: float = 1.0
    """Factor of every stage's number of epochs."""
    best_look: bool = False
    """Whether not the last epoch of the stage is tested, but the best of some by test accuracy."""
    paper: Mapping[str, float] = field(default_factory=dict)
    """Accuracy in % that the paper reports, by dataset."""


BASELINE = "stage i"
METHOD = "stage i + ii + iii"
CONTROL = "stage i, as long"
ALL_BEYOND = "beyond: all three"
_ALL_THREE = {
    "data": {"input": "template", "carried": 0.7},
    "losses": {"contrastive": 0.1},
}

_ALL_ROWS = (
    Row(
        "w/o L_tri",
        "iii",
        "Stages ii and iii have no triplet loss, equation (6).",
        losses={"triplet": False},
        paper={"bu3dfe": 85.92},
    ),
    Row(
        "w/o L_cls",
        "head-iii",
        "Stages ii and iii have no classification loss; a fresh classifier is trained after them.",
        losses={"classification": False},
        paper={"bu3dfe": 87.59},
    ),
    Row(
        "w/ L_KL",
        "iii",
        "The feature is Gaussian, and a Kullback-Leibler loss towards N(0, 1) is added.",
        losses={"divergence": "kl"},
        sizes={"gaussian_feature": True},
        paper={"bu3dfe": 85.98},
    ),
    Row(
        "w/ L_JS",
        "iii",
        "The feature is Gaussian, and a Jensen-Shannon loss towards N(0, 1) is added.",
        losses={"divergence": "js"},
        sizes={"gaussian_feature": True},
        paper={"bu3dfe": 85.04},
    ),
    Row(
        "w/o fusion",
        "iii",
        "Stage iii has no fusion loss; the module that stage i trained is not used.",
        losses={"fusion": False},
        paper={"bu3dfe": 87.15},
    ),
    Row(
        "w/o skip",
        "iii",
        "The fusion module has no skip connections.",
        sizes={"skips": False},
        paper={"bu3dfe": 87.76},
    ),
    Row(
        BASELINE,
        "i-expression",
        "The baseline: the expression branch after stage i with its classifier.",
        paper={"bu3dfe": 84.83, "bosphorus": 83.23},
    ),
    Row("stage i + ii", "ii-expression", "After stage ii.", paper={"bu3dfe": 86.67}),
    Row(
        METHOD,
        "iii",
        "The whole method, DrFER.",
        paper={"bu3dfe": 89.15, "bosphorus": 86.77},
    ),
    Row(
        CONTROL,
        "control",
        "Classification alone, in one schedule with as many steps as all stages train the branch.",
        group="control",
    ),
    Row(
        "stage i, seven classes",
        "i-expression",
        "The baseline, trained with neutral scans as a seventh class.",
        group="control",
        data={"neutral_class": True},
    ),
    *(
        Row(
            f"{name}, fresh head",
            f"head-{stage}",
            f"A fresh classifier on the frozen feature of {name}.",
            group="control",
        )
        for name, stage in ((BASELINE, "i"), ("stage i + ii", "ii"), (METHOD, "iii"))
    ),
    *(
        Row(
            f"{name}, best epoch",
            stage,
            "NOT VALID: of 20 epochs the one that is best on the test scans, which shows what that "
            "choice is worth.",
            group="control",
            best_look=True,
        )
        for name, stage in ((BASELINE, "i-expression"), (METHOD, "iii"))
    ),
    Row(
        "linear: vertices",
        "linear-vertices",
        "Ridge regression on the registered vertices.",
        group="bound",
    ),
    Row(
        "linear: less own neutral",
        "linear-difference",
        "The same less the subject's own neutral scan: the shape of the person is removed.",
        group="bound",
    ),
    Row(
        "linear: true activations",
        "linear-activations",
        "Ridge regression on what moved the generator's face.",
        group="bound",
    ),
    Row(
        "chamfer mean",
        "iii",
        "The chamfer distance takes the mean over points instead of their sum.",
        group="reading",
        losses={"reduction": "mean"},
    ),
    Row(
        "triplet on raw features",
        "iii",
        "The triplet loss takes features as they are, not at length 1.",
        group="reading",
        losses={"normalised": False},
    ),
    Row(
        "triplet of the hardest",
        "iii",
        "The triplet loss takes the hardest negative instead of a semi-hard one.",
        group="reading",
        losses={"mining": "hard"},
    ),
    Row(
        "statistics of decoded faces",
        "iii",
        "Batch norm's running statistics also follow the decoded faces of the cross-over.",
        group="reading",
        losses={"count_decoded": True},
    ),
    Row(
        "half the epochs",
        "iii",
        "Every stage is half as long.",
        group="reading",
        length=0.5,
    ),
    Row(
        "dropout up to 0.5, scale 0.95 to 1.05",
        "iii",
        "Augmentation is weaker than in PointNet++'s own code, as in this kit's first version.",
        group="reading",
        augmentation={"largest_dropout": 0.5, "scale": (0.95, 1.05)},
    ),
    Row(
        "constants scaled",
        "iii",
        "Class means and the mean neutral face are scaled with the scan: a fault of this kit's first "
        "version.",
        group="reading",
        data={"scaled_constants": True},
    ),
    Row(
        "beyond: template vertices",
        "i-expression",
        "Stage i, shown the same vertices of the template for every scan.",
        group="beyond",
        data={"input": "template"},
    ),
    Row(
        "beyond: carried expressions",
        "i-expression",
        "Stage i; in 70 % of the draws the expression is carried to another training subject.",
        group="beyond",
        data={"carried": 0.7},
    ),
    Row(
        "beyond: contrastive",
        "i-expression",
        "Stage i with a supervised contrastive loss across subjects.",
        group="beyond",
        losses={"contrastive": 0.1},
    ),
    Row(
        ALL_BEYOND,
        "i-expression",
        "Stage i with all three.",
        group="beyond",
        **_ALL_THREE,
    ),
    Row(
        f"{ALL_BEYOND}, {METHOD}",
        "iii",
        "All stages with all three.",
        group="beyond",
        **_ALL_THREE,
    ),
)

ROWS: dict[str, Row] = {row.name: row for row in _ALL_ROWS}
"""All rows by name, in the order of the tables."""


def names_in(group: str) -> tuple[str, ...]:
    """Return the names of the rows in a group, in the order of the tables."""
    return tuple(row.name for row in ROWS.values() if row.group == group)
