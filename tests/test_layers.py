import pytest
import torch
from torch import nn
from torch.nn.utils.prune import custom_from_mask

from heavytail import hidden_weights
from heavytail.layers import as_columns, hidden, home_of, movable


class Headed(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6))
        self.head = nn.Linear(6, 2)


def ids(found):
    return [id(part) for part in found]


def test_hidden_weights_are_all_but_the_head():
    model = Headed()
    first, second, head = model.body[0].weight, model.body[2].weight, model.head.weight
    assert ids(hidden_weights(model)) == ids([first, second])
    # A hidden layer with as many units as there are classes is a hidden layer.
    assert ids(hidden_weights(model, exclude=())) == ids([first, second, head])
    assert ids(hidden_weights(model, exclude=[model.body[0], "head"])) == ids([second])
    assert ids(hidden_weights(model, exclude="body")) == ids([head])


def test_a_shared_weight_is_listed_once_and_left_out_with_the_head():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    assert len(hidden_weights(model, exclude=())) == 1
    model = nn.Module()
    model.embed, model.body, model.head = nn.Embedding(7, 4), nn.Linear(4, 4), nn.Linear(4, 7)
    model.head.weight = model.embed.weight
    assert ids(hidden_weights(model)) == ids([model.body.weight])
    del model.body
    with pytest.raises(ValueError, match=r"leaves no weight .*: embed"):
        hidden_weights(model)


@pytest.mark.parametrize(
    ("model", "exclude", "error", "message"),
    [
        (nn.Sequential(nn.Linear(3, 2)), None, ValueError, r"layer named 'head'.*0 \(Linear\)"),
        (nn.Sequential(), None, ValueError, "no weight of dimension >= 2"),
        (nn.BatchNorm1d(3), (), ValueError, "no weight of dimension >= 2"),
        (Headed(), "hed", ValueError, r"exclude .* got 'hed'; it has .*head \(Linear\)"),
        (Headed(), [nn.Linear(2, 2)], ValueError, r"exclude must be of the model, got Linear"),
        (Headed(), ["body", "head"], ValueError, "exclude .* leaves nothing of"),
        (Headed(), [3], TypeError, "exclude must be modules or their names, got 3"),
        (Headed(), 3, TypeError, "exclude must be modules or their names, got 3"),
        ("model", None, TypeError, "model must be a torch.nn.Module"),
    ],
)
def test_bad_layers(model, exclude, error, message):
    with pytest.raises(error, match=message):
        hidden_weights(model, exclude=exclude)


def test_a_head_without_weights_is_no_head():
    model = Headed()
    model.head = nn.Identity()
    with pytest.raises(ValueError, match=r"no last layer named 'head'.*by exclude= or layers="):
        hidden(model, None)


def test_a_column_is_a_filter_or_a_kernel():
    filters = torch.arange(2 * 3 * 4 * 5).view(2, 3, 4, 5)
    kind = home_of(filters).kind
    assert torch.equal(as_columns(filters, "filter", kind), filters.view(2, 60))
    assert torch.equal(as_columns(filters, "kernel", kind), filters.view(6, 20))
    assert as_columns(filters, "kernel", kind).data_ptr() == filters.data_ptr()
    matrix = filters[0, 0].T
    for column in ("filter", "kernel"):
        assert torch.equal(as_columns(matrix, column, home_of(matrix).kind), matrix)


class Conv1D(nn.Module):
    """Laid out as the linear layer of this name in transformers."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf, self.weight = nf, nn.Parameter(torch.randn(nx, nf))

    def forward(self, x):
        return x @ self.weight


class Positions(nn.Module):
    """A kind that nobody knows."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.ones(1, 5, 4))


class LowRank(nn.Linear):
    """A linear layer that has more than its weight."""

    def __init__(self):
        super().__init__(4, 4)
        self.factor = nn.Parameter(torch.ones(4, 1))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(4, 6), (5, 4)),
        (Conv1D(6, 4), (5, 4)),
        (nn.Conv2d(4, 6, 3), (1, 4, 5, 5)),
        (nn.Conv1d(4, 6, 3, groups=2), (1, 4, 5)),
        (nn.ConvTranspose1d(4, 6, 3), (1, 4, 5)),
        (nn.ConvTranspose2d(4, 6, (3, 2), groups=2), (1, 4, 5, 5)),
        (nn.RNNCell(4, 6), (5, 4)),
    ],
)
def test_a_column_is_all_that_feeds_one_output(layer, shape):
    """What the derivative of an output says."""
    weight = hidden_weights(layer, exclude=())[0]
    columns = as_columns(weight.detach(), "filter", home_of(weight).kind)
    outputs = layer(torch.rand(shape) + 1)
    for i in range(6):
        (slope,) = torch.autograd.grad(outputs[:, i].sum(), weight, retain_graph=True)
        fed = weight.detach()[slope != 0]
        assert torch.equal(columns[i].sort().values, fed.sort().values)
    assert len(columns) == 6


def test_a_shared_weight_may_move_where_one_of_its_layers_shows_it():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    (weight,) = hidden_weights(model, exclude=())
    masks = torch.eye(3), torch.ones(3, 3).tril()
    assert movable(weight) is None
    custom_from_mask(model[0], "weight", masks[0])
    assert movable(weight) is None
    custom_from_mask(model[1], "weight", masks[1])
    assert torch.equal(movable(weight), masks[1].bool())
    assert movable(weight.clone()) is None  # another, of which nothing is known


def test_what_gets_noise_is_decided_by_kind():
    model = nn.Module()
    model.embed, model.norm = nn.Embedding(5, 4), nn.LayerNorm((3, 4))
    model.attention = nn.MultiheadAttention(4, 2, add_bias_kv=True)
    model.linear = nn.utils.parametrizations.weight_norm(nn.Linear(4, 1))
    model.conv = nn.utils.parametrizations.spectral_norm(nn.Conv1d(4, 6, 3))
    model.recurrent, model.step = nn.LSTM(4, 3, proj_size=2), nn.GRUCell(4, 3)
    names = {weight: name for name, weight in model.named_parameters()}
    before = hidden_weights(model, exclude=())
    assert [names[weight] for weight in before] == [
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "linear.parametrizations.weight.original1",
        "conv.parametrizations.weight.original",
        *(f"recurrent.weight_{part}_l0" for part in ("ih", "hh", "hr")),
        *(f"step.weight_{part}" for part in ("ih", "hh")),
    ]
    assert ids(hidden_weights(model.embed, exclude=())) == ids([model.embed.weight])  # by name
    model.positions, model.low = Positions(), LowRank()
    unknown = r"not known: positions.table \(Positions\), low.factor \(LowRank\)$"
    with pytest.warns(UserWarning, match=unknown):
        assert ids(hidden_weights(model, exclude=())) == [*map(id, before), id(model.low.weight)]
    for nothing in (model.positions, model.norm):
        with pytest.raises(ValueError, match="exclude leaves no weight whose columns are known"):
            hidden_weights(nothing, exclude=())
