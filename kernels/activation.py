"""Activation functions inside Triton kernels, on fp32 values."""

import triton
import triton.language as tl


@triton.jit
def activate(pre, ACTIVATION: tl.constexpr):
    """act(pre), elementwise; ACTIVATION is one of `cl_ac.kernels.experts.ACTIVATIONS`."""
    if ACTIVATION == "relu":
        result = tl.where(pre < 0, 0.0, pre)  # unlike a maximum, keeps NaN
    elif ACTIVATION == "silu":
        result = pre * tl.sigmoid(pre)
    elif ACTIVATION == "gelu_tanh":
        # (1 + tanh u) / 2 = sigmoid(2u), with u = sqrt(2/pi) (v + 0.044715 v^3) (Hendrycks & Gimpel, 2016)
        result = pre * tl.sigmoid(1.5957691216057308 * (pre + 0.044715 * pre * pre * pre))
    else:
        result = 0.5 * pre * (1.0 + tl.erf(pre * 0.7071067811865476))
    return result
