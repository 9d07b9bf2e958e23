"""Writes numbers.safetensors: element-wise operations at the edges of arithmetic.

Numbers that half precision cannot hold, exact remainders, truth values, rounding modes.
"""

from golden import *

s = Suite("numbers")


def each(op, variants, **common):
    """Runs `op` for every suffix -> (inputs, args)."""
    for suffix, (inputs, args) in variants.items():
        s.run(f"{op}_{suffix}" if suffix else op, op, inputs, **common, **args)


SPECIAL = [0.0, -0.0, 1.0, -1.0, 1e-8, -1e-8, 30.0, -30.0, 1e4, -1e4, inf, -inf, nan]
each("mish", {
    "": ([randn(3, 4)], {}),
    "0d": ([randn()], {}),
    "empty": ([randn(0, 3)], {}),
    **{str(t).removeprefix("torch."): ([randn(2, 3, dtype=t)], {}) for t in [f32, f16, bf16]},
    "special": ([const(SPECIAL)], {}),
})

s.write()
