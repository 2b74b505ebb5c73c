"""The ONNX operators that the exporter writes, and therefore the only ones that a device runs.

`tests/unit/common/models/test_operators.py` exports the built-in models and layers of torch's in common use, and fails where this
list is not what they take.
"""

OPSET = 21
"""The version of ONNX's operators that programs are exported to: the first with group normalisation as an operator."""

_NAMES = """
Abs Add And ArgMax Asin Atan AveragePool BatchNormalization Cast Ceil Celu Clip Concat ConstantOfShape Conv
ConvTranspose Cos Cosh CumSum DepthToSpace Div Einsum Elu Equal Erf Exp Expand EyeLike Floor GRU Gather
GatherElements GatherND Gelu Gemm Greater GreaterOrEqual GridSample GroupNormalization HardSigmoid HardSwish
InstanceNormalization IsInf IsNaN LSTM LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax MatMul Max
MaxPool Min Mish Mod Mul Neg Not Or PRelu Pad Pow Range Reciprocal ReduceL1 ReduceL2 ReduceLogSumExp ReduceMax
ReduceMean ReduceMin ReduceProd ReduceSum Relu Reshape Resize Round ScatterElements Selu Shape Sigmoid Sign
Sin Sinh Slice Softmax Softplus Split Sqrt Squeeze Sub Tan Tanh Tile TopK Transpose Trilu Unsqueeze Where Xor
"""
OPERATORS = frozenset(_NAMES.split())
WRITTEN_OUT = {"GroupNormalization": 29, "HardSwish": 2, "Mish": 3}
"""Operators for which the runtime has no code: it writes each out, as it loads a graph, as so many nodes of others."""
