"""Which zeros, and when for good: the runs of `linear.py`, epoch by epoch, as a figure and a table.

    TFDS_DATA_DIR=... python benchmarks/identification.py

Nothing is trained that `linear.py` has trained already. Writes `benchmarks/identification.png`.

The paper claims that dual averaging (RMDA, RAMDA) finds the structure of the solution after finitely many steps and
keeps it, while the structure of proximal stochastic gradients goes on changing and holds fewer zeros. Measured are:
zero groups; how many groups change between the samples of an epoch (seven times, every 67 steps); after which epoch the
support at the ends of epochs is the final one; and how many groups differ from the minimizer's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from experiment import HERE, Experiment, command_line, mean_sd, milestones, percent, print_table
from linear import LEARNING_RATES, SHARES, STRENGTHS, minimizer, standardized, train
from matplotlib import pyplot

COLORS = {"ProxSGD": "#0072B2", "ProxAdamW": "#56B4E9", "RMDA": "#D55E00", "RAMDA": "#E69F00"}
"""Of Okabe and Ito, told apart by colour-blind eyes."""
STYLES = {"ProxSGD": "-", "ProxAdamW": "--", "RMDA": "-", "RAMDA": "--"}


def identified(run: dict[str, Any]) -> int:
    """Return the number of epochs after which the support at the ends of epochs is the final one."""
    supports = run["history"]["support"]
    return 1 + max((epoch for epoch, support in enumerate(supports, 1) if support != supports[-1]), default=0)


def figure(runs: dict[float, dict[str, list[dict[str, Any]]]], experiment: Experiment) -> pyplot.Figure:
    """Draw zero groups and changes over the epochs: one column per strength, mean and range over seeds."""
    fig, axes = pyplot.subplots(2, len(runs), figsize=(5 * len(runs), 6.4), sharex=True, layout="constrained")
    for (strength, by_method), (above, below) in zip(runs.items(), axes.T):
        for method, seeds in by_method.items():
            style = {"color": COLORS[method], "linestyle": STYLES[method], "linewidth": 1.6}
            samples = np.array([np.concatenate(run["history"]["samples"]) for run in seeds]) / 784
            per_epoch = samples.shape[1] / experiment.arguments.epochs
            epochs = np.arange(1, samples.shape[1] + 1) / per_epoch
            above.plot(epochs, samples.mean(0), label=method, **style)
            above.fill_between(epochs, samples.min(0), samples.max(0), color=COLORS[method], alpha=0.2, linewidth=0)
            flips = np.array([run["history"]["flips"] for run in seeds]).mean(0)
            below.plot(np.arange(1, len(flips) + 1), flips, **style)
        solution = minimizer(experiment, strength)["final"]["zero_groups"]
        above.axhline(solution, color="black", linestyle=":", label="minimizer")
        for axis in (above, below):
            for epoch in milestones(experiment.arguments.epochs, *SHARES):
                axis.axvline(epoch, color="0.8", linewidth=1, zorder=0)
            axis.spines[["top", "right"]].set_visible(False)
        above.set(title=f"strength {strength:g}", ylim=(-0.02, 1.0))
        below.set(xlabel="epoch", yscale="symlog", ylim=(0, None))
    axes[0, 0].set_ylabel("zero groups, share")
    axes[1, 0].set_ylabel("groups that change, per epoch")
    axes[0, 0].legend(frameon=False, fontsize="small")
    return fig


def compare(experiment: Experiment) -> None:
    """Print the table and write the figure."""
    epochs, runs = experiment.arguments.epochs, {}
    last = milestones(epochs, *SHARES)[-1]
    header = ["method", "zero groups % after epoch 1", f"after epoch {last}", f"after epoch {epochs}"]
    header += ["changes in the last epoch", "support final after epoch", "groups unlike minimizer"]
    for strength in STRENGTHS:
        runs[strength] = {
            method: [
                train(experiment, method, LEARNING_RATES[method][strength], strength, seed)
                for seed in experiment.arguments.seeds
            ]
            for method in experiment.selected(LEARNING_RATES)
        }
        rows = []
        for method, seeds in runs[strength].items():
            zeros = [percent([run["history"]["zero_groups"][k - 1] for run in seeds], 1) for k in (1, last, epochs)]
            flips = mean_sd([run["history"]["flips"][-1] for run in seeds], 1)
            final = mean_sd([identified(run) for run in seeds], 1)
            wrong = mean_sd([run["history"]["wrong_groups"][-1] for run in seeds], 1)
            rows.append([method, *zeros, flips, final, wrong])
        print_table(f"Strength {strength:g}", header, rows)
    target = (experiment.results if experiment.arguments.small else HERE) / "identification.png"
    figure(runs, experiment).savefig(target, dpi=150)
    print(f"\n{target.name} is written.")


if __name__ == "__main__":
    parser = command_line(__doc__.splitlines()[0], list(LEARNING_RATES), epochs=25)
    compare(standardized(Experiment.start("linear.py", parser)))
