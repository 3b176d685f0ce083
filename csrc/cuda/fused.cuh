// A whole additive iteration in one launch, in shared memory: reads u, R and M, writes the new u, 24 bytes a pixel and the
// halo. For float, kernels up to `fused_radius` and without ITK's borders or fluid smoothing; kernels.cuh does the rest.
//
//   W  over the tile and r + 1 pixels around it   = moving(x + u)
//   v  over the tile and r pixels around it       = u + du, borders repeated
//   h  over the tile and r rows above and below   = v smoothed along x
//   u' over the tile                              = h smoothed along y
#pragma once

#include "cuda/kernels.cuh"

namespace cxr {

constexpr int fused_radius = 5;
#ifdef CXR_CUDA_SHIM
constexpr int tile = 8;
#else
constexpr int tile = 32;
#endif

template <int F>
__global__ void fused_iteration(const float* moving, const float* fixed, const float* mask, const int* active, const float* u,
                                float* next, int h, int w, float inverse_k, Taps<float> taps, double* partial) {
  constexpr int wide = tile + 2 * fused_radius, wider = wide + 2;
  __shared__ float warped[wider * wider], v[2][wide * wide], along_x[2][wide * tile];
  __shared__ double sums[3][block_x * block_y];
  const int r = taps.radius, b = blockIdx.z, x0 = blockIdx.x * tile, y0 = blockIdx.y * tile;
  const int thread = threadIdx.y * blockDim.x + threadIdx.x, threads = blockDim.x * blockDim.y;
  const long size = long(h) * w;
  const float *ux = u + b * 2 * size, *uy = ux + size, *image = moving + b * size, *target = fixed + b * size;
  float* out = next + b * 2 * size;

  if (!active[b]) {  // the fields change places after every launch, so a stopped item is copied
    for (int i = thread; i < tile * tile; i += threads) {
      const int x = x0 + i % tile, y = y0 + i / tile;
      if (x < w && y < h)
        for (int c = 0; c < 2; ++c) out[c * size + long(y) * w + x] = ux[c * size + long(y) * w + x];
    }
    return;
  }

  const int nw = tile + 2 * r + 2;
  for (int i = thread; i < nw * nw; i += threads) {
    const int x = clamped<float>(x0 + i % nw - r - 1, w), y = clamped<float>(y0 + i / nw - r - 1, h);
    const long p = long(y) * w + x;
    warped[i] = sample(image, h, w, w, float(x) + ux[p], float(y) + uy[p]);
  }
  __syncthreads();

  double difference = 0, change = 0, count = 0;
  const int nv = tile + 2 * r;
  for (int i = thread; i < nv * nv; i += threads) {
    const int px = x0 + i % nv - r, py = y0 + i / nv - r;
    const int x = clamped<float>(px, w), y = clamped<float>(py, h);
    const int left = clamped<float>(x - 1, w), right = clamped<float>(x + 1, w);
    const int up = clamped<float>(y - 1, h), down = clamped<float>(y + 1, h);
    const auto warped_at = [&](int x, int y) { return warped[(y - y0 + r + 1) * nw + x - x0 + r + 1]; };
    const auto fixed_at = [&](int x, int y) { return target[long(y) * w + x]; };
    const float d = fixed_at(x, y) - warped_at(x, y);
    const Update<float> du = update<F>(d, central(fixed_at(left, y), fixed_at(right, y)),
                                       central(fixed_at(x, up), fixed_at(x, down)), central(warped_at(left, y), warped_at(right, y)),
                                       central(warped_at(x, up), warped_at(x, down)), inverse_k);
    const long p = long(y) * w + x;
    const bool on = (!mask || mask[b * size + p] > 0.5f) && d - d == 0.0f;
    const float dx = on ? du.x : 0.0f, dy = on ? du.y : 0.0f;
    v[0][i] = ux[p] + dx;
    v[1][i] = uy[p] + dy;
    if (px >= x0 && px < x0 + tile && px < w && py >= y0 && py < y0 + tile && py < h) {  // own pixels, counted once
      difference += on ? double(d) * d : 0;
      change += double(dx) * dx + double(dy) * dy;
      count += on;
    }
  }
  __syncthreads();

  for (int i = thread; i < tile * nv; i += threads) {
    const int x = i % tile + r, row = i / tile * nv;
    for (int c = 0; c < 2; ++c) {
      float sum = taps.weight[0] * v[c][row + x];
      for (int j = 1; j <= r; ++j) sum += taps.weight[j] * (v[c][row + x - j] + v[c][row + x + j]);
      along_x[c][i] = sum;
    }
  }
  __syncthreads();

  for (int i = thread; i < tile * tile; i += threads) {
    const int x = x0 + i % tile, y = y0 + i / tile, at = i + r * tile;
    if (x >= w || y >= h) continue;
    for (int c = 0; c < 2; ++c) {
      float sum = taps.weight[0] * along_x[c][at];
      for (int j = 1; j <= r; ++j) sum += taps.weight[j] * (along_x[c][at - j * tile] + along_x[c][at + j * tile]);
      out[c * size + long(y) * w + x] = sum;
    }
  }
  add_block(difference, change, count, sums, partial);
}

}  // namespace cxr
