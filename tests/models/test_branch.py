"""A branch and its parts: decoder, classifier, and the head of the KL and JS ablations."""

import pytest
import torch
from networks import SMALL, random_clouds, seeded

from drfer.evaluation.presets import PRESETS
from drfer.models.branch import Branch, Classifier, FaceDecoder, GaussianHead

SMOKE = PRESETS["smoke"].sizes

pytestmark = pytest.mark.usefixtures("one_thread")


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


def test_a_decoder_is_linear_layers_with_relu_between():
    decoder, feature = seeded(FaceDecoder, (5, 6, 7), 4), torch.randn(2, 5)
    first, second, last = decoder.layers
    expected = last(second(first(feature).relu()).relu())
    torch.testing.assert_close(decoder(feature), expected.view(2, 4, 3))


def test_a_decoder_joins_what_skip_connections_bring_to_each_layers_input():
    decoder, feature = seeded(FaceDecoder, (5, 6, 7), 4, skips=(0, 2, 3)), torch.randn(2, 5)
    nothing, two, three = torch.randn(2, 0), torch.randn(2, 2), torch.randn(2, 3)
    first, second, last = decoder.layers
    hidden = second(torch.cat([first(feature).relu(), two], dim=1))
    expected = last(torch.cat([hidden.relu(), three], dim=1))
    torch.testing.assert_close(decoder(feature, [nothing, two, three]), expected.view(2, 4, 3))


def test_a_decoder_that_starts_from_a_face_answers_near_it():
    face, feature = random_clouds(1, SMOKE.points)[0], torch.randn(8, SMOKE.feature_width).relu()
    decoder = seeded(FaceDecoder, (SMOKE.feature_width, *SMOKE.decoder_widths), SMOKE.points)
    assert (decoder(feature) - face).norm(dim=-1).mean() > 0.5
    decoder.start_from(face)
    assert (decoder(feature) - face).norm(dim=-1).max() < 0.01
    assert not decoder(feature)[0].equal(decoder(feature)[1])
