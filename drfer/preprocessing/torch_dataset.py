"""Preprocessed scans as a `torch.utils.data.Dataset`: any network can be trained on them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch
from torch.utils.data import Dataset as TorchDataset

from drfer.common.errors import DrferError
from drfer.datasets import has_neutral, open_dataset
from drfer.datasets.scan import NEUTRAL
from drfer.preprocessing.faceset import FaceSet, preprocess


class FaceDataset(TorchDataset):
    """Labelled point clouds of faces.

    An item is a dictionary that PyTorch's own `DataLoader` can put into batches:

    - "points": the cloud, a tensor (P, 3), float32. It is centred on the face, +x to the head's
      left, +y up, +z to the viewer; one unit is 120 mm (`faces.settings.frame_length`), so that
      every face lies in the unit ball. Points are in farthest-point order: the first k of them are
      an even sample of the face.
    - "expression": index into `expressions`, an int.
    - "subject": index into `subjects`, an int.
    - "key": which scan it is, in words, such as "F0001 fear 4".

    Nothing is augmented. For example, two sets without a common subject:

        whole = FaceDataset.open("anny3dfe", subjects=12)
        train, test = whole.keep(whole.subjects[:9]), whole.keep(whole.subjects[9:])
        loader = torch.utils.data.DataLoader(train, batch_size=24, shuffle=True)

    Args:
        faces: the preprocessed scans.
        subjects: whose scans to keep; everybody's if None.
        points: how many of each cloud's points an item has.
        neutral: whether to keep neutral scans, as a class after the others.

    Raises:
        DrferError: a subject is unknown, the clouds have fewer points, no scan is kept, or neutral
            ones are wanted where there are none.
    """

    def __init__(
        self,
        faces: FaceSet,
        subjects: Collection[str] | None = None,
        points: int = 1024,
        neutral: bool = False,
    ) -> None:
        """Choose the scans; nothing is copied."""
        most = faces.clouds.shape[1]
        if not 1 <= points <= most:
            raise DrferError(f"the faces have 1 to {most} points, not {points}")
        wanted = set(faces.subjects if subjects is None else subjects)
        unknown = sorted(wanted.difference(faces.subjects))
        if unknown:
            raise DrferError(
                f"there is no subject {unknown[0]!r}; there are {', '.join(faces.subjects)}"
            )
        if neutral and not has_neutral(faces.dataset):
            raise DrferError("there are no neutral scans: leave neutral=True away")
        self.faces, self.points, self.neutral = faces, points, neutral
        self.subjects: list[str] = faces.subjects
        """Names of all subjects of the faces, also of those that are not kept."""
        self.expressions = (*faces.expressions, NEUTRAL) if neutral else faces.expressions
        """Names of the classes."""
        self.members = [
            number
            for number, key in enumerate(faces.keys)
            if key.subject in wanted and key.expression in self.expressions
        ]
        """Indices into `faces` of the scans that are kept."""
        if not self.members:
            raise DrferError("no scan of these subjects is left; give others")

    @classmethod
    def open(
        cls,
        name: str,
        subjects: int = 100,
        root: Path | str | None = None,
        points: int = 1024,
        neutral: bool = False,
        up: str = "y",
    ) -> FaceDataset:
        """Open a dataset by its name, preprocess it (once; it is cached), and keep everybody.

        Args:
            name: "anny3dfe", "bu3dfe", "bosphorus" or "scans".
            subjects: how many subjects of the open faces to make, at most 100.
            root: the folder of any other dataset.
            points: how many of each cloud's points an item has.
            neutral: whether to keep neutral scans, as a class after the others.
            up: the axis that points up in scans of your own.

        Raises:
            DrferError: the dataset cannot be opened, or a scan in it does not register as a face.
        """
        dataset = open_dataset(name, None if root is None else Path(root), subjects, up)
        used = {*dataset.intensities, 0} if neutral else {*dataset.intensities}
        complete = set(dataset.subjects)
        keys = [key for key in dataset.keys() if key.subject in complete and key.intensity in used]
        return cls(preprocess(dataset, keys), points=points, neutral=neutral)

    def keep(self, subjects: Collection[str]) -> FaceDataset:
        """Return the same dataset with the scans of some subjects only.

        Raises:
            DrferError: a subject is unknown, or none is given.
        """
        return FaceDataset(self.faces, subjects, self.points, self.neutral)

    def __len__(self) -> int:
        """Return the number of scans."""
        return len(self.members)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor | int | str]:
        """Return one scan; see the class."""
        number = self.members[index]
        key = self.faces.keys[number]
        return {
            "points": torch.tensor(self.faces.clouds[number, : self.points]),
            "expression": self.expressions.index(key.expression),
            "subject": self.subjects.index(key.subject),
            "key": str(key),
        }
