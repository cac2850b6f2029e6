"""Matrix products in bfloat16 on a CPU that multiplies them (AVX512-BF16, AMX).

XLA there is twice as fast as in float32 where both matrices lie row by row and the result is
float32. Otherwise it converts the operands to float32 first.
"""

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from selfrew.mesh import sharding


def suit(dtype, mesh) -> bool:
    """Whether to multiply by `product`: in bfloat16, on one CPU."""
    is_single = mesh is None or mesh.size == 1
    return dtype == jnp.bfloat16 and is_single and sharding.platform(mesh) == 'cpu'


@jax.custom_vjp
def product(x_XI, matrix_IO):
    """x times a matrix, both in bfloat16. Returns [X O] in float32; gradients are in bfloat16."""
    return _multiply(x_XI, matrix_IO)


def _multiply(x, y):
    return _by_rows(jnp.matmul(_by_rows(x), _by_rows(y), preferred_element_type=jnp.float32))


def _by_rows(matrix):
    """The matrix, row by row in memory: copied where it is not."""
    return with_layout_constraint(matrix, Layout(major_to_minor=(0, 1)))


def _forward(x_XI, matrix_IO):
    return _multiply(x_XI, matrix_IO), (x_XI, matrix_IO)


def _backward(operands, cotangent_XO):
    x_XI, matrix_IO = operands
    cotangent_XO = cotangent_XO.astype(x_XI.dtype)
    of_x = _multiply(cotangent_XO, matrix_IO.T)
    of_matrix = _multiply(x_XI.T, cotangent_XO)
    return of_x.astype(x_XI.dtype), of_matrix.astype(matrix_IO.dtype)


product.defvjp(_forward, _backward)
