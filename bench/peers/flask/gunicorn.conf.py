"""Settings of gunicorn that do not depend on the machine."""

# Threads take requests off connections that are kept; the documentation advises 2
# to 4 for each core.
worker_class = "gthread"
threads = 4
# As long as clients keep them.
keepalive = 300
control_socket_disable = True


def post_worker_init(worker):
    """Say that the application is loaded: gunicorn itself says when it forks."""
    worker.log.info("worker is ready")
