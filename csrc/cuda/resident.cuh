// All iterations of a small level in one launch: a block holds a whole item in shared memory, so there is no halo and nothing
// but R and M is read again. Additive updates without fluid smoothing. Grid: one block of `resident_threads` an item.
#pragma once

#include "cuda/step.cuh"

namespace cxr {

// u, v and W of one item.
template <class T> size_t resident_bytes(int height, int width) { return size_t(5) * height * width * sizeof(T); }

// u [B,2,H,W] is read and written. The last iteration does not smooth where `smooth_last` is false.
template <class T, int F>
__global__ void __launch_bounds__(resident_threads)
    resident_level(DeviceLevel<T> a, T* u, Taps<T> taps, int first, int count, bool smooth_last, Trace<T> trace) {
  CXR_DYNAMIC_SHARED(T, memory);
  __shared__ bool goes_on;
  const int h = a.height, w = a.width, size = h * w, b = blockIdx.x, thread = threadIdx.x;
  const T *moving = a.moving + long(b) * size, *fixed = a.fixed + long(b) * size;
  const T* mask = a.mask ? a.mask + long(b) * size : nullptr;
  T* const global = u + long(b) * 2 * size;
  T *field = memory, *v = field + 2 * size, *const warped = v + 2 * size;
  const auto warped_at = [&](int x, int y) { return warped[y * w + x]; };

  for (int i = thread; i < 2 * size; i += resident_threads) field[i] = global[i];
  __syncthreads();
  for (int iteration = first; iteration < first + count; ++iteration) {
    for_region<resident_threads>(w, h, [&](int x, int y) {
      const int i = y * w + x;
      warped[i] = warped_value(a, moving, T(x) + field[i], T(y) + field[size + i]);
    });
    __syncthreads();

    // v = u + du
    T difference = 0, change = 0, counted = 0;
    for_region<resident_threads>(w, h, [&](int x, int y) {
      const int i = y * w + x;
      const Step<T> step = step_at<T, F>(a, fixed, mask, warped_at, x, y);
      v[i] = field[i] + step.x;
      v[size + i] = field[size + i] + step.y;
      difference += step.difference * step.difference;
      change += step.x * step.x + step.y * step.y;
      counted += step.counts;
    });
    const Totals totals = block_sum<resident_threads>({double(difference), double(change), double(counted)});
    if (thread == 0) goes_on = record(trace, b, iteration, totals);

    // v smoothed along x into the place of u, then along y back into its own, which becomes that of u
    const bool smooth = taps.radius > 0 && (smooth_last || iteration < first + count - 1);
    if (smooth) {
      for_region<resident_threads>(w, 2 * h, [&](int x, int y) { field[y * w + x] = smoothed(v + y * w, 1, w, x, taps); });
      __syncthreads();
      for_region<resident_threads>(w, 2 * h, [&](int x, int y) {
        const int plane = y < h ? 0 : h;
        v[y * w + x] = smoothed(field + plane * w + x, w, h, y - plane, taps);
      });
    }
    T* const before = field;
    field = v;
    v = before;
    __syncthreads();
    if (!goes_on) break;
  }
  for (int i = thread; i < 2 * size; i += resident_threads) global[i] = field[i];
}

}  // namespace cxr
