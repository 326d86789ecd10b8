# ---
# jupyter:
#   jupytext:
#     cell_metadata_filter: tags,mystnb,-all
#     formats: ipynb,py:percent
#     notebook_metadata_filter: kernelspec,jupytext,-jupytext.text_representation.jupytext_version
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Pruning in practice
#
# *A mask of zeros makes nothing smaller. What is left to do until the network is?*
#
# This page prunes one trained network in three ways, looks at what each costs in accuracy, and then
# makes it physically smaller: fewer numbers, less time, the same outputs. It runs in about half a
# minute.

# %% tags=["remove-cell"]
# On Colab, install the package; elsewhere, do nothing.
import sys

if "google.colab" in sys.modules:
    print("No public address yet: install heavytail by hand.")

# %%
import copy
import json
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from IPython.display import Markdown, display
from torch import nn
from torch.nn.utils import prune as torch_prune

import heavytail
from heavytail import plots
from heavytail.experiments.data import load
from heavytail.experiments.models import FullyConnected
from heavytail.experiments.train import accuracy, train

plots.use_style()
ORANGE, BLUE, GREEN = "#D55E00", "#0072B2", "#009E73"


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def table(columns, rows):
    lines = [columns, ["---"] * len(columns), *rows]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    display(Markdown(text))


# %% [markdown]
# ## Two networks
#
# Train a network of 1000 columns on the digits twice: without noise, and with noise of type III,
# strong enough to shape the columns.

# %%
digits = load("digits")
size = {
    "inputs": digits.inputs,
    "outputs": digits.classes,
    "width": 1000,
}


def trained(scale):
    model = FullyConnected(**size, generator=seeded(1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if scale:
        heavytail.StableNoise(
            optimizer,
            heavytail.hidden_weights(model),
            alpha=1.75,
            scale=scale,
            kind="isotropic",
            seed=2,
        )
    options = {"steps": 800, "batch_size": 100, "progress": False}
    train(model, optimizer, digits, seed=3, **options)
    return model.eval()


def test_accuracy(model):
    return accuracy(model, digits.x_test, digits.y_test)


nets = {"without noise": trained(0.0), "with noise": trained(0.005)}
for name, model in nets.items():
    print(f"{name}: test accuracy {100 * test_accuracy(model):.1f} %")
    assert test_accuracy(model) > 0.85

# %% mystnb={"figure": {"caption": "Column norms, sorted. Without noise the longest is not twice the shortest; with noise a few are ten times the median and more.", "name": "fig-sorted-norms"}, "image": {"alt": "Log-log plot of norm against rank: a nearly flat line near 1 for the network without noise; for that with noise a line that starts far above and falls to 1.5."}} tags=["hide-input"]
fig, ax = plt.subplots(figsize=(5.5, 3.2))
norms = {}
for (name, model), color in zip(
    nets.items(), (BLUE, ORANGE), strict=True
):
    norms[name] = heavytail.column_norms(model.body[0].weight)
    plots.sorted_columns(ax, norms[name], color=color, label=name)
ax.set(yscale="log")
ax.legend()
plt.show()
spread = {k: float(v.max() / v.median()) for k, v in norms.items()}
for name, ratio in spread.items():
    print(f"{name}: longest / median {ratio:.1f}")
assert spread["with noise"] > 5 > 2 > spread["without noise"]

# %% [markdown]
# ## Three prunings
#
# There is more than one way to take numbers out of a matrix.
#
# - *Columns* by norm: `prune(model, ...)`. Whole hidden units go.
# - *Single weights* by magnitude: `prune(model, unit="weight", ...)`. The matrix becomes sparse.
# - *Singular values*: `factorize(model, ...)`. The matrix becomes a product of two thin ones; by
#   the theorem of Eckart and Young no other matrix of that rank is nearer {cite:p}`eckart1936`.
#
# Each has a relative error in the Frobenius norm, and at equal error they cut unlike numbers of
# weights. Here at $\varepsilon^2 = 0.1$:

# %%
rows = []
for name, model in nets.items():
    for method in ("columns", "weights", "singular values"):
        if method == "singular values":
            small = heavytail.factorize(model, error=0.1**0.5)
            report = heavytail.factorization_report(small)
        else:
            small = copy.deepcopy(model)
            unit = method.removesuffix("s")
            report = heavytail.prune(small, error=0.1**0.5, unit=unit)
        part = report.kept_parameters / report.parameters
        cells = [name, method, f"{report.error:.3f}", f"{part:.3f}"]
        rows.append([*cells, f"{100 * test_accuracy(small):.1f}"])
columns = ["network", "pruned by", "relative error", "weights left"]
table([*columns, "test accuracy, %"], rows)

# %% [markdown]
# And at every fraction of weights left:

# %%
fractions = [0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0]


def pruned_to(model, method, part):
    """Return a pruned copy that keeps this fraction of the weights."""
    if method == "singular values":
        n, d = model.body[0].weight.shape
        rank = max(1, round(part * n * d / (n + d)))
        return heavytail.factorize(model, rank=rank)
    small = copy.deepcopy(model)
    heavytail.prune(small, keep=part, unit=method.removesuffix("s"))
    return small


curves = {
    (name, method): [
        test_accuracy(pruned_to(model, method, part))
        for part in fractions
    ]
    for name, model in nets.items()
    for method in ("columns", "weights", "singular values")
}

# %% mystnb={"figure": {"caption": "Test accuracy against the fraction of the hidden layer's weights that is left, one shot, for the three prunings.", "name": "fig-three-prunings"}, "image": {"alt": "Two panels, without and with noise. Left: columns and single weights are above 90 percent from a tenth of the weights on, singular values from a fifth. Right: single weights need a tenth, columns a third, singular values a half."}} tags=["hide-input"]
fig, axes = plt.subplots(1, 2, sharey=True)
styles = {
    "columns": (ORANGE, "o-"),
    "weights": (BLUE, "s--"),
    "singular values": (GREEN, "^:"),
}
for ax, name in zip(axes, nets, strict=True):
    for method, (color, style) in styles.items():
        line = curves[name, method]
        ax.semilogx(
            fractions, line, style, ms=3, color=color, label=method
        )
    ax.set(title=name, xlabel="fraction of weights left")
axes[0].set(ylabel="test accuracy")
axes[0].legend()
plt.show()

# %% tags=["hide-input"]
rows = [
    [name, method, *(f"{100 * value:.0f}" for value in line[:7])]
    for (name, method), line in curves.items()
]
table(
    ["network", "pruned by", *(f"{p:g}" for p in fractions[:7])], rows
)

# %% [markdown]
# Read the two tables against each other. At equal *error* noise lets more columns go: 218 instead of
# 122 of the thousand. At equal *fraction* it is the other way round: with a tenth of the columns the
# network without noise is right in 94 % of all cases, that with noise in 61 %. The columns that one
# keeps in the first are those that learned a little more than others. In the second they are those
# that noise made long. The relative error measures the matrix, and the matrix is not the function.
# So compressibility in the theorem's sense is no reason to prune deeper than the error allows.
#
# ## A smaller network
#
# `prune` sets masks, those of `torch.nn.utils.prune`: the weights are all still there, and the mask
# takes memory too. Of the three prunings only columns can be taken out of a dense matrix for good.
# A hidden unit whose incoming weights are all 0 puts out a constant, $\operatorname{act}(b)$. So
# the unit can go, with its outgoing weights, once the constant is added to the next bias.
# `heavytail.compact` follows these constants through the network:

# %%
masked = copy.deepcopy(nets["with noise"])
report = heavytail.prune(masked, error=0.1**0.5)
print(report)
small = heavytail.compact(masked)


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


print(f"\nparameters: {count(masked):,} -> {count(small):,}")
print(small.body[0])
with torch.no_grad():
    gap = (masked(digits.x_test) - small(digits.x_test)).abs().max()
    print(f"largest difference of outputs: {float(gap):.0e}")
    assert float(gap) < 1e-3
assert abs(count(small) / count(masked) - (1 - report.ratio)) < 0.02

# %% [markdown]
# It is an ordinary module of the same class, with the same names of parameters. It trains, saves
# and exports. The same call serves convolutions, batch normalisation, pooling, biases and residual
# connections:

# %%
torch.manual_seed(4)  # of the layers' starts
net = nn.Sequential(
    nn.Conv2d(1, 64, 3, padding=1),
    nn.BatchNorm2d(64),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Conv2d(64, 128, 3, padding=1),
    nn.ReLU(),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.Linear(128, 10),
)
with torch.no_grad():  # columns of unequal length, as noise leaves them
    for layer, n in ((net[0], 64), (net[4], 128)):
        xi = heavytail.symmetric_stable(1.5, n, generator=seeded(n))
        layer.weight.mul_(xi.abs()[:, None, None, None])
images = torch.randn(32, 1, 28, 28, generator=seeded(5))
net.eval()
report = heavytail.prune(
    net, error=0.1**0.5, layers=["0", "4"], example=images
)
small_net = heavytail.compact(net)
print(report)
print(f"\nparameters: {count(net):,} -> {count(small_net):,}")
with torch.no_grad():
    before, after = net(images), small_net(images)
assert torch.allclose(
    before, after, atol=1e-5 * float(before.abs().max())
)

# %% [markdown]
# The second layer loses rows *and* columns, so the network shrinks by more than the report of the
# masked layers says. A unit that cannot go exactly stays: a nonzero constant before a convolution
# that pads with zeros, for example.
#
# ## Is it faster?
#
# The recorded case: ECG5000, width 10,000, $\alpha = 1.75$, $\sigma = 0.01$, 2000 steps, pruned at
# $\varepsilon^2 = 0.1$; a batch of 500 on one thread.

# %% tags=["hide-input"]
record = json.loads(Path("results/compaction.json").read_text())
rows = []
for kind, case in record["kinds"].items():
    for name, row in case["models"].items():
        cells = [
            plots.KIND_LABELS[kind],
            name,
            f"{row['parameters']:,}",
        ]
        cells += [f"{row['file, bytes'] / 1e6:.1f}"]
        cells += [
            f"{row['milliseconds']:.1f}",
            f"{row['time / dense']:.2f}",
        ]
        rows.append([*cells, f"{100 * row['test accuracy']:.1f}"])
columns = ["noise", "network", "parameters", "file, MB", "ms"]
table([*columns, "time / dense", "test accuracy, %"], rows)
kept = {k: case["fraction kept"] for k, case in record["kinds"].items()}
print("fraction of columns kept:", kept)

# %% [markdown]
# *Recorded by* `python -m benchmarks.compaction --record book/results/compaction.json`.
#
# Masks save nothing: the file doubles, the time stays. Compaction cuts both about in proportion to
# the columns kept. Round sizes matter to matrix products: a layer of some hundred columns and more
# is cut to a multiple of 16, at a handful of dead columns, and is faster for it than at its exact
# size, `compact(model, multiple_of=1)`. With noise of type I the low-rank network is smaller still,
# since that noise is of rank one; but what it leaves out is what was learned: the accuracy drops.
#
# ## A few steps more
#
# One-shot pruning deep into the network costs accuracy. With the masks in place a few gradient
# steps, without noise, win it back; the masks hold.

# %%
rows = []
for part in (0.02, 0.05, 0.1):
    model = copy.deepcopy(nets["with noise"])
    heavytail.prune(model, keep=part)
    once = test_accuracy(model)
    zero = model.body[0].weight_mask == 0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    options = {"steps": 100, "batch_size": 100, "progress": False}
    train(model, optimizer, digits, seed=4, **options)
    model.eval()
    tuned = test_accuracy(model)
    assert not model.body[0].weight[zero].any()
    assert tuned > once
    final = heavytail.compact(model)
    cells = [f"{part:g}", f"{count(final):,}", f"{100 * once:.1f}"]
    rows.append([*cells, f"{100 * tuned:.1f}"])
columns = ["kept", "parameters when compact", "one shot, %"]
table([*columns, "after 100 steps, %"], rows)

# %% [markdown]
# ## Takeaway

# %% tags=["hide-input"]
case = record["kinds"]["shared"]
tenth = fractions.index(0.1)
noisy = 100 * curves["with noise", "columns"][tenth]
plain = 100 * curves["without noise", "columns"][tenth]
assert noisy < plain - 10
best = case["models"]["compact"]
takeaway = f"""
> **Takeaway.** Pruned by columns, a network becomes smaller in fact. On
> ECG5000 at ε² = 0.1 the compact network has
> {100 * case["fraction kept"]:.0f} % of the parameters and takes
> {100 * best["time / dense"]:.0f} % of the time, with outputs equal to
> rounding. At equal error, noise lets more columns go; at an equal
> fraction of columns it costs accuracy, {noisy:.0f} % instead of
> {plain:.0f} % on the digits with a tenth of them.
"""
display(Markdown(takeaway))

# %% [markdown]
# ## Exercises
#
# **1. Undo it.** The masks are torch's own. Remove them in two ways: make them permanent, and take
# them back.

# %% tags=["hide-cell"]
model = copy.deepcopy(nets["with noise"])
heavytail.prune(model, keep=0.3)
layer = model.body[0]
original = layer.weight_orig.detach().clone()
torch_prune.remove(layer, "weight")  # permanent
assert int((layer.weight == 0).all(1).sum()) == 700
with torch.no_grad():
    layer.weight.copy_(original)  # taken back
assert torch.equal(layer.weight, nets["with noise"].body[0].weight)
print("permanent, and undone")

# %% [markdown]
# **2. Across layers.** In a network of two hidden layers, compare `scope="layer"` and
# `scope="global"` at `keep=0.3`. Which layer loses more columns, and why?

# %% tags=["hide-cell"]
for scope in ("layer", "global"):
    deep = FullyConnected(**size, hidden_layers=2, generator=seeded(6))
    report = heavytail.prune(deep, keep=0.3, scope=scope)
    print(scope, [layer.kept for layer in report.layers])
# Both layers start with columns of norm about 1/√3 whatever their number
# of inputs, but those of the first, of 64 weights, differ more: more of
# its columns are among the longest, and among the shortest.
first, second = report.layers
assert first.kept != second.kept

# %% [markdown]
# **3. Rank of noise.** Type I noise is a multiple of $(1, \dots, 1)$ in every column. Show that start
# plus noise has all but one singular value of the size of the start's, and check it.

# %% tags=["hide-cell"]
# W = W_0 + z 1ᵀ, a change of rank one: singular values interlace.
start = torch.randn(300, 40, generator=seeded(7)).double()
zeta = heavytail.symmetric_stable(
    1.5, (300, 1), generator=seeded(8), dtype=torch.float64
)
before = torch.linalg.svdvals(start)
after = torch.linalg.svdvals(start + zeta)
print(f"largest {after[0]:.0f}, next {after[1]:.1f} <= {before[0]:.1f}")
assert (after[1:] <= before[:-1] + 1e-9).all()
