import pytest
import torch
from torch import nn

from heavytail import hidden_weights
from heavytail.layers import as_columns, hidden


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
