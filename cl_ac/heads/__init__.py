"""Heads of exits, and the classifiers in them."""

from cl_ac.heads.growing import Cascade, GrowingClassifier, GrowingCosine, GrowingLinear, align
from cl_ac.heads.head import Head, MixedHead, PooledHead, TokenHead, build_head
from cl_ac.heads.linears import ExitLinears, linear_map
from cl_ac.heads.pooling import Pooling

__all__ = [
    "Cascade",
    "ExitLinears",
    "GrowingClassifier",
    "GrowingCosine",
    "GrowingLinear",
    "Head",
    "MixedHead",
    "PooledHead",
    "Pooling",
    "TokenHead",
    "align",
    "build_head",
    "linear_map",
]
