/* Vectors of floats: loads, stores and conversions of bfloat16, the type of stored numbers, e to the x.

   They are the compiler's own (GCC, Clang), so the same text serves every processor. */

#ifndef POSTTRAIN_VECTORS_H
#define POSTTRAIN_VECTORS_H

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

/* As many floats as a register holds: of longer vectors the compiler keeps every sum in memory. */
#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
enum { BLOCK = 256 };

typedef uint16_t bf16;
typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef uint32_t uvec __attribute__((vector_size(4 * LANES)));
typedef uint16_t hvec __attribute__((vector_size(2 * LANES)));
#define INLINE static inline __attribute__((always_inline))

INLINE vec spread(float x) { return (vec){0} + x; }

INLINE vec load(const float *at) {
    vec x;
    memcpy(&x, at, sizeof x);
    return x;
}

INLINE void store(float *at, vec x) { memcpy(at, &x, sizeof x); }

/* GCC makes six instructions of these conversions where AVX-512 has one. */
INLINE uvec to_32_bits(hvec half) {
#ifdef __AVX512F__
    return (uvec)_mm512_cvtepu16_epi32((__m256i)half);
#else
    return __builtin_convertvector(half, uvec);
#endif
}

INLINE hvec to_16_bits(uvec bits) {
#ifdef __AVX512F__
    return (hvec)_mm512_cvtepi32_epi16((__m512i)bits);
#else
    return __builtin_convertvector(bits, hvec);
#endif
}

INLINE vec load_bf16(const bf16 *at) {
    hvec half;
    memcpy(&half, at, sizeof half);
    return (vec)(to_32_bits(half) << 16);
}

INLINE float from_bf16(bf16 x) {
    uint32_t bits = (uint32_t)x << 16;
    float y;
    memcpy(&y, &bits, sizeof y);
    return y;
}

/* To the nearest, ties to even; what is not a number stays so. */
INLINE void store_bf16(bf16 *at, vec x) {
    uvec bits = (uvec)x;
    uvec rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    uvec is_number = (uvec)(x == x);
    hvec half = to_16_bits((rounded & is_number) | (0x7fc0 & ~is_number));
    memcpy(at, &half, sizeof half);
}

INLINE bf16 to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return x != x ? 0x7fc0 : (bf16)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

/* What weights, keys and values are stored as, and what goes into products and comes out of them. */
#ifdef NUMBERS_ARE_FLOATS
typedef float number;
INLINE vec load_number(const number *at) { return load(at); }
INLINE void store_number(number *at, vec x) { store(at, x); }
INLINE float to_float(number x) { return x; }
INLINE number to_number(float x) { return x; }
#else
typedef bf16 number;
INLINE vec load_number(const number *at) { return load_bf16(at); }
INLINE void store_number(number *at, vec x) { store_bf16(at, x); }
INLINE float to_float(number x) { return from_bf16(x); }
INLINE number to_number(float x) { return to_bf16(x); }
#endif

/* The next LANES numbers or, where fewer are left, those and −∞. */
INLINE vec load_some(const number *at, int64_t left) {
    if (left >= LANES) return load_number(at);
    vec x = spread(-INFINITY);
    for (int64_t i = 0; i < left; i++) x[i] = to_float(at[i]);
    return x;
}

INLINE float sum(vec x) {
    float total = 0;
    for (int i = 0; i < LANES; i++) total += x[i];
    return total;
}

INLINE vec larger(vec a, vec b) {
    ivec first = a > b;
    return (vec)(((ivec)a & first) | ((ivec)b & ~first));
}

INLINE float largest(vec x) {
    float top = x[0];
    for (int i = 1; i < LANES; i++) top = x[i] > top ? x[i] : top;
    return top;
}

/* e to the x for x ≤ 0, to about 2 units in the last place: x = n ln 2 + r with |r| ≤ ln 2 / 2, and e^r by its Taylor series.
   Below −87 it is 0. A NaN stays one. */
INLINE vec exponential(vec x) {
    vec low = spread(-87.0f);
    ivec under = x < low;
    vec safe = (vec)(((ivec)low & under) | ((ivec)x & ~under));
    ivec n = __builtin_convertvector(safe * 1.44269504f - 0.5f, ivec);
    vec times = __builtin_convertvector(n, vec);
    vec r = (safe - times * 0.693145752f) - times * 1.42860677e-6f;
    vec y = spread(1.0f / 5040);
    y = y * r + 1.0f / 720;
    y = y * r + 1.0f / 120;
    y = y * r + 1.0f / 24;
    y = y * r + 1.0f / 6;
    y = y * r + 0.5f;
    y = y * r + 1.0f;
    y = y * r + 1.0f;
    vec scale = (vec)((n + 127) << 23);
    return (vec)((ivec)(y * scale) & ~under);
}

INLINE vec sigmoid(vec x) {
    ivec negative = x < spread(0);
    vec small = exponential((vec)((ivec)x | INT32_MIN)); /* e to the −|x| */
    return (vec)(((ivec)small & negative) | ((ivec)spread(1) & ~negative)) / (1 + small);
}

#endif
