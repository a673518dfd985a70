"""The equations of a traced program."""

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr


def equations(jaxpr):
    """All equations of a traced program, those of its loops and functions included."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_program):
            if _is_program(inner):
                yield from equations(inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner)


def _is_program(value):
    return isinstance(value, (Jaxpr, ClosedJaxpr))
