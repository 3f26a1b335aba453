"""The iterates of the authors' own code, in every mode of the backend."""

import keras
import numpy as np
import pytest
from backend import MODES, number, stepper
from reference import DATA, Problem

import keras_rmda as kr


def restarted(optimizer, t):
    """The stages of the case `rmda_restart_conv`."""
    if t in (15, 30):
        optimizer.learning_rate = float(number(optimizer.learning_rate)) * 0.1
        optimizer.momentum = min(1.0, float(number(optimizer.momentum)) * 10)
        optimizer.restart()


FILTERS = kr.GroupLasso(1.0, "output", scale_by_size=False)
REFERENCES = {
    "rmda_l1_linear": lambda: kr.RMDA(0.1, 1.0, kr.L1(0.1)),
    "rmda_glasso_linear": lambda: kr.RMDA(0.1, 1.0, kr.GroupLasso(0.1)),
    "rmda_glasso_conv": lambda: kr.RMDA(0.1, 1.0, kr.GroupLasso(0.1)),
    "rmda_restart_conv": lambda: kr.RMDA(0.5, 0.02, kr.GroupLasso(0.1)),
    "rmda_nuclear_linear": lambda: kr.RMDA(0.1, 1.0, kr.NuclearNorm(0.6)),
    "ramda_glasso_linear": lambda: kr.RAMDA(0.05, 1.0, kr.GroupLasso(0.1)),
    "ramda_none_linear": lambda: kr.RAMDA(0.05, 0.5),
    "proxsgd_glasso_linear": lambda: kr.ProxSGD(0.1, 0.2, kr.GroupLasso(0.1)),
    "proxadamw_glasso_linear": lambda: kr.ProxAdamW(0.05, weight_decay=0.01, regularizer=kr.GroupLasso(0.3)),
    "linbreg_l1": lambda: kr.LinBreg(0.1, regularizer=kr.L1(0.2)),
    "linbreg_l1_momentum": lambda: kr.LinBreg(0.3, 0.7, 0.9, kr.L1(0.2)),
    "linbreg_grouprow": lambda: kr.LinBreg(0.1, regularizer=kr.GroupLasso(0.4, "output")),
    "linbreg_kernel_conv": lambda: kr.LinBreg(0.1, regularizer=kr.GroupLasso(0.3, "kernel")),
    "adabreg_l1": lambda: kr.AdaBreg(0.05, regularizer=kr.L1(0.2)),
    "splitlbi_linear": lambda: kr.DessiLBI(0.1, 1.0, 2.0, 0.0, kr.L1(1.0)),
    "splitlbi_linear_momentum": lambda: kr.DessiLBI(0.05, 2.0, 1.0, 0.9, kr.L1(1.0)),
    "splitlbi_conv": lambda: kr.DessiLBI(0.05, 1.0, 2.0, 0.0, FILTERS),
}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", REFERENCES)
def test_reference_trajectory(name, mode, dtype, request):
    if dtype == "float64":
        request.getfixturevalue("float64")
    problem, optimizer = Problem(name, dtype), REFERENCES[name]()
    optimizer.build([problem.variable])
    step = stepper(optimizer, [problem.variable], problem.gradients_at, mode)
    tolerance = 1e-8 if dtype == "float64" else 1e-5
    for t, expected in enumerate(problem.trajectory):
        if name == "rmda_restart_conv":
            restarted(optimizer, t)
        step(keras.ops.convert_to_tensor(problem.noise[t]))
        iterates = [(number(problem.variable), expected)]
        if problem.gamma is not None:
            iterates.append((number(optimizer._slots[0]["gamma"]), problem.gamma[t]))
        for value, reference in iterates:
            np.testing.assert_allclose(value, reference, atol=tolerance)
            # Where the reference holds exact zeros, so do we, and nowhere else.
            if dtype == "float64":
                np.testing.assert_array_equal(value == 0, reference == 0)


def test_every_reference_is_compared():
    assert set(REFERENCES) == {key.split("/")[0] for key in DATA.files}
