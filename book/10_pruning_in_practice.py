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
# This page prunes three trained networks in three ways, looks at what each costs in accuracy, and then
# makes one physically smaller: fewer numbers, less time, the same outputs. It runs in about half a
# minute.

# %% tags=["remove-cell"]
# On Colab, install the package; elsewhere, do nothing.
import sys

if "google.colab" in sys.modules:
    print("No public address yet: install heavytail by hand.")

# %%
import copy

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
from helpers import read_record, seeded, show_table, size_of, slider

plots.use_style()
ORANGE, BLUE, GREEN = "#D55E00", "#0072B2", "#009E73"


# %% [markdown]
# ## Three networks
#
# Train a network of 1000 columns on the digits three times: without noise; with noise of type III
# and $\alpha = 1.75$, strong enough to shape the columns; and, as a control, with Gaussian noise
# whose sum has the same median norm. One seed each, and 359 test images: one image is 0.3 points.

# %%
digits = load("digits")
size = {
    "inputs": digits.inputs,
    "outputs": digits.classes,
    "width": 1000,
}
lr, steps = 0.1, 800


def trained(alpha=2.0, scale=0.0):
    model = FullyConnected(**size, generator=seeded(1))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    if scale:
        heavytail.StableNoise(
            optimizer,
            heavytail.hidden_weights(model),
            alpha=alpha,
            scale=scale,
            kind="isotropic",
            seed=2,
        )
    options = {"steps": steps, "batch_size": 100, "progress": False}
    train(model, optimizer, digits, seed=3, **options)
    return model.eval()


def median_norm(alpha):
    """Return the median norm of all noise of a training at scale 1."""
    xi = heavytail.noise_vectors(
        "isotropic", alpha, 20_000, digits.inputs, generator=seeded(0)
    )
    return (lr * steps) ** (1 / alpha) * float(xi.norm(dim=1).median())


def test_accuracy(model):
    return accuracy(model, digits.x_test, digits.y_test)


gaussian_scale = 0.005 * median_norm(1.75) / median_norm(2.0)
nets = {
    "no noise": trained(),
    "heavy-tailed": trained(1.75, 0.005),
    "Gaussian": trained(2.0, gaussian_scale),
}
for name, model in nets.items():
    print(f"{name}: test accuracy {100 * test_accuracy(model):.1f} %")
    assert test_accuracy(model) > 0.85

# %% mystnb={"figure": {"caption": "Column norms, sorted. Without noise the longest is not twice the shortest; Gaussian noise lengthens all alike; heavy-tailed noise of the same median makes a few far longer.", "name": "fig-sorted-norms"}, "image": {"alt": "Log-log plot of norm against rank: two nearly flat lines, between 0.4 and 1.2, without noise and with Gaussian noise; for heavy-tailed noise a line that starts ten times higher and falls to that of Gaussian noise."}} tags=["hide-input"]
fig, ax = plt.subplots(figsize=(5.5, 3.2))
norms = {}
for (name, model), color in zip(
    nets.items(), (BLUE, ORANGE, GREEN), strict=True
):
    norms[name] = heavytail.column_norms(model.body[0].weight)
    plots.sorted_columns(ax, norms[name], color=color, label=name)
ax.set(yscale="log")
ax.legend()
plt.show()
spread = {k: float(v.max() / v.median()) for k, v in norms.items()}
for name, ratio in spread.items():
    print(f"{name}: longest / median {ratio:.1f}")
assert spread["heavy-tailed"] > 5 > 2 > spread["no noise"]

# %% [markdown]
# ## Three prunings
#
# There is more than one way to take numbers out of a matrix.
#
# - *Columns* by norm: `prune(model, ...)`. Whole hidden units go.
# - *Single weights* by magnitude: `prune(model, unit="weight", ...)`. The matrix becomes sparse.
# - *Singular values*: keep the $r$ largest. The matrix, $n$ by $d$, becomes a product of two thin
#   ones of $r (n + d)$ weights; by the theorem of Eckart and Young no other matrix of that rank is
#   nearer {cite:p}`eckart1936`.
#
# Each has a relative error in the Frobenius norm, and at equal error they remove different
# numbers of weights. Here at $\varepsilon^2 = 0.1$:


# %%
def low_rank(model, *, rank=None, error=None):
    """Return a copy of this rank, or error; its error, its weights."""
    small = copy.deepcopy(model)
    weight = small.body[0].weight.detach()
    U, s, Vt = torch.linalg.svd(weight.double(), full_matrices=False)
    if rank is None:  # the least with at most this error
        left = s.square().flip(0).cumsum(0).flip(0)
        rank = int((left > (error * s.norm()) ** 2).sum())
    weight.copy_((U[:, :rank] * s[:rank]) @ Vt[:rank])
    part = rank * sum(weight.shape) / weight.numel()
    return small, float(s[rank:].norm() / s.norm()), part


rows = []
for name, model in nets.items():
    for method in ("columns", "weights", "singular values"):
        if method == "singular values":
            small, lost, part = low_rank(model, error=0.1**0.5)
        else:
            small = copy.deepcopy(model)
            unit = method.removesuffix("s")
            report = heavytail.prune(small, error=0.1**0.5, unit=unit)
            lost = report.error
            part = report.kept_parameters / report.parameters
        cells = [name, method, f"{lost:.3f}", f"{part:.3f}"]
        rows.append([*cells, f"{100 * test_accuracy(small):.1f}"])
columns = ["network", "pruned by", "relative error", "weights left"]
show_table([*columns, "test accuracy, %"], rows)

# %% [markdown]
# At this error no pruning costs more than a point or two, in any network. Single weights go furthest.
# And at every fraction of weights left:

# %%
fractions = [0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0]
METHODS = ("columns", "weights", "singular values", "random columns")


def pruned_to(model, method, part, seed=0):
    """Return a pruned copy that keeps this fraction of the weights."""
    n, d = model.body[0].weight.shape
    if method == "singular values":
        rank = max(1, round(part * n * d / (n + d)))
        return low_rank(model, rank=rank)[0]
    small = copy.deepcopy(model)
    if method == "random columns":
        mask = torch.zeros(n, d)
        mask[
            torch.randperm(n, generator=seeded(seed))[: round(part * n)]
        ] = 1
        torch_prune.custom_from_mask(small.body[0], "weight", mask)
    else:
        heavytail.prune(small, keep=part, unit=method.removesuffix("s"))
    return small


def mean_accuracy(model, method, part):
    """Average over ten draws where columns are drawn."""
    seeds = range(10 if method == "random columns" else 1)
    found = [
        test_accuracy(pruned_to(model, method, part, seed))
        for seed in seeds
    ]
    return sum(found) / len(found)


curves = {
    (name, method): [
        mean_accuracy(model, method, part) for part in fractions
    ]
    for name, model in nets.items()
    for method in METHODS
}

# %% mystnb={"figure": {"caption": "Test accuracy against the fraction of the hidden layer's weights that is left, one shot. Grey: columns drawn at random, ten draws.", "name": "fig-three-prunings"}, "image": {"alt": "Three panels. Without noise and with Gaussian noise, keeping columns by norm lies well above random columns, and single weights above both. With heavy-tailed noise the line of columns by norm lies on that of random columns, and single weights far above."}} tags=["hide-input"]
fig, axes = plt.subplots(1, 3, sharey=True, figsize=(7.5, 2.9))
styles = {
    "columns": (ORANGE, "o-"),
    "weights": (BLUE, "s--"),
    "singular values": (GREEN, "^:"),
    "random columns": ("0.6", "-"),
}
for ax, name in zip(axes, nets, strict=True):
    for method, (color, style) in styles.items():
        line = curves[name, method]
        ax.semilogx(
            fractions, line, style, ms=3, color=color, label=method
        )
    ax.set(title=name, xlabel="weights left")
axes[0].set(ylabel="test accuracy")
axes[0].legend(fontsize=7)
plt.show()

# %% tags=["hide-input"]
rows = [
    [name, method, *(f"{100 * value:.0f}" for value in line[:7])]
    for (name, method), line in curves.items()
]
show_table(
    ["network", "pruned by", *(f"{p:g}" for p in fractions[:7])],
    rows,
)

# %% [markdown]
# Move the slider to remove columns yourself, the shortest first.

# %% tags=["hide-input", "nbval-ignore-output"]
gone = [j / 20 for j in range(20)] + [0.98, 0.99, 0.995]
kept_accuracy = {
    name: [
        100 * test_accuracy(pruned_to(model, "columns", 1 - part))
        for part in gone
    ]
    for name, model in nets.items()
}


def frame(part):
    """Draw the sorted norms, the removed ones grey, and the accuracy."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(7, 3))
    j = gone.index(part)
    for name, color in zip(nets, (BLUE, ORANGE, GREEN), strict=True):
        length = norms[name]
        kept = round((1 - part) * len(length))
        plots.sorted_columns(left, length, color=color)
        line = kept_accuracy[name]
        right.plot(gone, line, color=color, label=name)
        right.plot(part, line[j], "o", color=color)
    left.axvspan(max(kept, 1), len(length), color="0.9")
    left.set(yscale="log", title=f"{kept} columns kept")
    scores = ", ".join(f"{c[j]:.0f}" for c in kept_accuracy.values())
    right.set(title=f"accuracy {scores} %", ylim=(0, 100))
    right.set(xlabel="fraction of columns removed")
    right.set(ylabel="test accuracy, %")
    right.legend(loc="lower left", fontsize=8)
    return fig


slider(
    map(frame, gone),
    [f"{100 * part:g} % removed" for part in gone],
    moves="columns removed",
    name="fig-columns-removed",
    start=gone.index(0.5),
    caption="Left, the sorted norms, with those removed in grey. Right, "
    "the test accuracy without them. The network with heavy-tailed noise "
    "keeps the few columns that carry its matrix, and with seven tenths "
    "gone it has lost most.",
    alt="Left, sorted column norms of three networks, the shortest of "
    "them shaded as removed. Right, their test accuracies against the "
    "fraction removed, with a dot at the chosen one: all above 90 "
    "percent at first; from 0.7 on that with heavy-tailed noise is the "
    "lowest.",
)

# %% [markdown]
# Read the table at $\varepsilon^2 = 0.1$ against the one by fractions. At equal *error* heavy-tailed
# noise lets more columns go, and Gaussian noise does not, as {eq}`eq-error-with-start` says. At equal
# *fraction* it is the other way round, and the grey lines say why. Without noise, keeping the longest
# columns is far better than keeping random ones; with heavy-tailed noise, up to a fifth kept, it is no
# better than chance.
# (That the norm says so much without noise is the gradients' work. Where they move the weights less,
# it says less: [](12_experiments.ipynb), exercise 2.) With
# noise the length of a column says which one the noise has hit, and little about what it does. The
# relative error measures the matrix, and the matrix is not the function. A matrix that is
# compressible in this sense may be pruned to that error, and no deeper.
#
# ## A smaller network
#
# `prune` sets masks, those of `torch.nn.utils.prune`: the weights are all still there, and the mask
# takes memory too. Sparse weights leave the matrix its size. Singular values replace it by two thin
# ones. Columns can be taken out for good: a hidden unit whose incoming weights are all 0
# puts out a constant, the activation of its bias. So the unit can go, once that constant, times its
# outgoing weights, is added to the next bias. `heavytail.compact` follows these constants through the network:

# %%
masked = copy.deepcopy(nets["heavy-tailed"])
report = heavytail.prune(masked, error=0.1**0.5)
print(report)
small = heavytail.compact(masked)

print(f"\nparameters: {size_of(masked):,} -> {size_of(small):,}")
print(small.body[0])
with torch.no_grad():
    gap = (masked(digits.x_test) - small(digits.x_test)).abs().max()
    print("the outputs agree to 0.0001")
    assert float(gap) < 1e-4
assert abs(size_of(small) / size_of(masked) - (1 - report.ratio)) < 0.02

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
report = heavytail.prune(net, error=0.1**0.5, layers=["0", "4"])
small_net = heavytail.compact(net)
print(report)
print(f"\nparameters: {size_of(net):,} -> {size_of(small_net):,}")
with torch.no_grad():
    before, after = net(images), small_net(images)
assert torch.allclose(
    before, after, atol=1e-5 * float(before.abs().max())
)

# %% [markdown]
# The second layer loses units, and inputs of the units that stay, so the network shrinks by more
# than the report of the masked layers says. A unit stays if its constant cannot be moved into the next
# layer: a nonzero constant before a convolution that pads with zeros differs at the border.
#
# ## Is it faster?
#
# The recorded case: ECG5000, width 10,000, $\alpha = 1.75$, $\sigma = 0.01$, 2000 steps at
# $\eta = 0.01$, pruned at $\varepsilon^2 = 0.1$; a batch of 500 on one thread.

# %% tags=["hide-input"]
record = read_record("compaction")
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
show_table([*columns, "time / dense", "test accuracy, %"], rows)
kept = {k: case["fraction kept"] for k, case in record["kinds"].items()}
print("fraction of columns kept:", kept)

# %% [markdown]
# *Recorded by* `python -m benchmarks.compaction --record book/results/compaction.json`.
#
# Masks save nothing: the file doubles, the time stays. Compaction cuts both about in proportion to
# the columns kept. Round sizes matter to matrix products: a layer of a hundred columns or more
# is cut to a multiple of 16, at a handful of dead columns, and is faster for it than at its exact
# size, `compact(model, multiple_of=1)`.
#
# ## A few steps more
#
# One-shot pruning deep into the network costs accuracy. With the masks in place a few gradient
# steps, without noise, win most of it back; the masks hold. As a control, a fresh network of the
# small size, trained as long as the large one was and then the same few steps.

# %%
rows = []
for part in (0.02, 0.05, 0.1):
    model = copy.deepcopy(nets["heavy-tailed"])
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
    columns = round(part * 1000)
    fresh = FullyConnected(
        **size | {"width": columns}, generator=seeded(5)
    )
    optimizer = torch.optim.SGD(fresh.parameters(), lr=lr)
    options["steps"] = steps + 100
    train(fresh, optimizer, digits, seed=3, **options)
    cells = [f"{part:g}", f"{size_of(final):,}", f"{100 * once:.1f}"]
    cells.append(f"{100 * tuned:.1f}")
    rows.append([*cells, f"{100 * test_accuracy(fresh.eval()):.1f}"])
columns = ["kept", "parameters when compact", "one shot, %"]
show_table(
    [*columns, "after 100 steps, %", "a fresh small network, %"], rows
)

# %% [markdown]
# The fresh small network is better in every row, with as many training steps in all. On a task this
# easy, there is no need to prune a large one.


# %% [markdown]
# ## Takeaway

# %% tags=["remove-input"]
case = record["kinds"]["shared"]
best = case["models"]["compact"]
tenth = fractions.index(0.1)
noisy = 100 * curves["heavy-tailed", "columns"][tenth]
chance = 100 * curves["heavy-tailed", "random columns"][tenth]
plain = 100 * curves["no noise", "columns"][tenth]
assert noisy < plain - 10
assert abs(noisy - chance) < 15
takeaway = f"""
> **Takeaway.** Pruned by columns, a network becomes smaller in fact. On
> ECG5000 at ε² = 0.1 the compact network has
> {100 * case["fraction kept"]:.0f} % of the parameters and takes
> {100 * best["time / dense"]:.0f} % of the time, with the outputs of the
> masked one to rounding (noise of type I). At equal error, heavy-tailed noise lets more
> columns go. At an equal fraction it costs accuracy: with a tenth of the
> columns {noisy:.0f} % instead of {plain:.0f} % on the digits, no better
> than a tenth drawn at random ({chance:.0f} %).
"""
display(Markdown(takeaway))

# %% [markdown]
# ## Exercises
#
# **1. Undo it.** The masks are torch's own. Remove them in two ways: make them permanent, and take
# them back.

# %% tags=["hide-cell"]
model = copy.deepcopy(nets["heavy-tailed"])
heavytail.prune(model, keep=0.3)
layer = model.body[0]
original = layer.weight_orig.detach().clone()
torch_prune.remove(layer, "weight")  # permanent
assert int((layer.weight == 0).all(1).sum()) == 700
with torch.no_grad():
    layer.weight.copy_(original)  # taken back
assert torch.equal(layer.weight, nets["heavy-tailed"].body[0].weight)
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
# of inputs (the network is untrained), but those of the first, of 64
# weights, differ more: more of its columns are among the longest, and
# among the shortest. So the second loses more, 830 of 1000.
first, second = report.layers
assert first.kept != second.kept

# %% [markdown]
# **3. Rank of noise.** Type I noise is a multiple of $(1, \dots, 1)$ in every column, so that start plus
# noise is $W_0 + z 1^\top$. Show that its singular values interlace with the start's,
# $\sigma_{j+1}(W_0) \le \sigma_j(W_0 + z 1^\top) \le \sigma_{j-1}(W_0)$, and check it.

# %% tags=["hide-cell"]
# W = W_0 + z 1ᵀ, a change of rank one: singular values interlace, from
# above and from below.
start = torch.randn(300, 40, generator=seeded(7)).double()
zeta = heavytail.symmetric_stable(
    1.5, (300, 1), generator=seeded(8), dtype=torch.float64
)
before = torch.linalg.svdvals(start)
after = torch.linalg.svdvals(start + zeta)
print(f"largest {after[0]:.0f}, next {after[1]:.1f} <= {before[0]:.1f}")
assert (after[1:] <= before[:-1] + 1e-9).all()
assert (after[:-1] >= before[1:] - 1e-9).all()

# %% [markdown]
# *Reference:* [](api/compression.md).
