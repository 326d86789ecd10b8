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
# # Experiments
#
# *Networks trained with heavy-tailed noise can be pruned further. Is it the heavy tail, is it any
# noise, and is it anything that the network has learned?*
#
# ```{admonition} The paper's claim
# :class: note
# On ECG5000, MNIST and CIFAR, with wide networks, $\sigma$ of about 0.003 and $\eta$ of about 0.01,
# trained until 95 % of the training examples are right, heavy-tailed noise with $\alpha$ of 1.75 to
# 1.9 lets more columns be pruned than no noise, at squared error 0.1, with little loss of accuracy
# {cite:p}`wan2024`. By its theory the cause is the tail; its experiments compare with no noise.
# ```
#
# This page makes such experiments anew, for fully connected networks. It departs from the paper in three
# points: the number of steps is fixed, since on ECG5000 the paper's stop comes before the noise has
# acted ([](14_the_official_code.ipynb)); $\sigma$ is chosen anew for each kind and index; and each kind gets
# a Gaussian control. The runs are recorded. The page reads the records, and runs in half a minute.

# %% tags=["remove-cell"]
# On Colab, install the package; elsewhere, do nothing.
import sys

if "google.colab" in sys.modules:
    print("No public address yet: install heavytail by hand.")

# %% tags=["hide-input"]
import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Markdown, display

import heavytail
from heavytail import plots
from heavytail.experiments import (
    results,
    runs,
    tables,
)
from heavytail.experiments.data import load
from heavytail.experiments.models import FullyConnected
from heavytail.experiments.train import accuracy, train
from heavytail.noise import NUMERALS
from helpers import read_record, recorded, seeded, show_table

plots.use_style()


def spread(values, digits, factor=1.0):
    """Return the median, the least and the greatest of some numbers."""
    found = (np.median(values), min(values), max(values))
    middle, low, high = (f"{factor * x:.{digits}f}" for x in found)
    return f"{middle} [{low}, {high}]"


COMPARED = ("noise", "α", "σ", "ratio", "predicted, 5–95 %")
COMPARED += ("accuracy, %", "after pruning, %", "without noise, %")


def compared(row, plain):
    """Return the cells of a row beside runs without noise, by seed."""
    if not row.finished:
        return [*row.noise(), *["not yet"] * 5]
    assert len(row.results) == len(plain.results)
    pairs = zip(row.results, plain.results, strict=True)
    both = [(r, p) for r, p in pairs if r.diverged is None]
    lost = len(row.results) - len(both)
    return [
        *row.noise(),
        spread([r.ratio for r, _ in both], 2)
        + (f", {lost} diverged" if lost else ""),
        row.predicted(2),
        row.text(lambda r: r.test.accuracy, 2, 100),
        spread([r.pruned_test.accuracy for r, _ in both], 1, 100),
        spread([p.accuracy_without(r.ratio) for r, p in both], 1, 100),
    ]


# %% [markdown]
# ## One run
#
# A run is one configuration and one result. The seed stands for the start, the noise and the
# batches, each drawn apart from the others: two runs that differ in their noise only have the same
# start and see the same batches. Noise of type III (`"isotropic"`) is the rotationally symmetric one;
# I (`"shared"`) moves all weights of a column alike, II (`"independent"`) each by itself
# ([](02_heavy_tails.ipynb)).

# %%
config = results.Config(
    data="digits",
    width=500,
    steps=400,
    lr=0.1,
    kind="isotropic",
    alpha=1.75,
    scale=0.005,
    seed=1,
)
result = runs.run(config)
print(f"test accuracy {100 * result.test.accuracy:.1f} %")
print(
    f"{100 * result.ratio:.0f} % of the columns can go; "
    f"then {100 * result.pruned_test.accuracy:.1f} %"
)
assert result.diverged is None

# %% [markdown]
# Everything is measured on one iterate, the weights $W_K$ after the last step and its noise. The
# **pruning ratio** is the largest fraction of columns that can be removed while the squared relative
# error of the matrix stays at most 0.1, in each layer; the last layer is left alone. Beside the
# scores a result holds the accuracy with 10, 20, … % of the columns removed, the quantiles of
# their norms, estimates of the tail index, and what can be said of the noise $N$ by itself: its draws
# are known from its seed, and $W_K = W_0 + N + G$ splits into start, noise and gradients.
#
# ## How strong should the noise be?
#
# The ratio of the start is a **floor**: its columns all have nearly the same norm, and about 11 % can
# go. As $\sigma$ grows, the ratio tends to that of noise alone, which is random; call its median the
# **ceiling**. Both are known before training ([](04_heavy_tailed_sgd.ipynb)):

# %%
start = FullyConnected(140, 2, width=2000, generator=seeded(0))
law = {"lr": 0.01, "steps": 2000, "error": 0.1**0.5}
rows, ceiling = [], {}
for kind in NUMERALS:
    cells = [plots.KIND_LABELS[kind]]
    for alpha in (1.75, 1.8, 1.9, 2.0):
        found = heavytail.predict_pruning(
            start,
            **law,
            kind=kind,
            alpha=alpha,
            scale=1e6,
            draws=60 if kind == "independent" else 100,
            generator=seeded(1),
        )
        ceiling[kind, alpha] = float(found.quantile(0.5))
        cells.append(f"{ceiling[kind, alpha]:.2f}")
    rows.append(cells)
columns = ["ceiling, width 2000", "α = 1.75", "1.8", "1.9"]
show_table([*columns, "2, Gaussian"], rows)
assert ceiling["shared", 1.75] < 0.8
assert ceiling["isotropic", 2.0] < 0.13 < ceiling["isotropic", 1.9]

# %% [markdown]
# Two effects can be told apart here. With type I even *Gaussian* noise has a ceiling of 0.55: it makes
# the columns multiples $z_i$ of one vector, and for Gaussian $z$ the 55 % smallest carry a tenth of
# the squares, $\E[z^2\, \mathbf 1_{|z| < 0.76}] = 0.1$. The tail takes that to 0.72. With types II and
# III Gaussian noise stays at 0.12 however strong it is. All above that is the tail's.
#
# So each kind and index gets two scales, chosen by one rule before training: those at which the
# predicted median stands halfway between floor and ceiling, and nine tenths of the way up.
#
# ## ECG5000
#
# Heartbeats of 140 samples, normal against the rest; 500 to train on, 4500 to test, 58 % of them
# normal. One hidden layer of 2000, 2000 steps of batch 100 at $\eta = 0.01$, five seeds. Ratios are
# medians of the five, with the least and the greatest. So are accuracies after pruning; those before
# are means with the standard error over the seeds. All are of one test set, whose own error is 0.2
# points. The last column is the network without noise *with the same seed, pruned to the
# same fraction as each run*.

# %% tags=["hide-input"]
ecg, controls = recorded("ecg5000-table"), recorded("ecg5000-gaussian")
show_table(COMPARED, [compared(row, ecg[0]) for row in ecg])
inside = [r.inside for row in ecg[1:] for r in row.finished]
print(
    f"{sum(inside)} of {len(inside)} runs inside their predicted band"
)
assert np.mean(inside) > 0.9

# %% [markdown]
# *The ratio.* Nearly all runs lie in the band that was predicted for them. (They are fifteen draws and
# not ninety: a seed draws the same bits for every index and scale. The prediction is tested on
# independent runs in [](04_heavy_tailed_sgd.ipynb).)
#
# *The accuracy.* Before pruning, type I has that of the network without noise in every digit. That is
# no accident, and explained below. After pruning most runs have what the network without noise has at
# the same fraction. On this task most columns can go whatever the training; what the noise changes is
# the *criterion*, the error of the matrix.
#
# *The exceptions* are runs of type III. The worst is the third here:

# %% tags=["hide-input"]
(strong,) = (
    row
    for row in ecg
    if (row.config.kind, row.config.alpha, row.config.scale)
    == ("isotropic", 1.75, 0.0209)
)
rows = []
for seed, r in enumerate(strong.finished):
    norms = r.layers[0].norms
    scores = [r.test.accuracy, r.pruned_test.accuracy]
    scores.append(ecg[0].finished[seed].accuracy_without(r.ratio))
    cells = [str(seed), f"{norms[-1] / norms[3]:.0f}", f"{r.ratio:.2f}"]
    rows.append([*cells, *(f"{100 * score:.1f}" for score in scores)])
seeds = ["III, α = 1.75, σ = 0.0209: seed", "largest norm / median"]
show_table([*seeds, "ratio", *COMPARED[-3:]], rows)
fallen = strong.finished[2]
others = [r.accuracy_without(0.98) for r in ecg[0].finished]
assert sorted(others)[1] > 0.95
assert ecg[0].finished[2].accuracy_without(0.99) > 0.95
assert fallen.ratio > 0.95
assert fallen.pruned_test.accuracy < 0.5 < 0.97 < fallen.test.accuracy
assert ecg[0].finished[2].accuracy_without(fallen.ratio) > 0.7

# %% [markdown]
# This is the mechanism of the theorem at work. A few columns carry the matrix, 98 % of all columns can
# go at squared error 0.1, and what is left no longer knows the heartbeats: 44 % right, where always
# saying "normal" gives 58 %. The fraction alone does not explain it. Four of the five networks without
# noise keep at least 95 % at that fraction. (The one with this seed dips there, and has 95 % again with
# half as many columns.) The columns kept are those that the noise chose.

# %% mystnb={"figure": {"caption": "ECG5000: accuracy after pruning at squared error 0.1 against the fraction removed. Small dots: the runs, all of the same steps and batches; large marks: for each kind, index and scale the median ratio and the median accuracy of its five runs; triangles at the lower edge: runs below the axis, with their accuracy. Most runs lie within half a point of the line, the network without noise pruned to the same fractions.", "name": "fig-accuracy-ratio"}, "image": {"alt": "Accuracy in percent against the fraction removed. The line of the network without noise stays between 98 and 98.5 up to nine tenths. All medians lie within half a point of it: those of types II and III between 0.12 and 0.37, those of type I between 0.25 and 0.63, with the Gaussian controls at the left end of each kind. Three runs of type III have fallen below the axis."}} tags=["hide-input"]
marks = {1.75: "o", 1.8: "s", 1.9: "^", 2.0: "x"}
bottom = 97.0


def curve(row):
    """Return fractions, and the mean test accuracy in percent."""
    scores = [
        [point.test.accuracy for point in run.curve]
        for run in row.finished
    ]
    fractions = [point.fraction for point in row.finished[0].curve]
    return fractions, 100 * np.mean(scores, axis=0)


fig, ax = plt.subplots()
ax.plot(*curve(ecg[0]), **plots.KIND_STYLES["none"], label="no noise")
for row in [*ecg[1:], *controls]:
    found = [(r.ratio, r.pruned_test.accuracy) for r in row.finished]
    points = np.array(found) * [1, 100]
    color = plots.KIND_STYLES[row.config.kind]["color"]
    shown = points[points[:, 1] >= bottom]
    ax.plot(*shown.T, ".", color=color, markersize=3, alpha=0.5)
    middle = np.median(points, axis=0)
    ax.plot(*middle, marks[row.config.alpha], color=color)
    for ratio, score in points[points[:, 1] < bottom]:
        ax.plot(ratio, bottom + 0.06, "v", color=color, markersize=3)
        height = bottom + (0.15 if score > 90 else 0.35)
        ax.text(ratio, height, f"{score:.0f} %", fontsize=8)
for kind in NUMERALS:
    color = plots.KIND_STYLES[kind]["color"]
    ax.plot([], [], "o", color=color, label=plots.KIND_LABELS[kind])
for alpha, mark in marks.items():
    ax.plot([], [], mark, color="0.4", label=f"α = {alpha:g}")
ax.set(xlabel="fraction of columns removed", ylabel="test accuracy, %")
ax.set(xlim=(0, 1.03), ylim=(bottom, 100.2))
ax.legend(ncols=2, fontsize=8, loc="upper right")
plt.show()

# %% [markdown]
# ## The control: Gaussian noise
#
# Is it the heavy tail, or just noise? The control replaces $\alpha = 1.75$ by 2, keeps the kind, and
# takes $\sigma_2$ such that the accumulated noise has the same *median* norm: a typical column is
# moved as far, only the large jumps are missing.

# %% tags=["hide-input"]
rows, gained = [], {}
for row in controls:
    kind = row.config.kind
    place = [c for c in controls if c.config.kind == kind].index(row)
    other = [
        r
        for r in ecg
        if (r.config.kind, r.config.alpha) == (kind, 1.75)
    ][place]
    rows += [compared(other, ecg[0]), compared(row, ecg[0])]
    ratios = (
        np.median([r.ratio for r in some.finished])
        for some in (ecg[0], row, other)
    )
    floor, gauss, tail = ratios
    gained[kind, place] = gauss, tail, (gauss - floor) / (tail - floor)
show_table(COMPARED, rows)
for place, name in enumerate(("halfway", "nine tenths")):
    shares = [
        f"{NUMERALS[k]} {gained[k, place][2]:.2f}" for k in NUMERALS
    ]
    print(f"{name}: Gaussian part of the gain,", ", ".join(shares))
assert 0.4 < gained["shared", 0][2] < gained["shared", 1][2] < 0.8
assert max(gained[k, 1][2] for k in ("independent", "isotropic")) < 0.1

# %% [markdown]
# **Type I.** Gaussian noise of the same median norm gives half to seven tenths of what heavy-tailed noise
# adds to the floor. It is the shape of the noise, one number for each column, that spreads the norms.
#
# **Types II and III.** Gaussian noise gives next to nothing, and by the ceilings above it could not at any
# strength. Here the tail is the cause of the ratio, as the paper's theory has it.
#
# ## What the noise does to the function
#
# The ratio is a property of the matrix. What does the network notice?
#
# ```{prf:proposition} Invisible noise
# :label: prp-invisible
# Let a fully connected network without biases be trained by SGD with noise on its first layer, and
# let $V$ be the span of all inputs it ever meets, in training and in use. Then the part of the noise
# that is orthogonal to $V$ changes no output and no gradient, at any step: the network computes
# what it would have computed without that part. (Pruning is not covered: it looks at norms.)
# ```
#
# ```{prf:proof}
# Write $W = W P + W (I - P)$ with $P$ the projection on $V$. A pre-activation is $W x = W P x$, since
# $x \in V$. The gradient of the loss in $W_i$ is a combination of inputs, so it lies in $V$. Hence
# $W P$, the other layers and the outputs follow a recursion in which $W(I - P)$ does not appear.
# ```
#
# Pruning does see that part, since it adds to the norms. A network can become as compressible as one
# likes by weights that meet no input. ECG5000 is of this kind for type I: its noise is a multiple of
# $(1, \dots, 1)$ for each column, every heartbeat is normalised to mean zero, and so
# $\langle (1, \dots, 1), x \rangle = 0$.
#
# Two numbers say how much of the noise $N$ in the first layer meets the training examples, the rows of
# $X$. With $Q$ the projection on their span,
#
# ```{math}
# :label: eq-gain
# \text{span} = \frac{\|N Q\|}{\|N\|}, \qquad
# \text{gain} = \frac{\sqrt d\,\|N X^\top\|}{\|N\|\,\|X\|} .
# ```
#
# The gain compares how far the noise moves the pre-activations with what rotationally symmetric noise of
# the same norm does, which has gain 1 in mean square. Both were measured on the noise of each run, drawn
# again from its seed.

# %% tags=["hide-input"]
mnist, centred = recorded("mnist-table"), recorded("mnist-centred")
named = {"ECG5000": ecg, "MNIST": mnist, "MNIST, centred": centred}
rows, gains = [], {}
for name, table in named.items():
    for row in table:
        config = row.config
        if config.alpha != 1.75 or not row.finished:
            continue
        seen = [
            row.estimate(lambda r: r.noise.span).mean,
            row.estimate(lambda r: r.noise.gain).mean,
        ]
        gains[name, config.kind] = seen[1]
        cells = [name, NUMERALS[config.kind], f"{config.scale:g}"]
        cells += [f"{number:.2f}" for number in seen]
        for some in (row, table[0]):
            loss = some.estimate(lambda r: r.train.loss)
            cells.append(loss.text(4))
        rows.append(cells)
head = ["data", "noise", "σ", "span", "gain", "training loss"]
show_table([*head, "without noise"], rows)
assert gains["ECG5000", "shared"] < 1e-5 < 3 < gains["MNIST", "shared"]
assert gains["MNIST, centred", "shared"] < 1e-4

# %% [markdown]
# On ECG5000 type I is invisible: span and gain vanish to rounding, and the training loss is that of the
# network without noise. Types II and III cannot hide, as the data span nearly all directions. (They
# even lower the training loss, and not the test error.) On MNIST type I is seen four times as well as
# rotationally symmetric noise would be: the pixels of an image have a
# large sum, and the noise moves all pre-activations of a column together. Centred, it is invisible
# again.
#
# ## MNIST
#
# All 60,000 images, one hidden layer of 2000, 6000 steps of batch 100, three seeds; the scales halfway
# up, and their Gaussian controls.

# %% tags=["hide-input"]
show_table(COMPARED, [compared(row, mnist[0]) for row in mnist])

# %% mystnb={"figure": {"caption": "Mean test accuracy against the fraction of columns removed, smallest first. Left, ECG5000; right, MNIST. Types I and III with \u03b1 = 1.75, at the scale halfway up, and their Gaussian controls (crosses). On MNIST type I loses from the first columns on, with heavy tails and without.", "name": "fig-curves"}, "image": {"alt": "Two panels. On ECG5000 all networks stay near 98 percent up to seven tenths removed, and only that of type III begins to fall before nine tenths. On MNIST the network without noise stays above 90 percent up to seven tenths; type III is a little lower up to six tenths, and type I falls from 92 percent at once, with heavy tails and without."}} tags=["hide-input"]
fig, axes = plt.subplots(1, 2)
for ax, table, title in (
    (axes[0], [*ecg, *controls], "ECG5000"),
    (axes[1], mnist, "MNIST"),
):
    drawn = set()
    for row in table:
        kind, alpha = row.config.kind, row.config.alpha
        name = kind, alpha
        if name in drawn or alpha not in (None, 1.75, 2.0):
            continue  # the first of two scales is enough
        drawn.add(name)
        if kind == "independent" or not row.finished:
            continue
        style = dict(plots.KIND_STYLES[kind])
        label = plots.KIND_LABELS[kind]
        if alpha == 2:
            style |= {"linewidth": 0.8, "marker": "x", "markersize": 4}
            label += ", Gaussian"
        ax.plot(*curve(row), **style, label=label)
    ax.set(title=title, xlabel="fraction of columns removed")
    ax.set(xlim=(0, 0.9))
axes[0].set(ylabel="test accuracy, %", ylim=(84, 99.5))
axes[1].legend(fontsize=9)
plt.show()

bare = ecg[0].estimate(lambda r: r.accuracy_without(0.9)).mean
heavy = strong.estimate(lambda r: r.accuracy_without(0.9)).mean
print(
    f"ECG5000, nine tenths removed: without noise {100 * bare:.0f} %,\n"
    f"type III, α = 1.75, the stronger scale: {100 * heavy:.0f} %"
)
assert heavy < bare - 0.02

# %% [markdown]
# At an equal fraction noise does not help: on MNIST, and on ECG5000 with types II and III once half of
# the columns are gone, the network without it keeps more. Type I on ECG5000, which the network cannot
# see, stands 0.1 to 0.4 points above it at three to six tenths. So does its Gaussian control. What the
# noise changes is the *error* at which a fraction may go ([](01_one_page.ipynb) saw the same).

# %% tags=["hide-input"]
lost = {}
plain = 100 * mnist[0].estimate(lambda r: r.test.accuracy).mean
for row in mnist[1:]:
    config = row.config
    name = f"{NUMERALS[config.kind]}, α = {config.alpha:g}"
    found = [
        [r.test.accuracy, r.pruned_test.accuracy] for r in row.finished
    ]
    whole, pruned = plain - 100 * np.median(found, axis=0)
    lost[config.kind, config.alpha] = whole, pruned
    print(
        f"{name}: {whole:.1f} points lost, {pruned:.1f} after pruning"
    )
assert (
    min(whole for (k, _), (whole, _) in lost.items() if k == "shared")
    > 2
)
assert (
    max(whole for (k, _), (whole, _) in lost.items() if k != "shared")
    < 1
)

# %% [markdown]
# Points lost against the network without noise and without pruning, medians of three runs. Type I costs
# accuracy whatever its tail, and pruning costs more of it, at fractions that cost the network without
# noise half a point. Type III costs little before pruning. One of its three seeds drew a column that
# carries the matrix, with ratio 1.00 at both indices (the same bits), above the predicted bands of
# both; pruned, that network knows no digits. The network without noise, cut to the same one or two
# columns, knows none either.
#
# ### The test of the explanation
#
# If type I costs accuracy on MNIST because the pixels of an image do not sum to zero, then taking the
# mean of each image away must make the cost vanish. Nothing else is changed: the same start, the same
# noise, the same batches.

# %% tags=["hide-input"]
rows = []
for name, table in (("as it is", mnist), ("centred", centred)):
    for row in table:
        if (row.config.kind, row.config.alpha) in (
            ("none", None),
            ("shared", 1.75),
        ):
            rows.append([name, *compared(row, table[0])])
show_table(["MNIST", *COMPARED], rows)
blind, sighted = (
    table[1].estimate(lambda r: r.test.accuracy).mean
    - table[0].estimate(lambda r: r.test.accuracy).mean
    for table in (centred, mnist)
)
assert abs(blind) < 5e-4 < 0.02 < -sighted

# %% [markdown]
# The cost before pruning vanishes, and the ratio does not. So it is not the heavy tail that costs
# accuracy, nor the heavy tail that spares it. It is where the noise points.
#
# ## The tail index of trained columns
#
# How heavy are the columns in the end? Two estimates, on MNIST, whose gradients have a part in the
# direction $(1, \dots, 1)$. *Hill's estimator* looks at the norms of the trained columns, the largest 1,
# 5 or 10 % of them. The *likelihood* looks at $W_K - W_0$ along that direction, where the noise alone
# would be exactly stable.

# %% tags=["hide-input"]
rows, off = [], []
for row in mnist[1:]:
    config = row.config
    if config.alpha == 2:
        continue
    found = [r.layers[0] for r in row.finished]
    cells = [NUMERALS[config.kind], f"{config.alpha:g}"]
    cells += [spread([f.hill[i] for f in found], 1) for i in (0, 2, 3)]
    index, stderr = np.array([f.noise_index for f in found]).T
    cells.append(spread(index, 2))
    rows.append([*cells, f"{stderr.mean():.2f}"])
    off += list(np.abs(index - config.alpha) / stderr)
tails = ["noise", "α", "Hill, 1 %", "5 %", "10 %"]
show_table(
    [*tails, "likelihood, of the change", "its standard error"], rows
)
print(
    f"off by {np.median(off):.1f} standard errors in the median, "
    f"{max(off):.1f} at most"
)
assert max(off) < 3

# %% [markdown]
# Along one direction the change has the index that was put in. Hill's estimator, the customary one,
# reads something else at each number of columns, more than twice the index at times, off the norms of the same
# networks. It is made for Pareto tails. These are not Pareto that early ([](02_heavy_tails.ipynb)),
# and the start is mixed in. An index above 2 so measured is no sign of finite variance.
#
# ## Wider and deeper
#
# Width 10,000, and two and three hidden layers of 2000, three seeds each. The layers are pruned each by
# itself.

# %% tags=["hide-input"]
wide, deep = recorded("ecg5000-wide"), recorded("ecg5000-deep")
rows = [["10,000", *compared(row, wide[0])] for row in wide]
for row in deep:
    layers = row.config.hidden_layers
    (bare,) = (
        r
        for r in deep
        if r.config.hidden_layers == layers and r.config.kind == "none"
    )
    rows.append([f"{layers} of 2000", *compared(row, bare)])
show_table(["hidden layers", *COMPARED], rows)
bands = [
    (r.noise.predicted[0], r.ratio, r.noise.predicted[2])
    for row in deep
    for r in row.finished
    if r.noise
]
inside = sum(low <= found <= high for low, found, high in bands)
print(f"deeper: {inside} of {len(bands)} inside the predicted band")
assert inside >= len(bands) - 1
worst = min(r.test.accuracy for r in deep[-1].finished)
bare = deep[1].estimate(lambda r: r.test.accuracy).mean
assert 0.11 < bare - worst < 0.13

# %% [markdown]
# Five times the width raises the predicted medians by 0.04 to 0.07, and the measured ones go up too, as
# {eq}`eq-error-with-start` says of a wider network at a fixed start and scale (here the scales differ a
# little too). One of the three runs of
# type I drew a column that carries everything.
#
# Two and three hidden layers get noise on each of them, at smaller scales. Their ratios are predicted
# as well as those of one layer. But behind a ReLU no input is negative, so the inputs of a column do not sum to zero,
# and type I can be seen there: with three hidden layers one run of three lost 12 points.
#
# ## Beside the official code
#
# The official script was run on ECG5000 with its noise seeded, and with the line mended that leaves
# the scale out on a CPU. Our runs take its settings over, its smaller type III too. Each of its ratios
# is held against the range of ours, where we have 30 runs or more: if both follow one law, a ratio
# falls outside the range of $r$ runs with probability $2 / (r + 1)$. Its three seeds share start and batches across
# the rows of the table, so they are three draws, however many the rows.

# %% tags=["hide-input"]
official = read_record("official_code")
ours = {
    row.config: row
    for row in recorded("official") + recorded("official-wide")
}
rows, judged, inside, chance = [], 0, 0, 0.0
for theirs in official["runs"]:
    setting = (theirs[n] for n in ("kind", "alpha", "scale", "width"))
    found = ours[tables.official(*setting)].finished
    cells = [
        f"{theirs['width']:,}",
        NUMERALS.get(theirs["kind"], "none"),
    ]
    cells += [f"{theirs['alpha'] or '–'}", f"{theirs['scale']:g}"]
    low, high = theirs["min"], theirs["max"]
    bounds = "" if low is None else f" [{low:.3f}, {high:.3f}]"
    cells += [f"{theirs['mean']:.3f}{bounds}", f"{theirs['test']:.1f}"]
    if len(found) < 30:
        rows.append([*cells, *["not run"] * 2])
        continue
    ratios = [r.ratio for r in found]
    score = 100 * np.mean([r.test.accuracy for r in found])
    rows.append([*cells, spread(ratios, 3), f"{score:.1f}"])
    assert abs(score - theirs["test"]) < 0.5
    if theirs["seeds"] == 3:
        third = 3 * theirs["mean"] - low - high  # of rounded numbers
        for ratio, slack in (
            (low, 5e-4),
            (third, 2.5e-3),
            (high, 5e-4),
        ):
            judged += 1
            chance += 2 / (len(found) + 1)
            least, most = min(ratios) - slack, max(ratios) + slack
            inside += least <= ratio <= most
head = ["width", "noise", "α", "its σ", "its ratio: mean [range]"]
head += ["accuracy, %", "our ratio: median [range]", "accuracy, %"]
show_table(head, rows)
print(f"within our range: {inside} of {judged} ratios;")
print(f"outside by chance alone: {chance:.1f} expected")
# Rows share their draws, so that this mean is no test: a wide bar.
assert judged >= 33
assert judged - inside <= 6

# %% [markdown]
# The two agree, in the ratio and in the accuracy, as far as so few runs can tell. (Settings of which we
# have one seed of the script, or do not know how many, are shown and not judged.) Look at the upper
# ends of our ranges, near 1 at nearly every setting of type I. That is one jump and not many: a seed
# draws the same bits at each setting, and one seed of sixty drew it. Three seeds of a heavy-tailed law
# do not show that.
#
# ## Takeaway

# %% tags=["remove-input"]
one, two, three = (gained[kind, 1] for kind in NUMERALS)
whole, pruned = lost["shared", 1.75]
takeaway = f"""
> **Takeaway.** Median ratios on ECG5000, α = 1.75 and Gaussian noise of
> the same median norm: type I {one[1]:.2f} and {one[0]:.2f}, type II
> {two[1]:.2f} and {two[0]:.2f}, type III {three[1]:.2f} and
> {three[0]:.2f}. With types II and III the tail is the cause; with type
> I Gaussian noise gives {100 * gained["shared", 0][2]:.0f} to
> {100 * gained["shared", 1][2]:.0f} % of the gain. What the network has
> learned is another matter. It cannot see noise of type I on heartbeats at all. On MNIST
> it sees it, and loses {whole:.0f} points, {pruned:.0f} after pruning;
> on centred images it loses none before pruning.
"""
display(Markdown(takeaway))

# %% [markdown]
# *Recorded by* `python -m heavytail.experiments run TABLE --size paper --record
# book/results/TABLE.json`, for the tables `ecg5000-table`, `ecg5000-gaussian`, `mnist-table`,
# `mnist-centred`, `ecg5000-wide`, `ecg5000-deep`, `official` and `official-wide`. Each run holds its
# date, machine, versions and commit. The same tables as means with standard errors:
# `python -m heavytail.experiments tabulate TABLE --size paper --record book/results/TABLE.json`.
# CIFAR-10 and CIFAR-100 are not yet recorded: they need a GPU ([](13_on_a_gpu.ipynb)).
#
# ## Exercises
#
# **1. The ceiling and the width.** At $\alpha = 1.9$ noise of type III alone lets no more than a fifth
# of 2000 columns go, in the median. How wide must the network be before half of them can?

# %% tags=["hide-cell"]
law = heavytail.ColumnLaw.noisy(
    140,
    kind="isotropic",
    alpha=1.9,
    scale=1.0,
    samples=50_000,
    generator=seeded(2),
)
width = heavytail.required_width(
    1.9, 0.5, 0.1**0.5, 0.5, columns=law, log10=True
)
print(f"n = 10^{width:.0f}")
assert width > 8

# %% [markdown]
# **2. Any columns.** Where the noise rules the norms and the network cannot see it, pruning by norm is
# pruning at random. What does that cost? Take a network without noise on the digits, and remove 60 % and
# 90 % of its columns: the smallest, and any.

# %% tags=["hide-cell"]
digits = load("digits")
model = FullyConnected(64, 10, width=2000, generator=seeded(0))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
options = {
    "steps": 400,
    "batch_size": 100,
    "seed": 1,
    "progress": False,
}
weight = model.body[0].weight.detach()
start = weight.clone()
train(model, optimizer, digits, **options)
trained = weight.clone()
share = float((trained - start).norm() / start.norm())
print(f"gradients: {share:.2f} of the start's norm")
order = heavytail.column_norms(weight).argsort()
means = {}
for gone in (1200, 1800):
    choices = [order[:gone]]
    choices += [
        torch.randperm(2000, generator=seeded(i))[:gone]
        for i in range(20)
    ]
    scores = []
    for choice in choices:
        weight.copy_(trained)
        weight[choice] = 0
        scores.append(accuracy(model, digits.x_test, digits.y_test))
    smallest, any_of = 100 * scores[0], 100 * np.mean(scores[1:])
    means[gone] = smallest, any_of
    print(f"{gone // 20} %: smallest {smallest:.0f}, any {any_of:.0f}")
# At 60 % nothing: a wide network repeats itself. One image is 0.3
# points. At 90 % the norm is no better than chance here: the gradients
# have moved the weights so little that the norms are the start's. Where
# they move them more, the norm is a good guide.
assert abs(means[1200][0] - means[1200][1]) < 1

# %% [markdown]
# **3. Without a gradient.** Each run's noise was put on its start a second time, with no training at
# all. How far is the ratio of that from the ratio of the trained network, over all recorded runs with
# noise and one hidden layer, and how large were the gradients?

# %% tags=["hide-cell"]
noisy = [*ecg[1:], *controls, *wide[1:], *mnist[1:], *centred[1:]]
every = [r for row in noisy for r in row.finished]
off = max(abs(r.noise.replayed / r.ratio - 1) for r in every)
share = max(r.gradient for r in every)
print(f"at most {100 * off:.0f} % off")
print(f"gradients: at most {share:.2f} of the start's norm")
assert off < 0.06

# %% [markdown]
# *Reference:* [](api/experiments.md).
