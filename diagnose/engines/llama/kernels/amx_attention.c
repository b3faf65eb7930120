/* Causal attention of grouped heads over whole sequences, on the matrix units (AMX) of a processor.

   Scores are fp32, 32 queries at a time; what goes into products is bfloat16. The numbers are the same for every number of threads.

   Shapes: N lines of q, k and v, H heads of queries that share G heads of keys and values, D width of a head (a multiple of 32). */

#include "tiles.h"

#ifdef HAVE_TILES

int usable(void) { return may_use_tiles(); }

/* One line of scores [n] of block after block: masked and scaled, then its weights, not yet divided by their sum, and the normaliser. */
static float weigh(const marks *at, float scale, int64_t query, const char *seen, int64_t blocks, float *scores, bf16 *weights, float *total) {
    vec high = spread(-FLT_MAX);
    int32_t mine = at->segments[query];
    for (int64_t block = 0; block < blocks; block++) {
        if (!seen[block]) continue;
        for (int64_t j = block * SIDE; j < (block + 1) * SIDE; j += LANES) {
            ivec theirs = load_int(at->segments + j);
            ivec visible = (ivec)((LANE + (int32_t)j) <= (int32_t)query) & (ivec)((theirs == mine) | (theirs == 0));
            vec here = chosen(visible, load(scores + j) * scale, -INFINITY);
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

/* out = softmax(scale · q · kᵀ) · v of the heads at q [N, stride_q], k [N, stride_k] and v [N, stride_v]; out [N, H · D].

   Sequence s consists of the lines places[offsets[s]] … places[offsets[s + 1] − 1]; those before firsts[s] are only seen, and get nothing. Where
   there are no places (and no offsets, no firsts), a sequence is `longest` lines, one sequence after the other. A position sees itself and those
   before it; with segments [sequences, longest], which go with no places, only those of its own segment and of segment 0. `longest` is the
   length of the longest sequence. normalisers [sequences, H, longest], or null: log Σ exp of the scores of each query. */
void attention_forward(int64_t sequences, int64_t longest, const int64_t *offsets, const int64_t *firsts, const int64_t *places, int64_t heads,
                       int64_t key_heads, int64_t width, float scale, const bf16 *q, int64_t stride_q, const bf16 *k, int64_t stride_k,
                       const bf16 *v, int64_t stride_v, const int32_t *segments, bf16 *out, float *normalisers) {
    const int64_t group = heads / key_heads, most = (longest + SIDE - 1) / SIDE * SIDE;
#pragma omp parallel
    {
        marks at = make_marks(most);
        bf16 *lines = space(2 * most * width), *weights = space(2 * SIDE * most), *queries = space(2 * SIDE * width);
        uint32_t *key_pairs = space(2 * most * width), *value_pairs = space(2 * most * width);
        float *scores = space(4 * SIDE * most), *mean = space(4 * SIDE * width);
        char *seen = space(most / SIDE);
        open_tiles();
#pragma omp for schedule(dynamic)
        for (int64_t unit = 0; unit < sequences * key_heads; unit++) {
            const int64_t sequence = unit / key_heads, of_keys = unit % key_heads;
            const int64_t length = offsets ? offsets[sequence + 1] - offsets[sequence] : longest, padded = (length + SIDE - 1) / SIDE * SIDE;
            const int64_t begin = places ? 0 : sequence * longest, *here = places ? places + offsets[sequence] : NULL;
            const int64_t start = firsts ? firsts[sequence] : 0;
            if (start == length) continue;
            read_marks(length, padded, segments ? segments + sequence * longest : NULL, &at);
            copy_lines(length, padded, width, k + begin * stride_k + of_keys * width, stride_k, here, lines);
            turn_pairs(padded, width, lines, key_pairs);
            copy_lines(length, padded, width, v + begin * stride_v + of_keys * width, stride_v, here, lines);
            join_pairs(padded, width, lines, value_pairs);
            for (int64_t head = of_keys * group; head < (of_keys + 1) * group; head++)
                for (int64_t first = start; first < length; first += SIDE) {
                    const int64_t left = length - first < SIDE ? length - first : SIDE, blocks = (first + left - 1) / SIDE + 1;
                    const bf16 *of_head = q + begin * stride_q + head * width;
                    if (here) copy_lines(left, SIDE, width, of_head, stride_q, here + first, queries);
                    else copy_lines(left, SIDE, width, of_head + first * stride_q, stride_q, NULL, queries);
                    for (int64_t block = 0; block < blocks; block++) {
                        seen[block] = (char)may_see(&at, first / SIDE, block);
                        if (seen[block])
                            multiply(SIDE, SIDE, width, queries, width, key_pairs + block * SIDE, padded, scores + block * SIDE, padded, 0);
                    }
                    float totals[SIDE];
                    for (int64_t i = 0; i < left; i++) {
                        float all = weigh(&at, scale, first + i, seen, blocks, scores + i * padded, weights + i * padded, totals + i);
                        if (normalisers) normalisers[(sequence * heads + head) * longest + first + i] = all;
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
                    for (int64_t i = 0; i < left; i++) {
                        bf16 *to = out + ((here ? here[first + i] : begin + first + i) * heads + head) * width;
                        for (int64_t d = 0; d < width; d += LANES) store_bf16(to + d, load(mean + i * width + d) * (1 / totals[i]));
                    }
                }
        }
        _tile_release();
        free_marks(&at);
        free(lines), free(weights), free(queries), free(key_pairs), free(value_pairs), free(scores), free(mean), free(seen);
    }
}

#else

int usable(void) { return 0; }

#endif
