"""Softmax, log softmax, attention's, cross entropy, along rows of n values of T.

A row is a warp's or a block's, if its values lie together (``source.ROWS``). Otherwise they are
``inner`` values apart, as the classes of a pixel are, and a row is one thread's (``source.APART``).

A NaN makes the whole row NaN, as does +infinity, and a row of -infinity only, as in the primitives:
``fmaxf`` passes over a NaN, but the sum of the powers does not.
"""

SOFTMAX = """
// The row's maximum, and the sum of e^(x - maximum).
__device__ __forceinline__ void statistics_of(const T* x, I n, I inner, float& top, float& total) {
    top = -INFINITE, total = 0;
    EACH(i, n) top = fmaxf(top, loaded(x[AT(i)]));
    top = most(top);
    EACH(i, n) total += expf(loaded(x[AT(i)]) - top);
    total = sum(total);
}

extern "C" __global__ void softmax(const T* x, T* y, I rows, I n, I inner) {
    ROW(rows)
    x += START(row), y += START(row);
    float top, total;
    statistics_of(x, n, inner, top, total);
    EACH(i, n) y[AT(i)] = stored<T>(expf(loaded(x[AT(i)]) - top) / total);
}

extern "C" __global__ void log_softmax(const T* x, T* y, I rows, I n, I inner) {
    ROW(rows)
    x += START(row), y += START(row);
    float top, total;
    statistics_of(x, n, inner, top, total);
    const float log_total = logf(total);
    EACH(i, n) y[AT(i)] = stored<T>(loaded(x[AT(i)]) - top - log_total);
}

extern "C" __global__ void softmax_backward(const T* g, const T* y, T* dx, I rows, I n, I inner) {
    ROW(rows)
    g += START(row), y += START(row), dx += START(row);
    float total = 0;
    EACH(i, n) total += loaded(g[AT(i)]) * loaded(y[AT(i)]);
    total = sum(total);
    EACH(i, n) dx[AT(i)] = stored<T>((loaded(g[AT(i)]) - total) * loaded(y[AT(i)]));
}

extern "C" __global__ void log_softmax_backward(
    const T* g, const T* y, T* dx, I rows, I n, I inner) {
    ROW(rows)
    g += START(row), y += START(row), dx += START(row);
    float total = 0;
    EACH(i, n) total += loaded(g[AT(i)]);
    total = sum(total);
    EACH(i, n) dx[AT(i)] = stored<T>(loaded(g[AT(i)]) - expf(loaded(y[AT(i)])) * total);
}
"""

#: Scores come from a product and are not rounded, nor are the gradients of the weights: both are
#: float. A row's part of ``allowed``, if there is one, is that of row % period. From ``first`` on,
#: if that is not negative, each query of a head sees one key more.
ATTENTION = """
extern "C" __global__ void attention_weights(
    const float* x, const unsigned char* allowed, T* y, I rows, I n, I period, I queries, I first,
    float scale) {
    ROW(rows)
    x += row * n, y += row * n;
    if (allowed) allowed += row % period * n;
    const I last = first < 0 ? n : first + row % queries;
    const auto score = [=](I i) {
        return i > last || (allowed && !allowed[i]) ? -INFINITE : x[i] * scale;
    };
    float top = -INFINITE, total = 0;
    EACH(i, n) top = fmaxf(top, score(i));
    top = most(top);
    EACH(i, n) total += expf(score(i) - top);
    total = sum(total);
    EACH(i, n) y[i] = stored<T>(expf(score(i) - top) / total);
}

extern "C" __global__ void attention_weights_backward(
    const float* g, const T* y, T* dx, I rows, I n, float scale) {
    ROW(rows)
    g += row * n, y += row * n, dx += row * n;
    float total = 0;
    EACH(i, n) total += g[i] * loaded(y[i]);
    total = sum(total);
    EACH(i, n) dx[i] = stored<T>((g[i] - total) * loaded(y[i]) * scale);
}
"""

#: The logarithm of the sum of powers is kept as two terms, the row's maximum and log Σ e^(x -
#: maximum): added up, large logits would cost the small term its digits. A target that is no class
#: makes NaN, since a GPU cannot raise an error.
CROSS_ENTROPY = """
extern "C" __global__ void cross_entropy(
    const T* x, const I* targets, float* losses, float* tops, float* logs,
    I rows, I n, I inner, I ignored, float kept, float smoothing) {
    ROW(rows)
    x += START(row);
    float top, total, mean = 0;
    statistics_of(x, n, inner, top, total);
    const float log_total = logf(total);
    if (smoothing) {
        EACH(i, n) mean += loaded(x[AT(i)]) - top - log_total;
        mean = sum(mean) / n;
    }
    if (LANE) return;
    const I target = targets[row];
    float loss = NOT_A_NUMBER;
    if (target >= 0 && target < n) loss = -(loaded(x[AT(target)]) - top - log_total);
    if (smoothing) loss = kept * loss - smoothing * mean;
    losses[row] = target == ignored ? 0 : loss;
    tops[row] = top, logs[row] = log_total;
}

extern "C" __global__ void cross_entropy_backward(
    const float* factors, const T* x, const I* targets, const float* tops, const float* logs,
    T* dx, I rows, I n, I inner, I ignored, float kept, float share) {
    ROW(rows)
    x += START(row), dx += START(row);
    const float top = tops[row], log_total = logs[row];
    const I target = targets[row] == ignored ? 0 : targets[row];
    const float factor = target >= 0 && target < n ? factors[row] : NOT_A_NUMBER;
    EACH(i, n) {
        float slope = expf(loaded(x[AT(i)]) - top - log_total) - share;
        if (i == target) slope -= kept;
        dx[AT(i)] = stored<T>(slope * factor);
    }
}
"""
