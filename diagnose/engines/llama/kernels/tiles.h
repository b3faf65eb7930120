/* Products on a processor's matrix units (AMX), and what attention lays out for them.

   Shapes: S positions of a sequence (padded to a multiple of SIDE where that is said), D width of a head (a multiple of 32). */

#ifndef POSTTRAIN_TILES_H
#define POSTTRAIN_TILES_H

#include "vectors.h"

#if defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__linux__)
#define HAVE_TILES 1

#include <sys/syscall.h>
#include <unistd.h>

enum { SIDE = 32 }; /* of a block of scores */

/* Whether the system lets this process use the units. */
static inline int may_use_tiles(void) { return syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */) == 0; }

static inline void open_tiles(void) {
    struct __attribute__((packed)) {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t lines[16];
    } all = {.palette = 1};
    for (int tile = 0; tile < 8; tile++) all.bytes[tile] = 64, all.lines[tile] = 16;
    _tile_loadconfig(&all);
}

/* c [M, N] = (or +=) a [M, K] · b, all multiples of 32; b holds pairs of the K lines side by side, [K / 2, N, 2]. Strides count the
   elements of a line: of a numbers, of b pairs, of c numbers. */
static inline void multiply(int64_t m, int64_t n, int64_t k, const bf16 *a, int64_t stride_a, const uint32_t *b, int64_t stride_b, float *c,
                     int64_t stride_c, int add) {
    for (int64_t i = 0; i < m; i += 32)
        for (int64_t j = 0; j < n; j += 32) {
            float *to = c + i * stride_c + j;
            if (add) {
                _tile_loadd(0, to, 4 * stride_c);
                _tile_loadd(1, to + 16, 4 * stride_c);
                _tile_loadd(2, to + 16 * stride_c, 4 * stride_c);
                _tile_loadd(3, to + 16 * stride_c + 16, 4 * stride_c);
            } else {
                _tile_zero(0);
                _tile_zero(1);
                _tile_zero(2);
                _tile_zero(3);
            }
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

/* Lines [S, D] of a wider array, in the ways that products want them; padding is 0. */

/* Line i of the S is the one at places[i], or where there are no places line i itself. */
static inline void copy_lines(int64_t length, int64_t padded, int64_t width, const bf16 *from, int64_t stride, const int64_t *places, bf16 *to) {
    for (int64_t i = 0; i < length; i++) memcpy(to + i * width, from + (places ? places[i] : i) * stride, 2 * (size_t)width);
    memset(to + length * width, 0, 2 * (size_t)((padded - length) * width));
}

/* lines [S, D] → [D, S]. */
static inline void turn(int64_t padded, int64_t width, const bf16 *lines, bf16 *to) {
    for (int64_t d = 0; d < width; d++)
        for (int64_t i = 0; i < padded; i++) to[d * padded + i] = lines[i * width + d];
}

/* lines [S, D] → [D / 2, S, 2]: pairs along D. */
static inline void turn_pairs(int64_t padded, int64_t width, const bf16 *lines, uint32_t *to) {
    for (int64_t d = 0; d < width / 2; d++)
        for (int64_t i = 0; i < padded; i++) memcpy(to + d * padded + i, lines + i * width + 2 * d, 4);
}

/* lines [S, D] → [S / 2, D, 2]: pairs along S. */
static inline void join_pairs(int64_t padded, int64_t width, const bf16 *lines, uint32_t *to) {
    for (int64_t i = 0; i < padded; i += 2)
        for (int64_t d = 0; d < width; d++)
            to[i / 2 * width + d] = lines[i * width + d] | (uint32_t)lines[(i + 1) * width + d] << 16;
}

/* Segments of the positions of a sequence, −1 for padding, and the lowest and the highest of each block. */
typedef struct {
    int32_t *segments, *lowest, *highest;
} marks;

static inline marks make_marks(int64_t padded) {
    return (marks){space(4 * padded), space(4 * padded / SIDE), space(4 * padded / SIDE)};
}

static inline void free_marks(marks *at) {
    free(at->segments);
    free(at->lowest);
    free(at->highest);
}

/* From segments [S], or null where all are 0. */
static inline void read_marks(int64_t length, int64_t padded, const int32_t *segments, marks *at) {
    for (int64_t i = 0; i < padded; i++) at->segments[i] = i >= length ? -1 : segments ? segments[i] : 0;
    for (int64_t block = 0; block < padded / SIDE; block++) {
        const int32_t *here = at->segments + block * SIDE;
        at->lowest[block] = at->highest[block] = here[0];
        for (int i = 1; i < SIDE; i++) {
            at->lowest[block] = here[i] < at->lowest[block] ? here[i] : at->lowest[block];
            at->highest[block] = here[i] > at->highest[block] ? here[i] : at->highest[block];
        }
    }
}

/* Whether a query of one block may see a key of another that does not come later. */
static inline int may_see(const marks *at, int64_t queries, int64_t keys) {
    return at->lowest[keys] <= 0 || (at->lowest[keys] <= at->highest[queries] && at->highest[keys] >= at->lowest[queries]);
}

INLINE ivec load_int(const int32_t *at) {
    ivec x;
    memcpy(&x, at, sizeof x);
    return x;
}

INLINE vec chosen(ivec where, vec x, float otherwise) { return (vec)(((ivec)x & where) | ((ivec)spread(otherwise) & ~where)); }

INLINE hvec rounded(vec x) { return (hvec)_mm512_cvtneps_pbh((__m512)x); }

static const ivec LANE = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

#endif
#endif
