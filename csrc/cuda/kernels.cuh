// The kernels around the iterations: start, resizing, and smoothing too wide for a tile. One thread a pixel; z = plane.
#pragma once

#include "cuda/step.cuh"

namespace cxr {

// Traces as long as nothing was run, and no item stopped.
template <class T> __global__ void begin(Trace<T> trace, int batch) {
  const long i = long(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < long(batch) * trace.total) trace.mse[i] = trace.rms[i] = T(nan(""));
  if (i < batch) {
    trace.stop[i] = 0;
    trace.arrived[i] = 0;
  }
}

// out = base + (in smoothed along x or y); base may be null. All are [B,2,H,W], z = item * 2 + component. An item that has
// just stopped gets `keep` instead, where that is not null.
template <class T>
__global__ void smooth_axis(const T* in, const T* base, int h, int w, bool vertical, Taps<T> taps, Clock clock, const int* stop,
                            const T* keep, T* out) {
  const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y, item = blockIdx.z / 2;
  if (x >= w || y >= h) return;
  const long plane = long(blockIdx.z) * h * w, i = plane + long(y) * w + x;
  if (clock.stopped(stop[item])) {
    if (keep && clock.just_stopped(stop[item])) out[i] = keep[i];
    return;
  }
  const T sum = vertical ? smoothed(in + plane + x, w, h, y, taps) : smoothed(in + plane + long(y) * w, 1, w, x, taps);
  out[i] = base ? base[i] + sum : sum;
}

// One output of the antialiased bilinear resize along an axis: a triangle as wide as the larger pixel.
template <class T> __device__ T resized(const T* in, long stride, int n, int new_n, int i) {
  const double scale = double(n) / new_n, support = scale > 1 ? scale : 1, centre = scale * (i + 0.5);
  int first = int(centre - support + 0.5), end = int(centre + support + 0.5);
  first = first > 0 ? first : 0;
  end = end < n ? end : n;
  double total = 0, sum = 0;
  for (int j = first; j < end; ++j) {
    const double distance = (j - centre + 0.5) / support, weight = distance < 0 ? 1 + distance : 1 - distance;
    if (weight <= 0) continue;
    total += weight;
    sum += weight * in[j * stride];
  }
  return T(sum / total);
}

// Resize along y, then x; values times `scale_even` in even planes and `scale_odd` in odd ones (x and y of a field).
template <class T> __global__ void resize_columns(const T* in, int h, int w, int new_h, T* out) {
  const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
  if (x >= w || y >= new_h) return;
  out[(long(blockIdx.z) * new_h + y) * w + x] = resized(in + long(blockIdx.z) * h * w + x, w, h, new_h, y);
}

template <class T>
__global__ void resize_rows(const T* in, int h, int w, int new_w, T scale_even, T scale_odd, T* out) {
  const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
  if (x >= new_w || y >= h) return;
  const T value = resized(in + (long(blockIdx.z) * h + y) * w, 1, w, new_w, x);
  out[(long(blockIdx.z) * h + y) * new_w + x] = (blockIdx.z % 2 ? scale_odd : scale_even) * value;
}

}  // namespace cxr
