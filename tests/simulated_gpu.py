"""A GPU with a queue and no arithmetic: its own time, that of the host, and what lies in its L2 cache."""

from __future__ import annotations

from benchmarks.forms import Form
from benchmarks.measuring.clocks import EventClock

CYCLES_PER_SECOND = 1.6e9
FLUSH_SECONDS = 5e-5


class SimulatedEvent:
    """What `EventClock` uses of `torch.cuda.Event`."""

    def __init__(self, gpu: SimulatedGpu) -> None:
        self.gpu, self.time = gpu, None

    def record(self) -> None:
        self.gpu.log.append("event")
        self.time = max(self.gpu.host, self.gpu.done)

    def query(self) -> bool:
        return self.time <= self.gpu.host

    def synchronize(self) -> None:
        self.gpu.host = max(self.gpu.host, self.time)

    def elapsed_time(self, end: SimulatedEvent) -> float:
        assert self.query()
        assert end.query()
        return 1e3 * (end.time - self.time)


class SimulatedGpu:
    """Work that is launched starts when the host has launched it and all before it is done."""

    def __init__(self) -> None:
        self.host = self.done = 0.0
        self.cached = False
        self.log: list[str] = []
        self.spins: list[int] = []

    def launch(self, name: str, seconds: float) -> None:
        self.log.append(name)
        self.done = max(self.host, self.done) + seconds

    def wait(self) -> None:
        self.host = max(self.host, self.done)

    def spin(self, cycles: int) -> None:
        self.spins.append(cycles)
        self.launch("spin", cycles / CYCLES_PER_SECOND)

    def flush(self) -> None:
        self.launch("flush", FLUSH_SECONDS)
        self.cached = False

    def clock(self) -> EventClock:
        return EventClock(self.flush, lambda: SimulatedEvent(self), self.spin)

    def form(self, name: str, kernels: int, seconds: float, host_seconds: float = 0.0, **options) -> Form:
        """A form of equal kernels, each launched after `host_seconds`; from a warm cache it takes half the time."""

        def run() -> tuple:
            for _ in range(kernels):
                self.host += host_seconds
                self.launch(name, seconds / 2 if self.cached else seconds)
            self.cached = True
            return ()

        return Form(name, run, **options)
