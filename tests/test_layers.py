import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from heavytail import hidden_weights
from heavytail.layers import as_columns, hidden, taken, weighted


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
    with pytest.raises(ValueError, match="shared with a layer left out"):
        hidden_weights(model)


@pytest.mark.parametrize(
    ("model", "exclude", "error", "message"),
    [
        (nn.Sequential(nn.Linear(3, 2)), None, ValueError, r"layer named 'head'.*0 \(Linear\)"),
        (nn.Sequential(), None, ValueError, "no weight of dimension >= 2"),
        (nn.BatchNorm1d(3), (), ValueError, "no weight of dimension >= 2"),
        (Headed(), "hed", ValueError, r"no layer 'hed' in the model: .*head \(Linear\)"),
        (Headed(), [nn.Linear(2, 2)], ValueError, "not in the model"),
        (Headed(), ["body", "head"], ValueError, "nothing is left"),
        (Headed(), [3], TypeError, "a layer is a module or its name, got 3"),
        (Headed(), 3, TypeError, "a layer is a module or its name, got 3"),
        ("model", None, TypeError, "model must be a torch.nn.Module"),
    ],
)
def test_bad_layers(model, exclude, error, message):
    with pytest.raises(error, match=message):
        hidden_weights(model, exclude=exclude)


def test_a_head_without_weights_is_no_head():
    model = Headed()
    model.head = nn.Identity()
    with pytest.raises(ValueError, match=r"no last layer named 'head'.*say it by layers="):
        hidden(model, None, "layers")


def test_a_column_is_a_filter_or_a_kernel():
    filters = torch.arange(2 * 3 * 4 * 5).view(2, 3, 4, 5)
    assert torch.equal(as_columns(filters, "filter"), filters.view(2, 60))
    assert torch.equal(as_columns(filters, "kernel"), filters.view(6, 20))
    assert as_columns(filters, "kernel").data_ptr() == filters.data_ptr()
    for column in ("filter", "kernel"):
        assert torch.equal(as_columns(filters[0, 0].T, column), filters[0, 0].T)


def test_which_layers_are_taken():
    model = Headed()
    model.body.append(nn.Embedding(3, 6))

    def taking(layers, refusal=lambda module: ""):
        return list(taken(model, layers, refusal))

    assert list(weighted(model)) == ["body.0", "body.2", "body.3", "head"]
    assert taking(None) == taking("body") == ["body.0", "body.2"]
    assert taking(["head", "body.3"]) == ["body.3", "head"]  # what is named may be of any kind
    assert taking(None, lambda module: "is wide" * (module is model.body[0])) == ["body.2"]
    for layers, message in (
        (None, "no layer can be taken: .* is bad; "),
        ("head", "head.* is bad"),
    ):
        with pytest.raises(ValueError, match=message):
            taking(layers, lambda module: "is bad")
    for layers, message in (((), "at least one layer"), (model.body[1], "no weight of dimension")):
        with pytest.raises(ValueError, match=message):
            taking(layers)
    parametrize.register_parametrization(model.body[0], "weight", nn.Identity())
    with pytest.raises(ValueError, match=r"body\.0 .* is parametrized"):
        taking(None)


def test_an_attentions_projection_is_never_called():
    model = nn.Sequential(nn.Linear(4, 4), nn.MultiheadAttention(4, 1))
    assert list(taken(model, "0", lambda module: "")) == ["0"]
    with pytest.raises(ValueError, match=r"1\.out_proj .* is never called"):
        taken(model, "1.out_proj", lambda module: "")
