"""Writes `linear.onnx`, a linear model of the built-in digits whose tensors lie in `linear.onnx.data`.

Run it with the package `onnx`, in this folder.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

values = np.random.default_rng(7)
weight = numpy_helper.from_array(values.normal(0, 0.1, (64, 10)).astype(np.float32), "weight")
bias = numpy_helper.from_array(np.zeros(10, np.float32), "bias")
graph = helper.make_graph(
    [
        helper.make_node("Flatten", ["input"], ["rows"], axis=1),
        helper.make_node("Gemm", ["rows", "weight", "bias"], ["logits"]),
    ],
    "linear",
    [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 1, 8, 8])],
    [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
    [weight, bias],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
onnx.save_model(
    model, "linear.onnx", save_as_external_data=True, location="linear.onnx.data", size_threshold=0
)
