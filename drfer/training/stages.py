"""The training stages (section III.C): each describes itself, and the list at the end is all there is.

A stage says which parts of the model it trains, by which loss, from which earlier stages' weights,
how long, and which settings its result depends on. Besides the paper's stages the list has trainings
of their controls. To add one, add an entry to the list at the end of this module.

Losses built in notebooks 03 (stage i), 04 (stage ii) and 05 (stage iii).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from drfer.models.drfer import DrFER
from drfer.training import losses
from drfer.training.data import Augmentation, Batch


@dataclass(frozen=True)
class LossSettings:
    """Which terms the losses of the stages have, and our choices where the paper is silent.

    The defaults are the paper's model as we understand it.
    """

    triplet: bool = True
    """Whether the triplet loss, equation (6), is there."""
    classification: bool = True
    """Whether stages ii and iii keep the classification loss, equation (1)."""
    divergence: str = ""
    """"kl" or "js" for the ablations with a divergence of the Gaussian feature, else empty."""
    divergence_weight: float = 0.001
    """Factor of that divergence."""
    margin: float = losses.MARGIN
    """alpha in equation (6)."""
    mining: str = "semi-hard"
    """Which negatives the triplet loss takes: "semi-hard", "hard" or "all"."""
    normalised: bool = True
    """Whether features are brought to length 1 before the triplet loss."""
    reduction: str = "sum"
    """Whether the chamfer distance takes the "sum" over points or their "mean"."""
    fusion: bool = True
    """Whether stage iii has the fusion module's term, equation (3)."""
    fusion_weight: float = losses.FUSION_WEIGHT
    """lambda in equation (10)."""
    count_decoded: bool = False
    """Whether batch norm's running statistics also follow the decoded faces of the cross-over."""
    contrastive: float = 0.0
    """Factor of a supervised contrastive loss on the expression feature, which goes beyond the
    paper."""


@dataclass(frozen=True)
class Schedule:
    """How one stage is trained: by Adam; the weights after the last epoch are kept."""

    learning_rate: float
    """Adam's learning rate in the first epoch."""
    batch_size: int
    """Scans a step."""
    final_rate: float = 1.0
    """Share of the learning rate in the last epoch; a cosine lies between, and 1 keeps it constant."""
    epochs: int = 1
    """How often all training scans are gone through."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's decay rates of its moments (the paper's)."""
    weight_decay: float = 0.0
    """Adam's weight decay."""
    augmentation: Augmentation = Augmentation()
    """How the input is changed at random."""

    def learning_rate_at(self, epoch: int) -> float:
        """Return the learning rate of an epoch, counted from 0."""
        progress = epoch / max(self.epochs - 1, 1)
        decay = (1 + math.cos(math.pi * progress)) / 2
        return self.learning_rate * (self.final_rate + (1 - self.final_rate) * decay)


Loss = Callable[[DrFER, LossSettings, Batch], dict[str, Tensor]]


@dataclass(frozen=True)
class Stage:
    """One training, described whole."""

    name: str
    """Its short name, as in the store: "ii-expression"."""
    title: str
    """Its name in progress bars and figures."""
    equation: str
    """What it minimises, by the paper's number."""
    trains: tuple[str, ...]
    """Names of the model's parts whose weights it changes, as in `model.get_submodule`."""
    parents: tuple[str, ...]
    """The stages whose weights it starts from."""
    loss: Loss
    """Gives named terms; their sum is minimised."""
    schedule: Schedule
    """Learning rate, batch size and augmentation; its number of epochs is taken from `epochs`."""
    epochs: Mapping[str, int]
    """How many epochs, by the length that a preset asks for: "paper", "classroom", "short", "smoke"."""
    seed: int
    """A number of its own, so that no two stages draw the same random numbers."""
    reads: frozenset[str] = frozenset()
    """The fields of `LossSettings` that its loss uses, and the switches of `ModelSizes` that shape
    its weights or those of its parents. All others are reset to their defaults before it trains, so
    that runs that differ only in those share its result: a field that is missing here has no
    effect."""
    fresh: tuple[str, ...] = ()
    """Parts that do not start from an earlier stage's weights, but untrained."""
    tested: bool = False
    """Whether the expression branch is tested on the test subjects afterwards."""
    version: int = 3
    """Increase this when its result may come out differently, so that results that were stored
    before are not taken for those of today. (2: coordinates are in float32. 3: constants are not
    scaled, surfaces are sampled anew, decoders learn deviations.)"""


def _stage_i_expression(model: DrFER, settings: LossSettings, batch: Batch) -> dict[str, Tensor]:
    """Equation (1)."""
    feature = model.expression.encode(batch.cloud)
    logits = model.expression.classifier(feature).float()
    terms = {"classification": losses.classification_loss(logits, batch.expression)}
    return terms | _contrastive_term(settings, batch, feature)


def _contrastive_term(settings: LossSettings, batch: Batch, feature: Tensor) -> dict[str, Tensor]:
    """The loss beyond the paper, if there is one."""
    if not settings.contrastive:
        return {}
    loss = losses.supervised_contrastive_loss(feature, batch.expression, batch.subject)
    return {"contrastive": settings.contrastive * loss}


def _stage_i_identity(model: DrFER, settings: LossSettings, batch: Batch) -> dict[str, Tensor]:
    """Equation (2)."""
    logits = model.identity.classifier(model.identity.encode(batch.cloud))
    return {"classification": losses.classification_loss(logits.float(), batch.subject)}


def _stage_i_fusion(model: DrFER, settings: LossSettings, batch: Batch) -> dict[str, Tensor]:
    """Equation (3): the mean face of the expression and the subject's neutral face make the scan."""
    fused = model.fusion(batch.mean_expression, batch.own_neutral_cloud)
    return {"reconstruction": losses.reconstruction_loss(fused, batch.scan, settings.reduction)}


def _stage_ii_expression(model: DrFER, settings: LossSettings, batch: Batch) -> dict[str, Tensor]:
    """Equation (7)."""
    feature, mean, log_variance = model.expression.encode_distribution(batch.cloud)
    face = model.expression.decoder(feature)
    return _expression_terms(model, settings, batch, face, feature, mean, log_variance)


def _expression_terms(
    model: DrFER,
    settings: LossSettings,
    batch: Batch,
    face: Tensor,
    feature: Tensor,
    mean: Tensor | None,
    log_variance: Tensor | None,
) -> dict[str, Tensor]:
    """Equations (4), (6) and (1) as far as the settings keep them, and the ablations' divergence."""
    terms = {
        "reconstruction exp": losses.reconstruction_loss(
            face, batch.mean_expression, settings.reduction
        )
    }
    if settings.triplet:
        terms["triplet"] = losses.triplet_loss(
            feature, batch.expression, settings.margin, settings.mining, settings.normalised
        )
    if settings.classification:
        logits = model.expression.classifier(feature).float()
        terms["classification"] = losses.classification_loss(logits, batch.expression)
    if settings.divergence:
        divergence = {"kl": losses.kl_divergence, "js": losses.js_divergence}[settings.divergence]
        terms["divergence"] = settings.divergence_weight * divergence(mean, log_variance)
    return terms | _contrastive_term(settings, batch, feature)


def _stage_ii_identity(model: DrFER, settings: LossSettings, batch: Batch) -> dict[str, Tensor]:
    """Equation (8)."""
    face = model.identity(batch.cloud)
    loss = losses.reconstruction_loss(face, batch.own_neutral, settings.reduction)
    return {"reconstruction id": loss}


def _stage_iii(model: DrFER, settings: LossSettings, batch: Batch) -> dict[str, Tensor]:
    """Equation (10); gradients flow through the cross-over into both branches."""
    out = model.disentangle(batch.cloud, settings.fusion, settings.count_decoded)
    terms = _expression_terms(
        model,
        settings,
        batch,
        out.expression_face,
        out.expression_feature,
        out.feature_mean,
        out.feature_log_variance,
    )
    terms["reconstruction id"] = losses.reconstruction_loss(
        out.identity_face, batch.own_neutral, settings.reduction
    )
    terms["cross-over"] = losses.cross_over_loss(
        out.identity_of_expression_face,
        out.expression_of_identity_face,
        batch.mean_neutral,
        settings.reduction,
    )
    if settings.fusion:
        fused = losses.reconstruction_loss(out.fused_face, batch.scan, settings.reduction)
        terms["fusion"] = settings.fusion_weight * fused
    return terms


def _head(model: DrFER, settings: LossSettings, batch: Batch) -> dict[str, Tensor]:
    """Equation (1) for the classifier alone, on a feature that stays as it is."""
    with torch.no_grad():
        feature = model.expression.encode(batch.cloud)
    logits = model.expression.classifier(feature).float()
    return {"classification": losses.classification_loss(logits, batch.expression)}


MODEL_SWITCHES = frozenset({"skips", "gaussian_feature"})
"""The fields of `ModelSizes` that rows of tables change."""

_CLASSIFIED = ("expression.encoder", "expression.classifier")
_CONTRASTIVE = frozenset({"contrastive"})
_EXPRESSION_TERMS = _CONTRASTIVE | {
    "triplet",
    "classification",
    "divergence",
    "divergence_weight",
    "margin",
    "mining",
    "normalised",
    "reduction",
}

# Learning rates, and the batch sizes of stages i and iii, are the paper's (section IV.B). Weight
# decay is that of the public PyTorch port of PointNet++. Ours are the batch size of stage ii, that
# rates decay along a cosine, and the numbers of epochs: docs/convergence.md shows them.
_STAGE_I = Schedule(learning_rate=1e-3, batch_size=24, final_rate=0.01, weight_decay=1e-4)
_STAGE_I_FUSION = replace(_STAGE_I, weight_decay=0.0)
_STAGE_II = Schedule(learning_rate=1e-4, batch_size=24, final_rate=0.05)
_STAGE_III = Schedule(learning_rate=1e-5, batch_size=16, final_rate=0.05)


def _fresh_head(name: str, title: str, parent: str, seed: int, reads: frozenset[str]) -> Stage:
    """The other reading of section III.B: a head that is trained on the finished feature."""
    return Stage(
        name=name,
        title=title,
        equation="(1)",
        trains=("expression.classifier",),
        parents=(parent,),
        loss=_head,
        schedule=_STAGE_I,
        epochs={"paper": 60, "classroom": 30, "short": 10, "smoke": 3},
        seed=seed,
        reads=reads,
        fresh=("expression.classifier",),
        tested=True,
    )


_ALL_STAGES = (
    Stage(
        name="i-expression",
        title="stage i: expression",
        equation="(1)",
        trains=_CLASSIFIED,
        parents=(),
        loss=_stage_i_expression,
        schedule=_STAGE_I,
        epochs={"paper": 200, "classroom": 100, "short": 40, "smoke": 3},
        seed=0,
        reads=_CONTRASTIVE,
        tested=True,
    ),
    Stage(
        name="i-identity",
        title="stage i: identity",
        equation="(2)",
        trains=("identity.encoder", "identity.classifier"),
        parents=(),
        loss=_stage_i_identity,
        schedule=_STAGE_I,
        epochs={"paper": 60, "classroom": 40, "short": 15, "smoke": 2},
        seed=1,
    ),
    Stage(
        name="i-fusion",
        title="stage i: fusion",
        equation="(3)",
        trains=("fusion",),
        parents=(),
        loss=_stage_i_fusion,
        schedule=_STAGE_I_FUSION,
        epochs={"paper": 60, "classroom": 30, "short": 10, "smoke": 2},
        seed=2,
        reads=frozenset({"skips", "reduction"}),
    ),
    Stage(
        name="ii-expression",
        title="stage ii: expression",
        equation="(7)",
        trains=("expression",),
        parents=("i-expression",),
        loss=_stage_ii_expression,
        schedule=_STAGE_II,
        epochs={"paper": 60, "classroom": 30, "short": 10, "smoke": 2},
        seed=3,
        reads=_EXPRESSION_TERMS | {"gaussian_feature"},
        tested=True,
    ),
    Stage(
        name="ii-identity",
        title="stage ii: identity",
        equation="(8)",
        trains=("identity.encoder", "identity.decoder"),
        parents=("i-identity",),
        loss=_stage_ii_identity,
        schedule=_STAGE_II,
        epochs={"paper": 60, "classroom": 40, "short": 10, "smoke": 2},
        seed=4,
        reads=frozenset({"reduction"}),
    ),
    Stage(
        name="iii",
        title="stage iii: end to end",
        equation="(10)",
        trains=("expression", "identity.encoder", "identity.decoder", "fusion"),
        parents=("ii-expression", "ii-identity", "i-fusion"),
        loss=_stage_iii,
        schedule=_STAGE_III,
        epochs={"paper": 20, "classroom": 10, "short": 3, "smoke": 1},
        seed=5,
        reads=MODEL_SWITCHES | _EXPRESSION_TERMS | {"fusion", "fusion_weight", "count_decoded"},
        tested=True,
    ),
    _fresh_head("head-i", "fresh classifier after stage i", "i-expression", 6, frozenset()),
    _fresh_head(
        "head-ii",
        "fresh classifier after stage ii",
        "ii-expression",
        7,
        frozenset({"gaussian_feature"}),
    ),
    _fresh_head("head-iii", "fresh classifier after stage iii", "iii", 8, MODEL_SWITCHES),
    Stage(
        name="control",
        title="control: classification alone",
        equation="(1)",
        trains=_CLASSIFIED,
        parents=(),
        loss=_stage_i_expression,
        schedule=_STAGE_I,
        # as many steps as the branch takes in stages i, ii and iii, whose batches are smaller
        epochs={"paper": 290, "classroom": 145, "short": 55, "smoke": 7},
        seed=9,
        reads=_CONTRASTIVE,
        tested=True,
    ),
)

STAGES: dict[str, Stage] = {stage.name: stage for stage in _ALL_STAGES}
"""All stages by name."""
