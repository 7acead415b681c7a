"""The fusion module: what its encoders, layers and skip connections carry."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from networks import SMALL, random_clouds, seeded
from torch.nn.functional import linear

from drfer.evaluation.presets import PRESETS
from drfer.models.fusion import Fusion

SMOKE = PRESETS["smoke"].sizes

pytestmark = pytest.mark.usefixtures("one_thread")


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
        assert missing.abs().max() > 1e-4
        if number == 2:
            # nothing follows the last layer: its weights times the level's features are missing
            pairs = zip(
                fusion.expression_encoder.multiscale(faces),
                fusion.identity_encoder.multiscale(others),
            )
            features = torch.cat(list(pairs)[level], dim=1)
            last = fusion.layers.layers[2]
            expected = linear(features, last.weight[:, -2 * width :]) * last.UNIT
            torch.testing.assert_close(missing.flatten(1), expected, rtol=1e-4, atol=1e-5)


def test_fusion_needs_a_decoder_width_for_every_grouped_level():
    with pytest.raises(ValueError, match="decoder widths"):
        Fusion(replace(SMALL, decoder_widths=(30, 40, 50)))
