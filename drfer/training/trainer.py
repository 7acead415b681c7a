"""The training loop: one stage, epoch by epoch, so that it can stop and go on at any epoch.

An epoch's random numbers come from the stage's seed and the epoch's number alone. So a training
that was killed and resumed from its last checkpoint ends with the very weights of one that was not.

Built in notebook 03, and used unchanged in 04 and 05.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from drfer.common.device import autocast, device, fork_rng
from drfer.common.errors import DrferError
from drfer.datasets.scan import EXPRESSIONS
from drfer.models.branch import ModelSizes
from drfer.models.drfer import DrFER
from drfer.training.data import Batch, FoldData
from drfer.training.stages import LossSettings, Schedule, Stage


class Trainer:
    """Trains the parts of a model that a stage changes, by the sum of the stage's loss terms.

    Attributes:
        curves: mean of each loss term in each epoch so far.
        best_look: the best of the looks that were taken at the test scans so far, if any were.
        seconds: time spent on training so far.
    """

    def __init__(
        self,
        stage: Stage,
        model: DrFER,
        data: FoldData,
        schedule: Schedule,
        settings: LossSettings,
        seed: int,
        precision: str = "auto",
    ) -> None:
        """Set up the optimizer.

        Args:
            stage: what is trained by which loss.
            model: the model; only the stage's parts change.
            data: the fold's scans.
            schedule: epochs, learning rate, batch size and augmentation.
            settings: which loss terms there are, and their readings.
            seed: of batches, augmentation and dropout.
            precision: of matrix products: "float32", "bfloat16", or "auto" for what is fast here.
        """
        self.stage = stage
        self.model = model
        self.data = data
        self.schedule = schedule
        self.settings = settings
        self.seed = seed
        self.precision = precision
        self.parts = [model.get_submodule(name) for name in stage.trains]
        self.optimizer = torch.optim.Adam(
            [weight for part in self.parts for weight in part.parameters()],
            schedule.learning_rate,
            schedule.betas,
            weight_decay=schedule.weight_decay,
            fused=True,
        )
        self.curves: list[dict[str, float]] = []
        self.best_look: dict | None = None
        self.seconds = 0.0

    def epochs(self) -> Iterator[dict[str, float]]:
        """Train to the end of the schedule, and yield each epoch's mean loss terms.

        Raises:
            DrferError: the loss is no longer a finite number.
        """
        while self.epoch < self.schedule.epochs:
            yield self.train_epoch()

    def train_epoch(self) -> dict[str, float]:
        """Go once through the training scans; returns the mean loss terms, which join `curves`."""
        started = time.perf_counter()
        epoch_seed = self.seed * 100_003 + self.epoch
        generator = torch.Generator().manual_seed(epoch_seed)
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.learning_rate_at(self.epoch)
        self.switch_to_training()

        # kept on the device: to read a number there would wait for all that it still computes
        sums: dict[str, Tensor] = {}
        scans = 0
        with fork_rng():
            torch.manual_seed(epoch_seed)  # dropout layers know only torch's global generator
            for batch in self.data.batches(
                self.schedule.batch_size, self.schedule.augmentation, generator
            ):
                terms = self.step(batch)
                for name, value in terms.items():
                    total = value.detach().double() * len(batch.cloud)
                    sums[name] = sums[name] + total if name in sums else total
                scans += len(batch.cloud)

        means = {name: total.item() / scans for name, total in sums.items()}
        if not math.isfinite(sum(means.values())):
            raise DrferError(
                f"the loss of {self.stage.title} is no finite number after epoch {self.epoch + 1}: "
                "give a lower learning rate"
            )
        self.curves.append(means)
        self.seconds += time.perf_counter() - started
        return self.curves[-1]

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Take one step of gradient descent; returns the loss terms."""
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.precision):
            terms = self.stage.loss(self.model, self.settings, batch)
        sum(terms.values()).backward()
        self.optimizer.step()
        return terms

    def switch_to_training(self) -> None:
        """Put the trained parts into training mode, and all others into evaluation mode."""
        self.model.eval()
        for part in self.parts:
            part.train()

    @property
    def epoch(self) -> int:
        """How many epochs are done."""
        return len(self.curves)

    def state(self) -> tuple[dict[str, Tensor], dict]:
        """Return everything that a resumed training needs: tensors, and a rest that JSON can hold."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            tensors.update({f"adam.{number}.{name}": tensor for name, tensor in state.items()})
        rest = {"curves": self.curves, "best look": self.best_look, "seconds": self.seconds}
        return tensors, rest

    def restore(self, tensors: dict[str, Tensor], rest: dict) -> None:
        """Go back to a state that `state` returned."""
        weights = {}
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            kind, _, key = name.partition(".")
            if kind == "model":
                weights[key] = tensor
            else:
                number, _, moment = key.partition(".")
                moments.setdefault(int(number), {})[moment] = tensor
        self.model.load_state_dict(weights)
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.curves = list(rest["curves"])
        self.best_look = rest["best look"]
        self.seconds = rest["seconds"]


def fresh_model(
    sizes: ModelSizes,
    subjects: int,
    mean_neutral: Tensor,
    seed: int,
    classes: int = len(EXPRESSIONS),
) -> DrFER:
    """Return an untrained model on the training device.

    Args:
        sizes: widths of all layers.
        subjects: how many training subjects the identity classifier tells apart.
        mean_neutral: the mean neutral face, shape (P, 3); all decoders answer with it at first, so
            that they learn deviations from it and not where a face lies.
        seed: of the weights.
        classes: how many the expression classifier tells apart.
    """
    with fork_rng():
        torch.manual_seed(seed)
        model = DrFER(sizes, subjects, classes).to(device())
    for decoder in (model.expression.decoder, model.identity.decoder, model.fusion.layers):
        decoder.start_from(mean_neutral)
    return model


@torch.no_grad()
def predict(
    model: DrFER, clouds: Tensor, expressions: int = len(EXPRESSIONS), batch_size: int = 48
) -> tuple[np.ndarray, np.ndarray]:
    """Return what a model says of clouds, in evaluation mode and float32.

    Args:
        model: the model; it is left in evaluation mode.
        clouds: points, shape (n, P, 3), frame units, on the model's device.
        expressions: how many classes it may answer with.
        batch_size: how many clouds are worked on together.

    Returns:
        Expression features, shape (n, d), and logits of the expressions, shape (n, expressions). (A
        model may have been trained with neutral as a further class; it is none of the answers.)
    """
    model.eval()
    features = torch.cat([model.expression.encode(part) for part in clouds.split(batch_size)])
    logits = model.expression.classifier(features)[:, :expressions]
    return features.cpu().numpy(), logits.cpu().numpy()
