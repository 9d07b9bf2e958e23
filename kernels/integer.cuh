// The functions of the integer formulas in unary_table.cuh and binary_table.cuh. Arithmetic wraps.
#pragma once
#include "common.cuh"

namespace integer {
template <typename I>
__device__ inline I add(I a, I b) {
    return (I)((uint64_t)a + (uint64_t)b);
}

template <typename I>
__device__ inline I sub(I a, I b) {
    return (I)((uint64_t)a - (uint64_t)b);
}

template <typename I>
__device__ inline I mul(I a, I b) {
    return (I)((uint64_t)a * (uint64_t)b);
}

template <typename I>
__device__ inline I neg(I x) {
    return (I)(0 - (uint64_t)x);
}

template <typename I>
__device__ inline I abs(I x) {
    return x < I(0) ? neg(x) : x;
}

template <typename I>
__device__ inline I sign(I x) {
    return (I)((x > I(0)) - (x < I(0)));
}

template <typename I>
__device__ inline I maximum(I a, I b) {
    return a > b ? a : b;
}

template <typename I>
__device__ inline I minimum(I a, I b) {
    return a < b ? a : b;
}

// By repeated squaring; a negative exponent is reported.
template <typename I>
__device__ inline I pow(I base, I exponent, Status* status) {
    if (exponent < I(0)) {
        report(status, STATUS_EXPONENT, (int64_t)exponent, 0);
        return 0;
    }
    uint64_t factor = (uint64_t)base, result = 1;
    for (uint64_t left = (uint64_t)exponent; left > 0; left >>= 1) {
        if (left & 1) result *= factor;
        factor *= factor;
    }
    return (I)result;
}

// Python's %: the sign is that of the divisor; 0 as divisor is reported.
template <typename I>
__device__ inline I remainder(I a, I b, Status* status) {
    if (b == I(0)) {
        report(status, STATUS_DIVISOR, (int64_t)a, 0);
        return 0;
    }
    // The most negative number by -1 overflows; its remainder is 0.
    if (b == I(-1) && I(-1) < I(0)) return 0;
    I rest = a % b;
    return rest != I(0) && (rest < I(0)) != (b < I(0)) ? (I)(rest + b) : rest;
}
}  // namespace integer
