"""The trained model that comes with the kit, and how a file of that kind is read.

The file is below 10 MB. Most of a DrFER's weights are in the last layers of its three decoders, and
what those layers say of faces has few dimensions: each is kept as a product of two thin matrices,
and all matrices are kept in half precision. `tools/make_shipped.py` makes such files.

Used in notebooks 05 and 09.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from drfer.common.device import device
from drfer.common.errors import DrferError
from drfer.models.branch import ModelSizes
from drfer.models.drfer import DrFER
from drfer.models.pointnet2 import EncoderSizes, SetAbstractionSizes

PATH = Path(__file__).with_name("shipped.safetensors")
"""The kit's own file."""


def load_model(path: Path | None = None) -> tuple[DrFER, dict]:
    """Return a trained model, ready for evaluation, and its card.

    The model's identity branch has no classifier (it is None): only training uses that one, and the
    file does not hold it.

    Args:
        path: a file that `tools/make_shipped.py` wrote; by default the one that comes with the kit.

    Returns:
        The model, on the GPU if there is one; and the card, a dictionary that says how the model was
        trained, on whom, and what cross-validation says of such a training.

    Raises:
        DrferError: the file is not there, is damaged, or does not hold exactly the weights that a
            model of its sizes has in this version of drfer.
    """
    path = Path(path or PATH)
    card, tensors = read_file(path)
    model = DrFER(sizes_from(card["sizes"]), subjects=1)
    model.identity.classifier = None
    fill(model, tensors, path)
    return model.to(device()).eval(), card


def sizes() -> ModelSizes:
    """Return the sizes of the kit's own model."""
    return sizes_from(read_file(PATH)[0]["sizes"])


def give_weights(model: DrFER, same_classes: bool = True) -> None:
    """Give a model the trained weights of the kit's own file, to go on from them.

    Args:
        model: of the same sizes; changed in place. Its identity classifier keeps its weights.
        same_classes: whether it tells the six basic expressions apart; with other classes the last
            layer of its expression classifier keeps its weights too.

    Raises:
        DrferError: the model has other sizes, or the file is damaged.
    """
    trained, own = load_model()[0].state_dict(), model.state_dict()
    if not same_classes:
        last = f"expression.classifier.{len(model.expression.classifier) - 1}."
        trained = {name: weight for name, weight in trained.items() if not name.startswith(last)}
    if any(own[name].shape != weight.shape for name, weight in trained.items() if name in own):
        raise DrferError("the trained model that comes with the kit has other sizes")
    model.load_state_dict(own | {name: trained[name] for name in trained.keys() & own.keys()})


@cache
def digest() -> str:
    """Return the hash of the kit's own file."""
    return hashlib.sha256(PATH.read_bytes()).hexdigest()[:16]


def read_file(path: Path) -> tuple[dict, dict[str, Tensor]]:
    """Return a file's card, and its weights with the thin matrices multiplied out.

    Raises:
        DrferError: the file is not there, or is damaged.
    """
    try:
        with safe_open(path, "pt") as stored:
            tensors = {name: stored.get_tensor(name).float() for name in stored.keys()}
            card = json.loads((stored.metadata() or {})["card"])
    except FileNotFoundError:
        raise DrferError(f"there is no trained model {path}: take the file again") from None
    except OSError as error:
        raise DrferError(f"{path} cannot be read: {error.strerror or error}") from None
    except (SafetensorError, KeyError, ValueError) as error:
        raise DrferError(
            f"{path} is damaged, or holds no model ({error}): take the file again"
        ) from None
    for name in [name for name in tensors if name.endswith(".left")]:
        weight = name.removesuffix(".left")
        tensors[weight] = tensors.pop(name) @ tensors.pop(f"{weight}.right")
    return card, tensors


def sizes_from(stored: dict) -> ModelSizes:
    """Return the sizes that a card has as plain JSON."""
    encoder = stored["encoder"]
    levels = [
        SetAbstractionSizes(**level | {"widths": tuple(level["widths"])})
        for level in encoder["levels"]
    ]
    widths = {name: tuple(stored[name]) for name in ("decoder_widths", "classifier_widths")}
    encoder = EncoderSizes(tuple(levels), tuple(encoder["global_widths"]))
    return ModelSizes(**stored | widths | {"encoder": encoder})


def fill(model: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Give a model the weights of a file.

    Raises:
        DrferError: they are not exactly those that the model has.
    """
    wanted = {
        name: tensor.shape
        for name, tensor in model.state_dict().items()
        if not name.endswith("num_batches_tracked")  # it counts training's steps
    }
    given = {name: tensor.shape for name, tensor in tensors.items()}
    names = sorted(wanted.keys() | given.keys())
    if differing := [name for name in names if wanted.get(name) != given.get(name)][:3]:
        raise DrferError(
            f"{path} does not hold the weights of this version's model ({', '.join(differing)}): "
            "take the file that comes with this version"
        )
    model.load_state_dict(tensors)
