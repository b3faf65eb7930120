/* Products on a processor's AMX tiles, and the layouts that attention prepares for them.

   Shapes: S positions of a sequence (padded to a multiple of SIDE where that is said), D width of a head (a multiple of 32). */

#ifndef POSTTRAIN_TILES_H
#define POSTTRAIN_TILES_H

#include "vectors.h"

#if defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__linux__)
#define HAVE_TILES 1

#include <sys/syscall.h>
#include <unistd.h>

enum { SIDE = 32 }; /* of a block of scores */

/* Whether the system lets this process use the tiles. */
static inline int may_use_tiles(void) { return syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */) == 0; }

static inline void configure_tiles(void) {
    struct __attribute__((packed)) {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } all = {.palette = 1};
    for (int tile = 0; tile < 8; tile++) all.bytes[tile] = 64, all.rows[tile] = 16;
    _tile_loadconfig(&all);
}

/* c [M, N] = a [M, K] · b, all multiples of 32; b holds pairs of the K rows side by side, [K / 2, N, 2]. Strides count the elements of a
   row: of a numbers, of b pairs, of c numbers. */
static inline void multiply(int64_t m, int64_t n, int64_t k, const bf16 *a, int64_t stride_a, const uint32_t *b, int64_t stride_b, float *c,
                     int64_t stride_c) {
    for (int64_t i = 0; i < m; i += 32)
        for (int64_t j = 0; j < n; j += 32) {
            float *to = c + i * stride_c + j;
            _tile_zero(0);
            _tile_zero(1);
            _tile_zero(2);
            _tile_zero(3);
            for (int64_t l = 0; l < k; l += 32) {
                const bf16 *left = a + i * stride_a + l;
                const uint32_t *right = b + l / 2 * stride_b + j;
                _tile_loadd(4, left, 2 * stride_a);
                _tile_loadd(5, left + 16 * stride_a, 2 * stride_a);
                _tile_loadd(6, right, 4 * stride_b);
                _tile_loadd(7, right + 16, 4 * stride_b);
                _tile_dpbf16ps(0, 4, 6);
                _tile_dpbf16ps(1, 4, 7);
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
            }
            _tile_stored(0, to, 4 * stride_c);
            _tile_stored(1, to + 16, 4 * stride_c);
            _tile_stored(2, to + 16 * stride_c, 4 * stride_c);
            _tile_stored(3, to + 16 * stride_c + 16, 4 * stride_c);
        }
}

static inline void *space(int64_t bytes) { return aligned_alloc(64, (size_t)((bytes + 63) / 64 * 64)); }

/* Rows [S, D] of a larger array, in the layouts that products take; padding is 0. */

/* Row i of the S is the one at places[i]. */
static inline void copy_rows(int64_t length, int64_t padded, int64_t width, const bf16 *from, int64_t stride, const int64_t *places, bf16 *to) {
    for (int64_t i = 0; i < length; i++) memcpy(to + i * width, from + places[i] * stride, 2 * (size_t)width);
    memset(to + length * width, 0, 2 * (size_t)((padded - length) * width));
}

/* rows [S, D] → [D / 2, S, 2]: pairs along D. */
static inline void transpose_pairs(int64_t padded, int64_t width, const bf16 *rows, uint32_t *to) {
    for (int64_t d = 0; d < width / 2; d++)
        for (int64_t i = 0; i < padded; i++) memcpy(to + d * padded + i, rows + i * width + 2 * d, 4);
}

/* rows [S, D] → [S / 2, D, 2]: pairs along S. */
static inline void join_pairs(int64_t padded, int64_t width, const bf16 *rows, uint32_t *to) {
    for (int64_t i = 0; i < padded; i += 2)
        for (int64_t d = 0; d < width; d++)
            to[i / 2 * width + d] = rows[i * width + d] | (uint32_t)rows[(i + 1) * width + d] << 16;
}

INLINE vec where(ivec condition, vec x, float otherwise) { return (vec)(((ivec)x & condition) | ((ivec)spread(otherwise) & ~condition)); }

INLINE hvec to_bf16_vec(vec x) { return (hvec)_mm512_cvtneps_pbh((__m512)x); }

static const ivec LANE = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

#endif
#endif
