"""Batch norm with ReLU, and with the maximum, against torch's own operators one after the other."""

import pytest
import torch
from torch import nn

from drfer.rowops import norm_maximum, norm_relu_linear

pytestmark = pytest.mark.usefixtures("one_thread")

MEMBERS = 16
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}  # of the largest value; bfloat16 keeps 8 bits
FORMS = {
    "linear": (
        lambda rows, norm: norm_relu_linear(rows, norm, norm.product),
        lambda rows, norm: norm(rows).relu() @ norm.product.T,
    ),
    "maximum": (
        lambda rows, norm: norm_maximum(rows, MEMBERS, norm),
        lambda rows, norm: norm(rows).view(-1, MEMBERS, rows.shape[1]).max(dim=1).values,
    ),
}


def norm_with_weights(channels, dtype=torch.float32):
    """A batch norm some of whose weights are negative, so that its maximum is not that of its input."""
    torch.manual_seed(1)
    norm = nn.BatchNorm1d(channels, dtype=dtype)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    norm.product = nn.Parameter(torch.randn(5, channels).to(dtype))
    return norm


def outcome(form, rows, norm):
    rows = rows.clone().requires_grad_()
    out = form(rows, norm)
    torch.manual_seed(2)
    (out.float() * torch.randn(out.shape)).sum().backward()
    return {
        "values": out, "gradient of rows": rows.grad, "gradient of weight": norm.weight.grad,
        "gradient of bias": norm.bias.grad, "gradient of product": norm.product.grad, **dict(norm.named_buffers()),
    }  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", [(16, 1), (160, 24), (16 * 300, 7)])
def test_values_gradients_and_statistics_are_torchs(form, dtype, shape):
    torch.manual_seed(0)
    rows = (3 * torch.randn(shape) + torch.arange(shape[1])).to(dtype)
    fast, plain = FORMS[form]
    here, there = (
        outcome(fast, rows, norm_with_weights(shape[1])),
        outcome(plain, rows.float(), norm_with_weights(shape[1])),
    )
    assert here["values"].dtype == here["gradient of rows"].dtype == dtype
    for name, value in there.items():
        if value is None:  # the maximum knows no product
            continue
        scale = max(value.abs().max().item(), 1.0)
        torch.testing.assert_close(
            here[name].to(value.dtype), value, rtol=0, atol=scale * TOLERANCE[dtype],
            msg=lambda message, name=name: f"{name}: {message}",
        )  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_gradients_are_those_of_finite_differences(form):
    fast, _ = FORMS[form]
    torch.manual_seed(3)
    rows, direction = torch.randn(64, 5), torch.randn(64, 5)
    weights = torch.randn_like(fast(rows, norm_with_weights(5)))

    def value(step):
        return (fast(rows + step * direction, norm_with_weights(5)).double() * weights).sum().item()

    moved = rows.clone().requires_grad_()
    (fast(moved, norm_with_weights(5)) * weights).sum().backward()
    step = 1e-3
    slope = (value(step) - value(-step)) / (2 * step)
    assert (moved.grad * direction).sum().item() == pytest.approx(slope, rel=0.02)


@pytest.mark.parametrize("form", FORMS)
def test_evaluation_and_other_dtypes_go_through_torch(form):
    fast, plain = FORMS[form]
    rows = torch.randn(48, 6)
    assert fast(rows, norm_with_weights(6).eval()).equal(plain(rows, norm_with_weights(6).eval()))
    double = fast(rows.double(), norm_with_weights(6, torch.float64))
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), fast(rows, norm_with_weights(6)), rtol=1e-4, atol=1e-5)


def test_the_gradient_goes_to_the_first_of_the_largest():
    rows = torch.zeros(2 * MEMBERS, 3).requires_grad_()
    norm = nn.BatchNorm1d(3).train()
    norm_maximum(rows + torch.arange(2).repeat_interleave(MEMBERS)[:, None], MEMBERS, norm)[:, 0].sum().backward()
    assert norm.bias.grad.tolist() == [2, 0, 0]
    assert rows.grad[:, 1:].abs().max() == 0
    first, others = rows.grad[0, 0], rows.grad[1:MEMBERS, 0]
    assert (first - others > 0).all() and others.unique().numel() == 1


def test_a_nan_does_not_hide():
    rows = torch.randn(64, 4)
    rows[5, 2] = float("nan")
    assert norm_relu_linear(rows, nn.BatchNorm1d(4), torch.eye(4))[:, 2].isnan().all()
    assert norm_maximum(rows, MEMBERS, nn.BatchNorm1d(4))[:, 2].isnan().all()
