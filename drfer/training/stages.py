"""The three training stages (section III.C): each turns data and starting weights into weights and a record.

A stage's random numbers come from its seed and the number of its epoch alone. So a training that was killed
and resumed from its last checkpoint ends with the very weights of one that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from drfer.common.device import autocast, device, fork_rng
from drfer.common.errors import DrferError
from drfer.datasets.scan import EXPRESSIONS, NEUTRAL
from drfer.models.drfer import DrFER
from drfer.preprocessing.faceset import FaceSet, mean_face
from drfer.preprocessing.head_pose import PosedFaces
from drfer.training import losses


@dataclass(frozen=True)
class Augmentation:
    """Random input dropout and random scale, drawn anew for each scan in each epoch (section IV.B)."""

    largest_dropout: float = 0.5
    """share of points dropped: uniform up to this (0.875 in PointNet++'s published code)"""
    scale: tuple[float, float] = (0.95, 1.05)
    """uniform factor, of about what heads differ in size. Targets are scaled alike: equations (3)-(9) hold for a face of
    any size, and an unscaled target would ask the network to undo what it cannot know. So a decoder must also say the
    factor: with 0.8 to 1.25, as in PointNet++'s published code, that was most of its error"""


@dataclass(frozen=True)
class Training:
    """How one stage trains: Adam; the last epoch counts."""

    epochs: int
    learning_rate: float
    batch_size: int
    final_rate: float = 1.0
    """learning rate of the last epoch as a share of the first, by a cosine between; 1: constant"""
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    augmentation: Augmentation = Augmentation()


@dataclass(frozen=True)
class LossSettings:
    """Which terms stages ii and iii have, and their readings. Defaults are the paper's model."""

    triplet: bool = True
    classification: bool = True
    divergence: str = ""
    """"" or "kl" or "js", on the Gaussian feature"""
    divergence_weight: float = 0.001
    margin: float = losses.MARGIN
    mining: str = "semi-hard"
    normalised: bool = True
    reduction: str = "sum"
    fusion: bool = True
    fusion_weight: float = losses.FUSION_WEIGHT
    count_decoded: bool = False
    """whether batch norm's running statistics follow the decoded faces of the cross-over too, and not scans alone"""


@dataclass(frozen=True)
class Batch:
    """Scans of one step. cloud (B, P, 3): augmented, what the encoders see; whole: the same without dropout, frontal;
    expression, subject: labels (B,); mean_expression, own_neutral, mean_neutral: targets (B, P, 3), scaled as the scan."""

    cloud: Tensor
    whole: Tensor
    expression: Tensor
    subject: Tensor
    mean_expression: Tensor
    own_neutral: Tensor
    mean_neutral: Tensor


class FoldData:
    """A fold's training scans with their targets, and its test scans, on the training device.

    subjects: of the fold, all of the faces' unless given; those who are not tested are trained on, and mean faces are
    over them only. Clouds: (n, P, 3) in frame units, farthest-point order. `train`, `test`, `test_neutral`: indices into
    the faces' keys. Where `turned` gives the scans in many poses, each training input is drawn from them; all targets
    stay frontal and whole.
    """

    def __init__(
        self,
        faces: FaceSet,
        test_subjects: list[str],
        points: int,
        turned: PosedFaces | None = None,
        subjects: list[str] | None = None,
    ) -> None:
        keys = faces.keys
        self.subjects = sorted(set(subjects or faces.subjects) - set(test_subjects))
        is_test, is_train = (
            np.array([key.subject in some for key in keys])
            for some in (test_subjects, self.subjects)
        )
        is_neutral = np.array([key.expression == NEUTRAL for key in keys])
        label = np.array(
            [
                -1 if neutral else EXPRESSIONS.index(key.expression)
                for key, neutral in zip(keys, is_neutral)
            ]
        )
        number = np.array(
            [
                self.subjects.index(key.subject) if key.subject in self.subjects else -1
                for key in keys
            ]
        )
        self.train = np.flatnonzero(is_train & ~is_neutral)
        self.test = np.flatnonzero(is_test & ~is_neutral)
        self.test_neutral = np.flatnonzero(is_test & is_neutral)

        def on_device(array: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device())

        clouds = faces.clouds[:, :points]
        neutrals = np.flatnonzero(is_train & is_neutral)
        if sorted(number[neutrals]) != list(range(len(self.subjects))):
            raise DrferError(
                "every training subject needs exactly one neutral scan, as the identity branch's target"
            )
        self.clouds, self.labels = on_device(clouds), on_device(label)
        self.subject_numbers = on_device(number)
        self.turned = None
        if turned is not None:
            place = {key: number for number, key in enumerate(turned.keys)}
            self.place_in_turned = torch.tensor([place.get(key, -1) for key in keys])
            self.turned = torch.from_numpy(turned.clouds)[:, :, :points]
        self.own_neutral = on_device(clouds[neutrals[np.argsort(number[neutrals])]])
        of_class = [
            mean_face(faces, self.train[label[self.train] == c], points)
            for c in range(len(EXPRESSIONS))
        ]
        self.mean_expression = on_device(np.stack(of_class))
        self.mean_neutral = on_device(mean_face(faces, neutrals, points))

    def batches(self, training: Training, generator: torch.Generator):
        """The training scans of one epoch in random order, augmented; a last batch of one scan is left out."""
        order = torch.from_numpy(self.train)[torch.randperm(len(self.train), generator=generator)]
        for members in order.split(training.batch_size):
            if len(members) > 1:  # batch statistics need two
                yield self._batch(members.to(self.clouds.device), training.augmentation, generator)

    def _batch(
        self, members: Tensor, augmentation: Augmentation, generator: torch.Generator
    ) -> Batch:
        whole, subject = self.clouds[members], self.subject_numbers[members]
        low, high = augmentation.scale
        scale = (torch.rand(len(members), 1, 1, generator=generator) * (high - low) + low).to(
            whole.device
        )
        expression = self.labels[members]
        whole = whole * scale
        seen = whole if self.turned is None else self._in_any_pose(members, generator) * scale
        return Batch(
            cloud=drop_points(seen, augmentation.largest_dropout, generator),
            whole=whole,
            expression=expression,
            subject=subject,
            mean_expression=self.mean_expression[expression] * scale,
            own_neutral=self.own_neutral[subject] * scale,
            mean_neutral=self.mean_neutral * scale,
        )

    def _in_any_pose(self, members: Tensor, generator: torch.Generator) -> Tensor:
        pose = torch.randint(self.turned.shape[1], (len(members),), generator=generator)
        return self.turned[self.place_in_turned[members.cpu()], pose].to(members.device)


def drop_points(clouds: Tensor, largest_share: float, generator: torch.Generator) -> Tensor:
    """Input dropout of PointNet++: a random share of each cloud (B, P, 3) becomes copies of its first point.

    The points that stay move to the front in their order, so that a slice is still an even sample.
    """
    batch, points, _ = clouds.shape
    share = torch.rand(batch, 1, generator=generator) * largest_share
    dropped = torch.rand(batch, points, generator=generator) < share
    dropped[:, 0] = False
    order = dropped.to(torch.uint8).argsort(dim=1, stable=True)
    order = torch.where(dropped.gather(1, order), 0, order).to(clouds.device)
    return clouds.gather(1, order[..., None].expand(-1, -1, 3))


@dataclass(frozen=True)
class Stage:
    """One training: which modules it changes, and `loss`: named terms, whose sum is minimised."""

    name: str
    title: str
    trained: tuple[str, ...]
    """names of the model's parts whose weights it changes"""
    loss: Callable[[DrFER, LossSettings, Batch], dict[str, Tensor]]
    fresh: tuple[str, ...] = ()
    """those of the parts that do not start from an earlier stage's weights"""
    version: int = 3
    """raised when its result could come out differently: stored results of another version are not reused"""


def _stage_i_expression(model: DrFER, settings: LossSettings, batch: Batch) -> dict[str, Tensor]:
    """Equation (1)."""
    logits = model.expression.classifier(model.expression.encode(batch.cloud))
    return {"classification": losses.classification_loss(logits.float(), batch.expression)}


def _stage_i_identity(model: DrFER, settings: LossSettings, batch: Batch) -> dict[str, Tensor]:
    """Equation (2)."""
    logits = model.identity.classifier(model.identity.encode(batch.cloud))
    return {"classification": losses.classification_loss(logits.float(), batch.subject)}


def _stage_i_fusion(model: DrFER, settings: LossSettings, batch: Batch) -> dict[str, Tensor]:
    """Equation (3): the mean face of the expression and the subject's neutral make the scan."""
    fused = model.fusion(batch.mean_expression, batch.own_neutral)
    return {"reconstruction": losses.reconstruction_loss(fused, batch.whole, settings.reduction)}


def _expression_terms(
    model: DrFER, settings: LossSettings, batch: Batch, face, feature, mean, log_variance
) -> dict:
    """The terms of equation (7) that the settings leave in, and the divergence of the ablations."""
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
    return terms


def _stage_ii_expression(model: DrFER, settings: LossSettings, batch: Batch) -> dict[str, Tensor]:
    """Equation (7)."""
    feature, mean, log_variance = model.expression.encode_distribution(batch.cloud)
    face = model.expression.decoder(feature)
    return _expression_terms(model, settings, batch, face, feature, mean, log_variance)


def _stage_ii_identity(model: DrFER, settings: LossSettings, batch: Batch) -> dict[str, Tensor]:
    """Equation (8)."""
    face = model.identity(batch.cloud)
    return {
        "reconstruction id": losses.reconstruction_loss(face, batch.own_neutral, settings.reduction)
    }


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
        terms["fusion"] = settings.fusion_weight * losses.reconstruction_loss(
            out.fused_face, batch.whole, settings.reduction
        )
    return terms


def _head(model: DrFER, settings: LossSettings, batch: Batch) -> dict[str, Tensor]:
    """Equation (1) for the classifier alone: how much a feature that was trained without it tells of the expression."""
    with torch.no_grad():
        feature = model.expression.encode(batch.cloud)
    return {
        "classification": losses.classification_loss(
            model.expression.classifier(feature).float(), batch.expression
        )
    }


_CLASSIFICATION = ("expression.encoder", "expression.classifier")
_WHOLE = ("expression", "identity.encoder", "identity.decoder", "fusion")

STAGES = {  # new ones go to the end: a stage's place gives its seed
    stage.name: stage
    for stage in (
        Stage("i-expression", "stage i, expression", _CLASSIFICATION, _stage_i_expression),
        Stage(
            "i-identity",
            "stage i, identity",
            ("identity.encoder", "identity.classifier"),
            _stage_i_identity,
        ),
        Stage("i-fusion", "stage i, fusion", ("fusion",), _stage_i_fusion),
        Stage("ii-expression", "stage ii, expression", ("expression",), _stage_ii_expression),
        Stage(
            "ii-identity",
            "stage ii, identity",
            ("identity.encoder", "identity.decoder"),
            _stage_ii_identity,
        ),
        Stage("iii", "stage iii, end to end", _WHOLE, _stage_iii, version=4),
        Stage(
            "head",
            "fresh classifier",
            ("expression.classifier",),
            _head,
            fresh=("expression.classifier",),
        ),
        Stage("ii-control", "control, stage ii", _CLASSIFICATION, _stage_i_expression),
        Stage("iii-control", "control, stage iii", _CLASSIFICATION, _stage_i_expression),
    )
}


class Trainer:
    """Runs a stage epoch by epoch; between epochs its whole state can be taken and put back."""

    def __init__(
        self,
        stage: Stage,
        model: DrFER,
        data: FoldData,
        training: Training,
        settings: LossSettings,
        seed: int,
        precision: str = "auto",
    ) -> None:
        self.model, self.data, self.training, self.seed, self.precision = (
            model,
            data,
            training,
            seed,
            precision,
        )
        self.parts = {name: model.get_submodule(name) for name in stage.trained}
        parameters = [weight for part in self.parts.values() for weight in part.parameters()]
        self.optimizer = torch.optim.Adam(
            parameters,
            training.learning_rate,
            training.betas,
            weight_decay=training.weight_decay,
            fused=True,
        )
        self.stage, self.settings = stage, settings
        self.curves: list[dict[str, float]] = []
        self.seconds = 0.0

    @property
    def epoch(self) -> int:
        return len(self.curves)

    def train_epoch(self) -> None:
        """One pass over the training scans; its mean loss terms join the curves."""
        started = time.perf_counter()
        for group in self.optimizer.param_groups:
            group["lr"] = self.training.learning_rate * self._rate_share()
        self.model.eval()
        for part in self.parts.values():
            part.train()
        generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
        sums: dict[str, float] = {}
        scans = 0
        with fork_rng():  # dropout layers know only torch's global generator
            torch.manual_seed(self.seed * 100_003 + self.epoch)
            for batch in self.data.batches(self.training, generator):
                terms = self._step(batch)
                scans += len(batch.cloud)
                for name, value in terms.items():
                    sums[name] = sums.get(name, 0.0) + value.item() * len(batch.cloud)
        self.curves.append({name: total / scans for name, total in sums.items()})
        if not math.isfinite(sum(sums.values())):
            raise DrferError(
                f"the loss is no finite number after epoch {self.epoch}: give a lower learning rate"
            )
        self.seconds += time.perf_counter() - started

    def _rate_share(self) -> float:
        progress = self.epoch / max(self.training.epochs - 1, 1)
        final = self.training.final_rate
        return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2

    def _step(self, batch: Batch) -> dict[str, Tensor]:
        self.optimizer.zero_grad(
            set_to_none=True
        )  # first, so that the last step's gradients need no room beside it
        with autocast(self.precision):
            terms = self.stage.loss(self.model, self.settings, batch)
        sum(terms.values()).backward()
        self.optimizer.step()
        return terms

    def state(self) -> tuple[dict[str, Tensor], dict]:
        """Everything a resumed training needs: tensors, and a JSON-able rest."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            tensors.update({f"adam.{number}.{name}": tensor for name, tensor in state.items()})
        return tensors, {"curves": self.curves, "seconds": self.seconds}

    def restore(self, tensors: dict[str, Tensor], rest: dict) -> None:
        self.model.load_state_dict(
            {
                name.removeprefix("model."): tensor
                for name, tensor in tensors.items()
                if name.startswith("model.")
            }
        )
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("adam."):
                _, number, key = name.split(".")
                state.setdefault(int(number), {})[key] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.curves, self.seconds = list(rest["curves"]), rest["seconds"]


@torch.no_grad()
def predict(model: DrFER, clouds: Tensor, batch_size: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """Expression features (n, d) and logits (n, 6) of clouds (n, P, 3), in float32."""
    model.eval()
    features = torch.cat([model.expression.encode(part) for part in clouds.split(batch_size)])
    return features.cpu().numpy(), model.expression.classifier(features).cpu().numpy()


def fresh_model(sizes, data: FoldData, seed: int) -> DrFER:
    """An untrained model for a fold, its weights from the seed; decoders start from the mean neutral face."""
    with fork_rng():
        torch.manual_seed(seed)
        model = DrFER(sizes, len(data.subjects)).to(device())
    for layers in (model.expression.decoder, model.identity.decoder, model.fusion.layers):
        layers.start_from(data.mean_neutral)
    return model
