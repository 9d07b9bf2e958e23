// Macros that turn the rows of unary_table.cuh and binary_table.cuh into kernels.
#pragma once
#include "integer.cuh"
#include "map.cuh"
#include "real.cuh"

// Number of elements processed at once, by cost.
#define CHEAP FEW
#define COSTLY ONE

// INTEGERS(name, cost, column): INTEGER_ROW(name, cost, value) where the column is `ints(value)`, else nothing.
#define INTEGERS(name, cost, column) INTEGERS_EXPANDED(name, cost, INTEGERS_##column)
#define INTEGERS_EXPANDED(...) INTEGERS_SPLIT(__VA_ARGS__)
#define INTEGERS_SPLIT(name, cost, row, value) row(name, cost, value)
#define INTEGERS_ints(value) INTEGER_ROW, value
#define INTEGERS_ints_unchanged NO_ROW, 0
#define INTEGERS_floats_only NO_ROW, 0
#define NO_ROW(name, cost, value)
