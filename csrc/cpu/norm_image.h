// Group normalisation and SiLU of one image whose channels lie together, or of some of its groups, in one call.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "cpu/row_kernels.h"
#include "cpu/vectors.h"

namespace cxr {
namespace {

constexpr int norm_lanes = register_bytes / sizeof(float);
using NormVec = Vector<float, norm_lanes>;
using NormInt = Vector<int32_t, norm_lanes>;
using NormHalf = Vector<uint16_t, norm_lanes>;

CXR_HD NormInt bits(NormVec v) { return (NormInt)v; }

// Numbers from memory and back: float, or bfloat16, the upper half of one; rounded to even, NaN stays NaN.
CXR_HD NormVec get(const float* p) { return load<norm_lanes>(p); }
CXR_HD NormVec get(const uint16_t* p) { return (NormVec)(__builtin_convertvector(load<norm_lanes>(p), NormInt) << 16); }
CXR_HD void put(float* p, NormVec v) { store(p, v); }
CXR_HD void put(uint16_t* p, NormVec v) {
  const NormInt rounded = (bits(v) + 0x7fff + ((bits(v) >> 16) & 1)) >> 16, quiet = (bits(v) >> 16) | 0x40;
  store(p, __builtin_convertvector(v == v ? rounded : quiet, NormHalf));
}

// v / (1 + e^-v) of V vectors, one step of all after another: a core does not look far enough ahead to do several at once by
// itself. e^x, x = -v, from -87 to 87, so that it stays finite: x = n ln 2 + r, e^x = 2^n e^r, e^r by a polynomial (Cephes, expf).
template <int V> CXR_HD void silu(NormVec (&v)[V]) {
  constexpr float whole = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number, which stands in the lower bits
  constexpr float taylor[] = {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f};
  NormVec r[V], p[V];
  NormInt n[V];
  for (int j = 0; j < V; ++j) r[j] = v[j] < 87.0f ? -v[j] : NormVec{} - 87.0f;
  for (int j = 0; j < V; ++j) r[j] = r[j] < 87.0f ? r[j] : NormVec{} + 87.0f;
  for (int j = 0; j < V; ++j) {
    const NormVec shifted = r[j] * 1.44269504f + whole, times = shifted - whole;
    n[j] = bits(shifted) << 23;
    r[j] = (r[j] - times * 0.693359375f) + times * 2.12194440e-4f;
  }
  for (int j = 0; j < V; ++j) p[j] = NormVec{} + 1.9875691500e-4f;
  for (float term : taylor) {
    for (int j = 0; j < V; ++j) p[j] = p[j] * r[j] + term;
  }
  for (int j = 0; j < V; ++j) p[j] = p[j] * r[j] * r[j] + r[j] + 1.0f;
  for (int j = 0; j < V; ++j) v[j] = v[j] / (1.0f + (NormVec)(bits(p[j]) + n[j]));
}

// The channels from k in V vectors, whose sums and factors stay in registers over all pixels; then the rest in fewer.
template <int V, class Body> CXR_HD void by_channels(int k, int channels, const Body& body) {
  for (; k + V * norm_lanes <= channels; k += V * norm_lanes) body(k, std::integral_constant<int, V>{});
  if constexpr (V > 1) by_channels<V / 2>(k, channels, body);
}

// sums[channel] = sum over the pixels of x, or of (x + offset)^2.
template <bool SQUARE, class E> void sum_pixels(const NormImage& a, const float* offset, float* sums) {
  const E* x = static_cast<const E*>(a.x);
  by_channels<4>(0, a.channels, [&](int k, auto count) {
    constexpr int V = decltype(count)::value;
    NormVec sum[V] = {}, add[V];
    for (int j = 0; j < V; ++j) add[j] = SQUARE ? get(offset + k + j * norm_lanes) : NormVec{};
    for (long i = 0; i < a.pixels;) {
      NormVec part[V] = {};  // a long sum of floats would lose the small ones
      for (const long end = std::min(i + 256, a.pixels); i < end; ++i) {
        for (int j = 0; j < V; ++j) {
          const NormVec v = get(x + i * a.stride + k + j * norm_lanes), d = v + add[j];
          part[j] += SQUARE ? d * d : v;
        }
      }
      for (int j = 0; j < V; ++j) sum[j] += part[j];
    }
    for (int j = 0; j < V; ++j) put(sums + k + j * norm_lanes, sum[j]);
  });
}

//   mean_g, var_g   over the pixels and channels of group g of x + shift
//   out             silu((x + shift - mean_g) / sqrt(var_g + eps) * weight + bias)
template <class E> void norm_silu_of(const NormImage& a) {
  const E* x = static_cast<const E*>(a.x);
  E* out = static_cast<E*>(a.out);
  const int c = a.channels, of_group = c / a.groups;
  float *sums = a.scratch, *scale = sums + c, *offset = scale + c;
  const auto of_groups = [&](auto use) {  // use(group, mean of what `sums` holds over its channels and pixels)
    for (int g = 0; g < a.groups; ++g) {
      double total = 0;
      for (int k = g * of_group; k < (g + 1) * of_group; ++k) total += sums[k];
      use(g, total / (double(a.pixels) * of_group));
    }
  };
  sum_pixels<false, E>(a, nullptr, sums);
  for (int k = 0; a.shift && k < c; ++k) sums[k] += float(a.pixels) * a.shift[k];
  of_groups([&](int g, double mean) {
    for (int k = g * of_group; k < (g + 1) * of_group; ++k) offset[k] = (a.shift ? a.shift[k] : 0.0f) - float(mean);
  });
  sum_pixels<true, E>(a, offset, sums);
  of_groups([&](int g, double variance) {
    const float inverse = float(1 / std::sqrt(variance + a.eps));
    for (int k = g * of_group; k < (g + 1) * of_group; ++k) scale[k] = inverse * a.weight[k];
  });
  by_channels<4>(0, c, [&](int k, auto count) {
    constexpr int V = decltype(count)::value;
    for (long i = 0; i < a.pixels; ++i) {
      NormVec v[V];
      for (int j = 0; j < V; ++j) {
        const int at = k + j * norm_lanes;
        v[j] = (get(x + i * a.stride + at) + get(offset + at)) * get(scale + at) + get(a.bias + at);
      }
      silu(v);
      for (int j = 0; j < V; ++j) put(out + i * a.stride + k + j * norm_lanes, v[j]);
    }
  });
}

inline void norm_silu(const NormImage& a) { a.half ? norm_silu_of<uint16_t>(a) : norm_silu_of<float>(a); }

}  // namespace
}  // namespace cxr
