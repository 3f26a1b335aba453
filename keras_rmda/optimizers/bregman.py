"""The mirror map of Bregman iterations."""

from __future__ import annotations

from keras_rmda.optimizers.updates import Slots
from keras_rmda.regularizers import ProximalRegularizer, Tensor


class MirrorMap:
    """What LinBreg and AdaBreg share: the iterate Theta is the image of a dual variable V under a mirror map.

    With delta > 0: V = Theta / delta + p with p in the subdifferential of psi at Theta, and
    Theta = prox_{delta psi}(delta V).
    """

    delta: float
    rebuilds_iterate = True

    def to_dual(self, theta: Tensor, psi: ProximalRegularizer | None) -> Tensor:
        """Return V = Theta / delta + p, the dual variable of an iterate."""
        v = theta / self.delta
        return v if psi is None else v + psi.subgradient(theta)

    def to_primal(self, v: Tensor, psi: ProximalRegularizer | None) -> Tensor:
        """Return Theta = prox_{delta psi}(delta V), the iterate of a dual variable."""
        return self.delta * v if psi is None else psi.prox(self.delta * v, self.delta)

    def init(self, w: Tensor, psi: ProximalRegularizer | None) -> Slots:
        return super().init(w, psi) | {"v": self.to_dual(w, psi)}
