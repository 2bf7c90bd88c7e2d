"""What the three Python servers have in common: models with their contracts, API
keys with what they may call, a limit and a log of calls. All of it comes from the
file that PEER_CONFIG names, which `bench peers` writes:

    {"models": {NAME: {"file": ONNX, "columns": [NAME], "min": [N], "max": [N],
                       "max_rows": N}},
     "keys": {SHA-256 OF KEY: {"caller": NAME, "models": [NAME]}},
     "calls_per_second": N, "log": FILE}
"""

import hashlib
import json
import logging
import os

import numpy as np
import onnxruntime

with open(os.environ["PEER_CONFIG"], encoding="utf-8") as file:
    config = json.load(file)

LIMIT = f"{config['calls_per_second']}/second"


class Refused(Exception):
    """A call that is not answered, with the HTTP status that says why."""

    def __init__(self, status, reason):
        super().__init__(reason)
        self.status = status
        self.reason = reason


class Model:
    """A model in ONNX Runtime, with the threads that Sallyport gives it."""

    def __init__(self, spec):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(spec["file"], options, providers=["CPUExecutionProvider"])
        self.columns = len(spec["columns"])
        self.min = np.array(spec["min"], np.float32)
        self.max = np.array(spec["max"], np.float32)
        self.max_rows = spec["max_rows"]

    def check(self, features):
        """Refuse what the model was not made for; NaN is in no range."""
        if features.ndim != 2 or features.shape[1] != self.columns:
            raise Refused(422, "SHAPE")
        if not 1 <= len(features) <= self.max_rows:
            raise Refused(422, "ROWS")
        if not ((features >= self.min) & (features <= self.max)).all():
            raise Refused(422, "RANGE")

    def run(self, features):
        """Labels and probabilities of checked rows."""
        return self.session.run(["label", "probabilities"], {"features": features})


models = {name: Model(spec) for name, spec in config["models"].items()}


def caller_of(key):
    """The caller with an API key. Keys are kept as hashes, so the time that the
    look-up takes tells nothing of them."""
    caller = config["keys"].get(hashlib.sha256((key or "").encode()).hexdigest())
    if caller is None:
        raise Refused(401, "KEY")
    return caller


def model_for(caller, name):
    """The model, if the caller may call it; whether it exists is told to nobody
    else."""
    if name not in caller["models"]:
        raise Refused(403, "MODEL")
    model = models.get(name)
    if model is None:
        raise Refused(404, "MODEL")
    return model


# A line for each call, as services have it: into a file, by the standard library.
calls = logging.getLogger("calls")
calls.setLevel(logging.INFO)
calls.propagate = False
_handler = logging.FileHandler(config["log"])
_handler.setFormatter(logging.Formatter("%(asctime)s %(process)d %(message)s"))
calls.addHandler(_handler)


def log_call(caller, model, rows, status, seconds):
    """Log a call that was answered or refused."""
    calls.info("caller=%s model=%s rows=%d status=%s ms=%.3f", caller, model, rows, status, 1000 * seconds)
