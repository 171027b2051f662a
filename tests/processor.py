"""What the processor of these tests can do."""

import pytest

__all__ = ["has_bf16"]


def has_bf16() -> bool:
    """Whether it multiplies bfloat16, which OpenVINO would otherwise emulate, slowly."""
    openvino = pytest.importorskip("openvino", reason="openvino is not installed")
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
