"""A Flask service as teams write it: an API key before each request, Flask-Limiter
by key, a body that pydantic validates straight from its bytes, a line in the log
for each call."""

import time
from typing import Annotated

import numpy as np
import peer
from flask import Flask, Response, g, jsonify, request
from flask_limiter import Limiter
from pydantic import BaseModel, Field, FiniteFloat, ValidationError

Row = Annotated[list[FiniteFloat], Field(min_length=1, max_length=1024)]


class PredictRequest(BaseModel):
    features: Annotated[list[Row], Field(min_length=1, max_length=4096)]


class PredictResponse(BaseModel):
    model: str
    label: list[int]
    probabilities: list[list[float]]


app = Flask(__name__)
app.config["MAX_CONTENT_LENGTH"] = 16 << 20


@app.errorhandler(peer.Refused)
def refused(refusal):
    peer.log_call("-", request.path, 0, refusal.status, 0)
    return jsonify(reason=refusal.reason), refusal.status


@app.errorhandler(ValidationError)
def invalid(error):
    return refused(peer.Refused(422, "BODY"))


@app.before_request
def identify():
    if request.path != "/health":
        g.caller = peer.caller_of(request.headers.get("X-API-Key"))


# Limits are kept in the memory of each worker; over workers they would need Redis,
# and a round trip to it each call. After identify, because it counts by caller.
limiter = Limiter(lambda: g.caller["caller"], app=app, storage_uri="memory://")


@app.post("/v1/models/<name>:predict")
@limiter.limit(peer.LIMIT)
def predict(name):
    start = time.perf_counter()
    model = peer.model_for(g.caller, name)
    body = PredictRequest.model_validate_json(request.get_data(cache=False))
    try:
        features = np.array(body.features, np.float32)
    except ValueError:  # rows of different lengths
        raise peer.Refused(422, "SHAPE") from None
    model.check(features)
    label, probabilities = model.run(features)
    answer = PredictResponse.model_construct(model=name, label=label.tolist(), probabilities=probabilities.tolist())
    peer.log_call(g.caller["caller"], name, len(features), 200, time.perf_counter() - start)
    return Response(answer.model_dump_json(), mimetype="application/json")


@app.get("/health")
def health():
    return {}
