import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

import heavytail
from heavytail import plots
from heavytail.noise import KINDS

mpl.use("Agg")


def test_every_kind_has_its_style_and_its_name():
    assert set(plots.KIND_STYLES) == set(plots.KIND_LABELS) == {"none", *KINDS}
    for key in ("color", "linestyle"):
        assert len({style[key] for style in plots.KIND_STYLES.values()}) == 1 + len(KINDS)


def test_the_style_makes_the_same_svg_each_time():
    with plt.rc_context():
        plots.use_style()
        assert plt.rcParams["svg.hashsalt"] == plots.SALT


def test_sorted_columns_of_a_power_law_have_its_slope():
    norms = torch.arange(1, 1001, dtype=torch.float64) ** (-1 / 1.5)
    _, ax = plt.subplots()
    plots.sorted_columns(
        ax, norms[torch.randperm(1000, generator=torch.Generator().manual_seed(0))]
    )
    x, y = ax.lines[0].get_data()
    assert np.polyfit(np.log(x), np.log(y), 1)[0] == pytest.approx(-1 / 1.5, abs=1e-9)
    plt.close("all")


def test_a_hill_plot_is_drawn_in_the_order_of_k(generator):
    x = torch.rand(1000, generator=generator, dtype=torch.float64) ** (-1 / 1.5)
    curve = heavytail.hill_curve(x, [200, 10, 50])
    _, ax = plt.subplots()
    plots.hill_plot(ax, curve)
    k, alpha = ax.lines[0].get_data()
    assert list(k) == [10, 50, 200]
    assert alpha[-1] == pytest.approx(heavytail.hill(x, 200).alpha)
    plt.close("all")
