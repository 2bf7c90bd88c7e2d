"""A FastAPI service as teams write it: an API key in a dependency, slowapi's limit
by key, a body that pydantic validates, a response model, a line in the log for
each call. The handler is a coroutine: the model takes microseconds, which a hop to
the thread pool would multiply, and each core has a worker of its own."""

import time
from typing import Annotated

import numpy as np
import peer
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import APIKeyHeader
from pydantic import BaseModel, Field, FiniteFloat
from slowapi import Limiter, _rate_limit_exceeded_handler
from slowapi.errors import RateLimitExceeded

Row = Annotated[list[FiniteFloat], Field(min_length=1, max_length=1024)]


class PredictRequest(BaseModel):
    features: Annotated[list[Row], Field(min_length=1, max_length=4096)]


class PredictResponse(BaseModel):
    model: str
    label: list[int]
    probabilities: list[list[float]]


# Limits are kept in the memory of each worker; over workers they would need Redis,
# and a round trip to it each call.
limiter = Limiter(key_func=lambda request: request.headers.get("x-api-key", ""), storage_uri="memory://")
app = FastAPI(openapi_url=None)
app.state.limiter = limiter
app.add_exception_handler(RateLimitExceeded, _rate_limit_exceeded_handler)


@app.exception_handler(peer.Refused)
async def refused(request: Request, refusal: peer.Refused):
    peer.log_call("-", request.url.path, 0, refusal.status, 0)
    return JSONResponse({"reason": refusal.reason}, refusal.status)


@app.exception_handler(RequestValidationError)
async def invalid(request: Request, error: RequestValidationError):
    # FastAPI's own would repeat the input, and fail on NaN.
    return await refused(request, peer.Refused(422, "BODY"))


async def caller(key: Annotated[str | None, Depends(APIKeyHeader(name="X-API-Key", auto_error=False))]):
    return peer.caller_of(key)


@app.post("/v1/models/{name}:predict")
@limiter.limit(peer.LIMIT)
async def predict(request: Request, name: str, body: PredictRequest, caller: Annotated[dict, Depends(caller)]) -> PredictResponse:
    start = time.perf_counter()
    model = peer.model_for(caller, name)
    try:
        features = np.array(body.features, np.float32)
    except ValueError:  # rows of different lengths
        raise peer.Refused(422, "SHAPE") from None
    model.check(features)
    label, probabilities = model.run(features)
    answer = PredictResponse.model_construct(model=name, label=label.tolist(), probabilities=probabilities.tolist())
    peer.log_call(caller["caller"], name, len(features), 200, time.perf_counter() - start)
    return answer


@app.get("/health")
async def health():
    return {}
