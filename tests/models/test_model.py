"""The network against its textbook form, what it must not depend on, and where its gradients reach."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import linear

from drfer.datasets.scan import EXPRESSIONS
from drfer.evaluation.experiment import PRESETS
from drfer.models import plain
from drfer.models.branch import Branch, Classifier, FaceLayers, GaussianHead, ModelSizes
from drfer.models.drfer import DrFER, reorder
from drfer.models.fusion import Fusion
from drfer.models.pointnet2 import (
    Encoder,
    EncoderSizes,
    SetAbstraction,
    SetAbstractionSizes,
    SharedMLP,
)
from drfer.models.points import farthest_point_sample_plain, gather
from drfer.training.losses import cross_over_loss, reconstruction_loss

SMALL = ModelSizes(
    points=48,
    encoder=EncoderSizes(
        (SetAbstractionSizes(16, 0.5, 6, (7, 9)), SetAbstractionSizes(5, 0.9, 4, (11, 13, 10))),
        (12, 20),
    ),
    decoder_widths=(30, 40),
    classifier_widths=(14,),
)
SMOKE = PRESETS["smoke"].sizes


pytestmark = pytest.mark.usefixtures("one_thread")


def random_clouds(batch, count, seed=0):
    """Random clouds of the size of a face, in farthest-point order."""
    clouds = torch.rand(batch, count, 3, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return gather(clouds, farthest_point_sample_plain(clouds, count))


def seeded(build, *arguments, **options):
    """A module whose batch norms are no identities, so that leaving one out would show."""
    torch.manual_seed(0)
    module = build(*arguments, **options)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm1d):
            for values, low, high in (
                (norm.weight, 0.5, 1.5),
                (norm.bias, -0.5, 0.5),
                (norm.running_mean, -0.5, 0.5),
                (norm.running_var, 0.5, 1.5),
            ):
                nn.init.uniform_(values, low, high)
    return module


def assert_same(name, here, there):
    """Equal up to float32: 1e-4 of the largest value, since sums over all rows come in another order."""
    torch.testing.assert_close(
        here, there, rtol=0, atol=1e-4 * there.abs().max().item(), msg=lambda m: f"{name}: {m}"
    )


@pytest.mark.parametrize("channels", [0, 5])
@pytest.mark.parametrize("widths", [(8, 12), (8, 8, 16)])
@pytest.mark.parametrize("training", [True, False])
def test_set_abstraction_is_the_textbooks_forward_and_backward(channels, widths, training):
    def outcome(form):
        level = seeded(SetAbstraction, channels, SetAbstractionSizes(20, 0.5, 8, widths)).train(
            training
        )
        clouds = {"points": random_clouds(3, 100).requires_grad_()}
        if channels:
            clouds["features"] = torch.randn(3, 100, channels).requires_grad_()
        centres, pooled = form(level, clouds["points"], clouds.get("features"))
        ((pooled * torch.randn(pooled.shape)).sum() + centres.square().sum()).backward()
        gradients = {f"gradient of {name}": cloud.grad for name, cloud in clouds.items()}
        gradients |= {
            f"gradient of {name}": weight.grad for name, weight in level.named_parameters()
        }
        return {"centres": centres, "pooled": pooled, **gradients, **dict(level.named_buffers())}

    here, there = outcome(lambda level, *clouds: level(*clouds)), outcome(plain.set_abstraction)
    assert here.keys() == there.keys() and here["pooled"].shape == (3, 20, widths[-1])
    for name in here:
        assert_same(name, here[name].float(), there[name].float())


def test_shared_layers_are_linear_norm_relu_and_a_maximum():
    shared, rows = seeded(SharedMLP, (3, 8, 5)), random_clouds(1, 50)[0]
    expected = rows
    for layer, norm in zip(shared.linears, shared.norms):
        expected = norm(layer(expected)).relu()
    assert_same("groups", shared(rows, members=10), expected.view(5, 10, 5).amax(dim=1))


@pytest.mark.parametrize("sizes", [SMALL, SMOKE])
def test_the_encoder_is_the_textbooks_levels_and_shared_layers_over_all_that_remains(sizes):
    encoder, clouds = seeded(Encoder, sizes.encoder).eval(), random_clouds(2, sizes.points)
    points, features, pooled = clouds, None, []
    for level in encoder.levels:
        points, features = plain.set_abstraction(level, points, features)
        pooled.append(features.amax(dim=1))
    rows = torch.cat([points, features], dim=-1)
    for layer, norm in zip(encoder.whole.linears, encoder.whole.norms):
        rows = norm(layer(rows).mT).mT.relu()
    for here, there in zip(encoder.multiscale(clouds), [*pooled, rows.amax(dim=1)], strict=True):
        assert_same("features", here, there)
    assert_same("feature", encoder(clouds), plain.encode(encoder, clouds))
    assert (encoder(clouds) == 0).any(), "a feature that no point turns on is 0"


def test_the_encoder_does_not_see_the_order_of_points_beyond_its_centres():
    sizes = EncoderSizes(
        (SetAbstractionSizes(16, 0.8, 61, (8, 16)), SetAbstractionSizes(6, 1.5, 17, (16, 24))),
        (24, 32),
    )
    encoder, clouds = seeded(Encoder, sizes).eval(), random_clouds(2, 60)
    beyond = 16 + torch.randperm(44, generator=torch.Generator().manual_seed(3))
    shuffled = clouds[:, torch.cat([torch.arange(16), beyond])]
    for here, there in zip(encoder.multiscale(shuffled), encoder.multiscale(clouds)):
        assert_same("features", here, there)
    assert not encoder(clouds.flip(1)).allclose(encoder(clouds))


@pytest.mark.parametrize("sizes", [SMALL, SMOKE])
def test_pooled_features_have_the_widths_of_the_levels(sizes):
    encoder, clouds = seeded(Encoder, sizes.encoder), random_clouds(2, sizes.points)
    pooled = encoder.multiscale(clouds)
    assert [level.shape for level in pooled] == [
        (2, width) for width in sizes.encoder.pooled_widths
    ]
    assert pooled[-1].equal(encoder.multiscale(clouds)[-1]) and pooled[-1].shape == (
        2,
        sizes.feature_width,
    )
    points, features = clouds, None
    for level, size in zip(encoder.levels, sizes.encoder.levels):
        points, features = level(points, features)
        assert points.shape == (2, size.centres, 3) and features.shape == (
            2,
            size.centres,
            size.widths[-1],
        )


@pytest.mark.parametrize("sizes", [SMALL, SMOKE])
def test_a_branch_makes_feature_face_and_logits(sizes):
    branch, clouds = seeded(Branch, sizes, classes=7), random_clouds(3, sizes.points)
    feature, mean, log_variance = branch.encode_distribution(clouds)
    assert feature.shape == (3, sizes.feature_width) and mean is None and log_variance is None
    assert branch(clouds).shape == (3, sizes.points, 3)
    assert branch.classifier(feature).shape == (3, 7)
    assert branch(clouds).equal(branch.decoder(branch.encode(clouds)))


def test_a_gaussian_branch_gives_the_distribution_of_its_feature():
    branch, clouds = seeded(Branch, SMALL, classes=7, gaussian=True), random_clouds(3, 48)
    assert all(part.shape == (3, 20) for part in branch.encode_distribution(clouds))
    assert not branch(clouds).equal(branch(clouds))
    feature, mean, _ = branch.eval().encode_distribution(clouds)
    assert feature.equal(mean) and branch(clouds).equal(branch(clouds))


def test_the_gaussian_head_draws_in_training_and_gives_its_mean_in_evaluation():
    head = seeded(GaussianHead, 6)
    feature = torch.randn(1, 6).expand(20_000, -1)
    draws, mean, log_variance = head(feature)
    deviation = (0.5 * log_variance[0]).exp()
    assert ((draws.mean(dim=0) - mean[0]) / deviation).abs().max() < 0.05
    torch.testing.assert_close(draws.std(dim=0), deviation, rtol=0.05, atol=0)
    drawn, mean, _ = head.eval()(feature)
    assert drawn.equal(mean)


def test_an_untrained_gaussian_head_hands_the_feature_on_hardly_blurred():
    feature = torch.randn(1000, 6)
    drawn, mean, _ = seeded(GaussianHead, 6)(feature)
    torch.testing.assert_close(mean, feature)
    assert (drawn - feature).std().item() == pytest.approx(0.05, rel=0.05)


def test_a_draw_passes_gradients_to_mean_and_variance():
    head, feature = seeded(GaussianHead, 4), torch.randn(3, 4)
    head(feature)[0].square().sum().backward()
    assert head.parameters_of.bias.grad.abs().min() > 0
    assert all(part.isfinite().all() for part in head(1e6 * feature))


def test_the_classifier_is_linear_layers_with_norm_and_relu_in_evaluation():
    classifier, rows = seeded(Classifier, 8, (6, 5), 3, dropout=0.4).eval(), torch.randn(4, 8)
    first, norm, _, _, second, other_norm, _, _, last = classifier
    expected = last(other_norm(second(norm(first(rows)).relu())).relu())
    torch.testing.assert_close(classifier(rows), expected)


def test_face_layers_are_linear_layers_with_relu_between():
    layers, feature, extra = (
        seeded(FaceLayers, (5, 6, 7), 4, (0, 2, 3)),
        torch.randn(2, 5),
        torch.randn(2, 3),
    )
    expected = feature
    for layer, joined in zip(layers.layers, (extra[:, :0], extra[:, :2], extra)):
        expected = layer(
            torch.cat([expected.relu() if joined.shape[1] else expected, joined], dim=1)
        )
    torch.testing.assert_close(
        layers(feature, [extra[:, :0], extra[:, :2], extra]), expected.view(2, 4, 3)
    )


def test_a_decoder_that_starts_from_a_face_answers_near_it():
    face, feature = random_clouds(1, SMOKE.points)[0], torch.randn(8, SMOKE.feature_width).relu()
    decoder = seeded(FaceLayers, (SMOKE.feature_width, *SMOKE.decoder_widths), SMOKE.points)
    assert (decoder(feature) - face).norm(dim=-1).mean() > 0.5
    decoder.start_from(face)
    assert (decoder(feature) - face).norm(dim=-1).max() < 0.1
    assert not decoder(feature)[0].equal(decoder(feature)[1])


@pytest.mark.parametrize("sizes", [SMALL, SMOKE])
def test_fusion_makes_a_face_with_and_without_skips(sizes):
    faces, others = random_clouds(2, sizes.points), random_clouds(2, sizes.points, seed=1)
    counts = {}
    for skips in (True, False):
        fusion = seeded(Fusion, replace(sizes, skips=skips))
        assert fusion(faces, others).shape == (2, sizes.points, 3)
        counts[skips] = sum(weight.numel() for weight in fusion.parameters())
    *finer, _ = sizes.encoder.pooled_widths
    coarse_to_fine = zip(reversed(finer), (*sizes.decoder_widths[1:], 3 * sizes.points))
    assert counts[True] - counts[False] == sum(
        2 * width * output for width, output in coarse_to_fine
    )


@pytest.mark.parametrize("skips", [True, False])
def test_fusion_reads_both_faces(skips):
    fusion = seeded(Fusion, replace(SMALL, skips=skips)).eval()
    faces, others, third = (random_clouds(2, 48, seed=seed) for seed in range(3))
    fused = fusion(faces, others)
    assert not fused.allclose(fusion(third, others)) and not fused.allclose(fusion(faces, third))
    assert not fused.allclose(fusion(others, faces))


def test_skips_carry_the_finer_levels_to_the_later_layers():
    fusion = seeded(Fusion, SMALL).eval()
    faces, others = random_clouds(2, 48), random_clouds(2, 48, seed=1)
    fused = fusion(faces, others)
    for number, level in ((2, 0), (1, 1)):
        width = SMALL.encoder.pooled_widths[level]
        cut = deepcopy(fusion)
        cut.layers.layers[number].weight.data[:, -2 * width :] = 0
        missing = fused - cut(faces, others)
        assert missing.abs().max() > 1e-3
        if (
            number == 2
        ):  # nothing follows the last layer: what is missing is its weights times the level's features
            pairs = zip(
                fusion.expression_encoder.multiscale(faces),
                fusion.identity_encoder.multiscale(others),
            )
            features = torch.cat(list(pairs)[level], dim=1)
            expected = linear(features, fusion.layers.layers[2].weight[:, -2 * width :])
            torch.testing.assert_close(missing.flatten(1), expected, rtol=1e-4, atol=1e-5)


def test_fusion_needs_a_decoder_width_for_every_grouped_level():
    with pytest.raises(ValueError, match="decoder widths"):
        Fusion(replace(SMALL, decoder_widths=(30, 40, 50)))


def test_the_papers_widths():
    with torch.device("meta"):
        model = DrFER(PRESETS["paper"].sizes, subjects=54)
    for branch, classes in ((model.expression, 6), (model.identity, 54)):
        assert branch.encoder.whole.linears[-1].out_features == 1024
        assert [layer.in_features for layer in branch.decoder.layers] == [1024, 1024, 2048]
        assert branch.decoder.layers[-1].out_features == 2048 * 3
        assert (
            branch.classifier[0].in_features == 1024
            and branch.classifier[-1].out_features == classes
        )
    assert [layer.in_features for layer in model.fusion.layers.layers] == [
        2048,
        1024 + 2 * 256,
        2048 + 2 * 128,
    ]
    assert model.fusion.layers.layers[-1].out_features == 2048 * 3
    assert [level.sizes.centres for level in model.expression.encoder.levels] == [512, 128]


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
    assert (
        (out.feature_mean is not None)
        == (out.feature_log_variance is not None)
        == sizes.gaussian_feature
    )
    assert (
        model.expression.gaussian is not None
    ) == sizes.gaussian_feature and model.identity.gaussian is None
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
        reached[name] = all(
            gradient is not None and gradient.abs().max() > 0 for gradient in gradients
        )
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
    assert once.fused_face.equal(again.fused_face) and once.expression_feature.equal(
        again.expression_feature
    )
    assert once.expression_of_identity_face.equal(again.expression_of_identity_face)
    assert all(values.equal(before[name]) for name, values in model.state_dict().items())
    alone = model.disentangle(faces[:1])
    torch.testing.assert_close(alone.fused_face, once.fused_face[:1], rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
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
        if name == "expression":
            assert torch.equal(feature, out.expression_feature), (
                "each batch is normed by itself either way"
            )
        for key, statistics in branch.state_dict().items():
            if "running" in key and "encoder" in key:
                assert (
                    torch.equal(model.get_submodule(name).state_dict()[key], statistics)
                    != count_decoded
                )
    momenta = {layer.momentum for layer in model.modules() if isinstance(layer, nn.BatchNorm1d)}
    assert momenta == {0.1}, "and the next batch counts again"
