"""Where a run's time goes."""

import dataclasses


@dataclasses.dataclass
class Timing:
    """Where a run's seconds went. Reading data and Python's own work cost time only while the device has nothing to
    do: `data` and `host` count just these moments."""

    steps: int = 0
    seconds: float = 0.0
    data: float = 0.0
    host: float = 0.0
    evaluation: float = 0.0
    checkpoint: float = 0.0
    compilation: float = 0.0
    operations: float = 0.0
    """FLOPs of the steps' models; 0 where they are not counted."""
    peak: float | None = None
    """FLOP/s of all devices together, where it is known."""

    @property
    def stepping(self) -> float:
        """Seconds of the steps themselves."""
        return max(self.seconds - self.evaluation - self.checkpoint - self.compilation, 1e-9)

    def report(self) -> dict[str, float]:
        """Figures for the end of a run."""
        used = {}
        if self.peak is not None and self.operations:
            used = {"mfu_percent": self.utilization(self.operations, self.stepping), "peak_teraflops": self.peak / 1e12}
        return {
            "seconds": self.seconds,
            "steps_per_second": self.steps / self.stepping,
            "data_wait_percent": 100 * self.data / self.stepping,
            "host_milliseconds_per_step": 1000 * self.host / max(self.steps, 1),
            "evaluation_seconds": self.evaluation,
            "checkpoint_seconds": self.checkpoint,
            "compilation_seconds": self.compilation,
            **used,
        }

    def utilization(self, operations: float, seconds: float) -> float:
        """Percent of the devices' peak that this number of operations in this time is."""
        return 100 * operations / max(seconds, 1e-9) / (self.peak or float("inf"))
