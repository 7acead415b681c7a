"""The encoder in its plain and in its fast form, held to loops that follow the definition row by row."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from networks import SMALL, assert_same, random_clouds, seeded

from drfer import fast
from drfer.fast import encoder as fast_encoder
from drfer.fast.encoder import FastEncoder
from drfer.models import points as operators
from drfer.models.branch import Branch
from drfer.models.fusion import Fusion
from drfer.models.pointnet2 import Encoder, EncoderSizes, SetAbstraction, SetAbstractionSizes

pytestmark = pytest.mark.usefixtures("one_thread")

FORMS = {"plain": Encoder, "fast": FastEncoder}
PADDED = EncoderSizes(
    levels=(SetAbstractionSizes(12, 0.25, 8, (7, 9)), SetAbstractionSizes(6, 0.3, 5, (8, 6))),
    global_widths=(12, 20),
)
"""Of balls so small that most hold fewer points than they take."""
CASES = {
    "full balls": (SMALL.encoder, 0.0),
    "padded balls": (PADDED, 0.0),
    "dropped points": (SMALL.encoder, 0.6),
}
"""Sizes, and the share of points that take the place of point 0, as random input dropout has it."""


def dropped(clouds, share):
    """Clouds where a share of the points repeat point 0."""
    kept = torch.rand(clouds.shape[:2], generator=torch.Generator().manual_seed(9)) >= share
    return torch.where(kept[..., None], clouds, clouds[:, :1])


def balls_by_loops(points, sizes):
    """For each centroid, the indices of the first points inside its ball, the first one repeated."""
    balls = []
    for centroid in points[: sizes.centroids]:
        inside = [j for j, x in enumerate(points) if (x - centroid).norm() <= sizes.radius]
        inside = inside[: sizes.neighbours]
        balls.append(inside + inside[:1] * (sizes.neighbours - len(inside)))
    return balls


def shared_by_hand(shared, rows, statistics):
    """Linear, batch norm and ReLU on rows (M, C); moments in training are noted."""
    for layer, norm in zip(shared.linears, shared.norms):
        rows = rows @ layer.weight.double().T
        mean, variance = norm.running_mean.double(), norm.running_var.double()
        if norm.training:
            mean, variance = rows.mean(dim=0), rows.var(dim=0, correction=0)
            statistics[norm] = (mean.detach(), rows.detach().var(dim=0))
        rows = (rows - mean) / (variance + norm.eps).sqrt() * norm.weight.double()
        rows = (rows + norm.bias.double()).clamp(min=0)
    return rows


def multiscale_by_loops(encoder, clouds):
    """Features of every level, in float64, and the moments that each batch norm has seen."""
    points, features, pooled, statistics = clouds.double(), None, [], {}
    for level in encoder.levels:
        rows = []
        for number, cloud in enumerate(points):
            for i, ball in enumerate(balls_by_loops(cloud, level.sizes)):
                for j in ball:
                    of_j = [] if features is None else [features[number, j]]
                    rows.append(torch.cat([cloud[j] - cloud[i], *of_j]))
        out = shared_by_hand(level.shared, torch.stack(rows), statistics)
        sizes = level.sizes
        features = out.view(len(clouds), sizes.centroids, sizes.neighbours, -1).amax(dim=2)
        points = points[:, : sizes.centroids]
        pooled.append(features.amax(dim=1))
    rows = torch.cat([points, features], dim=-1)
    out = shared_by_hand(encoder.whole, rows.flatten(0, 1), statistics)
    return [*pooled, out.view(len(clouds), len(rows[0]), -1).amax(dim=1)], statistics


def outcome(encoder, form, share, precision="float32", shape=(3, SMALL.points)):
    """Features, gradients of the clouds and of all parameters, and running statistics."""
    clouds = random_clouds(*shape).requires_grad_()
    bfloat16 = precision == "bfloat16"
    with torch.autocast("cpu", torch.bfloat16) if bfloat16 else nullcontext():
        pooled = form(encoder, dropped(clouds, share))
    torch.manual_seed(2)
    sum((level.double() * torch.randn(level.shape)).sum() for level in pooled).backward()
    names = [f"features of level {number}" for number in range(len(pooled))]
    found = dict(zip(names, pooled)) | {"gradient of clouds": clouds.grad}
    found |= {f"gradient of {name}": weight.grad for name, weight in encoder.named_parameters()}
    found |= dict(encoder.named_buffers())
    return {name: value.detach().clone() for name, value in found.items()}


def by_loops(encoder, clouds):
    """Of `multiscale_by_loops`; the running statistics follow, as those of a batch norm do."""
    pooled, statistics = multiscale_by_loops(encoder, clouds)
    for norm, (mean, variance) in statistics.items():
        norm.num_batches_tracked += 1
        norm.running_mean.lerp_(mean.float(), norm.momentum)
        norm.running_var.lerp_(variance.float(), norm.momentum)
    return pooled


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_values_gradients_and_statistics_are_those_of_the_loops(form, training, case):
    build, (sizes, share) = FORMS[form], CASES[case]
    here = outcome(seeded(build, sizes).train(training), build.multiscale, share)
    there = outcome(seeded(Encoder, sizes).train(training), by_loops, share)
    assert here.keys() == there.keys()
    for name, value in there.items():
        assert_same(name, here[name].double(), value.double())


BOUNDS = {
    True: {"features": 0.08, "gradients": 0.75, "statistics": 0.002},
    False: {"features": 0.005, "gradients": 0.1, "statistics": 0.0},
}
"""Largest error in bfloat16, in training and in evaluation, as a share of the whole's length.

A value has 8 bits, so that in a tenth of the balls another point is the largest, and takes the
gradient; in training the gradient that is left after the norm's means are gone is small beside it.
`test_rows.py` holds each operation by itself to 4 %."""
LARGER = EncoderSizes(
    levels=(
        SetAbstractionSizes(64, 0.3, 8, (16, 16, 32)),
        SetAbstractionSizes(16, 0.6, 16, (32, 32, 64)),
    ),
    global_widths=(64, 64, 128),
)
LARGER_PADDED = replace(
    LARGER, levels=tuple(replace(s, radius=s.radius / 2) for s in LARGER.levels)
)


@pytest.mark.parametrize(
    "sizes, share", [(LARGER, 0.0), (LARGER_PADDED, 0.0), (LARGER, 0.6)], ids=CASES
)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_bfloat16_stays_within_its_bounds(form, training, sizes, share):
    def joined(build, precision):
        encoder = seeded(build, sizes).train(training)
        found = outcome(encoder, build.multiscale, share, precision, (12, 256))
        joined = {}
        for kind, part in (
            ("features", "features"),
            ("gradients", "gradient of "),
            ("statistics", "running_"),
        ):
            values = [found[n] for n in found if part in n and n != "gradient of clouds"]
            joined[kind] = torch.cat([value.double().flatten() for value in values])
        return joined

    here, there = joined(FORMS[form], "bfloat16"), joined(Encoder, "float32")
    for kind, bound in BOUNDS[training].items():
        error = (here[kind] - there[kind]).norm() / there[kind].norm()
        assert error <= bound, kind


def test_float64_takes_the_plain_form():
    clouds = random_clouds(2, SMALL.points).double()
    plain, quick = (seeded(build, SMALL.encoder).double()(clouds) for build in FORMS.values())
    assert quick.dtype == torch.float64 and quick.equal(plain)


@pytest.mark.parametrize(
    "level, points",
    [
        (SetAbstractionSizes(12, 0.5, 8, (7,)), SMALL.points),
        (SetAbstractionSizes(12, 9.0, 300, (7, 5)), 400),
    ],
    ids=["a single layer", "more members than a byte counts"],
)
def test_what_the_fast_form_does_not_serve_takes_the_plain_one(level, points):
    sizes = EncoderSizes((level,), (12,))
    clouds = random_clouds(2, points)
    plain, quick = (seeded(build, sizes).multiscale(clouds) for build in FORMS.values())
    assert all(here.equal(there) for here, there in zip(quick, plain, strict=True))


def test_weights_go_to_and_fro():
    clouds = random_clouds(2, SMALL.points)
    for source, target in (FORMS.values(), reversed(FORMS.values())):
        torch.manual_seed(1)
        target = target(SMALL.encoder)
        source = seeded(source, SMALL.encoder)
        assert list(source.state_dict()) == list(target.state_dict())
        target.load_state_dict(source.state_dict())  # strictly
        assert_same("feature", target.eval()(clouds), source.eval()(clouds))


def test_one_seed_gives_both_the_same_weights_in_the_same_order():
    weights = []
    for build in FORMS.values():
        torch.manual_seed(3)
        weights.append(dict(build(SMALL.encoder).named_parameters()))
    plain, quick = weights
    assert list(plain) == list(quick)
    assert all(plain[name].equal(quick[name]) for name in plain)


def never(*arguments):
    raise AssertionError("this form was not to serve")


def test_the_switch_takes_the_plain_path_to_the_last_bit(monkeypatch):
    clouds = random_clouds(2, SMALL.points)
    monkeypatch.setenv("DRFER_FAST", "0")
    assert not fast.enabled()
    expected = seeded(Encoder, SMALL.encoder).multiscale(clouds)
    for where, names in (
        (fast_encoder, ("describe_groups",)),
        (operators.compiled, ("ball_query", "nearest", "farthest_point_sample")),
    ):
        for name in names:
            monkeypatch.setattr(where, name, never)
    plain = seeded(FastEncoder, SMALL.encoder).multiscale(clouds)
    assert all(here.equal(there) for here, there in zip(plain, expected, strict=True))


@pytest.mark.parametrize("value", [None, "1", ""])
def test_without_the_switch_the_fast_form_serves(value, monkeypatch):
    monkeypatch.delenv("DRFER_FAST", raising=False)
    if value is not None:
        monkeypatch.setenv("DRFER_FAST", value)
    assert fast.enabled()
    monkeypatch.setattr(SetAbstraction, "forward", never)
    monkeypatch.setattr(Encoder, "describe_whole", never)
    described = []
    describe = fast_encoder.describe_groups

    def spied(*arguments):
        described.append(arguments)
        return describe(*arguments)

    monkeypatch.setattr(fast_encoder, "describe_groups", spied)
    seeded(FastEncoder, SMALL.encoder)(random_clouds(2, SMALL.points))
    assert len(described) == len(SMALL.encoder.levels) + 1


def test_branches_and_the_fusion_module_use_the_fast_form():
    encoders = [Branch(SMALL, 6).encoder]
    encoders += [Fusion(SMALL).expression_encoder, Fusion(SMALL).identity_encoder]
    assert all(type(encoder) is FastEncoder for encoder in encoders)


@pytest.mark.parametrize("form", FORMS)
def test_the_order_of_points_matters_only_for_the_centroids(form):
    sizes = EncoderSizes(
        (SetAbstractionSizes(16, 0.8, 61, (8, 16)), SetAbstractionSizes(6, 1.5, 17, (16, 24))),
        (24, 32),
    )
    encoder, clouds = seeded(FORMS[form], sizes).eval(), random_clouds(2, 60)
    beyond = 16 + torch.randperm(44, generator=torch.Generator().manual_seed(3))
    shuffled = clouds[:, torch.cat([torch.arange(16), beyond])]
    for here, there in zip(encoder.multiscale(shuffled), encoder.multiscale(clouds)):
        assert_same("features", here, there)
    assert not encoder(clouds.flip(1)).allclose(encoder(clouds))


@pytest.mark.parametrize("form", FORMS)
def test_features_have_the_widths_of_the_levels(form):
    encoder, clouds = seeded(FORMS[form], SMALL.encoder), random_clouds(2, SMALL.points)
    pooled = encoder.multiscale(clouds)
    assert [level.shape for level in pooled] == [(2, n) for n in SMALL.encoder.pooled_widths]
    assert encoder(clouds).equal(encoder.multiscale(clouds)[-1])
    points, features = clouds, None
    for level, sizes in zip(encoder.levels, SMALL.encoder.levels):
        points, features = level(points, features)
        assert points.equal(clouds[:, : sizes.centroids])
        assert features.shape == (2, sizes.centroids, sizes.widths[-1])


@pytest.mark.gpu
@pytest.mark.parametrize("form", FORMS)
def test_the_gpu_gives_the_same(form):
    encoder, clouds = seeded(FORMS[form], LARGER).eval(), random_clouds(3, 256)
    here = encoder(clouds)
    torch.testing.assert_close(encoder.cuda()(clouds.cuda()).cpu(), here, rtol=1e-3, atol=1e-4)
