"""The faults that scripts/mutations.py plants, by family. Each is a plausible mistake, or one that once went unnoticed."""

from . import captures, collectives, elements, half_gradients, indexing, launches, losses, norms, optimizers, pooling
from . import products, recurrent, reductions
from .kinds import SUITES

__all__ = ["MUTATIONS", "SUITES"]

FAMILIES = (products, norms, pooling, losses, optimizers, elements, reductions, indexing, recurrent, launches, captures,
            half_gradients, collectives)
MUTATIONS = [mutation for family in FAMILIES for mutation in family.MUTATIONS]
