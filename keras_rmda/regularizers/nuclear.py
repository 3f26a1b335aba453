"""The penalty that makes kernels low-rank."""

from __future__ import annotations

import keras
from keras import ops

from keras_rmda.regularizers.base import ProximalRegularizer, Tensor, as_type_of, in_full_precision, threshold
from keras_rmda.regularizers.norms import AlongAxes, scaled

MAX_PASSES = 100
"""Most proximal gradient steps of one subproblem, as RAMDA's authors allow."""


@keras.saving.register_keras_serializable(package="keras_rmda")
class NuclearNorm(ProximalRegularizer):
    """Sum of singular values: kernels become low-rank, and `factorize` makes two thin layers of them.

    Formula: psi(w) = strength * sum_j sigma_j(M), M the kernel as a matrix (all axes but the last, last axis).

    Each step takes a singular value decomposition of every kernel.

    Args:
        strength: multiplier of the penalty, a finite number >= 0 or a schedule of it.

    Raises:
        ValueError: if `strength` is negative, not finite or not a number; later, naming the variable, if a variable
            has less than two axes.

    Example:
        >>> float(NuclearNorm(0.5)(np.diag([3.0, 1.0])))
        2.0

    Source: Fazel 2002, "Matrix rank minimization with applications"; as a penalty of RAMDA in Huang and Lee
    2024, arXiv:2403.14398.
    """

    has_support = False
    compiles_well = False  # a singular value decomposition

    @in_full_precision
    def __call__(self, w: Tensor) -> Tensor:
        w = ops.convert_to_tensor(w)
        # <U V^T, M> is the sum of singular values; with U V^T held fixed its gradient is a subgradient everywhere,
        # where the derivative of a singular value decomposition is not finite at equal singular values.
        return ops.sum(ops.stop_gradient(self.subgradient(w)) * w)

    @in_full_precision
    def prox(self, w: Tensor, step: Tensor) -> Tensor:
        w, power = self._scaled(w)
        return self._shrunk(w, threshold(w, step, self._lambda, 1.0) * power) / power

    def _shrunk(self, w: Tensor, t: Tensor) -> Tensor:
        """Return `w` with its singular values less t, or 0."""
        m = ops.reshape(w, (-1, w.shape[-1]))
        u, sigma, vt = self._svd(w)
        kept = ops.relu(sigma - t)
        # XLA ends a decomposition at a relative error of 10^-6. What is missing, E = U^T M V - diag(sigma) and the
        # parts of M outside of U and V, enters with the first derivative of the map: the error left is of order E^2.
        ut, v = ops.transpose(u), ops.transpose(vt)
        e = ut @ m @ v - ops.diag(sigma)
        ratio = kept / ops.where(sigma > 0, sigma, ops.ones_like(sigma))
        inner = ops.diag(kept) + _derivative(sigma, kept, e)
        outside_u = (m - u @ (ut @ m)) @ v * ratio
        outside_v = ut @ (m - m @ v @ vt)
        value = (u @ inner + outside_u) @ vt + (u * ratio) @ outside_v
        return ops.reshape(value, w.shape)

    @in_full_precision
    def prox_in_metric(self, w: Tensor, step: Tensor, d: Tensor) -> Tensor:
        """Return argmin_u Q(u) = step * psi(u) + <d, (u - w)^2> / 2 for a diagonal metric d > 0.

        Accelerated proximal gradient with step 1 / max(d), ended where a subgradient of Q is below rounding, or after
        `MAX_PASSES`: exact for a metric spread of about 100, an approximation for wider ones.
        """
        w, power = self._scaled(w)
        largest = ops.max(as_type_of(w, d))
        t = threshold(w, step, self._lambda, largest) * power
        d = ops.broadcast_to(as_type_of(w, d) / largest, w.shape)
        root = ops.sqrt(ops.min(d))
        momentum = (1.0 - root) / (1.0 + root)
        tolerance = 4.0 * keras.config.epsilon() if w.dtype == "float32" else 1e-14
        bound = as_type_of(w, tolerance) * ops.sqrt(ops.sum(ops.square(d * w)))

        def unfinished(passes, u, y, residual):
            return ops.logical_and(passes < MAX_PASSES, residual > bound)

        def body(passes, u, y, residual):
            u_next = self._shrunk(y - d * (y - w), t)
            # An element of the subdifferential of Q at u_next, over max(d).
            s = (1.0 - d) * (y - u_next)
            return passes + 1, u_next, u_next + momentum * (u_next - u), ops.sqrt(ops.sum(ops.square(s)))

        start = (ops.convert_to_tensor(0), w, w, as_type_of(w, float("inf")))
        return ops.while_loop(unfinished, body, start)[1] / power

    @in_full_precision
    def subgradient(self, w: Tensor) -> Tensor:
        w, _ = self._scaled(w)
        u, sigma, vt = self._svd(w)
        support = ops.cast(self._positive(sigma, w), w.dtype)
        return self._lambda * ops.reshape((u * support) @ vt, w.shape)

    @in_full_precision
    def group_norms(self, w: Tensor) -> Tensor:
        """Return the singular values, with those below rounding as 0."""
        w, power = self._scaled(w)
        sigma = self._svd(w)[1]
        return ops.where(self._positive(sigma, w), sigma, ops.zeros_like(sigma)) / power

    def check_shape(self, shape: tuple[int, ...], path: str) -> None:
        if len(shape) < 2:
            raise ValueError(
                f"{self!r} does not fit the variable {path!r} of shape {tuple(shape)}: it is no matrix. "
                "Exclude the variable."
            )

    @staticmethod
    def _scaled(w: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weight times a power of two that brings it into the middle of the range, and the power."""
        w = ops.convert_to_tensor(w)
        [scaled_w], power = scaled([w], AlongAxes(tuple(w.shape), (), by_size=False))
        return scaled_w, ops.reshape(power, ())

    @staticmethod
    def _svd(w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the decomposition; that of a matrix with NaN is NaN, where backends raise or do not end."""
        m = ops.reshape(w, (-1, w.shape[-1]))
        finite = ops.all(ops.isfinite(m))
        u, sigma, vt = ops.svd(ops.where(finite, m, ops.zeros_like(m)), full_matrices=False)
        return u, ops.where(finite, sigma, as_type_of(sigma, float("nan"))), vt

    @staticmethod
    def _positive(sigma: Tensor, w: Tensor) -> Tensor:
        """Return which singular values are more than the rounding of a decomposition of `w`."""
        epsilon = 2.0**-52 if w.dtype == "float64" else 2.0**-23
        return sigma > as_type_of(sigma, 4.0 * epsilon * max(w.shape)) * ops.max(sigma)


def _derivative(sigma: Tensor, kept: Tensor, e: Tensor) -> Tensor:
    """Return the derivative, in the direction `e`, of soft-thresholding the singular values of diag(sigma)."""
    is_kept = ops.cast(kept > 0, sigma.dtype)
    difference, total = sigma[:, None] - sigma[None, :], sigma[:, None] + sigma[None, :]
    same = is_kept[:, None] == is_kept[None, :]
    quotient = (kept[:, None] - kept[None, :]) / ops.where(difference == 0, ops.ones_like(difference), difference)
    quotient = ops.where(same, is_kept[:, None] * is_kept[None, :], quotient)
    mean = (kept[:, None] + kept[None, :]) / ops.where(total == 0, ops.ones_like(total), total)
    et = ops.transpose(e)
    return quotient * (e + et) / 2.0 + mean * (e - et) / 2.0
