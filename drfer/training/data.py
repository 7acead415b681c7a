"""What a training step sees: a fold's scans in batches, augmented, each beside its targets.

Built in notebook 03 (batches and augmentation) and 04 (mean faces as targets).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from drfer.common.device import device
from drfer.common.errors import DrferError
from drfer.datasets.scan import EXPRESSIONS, NEUTRAL, ScanKey
from drfer.preprocessing.faceset import FaceSet, mean_face
from drfer.preprocessing.head_pose import PosedFaces


@dataclass(frozen=True)
class Augmentation:
    """Random input dropout and random scale, drawn anew for each scan in each epoch (section IV.B).

    Targets are scaled with their scan, since an unscaled target would ask the network to undo a
    factor that it cannot know.
    """

    largest_dropout: float = 0.5
    """The share of dropped points is uniform between 0 and this (0.875 in PointNet++'s own code)."""
    scale: tuple[float, float] = (0.95, 1.05)
    """Range of the uniform factor, which is about the range of head sizes (0.8 to 1.25 there)."""


@dataclass(frozen=True)
class Batch:
    """The scans of one training step with their labels and targets.

    Attributes:
        cloud: augmented clouds, which the encoders see, shape (B, P, 3), frame units.
        whole: the same scans frontal and without dropout, F_i in the paper, shape (B, P, 3).
        expression: labels C_i of the expressions, shape (B,).
        subject: labels P_i of the training subjects, shape (B,).
        mean_expression: mean face of each scan's expression, F^mean_C, shape (B, P, 3).
        own_neutral: neutral scan of each scan's subject, F^P_neu, shape (B, P, 3).
        mean_neutral: mean neutral face, F^mean_neu, shape (B, P, 3).
    """

    cloud: Tensor
    whole: Tensor
    expression: Tensor
    subject: Tensor
    mean_expression: Tensor
    own_neutral: Tensor
    mean_neutral: Tensor


class FoldData:
    """One fold's scans on the training device: training scans with targets, and test scans.

    Mean faces are means over the training subjects only, so no test subject is in any target.

    Attributes:
        subjects: the training subjects, in the order of their labels.
        train: indices into the faces' keys of the training scans that show an expression.
        test: the same for the test subjects.
        test_neutral: indices of the test subjects' neutral scans.
        clouds: all clouds, shape (n, P, 3), frame units, in farthest-point order.
        labels: expression of each scan, shape (n,), -1 for neutral ones.
        subject_numbers: label of each scan's subject, shape (n,), -1 for test subjects.
        own_neutral: neutral scan of each training subject, shape (subjects, P, 3).
        mean_expression: mean face of each expression, shape (6, P, 3).
        mean_neutral: mean neutral face, shape (P, 3).
    """

    def __init__(
        self,
        faces: FaceSet,
        train_subjects: list[str],
        test_subjects: list[str],
        points: int,
        posed: PosedFaces | None = None,
    ) -> None:
        """Select the scans and average the targets.

        Args:
            faces: preprocessed scans of all these subjects.
            train_subjects: who is trained on.
            test_subjects: who is tested.
            points: how many points P of each cloud are used, the first ones.
            posed: the scans at many head poses, from which training inputs are then drawn; targets
                stay frontal and whole.

        Raises:
            DrferError: a training subject does not have exactly one neutral scan.
        """
        keys = faces.keys
        self.subjects = sorted(train_subjects)
        label_of = {subject: number for number, subject in enumerate(self.subjects)}
        number = np.array([label_of.get(key.subject, -1) for key in keys])
        is_test = np.array([key.subject in test_subjects for key in keys])
        is_neutral = np.array([key.expression == NEUTRAL for key in keys])
        label = np.array([_label(key) for key in keys])

        self.train = np.flatnonzero((number >= 0) & ~is_neutral)
        self.test = np.flatnonzero(is_test & ~is_neutral)
        self.test_neutral = np.flatnonzero(is_test & is_neutral)
        neutrals = np.flatnonzero((number >= 0) & is_neutral)
        if sorted(number[neutrals]) != list(range(len(self.subjects))):
            raise DrferError(
                "every training subject needs exactly one neutral scan, as the identity branch's "
                "target: add the missing ones or take these subjects away"
            )

        clouds = faces.clouds[:, :points]
        self.clouds = _on_device(clouds)
        self.labels = _on_device(label)
        self.subject_numbers = _on_device(number)
        self.own_neutral = _on_device(clouds[neutrals[np.argsort(number[neutrals])]])
        of_class = [self.train[label[self.train] == c] for c in range(len(EXPRESSIONS))]
        self.mean_expression = _on_device(
            np.stack([mean_face(faces, members, points) for members in of_class])
        )
        self.mean_neutral = _on_device(mean_face(faces, neutrals, points))

        self.posed = None
        if posed is not None:
            row_of = {key: row for row, key in enumerate(posed.keys)}
            self.row_in_posed = torch.tensor([row_of.get(key, -1) for key in keys])
            self.posed = torch.from_numpy(posed.clouds)[:, :, :points]

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
        order = torch.from_numpy(self.train)[torch.randperm(len(self.train), generator=generator)]
        for members in order.split(batch_size):
            if len(members) > 1:
                yield self._batch(members, augmentation, generator)

    def _batch(
        self, members: Tensor, augmentation: Augmentation, generator: torch.Generator
    ) -> Batch:
        low, high = augmentation.scale
        scale = torch.rand(len(members), 1, 1, generator=generator) * (high - low) + low
        scale = _sent(scale, self.clouds.device)
        there = _sent(members, self.clouds.device)
        whole = self.clouds[there] * scale
        seen = whole
        if self.posed is not None:
            seen = self._at_random_poses(members, generator) * scale
        expression = self.labels[there]
        subject = self.subject_numbers[there]
        return Batch(
            cloud=drop_points(seen, augmentation.largest_dropout, generator),
            whole=whole,
            expression=expression,
            subject=subject,
            mean_expression=self.mean_expression[expression] * scale,
            own_neutral=self.own_neutral[subject] * scale,
            mean_neutral=self.mean_neutral * scale,
        )

    def _at_random_poses(self, members: Tensor, generator: torch.Generator) -> Tensor:
        pose = torch.randint(self.posed.shape[1], (len(members),), generator=generator)
        return _sent(self.posed[self.row_in_posed[members], pose], self.clouds.device)


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
    order = _sent(torch.where(dropped.gather(1, order), 0, order), clouds.device)
    return clouds.gather(1, order[..., None].expand(-1, -1, 3))


def _label(key: ScanKey) -> int:
    return -1 if key.expression == NEUTRAL else EXPRESSIONS.index(key.expression)


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy to a device without waiting for what it still computes."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()  # from other memory, the driver may wait after all
    return tensor.to(device, non_blocking=True)


def _on_device(array: np.ndarray) -> Tensor:
    return torch.tensor(array, device=device())
