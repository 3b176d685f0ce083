// Group normalisation and SiLU of channels-last images: read once and written in one launch where an image is small, otherwise read
// twice in two. A thread keeps its V neighbouring channels, which lie in one group, and goes over every `rows`th pixel.
//   mean_g, var_g   over the pixels and channels of group g of x + shift
//   out             silu((x + shift - mean_g) / sqrt(var_g + eps) * weight + bias)
#include <cstdint>
#include <cstring>

#include "cuda/launch.cuh"
#include "demons.h"

namespace cxr {
namespace {

// Numbers from memory and back: float, or bfloat16, the upper half of one; rounded to even, NaN stays NaN.
__device__ inline float number(float v) { return v; }
__device__ inline float number(uint16_t v) {
  const uint32_t bits = uint32_t(v) << 16;
  float number;
  memcpy(&number, &bits, sizeof bits);
  return number;
}
__device__ inline void put(float& out, float v) { out = v; }
__device__ inline void put(uint16_t& out, float v) {
  uint32_t bits;
  memcpy(&bits, &v, sizeof bits);
  out = uint16_t(v == v ? (bits + 0x7fff + ((bits >> 16) & 1)) >> 16 : (bits >> 16) | 0x40);
}

template <int V, class E> struct alignas(V * sizeof(E)) Pack { E v[V]; };

// The part of an image that a block does, and a thread's place in it.
template <int V, class E> struct Part {
  const NormBatch& a;
  const int image, lanes, rows, lane, row, channel, group;
  const long first, end;                         // pixels
  const bool works;

  __device__ Part(const NormBatch& a, long pixels)
      : a(a), image(blockIdx.y), lanes(a.channels / V), rows(norm_threads / lanes), lane(threadIdx.x % lanes),
        row(threadIdx.x / lanes), channel(lane * V), group(channel / (a.channels / a.groups)), first(blockIdx.x * pixels),
        end(first + pixels < a.pixels ? first + pixels : a.pixels), works(row < rows) {}

  __device__ float shift(int c) const { return a.shift ? a.shift[long(image) * a.channels + c] : 0.0f; }
  __device__ const E* pixel(long i) const { return static_cast<const E*>(a.x) + (long(image) * a.pixels + i) * a.channels; }
  // A number of the group, as a rule nearer to its mean than 0: sums of differences from it lose little.
  __device__ float pivot(int g) const {
    const int c = g * (a.channels / a.groups);
    return number(pixel(0)[c]) + shift(c);
  }
};

// sums[g], sums[groups + g] = sums of x + shift - pivot and of its square over the block's part of group g. `memory` [2,threads].
template <int V, class E> __device__ void sum_groups(const Part<V, E>& part, double* memory, double* sums) {
  const int thread = threadIdx.x, groups = part.a.groups, lanes_of_group = part.lanes / groups;
  float sum = 0, squares = 0, add[V];
  for (int j = 0; j < V && part.works; ++j) add[j] = part.shift(part.channel + j) - part.pivot(part.group);
  for (long i = part.first + part.row; i < part.end && part.works; i += part.rows) {
    const auto x = *reinterpret_cast<const Pack<V, E>*>(part.pixel(i) + part.channel);
    for (int j = 0; j < V; ++j) {
      const float d = number(x.v[j]) + add[j];
      sum += d;
      squares += d * d;
    }
  }
  memory[thread] = sum;
  memory[norm_threads + thread] = squares;
  for (int rows = part.rows; rows > 1;) {        // the upper half of the rows joins the lower one
    const int kept = (rows + 1) / 2;
    __syncthreads();
    if (part.row < rows - kept) {
      for (double* of : {memory, memory + norm_threads}) of[thread] += of[thread + kept * part.lanes];
    }
    rows = kept;
  }
  __syncthreads();
  if (thread < 2 * groups) {
    const double* of = memory + (thread < groups ? 0 : norm_threads) + thread % groups * lanes_of_group;
    double total = 0;
    for (int lane = 0; lane < lanes_of_group; ++lane) total += of[lane];
    sums[thread] = total;
  }
  __syncthreads();
}

// out of the block's part, from the sums [2,groups] of the whole image.
template <int V, class E> __device__ void normalise(const Part<V, E>& part, const double* sums) {
  if (!part.works) return;
  const NormBatch& a = part.a;
  const double count = double(a.pixels) * (a.channels / a.groups), mean = sums[part.group] / count;
  const double variance = sums[a.groups + part.group] / count - mean * mean;
  const float inverse = float(1 / sqrt((variance > 0 ? variance : variance * 0) + a.eps)), pivot = part.pivot(part.group);
  float scale[V], add[V], bias[V];
  for (int j = 0; j < V; ++j) {
    const int c = part.channel + j;
    scale[j] = inverse * a.weight[c];
    add[j] = part.shift(c) - pivot - float(mean);
    bias[j] = a.bias[c];
  }
  for (long i = part.first + part.row; i < part.end; i += part.rows) {
    const long at = (long(part.image) * a.pixels + i) * a.channels + part.channel;
    const auto x = *reinterpret_cast<const Pack<V, E>*>(static_cast<const E*>(a.x) + at);
    Pack<V, E> out;
    for (int j = 0; j < V; ++j) {
      const float v = (number(x.v[j]) + add[j]) * scale[j] + bias[j];
      put(out.v[j], v / (1.0f + expf(-v)));
    }
    *reinterpret_cast<Pack<V, E>*>(static_cast<E*>(a.out) + at) = out;
  }
}

// A block does a whole image. Grid (1,B).
template <int V, class E> __global__ void __launch_bounds__(norm_threads) norm_whole(NormBatch a) {
  CXR_DYNAMIC_SHARED(double, memory);            // [2,threads], then sums [2,groups]
  const Part<V, E> part(a, a.pixels);
  double* const sums = memory + 2 * norm_threads;
  sum_groups(part, memory, sums);
  normalise(part, sums);
}

// The sums of each part of `pixels` pixels, [B,parts,2,groups]. Grid (parts,B).
template <int V, class E> __global__ void __launch_bounds__(norm_threads) norm_sums(NormBatch a, long pixels, double* parts) {
  CXR_DYNAMIC_SHARED(double, memory);
  sum_groups(Part<V, E>(a, pixels), memory, parts + (long(blockIdx.y) * gridDim.x + blockIdx.x) * 2 * a.groups);
}

// Then the rest. Grid (parts,B).
template <int V, class E> __global__ void __launch_bounds__(norm_threads) norm_apply(NormBatch a, long pixels, const double* parts) {
  CXR_DYNAMIC_SHARED(double, sums);              // [2,groups]
  if (int(threadIdx.x) < 2 * a.groups) {
    double total = 0;
    for (unsigned i = 0; i < gridDim.x; ++i) total += parts[(long(blockIdx.y) * gridDim.x + i) * 2 * a.groups + threadIdx.x];
    sums[threadIdx.x] = total;
  }
  __syncthreads();
  normalise(Part<V, E>(a, pixels), sums);
}

int parts_of(const NormBatch& a) {
  const long numbers = a.pixels * a.channels;
  return int(numbers <= 2 * norm_part ? 1 : (numbers + norm_part - 1) / norm_part);
}

template <int V, class E> void run(const NormBatch& a, double* workspace, void* stream) {
  const size_t sums = 2 * a.groups * sizeof(double), memory = 2 * norm_threads * sizeof(double);
  const int parts = parts_of(a);
  const long pixels = (a.pixels + parts - 1) / parts;
  const dim3 grid(parts, a.batch), block(norm_threads);
  if (parts == 1) {
    CXR_LAUNCH((norm_whole<V, E>), grid, block, memory + sums, stream, a);
  } else {
    CXR_LAUNCH((norm_sums<V, E>), grid, block, memory, stream, a, pixels, workspace);
    CXR_LAUNCH((norm_apply<V, E>), grid, block, sums, stream, a, pixels, workspace);
  }
}

// The widest access of up to 16 bytes that is aligned and stays in a group; 0 where a pixel has more of these than a block threads.
int width_of(const NormBatch& a) {
  const size_t size = a.half ? 2 : 4;
  const auto fits = [&](const void* p, int v) { return reinterpret_cast<uintptr_t>(p) % (v * size) == 0; };
  int v = int(16 / size);
  while (v > 1 && ((a.channels / a.groups) % v || !fits(a.x, v) || !fits(a.out, v))) v /= 2;
  return a.channels / v <= norm_threads && 2 * a.groups <= norm_threads ? v : 0;
}

}  // namespace

long norm_silu_cuda_workspace(const NormBatch& in) {
  if (!width_of(in) || in.batch > 65535) return -1;  // of a grid's second axis
  return parts_of(in) == 1 ? 0 : long(in.batch) * parts_of(in) * 2 * in.groups * long(sizeof(double));
}

void norm_silu_cuda(const NormBatch& in, void* workspace, void* stream) {
  double* const sums = static_cast<double*>(workspace);
  switch (width_of(in) * (in.half ? -1 : 1)) {
    case 4: return run<4, float>(in, sums, stream);
    case 2: return run<2, float>(in, sums, stream);
    case 1: return run<1, float>(in, sums, stream);
    case -8: return run<8, uint16_t>(in, sums, stream);
    case -4: return run<4, uint16_t>(in, sums, stream);
    case -2: return run<2, uint16_t>(in, sums, stream);
    case -1: return run<1, uint16_t>(in, sums, stream);
  }
}

}  // namespace cxr
