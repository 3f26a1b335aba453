"""Laws by which the strength of penalties follows a density."""

from __future__ import annotations

from keras_rmda.platform import checks


class StrengthLaw:
    """Base class: moves strengths at every look at a density.

    `every` is the number of steps between two looks, `rebuilds_dual` whether LinBreg and AdaBreg make their dual
    variable anew after it (`rebuild_dual`). A law of your own defines `moved`, and `state` if it remembers anything.

    Example:
        >>> class Halves(kr.callbacks.StrengthLaw):
        ...     every = 20
        ...     def moved(self, strength, gap):
        ...         return 2.0 * strength if gap > 0 else 0.5 * strength
        >>> sparse = kr.callbacks.TargetSparsity(0.1, metric="weights", control=Halves())
    """

    every: int | None = None
    rebuilds_dual = False

    def moved(self, strength: float, gap: float) -> float:
        """Return the strength that follows on this one; called for each penalty.

        Args:
            strength: of the penalty.
            gap: the density less its target.
        """
        raise NotImplementedError

    def see(self, gap: float) -> None:
        """Take notice of a look, before strengths are moved."""

    @property
    def state(self) -> dict[str, float]:
        """What is remembered from look to look, as numbers."""
        return {}

    @state.setter
    def state(self, values: dict[str, float]) -> None:
        """Go on from what was remembered."""

    def reset(self) -> None:
        """Forget, when a training begins."""

    def get_config(self) -> dict[str, float | int | None]:
        """Return the constructor's arguments."""
        return {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{key}={value!r}' for key, value in self.get_config().items())})"


class Feedback(StrengthLaw):
    """Multiply the strength in proportion to the gap between density and target, more calmly after each overshoot.

    Formula, at every look, with the density d and its target d*:

        strength <- strength * (1 + alpha |d - d*|)  where d > d*,  strength / (1 + alpha |d - d*|)  where d < d*
        alpha = gain * decay^max(C - 1, 0)

    where C counts the looks at which d - d* had changed its sign: the first time is the arrival. The dual variable of
    LinBreg and AdaBreg goes on as it is: a stronger penalty shrinks weights once, by delta times the difference.

    Args:
        gain: number > 0. The steps are relative: any strength to begin with leads to the target.
        decay: number in (0, 1]; 1 for a law that never gets calmer. AdaBreg's dual variable moves by steps of the same
            size however small the gradients are, so that groups keep coming; alpha must not vanish there.
        every: steps between two looks; None for 50, the authors' number, or fewer where a training has less than 500
            looks then.

    Raises:
        ValueError: for an argument out of range.

    Example:
        >>> model.compile(kr.LinBreg(0.1, regularizer=kr.L1(0.1)), "mse")
        >>> law = kr.callbacks.Feedback(gain=2.0, decay=0.99)
        >>> sparse = kr.callbacks.TargetSparsity(0.1, metric="weights", control=law)

    Source: Aloradi, Roith, Habets and Tenbrinck 2026, "Adaptive regularization for sparsity control in Bregman-based
    optimizers", arXiv:2605.07892, with their code.
    """

    def __init__(self, gain: float = 1.0, decay: float = 0.95, every: int | None = None):
        self.gain = checks.real("gain", gain, open_minimum=True)
        self.decay = checks.real("decay", decay, maximum=1.0, open_minimum=True)
        self.every = every if every is None else checks.whole("every", every, 1)
        self.reset()

    def reset(self) -> None:
        """Forget the overshoots."""
        self._sign, self._crossings = 0, 0

    def see(self, gap: float) -> None:
        """Count an overshoot."""
        sign = (gap > 0) - (gap < 0)
        self._crossings += sign * self._sign < 0
        self._sign = sign or self._sign

    @property
    def alpha(self) -> float:
        """The gain of the next move."""
        return self.gain * self.decay ** max(self._crossings - 1, 0)

    def moved(self, strength: float, gap: float) -> float:
        """Return the strength that follows on this one."""
        factor = 1.0 + self.alpha * abs(gap)
        return strength * factor if gap > 0 else strength / factor

    @property
    def state(self) -> dict[str, float]:
        """The sign of the last gap and the number of overshoots."""
        return {"sign": self._sign, "crossings": self._crossings}

    @state.setter
    def state(self, values: dict[str, float]) -> None:
        self._sign, self._crossings = int(values["sign"]), int(values["crossings"])

    def get_config(self) -> dict[str, float | int | None]:
        """Return the constructor's arguments."""
        return {"gain": self.gain, "decay": self.decay, "every": self.every}


class Increments(StrengthLaw):
    """Add or take a fixed increment of the strength, as the density is above or below its target.

    Formula, at every look, with the density d and its target d*:

        strength <- strength + increment  where d > d*,  max(strength - increment, 0)  elsewhere
        V <- Theta / delta + p,  p a subgradient of psi at Theta

    The dual variable V of LinBreg and AdaBreg is made anew, and its moments are kept: weights that are not zero stay
    what they are, and those that are zero begin their way to the new threshold at 0. So a stronger penalty removes
    nothing at once.

    Args:
        increment: number > 0.
        warmup: the first `warmup` + 1 looks change nothing.
        cooldown: looks without a change before every change.
        every: steps between two looks; None for the end of every epoch.

    Raises:
        ValueError: for an argument out of range.

    Example:
        >>> law = kr.callbacks.Increments(0.02, cooldown=1)
        >>> sparse = kr.callbacks.TargetSparsity(0.1, metric="weights", control=law)

    Source: the scheduler of lambda in the code of Bungert et al. 2022, arXiv:2105.04319.
    """

    rebuilds_dual = True

    def __init__(self, increment: float = 0.05, warmup: int = 0, cooldown: int = 0, every: int | None = None):
        self.increment = checks.real("increment", increment, open_minimum=True)
        self.warmup = checks.whole("warmup", warmup)
        self.cooldown = checks.whole("cooldown", cooldown)
        self.every = every if every is None else checks.whole("every", every, 1)
        self.reset()

    def reset(self) -> None:
        """Count the looks anew."""
        self._looks = 0

    def see(self, gap: float) -> None:
        """Count a look."""
        self._looks += 1

    def moved(self, strength: float, gap: float) -> float:
        """Return the strength that follows on this one."""
        after = self._looks - (self.warmup + 1)
        if after <= 0 or after % (self.cooldown + 1):
            return strength
        return strength + self.increment if gap > 0 else max(strength - self.increment, 0.0)

    @property
    def state(self) -> dict[str, float]:
        """The number of looks."""
        return {"looks": self._looks}

    @state.setter
    def state(self, values: dict[str, float]) -> None:
        self._looks = int(values["looks"])

    def get_config(self) -> dict[str, float | int | None]:
        """Return the constructor's arguments."""
        return {"increment": self.increment, "warmup": self.warmup, "cooldown": self.cooldown, "every": self.every}


LAWS: dict[str, type[StrengthLaw]] = {"feedback": Feedback, "increments": Increments}
