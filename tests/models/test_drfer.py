"""DrFER as a whole: every face of figure 2, and where gradients reach."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from networks import SMALL, random_clouds, seeded
from torch import nn

from drfer.datasets.scan import EXPRESSIONS
from drfer.evaluation.presets import PRESETS
from drfer.models.drfer import DrFER, reorder
from drfer.models.points import farthest_point_sample_plain, gather
from drfer.training.losses import cross_over_loss, reconstruction_loss

SMOKE = PRESETS["smoke"].sizes

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_papers_widths():
    with torch.device("meta"):
        model = DrFER(PRESETS["paper"].sizes, subjects=54)
    for branch, classes in ((model.expression, 6), (model.identity, 54)):
        assert branch.encoder.whole.linears[-1].out_features == 1024
        assert [layer.in_features for layer in branch.decoder.layers] == [1024, 1024, 2048]
        assert branch.decoder.layers[-1].out_features == 2048 * 3
        assert branch.classifier[0].in_features == 1024
        assert branch.classifier[-1].out_features == classes
    inputs = [layer.in_features for layer in model.fusion.layers.layers]
    assert inputs == [2048, 1024 + 2 * 256, 2048 + 2 * 128]
    assert model.fusion.layers.layers[-1].out_features == 2048 * 3


def test_reorder_gives_the_same_points_in_farthest_point_order():
    face = torch.randn(4, 300, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    ordered = reorder(face)
    assert ordered.equal(gather(face, farthest_point_sample_plain(face.detach(), 300)))
    for before, after in zip(face.tolist(), ordered.tolist()):
        assert sorted(before) == sorted(after)
    ordered.square().sum().backward()
    torch.testing.assert_close(face.grad, 2 * face.detach())


@pytest.mark.parametrize("sizes", [SMALL, replace(SMALL, skips=False, gaussian_feature=True)])
def test_disentangle_makes_every_face_of_figure_2(sizes):
    model, faces = seeded(DrFER, sizes, subjects=9), random_clouds(3, 48)
    out = model.disentangle(faces)
    assert out.expression_feature.shape == (3, 20)
    for face in (
        out.expression_face,
        out.identity_face,
        out.identity_of_expression_face,
        out.expression_of_identity_face,
        out.fused_face,
    ):
        assert face.shape == (3, 48, 3) and face.dtype == torch.float32
    assert (out.feature_mean is not None) == sizes.gaussian_feature
    assert (out.feature_log_variance is not None) == sizes.gaussian_feature
    assert (model.expression.gaussian is not None) == sizes.gaussian_feature
    assert model.identity.gaussian is None
    assert model.disentangle(faces, fuse=False).fused_face is None
    assert model.expression.classifier(out.expression_feature).shape == (3, len(EXPRESSIONS))
    assert model.identity.classifier(out.expression_feature).shape == (3, 9)


def test_disentangle_is_its_parts_one_after_the_other():
    model, faces = seeded(DrFER, SMALL, subjects=9).eval(), random_clouds(3, 48)
    out = model.disentangle(faces)
    expression, identity = model.expression(faces), model.identity(faces)
    assert out.expression_feature.equal(model.expression.encode(faces))
    assert out.expression_face.equal(expression) and out.identity_face.equal(identity)
    assert out.identity_of_expression_face.equal(model.identity(reorder(expression)))
    assert out.expression_of_identity_face.equal(model.expression(reorder(identity)))
    assert out.fused_face.equal(model.fusion(reorder(expression), reorder(identity)))


def parts_with_gradient(model):
    """The parts of the model to all of whose weights, but for dead units, some gradient came."""
    parts = (
        "expression.encoder",
        "expression.decoder",
        "identity.encoder",
        "identity.decoder",
        "fusion",
        "expression.classifier",
        "identity.classifier",
    )
    reached = {}
    for name in parts:
        gradients = [weight.grad for weight in model.get_submodule(name).parameters()]
        reached[name] = all(g is not None and g.abs().max() > 0 for g in gradients)
    return {name for name, whole in reached.items() if whole}


BRANCHES = {"expression.encoder", "expression.decoder", "identity.encoder", "identity.decoder"}


def test_the_cross_over_loss_alone_reaches_both_branches():
    model, faces = seeded(DrFER, SMALL, subjects=9), random_clouds(3, 48)
    out = model.disentangle(faces)
    cross_over_loss(
        out.identity_of_expression_face, out.expression_of_identity_face, faces
    ).backward()
    assert parts_with_gradient(model) == BRANCHES


@pytest.mark.parametrize("second, first", [("identity", "expression"), ("expression", "identity")])
def test_one_stream_of_the_cross_over_reaches_through_the_second_branch_into_the_first(
    second, first
):
    model, faces = seeded(DrFER, SMALL, subjects=9), random_clouds(3, 48)
    face = getattr(model.disentangle(faces, fuse=False), f"{second}_of_{first}_face")
    reconstruction_loss(face, faces).backward()
    assert parts_with_gradient(model) == BRANCHES


def test_the_fusion_term_alone_reaches_fusion_and_both_branches():
    model, faces = seeded(DrFER, SMALL, subjects=9), random_clouds(3, 48)
    reconstruction_loss(model.disentangle(faces).fused_face, faces).backward()
    assert parts_with_gradient(model) == BRANCHES | {"fusion"}


@pytest.mark.parametrize("gaussian", [False, True])
def test_evaluation_is_deterministic_and_leaves_the_model_alone(gaussian):
    model = seeded(DrFER, replace(SMALL, gaussian_feature=gaussian), subjects=9).eval()
    faces, before = random_clouds(3, 48), deepcopy(model.state_dict())
    once, again = model.disentangle(faces), model.disentangle(faces)
    assert once.fused_face.equal(again.fused_face)
    assert once.expression_feature.equal(again.expression_feature)
    assert once.expression_of_identity_face.equal(again.expression_of_identity_face)
    assert all(values.equal(before[name]) for name, values in model.state_dict().items())
    alone = model.disentangle(faces[:1])
    torch.testing.assert_close(alone.fused_face, once.fused_face[:1], rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
def test_the_gpu_gives_the_same():
    model, faces = seeded(DrFER, SMOKE, subjects=9).eval(), random_clouds(3, SMOKE.points)
    here = model.disentangle(faces).identity_face
    there = model.cuda().disentangle(faces.cuda()).identity_face.cpu()
    torch.testing.assert_close(there, here, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("count_decoded", [False, True])
def test_running_statistics_follow_scans_and_decoded_faces_only_if_wanted(count_decoded):
    clouds = random_clouds(4, SMALL.points)
    model = seeded(DrFER, SMALL, subjects=3).train()
    scans_only = deepcopy(model)
    out = model.disentangle(clouds, count_decoded=count_decoded)
    for name, branch in (("expression", scans_only.expression), ("identity", scans_only.identity)):
        feature = branch.encode(clouds)
        if name == "expression":  # each batch is normed by itself either way
            assert feature.equal(out.expression_feature)
        found = model.get_submodule(name).state_dict()
        for key, statistics in branch.state_dict().items():
            if "running" in key and "encoder" in key:
                assert found[key].equal(statistics) != count_decoded
    momenta = {layer.momentum for layer in model.modules() if isinstance(layer, nn.BatchNorm1d)}
    assert momenta == {0.1}, "and the next batch counts again"
