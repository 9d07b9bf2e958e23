// CUDA's vector types and their constructors.
#pragma once

#define KILN_SIM_VECTORS(T, name, ALIGN2, ALIGN4)                                             \
    struct name##1 { T x; };                                                                  \
    struct alignas(ALIGN2) name##2 { T x, y; };                                               \
    struct alignas(ALIGN4) name##4 { T x, y, z, w; };                                         \
    inline name##1 make_##name##1(T x) { return {x}; }                                        \
    inline name##2 make_##name##2(T x, T y) { return {x, y}; }                                \
    inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }

KILN_SIM_VECTORS(signed char, char, 2, 4)
KILN_SIM_VECTORS(unsigned char, uchar, 2, 4)
KILN_SIM_VECTORS(short, short, 4, 8)
KILN_SIM_VECTORS(unsigned short, ushort, 4, 8)
KILN_SIM_VECTORS(int, int, 8, 16)
KILN_SIM_VECTORS(unsigned, uint, 8, 16)
KILN_SIM_VECTORS(long long, longlong, 16, 16)
KILN_SIM_VECTORS(unsigned long long, ulonglong, 16, 16)
KILN_SIM_VECTORS(float, float, 8, 16)
KILN_SIM_VECTORS(double, double, 16, 16)
#undef KILN_SIM_VECTORS

struct int3 { int x, y, z; };
struct float3 { float x, y, z; };
struct double3 { double x, y, z; };
inline int3 make_int3(int x, int y, int z) { return {x, y, z}; }
inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }
inline float3 make_float3(float x, float y, float z) { return {x, y, z}; }
inline double3 make_double3(double x, double y, double z) { return {x, y, z}; }
