/* Causal attention of grouped heads over whole sequences, on the AMX tiles of a processor.

   Scores are fp32, 32 queries at a time; products take bfloat16. The numbers are the same for every number of threads.

   Shapes: N rows of q, k and v, H heads of queries that share G heads of keys and values, D width of a head (a multiple of 32). */

#include "tiles.h"

#ifdef HAVE_TILES

int usable(void) { return may_use_tiles(); }

/* One row of scores, of which a query sees those up to its own position: its weights, not yet divided by their sum, in `blocks` blocks.
   Returns the sum. */
static float weigh(int64_t query, int64_t blocks, float *scores, bf16 *weights) {
    vec high = spread(-FLT_MAX);
    for (int64_t j = 0; j < blocks * SIDE; j += LANES) {
        vec here = where((LANE + (int32_t)j) <= (int32_t)query, load(scores + j), -INFINITY);
        store(scores + j, here);
        high = larger(here, high);
    }
    float top = largest(high);
    vec sums = spread(0);
    for (int64_t j = 0; j < blocks * SIDE; j += LANES) {
        vec weight = exponential(load(scores + j) - top);
        hvec half = to_bf16_vec(weight);
        memcpy(weights + j, &half, sizeof half);
        sums += weight;
    }
    return sum(sums);
}

/* out [N, H · D] = softmax(q · kᵀ) · v of the heads at q [N, stride_q], k [N, stride_k] and v [N, stride_v].

   Sequence s consists of the rows places[offsets[s]] … places[offsets[s + 1] − 1]; those before firsts[s] are only seen, and get nothing. A
   position sees itself and those before it. `longest` is the length of the longest sequence. */
void attention_forward(int64_t sequences, int64_t longest, const int64_t *offsets, const int64_t *firsts, const int64_t *places, int64_t heads,
                       int64_t key_heads, int64_t width, const bf16 *q, int64_t stride_q, const bf16 *k, int64_t stride_k, const bf16 *v,
                       int64_t stride_v, bf16 *out) {
    const int64_t group = heads / key_heads, most = (longest + SIDE - 1) / SIDE * SIDE;
#pragma omp parallel
    {
        bf16 *rows = space(2 * most * width), *weights = space(2 * SIDE * most), *queries = space(2 * SIDE * width);
        uint32_t *key_pairs = space(2 * most * width), *value_pairs = space(2 * most * width);
        float *scores = space(4 * SIDE * most), *mean = space(4 * SIDE * width);
        configure_tiles();
#pragma omp for schedule(dynamic)
        for (int64_t unit = 0; unit < sequences * key_heads; unit++) {
            const int64_t sequence = unit / key_heads, of_keys = unit % key_heads, start = firsts[sequence];
            const int64_t length = offsets[sequence + 1] - offsets[sequence], padded = (length + SIDE - 1) / SIDE * SIDE;
            const int64_t *here = places + offsets[sequence];
            if (start == length) continue;
            copy_rows(length, padded, width, k + of_keys * width, stride_k, here, rows);
            transpose_pairs(padded, width, rows, key_pairs);
            copy_rows(length, padded, width, v + of_keys * width, stride_v, here, rows);
            join_pairs(padded, width, rows, value_pairs);
            for (int64_t head = of_keys * group; head < (of_keys + 1) * group; head++)
                for (int64_t first = start; first < length; first += SIDE) {
                    const int64_t left = length - first < SIDE ? length - first : SIDE, blocks = (first + left - 1) / SIDE + 1;
                    copy_rows(left, SIDE, width, q + head * width, stride_q, here + first, queries);
                    multiply(SIDE, blocks * SIDE, width, queries, width, key_pairs, padded, scores, padded);
                    float totals[SIDE];
                    for (int64_t i = 0; i < left; i++) totals[i] = weigh(first + i, blocks, scores + i * padded, weights + i * padded);
                    multiply(SIDE, width, blocks * SIDE, weights, padded, value_pairs, width, mean, width);
                    for (int64_t i = 0; i < left; i++) {
                        bf16 *to = out + (here[first + i] * heads + head) * width;
                        for (int64_t d = 0; d < width; d += LANES) store_bf16(to + d, load(mean + i * width + d) * (1 / totals[i]));
                    }
                }
        }
        _tile_release();
        free(rows), free(weights), free(queries), free(key_pairs), free(value_pairs), free(scores), free(mean);
    }
}

#else

int usable(void) { return 0; }

#endif
