import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from heavytail import factorization_report, factorize, prune, relative_error


def net(dtype=torch.float64):
    torch.manual_seed(1)
    model = nn.Module()
    model.body = nn.Sequential(nn.Linear(12, 40), nn.ReLU(), nn.Linear(40, 30, bias=False))
    model.head = nn.Linear(30, 3)
    return model.to(dtype)


def conv_net():
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(3, 8, (3, 5), stride=2, padding=1, padding_mode="reflect"),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3, dilation=2, bias=False),
    )
    return model.double()


def matrix(pair):
    """Return the matrix of a factorized layer, columns as rows."""
    first, second = (part.weight.detach().flatten(1) for part in pair)
    return second @ first


@pytest.mark.parametrize("rank", [1, 3, 12])
def test_the_matrix_is_the_nearest_of_its_rank(rank):
    model = net()
    small = factorize(model, rank=rank)
    for before, after in zip((model.body[0], model.body[2]), (0, 2), strict=True):
        W, found = before.weight.detach(), matrix(small.body[after])
        s = torch.linalg.svdvals(W)
        assert int(torch.linalg.matrix_rank(found)) == rank
        error = float((W - found).norm() / W.norm())
        assert error == pytest.approx(float(s[rank:].norm() / s.norm()), abs=1e-12)
        assert small.body[after].error == pytest.approx(error, abs=1e-12)
    assert small.head.weight is not model.head.weight
    assert torch.equal(small.head.weight, model.head.weight)


@pytest.mark.parametrize("error", [0.1, 0.5, 0.9])
def test_no_smaller_rank_would_do(error):
    model = net()
    for name, pair in zip(("body.0", "body.2"), (0, 2), strict=True):
        found = factorize(model, error=error, layers=name).body[pair]
        s = torch.linalg.svdvals(model.get_submodule(name).weight.detach())
        assert found.error <= error
        assert float(s[found.rank - 1 :].norm() / s.norm()) > error
    full = factorize(model, error=0.0).body
    assert (full[0].rank, full[2].rank) == (12, 30)
    assert factorize(model, error=1.0).body[0].rank == 1


def test_at_full_rank_the_function_is_the_same():
    x = torch.randn(7, 12, dtype=torch.float64)
    model = net()
    assert torch.allclose(factorize(model, rank=99).body(x), model.body(x), atol=1e-13)
    images = torch.randn(2, 3, 15, 16, dtype=torch.float64)
    before = conv_net()
    after = factorize(before, rank=99, layers=["0", "2"])
    assert torch.allclose(after(images), before(images), atol=1e-13)


def test_convolutions():
    model = conv_net()
    small = factorize(model, rank=2, layers=["0", "2"])
    W, found = model[0].weight.detach(), matrix(small[0])
    s = torch.linalg.svdvals(W.flatten(1))
    error = float((W.flatten(1) - found).norm() / W.norm())
    assert error == pytest.approx(float(s[2:].norm() / s.norm()))
    # As if the weight had been replaced.
    with torch.no_grad():
        model[0].weight.copy_(found.view_as(W))
        model[2].weight.copy_(matrix(small[2]).view_as(model[2].weight))
    images = torch.randn(2, 3, 15, 16, dtype=torch.float64)
    assert torch.allclose(small(images), model(images), atol=1e-13)


def test_columns_are_worse_than_rank_at_equal_count(generator):
    """Eckart and Young: k columns are a matrix of rank k."""
    model = net()
    W = model.body[0].weight.detach()
    for k in (2, 5, 9):
        kept = torch.randperm(40, generator=generator)[:k]
        assert factorize(model, rank=k).body[0].error <= relative_error(W, kept)


def test_the_report():
    small = factorize(net(torch.float32), error=0.5)
    report = factorization_report(small)
    pairs = [small.body[0], small.body[2]]
    assert [layer.kept for layer in report.layers] == [pair.rank for pair in pairs]
    assert report.kept_parameters == sum(
        p.numel() for pair in pairs for n, p in pair.named_parameters() if n.endswith("weight")
    )
    assert report.parameters == 40 * 12 + 30 * 40
    lost = sum((pair.error * pair.norm) ** 2 for pair in pairs)
    assert report.error == pytest.approx(math.sqrt(lost / sum(pair.norm**2 for pair in pairs)))
    assert report.kept_flops == 2 * report.kept_parameters
    assert report.protected == ("head",)
    assert "ranks kept" in str(report)
    assert "rank=" in repr(small)


def test_it_saves_trains_and_exports(tmp_path):
    model = factorize(net(torch.float32).body, rank=2, layers=["0", "2"])
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    other = factorize(net(torch.float32).body.apply(scrambled), rank=2, layers=["0", "2"])
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    x = torch.randn(5, 12)
    assert torch.equal(other(x), model(x))
    exported = torch.export.export(model, (x,))
    assert torch.allclose(exported.module()(x), model(x))
    model(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def scrambled(module):
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight)


def test_a_pruned_model_is_factorized_as_pruned():
    model = net()
    prune(model, keep=0.1)
    small = factorize(model, error=1e-7)
    assert small.body[0].rank == 4
    assert torch.allclose(matrix(small.body[0]), model.body[0].weight.detach(), atol=1e-12)
    assert hasattr(model.body[0], "weight_mask")


def test_zero_weights_and_a_model_that_is_one_layer():
    layer = nn.Linear(4, 3)
    nn.init.zeros_(layer.weight)
    small = factorize(layer, error=0.3, layers=[layer])
    assert (small.rank, small.error) == (1, 0.0)
    assert torch.equal(small(torch.ones(2, 4)), layer(torch.ones(2, 4)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give one of rank and error"),
        ({"rank": 2, "error": 0.1}, "give one of rank and error"),
        ({"rank": 0}, "rank must be >= 1, got 0"),
        ({"error": 1.5}, r"error must be in \[0, 1\], got 1.5"),
        ({"rank": 1, "layers": "tail"}, "no layer 'tail'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        factorize(net(), **arguments)


def test_layers_that_cannot_be_factorized():
    with pytest.raises(ValueError, match="must be linear or a convolution, got Embedding"):
        factorize(nn.Sequential(nn.Embedding(5, 3)), rank=1, layers="0")
    with pytest.raises(ValueError, match="must have one group, got 2"):
        factorize(nn.Sequential(nn.Conv1d(4, 4, 3, groups=2)), rank=1, layers="0")
    broken = nn.Sequential(nn.Linear(2, 2))
    nn.init.constant_(broken[0].weight, math.inf)
    with pytest.raises(ValueError, match="must be finite"):
        factorize(broken, rank=1, layers="0")
    with pytest.raises(ValueError, match="no factorized layer"):
        factorization_report(broken)
