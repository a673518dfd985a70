"""Compilation of training programs, with what makes their many small operations fast."""

from typing import Any

import jax
from jax.errors import JaxRuntimeError

from capsjax.kernels import triton

# An NVIDIA GPU starts the operations of a step from a graph. With these, the loop over the steps is
# in the graph too, and operations that do not wait for each other run at the same time.
OF_CUDA = {
    "xla_gpu_enable_command_buffer": "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,"
    "DYNAMIC_SLICE_FUSION,CONDITIONAL,WHILE",
    "xla_gpu_command_buffer_scheduling_mode": "CONCURRENT",
}


def compile_steps(jitted: Any, *arguments: Any) -> jax.stages.Compiled:
    """Compile a jitted function of training steps for arguments, or for their shapes."""
    lowered = jitted.lower(*arguments)
    if triton.available():
        try:
            return lowered.compile(compiler_options=OF_CUDA)
        except JaxRuntimeError as error:
            # Another version of XLA may lack one of them, or know other values.
            if not any(name in str(error) for name in OF_CUDA):
                raise
    return lowered.compile()
