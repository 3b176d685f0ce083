// A Demons iteration in one launch: a block does a tile of the image in shared memory, with the halo that it needs.
// It reads u, R and M once and writes u, 24 bytes a pixel in float. Grid: tiles along x and y; z = item.
//
//   W  over the tile and r + 1 pixels around it   = moving(x + u)
//   v  over the tile and r pixels around it       = u + du, the border repeated
//   a  over the tile and r rows above and below   = v smoothed along x, in the place of W
//   u' over the tile                              = a smoothed along y
#pragma once

#include "cuda/step.cuh"

namespace cxr {

constexpr int max_tile_radius = 8;  // a wider smoothing would work more on halos than on tiles

inline dim3 tile_grid(int height, int width, int planes) {
  return dim3((width + tile - 1) / tile, (height + tile - 1) / tile, planes);
}

// The pieces of a block's shared memory for smoothing radius r. Odd strides keep the reads along rows off the same banks.
struct TileShape {
  int r;
  __host__ __device__ int wide() const { return tile + 2 * r; }
  __host__ __device__ int v_stride() const { return wide() + 1; }
  __host__ __device__ int v_size() const { return wide() * v_stride(); }
  __host__ __device__ int a_stride() const { return tile + 1; }
  __host__ __device__ int a_size() const { return wide() * a_stride(); }
  __host__ __device__ int w_stride() const { return wide() + 2; }
  __host__ __device__ int w_size() const { return w_stride() * w_stride(); }
  __host__ __device__ int first_size() const { return w_size() > 2 * a_size() ? w_size() : 2 * a_size(); }
  template <class T> size_t bytes() const { return (first_size() + 2 * v_size()) * sizeof(T); }
};

template <class T> __device__ void copy_tile(const T* from, T* to, int h, int w) {
  const int x0 = blockIdx.x * tile, y0 = blockIdx.y * tile;
  for_region<block_threads>(tile, tile, [&](int x, int y) {
    if (x0 + x >= w || y0 + y >= h) return;
    for (int c = 0; c < 2; ++c) {
      const long i = (long(c) * h + y0 + y) * w + x0 + x;
      to[i] = from[i];
    }
  });
}

// out = base + v smoothed. `v` and `a` are shared; base and out [2,H,W] are one item's, base may be null. For R see smooth_four.
template <int R, class T>
__device__ void smooth_tile_by(const TileShape& shape, const T* v, T* a, const Taps<T>& taps, const T* base, int h, int w, T* out) {
  for_region<block_threads>(tile / 4, shape.wide(), [&](int group, int y) {
    for (int c = 0; c < 2; ++c) {
      T sum[4];
      smooth_four<R>(v + c * shape.v_size() + y * shape.v_stride() + 4 * group, 1, taps, sum);
      for (int k = 0; k < 4; ++k) a[c * shape.a_size() + y * shape.a_stride() + 4 * group + k] = sum[k];
    }
  });
  __syncthreads();
  const int x0 = blockIdx.x * tile, y0 = blockIdx.y * tile;
  for_region<block_threads>(tile, tile / 4, [&](int x, int group) {
    for (int c = 0; c < 2; ++c) {
      T sum[4];
      smooth_four<R>(a + c * shape.a_size() + 4 * group * shape.a_stride() + x, shape.a_stride(), taps, sum);
      for (int k = 0; k < 4; ++k) {
        const int y = y0 + 4 * group + k;
        const long i = (long(c) * h + y) * w + x0 + x;
        if (x0 + x < w && y < h) out[i] = base ? base[i] + sum[k] : sum[k];
      }
    }
  });
}

template <class T>
__device__ void smooth_tile(const TileShape& shape, const T* v, T* a, const Taps<T>& taps, const T* base, int h, int w, T* out) {
  __syncthreads();
  switch (taps.radius) {  // the usual ones: none, and gaussians of sigma 1, 1.5 to 1.75, 2 and 2.5
    case 0: return smooth_tile_by<0>(shape, v, a, taps, base, h, w, out);
    case 2: return smooth_tile_by<2>(shape, v, a, taps, base, h, w, out);
    case 4: return smooth_tile_by<4>(shape, v, a, taps, base, h, w, out);
    case 5: return smooth_tile_by<5>(shape, v, a, taps, base, h, w, out);
    case 6: return smooth_tile_by<6>(shape, v, a, taps, base, h, w, out);
    default: return smooth_tile_by<-1>(shape, v, a, taps, base, h, w, out);
  }
}

// What becomes of the update du, already scaled, S being the smoothing.
enum class Adding : int { smooth_sum, sum_smooth, none };  // out = S(u + du), u + S(du), S(du)

// u, out [B,2,H,W], not the same.
template <class T, int F>
__global__ void __launch_bounds__(block_threads)
    step_tile(DeviceLevel<T> a, const T* u, Adding adding, T scale, Taps<T> taps, Clock clock, Trace<T> trace, T* out) {
  CXR_DYNAMIC_SHARED(T, warped);
  const TileShape shape{taps.radius};
  T* const v = warped + shape.first_size();
  const int h = a.height, w = a.width, b = blockIdx.z, r = taps.radius, x0 = blockIdx.x * tile, y0 = blockIdx.y * tile;
  const long size = long(h) * w;
  const T *ux = u + b * 2 * size, *uy = ux + size, *moving = a.moving + b * size, *fixed = a.fixed + b * size;
  const T* mask = a.mask ? a.mask + b * size : nullptr;
  T* const out_b = out + b * 2 * size;
  if (clock.stopped(trace.stop[b])) {
    if (clock.just_stopped(trace.stop[b])) copy_tile(ux, out_b, h, w);
    return;
  }

  for_region<block_threads>(shape.w_stride(), shape.w_stride(), [&](int i, int j) {
    const int x = clamped(x0 + i - r - 1, w), y = clamped(y0 + j - r - 1, h);
    const long p = long(y) * w + x;
    warped[j * shape.w_stride() + i] = warped_value(a, moving, T(x) + ux[p], T(y) + uy[p]);
  });
  __syncthreads();

  const auto warped_at = [&](int x, int y) { return warped[(y - y0 + r + 1) * shape.w_stride() + x - x0 + r + 1]; };
  T difference = 0, change = 0, count = 0;
  for_region<block_threads>(shape.wide(), shape.wide(), [&](int i, int j) {
    const int px = x0 + i - r, py = y0 + j - r, x = clamped(px, w), y = clamped(py, h);
    const long p = long(y) * w + x;
    const Step<T> step = step_at<T, F>(a, fixed, mask, warped_at, x, y);
    const bool add = adding == Adding::smooth_sum;
    T* const target = v + j * shape.v_stride() + i;
    target[0] = (add ? ux[p] : T(0)) + scale * step.x;
    target[shape.v_size()] = (add ? uy[p] : T(0)) + scale * step.y;
    if (px == x && py == y && i >= r && i < r + tile && j >= r && j < r + tile) {  // the tile's own pixels, counted once
      difference += step.difference * step.difference;
      change += step.x * step.x + step.y * step.y;
      count += step.counts;
    }
  });
  smooth_tile(shape, v, warped, taps, adding == Adding::sum_smooth ? ux : nullptr, h, w, out_b);
  record_from_blocks(trace, clock.now, {double(difference), double(change), double(count)});
}

// out = S(v + u o (Id + v)), or S(v) where u is null. v, u, out [B,2,H,W]; out is none of the others. An item that has just
// stopped gets `keep` [B,2,H,W] instead, where that is not null.
template <class T>
__global__ void __launch_bounds__(block_threads)
    compose_tile(const T* v, const T* u, int h, int w, Taps<T> taps, Clock clock, const int* stop, const T* keep, T* out) {
  CXR_DYNAMIC_SHARED(T, along_x);
  const TileShape shape{taps.radius};
  T* const sum = along_x + shape.first_size();
  const int b = blockIdx.z, r = taps.radius, x0 = blockIdx.x * tile, y0 = blockIdx.y * tile;
  const long size = long(h) * w, item = b * 2 * size;
  if (clock.stopped(stop[b])) {
    if (keep && clock.just_stopped(stop[b])) copy_tile(keep + item, out + item, h, w);
    return;
  }
  for_region<block_threads>(shape.wide(), shape.wide(), [&](int i, int j) {
    const int x = clamped(x0 + i - r, w), y = clamped(y0 + j - r, h);
    const T* at = v + item + long(y) * w + x;
    const T vx = at[0], vy = at[size];
    for (int c = 0; c < 2; ++c) {
      const T moved = u ? sample(u + item + c * size, h, w, w, T(x) + vx, T(y) + vy) : T(0);
      sum[c * shape.v_size() + j * shape.v_stride() + i] = (c ? vy : vx) + moved;
    }
  });
  smooth_tile<T>(shape, sum, along_x, taps, nullptr, h, w, out + item);
}

}  // namespace cxr
