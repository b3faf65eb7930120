/* Causal attention of grouped heads in training, forward and backward, on the matrix units (AMX) of a processor.

   Scores are fp32 and live 32 queries or 32 keys at a time; what goes into products is bfloat16. Backward makes the weights again from the
   normalisers, as FlashAttention does (arXiv 2205.14135). Every function gives the same numbers for every number of threads.

   Shapes: B sequences of S positions, H heads that share G heads of keys and values, D width of a head (a multiple of 32).
   qkv [B · S, (H + 2 G) · D] holds queries, keys and values side by side, already rotated; out and dout are [B · S, H · D].
   A position sees itself and those before it; with segments [B, S] only those of its own segment and of segment 0. */

#include "vectors.h"

#if defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__linux__)

#include <sys/syscall.h>
#include <unistd.h>

enum { SIDE = 32, CHUNK = 256 }; /* of a block of scores; queries whose scores are there at once in backward */

typedef struct {
    int64_t batch, length, heads, key_heads, width;
    float scale;
    const int32_t *segments; /* or null */
} shape;

typedef struct {
    int64_t padded; /* S, up to a multiple of SIDE */
    int32_t *segments, *lowest, *highest; /* of the positions of one sequence (−1 for padding), and of its blocks */
} layout;

/* 1 where the processor has the units and the system lets this process use them. */
int usable(void) { return syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */) == 0; }

static void open_tiles(void) {
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
static void multiply(int64_t m, int64_t n, int64_t k, const bf16 *a, int64_t stride_a, const uint32_t *b, int64_t stride_b, float *c,
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

/* Lines [S, D] of a wider array, in the ways that products want them; padding is 0. */

static void copy_lines(int64_t length, int64_t padded, int64_t width, const bf16 *from, int64_t stride, bf16 *to) {
    for (int64_t i = 0; i < length; i++) memcpy(to + i * width, from + i * stride, 2 * (size_t)width);
    memset(to + length * width, 0, 2 * (size_t)((padded - length) * width));
}

/* lines [S, D] → [D, S]. */
static void turn(int64_t padded, int64_t width, const bf16 *lines, bf16 *to) {
    for (int64_t d = 0; d < width; d++)
        for (int64_t i = 0; i < padded; i++) to[d * padded + i] = lines[i * width + d];
}

/* lines [S, D] → [D / 2, S, 2]: pairs along D. */
static void turn_pairs(int64_t padded, int64_t width, const bf16 *lines, uint32_t *to) {
    for (int64_t d = 0; d < width / 2; d++)
        for (int64_t i = 0; i < padded; i++) memcpy(to + d * padded + i, lines + i * width + 2 * d, 4);
}

/* lines [S, D] → [S / 2, D, 2]: pairs along S. */
static void join_pairs(int64_t padded, int64_t width, const bf16 *lines, uint32_t *to) {
    for (int64_t i = 0; i < padded; i += 2)
        for (int64_t d = 0; d < width; d++)
            to[i / 2 * width + d] = lines[i * width + d] | (uint32_t)lines[(i + 1) * width + d] << 16;
}

static void read_segments(const shape *s, int64_t sequence, layout *at) {
    for (int64_t i = 0; i < at->padded; i++)
        at->segments[i] = i >= s->length ? -1 : s->segments ? s->segments[sequence * s->length + i] : 0;
    for (int64_t block = 0; block < at->padded / SIDE; block++) {
        const int32_t *here = at->segments + block * SIDE;
        at->lowest[block] = at->highest[block] = here[0];
        for (int i = 1; i < SIDE; i++) {
            at->lowest[block] = here[i] < at->lowest[block] ? here[i] : at->lowest[block];
            at->highest[block] = here[i] > at->highest[block] ? here[i] : at->highest[block];
        }
    }
}

/* Whether a query of one block may see a key of another that does not come later. */
static int may_see(const layout *at, int64_t queries, int64_t keys) {
    return at->lowest[keys] <= 0 || (at->lowest[keys] <= at->highest[queries] && at->highest[keys] >= at->lowest[queries]);
}

static void *space(int64_t bytes) { return aligned_alloc(64, (size_t)((bytes + 63) / 64 * 64)); }

static layout make_layout(const shape *s) {
    layout at = {.padded = (s->length + SIDE - 1) / SIDE * SIDE};
    at.segments = space(4 * at.padded);
    at.lowest = space(4 * at.padded / SIDE);
    at.highest = space(4 * at.padded / SIDE);
    return at;
}

static void free_layout(layout *at) {
    free(at->segments);
    free(at->lowest);
    free(at->highest);
}

INLINE ivec load_int(const int32_t *at) {
    ivec x;
    memcpy(&x, at, sizeof x);
    return x;
}

INLINE vec chosen(ivec where, vec x, float otherwise) { return (vec)(((ivec)x & where) | ((ivec)spread(otherwise) & ~where)); }

INLINE hvec rounded(vec x) { return (hvec)_mm512_cvtneps_pbh((__m512)x); }

static const ivec LANE = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

/* ---------------------------------------------------------------------------------------------------------------------- forward */

/* One line of scores [n] of block after block: masked and scaled, then its weights, not yet divided by their sum, and the normaliser. */
static float weigh(const shape *s, const layout *at, int64_t query, const char *seen, int64_t blocks, float *scores, bf16 *weights,
                   float *total) {
    vec high = spread(-FLT_MAX);
    int32_t mine = at->segments[query];
    for (int64_t block = 0; block < blocks; block++) {
        if (!seen[block]) continue;
        for (int64_t j = block * SIDE; j < (block + 1) * SIDE; j += LANES) {
            ivec theirs = load_int(at->segments + j);
            ivec visible = (ivec)((LANE + (int32_t)j) <= (int32_t)query) & (ivec)((theirs == mine) | (theirs == 0));
            vec here = chosen(visible, load(scores + j) * s->scale, -INFINITY);
            store(scores + j, here);
            high = larger(here, high);
        }
    }
    float top = largest(high);
    vec sums = spread(0);
    for (int64_t block = 0; block < blocks; block++) {
        if (!seen[block]) continue;
        for (int64_t j = block * SIDE; j < (block + 1) * SIDE; j += LANES) {
            vec weight = exponential(load(scores + j) - top);
            hvec half = rounded(weight);
            memcpy(weights + j, &half, sizeof half);
            sums += weight;
        }
    }
    *total = sum(sums);
    return top + logf(*total);
}

/* out = softmax(scale · q · kᵀ) · v, and the normalisers [B, H, S]: log Σ exp of the scores of each query. */
void attention_forward(int64_t batch, int64_t length, int64_t heads, int64_t key_heads, int64_t width, float scale, const bf16 *qkv,
                       const int32_t *segments, bf16 *out, float *normalisers) {
    const shape s = {batch, length, heads, key_heads, width, scale, segments};
    const int64_t stride = (heads + 2 * key_heads) * width, group = heads / key_heads;
#pragma omp parallel
    {
        layout at = make_layout(&s);
        const int64_t padded = at.padded;
        bf16 *lines = space(2 * padded * width), *weights = space(2 * SIDE * padded), *queries = space(2 * SIDE * width);
        uint32_t *key_pairs = space(2 * padded * width), *value_pairs = space(2 * padded * width);
        float *scores = space(4 * SIDE * padded), *mean = space(4 * SIDE * width);
        char *seen = space(padded / SIDE);
        open_tiles();
#pragma omp for schedule(dynamic)
        for (int64_t unit = 0; unit < batch * key_heads; unit++) {
            const int64_t sequence = unit / key_heads, of_keys = unit % key_heads;
            const bf16 *base = qkv + sequence * length * stride;
            read_segments(&s, sequence, &at);
            copy_lines(length, padded, width, base + (heads + of_keys) * width, stride, lines);
            turn_pairs(padded, width, lines, key_pairs);
            copy_lines(length, padded, width, base + (heads + key_heads + of_keys) * width, stride, lines);
            join_pairs(padded, width, lines, value_pairs);
            for (int64_t head = of_keys * group; head < (of_keys + 1) * group; head++)
                for (int64_t first = 0; first < length; first += SIDE) {
                    const int64_t blocks = first / SIDE + 1, left = length - first < SIDE ? length - first : SIDE;
                    copy_lines(left, SIDE, width, base + first * stride + head * width, stride, queries);
                    for (int64_t block = 0; block < blocks; block++) {
                        seen[block] = (char)may_see(&at, blocks - 1, block);
                        if (seen[block])
                            multiply(SIDE, SIDE, width, queries, width, key_pairs + block * SIDE, padded, scores + block * SIDE, padded, 0);
                    }
                    float totals[SIDE];
                    for (int64_t i = 0; i < SIDE; i++) {
                        float all = weigh(&s, &at, first + i, seen, blocks, scores + i * padded,
                                          weights + i * padded, totals + i);
                        if (i < left) normalisers[(sequence * heads + head) * length + first + i] = all;
                    }
                    int add = 0;
                    for (int64_t block = 0; block < blocks;) {
                        int64_t end = block;
                        while (end < blocks && seen[end]) end++;
                        if (end > block) {
                            multiply(SIDE, width, (end - block) * SIDE, weights + block * SIDE, padded, value_pairs + block * SIDE / 2 * width,
                                     width, mean, width, add);
                            add = 1;
                        }
                        block = end + 1;
                    }
                    for (int64_t i = 0; i < left; i++)
                        for (int64_t d = 0; d < width; d += LANES)
                            store_bf16(out + ((sequence * length + first + i) * heads + head) * width + d,
                                       load(mean + i * width + d) * (1 / totals[i]));
                }
        }
        _tile_release();
        free_layout(&at);
        free(lines), free(weights), free(queries), free(key_pairs), free(value_pairs), free(scores), free(mean), free(seen);
    }
}

/* --------------------------------------------------------------------------------------------------------------------- backward */

/* Of 32 keys × n queries: scores become weights, and slopes (of the weights) become those of the scores; both in bf16, the slopes also as
   pairs along the keys. `along` [S] is Σ out · dout of each query. */
static void weigh_again(const shape *s, const layout *at, int64_t key, int64_t query, int64_t n, const float *normalisers, const float *along,
                        const float *scores, const float *slopes, bf16 *weights, bf16 *of_scores, uint32_t *pairs) {
    for (int64_t i = 0; i < SIDE; i += 2)
        for (int64_t j = 0; j < n; j += LANES) {
            uvec both = (uvec)spread(0);
            vec normaliser = load(normalisers + query + j), mean = load(along + query + j);
            ivec theirs = load_int(at->segments + query + j);
            for (int64_t odd = 0; odd < 2; odd++) {
                int64_t line = i + odd, place = line * CHUNK + j;
                int32_t mine = at->segments[key + line];
                ivec visible = (ivec)((LANE + (int32_t)(query + j)) >= (int32_t)(key + line));
                if (mine != 0) visible &= (ivec)(theirs == mine);
                vec under = chosen(visible, load(scores + place) * s->scale - normaliser, -INFINITY);
                vec weight = exponential((vec)((ivec)under & (ivec)(under < spread(0)))); /* rounding may put one above 0 */
                hvec half = rounded(weight), slope = rounded(weight * (load(slopes + place) - mean) * s->scale);
                memcpy(weights + place, &half, sizeof half);
                memcpy(of_scores + place, &slope, sizeof slope);
                both |= widen(slope) << (odd ? 16 : 0);
            }
            memcpy(pairs + i / 2 * CHUNK + j, &both, sizeof both);
        }
}

static void write_lines(int64_t length, int64_t width, const float *from, bf16 *to, int64_t stride) {
    for (int64_t i = 0; i < length; i++)
        for (int64_t d = 0; d < width; d += LANES) store_bf16(to + i * stride + d, load(from + i * width + d));
}

/* dqkv, the gradients of qkv, from that of out. */
void attention_backward(int64_t batch, int64_t length, int64_t heads, int64_t key_heads, int64_t width, float scale, const bf16 *qkv,
                        const int32_t *segments, const bf16 *out, const float *normalisers, const bf16 *dout, bf16 *dqkv) {
    const shape s = {batch, length, heads, key_heads, width, scale, segments};
    const int64_t stride = (heads + 2 * key_heads) * width, group = heads / key_heads;
#pragma omp parallel
    {
        layout at = make_layout(&s);
        const int64_t padded = at.padded, lines_bytes = 2 * padded * width;
        bf16 *keys = space(lines_bytes), *values = space(lines_bytes), *turned_keys = space(lines_bytes), *lines = space(lines_bytes);
        uint32_t *turned_queries = space(lines_bytes), *joined_queries = space(lines_bytes);
        uint32_t *turned_slopes = space(lines_bytes), *joined_slopes = space(lines_bytes);
        float *dkeys = space(2 * lines_bytes), *dvalues = space(2 * lines_bytes), *dqueries = space(2 * lines_bytes);
        float *scores = space(4 * SIDE * CHUNK), *slopes = space(4 * SIDE * CHUNK), *along = space(4 * padded), *sums = space(4 * padded);
        bf16 *weights = space(2 * SIDE * CHUNK), *of_scores = space(2 * SIDE * CHUNK);
        uint32_t *pairs = space(2 * SIDE * CHUNK);
        open_tiles();
#pragma omp for schedule(dynamic)
        for (int64_t unit = 0; unit < batch * key_heads; unit++) {
            const int64_t sequence = unit / key_heads, of_keys = unit % key_heads, start = sequence * length;
            const bf16 *base = qkv + start * stride;
            read_segments(&s, sequence, &at);
            copy_lines(length, padded, width, base + (heads + of_keys) * width, stride, keys);
            copy_lines(length, padded, width, base + (heads + key_heads + of_keys) * width, stride, values);
            turn(padded, width, keys, turned_keys);
            memset(dkeys, 0, 2 * (size_t)lines_bytes);
            memset(dvalues, 0, 2 * (size_t)lines_bytes);
            for (int64_t head = of_keys * group; head < (of_keys + 1) * group; head++) {
                const bf16 *of_out = out + (start * heads + head) * width, *of_dout = dout + (start * heads + head) * width;
                for (int64_t i = 0; i < padded; i++) {
                    sums[i] = i < length ? normalisers[(sequence * heads + head) * length + i] : INFINITY; /* padding weighs nothing */
                    vec products = spread(0);
                    for (int64_t d = 0; i < length && d < width; d += LANES)
                        products += load_bf16(of_out + i * heads * width + d) * load_bf16(of_dout + i * heads * width + d);
                    along[i] = sum(products);
                }
                copy_lines(length, padded, width, base + head * width, stride, lines);
                turn_pairs(padded, width, lines, turned_queries);
                join_pairs(padded, width, lines, joined_queries);
                copy_lines(length, padded, width, of_dout, heads * width, lines);
                turn_pairs(padded, width, lines, turned_slopes);
                join_pairs(padded, width, lines, joined_slopes);
                memset(dqueries, 0, 2 * (size_t)lines_bytes);
                for (int64_t key = 0; key < length; key += SIDE)
                    for (int64_t query = key; query < length;) {
                        int64_t end = query;
                        while (end < padded && end - query < CHUNK && may_see(&at, end / SIDE, key / SIDE)) end += SIDE;
                        const int64_t n = end - query;
                        if (n == 0) {
                            query += SIDE;
                            continue;
                        }
                        multiply(SIDE, n, width, keys + key * width, width, turned_queries + query, padded, scores, CHUNK, 0);
                        multiply(SIDE, n, width, values + key * width, width, turned_slopes + query, padded, slopes, CHUNK, 0);
                        weigh_again(&s, &at, key, query, n, sums, along, scores, slopes, weights, of_scores, pairs);
                        multiply(SIDE, width, n, weights, CHUNK, joined_slopes + query / 2 * width, width, dvalues + key * width, width, 1);
                        multiply(SIDE, width, n, of_scores, CHUNK, joined_queries + query / 2 * width, width, dkeys + key * width, width, 1);
                        multiply(width, n, SIDE, turned_keys + key, padded, pairs, CHUNK, dqueries + query, padded, 1);
                        query = end;
                    }
                for (int64_t i = 0; i < length; i++)
                    for (int64_t d = 0; d < width; d++)
                        dqkv[(start + i) * stride + head * width + d] = to_bf16(dqueries[d * padded + i]);
            }
            write_lines(length, width, dkeys, dqkv + start * stride + (heads + of_keys) * width, stride);
            write_lines(length, width, dvalues, dqkv + start * stride + (heads + key_heads + of_keys) * width, stride);
        }
        _tile_release();
        free_layout(&at);
        free(keys), free(values), free(turned_keys), free(lines), free(turned_queries), free(joined_queries), free(turned_slopes);
        free(joined_slopes), free(dkeys), free(dvalues), free(dqueries), free(scores), free(slopes), free(along), free(sums);
        free(weights), free(of_scores), free(pairs);
    }
}

#else

int usable(void) { return 0; }

#endif
