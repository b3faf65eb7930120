/* What Llama-like models do between their matrix products, on a processor, with numbers of one type: bfloat16 or float (vectors.h).

   Every function takes dense arrays, computes in fp32 and gives the same numbers for every number of threads.

   Shapes: R rows, H query heads, K key heads, G = H / K, D width of a head (a multiple of 16), C hidden width, V vocabulary.
   Keys lie as [tokens / LANES, D, LANES], so that LANES scores are made at once; values lie as [tokens, D]. */

#include "vectors.h"

/* Tokens whose keys lie together. */
int64_t lanes(void) { return LANES; }

/* y [R, C] = the hidden states x [R, C] plus `delta` (or null), divided by their root mean square, times `weight` [C]. x keeps the sum. */
void add_and_norm(int64_t rows, int64_t width, float *x, const number *delta, const number *weight, float epsilon, number *y) {
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        float *row = x + r * width;
        vec squares = spread(0);
        for (int64_t c = 0; c < width; c += LANES) {
            vec here = load(row + c);
            if (delta) {
                here += load_number(delta + r * width + c);
                store(row + c, here);
            }
            squares += here * here;
        }
        float inverse = 1.0f / sqrtf(sum(squares) / (float)width + epsilon);
        for (int64_t c = 0; c < width; c += LANES) store_number(y + r * width + c, load(row + c) * inverse * load_number(weight + c));
    }
}

/* y [R, C] = silu(gate) · up, of gate_and_up [R, 2 C]. */
void gate(int64_t rows, int64_t width, const number *gate_and_up, number *y) {
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        const number *of_gate = gate_and_up + 2 * r * width, *of_up = of_gate + width;
        for (int64_t c = 0; c < width; c += LANES) {
            vec x = load_number(of_gate + c);
            store_number(y + r * width + c, x * sigmoid(x) * load_number(of_up + c));
        }
    }
}

/* One head [D] in place: divided by its root mean square where there is a weight for that, then rotated. */
INLINE void rotate(float *head, int64_t width, const number *weight, float epsilon, const float *cosine, const float *sine) {
    if (weight) {
        vec squares = spread(0);
        for (int64_t d = 0; d < width; d += LANES) squares += load(head + d) * load(head + d);
        float inverse = 1.0f / sqrtf(sum(squares) / (float)width + epsilon);
        for (int64_t d = 0; d < width; d += LANES) store(head + d, load(head + d) * inverse * load_number(weight + d));
    }
    int64_t half = width / 2, d = 0;
    for (; d + LANES <= half; d += LANES) {
        vec a = load(head + d), b = load(head + d + half);
        store(head + d, a * load(cosine + d) - b * load(sine + d));
        store(head + d + half, b * load(cosine + d + half) + a * load(sine + d + half));
    }
    for (; d < half; d++) {
        float a = head[d], b = head[d + half];
        head[d] = a * cosine[d] - b * sine[d];
        head[d + half] = b * cosine[d + half] + a * sine[d + half];
    }
}

/* y [N, heads, D]: heads of x, rotated (and normalised, where there is a weight) and scaled. Row n of x begins at n · stride. */
void rotate_heads(int64_t tokens, int64_t heads, int64_t width, const number *x, int64_t stride, const float *cosine, const float *sine,
                  const number *weight, float epsilon, float scaling, number *y) {
#pragma omp parallel
    {
        float *head = aligned_alloc(64, sizeof(float) * (size_t)width);
#pragma omp for schedule(static)
        for (int64_t token = 0; token < tokens; token++) {
            for (int64_t h = 0; h < heads; h++) {
                const number *from = x + token * stride + h * width;
                number *to = y + (token * heads + h) * width;
                for (int64_t d = 0; d < width; d += LANES) store(head + d, load_number(from + d));
                rotate(head, width, weight, epsilon, cosine + token * width, sine + token * width);
                for (int64_t d = 0; d < width; d += LANES) store_number(to + d, load(head + d) * scaling);
            }
        }
        free(head);
    }
}

/* Scores of `heads` ≤ 4 queries [D] with the keys of `tiles` tiles; row h of the scores begins at h · stride. */
INLINE void score_few(const int heads, int64_t tiles, int64_t width, const float *q, const number *keys, float *scores, int64_t stride) {
    for (int64_t tile = 0; tile < tiles; tile++, keys += width * LANES) {
        vec even[4], odd[4];
        for (int h = 0; h < heads; h++) even[h] = odd[h] = spread(0);
        for (int64_t d = 0; d < width; d += 2) {
            vec first = load_number(keys + d * LANES), second = load_number(keys + (d + 1) * LANES);
            for (int h = 0; h < heads; h++) {
                even[h] += first * q[h * width + d];
                odd[h] += second * q[h * width + d + 1];
            }
        }
        for (int h = 0; h < heads; h++) store(scores + h * stride + tile * LANES, even[h] + odd[h]);
    }
}

/* Adds to out [heads, D] the values [tokens, D] by their weights. */
INLINE void average_few(const int heads, int64_t tokens, int64_t width, const float *weights, int64_t stride, const number *values, float *out) {
    for (int64_t d = 0; d < width; d += LANES) {
        vec even[4], odd[4];
        for (int h = 0; h < heads; h++) even[h] = load(out + h * width + d), odd[h] = spread(0);
        int64_t t = 0;
        for (; t + 1 < tokens; t += 2) {
            vec first = load_number(values + t * width + d), second = load_number(values + (t + 1) * width + d);
            for (int h = 0; h < heads; h++) {
                even[h] += first * weights[h * stride + t];
                odd[h] += second * weights[h * stride + t + 1];
            }
        }
        if (t < tokens)
            for (int h = 0; h < heads; h++) even[h] += load_number(values + t * width + d) * weights[h * stride + t];
        for (int h = 0; h < heads; h++) store(out + h * width + d, even[h] + odd[h]);
    }
}

/* Four at a time: their sums stay in registers. */
#define BY_FOURS(call, heads)                        \
    for (int64_t h = 0; h < (heads); h += 4) {       \
        int64_t left = (heads) - h;                  \
        if (left >= 4) { call(4); }                  \
        else if (left == 3) { call(3); }             \
        else if (left == 2) { call(2); }             \
        else { call(1); }                            \
    }

static void score(int64_t heads, int64_t tiles, int64_t width, const float *q, const number *keys, float *scores, int64_t stride) {
#define CALL(n) score_few(n, tiles, width, q + h * width, keys, scores + h * stride, stride)
    BY_FOURS(CALL, heads)
#undef CALL
}

static void average(int64_t heads, int64_t tokens, int64_t width, const float *weights, int64_t stride, const number *values, float *out) {
#define CALL(n) average_few(n, tokens, width, weights + h * stride, stride, values, out + h * width)
    BY_FOURS(CALL, heads)
#undef CALL
}

/* Asks for memory that is read soon. */
INLINE void fetch(const number *at, int64_t num) {
    for (const char *line = (const char *)at, *end = (const char *)(at + num); line < end; line += 64) __builtin_prefetch(line, 0, 3);
}

/* Attention of one layer's R new tokens to their prompts and to what their samples have written before.

   qkv                [R, H + 2 K, D]; the new keys and values are appended to the samples' own.
   cosine, sine       [R, D] of the tokens' positions.
   query_norm, key_norm  [D] or null.
   own_keys, own_values  [layers, slots, K, columns · D]; columns is a multiple of LANES.
   slot, written      [R] where a row's own lie, and how many there are before this token.
   prompt_keys, prompt_values, prompt_length  [R] addresses of [layers, K, tiles, D, LANES] and [layers, K, length, D], and the length.
   out                [R, H, D].
   Returns 0, or 1 where memory is lacking. */
int attend(int64_t rows, int64_t heads, int64_t key_heads, int64_t width, int64_t slots, int64_t layer, const number *qkv,
           const float *cosine, const float *sine, const number *query_norm, const number *key_norm, float epsilon, float scaling,
           number *own_keys, number *own_values, int64_t columns, const int64_t *slot, const int64_t *written,
           const int64_t *prompt_keys, const int64_t *prompt_values, const int64_t *prompt_length, number *out) {
    int64_t group = heads / key_heads, most = 0;
    for (int64_t r = 0; r < rows; r++) {
        int64_t padded = (prompt_length[r] + LANES - 1) / LANES * LANES + (written[r] + LANES) / LANES * LANES;
        most = padded > most ? padded : most;
    }
    int failed = 0;
#pragma omp parallel
    {
        float *scratch = aligned_alloc(64, sizeof(float) * (size_t)(group * most + 2 * group * width + width));
        if (!scratch) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(static)
        for (int64_t item = 0; item < rows * key_heads; item++) {
            if (!scratch) continue;
            float *scores = scratch, *q = scratch + group * most, *sums = q + group * width, *key = sums + group * width;
            int64_t r = item / key_heads, head = item % key_heads;
            if (item + 1 < rows * key_heads) { /* a sample's own keys and values lie in memory, not in cache */
                int64_t then = (item + 1) / key_heads, num = (written[then] + LANES) / LANES * LANES * width;
                int64_t there = ((layer * slots + slot[then]) * key_heads + (item + 1) % key_heads) * columns * width;
                fetch(own_keys + there, num);
                fetch(own_values + there, num);
            }
            const number *row = qkv + r * (heads + 2 * key_heads) * width;
            const float *cosines = cosine + r * width, *sines = sine + r * width;
            for (int64_t h = 0; h < group; h++) {
                float *mine = q + h * width;
                for (int64_t d = 0; d < width; d += LANES) store(mine + d, load_number(row + (head * group + h) * width + d));
                rotate(mine, width, query_norm, epsilon, cosines, sines);
                for (int64_t d = 0; d < width; d += LANES) store(mine + d, load(mine + d) * scaling);
            }
            for (int64_t d = 0; d < width; d += LANES) store(key + d, load_number(row + (heads + head) * width + d));
            rotate(key, width, key_norm, epsilon, cosines, sines);

            int64_t length = prompt_length[r], tiles = (length + LANES - 1) / LANES, before = tiles * LANES;
            int64_t own = written[r] + 1, own_tiles = (own + LANES - 1) / LANES, all = before + own_tiles * LANES;
            int64_t place = ((layer * slots + slot[r]) * key_heads + head) * columns * width;
            number *mine_k = own_keys + place, *mine_v = own_values + place;
            number *tile = mine_k + (own - 1) / LANES * LANES * width;
            for (int64_t d = 0; d < width; d++) tile[d * LANES + (own - 1) % LANES] = to_number(key[d]);
            memcpy(mine_v + (own - 1) * width, row + (heads + key_heads + head) * width, sizeof(number) * (size_t)width);
            const number *theirs_k = (const number *)prompt_keys[r] + (layer * key_heads + head) * before * width;
            const number *theirs_v = (const number *)prompt_values[r] + (layer * key_heads + head) * length * width;

            score(group, tiles, width, q, theirs_k, scores, all);
            score(group, own_tiles, width, q, mine_k, scores + before, all);
            memset(sums, 0, sizeof(float) * (size_t)(group * width));
            for (int64_t h = 0; h < group; h++) {
                float *of_head = scores + h * all;
                for (int64_t t = length; t < before; t++) of_head[t] = -FLT_MAX;
                for (int64_t t = before + own; t < all; t++) of_head[t] = -FLT_MAX;
                vec top = spread(-FLT_MAX), total = spread(0);
                for (int64_t t = 0; t < all; t += LANES) top = larger(load(of_head + t), top);
                vec highest = spread(largest(top));
                for (int64_t t = 0; t < all; t += LANES) {
                    vec weight = exponential(load(of_head + t) - highest);
                    total += weight;
                    store(of_head + t, weight);
                }
                vec inverse = spread(1.0f / sum(total));
                for (int64_t t = 0; t < all; t += LANES) store(of_head + t, load(of_head + t) * inverse);
            }
            average(group, length, width, scores, all, theirs_v, sums);
            average(group, own, width, scores + before, all, mine_v, sums);
            number *to = out + (r * heads + head * group) * width;
            for (int64_t d = 0; d < group * width; d += LANES) store_number(to + d, load(sums + d));
        }
        free(scratch);
    }
    return failed;
}

/* Picks a token of every row by inversion from softmax(logits / temperature).

   logits [R, V] of the policy, u [R] in [0, 1). Gives ids [R], and the log-probability of each under the policy and under the
   distribution that is sampled. The vocabulary is summed in blocks, in fp32 inside of one and in fp64 over them.
   Returns 0, or 1 where memory is lacking. */
int pick_tokens(int64_t rows, int64_t vocabulary, const number *logits, const double *u, float temperature, int64_t *ids, float *policy,
         float *sampler) {
    int64_t blocks = (vocabulary + BLOCK - 1) / BLOCK;
    int failed = 0;
#pragma omp parallel
    {
        double *sums = malloc(sizeof(double) * (size_t)blocks);
        if (!sums) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(static)
        for (int64_t r = 0; r < rows; r++) {
            if (!sums) continue;
            const number *row = logits + r * vocabulary;
            vec tops = spread(-INFINITY);
            for (int64_t t = 0; t < vocabulary; t += LANES) tops = larger(load_some(row + t, vocabulary - t), tops);
            float top = largest(tops);
            double total = 0, of_policy = 0;
            for (int64_t block = 0; block < blocks; block++) {
                int64_t first = block * BLOCK, last = first + BLOCK < vocabulary ? first + BLOCK : vocabulary;
                vec tempered = spread(0), plain = spread(0);
                for (int64_t t = first; t < last; t += LANES) {
                    vec x = load_some(row + t, last - t) - top;
                    plain += exponential(x);
                    if (temperature != 1.0f) tempered += exponential(x / temperature);
                }
                of_policy += sum(plain);
                sums[block] = sum(temperature != 1.0f ? tempered : plain);
                total += sums[block];
            }
            /* The first block whose cumulated mass exceeds the target, then the first token inside it; rounding may put the target past
               the last token with mass: stay on it. */
            double target = u[r] * total, cumulated = 0, before = -INFINITY;
            int64_t block = 0;
            for (int64_t b = 0; b < blocks; b++) {
                if (sums[b] <= 0) continue;
                block = b;
                if (cumulated + sums[b] > target) {
                    before = cumulated;
                    break;
                }
                cumulated += sums[b];
            }
            int64_t first = block * BLOCK, last = first + BLOCK < vocabulary ? first + BLOCK : vocabulary, token = first;
            for (int64_t t = first; t < last; t += LANES) {
                int64_t some = last - t < LANES ? last - t : LANES;
                vec weight = exponential((load_some(row + t, some) - top) / temperature);
                for (int64_t i = 0; i < some && before <= target; i++) {
                    if (weight[i] > 0) token = t + i;
                    before += weight[i];
                }
            }
            ids[r] = token;
            float mine = to_float(row[token]) - top;
            policy[r] = mine - (float)log(of_policy);
            sampler[r] = mine / temperature - (float)log(total);
        }
        free(sums);
    }
    return failed;
}

/* What logits [R, V] say of M tokens, each after some row: log-probability, rank (0 is the most likely), mass of the likelier tokens, and the
   log-probability of the most likely one. Sums as in `pick_tokens`. */
void score_tokens(int64_t num, int64_t vocabulary, const number *logits, const int64_t *rows, const int64_t *tokens, float *logprob,
                  int32_t *rank, float *mass, float *top_logprob) {
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < num; i++) {
        const number *row = logits + rows[i] * vocabulary;
        float chosen = to_float(row[tokens[i]]);
        vec tops = spread(-INFINITY);
        ivec likelier = {0};
        for (int64_t t = 0; t < vocabulary; t += LANES) {
            vec x = load_some(row + t, vocabulary - t);
            tops = larger(x, tops);
            likelier -= x > chosen;
        }
        float top = largest(tops);
        int32_t count = 0;
        for (int lane = 0; lane < LANES; lane++) count += likelier[lane];
        double total = 0, above = 0;
        for (int64_t first = 0; first < vocabulary; first += BLOCK) {
            int64_t last = first + BLOCK < vocabulary ? first + BLOCK : vocabulary;
            vec all = spread(0), some = spread(0);
            for (int64_t t = first; t < last; t += LANES) {
                vec x = load_some(row + t, last - t);
                vec weight = exponential(x - top);
                all += weight;
                some += (vec)((ivec)weight & (x > chosen));
            }
            total += sum(all);
            above += sum(some);
        }
        float normaliser = (float)log(total);
        logprob[i] = chosen - top - normaliser;
        rank[i] = count;
        mass[i] = (float)(above / total);
        top_logprob[i] = -normaliser;
    }
}
