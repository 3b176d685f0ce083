// The Demons iteration as one kernel a formula: one thread a pixel, z = item of the batch (times 2 for field components).
// Fields are [B,2,H,W], images [B,H,W]. An item whose `active` is 0 has met the tolerance and is left alone.
#pragma once

#include "cuda/launch.cuh"
#include "demons.h"

namespace cxr {

constexpr int max_radius = 32;

template <class T> struct Taps {
  T weight[max_radius + 1];
  int radius;
};

template <class T> __device__ int clamped(int i, int n) { return i < 0 ? 0 : i < n ? i : n - 1; }

// W = moving(x + u); with ITK's borders NaN where the sample lies outside.
template <class T>
__global__ void warp_by_field(const T* moving, const T* u, const int* active, int h, int w, bool itk, T* warped) {
  const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y, b = blockIdx.z;
  if (x >= w || y >= h || !active[b]) return;
  const long size = long(h) * w, i = long(y) * w + x;
  const T px = T(x) + u[b * 2 * size + i], py = T(y) + u[(b * 2 + 1) * size + i];
  const bool in = !itk || (inside(px, w) && inside(py, h));
  warped[b * size + i] = in ? sample(moving + b * size, h, w, w, px, py) : T(nan(""));
}

// du of section "update" in math.h, and the block's share of sum d^2, sum |du|^2 and the pixel count.
template <class T, int F>
__global__ void force_field(const T* fixed, const T* warped, const T* mask, const int* active, int h, int w, bool itk,
                            T inverse_k, T* du, double* partial) {
  const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y, b = blockIdx.z;
  if (!active[b]) return;
  __shared__ double sums[3][block_x * block_y];
  const int thread = threadIdx.y * blockDim.x + threadIdx.x;
  double difference = 0, change = 0, count = 0;
  if (x < w && y < h) {
    const long size = long(h) * w, i = long(y) * w + x;
    const T *r = fixed + b * size, *m = warped + b * size;
    const bool left = x > 0, right = x < w - 1, up = y > 0, down = y < h - 1;
    const long il = i - left, ir = i + right, iu = up ? i - w : i, id = down ? i + w : i;
    T rx = central(r[il], r[ir]), ry = central(r[iu], r[id]), wx, wy;
    if (itk) {
      rx = left && right ? rx : T(0);
      ry = up && down ? ry : T(0);
      wx = one_sided(m[il], m[i], m[ir], left, right);
      wy = one_sided(m[iu], m[i], m[id], up, down);
    } else {
      wx = central(m[il], m[ir]);
      wy = central(m[iu], m[id]);
    }
    const T d = r[i] - m[i];
    const bool on = (!mask || mask[b * size + i] > T(0.5)) && d - d == T(0);
    const bool moves = on && (!itk || (d < T(0) ? -d : d) >= T(0.001));
    const Update<T> step = update<F>(d, rx, ry, wx, wy, inverse_k);
    const T dx = moves ? step.x : T(0), dy = moves ? step.y : T(0);
    du[b * 2 * size + i] = dx;
    du[(b * 2 + 1) * size + i] = dy;
    difference = on ? double(d) * d : 0;
    change = double(dx) * dx + double(dy) * dy;
    count = on;
  }
  sums[0][thread] = difference;
  sums[1][thread] = change;
  sums[2][thread] = count;
  __syncthreads();
  for (int n = block_x * block_y / 2; n > 0; n /= 2) {
    if (thread < n)
      for (int k = 0; k < 3; ++k) sums[k][thread] += sums[k][thread + n];
    __syncthreads();
  }
  if (thread < 3) {
    const long block = (long(b) * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    partial[block * 3 + thread] = sums[thread][0];
  }
}

// Adds the blocks' shares in a fixed order, writes the trace and ends an item that has met the tolerance.
// One block of 32 threads an item.
template <class T>
__global__ void finish_iteration(const double* partial, int blocks, int iteration, int total, double tolerance, int* active,
                                 T* mse, T* rms) {
  const int b = blockIdx.x, lane = threadIdx.x;
  if (!active[b]) return;
  __shared__ double sums[3][32];
  double sum[3] = {0, 0, 0};
  for (int block = lane; block < blocks; block += 32)
    for (int k = 0; k < 3; ++k) sum[k] += partial[(long(b) * blocks + block) * 3 + k];
  for (int k = 0; k < 3; ++k) sums[k][lane] = sum[k];
  __syncthreads();
  if (lane != 0) return;
  for (int j = 1; j < 32; ++j)
    for (int k = 0; k < 3; ++k) sum[k] += sums[k][j];
  const double count = sum[2] > 1 ? sum[2] : 1, change = sqrt(sum[1] / count);
  mse[b * total + iteration] = T(sum[0] / count);
  rms[b * total + iteration] = T(change);
  if (change < tolerance) active[b] = 0;
}

// out = base + scale * (in smoothed along x or y); base may be null. z = item * 2 + component.
template <class T>
__global__ void smooth_axis(const T* in, const T* base, const int* active, int h, int w, bool vertical, Taps<T> taps, T* out) {
  const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
  if (x >= w || y >= h || !active[blockIdx.z / 2]) return;
  const long plane = long(blockIdx.z) * h * w, i = long(y) * w + x;
  const T* p = in + plane;
  T sum = taps.weight[0] * p[i];
  for (int j = 1; j <= taps.radius; ++j) {
    const T before = vertical ? p[long(clamped<T>(y - j, h)) * w + x] : p[i - x + clamped<T>(x - j, w)];
    const T after = vertical ? p[long(clamped<T>(y + j, h)) * w + x] : p[i - x + clamped<T>(x + j, w)];
    sum += taps.weight[j] * (before + after);
  }
  out[plane + i] = base ? base[plane + i] + sum : sum;
}

// out = scale * a + b; b may be null.
template <class T> __global__ void scale_add(const T* a, T scale, const T* b, const int* active, int h, int w, T* out) {
  const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
  if (x >= w || y >= h || !active[blockIdx.z / 2]) return;
  const long i = (long(blockIdx.z) * h + y) * w + x;
  out[i] = scale * a[i] + (b ? b[i] : T(0));
}

// out = v + u o (Id + v)
template <class T> __global__ void compose_fields(const T* u, const T* v, const int* active, int h, int w, T* out) {
  const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y, b = blockIdx.z / 2;
  if (x >= w || y >= h || !active[b]) return;
  const long size = long(h) * w, i = long(y) * w + x, plane = blockIdx.z * size;
  const T px = T(x) + v[b * 2 * size + i], py = T(y) + v[(b * 2 + 1) * size + i];
  out[plane + i] = v[plane + i] + sample(u + plane, h, w, w, px, py);
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

template <class T> __global__ void fill(T* out, long n, T value) {
  const long i = long(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < n) out[i] = value;
}

}  // namespace cxr
