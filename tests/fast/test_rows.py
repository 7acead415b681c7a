"""Batch norm with ReLU, and with the maximum, against torch's own operators one after the other."""

import pytest
import torch
from torch import nn

from drfer.fast.rows import norm_relu_linear, norm_relu_linear_norm_maximum

pytestmark = pytest.mark.usefixtures("one_thread")

MEMBERS = 16
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 4e-2}
"""Of the largest value; bfloat16 keeps 8 bits, and sums cancel."""


def plain_linear(rows, norm, dtype=torch.float32):
    """Batch norm, ReLU and product in double precision, rounded to a dtype where that is what stands in memory."""
    activated = norm(rows.double()).relu().to(dtype).double()
    return (activated @ norm.product.to(dtype).double().T).to(dtype)


def plain_maximum(rows, norm, dtype=torch.float32):
    out = norm.last(plain_linear(rows, norm, dtype).double())
    return out.view(-1, MEMBERS, out.shape[1]).max(dim=1).values.to(dtype)


FORMS = {
    "linear": (lambda rows, norm: norm_relu_linear(rows, norm, norm.product), plain_linear),
    "maximum": (
        lambda rows, norm: norm_relu_linear_norm_maximum(
            rows, norm, norm.product, norm.last, MEMBERS
        ),
        plain_maximum,
    ),
}


def norm_with_weights(channels, dtype=torch.float32):
    """A batch norm, a product and the next norm; some weights are negative: the maximum is not that of its input."""
    torch.manual_seed(1)
    norm = nn.BatchNorm1d(channels, dtype=dtype)
    norm.last = nn.BatchNorm1d(5, dtype=dtype)
    for weight in (*norm.parameters(), *norm.last.parameters()):
        nn.init.normal_(weight)
    norm.product = nn.Parameter(torch.randn(5, channels).to(dtype))
    return norm


def outcome(form, rows, norm):
    rows = rows.clone().requires_grad_()
    out = form(rows, norm)
    torch.manual_seed(2)
    (out.float() * torch.randn(out.shape)).sum().backward()
    return {
        "values": out,
        "gradient of rows": rows.grad,
        "gradient of weight": norm.weight.grad,
        "gradient of bias": norm.bias.grad,
        "gradient of product": norm.product.grad,
        "gradient of last weight": norm.last.weight.grad,
        "gradient of last bias": norm.last.bias.grad,
        **dict(norm.named_buffers()),
    }


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", [(16, 1), (160, 24), (16 * 300, 7)])
def test_values_gradients_and_statistics_are_torchs(form, dtype, shape):
    torch.manual_seed(0)
    rows = (3 * torch.randn(shape) + torch.arange(shape[1])).to(dtype)
    fast, plain = FORMS[form]
    here = outcome(fast, rows, norm_with_weights(shape[1]))
    norm = norm_with_weights(shape[1]).double()
    there = outcome(lambda rows, norm: plain(rows, norm, dtype), rows, norm)
    assert here["values"].dtype == here["gradient of rows"].dtype == dtype
    for name, value in there.items():
        if value is None:  # without a maximum there is no last norm
            continue
        scale = max(value.abs().max().item(), 1.0)
        torch.testing.assert_close(
            here[name].to(value.dtype),
            value,
            rtol=0,
            atol=scale * TOLERANCE[dtype],
            msg=lambda message, name=name: f"{name}: {message}",
        )


def test_a_group_may_have_more_members_than_a_byte_counts(monkeypatch):
    monkeypatch.setitem(globals(), "MEMBERS", 300)
    test_values_gradients_and_statistics_are_torchs("maximum", torch.float32, (900, 7))


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
    there = plain(rows, norm_with_weights(6).double().eval())
    torch.testing.assert_close(fast(rows, norm_with_weights(6).eval()), there, rtol=1e-5, atol=1e-5)
    double = fast(rows.double(), norm_with_weights(6, torch.float64))
    assert double.dtype == torch.float64
    torch.testing.assert_close(
        double.float(), fast(rows, norm_with_weights(6)), rtol=1e-4, atol=1e-5
    )


def identity_maximum(rows):
    """The maximum form with norms and a product that keep the order of positive rows."""
    width = rows.shape[1]
    norm, last = nn.BatchNorm1d(width), nn.BatchNorm1d(width)
    nn.init.constant_(norm.bias, 10.0)  # all pass the ReLU
    return norm_relu_linear_norm_maximum(rows, norm, torch.eye(width), last, MEMBERS), last


def test_the_gradient_goes_to_the_first_of_the_largest():
    rows = torch.zeros(2 * MEMBERS, 3).requires_grad_()
    out, last = identity_maximum(rows + torch.arange(2).repeat_interleave(MEMBERS)[:, None])
    out[:, 0].sum().backward()
    assert last.bias.grad.tolist() == [2, 0, 0]
    assert rows.grad[:, 1:].abs().max() == 0
    first, others = rows.grad[0, 0], rows.grad[1:MEMBERS, 0]
    assert (first - others).abs().min() > 0 and others.unique().numel() == 1


def test_blocks_do_not_show(monkeypatch):
    torch.manual_seed(4)
    rows, form = torch.randn(MEMBERS * 37, 7), FORMS["maximum"][0]
    whole = outcome(form, rows, norm_with_weights(7))
    monkeypatch.setattr("drfer.fast.rows.BLOCK_VALUES", MEMBERS * 30)
    for name, value in outcome(form, rows, norm_with_weights(7)).items():
        torch.testing.assert_close(value, whole[name], rtol=1e-4, atol=1e-4, msg=name)


def test_a_nan_does_not_hide():
    rows = torch.randn(64, 4)
    rows[5, 2] = float("nan")
    assert norm_relu_linear(rows, nn.BatchNorm1d(4), torch.eye(4))[:, 2].isnan().all()
    assert identity_maximum(rows)[0][:, 2].isnan().all()
