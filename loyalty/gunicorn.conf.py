"""How gunicorn runs the application, everywhere alike; the unit adds the socket and the sizes of its server.

The choices are measured ones: threads that wait for the database together, as many processes as cores, the code
loaded once before the fork. Nothing here may touch the database: clients are made in the workers, after the fork.
"""

from __future__ import annotations

import gc
import os
from typing import Any

from prometheus_client import multiprocess

worker_class = "gthread"
workers = os.cpu_count() or 2
threads = 8
preload_app = True
backlog = 1024

# Longer than nginx keeps an idle connection (25 s), so that it is nginx who closes.
keepalive = 30
timeout = 60
graceful_timeout = 20
# As long as nginx takes them, so that it is nginx who refuses a longer one, with a problem document.
limit_request_line = 8190
# A worker is replaced now and then, each at its own time: what leaks in a C library does not grow for ever.
max_requests = 200_000
max_requests_jitter = 20_000

# The socket is for the group, which nginx is in; nobody else connects, and no peer's headers are believed unasked.
umask = 0o007
forwarded_allow_ips = ""
control_socket_disable = True

# nginx writes the access log; gunicorn's own messages go to the journal.
accesslog = None
errorlog = "-"


def when_ready(server: Any) -> None:
    """Set what is loaded aside from the garbage collector: it stays for ever, and its pages stay shared."""
    gc.collect()
    gc.freeze()


def post_fork(server: Any, worker: Any) -> None:
    """Look for cycles less often: a batch makes hundreds of thousands of objects, all freed by their counts alone."""
    gc.set_threshold(50_000, 20, 50)


def child_exit(server: Any, worker: Any) -> None:
    """Drop the gauges of a worker that is gone, so that they are not summed up for ever."""
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        multiprocess.mark_process_dead(worker.pid)
