/* The gradient of causal attention of grouped heads, on the matrix units (AMX) of a processor.

   The weights are made again from the normalisers that attention.c of the engines leaves, as FlashAttention does (arXiv 2205.14135), 32 keys at a
   time. The numbers are the same for every number of threads.

   Shapes: B sequences of S positions, H heads that share G heads of keys and values, D width of a head (a multiple of 32).
   qkv [B · S, (H + 2 G) · D] holds queries, keys and values side by side, already rotated; out and dout are [B · S, H · D].
   A position sees itself and those before it; with segments [B, S] only those of its own segment and of segment 0. */

#include "tiles.h"

#ifdef HAVE_TILES

enum { CHUNK = 256 }; /* queries whose scores are there at once */

/* Of 32 keys × n queries: scores become weights, and slopes (of the weights) become those of the scores; both in bf16, the slopes also as
   pairs along the keys. `along` [S] is Σ out · dout of each query. */
static void weigh_again(const marks *at, float scale, int64_t key, int64_t query, int64_t n, const float *normalisers, const float *along,
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
                vec under = chosen(visible, load(scores + place) * scale - normaliser, -INFINITY);
                vec weight = exponential((vec)((ivec)under & (ivec)(under < spread(0)))); /* rounding may put one above 0 */
                hvec half = rounded(weight), slope = rounded(weight * (load(slopes + place) - mean) * scale);
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
    const int64_t stride = (heads + 2 * key_heads) * width, group = heads / key_heads;
    const int64_t padded = (length + SIDE - 1) / SIDE * SIDE, lines_bytes = 2 * padded * width;
#pragma omp parallel
    {
        marks at = make_marks(padded);
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
            read_marks(length, padded, segments ? segments + start : NULL, &at);
            copy_lines(length, padded, width, base + (heads + of_keys) * width, stride, NULL, keys);
            copy_lines(length, padded, width, base + (heads + key_heads + of_keys) * width, stride, NULL, values);
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
                copy_lines(length, padded, width, base + head * width, stride, NULL, lines);
                turn_pairs(padded, width, lines, turned_queries);
                join_pairs(padded, width, lines, joined_queries);
                copy_lines(length, padded, width, of_dout, heads * width, NULL, lines);
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
                        weigh_again(&at, scale, key, query, n, sums, along, scores, slopes, weights, of_scores, pairs);
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
        free_marks(&at);
        free(keys), free(values), free(turned_keys), free(lines), free(turned_queries), free(joined_queries), free(turned_slopes);
        free(joined_slopes), free(dkeys), free(dvalues), free(dqueries), free(scores), free(slopes), free(along), free(sums);
        free(weights), free(of_scores), free(pairs);
    }
}

#endif
