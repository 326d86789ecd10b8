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
# # Propagation of chaos
#
# *Every column feels all the others through the output of the network. Why do the columns of a wide
# network behave as if they were independent, and how wide is wide?*
#
# That the columns become independent copies of one random motion is the first of the two results
# that carry the paper's proof. This page shows it, proves it for bounded neurons, measures the
# rate, and then removes the bound: with linear neurons the rate drops to $1 - 1/\alpha$, which is
# proved; ReLU networks are measured, and are slower than $n^{-1/2}$ too. The page runs in about half a minute.

# %% tags=["remove-cell"]
# On Colab, install the package; elsewhere, do nothing.
import sys

if "google.colab" in sys.modules:
    print("No public address yet: install heavytail by hand.")

# %%
import math
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Markdown, display
from scipy import stats

import heavytail
from heavytail import plots
from heavytail.limit import fokker_planck
from helpers import seeded, show_table, slider, typeset
from rates import problem as recorded_problem
from rates import read

plots.use_style()
torch.set_default_dtype(torch.float64)
studies = read(Path("results/rates.json"))
ORANGE, BLUE, GREEN = "#D55E00", "#0072B2", "#009E73"


def recorded(**wanted):
    """Return the recorded studies with these settings."""
    return [
        (study, rates)
        for study, rates in studies
        if all(
            getattr(study, key) == value
            for key, value in wanted.items()
        )
    ]


# %% [markdown]
# ## Columns as particles
#
# Call the columns of the hidden layer *particles* $\theta^1, \dots, \theta^n \in \R^d$. In the
# *mean-field scaling* the network is an average over them, of a neuron $h_x(\theta)$ such as
# $\tanh \langle \theta, x \rangle$:
#
# $$ f_n(x) = \frac 1n \sum_{i=1}^n h_x(\theta^i) . $$
#
# Under gradient descent on the risk $\E\, \ell(f_n(x), y)$, with $n$ times the usual step so that
# a particle moves at a speed that does not depend on $n$, and with heavy-tailed noise, they follow
#
# ```{math}
# :label: eq-particles
# \begin{aligned}
# d\theta^i &= b(\theta^i, f_n)\, dt + \sigma\, dL^i, \\
# b(\theta, f) &= - \E_{(x, y)} \bigl[ \ell'(f(x), y)\, \nabla h_x(\theta) \bigr] .
# \end{aligned}
# ```
#
# Here $\ell'$ is the derivative of the loss in its first argument, and $L^1, \dots, L^n$ are
# independent *stable Lévy processes*. A **Lévy process** is a random path that starts at 0, is
# continuous from the right, and moves over disjoint times independently, by increments whose law
# depends on the length of the time only. For the stable one the increment over a time $t$ has the
# law of $t^{1/\alpha}\, \xi$, with a noise vector $\xi$ of [](02_heavy_tails.ipynb); for
# $\alpha < 2$ the path jumps. The first line means
# $\theta^i_t = \theta^i_0 + \int_0^t b(\theta^i_s, f_n)\, ds + \sigma L^i_t$; the function $b$ is the
# **drift**. The particles meet in one place only, $f_n$. If $f_n$
# were a fixed function of time they would be independent. And an average of many terms nearly is:
# that is all of the idea. The limit replaces the average by the mean,
#
# ```{math}
# :label: eq-limit
# d\theta = b(\theta, m_t)\, dt + \sigma\, dL, \qquad m_t(x) = \E\, h_x(\theta_t) ,
# ```
#
# an equation in which a random motion reads its own law: a **McKean–Vlasov equation**.
#
# ```{admonition} The paper's claim
# :class: note
# As $n \to \infty$ the columns become independent copies of the solution of a McKean–Vlasov
# equation driven by an $\alpha$-stable Lévy process, at the rate $n^{-1/2}$ {cite:p}`wan2024`.
# ```
#
# ## The picture
#
# In one dimension the law of the limit has a density, which the next page computes. Move the
# slider: the particles of a narrow and of a wide network, and the density of the limit.

# %%
alpha, sigma, T = 1.5, 0.5, 4.0
x = torch.linspace(-2, 2, 8)[:, None]
y = (0.5 + 0.6 * torch.sin(2 * x))[:, 0]
flat = heavytail.MeanField(x, y, h="tanh")  # starts are N(0, 1)
times = [T * j / 8 for j in range(9)]
options = {"T": T, "steps": 160, "alpha": alpha, "sigma": sigma}
options |= {"kind": "independent", "observe": torch.clone}
clouds = {
    n: heavytail.simulate(flat, n, **options, times=times, seed=1)
    for n in (100, 10_000)
}

drift = fokker_planck.mean_field_drift(
    lambda x, theta: torch.tanh(x * theta),
    lambda x, theta: x * (1 - torch.tanh(x * theta) ** 2),
    lambda f, y: f - y,
    x,
    y,
)
box = fokker_planck.box_for(alpha, sigma, T, 10.0)
laws = [fokker_planck.Density.start(box)]
for _ in times[1:]:
    options = {"alpha": alpha, "sigma": sigma, "T": T / 8, "steps": 20}
    laws.append(fokker_planck.evolve(laws[-1], drift, **options))

# %% tags=["hide-input", "nbval-ignore-output"]
edges = torch.linspace(-4, 6, 41)


def frame(time):
    """Draw the particles and the density at a time."""
    j = times.index(time)
    law = laws[j]
    fig, axes = plt.subplots(1, 2, sharey=True, figsize=(7, 2.8))
    for ax, (n, cloud) in zip(axes, clouds.items(), strict=True):
        counts = torch.histogram(cloud.observed[j, :, 0], edges).hist
        density = counts / n / edges.diff()
        ax.stairs(density, edges, fill=True, color=ORANGE, alpha=0.4)
        near = (law.theta > -4) & (law.theta < 6)
        ax.plot(law.theta[near], law.rho[near], color="black")
        ax.set(title=f"{n:,} particles", xlabel="θ", ylim=(0, 0.7))
    return fig


slider(
    map(frame, times),
    [f"t = {time:.1f}" for time in times],
    moves="time",
    name="fig-time",
    caption="Particles (histogram) and the density of the limit (line). "
    "The histogram of 10,000 particles lies on the line at every time.",
    alt="Two histograms, of 100 and of 10,000 particles, and the same "
    "smooth density over both. The wide one follows the line.",
)

# %%
found = {}
for n, cloud in clouds.items():
    shares = torch.histogram(cloud.particles[:, 0], edges).hist / n
    exact = laws[-1].probability(edges)
    found[n] = float((shares - exact).abs().sum())
    print(f"{n:6} particles: distance in 40 bins {found[n]:.3f}")
assert found[10_000] < found[100] / 5

# %% [markdown]
# A hundred times the particles, and the histogram is about ten times as near. (The distance is the
# sum over the bins of |share − probability|.) But that is only the law of all particles together.
# *Chaos* is the field's word for independence {cite:p}`sznitman1991`: the columns start independent,
# and in the limit they stay so; independence *propagates*. *Each* particle is near a copy of the
# limit, and these copies are independent.
#
# ## The coupling
#
# Two random objects that are made from the same randomness are **coupled**. So give a particle the same start and the same noise in networks of several widths. The
# noise is additive: in the difference of two such paths it cancels, jumps and all.

# %%
steps, eta = 100, T / 100
start = torch.randn(8192, 1, generator=seeded(2))
noise = heavytail.symmetric_stable(
    alpha, (steps, 8192, 1), generator=seeded(48)
)


def first_particle(n):
    """Euler's scheme for n particles; the path of the first."""
    theta, path = start[:n].clone(), []
    for xi in noise:
        theta += eta * flat.drift(theta)
        theta += sigma * eta ** (1 / alpha) * xi[:n]
        path.append(float(theta[0, 0]))
    return torch.tensor(path)


paths = {n: first_particle(n) for n in (8, 128, 8192)}

# %% mystnb={"figure": {"caption": "Left: the first particle in networks of three widths, with the same start and the same noise. Right: its distance to the one of the widest network. The jumps have gone.", "name": "fig-coupling"}, "image": {"alt": "Left: three paths with the same jumps, two of them on top of each other and that of width 8 a little apart. Right: two curves without jumps, the distance for width 8 up to 0.15, that for width 128 several times smaller."}} tags=["hide-input"]
fig, (left, right) = plt.subplots(1, 2)
time = torch.arange(1, steps + 1) * eta
styles = {8: (ORANGE, "-"), 128: (BLUE, "--"), 8192: ("black", ":")}
for n, path in paths.items():
    color, dash = styles[n]
    left.plot(time, path, color=color, linestyle=dash, label=f"n = {n}")
    if n < 8192:
        gap = (path - paths[8192]).abs()
        right.plot(time, gap, color=color, linestyle=dash)
left.set(xlabel="time", ylabel="first particle")
right.set(xlabel="time", ylabel="distance to n = 8192")
left.legend()
plt.show()

jump = float(paths[8192].diff().abs().max())
jump_of_gap = float((paths[128] - paths[8192]).diff().abs().max())
print(f"largest move in a step: {jump:.2f} of a path, ", end="")
print(f"{jump_of_gap:.4f} of a distance")
assert jump_of_gap < jump / 50

# %% [markdown]
# ## The theorem, for bounded neurons
#
# ````{prf:theorem} Propagation of chaos
# :label: thm-chaos
# Let $|h_x| \le M_0$, $|\nabla h_x| \le M_1$, and let $\nabla h_x$ be Lipschitz with constant
# $M_2$, for all $x$. Let $|\ell'(f, y)| \le K_0$ for $|f| \le M_0$, and $\ell'$ be Lipschitz in
# $f$ there with constant $K_1$. Let the starts be independent, with one law, and independent of the
# noise. Then {eq}`eq-limit` has exactly one solution for each start and driving process. Let
# $\theta^i_\infty$ be the solutions with the starts and noises of {eq}`eq-particles`. Then for
# every $T$, with $C = K_0 M_2 + K_1 M_1^2$,
#
# $$ \E \max_{i \le n} \sup_{t \le T} |\theta^i_t - \theta^i_{\infty, t}| \;\le\;
# K_1 M_0 M_1\, T\, e^{CT}\, n^{-1/2} . $$
#
# This holds for every $\alpha \in (0, 2]$, and for independent copies of any other process in the
# place of the $L^i$.
# ````
#
# ````{prf:proof}
# *The drift is Lipschitz.* Write $|f - f'|_1 = \E_x |f(x) - f'(x)|$. For $f, f'$ bounded by $M_0$,
#
# $$ |b(\theta, f) - b(\theta', f')| \le K_0 M_2\, |\theta - \theta'| + K_1 M_1\, |f - f'|_1 . $$
#
# *The limit exists.* Fix a measurable function $m = (m_t)_{t \le T}$ bounded by $M_0$. Then
# $\theta_t - \sigma L_t$ solves an ordinary equation with a Lipschitz right side, path by path, so
# there is one solution $\theta^m$. Put $\Phi(m)_t(x) = \E h_x(\theta^m_t)$, which is bounded by
# $M_0$ again. For two functions $m, m'$ and the same noise, **Grönwall's lemma** (if
# $v_t \le a + C \int_0^t v_s\, ds$ for all $t$, then $v_t \le a\, e^{Ct}$) gives
# $|\theta^m_t - \theta^{m'}_t| \le e^{CT} K_1 M_1 \int_0^t |m_s - m'_s|_1\, ds$, so
# $|\Phi(m)_t - \Phi(m')_t|_1 \le C' \int_0^t |m_s - m'_s|_1\, ds$ with
# $C' = K_1 M_1^2 e^{CT}$. Iterated $k$ times,
# $\sup_t |\Phi^k(m)_t - \Phi^k(m')_t|_1 \le \frac{(C'T)^k}{k!} \sup_t |m_t - m'_t|_1$: for large
# $k$ a contraction, so $\Phi$ has one fixed point.
#
# *The distance.* Both motions have the same noise, so their difference is an integral of drifts.
# Compare $f_n$ with $m$ through the average over the copies:
#
# $$ |f_n(x) - m_t(x)| \le \frac{M_1}{n} \sum_j |\theta^j_t - \theta^j_{\infty, t}|
# + \Bigl| \frac1n \sum_j h_x(\theta^j_{\infty, t}) - m_t(x) \Bigr| . $$
#
# Let $v_t = \max_i \sup_{s \le t} |\theta^i_s - \theta^i_{\infty, s}|$, and $\varepsilon_t$ the
# mean over $x$ of the last term, the same for all $i$. Path by path,
# $v_t \le \int_0^t ( C v_s + K_1 M_1 \varepsilon_s )\, ds$, and so
# $v_T \le K_1 M_1 e^{CT} \int_0^T \varepsilon_s\, ds$ by Grönwall's lemma. Now
# $\varepsilon_s$ holds averages of $n$ independent terms of mean 0 and variance at most $M_0^2$:
# $\E \varepsilon_s \le M_0\, n^{-1/2}$.
# ````
#
# The coupling is Sznitman's {cite:p}`sznitman1991`. Two things are worth a second look. No moment
# of the noise was used: it cancelled, and what fluctuates, $h$, is bounded whatever the tails do.
# And all columns are near their copies at once: the maximum over $i$ costs nothing. The same proof,
# with sums for integrals, holds for the Euler scheme at any step size; and with fixed output signs,
# $f_n = \frac1n \sum_i a_i h_x(\theta^i)$ with $a_i = \pm 1$, for which there is a limit for each sign,
# and $m_t$ is the mean of $a\, h_x$ over both.
#
# ## The rate, measured
#
# `heavytail.chaos_error` runs networks of several widths beside a wide one, coupled as above, and
# fits the power over several seeds. A *finite* reference of $N$ particles is itself off by
# $N^{-1/2}$. The first $n$ of $N$ independent terms have an average whose distance from the
# average of all has variance $\propto 1/n - 1/N$; so the fit is in $(1/n - 1/N)^{-1}$ instead of
# $n$. The error of a seed is the mean over its particles; over seeds the mean of the logarithms is
# taken.

# %%
problem = recorded_problem("tanh")  # 16 points in R^3
rates = heavytail.chaos_error(
    problem,
    [16, 64, 256, 1024],
    T=1.0,
    steps=20,
    alpha=1.75,
    sigma=0.5,
    kind="independent",
    seeds=32,
    reference=8192,
)
print(f"live: slope {rates.slope:.2f} ± {rates.slope_stderr:.2f}")
print(f"supremum in time: {rates.sup.slope:.2f}")
assert abs(rates.slope + 0.5) < 3 * rates.slope_stderr

# %% [markdown]
# The standard error is that of a bootstrap over seeds. The widths of one seed share starts and
# noise, so the residuals of the fit say nothing about its error. And now the recorded study, with a
# reference of 65,536 particles, 64 seeds for each $\alpha$, no seed used twice.

# %% mystnb={"figure": {"caption": "Distance of a particle from its copy against (1/n \u2212 1/N)^(\u22121), recorded runs. Bounded neurons: for all five values of \u03b1 the same line of slope \u22121/2 (dashed). The control has copies with noise of their own.", "name": "fig-chaos-rate"}, "image": {"alt": "Log-log plot. Five sets of markers lie on one falling line from 0.05 at width 16 to 0.0013 at width 16,384; far above them a flat row of crosses near 3."}} tags=["hide-input"]
fig, ax = plt.subplots(figsize=(5.5, 3.4))
bounded = [
    (study, rates)
    for study, rates in recorded(error="chaos", h="tanh", coupled=True)
    if study.reference == 65536 and study.alpha > 1
]
markers = dict(zip((1.2, 1.5, 1.75, 1.9, 2.0), "os^Dv", strict=True))
for study, rates in bounded:
    marker = markers[study.alpha]
    label = f"α = {study.alpha:g}"
    ax.loglog(rates.size, rates.error, marker, ms=4, label=label)
ax.loglog(rates.size, 0.19 * rates.size**-0.5, "--", color="0.5")
((_, control),) = recorded(coupled=False)
ax.loglog(
    control.size, control.error, "x", color="black", label="control"
)
ax.set(xlabel="width, corrected", ylabel="distance from the copy")
ax.legend(ncols=2)
plt.show()

# %% tags=["hide-input"]
rows = []
for study, rates in bounded:
    pair = (rates, rates.sup)
    fits = [f"{r.slope:.3f} ± {r.slope_stderr:.3f}" for r in pair]
    rows.append([f"{study.alpha:g}", *fits])
    for each in (rates, rates.sup):
        assert abs(each.slope + 0.5) < min(3 * each.slope_stderr, 0.06)
show_table(["α", "slope, at time T", "slope, supremum in time"], rows)
print(f"control: {control.slope:.3f} ± {control.slope_stderr:.3f}")
assert abs(control.slope) < 0.1

# %% [markdown]
# *Recorded by* `python book/rates.py --record book/results/rates.json`, as are all
# rates below. The type of the noise and output signs $a_i$, which a network has in its second layer,
# make no difference either ($\alpha = 1.5$, 16,384 particles for reference):

# %% tags=["hide-input"]
rows = []
others = recorded(
    h="tanh", error="chaos", reference=16384, coupled=True
)
for study, rates in others:
    fit = f"{rates.slope:.3f} ± {rates.slope_stderr:.3f}"
    label = plots.KIND_LABELS[study.kind]
    rows.append([label, study.signs or "all equal", fit])
    assert abs(rates.slope + 0.5) < 3 * rates.slope_stderr
show_table(["noise", "signs", "slope"], rows)

# %% [markdown]
# The rate is right, then. The constant of the theorem is another matter.

# %%
X, Y = problem.x, problem.y
size = X.norm(dim=1)
M2 = 4 / (3 * math.sqrt(3))  # the largest slope of tanh'
C = float(((1 + Y.abs()) * M2 * size**2 + size**2).mean())
bound = float(size.mean()) * math.exp(C)  # times n^(-1/2)
((_, at),) = [pair for pair in bounded if pair[0].alpha == 1.75]
measured = float((at.sup.error * at.size**0.5).mean())
print(f"C = {C:.1f}: bound 10^{math.log10(bound):.1f} / √n")
print(f"measured: {measured:.2f} / √n")
assert bound > 1000 * measured

# %% [markdown]
# (With means over the data where the theorem takes suprema.) The exponential is the price of
# Grönwall's lemma, which assumes that the drift drives paths apart at its largest rate, in all
# directions and all the time.
#
# ## Where it breaks
#
# The proof needs the average of $h_x(\theta^j)$ to fluctuate like $n^{-1/2}$. For that
# $h_x(\theta)$ must have a variance; a bounded one has. The networks of the experiments have ReLU
# neurons: $h_x(\theta)$ grows like $\theta$, has the tails of $\theta$, and for $\alpha < 2$ no
# variance. An average of $n$ such terms fluctuates like $n^{-(1 - 1/\alpha)}$. (ReLU breaks the
# theorem in a second way: its gradient jumps, and there is no $M_2$. What is said of ReLU below is
# measured, not proved.) In one case all of it can be computed.
#
# ````{prf:proposition} The law of the error, linear case
# :label: prop-linear-gap
# Let $d = 1$, $h_x(\theta) = \theta$, $\ell = \frac A2 (f - y)^2$, $\alpha > 1$, and all particles
# start from one point; the noise of a step is $\sigma \eta^{1/\alpha} \xi$ with $\xi$ of the law
# $\S(\alpha)\S(1)$. Let $\theta_\infty$ be the Euler scheme with $\E\, \theta$ in the place of
# $f_n$. After $K$ steps of size $\eta$, $\theta^i - \theta^i_\infty$ is the same for all $i$, and
# has the law $\S(\alpha)\S(\gamma)$ with
#
# $$
# \begin{aligned}
# \gamma &= \sigma\, n^{1/\alpha - 1} \Bigl( \eta \sum_{k < K} \bigl| 1 - (1 - A \eta)^k
# \bigr|^\alpha \Bigr)^{1/\alpha} \\
# &\to \sigma\, n^{1/\alpha - 1} \Bigl( \int_0^T (1 - e^{-Au})^\alpha\, du \Bigr)^{1/\alpha}
# \qquad (\eta = T/K \to 0) .
# \end{aligned}
# $$
# ````
#
# ````{prf:proof}
# The drift is $-A (f_n - y)$ for every particle, so all differences $D_k$ after $k$ steps are equal.
# Let $e_k$ be the mean of the particles less its limit, and $\bar\xi_k$ the mean of the $n$ noise
# vectors of step $k$. Then $e_{k+1} = (1 - A\eta) e_k + \sigma \eta^{1/\alpha} \bar\xi_k$ and
# $D_{k+1} = D_k - A \eta e_k$, so $e_k - D_k = \sigma \eta^{1/\alpha} \sum_{j<k} \bar\xi_j$ and
#
# $$ D_K = \sigma \eta^{1/\alpha} \sum_{j < K} \bigl( (1 - A\eta)^{K - 1 - j} - 1 \bigr)\,
# \bar\xi_j . $$
#
# The mean $\bar\xi_j$ of $n$ independent $\S(\alpha)\S(1)$ variables has scale
# $n^{1/\alpha} / n$; a sum of independent ones has the sum of the $\alpha$-th powers.
# ````
#
# Check it: ten thousand networks at once, ten steps each. One network gives *one* draw of the
# error, and it has infinite variance; so compare laws, not means.


# %%
line = recorded_problem("line")  # h = θ, A = 1, y = 1, start 0


def gaps(n, systems, alpha=1.75, steps=10):
    """Return the differences D of so many networks."""
    run = heavytail.simulate(
        line,
        n,
        T=1.0,
        steps=steps,
        alpha=alpha,
        sigma=0.5,
        kind="independent",
        seed=n + 4,
        systems=systems,
        observe=lambda theta: theta.mean((1, 2)),
        times=[k / steps for k in range(steps)],
        dtype=torch.float32,
    )
    mean = 1 - (1 - 1 / steps) ** torch.arange(steps)
    return -(run.observed.double() - mean[:, None]).sum(0) / steps


rows = []
for n, systems in ((10, 10_000), (1000, 10_000), (100_000, 200)):
    found = gaps(n, systems)
    gamma = heavytail.linear_gap_scale(
        n, T=1.0, steps=10, alpha=1.75, sigma=0.5
    )
    law = heavytail.Stable(1.75, scale=gamma)
    p = stats.kstest(law.cdf(found).numpy(), "uniform")
    median = float(found.abs().median())
    exact = float(law.icdf(torch.tensor(0.75)))
    cells = [f"{n:,}", f"{systems:,}", f"{p.pvalue:.2f}"]
    rows.append([*cells, f"{median:.5f}", f"{exact:.5f}"])
    assert p.pvalue > 1e-5
columns = ["n", "networks", "p (Kolmogorov–Smirnov)"]
show_table([*columns, "median size of D", "exact"], rows)

# %% [markdown]
# So the rate of the linear case is $1 - 1/\alpha$: at $\alpha = 1.3$ not 0.5 but 0.23. The recorded
# runs, 600 seeds against the exact limit, have it too, provided that one averages the *logarithms*
# of the errors, as all fits here do. In their plain sum one seed of 600 can make a fifth of the
# whole.

# %% tags=["hide-input"]
rows = []
for study, rates in recorded(h="line"):
    theory = -(1 - 1 / study.alpha)
    widest = rates.errors[:, -1]
    share = 100 * float(widest.max() / widest.sum())
    fit = f"{rates.slope:.3f} ± {rates.slope_stderr:.3f}"
    rows.append(
        [f"{study.alpha:g}", f"{theory:.3f}", fit, f"{share:.0f} %"]
    )
    assert abs(rates.slope - theory) < 3 * rates.slope_stderr < 0.06
columns = ["α", "−(1 − 1/α)", "slope, mean of logs"]
show_table(
    [*columns, "largest of 600 seeds in their sum, n = 10⁴"], rows
)

# %% [markdown]
# ## ReLU networks
#
# The limit of ReLU neurons cannot be computed exactly, and a finite reference distorts a slow rate
# (exercise 1). But no reference is needed. Take *twins*: two independent networks of $n$ particles each drive their own
# copy of a few further particles, the tracers, which feel $f_n$ and do not enter it. If both
# networks are near the limit, the copies of a tracer are near each other; how near falls with $n$
# at the rate in question.

# %% mystnb={"figure": {"caption": "Distance of a tracer's two copies under two independent ReLU networks, \u03b1 = 1.3, 1000 recorded seeds, with bars of two standard errors. Dashed: slope \u22121/2. Dotted: \u2212(1 \u2212 1/\u03b1). With little noise the output of narrow networks fluctuates mostly by the Gaussian start.", "name": "fig-relu-twins"}, "image": {"alt": "Log-log plot of distance against width from 128 to 16,384: the upper set, \u03c3 = 0.5, falls along the dotted line of slope -0.23; the lower one, \u03c3 = 0.1, starts a little flatter than the dashed line of slope -1/2 and flattens further."}} tags=["hide-input"]
fig, ax = plt.subplots(figsize=(5.5, 3.4))
rows = []
twins = recorded(h="relu", error="chaos")
for (study, rates), color in zip(twins, (ORANGE, BLUE), strict=True):
    ax.errorbar(
        rates.x,
        rates.error,
        2 * rates.stderr,
        fmt="o",
        ms=3,
        color=color,
        label=f"σ = {study.sigma:g}",
    )
    for power, dash in ((0.5, "--"), (1 - 1 / 1.3, ":")):
        guide = float(rates.error[0]) * (rates.x / 128) ** -power
        ax.plot(rates.x, guide, dash, color=color, linewidth=0.8)
    local = zip(rates.local_slopes, rates.local_stderr, strict=True)
    cells = [f"{float(s):.2f} ± {float(e):.2f}" for s, e in local]
    wide = rates.between(2048, 16384)
    fit = f"{wide.slope:.3f} ± {wide.slope_stderr:.3f}"
    rows.append([f"{study.sigma:g}", *cells, fit])
    assert wide.slope > -0.5 + 10 * wide.slope_stderr
ax.set(xscale="log", yscale="log")
ax.set(xlabel="width n", ylabel="distance of the copies")
ax.legend()
plt.show()

# %% tags=["hide-input"]
octaves = [f"{2**k}–{2 ** (k + 1)}" for k in range(7, 14)]
show_table(["σ", *octaves, "widest four"], rows)

# %% [markdown]
# At $\sigma = 0.5$ the slope is that of the linear case from the start. At $\sigma = 0.1$ it begins
# at $-0.41$ and flattens to about $-0.31$ as the width grows: in a sum of $n$ terms the largest jump,
# $\propto n^{1/\alpha}$, must first outgrow the Gaussian bulk, $\propto n^{1/2}$. Over the widest
# four widths both are slower than $-1/2$, by more than ten standard errors. A single step of the table
# is uncertain by 0.03; more than the trend should not be read from it.
#
# What does this mean for the networks of the experiments, with ReLU and $\alpha \ge 1.75$? If ReLU
# follows the linear rate there too, it takes $2^{\alpha / (\alpha - 1)}$ times the width, instead of
# 4 times, to come twice as near to the limit:

# %%
for a in (1.3, 1.5, 1.75, 1.9, 2.0):
    factor = 2 ** (a / (a - 1))
    print(f"α = {a:4}: {factor:4.1f} times the width")

# %% [markdown]
# At $\alpha = 1.75$ that is 5 times instead of 4: the bounded theorem is a fair guide. At 1.3 it is
# 20 times, and as $\alpha \to 1$ there is no limit to come near to: the mean that the particles
# would follow ceases to exist.
#
# ## Takeaway

# %% tags=["remove-input"]
low = min(rates.slope for _, rates in bounded)
high = max(rates.slope for _, rates in bounded)
((_, slow),) = recorded(h="line", alpha=1.3)
relu = twins[0][1].between(2048, 16384)
takeaway = f"""
> **Takeaway.** With bounded neurons a column is typically
> {measured:.2f}/√n away from its independent copy (slopes from
> {low:.2f} to {high:.2f} for α from 1.2 to 2), and the tails of the noise
> do not matter: it cancels. With unbounded neurons the tails enter
> through the output of the network. The rate of linear neurons is
> 1 − 1/α: at α = 1.3, 0.23; measured {-slow.slope:.2f}. That of ReLU
> at σ = 0.5 is {-relu.slope:.2f}.
"""
display(Markdown(typeset(takeaway)))

# %% [markdown]
# ## Exercises
#
# **1. A finite reference.** In the linear case, compare with $N$ particles of which the $n$ are the
# first, instead of with the limit. Show that the scale of the difference of the two means is
# $\bigl( n (1/n - 1/N)^\alpha + (N - n) N^{-\alpha} \bigr)^{1/\alpha}$. Which slope does one read
# between $n = 10^2$ and $10^5$, with $N = 10^6$ and $\alpha = 1.3$?

# %% tags=["hide-cell"]
# The first n terms have weight 1/n - 1/N, the others -1/N.
a, N = 1.3, 10**6
n = np.array([1e2, 1e3, 1e4, 1e5])
scale = (n * (1 / n - 1 / N) ** a + (N - n) / N**a) ** (1 / a)
u = np.log(1 / (1 / n - 1 / N))
naive = np.polyfit(np.log(n), np.log(scale), 1)[0]
corrected = np.polyfit(u, np.log(scale), 1)[0]
print(f"on log n {naive:.3f}, on log 1/(1/n - 1/N) {corrected:.3f}")
print(f"truth {1 / a - 1:.3f}")
assert abs(naive - (1 / a - 1)) > 0.01

# %% [markdown]
# **2. No mean at all.** The theorem holds for $\alpha \le 1$. Find the recorded run at
# $\alpha = 0.7$ and its slope. What becomes of the linear case at $\alpha = 1$?

# %% tags=["hide-cell"]
((_, heavy),) = recorded(alpha=0.7)
print(f"α = 0.7, tanh: {heavy.slope:.3f} ± {heavy.slope_stderr:.3f}")
assert abs(heavy.slope + 0.5) < 3 * heavy.slope_stderr
# The mean of n Cauchy variables is Cauchy, of the same scale: the
# distance from what the noiseless mean would give never shrinks.
for width in (10, 1000):
    distance = float(gaps(width, 4000, alpha=1.0).abs().median())
    print(f"α = 1, linear, n = {width:4}: median {distance:.2f}")
assert distance > 0.1

# %% [markdown]
# **3. Common noise.** Let all columns receive the *same* noise vector in each step. Does the
# coupling still prove that the distance to {eq}`eq-limit` goes to zero? Where does the proof stop?

# %% tags=["hide-cell"]
# It stops at the law of large numbers: the terms h(θ^j) are no longer
# independent, and their average stays random however many there are.
# With m_t the mean given the common noise the proof goes through again.
spread = []
for width in (10, 1000):
    theta = torch.randn(500, width, 1, generator=seeded(width))
    common = heavytail.symmetric_stable(
        1.75, (500, 1, 1), generator=seeded(9)
    )
    f = torch.tanh(theta + common).mean((1, 2))
    spread.append(float(f.std()))
    print(f"n = {width:4}: standard deviation of f {spread[-1]:.2f}")
assert spread[1] > 0.5 * spread[0]

# %% [markdown]
# *Reference:* [](api/limit.md), [](api/experiments.md).
