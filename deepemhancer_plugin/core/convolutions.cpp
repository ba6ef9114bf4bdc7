// Convolutions of 3^3 with zeros around, float32, arrays (n, z, y, x, features), kernels (z, y, x, features in, features out), and the gradient of
// the kernel, by the minimal filtering of Winograd 1980 and Lavin & Gray 2016 (arXiv:1509.09308), F(4, 3) along each axis: the products of 6^3
// points make 4^3 voxels, 3.4 multiplications for each where the definition takes 27. convolutions.py builds and calls this.
#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>

#ifdef __AVX512F__
constexpr int VECTOR = 16;
#else
constexpr int VECTOR = 8;
#endif
typedef float vec __attribute__((vector_size(VECTOR * 4), aligned(4), may_alias));  // features side by side

static inline vec load(const float* p) { return *(const vec*)p; }
static inline void store(float* p, vec v) { *(vec*)p = v; }

// The transforms along one axis: from FROM vectors, `s` apart, to TO, `t` apart. B and A as in the paper, G for the kernel.
constexpr int TILE = 4, POINTS = 6, ALL = POINTS * POINTS * POINTS;
constexpr float SIXTH = 1 / 6.f;

struct Points {  // B^T
    static constexpr int FROM = POINTS, TO = POINTS;
    static inline void line(const vec* i, int s, vec* o, int t) {
        const vec a = i[4 * s] - 4.f * i[2 * s], b = i[3 * s] - 4.f * i[s], c = i[4 * s] - i[2 * s], d = 2.f * (i[3 * s] - i[s]);
        o[0] = 4.f * i[0] - 5.f * i[2 * s] + i[4 * s], o[t] = a + b, o[2 * t] = a - b;
        o[3 * t] = c + d, o[4 * t] = c - d, o[5 * t] = 4.f * i[s] - 5.f * i[3 * s] + i[5 * s];
    }
};
struct Voxels {  // A^T
    static constexpr int FROM = POINTS, TO = TILE;
    static inline void line(const vec* i, int s, vec* o, int t) {
        const vec a = i[s] + i[2 * s], b = i[s] - i[2 * s], c = i[3 * s] + i[4 * s], d = i[3 * s] - i[4 * s];
        o[0] = i[0] + a + c, o[t] = b + 2.f * d, o[2 * t] = a + 4.f * c, o[3 * t] = b + 8.f * d + i[5 * s];
    }
};
struct VoxelsBack {  // A
    static constexpr int FROM = TILE, TO = POINTS;
    static inline void line(const vec* i, int s, vec* o, int t) {
        const vec a = i[0] + i[2 * s], b = i[s] + i[3 * s], c = i[0] + 4.f * i[2 * s], d = 2.f * i[s] + 8.f * i[3 * s];
        o[0] = i[0], o[t] = a + b, o[2 * t] = a - b, o[3 * t] = c + d, o[4 * t] = c - d, o[5 * t] = i[3 * s];
    }
};
struct Kernel {  // G
    static constexpr int FROM = 3, TO = POINTS;
    static inline void line(const vec* i, int s, vec* o, int t) {
        const vec a = -SIXTH * (i[0] + i[2 * s]), b = SIXTH * i[s], c = SIXTH * (0.25f * i[0] + i[2 * s]), d = 0.5f * SIXTH * i[s];
        o[0] = 0.25f * i[0], o[t] = a - b, o[2 * t] = a + b, o[3 * t] = c + d, o[4 * t] = c - d, o[5 * t] = i[2 * s];
    }
};
struct KernelBack {  // G^T
    static constexpr int FROM = POINTS, TO = 3;
    static inline void line(const vec* i, int s, vec* o, int t) {
        const vec a = i[s] + i[2 * s], b = i[2 * s] - i[s], c = i[3 * s] + i[4 * s], d = i[3 * s] - i[4 * s];
        o[0] = 0.25f * i[0] + SIXTH * (0.25f * c - a), o[t] = SIXTH * (b + 0.5f * d), o[2 * t] = SIXTH * (c - a) + i[5 * s];
    }
};

// A cube FROM^3 to a cube TO^3.
template <class T> static inline void transform(const vec* in, vec* out) {
    constexpr int F = T::FROM, O = T::TO;
    vec a[O * F * F], b[O * O * F];
    for (int i = 0; i < F * F; i++) T::line(in + i, F * F, a + i, F * F);
    for (int z = 0; z < O; z++)
        for (int x = 0; x < F; x++) T::line(a + z * F * F + x, F, b + z * O * F + x, F);
    for (int i = 0; i < O * O; i++) T::line(b + i * F, 1, out + i * O, 1);
}

// Products of matrices: out (rows, columns) = a b, or += where ADD, with b (inner, columns) and a[row, k] at a[row * by_row + k * by_inner], so
// that it may be transposed. ROWS x WIDE vectors of `out` at a time stay in registers.
template <bool ADD, int ROWS, int WIDE>
static inline void product(const float* a, size_t by_row, size_t by_inner, const float* b, float* out, int inner, size_t columns) {
    vec sum[ROWS][WIDE] = {};
    if (ADD)
        for (int r = 0; r < ROWS; r++)
            for (int j = 0; j < WIDE; j++) sum[r][j] = load(out + r * columns + j * VECTOR);
    for (int k = 0; k < inner; k++, a += by_inner, b += columns) {
        vec v[WIDE];
        for (int j = 0; j < WIDE; j++) v[j] = load(b + j * VECTOR);
        for (int r = 0; r < ROWS; r++)
            for (int j = 0; j < WIDE; j++) sum[r][j] += a[r * by_row] * v[j];
    }
    for (int r = 0; r < ROWS; r++)
        for (int j = 0; j < WIDE; j++) store(out + r * columns + j * VECTOR, sum[r][j]);
}
template <bool ADD, int WIDE>
static void all_rows(const float* a, size_t by_row, size_t by_inner, const float* b, float* out, int rows, int inner, size_t columns) {
    int r = 0;
    for (; r + 6 <= rows; r += 6) product<ADD, 6, WIDE>(a + r * by_row, by_row, by_inner, b, out + r * columns, inner, columns);
    for (; r + 3 <= rows; r += 3) product<ADD, 3, WIDE>(a + r * by_row, by_row, by_inner, b, out + r * columns, inner, columns);
    for (; r < rows; r++) product<ADD, 1, WIDE>(a + r * by_row, by_row, by_inner, b, out + r * columns, inner, columns);
}
template <bool ADD>
static void multiply(const float* a, size_t by_row, size_t by_inner, const float* b, float* out, int rows, int inner, int columns) {
    int j = 0;
    for (; j + 2 * VECTOR <= columns; j += 2 * VECTOR) all_rows<ADD, 2>(a, by_row, by_inner, b + j, out + j, rows, inner, columns);
    for (; j < columns; j += VECTOR) all_rows<ADD, 1>(a, by_row, by_inner, b + j, out + j, rows, inner, columns);
}

// The tiles of an array (n, z, y, x, features): 4^3 voxels each, those at the far borders perhaps less.
struct Tiles {
    int z, y, x, features;
    int across(int length) const { return (length + TILE - 1) / TILE; }
    int count(int n) const { return n * across(z) * across(y) * across(x); }

    // A cube of `edge` voxels that begins `before` the tile, from feature `k` on; zeros outside of the array.
    template <int EDGE, int BEFORE> void read(const float* array, int tile, int k, vec* cube) const {
        each<EDGE, BEFORE>(tile, [&](size_t voxel, bool inside, int i) { cube[i] = inside ? load(array + voxel * features + k) : vec{}; });
    }
    template <class F> void write(int tile, F f) const {
        each<TILE, 0>(tile, [&](size_t voxel, bool inside, int i) { if (inside) f(voxel, i); });
    }

private:
    template <int EDGE, int BEFORE, class F> void each(int tile, F f) const {
        const int x0 = tile % across(x) * TILE - BEFORE, row = tile / across(x), y0 = row % across(y) * TILE - BEFORE, plane = row / across(y);
        const int z0 = plane % across(z) * TILE - BEFORE, n = plane / across(z);
        for (int i = 0, c = 0; i < EDGE; i++)
            for (int j = 0; j < EDGE; j++) {
                const int zz = z0 + i, yy = y0 + j;
                const bool inside = zz >= 0 && zz < z && yy >= 0 && yy < y;
                const size_t line = (((size_t)n * z + zz) * y + yy) * x;
                for (int k = 0; k < EDGE; k++, c++) f(line + x0 + k, inside && x0 + k >= 0 && x0 + k < x, c);
            }
    }
};

// The points of `tiles` tiles at a time, (ALL, tiles, features): so many as the cache holds. An odd number of cache lines between points, or they
// would all fall into the same few sets of it.
struct Block {
    int tiles;
    size_t in, out;
    Block(int all, int features_in, int features_out) {
        const int features = features_in + features_out, bytes = features < 192 ? 4000000 : 12000000;  // the fastest of 1 to 12 MB
        tiles = std::min(all, std::max(12, bytes / (4 * ALL * features) / 6 * 6));
        in = distance(features_in), out = distance(features_out);
    }
private:
    size_t distance(int features) const { return (((size_t)tiles * features + 15) / 16 | 1) * 16; }
};

// Memory that a thread keeps from call to call, in large pages where the system has them: the points of a tile are far from each other.
class Scratch {
    float* memory = nullptr;
    size_t size = 0;
public:
    ~Scratch() { free(memory); }
    float* get(size_t floats) {
        if (floats > size) {
            constexpr size_t page = 1 << 21;
            const size_t bytes = (floats * 4 + page - 1) / page * page;
            free(memory);
            memory = (float*)aligned_alloc(page, bytes);
            size = memory ? bytes / 4 : 0;
            if (!memory) abort();
#ifdef MADV_HUGEPAGE
            madvise(memory, bytes, MADV_HUGEPAGE);
#endif
        }
        return memory;
    }
};
static thread_local Scratch for_weights, for_points, for_results;

extern "C" int vector_length() { return VECTOR; }

// out = convolution of `in` with `kernel` + bias (features out), negative values made 0 where `relu`.
extern "C" void convolve(const float* in, const float* kernel, const float* bias, float* out, int n, int z, int y, int x, int features_in,
                         int features_out, int relu, int threads) {
    const Tiles from{z, y, x, features_in}, to{z, y, x, features_out};
    const int all = from.count(n);
    const Block block(all, features_in, features_out);
    const size_t matrix = (size_t)features_in * features_out;
    float *const weights = for_weights.get(ALL * matrix), *const points = for_points.get(ALL * block.in), *const results = for_results.get(ALL * block.out);
#pragma omp parallel num_threads(threads)
    {
#pragma omp for
        for (int i = 0; i < features_in; i++)
            for (int k = 0; k < features_out; k += VECTOR) {
                vec taps[27], made[ALL];
                for (int p = 0; p < 27; p++) taps[p] = load(kernel + p * matrix + (size_t)i * features_out + k);
                transform<Kernel>(taps, made);
                for (int p = 0; p < ALL; p++) store(&weights[p * matrix + (size_t)i * features_out + k], made[p]);
            }
        for (int first = 0; first < all; first += block.tiles) {
            const int tiles = std::min(block.tiles, all - first);
#pragma omp for schedule(dynamic, 4)
            for (int t = 0; t < tiles; t++)
                for (int k = 0; k < features_in; k += VECTOR) {
                    vec voxels[ALL], made[ALL];
                    from.read<POINTS, 1>(in, first + t, k, voxels);
                    transform<Points>(voxels, made);
                    for (int p = 0; p < ALL; p++) store(&points[p * block.in + (size_t)t * features_in + k], made[p]);
                }
#pragma omp for schedule(dynamic, 8)
            for (int p = 0; p < ALL; p++)
                multiply<false>(&points[p * block.in], features_in, 1, &weights[p * matrix], &results[p * block.out], tiles, features_in, features_out);
#pragma omp for schedule(dynamic, 4)
            for (int t = 0; t < tiles; t++)
                for (int k = 0; k < features_out; k += VECTOR) {
                    vec made[ALL], voxels[TILE * TILE * TILE];
                    for (int p = 0; p < ALL; p++) made[p] = load(&results[p * block.out + (size_t)t * features_out + k]);
                    transform<Voxels>(made, voxels);
                    const vec add = load(bias + k);
                    to.write(first + t, [&](size_t voxel, int i) {
                        vec value = voxels[i] + add;
                        if (relu) value = value > 0 ? value : vec{};
                        store(out + voxel * features_out + k, value);
                    });
                }
        }
    }
}

// gradient (3, 3, 3, features in, features out) of a loss by the kernel; `slope` is that by the convolution's output.
extern "C" void kernel_gradient(const float* in, const float* slope, float* gradient, int n, int z, int y, int x, int features_in, int features_out,
                                int threads) {
    const Tiles from{z, y, x, features_in}, to{z, y, x, features_out};
    const int all = from.count(n);
    const Block block(all, features_in, features_out);
    const size_t matrix = (size_t)features_in * features_out;
    float *const weights = for_weights.get(ALL * matrix), *const points = for_points.get(ALL * block.in), *const slopes = for_results.get(ALL * block.out);
    memset(weights, 0, 4 * ALL * matrix);
#pragma omp parallel num_threads(threads)
    {
        for (int first = 0; first < all; first += block.tiles) {
            const int tiles = std::min(block.tiles, all - first);
#pragma omp for schedule(dynamic, 4)
            for (int t = 0; t < tiles; t++) {
                vec voxels[ALL], made[ALL];
                for (int k = 0; k < features_in; k += VECTOR) {
                    from.read<POINTS, 1>(in, first + t, k, voxels);
                    transform<Points>(voxels, made);
                    for (int p = 0; p < ALL; p++) store(&points[p * block.in + (size_t)t * features_in + k], made[p]);
                }
                for (int k = 0; k < features_out; k += VECTOR) {
                    to.read<TILE, 0>(slope, first + t, k, voxels);
                    transform<VoxelsBack>(voxels, made);
                    for (int p = 0; p < ALL; p++) store(&slopes[p * block.out + (size_t)t * features_out + k], made[p]);
                }
            }
#pragma omp for schedule(dynamic, 8)
            for (int p = 0; p < ALL; p++)
                multiply<true>(&points[p * block.in], 1, features_in, &slopes[p * block.out], &weights[p * matrix], features_in, tiles, features_out);
        }
#pragma omp for
        for (int i = 0; i < features_in; i++)
            for (int k = 0; k < features_out; k += VECTOR) {
                vec made[ALL], taps[27];
                for (int p = 0; p < ALL; p++) made[p] = load(&weights[p * matrix + (size_t)i * features_out + k]);
                transform<KernelBack>(made, taps);
                for (int p = 0; p < 27; p++) store(gradient + p * matrix + (size_t)i * features_out + k, taps[p]);
            }
    }
}
