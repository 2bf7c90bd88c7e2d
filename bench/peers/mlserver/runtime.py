"""MLServer's custom runtime, as its documentation shows them, over ONNX Runtime.
MLServer asks nobody who calls: the key comes to the runtime as a header of the
call, which it checks, and counts, before anything is decoded."""

import time

import peer
from limits import parse, storage, strategies
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.errors import MLServerError
from mlserver.types import InferenceRequest, InferenceResponse


class ONNXRuntime(MLModel):
    async def load(self) -> bool:
        self.limit = parse(peer.LIMIT)
        self.limiter = strategies.FixedWindowRateLimiter(storage.MemoryStorage())
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        start = time.perf_counter()
        try:
            caller = peer.caller_of(payload.parameters.headers.get("x-api-key"))
            if not self.limiter.hit(self.limit, caller["caller"]):
                raise peer.Refused(429, "LIMIT")
            model = peer.model_for(caller, self.name)
            inputs = {i.name: i for i in payload.inputs}
            if inputs.keys() != {"features"} or inputs["features"].datatype != "FP32":
                raise peer.Refused(422, "INPUTS")
            features = NumpyCodec.decode_input(inputs["features"])
            model.check(features)
        except peer.Refused as refusal:
            peer.log_call("-", self.name, 0, refusal.status, 0)
            raise MLServerError(refusal.reason, refusal.status) from None
        label, probabilities = model.run(features)
        peer.log_call(caller["caller"], self.name, len(features), 200, time.perf_counter() - start)
        return InferenceResponse(
            model_name=self.name,
            model_version=self.version,
            outputs=[
                NumpyCodec.encode_output("label", label),
                NumpyCodec.encode_output("probabilities", probabilities),
            ],
        )
