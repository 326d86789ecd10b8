import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

import heavytail
from heavytail.compression.function import function_error, refit


def _mask(layer: nn.Module, kept: torch.Tensor) -> None:
    """Mask the columns that are not kept."""
    mask = torch.zeros_like(layer.get_parameter("weight"))
    mask[kept] = 1
    torch_prune.custom_from_mask(layer, "weight", mask)


def _net(*layers: nn.Module, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    net = nn.Sequential(*layers).double().eval()
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    return net


def _convolutional() -> nn.Sequential:
    net = _net(
        nn.Conv2d(2, 6, 3, padding=1, stride=2),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 5, 2, padding=1, dilation=2, padding_mode="reflect"),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(5 * 3 * 3, 3),
    )
    net[1].get_buffer("running_mean").normal_()
    net[1].get_buffer("running_var").uniform_(0.5, 2)
    return net


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.Sigmoid()])
def test_refit_solves_the_least_squares_of_lstsq(bias, activation):
    net = _net(nn.Linear(5, 20), activation, nn.Linear(20, 4, bias=bias))
    x, ridge = torch.randn(300, 5, dtype=torch.float64), 1e-3
    whole = copy.deepcopy(net)
    _mask(net[0], torch.arange(7))
    with torch.no_grad():
        z, before = net[:2](x), net[2].weight.clone()
        left = (z != 0).any(0) & ((z != z[0]).any(0) | (not bias))
        z = z[:, left]
        k, scale = z.shape[1], math.sqrt(len(x) * float(z.square().mean()) * ridge)
        A = torch.cat([z, scale * torch.eye(k, dtype=z.dtype)])
        ones = torch.cat([torch.ones(300), torch.zeros(k)]).double()[:, None]
        A = torch.cat([A, ones], 1) if bias else A
        goal = torch.cat([whole(x), scale * before[:, left].T])
        expected = torch.linalg.lstsq(A, goal).solution.T
    assert refit(net, x, ridge=ridge) == ("2",)
    torch.testing.assert_close(net[2].weight[:, left], expected[:, :k], rtol=1e-6, atol=1e-9)
    assert not net[2].weight[:, 7:][:, ~left[7:]].any()
    if bias:
        torch.testing.assert_close(net[2].bias, expected[:, k], rtol=1e-6, atol=1e-9)


def test_refit_is_exact_where_the_kept_columns_can_do_all():
    """Columns that come twice: one of each pair will do, in every layer."""
    net = _convolutional()
    with torch.no_grad():
        for layer in (net[0], net[4]):
            layer.weight[3:] = layer.weight[: len(layer.weight) - 3]
            layer.bias[3:] = layer.bias[: len(layer.weight) - 3]
        for value in (net[1].weight, net[1].bias, net[1].running_mean, net[1].running_var):
            value[3:] = value[:3]
    x = torch.randn(400, 2, 12, 12, dtype=torch.float64)
    goal = net(x)
    _mask(net[0], torch.arange(3))
    _mask(net[4], torch.arange(3))
    assert function_error(net, net, x).error == 0
    assert (net(x) - goal).norm() > 0.1 * goal.norm()
    assert refit(net, x, ridge=1e-12) == ("4", "7")
    torch.testing.assert_close(net(x), goal, rtol=1e-6, atol=1e-6)
    small = heavytail.compact(net, multiple_of=1)
    torch.testing.assert_close(small(x), goal, rtol=1e-6, atol=1e-6)
    assert small[0].out_channels == small[4].out_channels == 3


def test_blocks_and_a_second_call_change_nothing(monkeypatch):
    nets = [_convolutional() for _ in range(2)]
    x = torch.randn(200, 2, 12, 12, dtype=torch.float64)
    for net in nets:
        _mask(net[0], torch.tensor([0, 2, 5]))
        _mask(net[4], torch.tensor([1, 3]))
    refit(nets[0], x)
    monkeypatch.setattr("heavytail.compression.function._AT_ONCE", 5000)
    refit(nets[1], x)
    for one, other in zip(
        nets[0].state_dict().values(), nets[1].state_dict().values(), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    found = copy.deepcopy(nets[1].state_dict())
    refit(nets[1], x)
    for name, value in nets[1].state_dict().items():
        torch.testing.assert_close(value, found[name], rtol=1e-9, atol=1e-9)


def test_refit_mends_what_pruning_did_and_leaves_modes_and_masks_alone():
    net = _convolutional().train()
    whole = copy.deepcopy(net)
    x, fresh = torch.randn(2, 400, 2, 12, 12, dtype=torch.float64)
    _mask(net[0], torch.tensor([0, 1, 2, 5]))
    before = function_error(whole, net, fresh).error
    masks = {n: b.clone() for n, b in net.named_buffers()}
    refit(net, x)
    assert function_error(whole, net, fresh).error < 0.7 * before
    assert all(module.training for module in net.modules())
    for name, value in net.named_buffers():  # the averages of batch-norm too
        torch.testing.assert_close(value, masks[name], rtol=0, atol=0)


def test_the_bound_holds_and_one_without_the_outgoing_weights_does_not():
    generator, broken = torch.Generator().manual_seed(5), 0
    for trial in range(200):
        width, classes = 3 + trial % 7, 1 + trial % 4
        activation = (nn.ReLU(), nn.Tanh(), nn.Sigmoid(), nn.Identity())[trial % 4]
        net = _net(nn.Linear(4, width), activation, nn.Linear(width, classes), seed=trial)
        pruned = copy.deepcopy(net)
        _mask(pruned[0], torch.randperm(width, generator=generator)[: width // 2])
        x = torch.randn(50, 4, dtype=torch.float64, generator=generator)
        report = function_error(net, pruned, x)
        assert report.error <= report.bound
        assert report.certain <= report.same
        gone = ~pruned[0].weight.any(1)
        sizes = x.norm(dim=1) * net[0].weight[gone].norm(dim=1).sum()
        broken += bool(((net(x) - pruned(x)).norm(dim=1) > sizes).any())
    assert broken > 20


def test_a_bound_is_exact_for_one_column_along_its_input():
    net = _net(nn.Linear(3, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    pruned = copy.deepcopy(net)
    _mask(pruned[0], torch.tensor([0]))
    x = net[0].weight[1:].detach()
    report = function_error(net, pruned, x)
    assert report.bound == pytest.approx(report.error)


def test_there_is_no_bound_where_it_is_not_proved():
    x = torch.randn(60, 4, dtype=torch.float64)
    steep = nn.Sequential(nn.ReLU(), nn.BatchNorm1d(6))
    steep[1].running_var.fill_(0.01)  # ten times as steep as allowed
    for middle in (steep, nn.Sequential(nn.ReLU(), nn.Linear(6, 6))):
        net = _net(nn.Linear(4, 6), middle, nn.Linear(6, 2))
        pruned = copy.deepcopy(net)
        _mask(pruned[0], torch.arange(3))
        assert math.isnan(function_error(net, pruned, x).bound)
    net = _net(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    pruned = copy.deepcopy(net)
    _mask(pruned[0], torch.arange(3))
    assert function_error(net, pruned, x).bound > 0
    refit(pruned, x)
    assert math.isnan(function_error(net, pruned, x).certain)


@pytest.mark.parametrize(
    ("layers", "masked", "message"),
    [
        ((nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)), (), "got none"),
        ((nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)), (2,), "must follow 2"),
        ((nn.Linear(4, 6), nn.Unflatten(1, (6, 1)), nn.Conv1d(6, 2, 1)), (0,), "2-dimensional"),
        ((nn.Linear(4, 40), nn.ReLU(), nn.Linear(40, 2)), (0,), "31 examples or more, got 30"),
    ],
)
def test_refit_refuses_and_changes_nothing(layers, masked, message):
    net = _net(*layers)
    for i in masked:
        _mask(net[i], torch.arange(len(net[i].weight))[: 30 if len(net[i].weight) > 30 else 3])
    with torch.no_grad():
        if len(net[0].weight) > 30:
            net[0].bias[:] = 100
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ValueError, match=message):
        refit(net, torch.randn(30, 4, dtype=torch.float64))
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])


def test_bad_inputs_are_refused():
    net = _net(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    _mask(net[0], torch.arange(3))
    x = torch.randn(20, 4, dtype=torch.float64)
    for bad in (x[:0], x / 0, x * math.nan):
        with pytest.raises(ValueError, match="inputs must be"):
            refit(net, bad)
        with pytest.raises(ValueError, match="inputs must be"):
            function_error(net, net, bad)
    with pytest.raises(ValueError, match="ridge must be in"):
        refit(net, x, ridge=0.0)
    with pytest.raises(TypeError, match="inputs must be a floating-point tensor"):
        refit(net, [1.0])
