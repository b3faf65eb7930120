/* What stands between the matrix products of a Llama-like model in training, forward and backward, on a processor.

   The hidden states are fp32, what goes into products is bfloat16. Every function takes dense arrays, computes in fp32 and gives the same
   numbers for every number of threads.

   Shapes: R lines, C width (a multiple of 16), V vocabulary. */

#include "vectors.h"

enum { PARTS = 64 }; /* into which lines are divided where a sum runs over them: fixed, so that threads do not change it */

/* y [R, C] = z / rms(z) · weight, z = x + delta (bf16, or null); z [R, C] may be x itself, inverse [R] is 1 / rms. */
void norm_forward(int64_t lines, int64_t width, const float *x, const bf16 *delta, const float *weight, float epsilon, float *z, bf16 *y,
                  float *inverse) {
#pragma omp parallel for schedule(static)
    for (int64_t line = 0; line < lines; line++) {
        const float *from = x + line * width;
        float *row = z + line * width;
        vec squares = spread(0);
        for (int64_t c = 0; c < width; c += LANES) {
            vec here = load(from + c);
            if (delta) here += load_bf16(delta + line * width + c);
            if (delta || z != x) store(row + c, here);
            squares += here * here;
        }
        float scale = 1.0f / sqrtf(sum(squares) / (float)width + epsilon);
        inverse[line] = scale;
        for (int64_t c = 0; c < width; c += LANES) store_bf16(y + line * width + c, load(row + c) * scale * load(weight + c));
    }
}

/* The normalised lines once more, from what was kept of them. */
void norm_again(int64_t lines, int64_t width, const float *z, const float *weight, const float *inverse, bf16 *y) {
#pragma omp parallel for schedule(static)
    for (int64_t line = 0; line < lines; line++)
        for (int64_t c = 0; c < width; c += LANES)
            store_bf16(y + line * width + c, load(z + line * width + c) * inverse[line] * load(weight + c));
}

/* dz [R, C] += ∂y/∂z · dy, and a copy of it in bf16 (or null); partial [PARTS, C] is the gradient of the weight by parts. */
void norm_backward(int64_t lines, int64_t width, const float *z, const float *weight, const float *inverse, const bf16 *dy, float *dz,
                   bf16 *copy, float *partial) {
#pragma omp parallel for schedule(static)
    for (int64_t part = 0; part < PARTS; part++) {
        float *of_weight = partial + part * width;
        memset(of_weight, 0, sizeof(float) * (size_t)width);
        for (int64_t line = lines * part / PARTS; line < lines * (part + 1) / PARTS; line++) {
            const float *row = z + line * width;
            const bf16 *slope = dy + line * width;
            float *out = dz + line * width;
            float scale = inverse[line];
            vec along = spread(0);
            for (int64_t c = 0; c < width; c += LANES) {
                vec here = load(row + c), given = load_bf16(slope + c);
                store(of_weight + c, load(of_weight + c) + given * here * scale);
                along += given * load(weight + c) * here;
            }
            float back = sum(along) * scale * scale * scale / (float)width;
            for (int64_t c = 0; c < width; c += LANES) {
                vec total = load(out + c) + load_bf16(slope + c) * load(weight + c) * scale - load(row + c) * back;
                store(out + c, total);
                if (copy) store_bf16(copy + line * width + c, total);
            }
        }
    }
}

/* h [R, C] = silu(gate) · up, of gate_and_up [R, 2 C]. */
void gate_forward(int64_t lines, int64_t width, const bf16 *gate_and_up, bf16 *h) {
#pragma omp parallel for schedule(static)
    for (int64_t line = 0; line < lines; line++) {
        const bf16 *of_gate = gate_and_up + 2 * line * width, *of_up = of_gate + width;
        for (int64_t c = 0; c < width; c += LANES) {
            vec x = load_bf16(of_gate + c);
            store_bf16(h + line * width + c, x * sigmoid(x) * load_bf16(of_up + c));
        }
    }
}

/* The gradients of both [R, 2 C] from that of h [R, C]; they may take the place of gate_and_up. dh becomes h once more. */
void gate_backward(int64_t lines, int64_t width, const bf16 *gate_and_up, bf16 *dh, bf16 *slopes) {
#pragma omp parallel for schedule(static)
    for (int64_t line = 0; line < lines; line++) {
        const bf16 *of_gate = gate_and_up + 2 * line * width, *of_up = of_gate + width;
        bf16 *to = slopes + 2 * line * width, *h = dh + line * width;
        for (int64_t c = 0; c < width; c += LANES) {
            vec x = load_bf16(of_gate + c), up = load_bf16(of_up + c), given = load_bf16(h + c), share = sigmoid(x);
            vec silu = x * share;
            store_bf16(to + c, given * up * (share + silu * (1 - share)));
            store_bf16(to + width + c, given * silu);
            store_bf16(h + c, silu * up);
        }
    }
}

/* Heads [N, heads, D] in place, rotated by the angle whose cosine and sine [N, D] are given, or back again where `back` is −1. */
void rotate(int64_t tokens, int64_t heads, int64_t width, int64_t stride, bf16 *x, const float *cosine, const float *sine, float back) {
    int64_t half = width / 2;
#pragma omp parallel for schedule(static)
    for (int64_t token = 0; token < tokens; token++) {
        const float *cosines = cosine + token * width, *sines = sine + token * width;
        for (int64_t h = 0; h < heads; h++) {
            bf16 *head = x + token * stride + h * width;
            for (int64_t d = 0; d < half; d += LANES) {
                vec a = load_bf16(head + d), b = load_bf16(head + d + half), sines_here = load(sines + d) * back;
                store_bf16(head + d, a * load(cosines + d) - b * sines_here);
                store_bf16(head + d + half, b * load(cosines + d) + a * sines_here);
            }
        }
    }
}

/* Of lines of logits [R, V]: log Σ exp, the target's logit, and the entropy (or null), fp32. */
void log_normaliser(int64_t lines, int64_t vocabulary, const bf16 *logits, const int64_t *target, float *normaliser, float *of_target,
                    float *entropy) {
#pragma omp parallel for schedule(static)
    for (int64_t line = 0; line < lines; line++) {
        const bf16 *row = logits + line * vocabulary;
        vec high = spread(-FLT_MAX);
        int64_t v;
        for (v = 0; v < vocabulary; v += LANES) high = larger(load_some(row + v, vocabulary - v), high);
        float top = largest(high);
        vec total = spread(0), mean = spread(0);
        for (v = 0; v < vocabulary; v += LANES) {
            vec under = load_some(row + v, vocabulary - v) - top, weight = exponential(under);
            total += weight;
            if (entropy) mean += weight * larger(under, spread(-88)); /* −∞ beyond the end has weight 0 */
        }
        float all = sum(total), whole = logf(all);
        normaliser[line] = top + whole;
        of_target[line] = to_float(row[target[line]]);
        if (entropy) entropy[line] = whole - sum(mean) / all;
    }
}

/* Logits [R, V] become ∂ Σ grad · log p(target) / ∂ logits = grad · (onehot(target) − softmax), in place. */
void logprob_slope(int64_t lines, int64_t vocabulary, bf16 *logits, const int64_t *target, const float *normaliser, const float *grad) {
#pragma omp parallel for schedule(static)
    for (int64_t line = 0; line < lines; line++) {
        bf16 *row = logits + line * vocabulary;
        float weight = -grad[line], top = normaliser[line];
        int64_t v = 0;
        float at_target = grad[line] * (1 - expf(to_float(row[target[line]]) - top));
        for (; v + LANES <= vocabulary; v += LANES) {
            vec under = load_bf16(row + v) - top;
            under = (vec)(((ivec)under & (ivec)(under < spread(0)))); /* rounding may put one above 0 */
            store_bf16(row + v, exponential(under) * weight);
        }
        for (; v < vocabulary; v++) row[v] = to_bf16(expf(to_float(row[v]) - top) * weight);
        row[target[line]] = to_bf16(at_target);
    }
}
