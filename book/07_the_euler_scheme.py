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
# # The Euler scheme
#
# *SGD takes steps, the theory flows. How small must the steps be for the theory to speak about the
# steps?*
#
# This is the second result behind the paper's proof. The paper bounds the error of the scheme by
# $\eta^{1/\alpha}$ and asks for very small steps. Measured, the error falls like $\eta$. This page
# proves that it does, for smooth bounded neurons, with a constant that does not depend on the
# width, and shows what the kink of ReLU changes. The notation is that of
# [](05_propagation_of_chaos.ipynb). It runs in about half a minute.

# %% tags=["remove-cell"]
# On Colab, install the package; elsewhere, do nothing.
import sys

if "google.colab" in sys.modules:
    print("No public address yet: install heavytail by hand.")

# %%
import math
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from IPython.display import Markdown, display

import heavytail
from heavytail import plots
from helpers import seeded, show_table
from rates import read

plots.use_style()
torch.set_default_dtype(torch.float64)
studies = read(Path("results/rates.json"))
ORANGE, BLUE = "#D55E00", "#0072B2"


# %% [markdown]
# ## One path, three step sizes
#
# The particles of [](05_propagation_of_chaos.ipynb) follow
# $d\theta^i = b(\theta^i, f_n)\, dt + \sigma\, dL^i$. The *Euler scheme* freezes the drift for a
# time $\eta$:
#
# ```{math}
# :label: eq-euler
# \theta^i_{k+1} = \theta^i_k + \eta\, b(\theta^i_k, f_n) + \sigma\, \eta^{1/\alpha}\, \xi^i_k ,
# ```
#
# and that is *full-batch* gradient descent with heavy-tailed noise, $\eta$ its learning rate. To compare two
# step sizes on one path of the noise, add up the increments of the fine one: over two fine steps
# the noise is $\sigma (\eta/2)^{1/\alpha} (\xi_{2k} + \xi_{2k+1})$, which has the law of
# $\sigma \eta^{1/\alpha} \xi$ by stability.

# %%
alpha, sigma, T, fine = 1.5, 0.5, 4.0, 256
x = torch.linspace(-2, 2, 8)[:, None]
flat = heavytail.MeanField(x, (0.5 + 0.6 * torch.sin(2 * x))[:, 0])
start = torch.randn(200, 1, generator=seeded(2))
increments = (T / fine) ** (1 / alpha) * heavytail.symmetric_stable(
    alpha, (fine, 200, 1), generator=seeded(7)
)


def first_particle(steps):
    """Euler's scheme in so many steps; the path of a particle."""
    theta, path, eta = start.clone(), [], T / steps
    for jump in increments.unflatten(0, (steps, -1)).sum(1):
        theta = theta + eta * flat.drift(theta) + sigma * jump
        path.append(float(theta[0, 0]))
    return torch.tensor(path)


paths = {steps: first_particle(steps) for steps in (8, 32, fine)}

# %% mystnb={"figure": {"caption": "One particle of 200 under the same noise in 8, 32 and 256 steps (left), and how far the coarse schemes are from the fine one (right).", "name": "fig-euler-paths"}, "image": {"alt": "Left: a fine path with jumps, and two coarser ones whose points lie on it nearly. Right: the distance of the 8-step path, up to 0.05, and that of the 32-step path, up to 0.015."}} tags=["hide-input"]
fig, (left, right) = plt.subplots(1, 2)
styles = {8: (ORANGE, "o"), 32: (BLUE, "."), fine: ("black", "")}
for steps, path in paths.items():
    color, marker = styles[steps]
    time = torch.arange(1, steps + 1) * (T / steps)
    line = {"color": color, "marker": marker, "linewidth": 0.8}
    left.plot(time, path, label=f"{steps} steps", **line)
    if steps < fine:
        exact = paths[fine][fine // steps - 1 :: fine // steps]
        right.semilogy(time, (path - exact).abs(), **line)
left.set(xlabel="time", ylabel="particle")
right.set(xlabel="time", ylabel="distance to 256 steps")
left.legend()
plt.show()

# %% [markdown]
# ## What the paper guarantees
#
# ```{admonition} The paper's claim
# :class: note
# The Euler scheme stays near the equation, uniformly over the $n$ columns, under the condition
# $\eta \le n^{-\alpha/2 - 1}$ on the step size {cite:p}`wan2024`. The bound on the error scales
# like $\eta^{1/\alpha}$.
# ```
#
# Where does $\eta^{1/\alpha}$ come from? Within a step the particle moves by noise of size
# $\eta^{1/\alpha}$, and a Lipschitz drift is wrong by as much. If one adds up the *absolute
# values*, as a bound that knows only the Lipschitz constant must, the error at time $T$ is of order
# $\eta^{1/\alpha}$ (for $\alpha > 1$). But the noise is symmetric. It pushes the drift up as often as
# down; and what remains by chance is uncorrelated from step to step. If the drift is bounded, one
# step is wrong by $\eta \cdot \eta^{1/2}$ in root mean square, because large jumps are rare; and
# $1/\eta$ such errors with random signs add up to $\eta$.
#
# ## The theorem
#
# Let $\theta$ solve the equation of the $n$ particles, and let $Y$ be the scheme {eq}`eq-euler` from
# the same start, carried on between its steps by the frozen drift and the same noise. The noise is
# of kind I, II or III, $\alpha \in (0, 2]$. The proof uses three things of it: $\xi$ and $-\xi$
# have one law; $\P(|\xi| > r) \le c\, r^{-\alpha}$ for $\alpha < 2$; $\E |\xi|^2 < \infty$ for
# $\alpha = 2$.
#
# ````{prf:lemma} A step of noise
# :label: lem-step
# There is a $c_1$ with $\E \min(1, |\sigma L_h|^2) \le c_1 h$ for all $h > 0$.
# ````
#
# ````{prf:proof}
# $L_h$ has the law of $h^{1/\alpha} \xi$. For $\alpha = 2$, take $c_1 = \sigma^2\, \E |\xi|^2$. For
# $\alpha < 2$, $\P(|\xi| > r) \le c\, r^{-\alpha}$ for all $r > 0$ with some $c$, and so
#
# $$ \E \min(1, |\sigma L_h|^2) = \int_0^1 \P(|\sigma L_h| > \sqrt u)\, du
# \le c\, \sigma^\alpha h \int_0^1 u^{-\alpha/2}\, du
# = \frac{c\, \sigma^\alpha h}{1 - \alpha/2} . $$
# ````
#
# ````{prf:theorem} Rate one, whatever the width
# :label: thm-euler
# Let $h_x$ have bounded derivatives of orders 0 to 3 and $\ell'$ bounded derivatives of orders 0 to
# 2 on the range of $f_n$, uniformly in the data. For each $p \ge 2$ there is a $C_p$, which depends
# on $T$, $d$, $\sigma$, $\alpha$ and the bounds, and is the same for all $n$ and $\eta \le 1$, with
#
# $$ \Bigl( \E \sup_{t \le T} |\theta^i_t - Y^i_t|^p \Bigr)^{1/p} \le C_p\, \eta
# \qquad \text{for all } i, $$
#
# and therefore $\E \max_{i \le n} \sup_{t \le T} |\theta^i_t - Y^i_t| \le C_p\, n^{1/p}\, \eta$.
# ````
#
# ````{prf:proof}
# Write $g_i(\theta^1, \dots, \theta^n) = b(\theta^i, f_n)$, and $\tau(s)$ for the last step before
# $s$. Constants $c$ do not depend on $n$, $i$ and $\eta$. Since the noise cancels,
#
# $$
# \begin{aligned}
# \theta^i_t - Y^i_t &= \int_0^t \bigl( g_i(\theta_s) - g_i(Y_s) \bigr)\, ds + R^i_t, \\
# R^i_t &= \int_0^t \bigl( g_i(Y_s) - g_i(Y_{\tau(s)}) \bigr)\, ds .
# \end{aligned}
# $$
#
# The first integrand is at most $c\, |\theta^i_s - Y^i_s| + \frac cn \sum_j |\theta^j_s - Y^j_s|$.
# With $u_t = \max_i (\E \sup_{s \le t} |\theta^i_s - Y^i_s|^p)^{1/p}$ and $r$ the same maximum for
# $R$ (finite, as $b$ is bounded), $u_t \le r + 2c \int_0^t u_s\, ds$, hence $u_T \le r\, e^{2cT}$ by
# Grönwall's lemma. It remains to show $r \le c\, \eta$.
#
# *One step, in the mean.* Let $h = s - \tau(s)$, and condition on the particles at time
# $\tau(s)$. In $Y_s - Y_{\tau(s)}$ the drift contributes at most $c h$ to each particle, and $g_i$
# is Lipschitz as above: $c h$ in all. The noises $\Delta^j = \sigma (L^j_s - L^j_{\tau(s)})$ are
# jointly symmetric, so the mean of $g_i(\cdot + \Delta) - g_i$ is half that of the second
# difference $g_i(\cdot + \Delta) + g_i(\cdot - \Delta) - 2 g_i$. That is at most
# $c \min(1, |\Delta^i|^2) + \frac cn \sum_j \min(1, |\Delta^j|^2)$: if $|\Delta^i| > 1$ because
# $g_i$ is bounded; otherwise by Taylor's formula for
# $(\theta, f) \mapsto \ell'(f, y)\, \nabla h_x(\theta)$ at each data point, since
# $h_x$ moves by at most $c \min(1, |\Delta^j|)$, its second difference is at most
# $c \min(1, |\Delta^j|^2)$, and the square of a mean is at most the mean of the squares; then take
# the mean over the data. By {prf:ref}`lem-step`,
# $|\E[g_i(Y_s) - g_i(Y_{\tau(s)}) \mid \mathcal F_{\tau(s)}]| \le c\, h$, where $\mathcal F_t$
# knows all up to time $t$.
#
# *One step, in size.* Likewise $|g_i(Y_s) - g_i(Y_{\tau(s)})|$ is at most
# $c h + c \min(1, |\Delta^i|) + \frac cn \sum_j \min(1, |\Delta^j|)$, and bounded, so that its
# $q$-th conditional moment is at most $c_q\, h$ for each $q \ge 2$, by the lemma again.
#
# *All steps.* Let $I_k$ be the integral over step $k$. Its conditional means sum to at most
# $\frac T\eta \cdot c\, \eta^2 = c\, T \eta$. The differences from them, $m_k$, are martingale
# increments with $\E[|m_k|^q \mid \mathcal F_{k\eta}] \le c_q\, \eta^{q} \cdot \eta$. For $q = p = 2$, Doob's
# inequality gives $\E \max_k |\sum_{j \le k} m_j|^2 \le 4 \cdot \frac T\eta \cdot c\, \eta^3$, of
# order $\eta^2$. For $p > 2$ Burkholder's inequality {cite:p}`burkholder1973`, coordinate by
# coordinate, bounds the $p$-th moment of the largest partial sum by $c_p$ times
# $\E (\sum_k \E[|m_k|^2 \mid \mathcal F_{k\eta}])^{p/2} + \sum_k \E |m_k|^p
# \le (c\, T \eta^2)^{p/2} + c\, T \eta^p$. Within an unfinished step $R$ moves by at most
# $c\, \eta$. So $r \le c\, \eta$.
#
# *The maximum.* $\E \max_i Z_i \le (\sum_i \E Z_i^p)^{1/p} \le n^{1/p} C_p\, \eta$.
# ````
#
# So the condition $\eta \le n^{-\alpha/2-1}$ can be replaced by $\eta \le n^{-\delta}$, with any
# $\delta > 0$: the error, even of the worst column, then still tends to 0 as $n \to \infty$ (take
# $p > 1/\delta$). Together with {prf:ref}`thm-chaos`, the columns of full-batch descent are, in the
# mean, within $c\, n^{-1/2} + C_p\, n^{1/p} \eta$ of independent copies of the limit, all at once.
# Minibatches, drawn afresh, add an error that the columns share: a sum of $T / \eta$ terms of size
# $\eta$ and of mean 0 given the past, so at most $C_p\, n^{1/p} \eta^{1/2}$ by the same inequalities.
# Then $\eta \le n^{-\delta}$ still suffices (take $p > 2 / \delta$). And for *pruning* alone no
# condition on $\eta$ is needed at all: {prf:ref}`cor-trained-columns`.
#
# The theorem needs no lower bound on $\alpha$ and no moment of the noise. That the
# rate does not depend on $p$ was first shown by {cite:t}`butkovsky2022`, for one equation, without
# the average over $n$, and for drifts that need only be Hölder continuous (of an order above
# $1 - \alpha/2$, with $\alpha \ge 2/3$); what is added here is that the constant does not grow with
# the width. At $\alpha = 2$ rate one is classical: with additive noise Euler's scheme is
# Milstein's, the one of order one. The theorem does need smooth and bounded neurons, and ReLU is
# neither.
#
# ## The rate, measured
#
# `heavytail.euler_error` runs several step sizes on one path. The recorded study: 500 particles in
# $\R^3$, 16 data points, $T = 1$, 16 seeds for each $\alpha$; the finest scheme has 4096 steps. The
# exact solution is not known, so the finest scheme, of step $\eta_{\text{ref}}$, stands in for it, and
# the fit is on $\eta - \eta_{\text{ref}}$.

# %%
euler = {
    (study.h, study.alpha): rates
    for study, rates in studies
    if study.error == "euler" and study.reference == 4096
}
alphas = (1.2, 1.5, 1.75, 1.9)

# %% mystnb={"figure": {"caption": "Error of the Euler scheme at time 1, recorded runs, tanh neurons, \u03b1 = 1.5. Both the mean over the particles and the worst of 500 follow slope 1 (solid). Dashed: slope 1/\u03b1, as in the guarantee, set at the largest step of the mean. Bars: two standard errors.", "name": "fig-euler-rate"}, "image": {"alt": "Log-log plot of error against step size: two rows of markers, parallel to solid lines of slope 1; a flatter dashed line departs from the lower row towards small steps."}} tags=["hide-input"]
fig, ax = plt.subplots(figsize=(5.5, 3.4))
rates = euler["tanh", 1.5]
for each, color, label in (
    (rates, BLUE, "mean over particles"),
    (rates.sup, ORANGE, "worst particle"),
):
    ax.errorbar(
        each.x,
        each.error,
        2 * each.stderr,
        fmt="o",
        ms=4,
        color=color,
        label=label,
    )
    guide = float(each.error[0]) * each.x / each.x[0]
    ax.plot(each.x, guide, color=color, linewidth=0.8)
guide = float(rates.error[0]) * (rates.x / rates.x[0]) ** (1 / 1.5)
ax.plot(rates.x, guide, "--", color="0.5")
ax.set(xscale="log", yscale="log")
ax.set(xlabel="step size η", ylabel="distance from the equation")
ax.legend()
plt.show()

# %% tags=["hide-input"]
rows = []
for a in alphas:
    rates = euler["tanh", a]
    pair = (rates, rates.sup)
    fits = [f"{r.slope:.3f} ± {r.slope_stderr:.3f}" for r in pair]
    rows.append([f"{a:g}", f"{1 / a:.3f}", *fits])
    assert abs(rates.slope - 1) < 0.05
    assert rates.slope > 1 / a
columns = ["α", "1/α", "slope, mean over particles"]
show_table([*columns, "slope, worst particle"], rows)

# %% [markdown]
# *Recorded by* `python book/rates.py --record book/results/rates.json`.
#
# The second claim of the theorem is that width hardly matters. The mean error is bounded for all
# widths together; that of the worst of $n$ columns grows more slowly than any power. At
# $\alpha = 1.5$:

# %%
rows = []
by_width = [
    (study.size, rates)
    for study, rates in studies
    if study.error == "euler" and study.reference == 512
]
for n, rates in by_width:
    mean, worst = float(rates.error[0]), float(rates.sup.error[0])
    condition = n ** (-1.5 / 2 - 1)
    cells = [f"{n:,}", f"{mean:.4f}", f"{worst:.3f}"]
    rows.append([*cells, f"{condition:.1e}", f"{1 / condition:.1e}"])
columns = ["n", "mean error, η = 1/16", "worst of n"]
show_table(
    [*columns, "η that the paper asks for", "steps to time 1"], rows
)
first, last = by_width[0][1], by_width[-1][1]
growth = float(last.sup.error[0] / first.sup.error[0])
print(f"a thousand times the width: worst error × {growth:.1f}")
assert abs(float(last.error[0] / first.error[0]) - 1) < 0.1
assert growth < 4

# %% [markdown]
# A scheme of 16 steps is off by less than a hundredth in a typical column, from 100 to 100,000 of
# them, and by a twentieth in the worst of $10^5$. The condition would ask for more than $10^8$
# steps.
#
# ## The kink
#
# ReLU is $h_x(\theta) = \max(0, \langle \theta, x \rangle)$, and $\nabla h_x$ jumps by $x$ where
# $\langle \theta, x \rangle = 0$. For each data point there is a plane on which the drift is
# discontinuous; the theorem does not apply. A heuristic, for $\alpha > 1$: a step goes wrong only
# if the particle crosses a plane in it. It must start within about $\eta^{1/\alpha}$ of the plane,
# and does so in a fraction $\eta^{1/\alpha}$ of its steps. The drift of such a step is wrong by
# order 1, for a time $\eta$, with a sign that is as good as random. So
# $\eta^{1/\alpha} / \eta$ terms of size $\eta$ add up like a random walk:
#
# ```{math}
# :label: eq-kink
# \eta\, \sqrt{\eta^{1/\alpha} / \eta} \;=\; \eta^{\frac12 + \frac1{2\alpha}} .
# ```
#
# At $\alpha = 2$ this is $3/4$, the rate known, up to any $\varepsilon$, for a discontinuous drift
# and Gaussian noise in one dimension {cite:p}`neuenkirch2021`. As the smooth part of the error has
# rate 1, slopes should come down to {eq}`eq-kink` as $\eta$ falls.

# %% tags=["hide-input"]
rows = []
for a in alphas:
    rates = euler["relu", a]
    fit = f"{rates.slope:.3f} ± {rates.slope_stderr:.3f}"
    tail = rates.between(0, 1 / 64)
    fine_fit = f"{tail.slope:.3f} ± {tail.slope_stderr:.3f}"
    rows.append([f"{a:g}", f"{0.5 + 0.5 / a:.3f}", fit, fine_fit])
    assert rates.slope > 1 / a
    assert tail.slope > 0.5 + 0.5 / a - 3 * tail.slope_stderr
columns = ["α", "1/2 + 1/(2α)", "slope, all steps"]
show_table([*columns, "η ≤ 1/64 only"], rows)
assert euler["relu", 1.9].slope < 0.9  # the kink shows

# %% [markdown]
# At $\alpha = 1.5$, 1.75 and 1.9 the slopes lie between {eq}`eq-kink` and 1 and fall as $\eta$ does.
# At $\alpha = 1.2$ the slope cannot be told from 1; the prediction 0.917 is not tested: one would need
# far smaller steps to see it under the smooth part. All stay above $1/\alpha$.
#
# ## Takeaway

# %% tags=["remove-input"]
slopes = [euler["tanh", a].slope for a in alphas]
kink = euler["relu", 1.9]
fine_kink = kink.between(0, 1 / 64)
takeaway = f"""
> **Takeaway.** For smooth bounded neurons the Euler error is of order
> η, whatever α and the width: slopes {min(slopes):.3f} to
> {max(slopes):.3f} for α from 1.2 to 1.9. A step size that tends to 0
> like any power of 1/n is enough for all columns at once. ReLU's kink
> lowers the rate towards 1/2 + 1/(2α): at α = 1.9 the slope is
> {kink.slope:.2f}, and {fine_kink.slope:.2f} for η ≤ 1/64, where
> {0.5 + 0.5 / 1.9:.2f} is predicted.
"""
display(Markdown(takeaway))

# %% [markdown]
# ## Exercises
#
# **1. A finite reference, again.** Let $B$ be Brownian motion. The random part of the error is that of
# $\int B_s\, ds$: the sum over the coarse steps less that over the fine ones. Show that over one step
# of $m$ fine ones its standard deviation is
# $\eta^{3/2} \bigl( (1 - \frac1m)(1 - \frac1{2m}) / 3 \bigr)^{1/2}$, and over $[0, T]$ it is
# $\sqrt T\, \eta$ times the same root. How far off 1 is the fitted slope between $m = 8$ and 16, if
# this part is all?

# %% tags=["hide-cell"]
# The variance of eta_fine * sum over j < m of B at j * eta_fine is
# eta_fine^3 (m - 1) m (2m - 1) / 6.


def deviation(m):
    return m * math.sqrt((1 - 1 / m) * (1 - 1 / (2 * m)) / 3)


slope = math.log(deviation(16) / deviation(8)) / math.log(15 / 7)
print(f"slope between m = 8 and 16: {slope:.3f}")
assert 0.96 < slope < 0.99

# %% [markdown]
# **2. Is symmetry needed?** The proof used that $\xi$ and $-\xi$ have one law. Take skewed noise
# instead, `heavytail.stable(alpha, 1.0, ...)`, for one particle with drift $-\tanh \theta$: with
# $\alpha = 1.5$, whose mean is 0, and with $\alpha = 0.7$, which has no mean. What is the rate?

# %% tags=["hide-cell"]
# It is 1 in both cases. By Itô's formula the conditional mean of
# g(y + Δ_h) - g(y) is the integral over [0, h] of E (A g)(y + Δ_u), with
# A the generator of the noise. For a bounded g with two bounded
# derivatives A g is bounded, for any Lévy process at all: so the mean is
# O(h). In g_i the derivatives in θ^j, and the effect of a large jump of
# it, are of order 1/n for j ≠ i, and add up. Symmetry only spared us the
# generator.


def at_the_end(jumps, steps):
    theta = torch.zeros(jumps.shape[1])
    for jump in jumps.unflatten(0, (steps, -1)).sum(1):
        theta = theta - torch.tanh(theta) / steps + 0.5 * jump
    return theta


for index in (1.5, 0.7):
    skewed = (1 / 1024) ** (1 / index) * heavytail.stable(
        index, 1.0, (1024, 4000), generator=seeded(3)
    )
    exact = at_the_end(skewed, 1024)
    errors = [
        float((at_the_end(skewed, steps) - exact).abs().mean())
        for steps in (8, 64)
    ]
    span = (1 / 8 - 1 / 1024) / (1 / 64 - 1 / 1024)
    rate = math.log(errors[0] / errors[1]) / math.log(span)
    print(f"α = {index}: rate {rate:.2f}, and 1/α = {1 / index:.2f}")
    assert abs(rate - 1) < 0.1

# %% [markdown]
# *Reference:* [](api/limit.md), [](api/experiments.md).
