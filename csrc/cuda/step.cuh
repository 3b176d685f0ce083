// What every Demons kernel shares: the warped image and the update at one pixel, the taps of a smoothing, the sums over an
// item and the decision to stop. Fields are [B,2,H,W], images [B,H,W].
#pragma once

#include "cuda/launch.cuh"
#include "demons.h"

namespace cxr {

constexpr int max_radius = 32;

// The images of a level and how they pull.
template <class T> struct DeviceLevel {
  const T *moving, *fixed, *mask;  // [B,H,W] each; mask may be null
  int height, width;
  bool itk;                        // ITK's borders and threshold
  T inverse_k;
};

// W = moving(x + u); with ITK's borders NaN where the sample lies outside. `moving` [H,W] is one item's.
template <class T> __device__ T warped_value(const DeviceLevel<T>& a, const T* moving, T px, T py) {
  const bool in = !a.itk || (inside(px, a.width) && inside(py, a.height));
  return in ? sample(moving, a.height, a.width, a.width, px, py) : T(nan(""));
}

template <class T> struct Step {
  T x, y, difference;  // du; d where it counts, else 0
  bool counts;
};

// du of `update` in math.h at a pixel of the image. `fixed`, `mask` [H,W] are one item's; warped(x, y) is W.
template <class T, int F, class Warped>
__device__ Step<T> step_at(const DeviceLevel<T>& a, const T* fixed, const T* mask, const Warped& warped, int x, int y) {
  const bool left = x > 0, right = x < a.width - 1, up = y > 0, down = y < a.height - 1;
  const long i = long(y) * a.width + x;
  T Rx = fixed[i + right] - fixed[i - left];
  T Ry = fixed[down ? i + a.width : i] - fixed[up ? i - a.width : i];
  const T w = warped(x, y), w_left = warped(x - left, y), w_right = warped(x + right, y);
  const T w_up = warped(x, y - up), w_down = warped(x, y + down);
  T Wx = w_right - w_left, Wy = w_down - w_up;
  if (a.itk) {
    const T outside = T(nan(""));
    if (!left || !right) Rx = 0;
    if (!up || !down) Ry = 0;
    Wx = one_sided(left ? w_left : outside, w, right ? w_right : outside);
    Wy = one_sided(up ? w_up : outside, w, down ? w_down : outside);
  }
  const T d = fixed[i] - w;
  const bool counts = (!mask || mask[i] > T(0.5)) && d - d == T(0);  // NaN and infinity do not
  const bool moves = counts && (!a.itk || (d < T(0) ? -d : d) >= T(0.001));
  const Update<T> du = update<T>(direction<F>(d, Rx, Ry, Wx, Wy, a.inverse_k));
  return {moves ? du.x : T(0), moves ? du.y : T(0), counts ? d : T(0), counts};
}

// Half a smoothing kernel, centre first.
template <class T> struct Taps {
  T weight[max_radius + 1];
  int radius;
};

// Value i of a line of n, smoothed; the border repeats.
template <class T> __device__ T smoothed(const T* line, long stride, int n, int i, const Taps<T>& taps) {
  T sum = taps.weight[0] * line[i * stride];
  for (int j = 1; j <= taps.radius; ++j)
    sum += taps.weight[j] * (line[clamped(i - j, n) * stride] + line[clamped(i + j, n) * stride]);
  return sum;
}

// Four neighbouring values smoothed, of which the first is centred on line[radius]: each of 2 radius + 4 inputs is read once. With a
// radius R known to the compiler each step is a load and four multiplications; R < 0 = `taps.radius`.
template <int R, class T> __device__ void smooth_four(const T* line, int stride, const Taps<T>& taps, T (&sum)[4]) {
  const int r = R < 0 ? taps.radius : R;
  T tap[4] = {};
  for (int k = 0; k < 4; ++k) sum[k] = 0;
#pragma unroll
  for (int j = 0; j < 2 * r + 4; ++j) {
    for (int k = 3; k > 0; --k) tap[k] = tap[k - 1];
    const int from_centre = j < r ? r - j : j - r;
    tap[0] = from_centre <= r ? taps.weight[from_centre] : T(0);
    const T value = line[j * stride];
    for (int k = 0; k < 4; ++k) sum[k] += tap[k] * value;
  }
}

// Calls body(x, y) for a region of the block's own; neighbouring threads take neighbouring x, and none is idle but at the end.
template <int THREADS, class Body> __device__ void for_region(int width, int height, const Body& body) {
  const int thread = threadIdx.y * blockDim.x + threadIdx.x, dx = THREADS % width, dy = THREADS / width;
  for (int x = thread % width, y = thread / width; y < height; x += dx, y += dy) {
    if (x >= width) {
      x -= width;
      if (++y >= height) break;
    }
    body(x, y);
  }
}

struct Totals {
  double difference, change, count;  // sum d^2, sum |du|^2, pixels that count
};

// Sums over the threads of a block, in a fixed order; thread 0 has the result. All threads must call it.
template <int THREADS> __device__ Totals block_sum(const Totals& own) {
  __shared__ double sums[3][THREADS];
  const int thread = threadIdx.y * blockDim.x + threadIdx.x;
  sums[0][thread] = own.difference;
  sums[1][thread] = own.change;
  sums[2][thread] = own.count;
  __syncthreads();
  for (int n = THREADS / 2; n > 0; n /= 2) {
    if (thread < n)
      for (int k = 0; k < 3; ++k) sums[k][thread] += sums[k][thread + n];
    __syncthreads();
  }
  return {sums[0][0], sums[1][0], sums[2][0]};
}

// Where iterations are written down, all in device memory, so that the host need not wait.
template <class T> struct Trace {
  T *mse, *rms;        // [B,N]
  int total;           // N
  double tolerance;
  int* stop;           // [B]: the iteration before which an item stopped last
  unsigned* arrived;   // [B]: blocks of an item that are done with this iteration; 0 between launches
  double* partial;     // [B,blocks,3]: their Totals
};

// Writes an item's iteration down; returns whether it goes on. One thread.
template <class T> __device__ bool record(const Trace<T>& trace, int item, int iteration, const Totals& totals) {
  const double count = totals.count > 1 ? totals.count : 1, change = sqrt(totals.change / count);
  trace.mse[long(item) * trace.total + iteration] = T(totals.difference / count);
  trace.rms[long(item) * trace.total + iteration] = T(change);
  return !(change < trace.tolerance);
}

// The same from many blocks an item (z = item): the last to arrive adds their shares, in a fixed order.
template <class T> __device__ void record_from_blocks(const Trace<T>& trace, int iteration, const Totals& own) {
  __shared__ bool last;
  const int item = blockIdx.z, thread = threadIdx.y * blockDim.x + threadIdx.x, blocks = gridDim.x * gridDim.y;
  volatile double* shares = trace.partial + long(item) * blocks * 3;  // volatile: written by other blocks
  const Totals block = block_sum<block_threads>(own);
  if (thread == 0) {
    const int here = blockIdx.y * gridDim.x + blockIdx.x;
    shares[here * 3] = block.difference;
    shares[here * 3 + 1] = block.change;
    shares[here * 3 + 2] = block.count;
    __threadfence();
    last = atomicAdd(trace.arrived + item, 1u) == unsigned(blocks - 1);
    __threadfence();
  }
  __syncthreads();
  if (!last) return;
  Totals sum{0, 0, 0};
  for (int i = thread; i < blocks; i += block_threads) {
    sum.difference += shares[i * 3];
    sum.change += shares[i * 3 + 1];
    sum.count += shares[i * 3 + 2];
  }
  sum = block_sum<block_threads>(sum);
  if (thread == 0) {
    if (!record(trace, item, iteration, sum)) trace.stop[item] = iteration + 1;
    trace.arrived[item] = 0;
  }
}

// An iteration of a level that began with iteration `first`. A field is written to another place than it is read from, so
// an item that stops is copied once and left alone from then on.
struct Clock {
  int first, now;
  __device__ bool stopped(int stop) const { return stop > first && stop <= now; }
  __device__ bool just_stopped(int stop) const { return stop > first && stop == now; }
};

}  // namespace cxr
