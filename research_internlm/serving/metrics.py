"""What /metrics tells, in Prometheus' text form."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from research_internlm.serving.scheduler import Scheduler

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """Counters of one server.

    Args:
        scheduler: Knows how many prompts wait and run.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter("internlm_requests", "Requests by path and HTTP status", ("path", "status"),
                                registry=registry)
        self.seconds = Histogram("internlm_request_seconds", "From a request to its last byte", ("path",),
                                 buckets=_SECONDS, registry=registry)
        self.prompt_tokens = Counter("internlm_prompt_tokens", "Tokens of prompts read", registry=registry)
        self.new_tokens = Counter("internlm_new_tokens", "Tokens written", registry=registry)
        self.gone = Counter("internlm_clients_gone", "Requests whose client went away before the answer",
                            registry=registry)
        Gauge("internlm_waiting", "Prompts that wait", registry=registry).set_function(
            lambda: scheduler.waiting)
        Gauge("internlm_running", "Prompts that are being answered", registry=registry).set_function(
            lambda: scheduler.running)

    def text(self) -> bytes:
        """The page."""
        return generate_latest(self._registry)
