"""The common mesh is what its recipe makes, in an order of which every part is an even sample."""

import numpy as np
from scipy.spatial import cKDTree

from drfer.fast.points import farthest_point_order
from drfer.preprocessing import template as common_mesh
from tools import make_template


def test_template_is_the_one_its_recipe_makes():
    shipped, built = common_mesh.load(), make_template.build()
    assert shipped.vertices.shape == (39_923, 3)
    # of two equally far points another processor's last digit may take the other first: the
    # points are the same, nearly all
    apart = cKDTree(shipped.vertices).query(built.vertices)[0]
    assert np.quantile(apart, 0.99) < 2e-3 and apart.max() < 2 * make_template.SPACING
    assert np.allclose(shipped.vertices[:512], built.vertices[:512], atol=2e-3)
    assert np.linalg.norm(shipped.vertices, axis=1).max() < 120
    some = slice(None, None, 9)  # the modes' covariance: their signs are arbitrary
    covariance = [
        np.einsum("kvi,kwj->viwj", modes[:, some], modes[:, some])
        for modes in (shipped.modes, built.modes)
    ]
    assert np.allclose(*covariance, atol=0.05)


def test_template_is_in_farthest_point_order():
    vertices = common_mesh.load().vertices
    assert np.array_equal(farthest_point_order(vertices, 512), np.arange(512))
