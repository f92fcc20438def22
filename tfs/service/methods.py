"""The method table: full gRPC path -> handler.  One table for both gRPC transports.

Owns: which cold method is served by which service.  Predict is not in it: transports give its bytes to the engine themselves.
Must not know: grpc.  Handlers run on the loop of the mailbox that the services were made with.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from tfs._fastpath import METHOD_CLASSIFY, METHOD_PREDICT, METHOD_REGRESS
from tfs.service.examples import ExampleService
from tfs.service.metadata import MetadataService
from tfs.service.model import ModelService

# (request bytes, nanoseconds left or None) -> response bytes; raises TfsError.
Handler: TypeAlias = Callable[[bytes, "int | None"], Awaitable[bytes]]

PREDICTION = "/tensorflow.serving.PredictionService/"
MODEL = "/tensorflow.serving.ModelService/"
PREDICT = PREDICTION + "Predict"
SERVICES = ("tensorflow.serving.PredictionService", "tensorflow.serving.ModelService")

# What the reference's metrics call the methods that it counts.
API_NAMES = {METHOD_PREDICT: "Predict", METHOD_CLASSIFY: "Classify", METHOD_REGRESS: "Regress"}


def method_table(
    examples: ExampleService, metadata: MetadataService, model: ModelService
) -> dict[str, Handler]:
    """Every unary method of the public services but Predict."""
    return {
        PREDICTION + "Classify": examples.classify,
        PREDICTION + "Regress": examples.regress,
        PREDICTION + "MultiInference": examples.multi_inference,
        PREDICTION + "GetModelMetadata": metadata.get_model_metadata,
        MODEL + "GetModelStatus": model.get_model_status,
        MODEL + "HandleReloadConfigRequest": model.handle_reload_config,
    }
