"""A level's PointNet as one operation, against torch's own operators one after the other."""

import pytest
import torch
from torch import nn

from drfer.fast.groups import describe_groups
from drfer.models.pointnet2 import SharedMLP
from drfer.models.points import gather

pytestmark = pytest.mark.usefixtures("one_thread")

BATCH, POINTS, GROUPS, MEMBERS = 2, 40, 12, 8
TOLERANCE = 5e-5
"""Length of the error in float32, of the whole's."""


def plain_form(points, centroids, neighbours, features, shared):
    rows = gather(points, neighbours) - centroids[:, :, None]
    if features is not None:
        rows = torch.cat([rows, gather(features, neighbours)], dim=-1)
    return shared(rows).amax(dim=2)


def level(widths=(5, 7, 6, 9), channels=2, seed=1):
    """Shared layers, some of whose norms' weights are negative: the largest was the smallest before."""
    torch.manual_seed(seed)
    shared = SharedMLP((3 + channels, *widths))
    for norm in shared.norms:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return shared


def inputs(channels=2, groups=GROUPS, members=MEMBERS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(BATCH, POINTS, 3, generator=generator)
    neighbours = torch.randint(POINTS, (BATCH, groups, members), generator=generator)
    features = torch.randn(BATCH, POINTS, channels, generator=generator) if channels else None
    return points, points[:, :groups].clone(), neighbours, features


def outcome(form, given, shared, precision=torch.float32):
    """Values, all gradients, and running statistics."""
    points, centroids, neighbours, features = given
    wanted = {"points": points, "centroids": centroids, "features": features}
    wanted = {
        name: values.clone().to(next(shared.parameters()).dtype).requires_grad_()
        for name, values in wanted.items()
        if values is not None
    }
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        out = form(
            wanted["points"], wanted["centroids"], neighbours, wanted.get("features"), shared
        )
    (out * torch.randn(out.shape, generator=torch.Generator().manual_seed(2))).sum().backward()
    found = {"values": out}
    found |= {f"gradient of {name}": values.grad for name, values in wanted.items()}
    found |= {f"gradient of {name}": weight.grad for name, weight in shared.named_parameters()}
    return found | dict(shared.named_buffers())


def errors(here, there):
    """Length of each error, of the whole's."""
    assert here.keys() == there.keys()
    return {
        name: (
            (here[name].double() - value.double()).norm() / value.double().norm().clamp(min=1)
        ).item()
        for name, value in there.items()
    }


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("channels", [0, 2])
@pytest.mark.parametrize("widths", [(5, 4), (5, 7, 6), (16, 3, 20, 9)])
def test_values_gradients_and_statistics_are_torchs(widths, channels, training):
    given = inputs(channels)
    here = outcome(describe_groups, given, level(widths, channels).train(training))
    there = outcome(plain_form, given, level(widths, channels).train(training).double())
    for name, error in errors(here, there).items():
        assert error < TOLERANCE, name


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("channels", [0, 2])
def test_in_bfloat16_they_are_as_near_to_the_truth_as_torchs(channels, training):
    """Sums cancel, and of two members that 8 bits do not tell apart either may be the largest."""
    given, widths = inputs(channels, groups=40, members=32), (16, 16, 32)
    truth = outcome(plain_form, given, level(widths, channels).train(training).double())
    fast, plain = (
        errors(outcome(form, given, level(widths, channels).train(training), torch.bfloat16), truth)
        for form in (describe_groups, plain_form)
    )
    for name, error in fast.items():
        assert error < 1.5 * plain[name] + 0.03, name


def test_many_rows_are_summed_up_in_several_jobs():
    given = inputs(groups=40, members=64)
    here = outcome(describe_groups, given, level())
    there = outcome(plain_form, given, level().double())
    assert max(errors(here, there).values()) < 4 * TOLERANCE  # longer sums


@pytest.mark.parametrize("name", ["points", "centroids", "features"])
def test_gradients_are_those_of_finite_differences(name):
    given = dict(zip(("points", "centroids", "neighbours", "features"), inputs(seed=3)))
    direction = torch.zeros(given[name].shape)
    direction[0, 3] = 1.0  # of a single point, so that no other comes to be the largest

    def value(step):
        moved = given | {name: given[name] + step * direction}
        return (describe_groups(*moved.values(), level(seed=5)).double().square()).sum()

    step = 1e-3
    slope = (value(step) - value(-step)) / (2 * step)
    given[name] = given[name].requires_grad_()
    value(0.0).backward()
    assert (given[name].grad * direction).sum().item() == pytest.approx(slope.item(), rel=0.05)


def test_a_graph_that_is_kept_gives_the_same_gradients_again():
    points, *others = inputs()
    points.requires_grad_()
    out = describe_groups(points, *others, level()).sum()
    (first,) = torch.autograd.grad(out, points, retain_graph=True)
    (again,) = torch.autograd.grad(out, points)
    assert first.equal(again)


@pytest.mark.parametrize("form", [describe_groups, plain_form])
def test_coordinates_keep_their_bits_in_autocast(form):
    """Far from the origin, bfloat16 would round away where a point lies in its ball."""
    near = inputs(channels=0)
    far = (near[0] / 8 + 100, near[1] / 8 + 100, *near[2:])
    near = (near[0] / 8, near[1] / 8, *near[2:])
    with torch.autocast("cpu", torch.bfloat16):
        here, there = (form(*given, level(channels=0)) for given in (far, near))
    torch.testing.assert_close(here, there, rtol=0, atol=0.05)


def identity_level(width):
    """Norms and a product that keep the order of rows, which all pass the ReLU."""
    shared = SharedMLP((3, width, width))
    with torch.no_grad():
        for layer in shared.linears:
            layer.weight.copy_(torch.eye(*layer.weight.shape))
        shared.norms[0].bias.fill_(10.0)
    return shared


def test_the_gradient_goes_to_the_first_of_the_largest():
    shared = identity_level(3)
    points = torch.zeros(1, 2 * MEMBERS, 3)
    points[0, MEMBERS:] = 1.0
    neighbours = torch.arange(2 * MEMBERS).view(1, 2, MEMBERS)
    points.requires_grad_()
    out = describe_groups(points, torch.zeros(1, 2, 3), neighbours, None, shared)
    out[0, 1, 0].backward()
    first, others = points.grad[0, MEMBERS, 0], points.grad[0, MEMBERS + 1 :, 0]
    assert points.grad[..., 1:].abs().max() == 0
    assert (first - others).abs().min() > 0 and others.unique().numel() == 1


def test_parts_do_not_show(monkeypatch):
    whole = outcome(describe_groups, inputs(), level())
    monkeypatch.setattr("drfer.fast.groups.BLOCK_VALUES", 5 * MEMBERS)
    assert max(errors(outcome(describe_groups, inputs(), level()), whole).values()) < TOLERANCE


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("all_of_them", [True, False])
def test_a_nan_does_not_hide(all_of_them, training):
    points, centroids, neighbours, features = inputs()
    neighbours[0, 0, 0] = 5
    points[0, slice(None) if all_of_them else 5, 1] = float("nan")
    out = describe_groups(points, centroids, neighbours, features, level().train(training))
    assert out[0, 0].isnan().all()


def test_a_backward_pass_inside_autocast_is_as_one_outside():
    def gradient(inside):
        shared, given = level(), inputs()
        with torch.autocast("cpu", torch.bfloat16):
            loss = describe_groups(*given, shared).float().sum()
            if inside:
                loss.backward()
        if not inside:
            loss.backward()
        return shared.linears[1].weight.grad

    assert gradient(True).equal(gradient(False))


def test_a_single_row_is_refused_in_training_as_torch_does():
    points, centroids, neighbours, _ = (values[:1] for values in inputs())
    with pytest.raises(ValueError, match="two rows"):
        describe_groups(points, centroids[:, :1], neighbours[:, :1, :1], None, level(channels=0))
