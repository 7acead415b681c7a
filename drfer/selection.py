"""What an evaluation consists of, as the command line says it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from drfer.common.errors import DrferError, check_known

if TYPE_CHECKING:  # they take seconds to import, and `drfer --help` needs none
    from drfer.evaluation.evaluation import Evaluation
    from drfer.evaluation.plan import Request
    from drfer.evaluation.presets import Preset
    from drfer.evaluation.protocol import Draws, Protocol


@dataclass(frozen=True)
class Selection:
    """What an evaluation consists of."""

    dataset: str = "anny3dfe"
    """anny3dfe, bu3dfe, bosphorus or scans"""
    root: Path | None = None
    """the folder of bu3dfe, bosphorus or scans"""
    up: str = "y"
    """the axis that points up in your own scans: x, y, z; -x, -y, -z as in --up=-z"""
    preset: str = "classroom"
    """paper, classroom, short or smoke"""
    rows: tuple[str, ...] = ("main",)
    """main (baseline and DrFER), table3 (and controls), control, bounds, beyond, readings, or names"""
    measures: tuple[str, ...] = ()
    """all, or of pose, features, disentanglement, diagnosis, curves, samples"""
    folds: tuple[int, ...] = ()
    """which folds, such as 0 1 2; all if none is named"""
    repeats: int = 1
    """how often all folds are run, with the subjects shuffled anew each time"""
    redraw: bool = False
    """draw the subjects anew in each repeat"""
    train_share: float = 1.0
    """of a fold's training subjects, how many are trained on, such as 0.25"""
    start: str | None = None
    """shipped: begin with the weights of the kit's trained model, for faces of other people"""
    draws: int | None = None
    """instead of folds: so many trainings, each on open faces of its own, all tested on the same 300"""
    train_subjects: int | None = None
    """how many subjects a draw trains on, 9 to 100; the preset's, which is 54, if not given"""
    identity: float = 1.0
    """of draws: factor of the local changes of shape by which people differ, such as 0.5; sex, age, build
    and ancestry vary as usual"""
    levels: tuple[int, ...] = (3, 4)
    """of draws: at which intensities expressions are shown, of 1 to 4"""
    wrong_labels: float = 0.0
    """of draws: the share of training scans that are given another label, such as 0.1"""
    development: bool = False
    """draws of other people, for choosing and tuning: what is chosen by them is then tested on draws"""
    seed: int = 0
    """of weights, batches and augmentation in the first repeat; each later repeat or draw the next"""
    out: Path = Path("runs")
    """the folder for the store and the results; if interrupted, the same command goes on there"""

    def open(self, to_run: bool = True) -> Evaluation:
        """Return the evaluation, to run it or only to look at it.

        Raises:
            DrferError: a name or number makes no sense, or nothing can be written.
        """
        from drfer import datasets
        from drfer.common.device import keep_freed_memory
        from drfer.evaluation.evaluation import Evaluation
        from drfer.evaluation.plan import Request
        from drfer.evaluation.presets import PRESETS
        from drfer.evaluation.protocol import drawn_subjects

        keep_freed_memory()
        check_known("dataset", self.dataset, datasets.NAMES)
        check_known("preset", self.preset, PRESETS)
        preset = PRESETS[self.preset]
        preset = replace(preset, protocol=self._protocol(preset))
        if self.start is not None:
            preset = self._started(preset)
        repeats = self.repeats if self.draws is None else self.draws
        request = Request.of_names(preset, self.rows, self.measures, self.folds, repeats, self.seed)
        if self.start is not None:
            self._check_sizes(request)
        if self.draws is not None:
            return Evaluation.open(request, None, self.out, to_run)
        root = self.root and self.root.absolute()  # workers may stand in another folder
        drawn = None if self.redraw else partial(drawn_subjects, protocol=preset.protocol)
        dataset = datasets.open_dataset(
            self.dataset, root, preset.dataset_subjects, self.up, only=drawn
        )
        return Evaluation.open(request, dataset, self.out, to_run)

    def _started(self, preset: Preset) -> Preset:
        """Return the preset that begins with trained weights; its results have a name of their own."""
        check_known("start", self.start, ("shipped",))
        return replace(preset, name=f"{preset.name}-from-{self.start}", start=self.start)

    def _check_sizes(self, request: Request) -> None:
        from drfer.evaluation.rows import ROWS
        from drfer.models import shipped

        changing = [row for row in request.rows if ROWS[row].sizes]
        if request.preset.sizes != shipped.sizes() or changing:
            other = f"leave {', '.join(changing)} away" if changing else "say --preset classroom"
            raise DrferError(f"the trained model that comes with the kit has other sizes: {other}")

    def _protocol(self, preset: Preset) -> Protocol | Draws:
        """Return the preset's folds or its draws, with what is changed of them.

        Raises:
            DrferError: something is said of folds that is for draws, or the other way round.
        """
        usual, count = type(self)(), self.train_subjects
        if self.draws is None:
            for name, given in (
                ("--train-subjects", count is not None),
                ("--identity", self.identity != usual.identity),
                ("--levels", self.levels != usual.levels),
                ("--wrong-labels", self.wrong_labels != usual.wrong_labels),
                ("--development", self.development),
            ):
                if given:
                    raise DrferError(f"{name} is for draws: say with --draws how many there are")
            return replace(preset.protocol, redraw=self.redraw, train_share=self.train_share)
        if self.folds or self.repeats != 1 or self.redraw or self.train_share != 1:
            raise DrferError(
                "--draws has no folds: leave --folds, --repeats, --redraw and --train-share away"
            )
        if self.dataset != "anny3dfe" or self.root or self.up != "y":
            raise DrferError(
                "--draws makes populations of the open faces, and other datasets have none: leave "
                "--dataset, --root and --up away"
            )
        return replace(
            preset.draws,
            train_subjects=preset.draws.train_subjects if count is None else count,
            intensities=tuple(sorted(set(self.levels))),
            development=self.development,
            identity=self.identity,
            wrong_labels=self.wrong_labels,
        )
