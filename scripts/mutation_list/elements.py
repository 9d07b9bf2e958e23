"""Faults in element-wise functions, random numbers and fills."""

from .kinds import Mutation

MUTATIONS = [
    Mutation(
        "dropout_words", "of a turn's counter blocks, the first is used for all",
        "kernels/philox.cuh",
        "state.offset + first + i;",
        "state.offset + first;",
        ["dropout"],
    ),
    Mutation(
        "fill_rest", "what is left after the last pack of 16 bytes is not filled",
        "kernels/fill.cu",
        "i += n / V * V;",
        "i += n;",
        ["alignment::fill"],
    ),
    Mutation(
        "dropout_second_block", "a turn begins at the counter block after that at which the one before began",
        "kernels/dropout.cu",
        "philox(state, i * BLOCKS, blocks);",
        "philox(state, i, blocks);",
        ["dropout"],
    ),
    Mutation(
        "relu_bias_grad_packed_rest", "the packs after the last that are taken together are left out",
        "kernels/packed_groups.cuh",
        "for (; i < part.end; i += team.size) each",
        "for (; i + team.size < part.end; i += team.size) each",
        ["relu_bias_grad_in_packs"],
    ),
    Mutation(
        "relu_bias_grad_packed_runs", "the packs of a group lie side by side, wherever its images are",
        "kernels/packed_groups.cuh",
        "run * p.run_stride + inside * (int64_t)p.step",
        "pack * (int64_t)p.step",
        ["relu_bias_grad_in_packs"],
    ),
    Mutation(
        "relu_gradient_at_zero", "the gradient of ReLU at 0 is 1",
        "kernels/relu_bias_grad.cu",
        "if (v[k] <= R(0))",
        "if (v[k] < R(0))",
        ["relu"],
    ),
    Mutation(
        "dropout_grid_loop", "elements beyond the first turn are not written",
        "kernels/dropout.cu",
        "b += thread_count()",
        "b += grid.numel",
        ["turns::dropout"],
    ),
    Mutation(
        "digamma_reflection", "negative numbers keep their own sign before the series",
        "kernels/special.cuh",
        "        x = R(1) - x;\n",
        "        x = -x;\n",
        ["numbers::special_functions"],
    ),
    Mutation(
        "zeta_odd_orders", "terms with negative bases are added whatever the order is",
        "kernels/special.cuh",
        "sign = s_is_even ? R(1) : R(-1)",
        "sign = R(1)",
        ["numbers::special_functions"],
    ),
    Mutation(
        "bessel_asymptotic", "the asymptotic series has half of its exponential",
        "kernels/special.cuh",
        "    return root * (sum",
        "    return (sum",
        ["numbers::special_functions"],
    ),
    Mutation(
        "gcd_twos", "common factors of 2 are left out",
        "kernels/integer.cuh",
        "return a << twos;",
        "return a;",
        ["numbers::common_divisors"],
    ),
    Mutation(
        "tril_triu_rows", "all matrices of a batch are taken for one",
        "kernels/tril_triu.cu",
        "row = (int64_t)(i / shape.columns % shape.rows)",
        "row = (int64_t)(i / shape.columns)",
        ["tril_triu"],
    ),
]
