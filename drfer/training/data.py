"""What a training step sees: a fold's scans in batches, augmented, each beside its targets.

Built in notebook 03 (batches and augmentation) and 04 (mean faces as targets).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from drfer.common.device import device, sent
from drfer.common.errors import DrferError
from drfer.datasets.scan import NEUTRAL
from drfer.preprocessing.faceset import FaceSet, mean_face
from drfer.preprocessing.head_pose import PosedFaces
from drfer.preprocessing.resampling import template_clouds
from drfer.training.correspondence import Displacements
from drfer.training.surfaces import Surfaces


@dataclass(frozen=True)
class Augmentation:
    """Random input dropout and random scale, drawn anew for each scan in each epoch (section IV.B).

    The paper gives no numbers; these are those of the public PyTorch port of PointNet++.
    """

    largest_dropout: float = 0.875
    """The share of dropped points is uniform between 0 and this."""
    scale: tuple[float, float] = (0.8, 1.25)
    """Range of the uniform factor."""


@dataclass(frozen=True)
class DataSettings:
    """What of the scans is shown to the network; the defaults are the paper's as we read it."""

    input: str = "scan"
    """Where input points come from: "scan" (farthest points of each scan) or "template" (the same
    vertices of the template for every scan)."""
    carried: float = 0.0
    """Share of the training scans whose expression is carried to another training subject, anew in
    each epoch."""
    neutral_class: bool = False
    """Whether neutral scans are a class of the training, after the others; they are never tested."""
    wrong_labels: float = 0.0
    """Share of the training scans that are given the label of another class, once and for all."""
    scaled_constants: bool = False
    """Whether the class mean and the mean neutral face are scaled with the scan, which was a fault
    of this kit's first version."""


@dataclass(frozen=True)
class Batch:
    """The scans of one training step with their labels and targets.

    What is of one person is scaled with the scan. The two mean faces are not: they are constants
    given the label, and scaled ones would ask the expression branch to keep the size of the scan,
    which is identity, where equations (4) and (9) ask it to forget it.

    Attributes:
        cloud: augmented clouds, which the encoders see, shape (B, P, 3), frame units.
        scan: a new sample of the same scans' surfaces, F in the paper, shape (B, P, 3).
        expression: labels C of the expressions, shape (B,).
        subject: labels P of the training subjects, shape (B,).
        mean_expression: mean face of each scan's expression, F^mean_C, shape (B, P, 3).
        mean_neutral: mean neutral face, F^mean_neu, shape (B, P, 3).
        own_neutral: a new sample of the neutral scan of each scan's subject, F^P_neu, (B, P, 3).
        own_neutral_cloud: that neutral scan in farthest-point order, for encoders, (B, P, 3).
    """

    cloud: Tensor
    scan: Tensor
    expression: Tensor
    subject: Tensor
    mean_expression: Tensor
    mean_neutral: Tensor
    own_neutral: Tensor
    own_neutral_cloud: Tensor


class FoldData:
    """One fold's scans on the training device: training scans with targets, and test scans.

    Mean faces are means over the training subjects only, so no test subject is in any target.

    Attributes:
        subjects: the training subjects, in the order of their labels.
        classes: how many classes the expression branch tells apart in training.
        train: indices into the faces' keys of the scans that are trained on.
        test: the same for the test subjects.
        test_neutral: indices of the test subjects' neutral scans.
        clouds: all clouds, shape (n, P, 3), frame units, in farthest-point order.
        labels: expression of each scan, shape (n,), -1 for neutral ones that are no class.
        subject_numbers: label of each scan's subject, shape (n,), -1 for test subjects.
        own_neutral: cloud of each training subject's neutral scan, shape (subjects, P, 3).
        scan_surfaces: surfaces of the training scans, in the order of `train`.
        neutral_surfaces: surfaces of the training subjects' neutral scans.
        mean_expression: mean face of each class, shape (classes, P, 3).
        mean_neutral: mean neutral face, shape (P, 3).
    """

    def __init__(
        self,
        faces: FaceSet,
        train_subjects: list[str],
        test_subjects: list[str],
        points: int,
        posed: PosedFaces | None = None,
        settings: DataSettings = DataSettings(),
    ) -> None:
        """Select the scans and average the targets.

        Args:
            faces: preprocessed scans of all these subjects.
            train_subjects: who is trained on.
            test_subjects: who is tested.
            points: how many points P of each cloud are used, the first ones.
            posed: the scans at many head poses, from which training inputs are then drawn; targets
                stay frontal and whole.
            settings: what of the scans is shown.

        Raises:
            DrferError: a training subject does not have exactly one neutral scan, or posed scans
                are asked for with settings that need frontal ones.
        """
        if posed is not None and (settings.input != "scan" or settings.carried):
            raise DrferError("turned heads are not in correspondence: train on them as the paper")
        self.settings = settings
        self.subjects = sorted(train_subjects)
        self.classes = len(faces.expressions) + settings.neutral_class
        label, number, neutrals = self._select(faces, test_subjects)
        clouds = input_clouds(faces, points, settings)
        self.clouds = _on_device(clouds)
        self.labels = _on_device(label)
        self.subject_numbers = _on_device(number)
        self._average(faces, label, neutrals, points)
        self.own_neutral = self.clouds[neutrals]
        self.scan_surfaces = Surfaces(faces.vertices[self.train], faces.missing[self.train])
        self.neutral_surfaces = Surfaces(faces.vertices[neutrals], faces.missing[neutrals])
        self.displacements = None
        if settings.carried:
            self.displacements = Displacements(
                faces.vertices[neutrals],
                faces.missing[neutrals],
                clouds[self.train],
                faces.vertices[self.train],
            )
        self.posed = None
        if posed is not None:
            row_of = {key: row for row, key in enumerate(posed.keys)}
            self.row_in_posed = torch.tensor([row_of.get(key, -1) for key in faces.keys])
            self.posed = torch.from_numpy(posed.clouds)[:, :, :points]

    def _select(
        self, faces: FaceSet, test_subjects: list[str]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return labels, subject numbers, and the training subjects' neutral scans in their order."""
        keys = faces.keys
        number_of = {subject: number for number, subject in enumerate(self.subjects)}
        number = np.array([number_of.get(key.subject, -1) for key in keys])
        is_test = np.array([key.subject in test_subjects for key in keys])
        is_neutral = np.array([key.expression == NEUTRAL for key in keys])
        label = labels_of(faces)
        neutrals = np.flatnonzero((number >= 0) & is_neutral)
        if sorted(number[neutrals]) != list(range(len(self.subjects))):
            raise DrferError(
                "every training subject needs exactly one neutral scan, as the identity branch's "
                "target: add the missing ones or take these subjects away"
            )
        if self.settings.neutral_class:
            label[neutrals] = len(faces.expressions)
        self.train = np.flatnonzero((number >= 0) & (label >= 0))
        if self.settings.wrong_labels:
            self._mislabel(label)
        self.test = np.flatnonzero(is_test & ~is_neutral)
        self.test_neutral = np.flatnonzero(is_test & is_neutral)
        return label, number, neutrals[np.argsort(number[neutrals])]

    def _mislabel(self, label: np.ndarray) -> None:
        """Give some training scans another label; which ones, only the training subjects decide."""
        rng = np.random.default_rng(list(" ".join(self.subjects).encode()))
        count = round(self.settings.wrong_labels * len(self.train))
        wrong = rng.choice(self.train, count, replace=False)
        label[wrong] = (label[wrong] + rng.integers(1, self.classes, count)) % self.classes

    def _average(
        self, faces: FaceSet, label: np.ndarray, neutrals: np.ndarray, points: int
    ) -> None:
        of_class = [self.train[label[self.train] == c] for c in range(self.classes)]
        means = [mean_face(faces, members, points) for members in of_class]
        self.mean_expression = _on_device(np.stack(means))
        self.mean_neutral = _on_device(mean_face(faces, neutrals, points))

    def batches(
        self, batch_size: int, augmentation: Augmentation, generator: torch.Generator
    ) -> Iterator[Batch]:
        """Yield the training scans of one epoch in random order.

        A last batch of a single scan is left out, because batch norm needs two.

        Args:
            batch_size: scans a batch.
            augmentation: how inputs are changed.
            generator: all random numbers come from here.
        """
        order = torch.randperm(len(self.train), generator=generator)
        for rows in order.split(batch_size):
            if len(rows) > 1:
                yield self._batch(rows, augmentation, generator)

    def _batch(self, rows: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Batch:
        low, high = augmentation.scale
        scale = torch.rand(len(rows), 1, 1, generator=generator) * (high - low) + low
        scale, there = sent(scale, self.clouds.device), sent(rows, self.clouds.device)
        members = torch.from_numpy(self.train)[rows]
        scans = sent(members, self.clouds.device)
        seen, subject, displacement = self.clouds[scans], self.subject_numbers[scans], None
        if self.posed is not None:
            seen = self._at_random_poses(members, generator)
        if self.displacements is not None:
            subject, displacement = self.displacements.draw(
                subject, self.settings.carried, generator
            )
            seen = seen + self.displacements.of_points(there, displacement)
        expression, points = self.labels[scans], seen.shape[1]
        scan = self.scan_surfaces.sample(there, points, generator, displacement)
        neutral = self.neutral_surfaces.sample(subject, points, generator)
        constants = scale if self.settings.scaled_constants else 1.0
        return Batch(
            cloud=drop_points(seen * scale, augmentation.largest_dropout, generator),
            scan=scan * scale,
            expression=expression,
            subject=subject,
            mean_expression=self.mean_expression[expression] * constants,
            mean_neutral=self.mean_neutral.expand_as(seen) * constants,
            own_neutral=neutral * scale,
            own_neutral_cloud=self.own_neutral[subject] * scale,
        )

    def _at_random_poses(self, members: Tensor, generator: torch.Generator) -> Tensor:
        pose = torch.randint(self.posed.shape[1], (len(members),), generator=generator)
        return sent(self.posed[self.row_in_posed[members], pose], self.clouds.device)


def input_clouds(faces: FaceSet, points: int, settings: DataSettings) -> np.ndarray:
    """Return what the network sees of scans, before augmentation, shape (n, points, 3)."""
    if settings.input == "template":
        return template_clouds(faces.vertices, faces.missing, points)
    return faces.clouds[:, :points]


def drop_points(clouds: Tensor, largest_share: float, generator: torch.Generator) -> Tensor:
    """Replace a random share of each cloud's points by copies of its first point.

    This is PointNet++'s random input dropout. The points that stay move to the front in their
    order, so that the first points of a cloud are still an even sample of it.

    Args:
        clouds: points, shape (B, P, 3).
        largest_share: the share of each cloud is uniform between 0 and this.
        generator: all random numbers come from here.

    Returns:
        Clouds of the same shape.

    Built in notebook 03.
    """
    batch, points, _ = clouds.shape
    share = torch.rand(batch, 1, generator=generator) * largest_share
    dropped = torch.rand(batch, points, generator=generator) < share
    dropped[:, 0] = False
    order = dropped.to(torch.uint8).argsort(dim=1, stable=True)
    order = sent(torch.where(dropped.gather(1, order), 0, order), clouds.device)
    return clouds.gather(1, order[..., None].expand(-1, -1, 3))


def labels_of(faces: FaceSet) -> np.ndarray:
    """Return the label of each scan's expression, shape (n,), -1 of neutral ones.

    Raises:
        KeyError: a scan has none of the faces' classes.
    """
    label_of = {NEUTRAL: -1} | {name: label for label, name in enumerate(faces.expressions)}
    return np.array([label_of[key.expression] for key in faces.keys])


def _on_device(array: np.ndarray) -> Tensor:
    return torch.tensor(array, device=device())
