"""The faults that scripts/mutations.py plants, by family. Each is a plausible mistake, or one that once went unnoticed."""

from . import attention, captures, collectives, elements, half_gradients, indexing, launches, losses, norms, optimizers
from . import pooling, products, recurrent, reductions
from .kinds import SUITES

__all__ = ["MUTATIONS", "SUITES"]

FAMILIES = (products, norms, pooling, losses, optimizers, elements, reductions, indexing, recurrent, launches, captures,
            half_gradients, collectives, attention)
MUTATIONS = [mutation for family in FAMILIES for mutation in family.MUTATIONS]
